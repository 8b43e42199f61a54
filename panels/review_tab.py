"""The panel's tab "Review": what a person decides on labels, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import is_generated, is_patches
from fiftyone_ntt.operators.base import shows_whole_images, tick
from fiftyone_ntt.operators.forms import counted
from fiftyone_ntt.operators.review import ASK_ABOVE, IN_GRID
from fiftyone_ntt.panels import refine_part
from fiftyone_ntt.panels import review_parts as parts
from fiftyone_ntt.panels.tabs import Handle, Tab, go_to, show_grid
from fiftyone_ntt.params.review import DOUBTS, DoubtParams

if TYPE_CHECKING:
    from fiftyone_ntt.review.ranking import Grid

# Seconds that an event waits for the database; what takes longer is fetched meanwhile. The first reading always does.
_PATIENCE, _FIRST_PATIENCE = 0.1, 0.02
_NEXT, _LOOKING = 20, 0.3
"""Images to review next that are shown, and seconds in which candidates are read to tell which of them are alike."""


class ReviewTab(Tab):
    """Shows the labels of a run by score, takes decisions on them, and learns from those."""

    KEY, TITLE = "review", "3 Review"

    def events(self) -> dict[str, Handle]:
        decide, all_of = self._decide_selected, self._decide_undecided
        handles: dict[str, Handle] = {
            "shown": self._choose_shown,
            "class": lambda ctx: self._choose_class(ctx, ctx.params.get("value")),
            "row": self._click_class,
            "without": self._show_without,
            "threshold": self._move_slider,
            "bar": self._click_bar,
            "suggest": self._suggest,
            "fit": self._fit,
            "fitted": self._fitted,
            "lower": self._lower,
            "show_all": _show_all,
            "doubt": self._show_uncertain,
            "next": _show_next,
            "accept": partial(decide, operator="accept_labels"),
            "reject": partial(decide, operator="reject_labels"),
            "clear": partial(decide, operator="clear_decisions"),
            "done": self._mark_done,
            "accept_above": partial(all_of, operator="accept_labels", side="above"),
            "reject_below": partial(all_of, operator="reject_labels", side="below"),
            "undo": self._undo,
            "learn_preview": partial(self._learn, apply=False),
            "learn_apply": partial(self._learn, apply=True),
            "learn_show": _show_changed,
            "learn_done": self._learned,
            "refine": lambda ctx: self.prompt(ctx, "refine_labels", refine_part.prefilled(ctx), then="refresh"),
            "refined": _show_refined,
            "undo_refine": self._undo_refining,
            "export": lambda ctx: self.prompt(ctx, "export_labels", {"label_field": ctx.panel.state.review_field}),
        }
        answers = {event: partial(self._answer, handle=handle) for event, handle in handles.items()}
        return {"refresh": self.load, "field": self._choose_field, **answers}

    def _answer(self, ctx: Any, handle: Handle) -> None:
        """Answers an event about the labels under review, where they are still there: a run may be undone meanwhile."""
        from fiftyone_ntt.runs.record import labelled_fields

        field = ctx.panel.state.review_field
        if field and field not in labelled_fields(ctx.dataset):
            ctx.ops.notify(f"The labels of a run in {field!r} are gone.", variant="warning")
            self.load(ctx)
        else:
            handle(ctx)

    def load(self, ctx: Any) -> None:
        from fiftyone_ntt.runs.record import labelled_fields

        fields, state = labelled_fields(ctx.dataset), ctx.panel.state
        if state.review_field not in fields:
            state.review_field = fields[-1] if fields else None
            state.review_threshold, state.review_class, state.review_shown = None, None, parts.ABOVE
        if state.review_field:
            _follow(ctx)
            if _class_is_gone(state):
                shows_it = state.review_filtered and not is_generated(ctx.view)
                (_show_chosen if shows_it else _note_and_count)(ctx, review_class=None)
            if state.review_new and state.review_classes and not state.review_reading:
                state.review_new = False
                _show_chosen(ctx)
            parts.show_image_labels(ctx)

    def open_on(self, ctx: Any, label_field: str) -> None:
        """The panel goes on here after a run: only its labels above the suggested threshold are in sight."""
        state = ctx.panel.state
        go_to(ctx, self.KEY)
        state.review_field, state.review_class = label_field, None
        state.review_threshold, state.review_shown, state.review_new = None, parts.ABOVE, True
        tick(ctx, label_field)
        self.load(ctx)

    def render(self, ctx: Any, panel: types.Object) -> None:
        from fiftyone_ntt.runs.record import labelled_fields

        state = ctx.panel.state
        if not state.review_field:  # an event may bring a state from before the tab was loaded
            self.load(ctx)
        if not state.review_field:
            panel.md(parts.NOTHING_YET, name="review_empty")
            return
        if state.review_reading:
            panel.md("Reading labels ...", name="review_reading_text")
            panel.view("review_timer", types.TimerView(interval=700, on_interval=self.on("refresh")))
        if not state.review_classes:
            if not state.review_reading:
                panel.md(parts.NO_LABELS, name="review_no_labels")
            return
        parts.render_choices(self, ctx, panel, labelled_fields(ctx.dataset))
        parts.render_counts(self, panel)
        parts.render_threshold(self, ctx, panel)
        parts.render_image_labels(self, ctx, panel)
        parts.render_decisions(self, ctx, panel)
        refine_part.render(self, ctx, panel)
        parts.render_uncertain(self, panel)
        parts.render_learn(self, ctx, panel)
        parts.render_export(self, panel)

    def _choose_field(self, ctx: Any) -> None:
        _show_all(ctx)
        state = ctx.panel.state
        state.review_field = ctx.params.get("value")
        state.review_threshold, state.review_class, state.review_shown = None, None, parts.ABOVE
        self.load(ctx)

    def _choose_class(self, ctx: Any, name: Any) -> None:
        classes = ctx.panel.state.review_classes or []
        _show_chosen(ctx, review_class=name if name in classes else None)

    def _choose_shown(self, ctx: Any) -> None:
        """Labels above the threshold, or those with a decision."""
        value = ctx.params.get("value")
        _show_chosen(ctx, review_shown=value if value in parts.SHOWN else parts.ABOVE)

    def _click_class(self, ctx: Any) -> None:
        """The row of a class is clicked: the grid shows that class."""
        self._choose_class(ctx, _clicked(ctx, [None, *(ctx.panel.state.review_classes or [])]))

    def _show_without(self, ctx: Any) -> None:
        """The row of a class is clicked in the table of images: the grid shows those without that class."""
        from fiftyone_ntt.review.presence import judged_without

        state = ctx.panel.state
        name = _clicked(ctx, state.review_judged or [])
        if name is not None and shows_whole_images(ctx):
            grid = parts.grid(ctx)
            grid.show(judged_without(grid.samples(), state.review_field, name))
            _send(ctx, grid)

    def _move_slider(self, ctx: Any) -> None:
        value = ctx.params.get("value")
        if isinstance(value, (int, float)):  # pressed where it stands as well: the grid may show all labels
            _filter(ctx, float(value))

    def _click_bar(self, ctx: Any) -> None:
        """A bar of the histogram is clicked: the threshold moves to where it begins."""
        x = ctx.params.get("x")
        if isinstance(x, (int, float)):
            _filter(ctx, parts.bar_start(float(x)))

    def _suggest(self, ctx: Any) -> None:
        """The fitted threshold, or the one that parts the scores best."""
        _filter(ctx, parts.suggested(ctx))

    def _lower(self, ctx: Any) -> None:
        """Opens the form that brings the labels back that the run left out, down to the threshold."""
        from fiftyone_ntt.runs.record import run_of_field

        run_key = run_of_field(ctx.dataset, ctx.panel.state.review_field)
        params = {"run_key": run_key, "score_threshold": parts.threshold(ctx)}
        # It goes on in the background: it is followed, and leads back here, as a labelling run does.
        self.prompt(ctx, "lower_threshold", params, then=self.panel.tabs["runs"].on("lowering"))

    def _fit(self, ctx: Any) -> None:
        from fiftyone_ntt.runs.record import run_of_field

        run_key = run_of_field(ctx.dataset, ctx.panel.state.review_field)
        self.prompt(ctx, "fit_thresholds", {"run_key": run_key}, then="fitted")

    def _fitted(self, ctx: Any) -> None:
        """There are fitted thresholds now: the one of the chosen class is set."""
        from fiftyone_ntt.runs.record import fields_of_runs

        state = ctx.panel.state
        complete = bool(state.review_field)  # FiftyOne may call back without the panel's state
        if not complete:
            run_key = (ctx.params.get("original_params") or {}).get("run_key")
            state.review_field = fields_of_runs(ctx.dataset).get(run_key)
        self.load(ctx)
        if complete and state.review_classes:
            self._suggest(ctx)

    def _show_uncertain(self, ctx: Any) -> None:
        """The most uncertain labels first."""
        from fiftyone_ntt.review.ranking import most_doubtful

        kind = ctx.params.get("by") or ctx.params.get("value")
        if kind not in DOUBTS or not shows_whole_images(ctx):
            return
        grid, name = parts.grid(ctx), parts.chosen(ctx)
        classes = None if name is None else (name,)
        params = DoubtParams(ctx.panel.state.review_field, kind, parts.threshold(ctx), classes)
        images, labels = most_doubtful(parts.label_table(ctx), grid.everything(), params)
        if not labels:
            ctx.ops.notify("Nothing is uncertain here: every label in the grid is decided on.", variant="info")
            return
        grid.show(grid.samples().select(images, ordered=True))
        grid.filter(label_ids=labels, images=images)
        _send(ctx, grid)

    def _decide_selected(self, ctx: Any, operator: str) -> None:
        if not (ctx.selected_labels or ctx.selected):
            ctx.ops.notify(parts.SELECT_FIRST, variant="warning")
            return
        # The operator asks where images are selected and no labels.
        at_once = bool(ctx.selected_labels) or is_patches(ctx.view)
        params = {} if at_once else {"label_field": ctx.panel.state.review_field}
        self.prompt(ctx, operator, params, then="refresh", at_once=at_once)

    def _decide_undecided(self, ctx: Any, operator: str, side: str) -> None:
        """All that nobody has decided on, on one side of the threshold, is right, or wrong."""
        state, name = ctx.panel.state, parts.chosen(ctx)
        params = {
            "label_field": state.review_field,
            side: parts.threshold(ctx),
            "undecided": True,
            **({} if name is None else {"classes": [name]}),
        }
        count = parts.undecided(ctx, parts.label_table(ctx), parts.grid(ctx))[side]
        ask = count is None or count > ASK_ABOVE
        self.prompt(ctx, operator, {**params, IN_GRID: ask}, then="refresh", at_once=not ask)

    def _mark_done(self, ctx: Any) -> None:
        """The selected images are done."""
        self.prompt(ctx, "mark_done", {}, then="refresh", at_once=True)

    def _undo(self, ctx: Any) -> None:
        """The last decision is taken back."""
        from fiftyone_ntt.review.decisions import undo_last_decision

        changed = undo_last_decision(ctx.dataset, ctx.panel.state.review_field)
        ctx.ops.reload_samples()
        ctx.ops.notify(f"{counted(changed, 'label')} as before", variant="success")
        self.load(ctx)

    def _undo_refining(self, ctx: Any) -> None:
        """Opens the form that brings the masks from before all refining back."""
        self.prompt(ctx, "undo_refinement", {"label_field": ctx.panel.state.review_field}, then="refresh")

    def _learn(self, ctx: Any, apply: bool) -> None:
        """Opens the form that shows what was decided; set to look what would change, or to write it."""
        params: dict[str, Any] = {"label_field": ctx.panel.state.review_field, "apply": apply}
        threshold = ctx.panel.state.review_threshold
        if isinstance(threshold, (int, float)):
            params["threshold"] = float(threshold)
        self.prompt(ctx, "learn", params, then="learn_done")

    def _learned(self, ctx: Any) -> None:
        """The operator is through: the counts may be others, and there is an outcome to show."""
        if not ctx.panel.state.review_field:  # FiftyOne may call back without the panel's state
            ctx.panel.state.review_field = (ctx.params.get("original_params") or {}).get("label_field")
        self.load(ctx)


def _count(ctx: Any, grid: Grid | None = None) -> None:
    """Table, histogram and numbers on buttons, as far as the labels have been read."""
    state, labels = ctx.panel.state, parts.label_table(ctx)
    state.review_reading = not labels.refresh(_PATIENCE if labels.loaded else _FIRST_PATIENCE)
    if not labels.loaded:
        state.review_classes = []
        return
    if state.review_threshold is None:
        state.review_threshold = parts.suggested(ctx)
    parts.show_counts(ctx, labels, grid or parts.grid(ctx))


def _follow(ctx: Any) -> None:
    """Takes over what the person changed in the sidebar meanwhile, and counts anew.

    There is an event for such changes, but FiftyOne sends it three times after every answer of a panel as well.
    """
    grid, state = parts.grid(ctx), ctx.panel.state
    # After a run the review begins anew: what it filtered by before says nothing.
    if grid.threshold is not None and not (state.review_new and grid.has_own_threshold):
        state.review_threshold = min(max(grid.threshold, 0.0), 1.0)
    if not state.review_new:  # a panel that was closed knows its choices from its filters alone
        names, tags = grid.own_values("label"), grid.own_values("tags")
        if len(names) == 1:
            state.review_class = names[0]
        if tags:
            texts = [text for text, wanted in parts.SHOWN.items() if sorted(wanted) == sorted(tags)]
            state.review_shown = (texts or [state.review_shown])[0]
    state.review_filtered = grid.is_filtered
    _count(ctx, grid)


def _filter(ctx: Any, value: float) -> None:
    """Moves the threshold; the grid shows the labels above it, of the chosen class."""
    _show_chosen(ctx, review_threshold=round(min(max(value, 0.0), 1.0), 3), review_shown=parts.ABOVE)


def _show_chosen(ctx: Any, **changes: Any) -> None:
    """The grid shows the labels of the chosen class: those above the threshold, or those with the chosen decision."""
    if not shows_whole_images(ctx):
        _note_and_count(ctx, **changes)
        return
    state, grid = ctx.panel.state, parts.grid(ctx)
    grid.show()
    name = changes.get("review_class", state.review_class)
    tags = parts.SHOWN[changes.get("review_shown", state.review_shown) or parts.ABOVE]
    values = {} if name is None else {"label": [name]}
    if tags:
        grid.filter(values={**values, "tags": tags})
    else:
        grid.filter(above=changes.get("review_threshold", parts.threshold(ctx)), values=values)
    _send(ctx, grid, **changes)


def _note(ctx: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        ctx.panel.state.set(key, value)


def _note_and_count(ctx: Any, **changes: Any) -> None:
    _note(ctx, changes)
    _count(ctx)


def _class_is_gone(state: Any) -> bool:
    """Whether no label is left of the chosen class, as far as the labels have been read."""
    if state.review_reading or not state.review_classes or state.review_class is None:
        return False
    return state.review_class not in state.review_classes


def _send(ctx: Any, grid: Grid, **changes: Any) -> None:
    """The App's grid becomes what ``grid`` says; the state, which would disturb that, is changed afterwards."""
    show_grid(ctx, grid)
    _note(ctx, {**changes, "review_filtered": grid.is_filtered})
    _count(ctx, grid)


def _show_all(ctx: Any) -> None:
    """Back to what the grid showed before."""
    if ctx.panel.state.review_field and ctx.dataset.has_field(ctx.panel.state.review_field):
        grid = parts.grid(ctx)
        grid.show()
        _send(ctx, grid, review_shown=parts.ABOVE)


def _show_next(ctx: Any) -> None:
    """The grid shows the images whose review is expected to teach most, with their labels above the threshold."""
    from fiftyone_ntt.review.next_images import images_to_review

    if not shows_whole_images(ctx):
        return
    grid = parts.grid(ctx)
    images = images_to_review(grid.samples(), ctx.panel.state.review_field, _NEXT, seconds=_LOOKING)
    if not len(images):
        ctx.ops.notify("Every image in the grid is done, or all of its labels have a decision.", variant="info")
        return
    grid.show(images)
    grid.filter(above=parts.threshold(ctx))
    _send(ctx, grid, review_shown=parts.ABOVE, review_class=None)


def _show_refined(ctx: Any) -> None:
    """The grid shows the labels that have a new mask."""
    if (grid := refine_part.refined_ones(ctx)) is not None:
        _send(ctx, grid, review_shown=parts.ABOVE)


def _show_changed(ctx: Any) -> None:
    """The grid shows the images whose labels change, or changed."""
    outcome = parts.last_learned(ctx)
    if outcome is not None and outcome["changed"] and shows_whole_images(ctx):
        grid = parts.grid(ctx)
        grid.show(grid.samples().select(outcome["changed"]))
        _send(ctx, grid)


def _clicked(ctx: Any, names: Sequence[str | None]) -> str | None:
    """The name in the row that was clicked."""
    row = ctx.params.get("row")
    return names[row] if isinstance(row, int) and 0 <= row < len(names) else None
