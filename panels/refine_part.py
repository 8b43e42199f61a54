"""The part of the tab "Review" about crisper masks: it opens the forms, and shows what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import is_patches
from fiftyone_ntt.errors import as_text
from fiftyone_ntt.operators.base import shows_whole_images
from fiftyone_ntt.panels import review_parts as parts
from fiftyone_ntt.panels.tabs import Button, Tab

if TYPE_CHECKING:
    from fiftyone_ntt.review.ranking import Grid

TEXT = (
    "**Crisper masks.** The mask model sees each object once more, close up: those that you selected, or else those "
    "that you accepted. The old mask stays where in doubt."
)


def render(tab: Tab, ctx: Any, panel: types.Object) -> None:
    """The button that refines; once something was refined, those that show it and take it back."""
    panel.md(TEXT, name="review_crisp")
    buttons: list[Button] = [("refine", "Refine masks", "auto_fix_high", None)]
    if ctx.dataset.has_field(_attribute(ctx)):
        buttons.append(("refined", "Show refined", "visibility", None))
        buttons.append(("undo_refine", "Undo refining", "settings_backup_restore", None))
    tab.add_buttons(panel.h_stack("review_refine_row", componentsProps=parts.WRAPPED, gap=1), buttons)


def prefilled(ctx: Any) -> dict[str, Any]:
    """What the form of ``refine_labels`` begins with: selected labels if there are any, else accepted ones."""
    params: dict[str, Any] = {"label_field": ctx.panel.state.review_field}
    if ctx.selected_labels:  # the operator asks the App which
        return params
    if ctx.selected and is_patches(ctx.view):  # ticked one by one: they are meant, whatever was decided
        return {**params, "only": "all", "view_target": "SELECTED_SAMPLES"}
    name = parts.chosen(ctx)
    return params if name is None else {**params, "classes": [name]}


def refined_ones(ctx: Any) -> Grid | None:
    """The grid, narrowed to labels that have a new mask; ``None`` where that cannot be, which the App is told."""
    from fiftyone_ntt.review.refining import KEPT

    if not shows_whole_images(ctx):
        return None
    path, field = _attribute(ctx), ctx.panel.state.review_field
    values = ctx.dataset.distinct(path) if ctx.dataset.has_field(path) else []
    models = [value for value in values if isinstance(value, str) and not value.startswith(KEPT)]
    if not models:
        ctx.ops.notify(f"No mask in {as_text(field)!r} has been refined.", variant="info")
        return None
    grid, name = parts.grid(ctx), parts.chosen(ctx)
    grid.show()
    grid.filter(values={"refined": models, **({} if name is None else {"label": [name]})})
    return grid


def _attribute(ctx: Any) -> str:
    """Where labels say what became of refining them; not declared before the first refining."""
    return f"{ctx.panel.state.review_field}.detections.refined"
