"""What is selected in the App, and what the operators do with it at once."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


def selected_labels(ctx: Any) -> list[tuple[str, str]]:
    """Field and id of each selected label."""
    return [(label["field"], label["label_id"]) for label in ctx.selected_labels or []]


def change_references(ctx: Any, *, add: bool, label_field: str | None = None) -> dict[str, Any]:
    """Makes what is selected references, or stops it being some, and says so in the App."""
    from fiftyone_ntt.references.tagging import NOTHING_SELECTED, change_selected

    change = change_selected(ctx.view, ctx.selected, selected_labels(ctx), add=add, label_field=label_field)
    if change is None:
        ctx.ops.notify(NOTHING_SELECTED, variant="warning")
        return {"samples": 0, "labels": 0, "summary": NOTHING_SELECTED}
    text = str(change)
    summary = f"{text[0].upper()}{text[1:]}."
    ctx.ops.clear_selected_samples()
    ctx.ops.clear_selected_labels()
    ctx.ops.reload_samples()
    ctx.ops.notify(summary, variant="warning" if change.unlabelled else "success")
    return {**asdict(change), "summary": summary}
