"""The panel's tab "Evaluate": how good the labels are, class by class, and where they are wrong."""

from __future__ import annotations

from typing import Any

from fiftyone import ViewField as F
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.operators import forms
from fiftyone_ntt.panels import layout

PLUGIN = "@fiftyone-ntt/ntt"
MODEL_EVALUATION = "model_evaluation_panel_builtin"
COLUMNS = {
    "class": "class",
    "objects": "objects",
    "predictions": "labels",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "precision": "precision",
    "recall": "recall",
}
EMPTY = """
**Nothing to compare with yet.** To see how good the labels are, some images (not the references) need a field with what
is really there: *ground truth*, drawn by a person or imported. Without it, go on with the review; nothing here is
needed for that.
"""
EXPLAINED = """
*AP*: 1 is perfect. *Precision* and *recall* say how often a class is rightly claimed for an image, and how often it is
found there.
"""
_SHOWN = {"tp": "true positives", "fp": "false positives", "fn": "misses"}
_MOST_BARS = 40
_HEIGHT = 280


class EvaluateTab:
    """Draws the tab and answers its events; mixed into the panel."""

    def load_evaluate(self, ctx: Any) -> None:
        """Called when the tab is opened, and when what it shows may have changed."""
        from fiftyone_ntt.evaluation.fiftyone_matches import last_results

        state = ctx.panel.state
        predicted, truth = _fields(ctx.dataset)
        last = last_results(ctx.dataset) or {}
        state.evaluate_label_field = _kept(state.evaluate_label_field, predicted, last.get("label_field"))
        state.evaluate_gt_field = _kept(state.evaluate_gt_field, truth, last.get("gt_field"), "ground_truth")
        if state.evaluate_label_field == state.evaluate_gt_field:  # chosen when there was nothing else, before a run
            others = [name for name in predicted if name != state.evaluate_gt_field]
            state.evaluate_label_field = (others or predicted or [None])[0]
        state.evaluate_last = {key: last[key] for key in ("label_field", "gt_field", "eval_key") if last.get(key)}
        rows = last.get("table") or []
        state.evaluate_classes = [row["class"] for row in rows]
        state.evaluate_masks = any(row.get("mask_ap") is not None for row in rows)
        state.evaluate_summary = _summary(last) if last else None
        ctx.panel.set_data("evaluate_table", [{key: _shown(row.get(key)) for key in COLUMNS} for row in rows])
        ctx.panel.set_data("evaluate_plot", _bars(rows[1:]))

    def draw_evaluate(self, ctx: Any, panel: types.Object) -> None:
        """Adds the tab's content to the panel."""
        state = ctx.panel.state
        predicted, truth = _fields(ctx.dataset)
        if not truth or not predicted or (predicted == truth and len(truth) < 2):
            panel.md(EMPTY, name="evaluate_empty")
            return
        for name, label, fields in (
            ("evaluate_label_field", "Labels to judge", predicted),
            ("evaluate_gt_field", "Ground truth: what is really there", truth),
        ):
            view = types.DropdownView(label=label)
            for field in fields:
                view.add_choice(field, label=field)
            panel.enum(name, fields, view=view, on_change=getattr(self, f"on_{name}"))
        row = panel.h_stack("evaluate_buttons", gap=1)
        row.btn("run", "Evaluate", icon="query_stats", variant="contained", on_click=self.on_evaluate_run)
        row.btn("refresh", "Refresh", icon="refresh", on_click=self.on_evaluate_refresh)
        if state.evaluate_classes:
            self._draw_results(ctx, panel)
        else:
            panel.md("Not evaluated yet. Press **Evaluate**.", name="evaluate_none")

    def _draw_results(self, ctx: Any, panel: types.Object) -> None:
        panel.md(ctx.panel.state.evaluate_summary, name="evaluate_summary")
        hidden = ("box_ap", "box_ap50") if ctx.panel.state.evaluate_masks else ("mask_ap", "mask_ap50")
        # All of them are wider than the panel.
        table = layout.table({key: label for key, label in COLUMNS.items() if key not in hidden})
        matched = bool((ctx.panel.state.evaluate_last or {}).get("eval_key"))
        buttons = (
            ("tp", "Show true positives", "check_circle", self.on_evaluate_show_tp),
            ("fp", "Show false positives", "cancel", self.on_evaluate_show_fp),
            ("fn", "Show misses", "help", self.on_evaluate_show_fn),
        )
        for name, label, icon, handler in buttons if matched else ():
            table.add_row_action(name, handler, label=label, icon=icon, tooltip=f"{label} of this class")
        panel.list("evaluate_table", types.Object(), view=table)
        panel.md(EXPLAINED, name="evaluate_explained")
        if matched:
            row = panel.h_stack("evaluate_views", gap=1)
            for name, label, icon, handler in buttons:
                row.btn(name, label, icon=icon, variant="outlined", on_click=handler)
            row = panel.h_stack("evaluate_more", gap=1)
            row.btn("panel", "Open Model Evaluation", icon="analytics", on_click=self.on_evaluate_panel)
            row.btn("everything", "Show all images", icon="grid_view", on_click=self.on_evaluate_everything)
        if len(ctx.panel.state.evaluate_classes) > 2:
            shape: dict[str, Any] = {"margin": {"t": 30, "b": 60, "l": 40, "r": 10}, "showlegend": True}
            shape["legend"] = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2}
            shape |= {"title": {"text": "AP of each class"}, "yaxis": {"range": [0, 1]}, "barmode": "group"}
            layout.add_plot(panel, "evaluate_plot", _HEIGHT, shape)

    def on_evaluate_label_field(self, ctx: Any) -> None:
        """The person chooses which labels to judge."""
        ctx.panel.state.evaluate_label_field = ctx.params.get("value")

    def on_evaluate_gt_field(self, ctx: Any) -> None:
        """The person chooses what to compare with."""
        ctx.panel.state.evaluate_gt_field = ctx.params.get("value")

    def on_evaluate_refresh(self, ctx: Any) -> None:
        """An evaluation is through, or someone asks."""
        self.load_evaluate(ctx)

    def on_evaluate_run(self, ctx: Any) -> None:
        """Opens the form of an evaluation. Of all images: what the grid shows may be the misses of the last one."""
        label_field, gt_field = ctx.panel.state.evaluate_label_field, ctx.panel.state.evaluate_gt_field
        if label_field == gt_field:
            ctx.ops.notify("Choose two different fields to compare", variant="warning")
            return
        params = {"label_field": label_field, "gt_field": gt_field, "eval_key": f"{label_field}_eval"}
        params["view_target"] = "DATASET"
        ctx.prompt(f"{PLUGIN}/evaluate", params=params, on_success=self.on_evaluate_refresh)

    def on_evaluate_show_tp(self, ctx: Any) -> None:
        """Shows what was found rightly."""
        _show(ctx, "tp")

    def on_evaluate_show_fp(self, ctx: Any) -> None:
        """Shows what was found and is not there."""
        _show(ctx, "fp")

    def on_evaluate_show_fn(self, ctx: Any) -> None:
        """Shows what is there and was not found."""
        _show(ctx, "fn")

    def on_evaluate_panel(self, ctx: Any) -> None:
        """Opens FiftyOne's own evaluation panel."""
        ctx.ops.open_panel(MODEL_EVALUATION, layout="horizontal", is_active=True)

    def on_evaluate_everything(self, ctx: Any) -> None:
        """Shows all images again."""
        ctx.ops.clear_view()


def _fields(dataset: Any) -> tuple[list[str], list[str]]:
    """Fields that may hold labels to judge, those of runs first, and fields that may hold the truth: no run's."""
    from fiftyone_ntt.runs.record import PROVENANCE

    fields = forms.detections_fields(dataset)
    written = [name for name in fields if PROVENANCE in (dataset.get_field(name).info or {})]
    others = [name for name in fields if name not in written]
    return [*written, *others], others


def _kept(chosen: str | None, fields: list[str], *before: str | None) -> str | None:
    for name in (chosen, *before):
        if name in fields:
            return name
    return fields[0] if fields else None


def _summary(last: dict[str, Any]) -> str:
    when = str(last["at"])[:16].replace("T", " ")
    fields = f"**{last['label_field']}** against **{last['gt_field']}**"
    head = f"{fields}, {forms.counted(last['images'], 'image')} ({when} UTC)"
    return "\n\n".join([head, *(f"- {note}" for note in last.get("notes") or [])])


def _shown(value: Any) -> Any:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else value


def _bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mask AP and box AP of each class, as far as there are any."""
    names = [row["class"] for row in rows[:_MOST_BARS]]
    kinds = (("mask_ap", "mask AP"), ("box_ap", "box AP"))
    bars = [(label, [row.get(key) for row in rows[:_MOST_BARS]]) for key, label in kinds]
    return [{"type": "bar", "name": label, "x": names, "y": values} for label, values in bars if any(values)]


def _show(ctx: Any, outcome: str) -> None:
    """Sets the grid to the labels of an outcome, of the class whose row was clicked if it was a row."""
    last = ctx.panel.state.evaluate_last or {}
    key = last.get("eval_key")
    if not key or not ctx.dataset.has_evaluation(key):
        ctx.ops.notify("These matches are no longer there: press Evaluate again", variant="warning")
        return
    wanted, row = F(key) == outcome, ctx.params.get("row")
    what = _SHOWN[outcome]
    if row is not None and int(row) > 0:  # the first row stands for all classes
        name = ctx.panel.state.evaluate_classes[int(row)]
        wanted, what = wanted & (F("label") == name), f"{what} of {name}"
    view = every_image(ctx.dataset).filter_labels(last["gt_field" if outcome == "fn" else "label_field"], wanted)
    ctx.ops.set_view(view)
    ctx.ops.notify(f"The grid shows {what}", variant="info")
