"""Operator: labels -> one map of classes for each image."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.review import ToSegmentationParams

LABEL = "Make class maps from NTT labels"
_ONLY = {"all": "Everything that was not rejected", "accepted": "Only what a person accepted"}


class ToSegmentation(foo.Operator):
    """Writes a semantic segmentation of each image."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "to_segmentation",
            LABEL,
            "Paints the labels of each image into one map of classes, the surest on top.",
            "layers",
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        target = ctx.target_view()
        fields = forms.detections_fields(target)
        forms.add_params(inputs, ToSegmentationParams, choices={"only": _ONLY}, suggestions={"label_field": fields})
        forms.require_detections(inputs, "label_field", target, forms.current(ctx, ToSegmentationParams, "label_field"))
        forms.add_execution_notice(inputs)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = ToSegmentationParams.from_mapping(ctx.params)
        report = ntt.to_segmentation(ctx.target_view(), progress=forms.progress_of(ctx), **params.to_mapping())
        forms.finished(ctx)
        values = ", ".join(f"{value} = {name}" for value, name in enumerate(report.classes, start=1))
        return {
            "maps": report.maps,
            "classes": list(report.classes),
            "summary": f"{report}\n\nValues: 0 = background, {values}",
            "errors": forms.error_rows(report.errors),
        }

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)

    def __call__(
        self,
        sample_collection: SampleCollection,
        label_field: str = "ntt",
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Paints the labels of a collection from Python, through the operator.

        Args:
            sample_collection: the samples.
            label_field: field with the labels.
            delegate: schedule the run instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``ToSegmentationParams``.
        """
        params = ToSegmentationParams.from_mapping({"label_field": label_field, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)
