"""Operators that say of whole images that a person is through with them."""

from __future__ import annotations

from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.operators.base import SAMPLE, NttOperator
from fiftyone_ntt.operators.forms import counted

NO_IMAGE = "Open an image, or tick some in the grid, then press the button again."


class _ChangeDone(NttOperator):
    """The open image, or else the selected ones, are done or no more so: at once, without a form."""

    OUTPUTS = None
    CHANGES = False  # what changed is loaded again below
    OPTIONS = {"allow_delegated_execution": False, "risk_level": types.RiskLevel.LOW, "view_target": False}
    SERVICE: str
    RESULT: str

    def perform(self, ctx: Any, params: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt
        from fiftyone_ntt.dataset.storage import app_view
        from fiftyone_ntt.review.done import count_done

        chosen = [ctx.current_sample] if ctx.current_sample else list(ctx.selected or ())
        if not chosen:
            ctx.ops.notify(NO_IMAGE, variant="warning")
            return {"changed": 0, "summary": NO_IMAGE}
        # A filter of the sidebar may let an image go as soon as its last label in sight has a decision.
        view = app_view(ctx.dataset, ctx.request_params, {})
        changed = getattr(ntt, self.SERVICE)(view, sample_ids=chosen)
        are = "is" if changed == 1 else "are"
        summary = f"{counted(changed, 'image')} {are} {self.RESULT}; {count_done(ctx.dataset):,} in all are done"
        ctx.ops.reload_samples()
        ctx.ops.notify(summary, variant="success" if changed else "info")
        return {"changed": changed, "summary": summary}


class MarkDone(_ChangeDone):
    """Tags the open image, or else the selected images, as done."""

    NAME, LABEL, ICON = "mark_done", "NTT: Image is done", "task_alt"
    DESCRIPTION = "All that is wanted in the open image (or else in the selected ones) is accepted, edited or drawn."
    BUTTON = SAMPLE
    SERVICE, RESULT = "mark_done", "done now"


class ClearDone(_ChangeDone):
    """Untags the open image, or else the selected images."""

    NAME, LABEL, ICON = "clear_done", "NTT: Image is not done", "radio_button_unchecked"
    DESCRIPTION = "Takes back that the open image (or else the selected ones) is done."
    SERVICE, RESULT = "clear_done", "not done any more"
