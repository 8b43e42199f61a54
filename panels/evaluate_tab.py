"""The panel's tab "Evaluate": how good the labels are, class by class, and where they are wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import detections_fields
from fiftyone_ntt.errors import as_text
from fiftyone_ntt.operators.base import shows_whole_images
from fiftyone_ntt.operators.forms import as_markdown, as_plot_text, as_sentence, counted
from fiftyone_ntt.panels.tabs import Handle, Tab, add_plot, choice, show_grid, table

MODEL_EVALUATION = "model_evaluation_panel_builtin"
COLUMNS = {
    "class": "class",
    "objects": "objects",
    "predictions": "labels",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "boundary_ap": "boundary AP",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
    "label_precision": "labels right",
    "label_recall": "objects found",
    "precision": "precision",
    "recall": "recall",
}
EMPTY = """
**Nothing to compare with yet.** To see how good the labels are, some images (not the references) need a field with what
is really there: *ground truth*, drawn by a person or imported. Without it, go on with the review; nothing here is
needed for that.
"""
EXPLAINED = """
*AP*: 1 is perfect, labels of every score count. *Labels right* and *objects found*: the shares above the score
threshold that is named above. *Precision* and *recall* say how often a class is rightly claimed for an image, and how
often it is found there.
"""
OF_BORDERS = "*Boundary AP*: as mask AP, but masks must also agree in a band along their borders."
OUTCOMES = {"tp": "true positives", "fp": "false positives", "fn": "misses"}
"""What can become of a label or an object."""
_MOST_BARS = 40
_HEIGHT = 280


class EvaluateTab(Tab):
    """Shows the scores of the last evaluation, and leads to the labels behind them."""

    KEY, TITLE = "evaluate", "4 Evaluate"

    def events(self) -> dict[str, Handle]:
        return {
            "refresh": self.load,
            "label_field": partial(_choose, name="evaluate_label_field"),
            "gt_field": partial(_choose, name="evaluate_gt_field"),
            "run": self._evaluate,
            **{f"show_{outcome}": partial(_show, outcome=outcome) for outcome in OUTCOMES},
            "panel": lambda ctx: ctx.ops.open_panel(MODEL_EVALUATION, layout="horizontal", is_active=True),
            "everything": _show_everything,
        }

    def load(self, ctx: Any) -> None:
        from fiftyone_ntt.evaluation.fiftyone_matches import last_results
        from fiftyone_ntt.references.tagging import truth_field

        state = ctx.panel.state
        predicted, truth = _fields(ctx.dataset)
        last = last_results(ctx.dataset) or {}
        chosen = _kept(state.evaluate_label_field, predicted, last.get("label_field"), *predicted[:1])
        state.evaluate_label_field = chosen
        state.evaluate_gt_field = _kept(state.evaluate_gt_field, truth, last.get("gt_field"))
        if state.evaluate_gt_field is None:
            state.evaluate_gt_field = truth_field(ctx.dataset, truth)
        if state.evaluate_label_field == state.evaluate_gt_field:  # chosen when there was nothing else, before a run
            others = [name for name in predicted if name != state.evaluate_gt_field]
            state.evaluate_label_field = (others or predicted or [None])[0]
        state.evaluate_last = {key: last[key] for key in ("label_field", "gt_field", "eval_key") if last.get(key)}
        rows = last.get("table") or []
        state.evaluate_classes = [row["class"] for row in rows]
        state.evaluate_masks = any(row.get("mask_ap") is not None for row in rows)
        state.evaluate_borders = any("boundary_ap" in row for row in rows)
        state.evaluate_summary = _summary(last) if last else None
        ctx.panel.set_data("evaluate_table", [{key: _readable(row.get(key)) for key in COLUMNS} for row in rows])
        ctx.panel.set_data("evaluate_plot", _bars(rows[1:]))

    def render(self, ctx: Any, panel: types.Object) -> None:
        state = ctx.panel.state
        predicted, truth = _fields(ctx.dataset)
        if not truth or not predicted or (predicted == truth and len(truth) < 2):
            panel.md(EMPTY, name="evaluate_empty")
            return
        for event, label, fields in (
            ("label_field", "Labels to evaluate", predicted),
            ("gt_field", "Ground truth: what is really there", truth),
        ):
            panel.enum(f"evaluate_{event}", fields, view=choice(fields, label=label), on_change=self.on(event))
        row = panel.h_stack("evaluate_buttons", gap=1)
        buttons = [("run", "Evaluate", "query_stats", "contained"), ("refresh", "Refresh", "refresh", None)]
        self.add_buttons(row, buttons)
        if not state.evaluate_classes:
            panel.md("Not evaluated yet. Press **Evaluate**.", name="evaluate_none")
            return
        panel.md(state.evaluate_summary, name="evaluate_summary")
        self._render_scores(state, panel)
        if len(state.evaluate_classes) > 2:  # one class has the bars of all of them
            _render_plot(panel)

    def _render_scores(self, state: Any, panel: types.Object) -> None:
        """The table of scores, and the buttons that show what is behind them where matches were kept."""
        # All of them are wider than the panel.
        hidden = ("box_ap", "box_ap50") if state.evaluate_masks else ("mask_ap", "mask_ap50")
        hidden += () if state.evaluate_borders else ("boundary_ap",)
        view = table({key: label for key, label in COLUMNS.items() if key not in hidden})
        icons = dict(zip(OUTCOMES, ("check_circle", "cancel", "help"), strict=True))
        matched = bool((state.evaluate_last or {}).get("eval_key"))
        for outcome, text in OUTCOMES.items() if matched else ():
            label, handler = f"Show {text}", self.on(f"show_{outcome}")
            view.add_row_action(outcome, handler, label=label, icon=icons[outcome], tooltip=f"{label} of this class")
        panel.list("evaluate_table", types.Object(), view=view)
        panel.md(EXPLAINED + OF_BORDERS * bool(state.evaluate_borders), name="evaluate_explained")
        if not matched:
            return
        buttons = [(f"show_{outcome}", f"Show {OUTCOMES[outcome]}", icons[outcome], "outlined") for outcome in OUTCOMES]
        self.add_buttons(panel.h_stack("evaluate_views", gap=1), buttons)
        more = [
            ("panel", "Open Model Evaluation", "analytics", None),
            ("everything", "Show all", "filter_alt_off", None),
        ]
        self.add_buttons(panel.h_stack("evaluate_more", gap=1), more)

    def _evaluate(self, ctx: Any) -> None:
        """Opens the form of an evaluation. Of all images: what the grid shows may be the misses of the last one."""
        label_field, gt_field = ctx.panel.state.evaluate_label_field, ctx.panel.state.evaluate_gt_field
        if label_field == gt_field:
            ctx.ops.notify("Choose two different fields to compare", variant="warning")
            return
        params = {"label_field": label_field, "gt_field": gt_field, "eval_key": f"{label_field}_eval"}
        params["view_target"] = "DATASET"
        self.prompt(ctx, "evaluate", params, then="refresh")


def _choose(ctx: Any, name: str) -> None:
    ctx.panel.state.set(name, ctx.params.get("value"))


def _fields(dataset: Any) -> tuple[list[str], list[str]]:
    """Fields that may hold labels to evaluate, those of runs first, and fields that may hold the truth: no run's."""
    from fiftyone_ntt.runs.record import labelled_fields

    written = labelled_fields(dataset)
    others = [name for name in detections_fields(dataset) if name not in written]
    return [*written, *others], others


def _kept(chosen: str | None, fields: list[str], *before: str | None) -> str | None:
    """The first of these that is still there; ``None`` without any."""
    return next((name for name in (chosen, *before) if name in fields), None)


def _summary(last: dict[str, Any]) -> str:
    when = str(last["at"])[:16].replace("T", " ")
    fields = f"**{as_markdown(last['label_field'])}** against **{as_markdown(last['gt_field'])}**"
    head = f"{fields}, {counted(last['images'], 'image')} ({when} UTC)"
    review = [as_markdown(f"A{last['review'][1:]}.")] if last.get("review") else []
    return "\n\n".join([head, *review, *(f"- {as_sentence(note)}" for note in last.get("notes") or [])])


def _readable(value: Any) -> Any:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else value


def _bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mask AP and box AP of each class, as far as there are any."""
    names = [as_plot_text(row["class"]) for row in rows[:_MOST_BARS]]
    kinds = (("mask_ap", "mask AP"), ("box_ap", "box AP"))
    bars = [(label, [row.get(key) for row in rows[:_MOST_BARS]]) for key, label in kinds]
    return [{"type": "bar", "name": label, "x": names, "y": values} for label, values in bars if any(values)]


def _render_plot(panel: types.Object) -> None:
    shape: dict[str, Any] = {"margin": {"t": 30, "b": 60, "l": 40, "r": 10}, "showlegend": True}
    shape["legend"] = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2}
    shape |= {"title": {"text": "AP of each class"}, "yaxis": {"range": [0, 1]}, "barmode": "group"}
    shape["xaxis"] = {"type": "category"}  # Plotly takes classes called 1, 2 or 2026-01-01 for numbers and dates
    add_plot(panel, "evaluate_plot", _HEIGHT, shape)


def _show(ctx: Any, outcome: str) -> None:
    """Sets the grid to the labels of an outcome, of the class whose row was clicked if it was a row."""
    from fiftyone_ntt.evaluation.fiftyone_matches import attribute_of_outcome
    from fiftyone_ntt.review.ranking import Grid

    if not shows_whole_images(ctx):
        return
    row, text, values = ctx.params.get("row"), OUTCOMES[outcome], {}
    place = attribute_of_outcome(ctx.dataset, ctx.panel.state.evaluate_last or {}, outcome)
    if place is None or not ctx.dataset.has_field(place[0]):
        ctx.ops.notify("These matches are no longer there: press Evaluate again", variant="warning")
        return
    field, attribute = place
    if row is not None and int(row) > 0:  # the first row stands for all classes
        name = ctx.panel.state.evaluate_classes[int(row)]
        text, values = f"{text} of {as_text(name)}", {"label": [name]}
    grid = Grid(ctx.dataset, ctx.request_params, field)
    grid.show()
    grid.filter(values={**values, attribute: [outcome]})
    show_grid(ctx, grid)
    ctx.ops.notify(f"The grid shows {text}", variant="info")


def _show_everything(ctx: Any) -> None:
    """Takes away what the panel has filtered the grid by, and leaves the person's own view and filters."""
    from fiftyone_ntt.review.ranking import Grid

    fields = detections_fields(ctx.dataset)
    if fields:
        grid = Grid(ctx.dataset, ctx.request_params, fields[0])
        grid.show()
        show_grid(ctx, grid)
