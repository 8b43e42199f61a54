"""Operator: reviewed labels -> a folder that something smaller can be trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.utils as fou
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import image_samples
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.review import ExportParams

LABEL = "Export reviewed labels"
_FORMATS = {"coco": "COCO (outlines)", "yolo": "YOLO (outlines)", "fiftyone": "FiftyOne dataset (masks)"}
_ONLY = {"accepted": "Only what a person accepted", "all": "Everything that was not rejected"}


class ExportLabels(foo.Operator):
    """Writes the labels of a view to a folder."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "export_labels",
            LABEL,
            "Writes accepted labels and their images to a folder, ready to train a smaller model.",
            "download",
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        target = ctx.target_view()
        fields = forms.detections_fields(target)
        forms.add_params(
            inputs,
            ExportParams,
            choices={"format": _FORMATS, "only": _ONLY},
            suggestions={"label_field": fields},
        )
        inputs.get_property("export_dir").default = str(_proposed(ctx.dataset))
        given = ctx.params.get("export_dir")
        if given and not Path(given).expanduser().is_absolute():
            forms.refuse(inputs, "export_dir", f"expected a full path such as {_proposed(ctx.dataset)}, got {given!r}")
        if forms.require_detections(inputs, "label_field", target, forms.current(ctx, ExportParams, "label_field")):
            _describe(ctx, inputs, target)
        forms.add_execution_notice(inputs)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = ExportParams.from_mapping(ctx.params)
        if not Path(params.export_dir).expanduser().is_absolute():
            raise InputError(f"expected the full path of a folder, got {params.export_dir!r}")
        arguments = {**params.to_mapping(), "progress": forms.progress_of(ctx)}
        report = ntt.export_labels(ctx.target_view(), **arguments)
        return {
            "folder": report.folder,
            "images": report.images,
            "labels": report.labels,
            "per_class": [{"class": name, "labels": count} for name, count in report.per_class.items()],
            "summary": f"{report}\n\nTo load it in Python:\n\n```python\n{report.how_to_load}\n```",
        }

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)

    def __call__(
        self,
        sample_collection: SampleCollection,
        export_dir: str,
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Exports a collection from Python, through the operator.

        Args:
            sample_collection: the samples.
            export_dir: full path of the folder to write.
            delegate: schedule the run instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``ExportParams``.
        """
        params = ExportParams.from_mapping({"export_dir": export_dir, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)


def _proposed(dataset: fo.Dataset) -> Path:
    return Path.home() / "ntt-exports" / fou.to_slug(dataset.name)


def _describe(ctx: Any, inputs: types.Object, target: SampleCollection) -> None:
    """Says what would be written, as the form is filled in now."""
    from fiftyone_ntt.review.export import chosen_labels

    field, only = (forms.current(ctx, ExportParams, name) for name in ("label_field", "only"))
    try:
        chosen = chosen_labels(
            image_samples(target), field, only=only, score_threshold=ctx.params.get("score_threshold")
        )
    except NttError as error:
        forms.refuse(inputs, "label_field", str(error))
        return
    count = chosen.count(f"{field}.detections")
    if count:
        text = f"{forms.counted(count, 'label')} on {forms.counted(len(chosen), 'image')} would be written"
    else:
        text = "Nothing to write yet: accept labels first, or choose 'Everything that was not rejected'."
    forms.notice(inputs, "chosen", text, warning=not count)
