"""Operator: what was accepted and rejected -> better labels everywhere else."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.operators import forms, runs
from fiftyone_ntt.params.review import LearnParams
from fiftyone_ntt.runs.workers import through

LABEL = "Learn from the review"
ICON = "school"
SHOWN = ("label_field", "apply")
NOTHING_DECIDED = (
    "You have not decided on any of these labels yet. Accept some that are right, reject some that are wrong, and come "
    "back: about twenty are enough to begin with."
)
DRY_RUN = "Nothing has been written yet. To write it, run this again with **Write the new labels** checked."
APPLIED = "Written. Your decisions stayed; **Undo an NTT run** brings the labels from before back."
COLUMNS = {
    "class": "class", "gained": "new", "lost": "gone", "relabelled": "other class before", "unchanged": "as before"
}  # fmt: skip
"""Of the table of changes: key -> heading."""


class Learn(foo.Operator):
    """Learns from decisions, shows what would change, and writes it if told to."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "learn",
            LABEL,
            "Accepted labels become references, rejected ones examples of what you do not want; then matches again.",
            ICON,
            view_target=False,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        fields = _fields(ctx.dataset)
        forms.add_params(inputs, LearnParams, suggestions={"label_field": fields}, only=SHOWN)
        field = forms.current(ctx, LearnParams, "label_field")
        if forms.require_detections(inputs, "label_field", ctx.dataset, field):
            if field in fields:
                _show_decisions(inputs, ctx.dataset, field)
            else:
                known = ", ".join(fields) or "none yet, run 'Segment with NTT references' first"
                forms.refuse(inputs, "label_field", f"no run wrote the labels in {field!r}; runs wrote: {known}")
        forms.add_advanced(inputs, ctx, LearnParams, ["threshold", "bank_name", "index_dir"])
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt
        from fiftyone_ntt.review.learn import keep_outcome

        params = LearnParams.from_mapping(ctx.params)
        with through(runs.origin_of(ctx)):
            report = ntt.learn(ctx.dataset, progress=forms.progress_of(ctx), **params.to_mapping())
        outcome = keep_outcome(ctx.dataset, report)
        if params.apply:
            forms.finished(ctx)
        summary = f"{report}\n\n{APPLIED if params.apply else DRY_RUN}"
        errors = forms.error_rows(report.errors)
        return {"summary": summary, "rows": outcome["rows"], "changed": len(report.changed), "errors": errors}

    def resolve_output(self, ctx: Any) -> types.Property:
        outputs = types.Object()
        outputs.str("summary", label="Done", view=types.MarkdownView())
        add_changes(outputs, "rows")
        if (ctx.results or {}).get("errors"):
            table = types.TableView()
            table.add_column("sample", label="sample")
            table.add_column("error", label="why it failed")
            outputs.list("errors", types.Object(), view=table, label="Images that could not be read")
        return types.Property(outputs, view=types.View(label=LABEL))

    def __call__(
        self,
        sample_collection: SampleCollection,
        label_field: str = "ntt",
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Learns from the decisions in a dataset from Python, through the operator.

        Args:
            sample_collection: the dataset, or any view of it: all decisions count.
            label_field: the field that was reviewed.
            delegate: schedule it instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``LearnParams``.
        """
        params = LearnParams.from_mapping({"label_field": label_field, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)


def add_changes(outputs: types.Object, name: str) -> None:
    """Adds the table of what becomes of the labels of each class."""
    table = types.TableView()
    for key, label in COLUMNS.items():
        table.add_column(key, label=label)
    outputs.list(name, types.Object(), view=table, label="Labels of each class")


def _fields(dataset: Any) -> list[str]:
    """The fields that a run wrote."""
    return [name for name in forms.detections_fields(dataset) if "ntt" in (dataset.get_field(name).info or {})]


def _show_decisions(inputs: types.Object, dataset: Any, field: str) -> None:
    from fiftyone_ntt.review.label_table import summarise_scores

    decided = [one for one in summarise_scores(dataset, field) if one.accepted or one.rejected or one.edited]
    for i, one in enumerate(decided):
        text = f"{one.name}: {one.accepted} accepted, {one.rejected} rejected, {one.edited} edited"
        forms.notice(inputs, f"decided_{i}", text)
    if not decided:
        forms.refuse(inputs, "label_field", NOTHING_DECIDED)
