"""Operators: labels are right, wrong, or undecided again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import is_patches, label_fields, label_root
from fiftyone_ntt.operators import forms, selection
from fiftyone_ntt.params.review import DecisionFormParams, DecisionParams

Service = Callable[..., int]
SHOWN_BY_PANEL = "_shown_by_panel"
"""Given by the panel, which decides on all that is undecided: the part of the view that is the panel's own filter."""


class DecisionOperator(foo.Operator):
    """Decides on labels; a subclass says what is decided.

    Attributes:
        NAME: of the operator, and of the function of the SDK that it calls.
        LABEL: what the App calls it.
        DESCRIPTION: one sentence.
        ICON: of its button.
        DONE: completes "3 labels ...".
    """

    NAME = LABEL = DESCRIPTION = ICON = DONE = ""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            self.NAME,
            self.LABEL,
            self.DESCRIPTION,
            self.ICON,
            allow_delegated_execution=False,
            risk_level=types.RiskLevel.LOW,
            view_target=False,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement:
        """A button in the open sample, beside the other actions on what is selected there."""
        button = types.Button(label=self.LABEL, icon=self.ICON, prompt=True)
        return types.Placement(types.Places.SAMPLES_VIEWER_ACTIONS, button)

    def resolve_input(self, ctx: Any) -> types.Property | None:
        return form(ctx, self.LABEL)

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        return decide(ctx, getattr(ntt, self.NAME), self.DONE)

    def __call__(self, sample_collection: SampleCollection, label_field: str = "ntt", **arguments: Any) -> Any:
        """Decides from Python, through the operator.

        Args:
            sample_collection: the samples.
            label_field: field of the labels.
            **arguments: the other fields of ``DecisionParams``.
        """
        params = DecisionParams.from_mapping({"label_field": label_field, **arguments})
        return forms.call(self, sample_collection, params, False, None)


class AcceptLabels(DecisionOperator):
    """Tags labels as accepted."""

    NAME, LABEL, ICON, DONE = "accept_labels", "Accept NTT labels", "thumb_up", "accepted"
    DESCRIPTION = (
        "Marks the selected labels (or else those that a form describes) as right: no later run replaces them."
    )


class RejectLabels(DecisionOperator):
    """Tags labels as rejected."""

    NAME, LABEL, ICON, DONE = "reject_labels", "Reject NTT labels", "thumb_down", "rejected"
    DESCRIPTION = (
        "Marks the selected labels (or else those that a form describes) as wrong: they take no part any more."
    )


class ClearDecisions(DecisionOperator):
    """Takes the tags of acceptance and rejection away."""

    NAME, LABEL, ICON, DONE = "clear_decisions", "Undecide NTT labels", "restart_alt", "undecided"
    DESCRIPTION = "Takes back that the selected labels (or else those that a form describes) were accepted or rejected."


def form(ctx: Any, label: str) -> types.Property | None:
    """What to decide on where nothing is selected; otherwise one line to confirm.

    Never nothing at all where a button in an open image asks for it: FiftyOne then waits in an empty dialog for ever.
    """
    selected = _selected(ctx)
    if SHOWN_BY_PANEL in ctx.params or ctx.params.get("label_ids") or (selected and not ctx.current_sample):
        return None
    inputs = types.Object()
    if selected:
        count = sum(len(ids) for ids in selected.values())
        forms.notice(inputs, "selected", f"This is about the {forms.counted(count, 'label')} you have selected.")
        return types.Property(inputs, view=types.View(label=label))
    where, text = _where(ctx)
    fields = forms.detections_fields(where)
    field = forms.current(ctx, DecisionFormParams, "label_field")
    forms.notice(inputs, "where", f"No label is selected, so this is about the labels of {text}.")
    forms.add_params(inputs, DecisionFormParams, suggestions={"label_field": fields, "classes": _classes(ctx, field)})
    forms.require_detections(inputs, "label_field", where, field)
    return types.Property(inputs, view=types.View(label=label))


def decide(ctx: Any, service: Service, done: str) -> dict[str, Any]:
    """Does what the form says, or acts on the selected labels, and says so in the App."""
    from fiftyone_ntt.review.ranking import undecided, without

    params = DecisionParams.from_mapping(ctx.params)
    selected = _selected(ctx)
    if SHOWN_BY_PANEL in ctx.params:
        where = undecided(without(ctx.view, ctx.params[SHOWN_BY_PANEL]), params.label_field)
        changed = service(where, **params.to_mapping())
    elif params.label_ids or not selected or _asks(params):
        where = ctx.view if params.label_ids else _where(ctx)[0]
        changed = service(where, **params.to_mapping())
    else:
        changed = sum(service(ctx.view, field, label_ids=ids) for field, ids in selected.items())
        ctx.ops.clear_selected_labels()
        if is_patches(ctx.view):
            ctx.ops.clear_selected_samples()
    summary = f"{forms.counted(changed, 'label')} {done}."
    ctx.ops.reload_samples()
    ctx.ops.notify(summary, variant="success" if changed else "info")
    return {"changed": changed, "summary": summary}


def _asks(params: DecisionParams) -> bool:
    return (params.classes, params.above, params.below) != (None, None, None)


def _selected(ctx: Any) -> dict[str, list[str]]:
    """Field -> ids of the selected labels; a selected patch is a selected label."""
    found: dict[str, list[str]] = {}
    for field, label_id in selection.selected_labels(ctx):
        found.setdefault(field, []).append(label_id)
    if not found and ctx.selected and is_patches(ctx.view):
        patches = ctx.view.select(ctx.selected)
        for field in _patch_fields(patches):
            ids = patches.values(f"{label_root(patches, field)[0]}.id", unwind=True)
            found[field] = [label_id for label_id in ids if label_id]
    return found


def _patch_fields(patches: Any) -> Iterator[str]:
    return (field for field in label_fields(patches) if patches.has_field(field))


def _where(ctx: Any) -> tuple[SampleCollection, str]:
    """The samples that a form is about, and what they are called."""
    if ctx.current_sample:
        return ctx.view.select(ctx.current_sample), "this image"
    if ctx.selected:
        return ctx.view.select(ctx.selected), forms.counted(len(ctx.selected), "selected image")
    return ctx.view, "all images in the grid"


def _classes(ctx: Any, field: Any) -> list[str]:
    if field not in forms.detections_fields(ctx.dataset):
        return []
    return list((ctx.dataset.get_field(field).info or {}).get("ntt", {}).get("classes", ()))
