"""Operators that give labels crisper masks, and take that back."""

from __future__ import annotations

from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import detections_fields
from fiftyone_ntt.operators.base import FAILED_SAMPLES, NttOperator, Table, error_rows, progress_of
from fiftyone_ntt.operators.forms import Form, as_sentence, counted
from fiftyone_ntt.operators.references import selected_labels
from fiftyone_ntt.params.review import RefineFormParams, RefineParams, UndoRefinementParams

_CHOICES = {"only": {"accepted": "Those that a person accepted", "all": "Everything that was not rejected"}}


class RefineLabels(NttOperator):
    """Refines the masks of selected labels, or else of those of a view."""

    NAME, LABEL, ICON = "refine_labels", "NTT: Refine masks", "auto_fix_high"
    DESCRIPTION = "Shows accepted objects to the mask model close up, for crisper masks; keeps the old where in doubt."
    PARAMS = RefineParams
    OUTPUTS = (Table("rows", "Masks", {"what": "what became of them", "labels": "labels"}), FAILED_SAMPLES)

    def fill(self, form: Form) -> None:
        target = form.ctx.target_view()
        names = [info.name for info in RefineFormParams.infos()]
        form.add(*names, choices=_CHOICES, suggestions={"label_field": detections_fields(target)})
        if selected := _selected(form.ctx, form.value("label_field")):
            form.notice("selected", f"This is about the {counted(len(selected), 'label')} you have selected.")
        form.require_detections("label_field", target)
        form.notice("scope", "The old masks are kept: 'NTT: Undo refining' brings them back.")

    def perform(self, ctx: Any, params: RefineParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        arguments = params.to_mapping()
        if params.label_ids is None and (selected := _selected(ctx, params.label_field)):
            arguments["label_ids"] = selected
        report = ntt.refine_labels(ctx.target_view(), progress=progress_of(ctx), **arguments)
        return {
            "refined": report.refined,
            "rows": report.rows(),
            "summary": as_sentence(report, self.PARAMS),
            "errors": error_rows(report.errors),
        }


class UndoRefinement(NttOperator):
    """Brings the masks from before all refining back."""

    NAME, LABEL, ICON = "undo_refinement", "NTT: Undo refining", "settings_backup_restore"
    DESCRIPTION = "Brings the masks back that refining has replaced; what a person edited since stays."
    PARAMS = UndoRefinementParams
    OPTIONS = {"risk_level": types.RiskLevel.MEDIUM, "view_target": False}

    def fill(self, form: Form) -> None:
        form.add("label_field", suggestions={"label_field": detections_fields(form.ctx.dataset)})
        form.require_detections("label_field", form.ctx.dataset)
        form.notice("scope", "All of the field, whatever the view or selection; decisions stay.")

    def perform(self, ctx: Any, params: UndoRefinementParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        restored = ntt.undo_refinement(ctx.dataset, **params.to_mapping())
        return {"restored": restored, "summary": f"{counted(restored, 'mask')} as before refining."}


def _selected(ctx: Any, label_field: str) -> list[str]:
    """Ids of the labels of a field that are selected in the App."""
    return [label_id for name, label_id in selected_labels(ctx) if name == label_field]
