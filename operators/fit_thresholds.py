"""Operator: what was accepted and rejected -> a threshold for each class, with what to expect of it."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.review import FitThresholdsParams

LABEL = "Fit thresholds to my review"
ICON = "straighten"
NOTHING_DECIDED = (
    "You have not decided on any of these labels yet: the thresholds will be a guess from the references alone. For "
    "better ones accept some labels that are right and reject some that are wrong first, about twenty in all."
)
COLUMNS = {
    "name": "class", "threshold": "threshold", "precision": "expected right", "recall": "expected found",
    "decided": "decisions", "basis": "fitted on",
}  # fmt: skip
"""Of the table of thresholds: key -> heading."""
_CLASSES_SHOWN = 20


class FitThresholds(foo.Operator):
    """Fits thresholds to decisions and shows what to expect of them."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "fit_thresholds",
            LABEL,
            "Finds the score above which labels of a class count, from what you accepted and rejected.",
            ICON,
            risk_level=types.RiskLevel.LOW,
            allow_delegated_execution=False,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        fields = fields_of_runs(ctx.dataset)
        choices = {key: f"{key} (field {field})" for key, field in fields.items()}
        forms.add_params(inputs, FitThresholdsParams, choices={"run_key": choices})
        run_key = forms.current(ctx, FitThresholdsParams, "run_key")
        if not fields:
            forms.refuse(inputs, "run_key", "this dataset has no labelling run yet: label some images first")
        elif run_key and run_key not in fields:
            known = ", ".join(fields)
            forms.refuse(inputs, "run_key", f"no labelling run {run_key!r} in this dataset; there is: {known}")
        elif run_key:
            _show_decisions(inputs, ctx.dataset, fields[run_key])
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = FitThresholdsParams.from_mapping(ctx.params)
        thresholds = ntt.fit_thresholds(ctx.dataset, **params.to_mapping())
        if params.write_verdicts:
            forms.finished(ctx)
        return {"summary": str(thresholds), "run_key": params.run_key, "rows": [_row(one) for one in thresholds.rows()]}

    def resolve_output(self, ctx: Any) -> types.Property:
        outputs = types.Object()
        outputs.str("summary", label="Done", view=types.MarkdownView())
        table = types.TableView()
        for key, label in COLUMNS.items():
            table.add_column(key, label=label)
        outputs.list("rows", types.Object(), view=table, label="Thresholds")
        return types.Property(outputs, view=types.View(label=LABEL))

    def __call__(
        self,
        sample_collection: SampleCollection,
        run_key: str,
        *,
        precision: float | None = None,
        write_verdicts: bool = True,
    ) -> Any:
        """Fits thresholds from Python, through the operator.

        Args:
            sample_collection: the dataset, or any view of it: all decisions count.
            run_key: key of the run.
            precision: the least precision; the best F1 where ``None``.
            write_verdicts: also write which classes are in each image.
        """
        params = FitThresholdsParams(run_key, precision, write_verdicts)
        return forms.call(self, sample_collection, params, False, None)


def _row(one: dict[str, Any]) -> dict[str, Any]:
    """A row as a person reads it."""
    return {
        "name": one["name"],
        "threshold": f"{one['threshold']:.2f}",
        "precision": _percent(one["precision"]),
        "recall": _percent(one["recall"]),
        "decided": f"{one['right']} right, {one['wrong']} wrong",
        "basis": one["basis"],
    }


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def fields_of_runs(dataset: Any) -> dict[str, str]:
    """Key of the run that wrote each field, the newest first -> the field."""
    found = {}
    for name in reversed(forms.detections_fields(dataset)):
        run_key = ((dataset.get_field(name).info or {}).get("ntt") or {}).get("run_key")
        if run_key is not None and dataset.has_run(run_key):
            found[run_key] = name
    return found


def _show_decisions(inputs: types.Object, dataset: Any, field: str) -> None:
    from fiftyone_ntt.review.label_table import summarise_scores

    classes = summarise_scores(dataset, field)
    decided = [one for one in classes if one.accepted or one.rejected or one.edited]
    for i, one in enumerate(decided[:_CLASSES_SHOWN]):
        text = f"{one.name}: {one.accepted + one.edited} right, {one.rejected} wrong, of {one.labels} labels"
        forms.notice(inputs, f"decided_{i}", text)
    if not decided:
        forms.notice(inputs, "nothing_decided", NOTHING_DECIDED, warning=True)
        return
    rest = len(decided) - _CLASSES_SHOWN
    if rest > 0:
        forms.notice(inputs, "decided_more", f"and decisions on {forms.counted(rest, 'more class', 'more classes')}")
    without = [one.name for one in classes if one not in decided]
    if without:
        names = ", ".join(without[:10]) + (" and others" if len(without) > 10 else "")
        forms.notice(inputs, "undecided", f"No decision yet on {names}: the other classes stand in.")
