"""Operator: predictions and ground truth -> COCO scores per class and matches on every label; IoU of class maps."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import image_samples, is_map_field
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.labelling import EvaluateParams

LABEL = "Evaluate NTT labels"


class Evaluate(foo.Operator):
    """Scores a field of detections against ground truth."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "evaluate",
            LABEL,
            "Scores labels against ground truth: AP of boxes and masks or IoU of maps, and which classes were found.",
            "query_stats",
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        target = ctx.target_view()
        fields = [*forms.detections_fields(target), *_map_fields(target)]
        forms.add_params(inputs, EvaluateParams, suggestions={"label_field": fields, "gt_field": fields})
        for name in ("label_field", "gt_field"):
            chosen = forms.current(ctx, EvaluateParams, name)
            if chosen not in _map_fields(target):
                forms.require_detections(inputs, name, target, chosen)
        _describe_target(inputs, target)
        forms.add_execution_notice(inputs)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = EvaluateParams.from_mapping(ctx.params)
        results = ntt.evaluate(ctx.target_view(), progress=forms.progress_of(ctx), **params.to_mapping())
        forms.finished(ctx)
        rows = [{key: _shown(value) for key, value in row.items()} for row in results.table()]
        return {**results.to_dict(), "table": rows, "summary": "\n\n".join([_headline(results), *results.notes])}

    def resolve_output(self, ctx: Any) -> types.Property:
        outputs = types.Object()
        outputs.str("summary", label="Scores", view=types.MarkdownView())
        table = types.TableView()
        rows = (ctx.results or {}).get("table") or [{}]
        for key in rows[0]:
            table.add_column(key, label=key.replace("_", " "))
        outputs.list("table", types.Object(), view=table, label="Per class")
        return types.Property(outputs, view=types.View(label=LABEL))

    def __call__(
        self,
        sample_collection: SampleCollection,
        label_field: str = "ntt",
        gt_field: str = "ground_truth",
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Scores a collection from Python, through the operator.

        Args:
            sample_collection: the samples to score.
            label_field: field with the predictions.
            gt_field: field with the ground truth.
            delegate: schedule the run instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``EvaluateParams``.
        """
        params = EvaluateParams.from_mapping({"label_field": label_field, "gt_field": gt_field, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)


def _map_fields(view: SampleCollection) -> list[str]:
    return [name for name in view.get_field_schema() if is_map_field(view, name)]


def _describe_target(inputs: types.Object, target: SampleCollection) -> None:
    try:
        forms.notice(inputs, "target", f"{forms.counted(len(image_samples(target)), 'image')} in the target")
    except NttError as error:
        forms.refuse(inputs, "label_field", str(error))


def _headline(results: Any) -> str:
    if results.semantic is not None:
        return "; ".join(results.headlines())
    scores = f"box AP {_shown(results.box.ap)}, mask AP {_shown(results.mask.ap)}"
    return (
        f"{forms.counted(results.images, 'image')}, {forms.counted(len(results.classes), 'class', 'classes')}: {scores}"
    )


def _shown(value: Any) -> Any:
    """Three digits for a score, a dash where it is not defined."""
    return "-" if value is None else round(value, 3) if isinstance(value, float) else value
