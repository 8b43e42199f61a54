"""Operators that take labels elsewhere: a folder to train from, semantic segmentation masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.utils as fou
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import detections_fields
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.operators.base import NttOperator, error_rows, progress_of
from fiftyone_ntt.operators.forms import Form, as_markdown, as_sentence, counted
from fiftyone_ntt.params.review import ExportParams, ToSegmentationParams
from fiftyone_ntt.pixels.files import expanded

_FORMATS = {"coco": "COCO (masks)", "yolo": "YOLO (polygons)", "fiftyone": "FiftyOne dataset (masks)"}
_ALL, _ACCEPTED = "Everything that was not rejected", "Only what a person accepted"
_DONE = "The same, of images that are done"


class ExportLabels(NttOperator):
    """Writes the labels of a view to a folder."""

    NAME, LABEL, ICON = "export_labels", "NTT: Export labels", "download"
    DESCRIPTION = "Writes accepted labels and their images to a folder, ready to train a smaller model."
    PARAMS = ExportParams
    CHANGES = False

    def fill(self, form: Form) -> None:
        target = form.ctx.target_view()
        choices = {"format": _FORMATS, "only": {"accepted": _ACCEPTED, "done": _DONE, "all": _ALL}}
        suggestions = {"label_field": detections_fields(target)}
        form.add("export_dir", "label_field", "format", "only", choices=choices, suggestions=suggestions)
        proposed = _proposed_folder(form.ctx.dataset)
        form.set_default("export_dir", str(proposed))
        folder = form.ctx.params.get("export_dir")
        try:
            if folder and not _is_full_path(folder):
                form.refuse("export_dir", f"expected a full path such as {proposed}, got {folder!r}")
        except InputError as error:
            form.refuse("export_dir", str(error))
        if form.require_detections("label_field", target):
            _describe_export(form, target)

    def perform(self, ctx: Any, params: ExportParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        # The working folder of the App's server is nobody's idea of where an export should lie.
        if not _is_full_path(params.export_dir):
            raise InputError(f"expected the full path of a folder, got {params.export_dir!r}")
        report = ntt.export_labels(ctx.target_view(), **params.to_mapping(), progress=progress_of(ctx))
        # A list, as the report has it.
        first, *others = (as_sentence(line.removeprefix("- "), self.PARAMS) for line in str(report).split("\n"))
        lines = "\n".join([first, *(f"- {line}" for line in others)])
        return {
            "folder": report.folder,
            "images": report.images,
            "labels": report.labels,
            "per_class": [{"class": name, "labels": count} for name, count in report.per_class.items()],
            "summary": f"{lines}\n\nTo load it in Python:\n\n```python\n{report.how_to_load}\n```",
        }


class ToSegmentation(NttOperator):
    """Writes a semantic segmentation mask of each image."""

    NAME, LABEL, ICON = "to_segmentation", "NTT: Write semantic segmentation masks", "layers"
    DESCRIPTION = "Paints the labels of each image into one semantic segmentation mask, the surest on top."
    PARAMS = ToSegmentationParams

    def fill(self, form: Form) -> None:
        target = form.ctx.target_view()
        choices = {"only": {"all": _ALL, "accepted": _ACCEPTED}}
        suggestions = {"label_field": detections_fields(target)}
        form.add("label_field", "out_field", "only", choices=choices, suggestions=suggestions)
        form.require_detections("label_field", target)

    def perform(self, ctx: Any, params: ToSegmentationParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        report = ntt.to_segmentation(ctx.target_view(), progress=progress_of(ctx), **params.to_mapping())
        values = ", ".join(f"{value} = {as_markdown(name, 200)}" for value, name in enumerate(report.classes, start=1))
        return {
            "maps": report.maps,
            "classes": list(report.classes),
            "summary": f"{as_sentence(report, self.PARAMS)}\n\nValues: 0 = background, {values}",
            "errors": error_rows(report.errors),
        }


def _is_full_path(folder: str) -> bool:
    """Raises InputError where it is that of a user who is not there."""
    return expanded(folder).is_absolute()


def _proposed_folder(dataset: fo.Dataset) -> Path:
    return Path.home() / "ntt-exports" / fou.to_slug(dataset.name)


def _describe_export(form: Form, target: SampleCollection) -> None:
    """Says what would be written, as the form is filled in now."""
    from fiftyone_ntt.review.export_choice import count_chosen

    options = {name: form.value(name) for name in ("only", "score_threshold", "classes")}
    try:
        labels, images = count_chosen(target, form.value("label_field"), **options)
    except NttError as error:
        form.refuse("label_field", str(error))
        return
    if labels:
        text = f"{counted(labels, 'label')} on {counted(images, 'image')} would be written"
    else:
        others = ", or other classes" if options["classes"] else ""
        text = f"Nothing to write yet: accept labels first, or choose '{_ALL}'{others}."
    form.notice("chosen", text, warning=not labels)
