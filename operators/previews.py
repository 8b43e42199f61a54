"""Operators that have the App show small copies of images that it cannot show, and take that back."""

from __future__ import annotations

from typing import Any

from fiftyone_ntt.dataset.fields import image_samples
from fiftyone_ntt.dataset.schema import preview_fields
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.operators.base import NttOperator, error_rows, progress_of
from fiftyone_ntt.operators.forms import Form, as_sentence, counted
from fiftyone_ntt.params.labelling import MakePreviewsParams, RemovePreviewsParams
from fiftyone_ntt.pixels.files import expanded


class MakePreviews(NttOperator):
    """Makes small copies of images that a browser cannot show."""

    NAME, LABEL, ICON = "make_previews", "NTT: Make previews of large images", "photo_size_select_large"
    DESCRIPTION = "Makes small copies of images that a browser cannot show, such as slides, and has the App show these."
    PARAMS = MakePreviewsParams
    LONG = True

    def fill(self, form: Form) -> None:
        target = image_samples(form.ctx.target_view())
        form.add()
        form.notice("scope", f"{counted(len(target), 'image')} in the target. 'NTT: Remove previews' takes it back.")
        folder = form.ctx.params.get("folder")
        try:
            if folder and not expanded(folder).is_absolute():
                form.refuse("folder", f"expected a full path, got {folder!r}")
        except InputError as error:
            form.refuse("folder", str(error))

    def perform(self, ctx: Any, params: MakePreviewsParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        report = ntt.make_previews(ctx.target_view(), progress=progress_of(ctx), **params.to_mapping())
        return {
            "made": report.made,
            "kept": report.kept,
            "unneeded": report.unneeded,
            "folder": report.folder,
            "summary": as_sentence(report, self.PARAMS),
            "errors": error_rows(report.errors),
        }


class RemovePreviews(NttOperator):
    """Has the App show the images themselves again."""

    NAME, LABEL, ICON = "remove_previews", "NTT: Remove previews", "hide_image"
    DESCRIPTION = "Deletes the previews of a dataset, and has the App show the images themselves again."
    PARAMS = RemovePreviewsParams
    OPTIONS = {"view_target": False}

    def fill(self, form: Form) -> None:
        form.add(suggestions={"preview_field": preview_fields(form.ctx.dataset)})
        form.notice("scope", "All of the dataset, whatever the view or selection.")

    def perform(self, ctx: Any, params: RemovePreviewsParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        removed = ntt.remove_previews(ctx.dataset, **params.to_mapping())
        return {"removed": removed, "summary": f"{counted(removed, 'preview')} removed."}
