"""The panel's tab "Review"."""

from __future__ import annotations

from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import is_generated, is_patches
from fiftyone_ntt.panels import review_parts as parts
from fiftyone_ntt.params.review import DOUBTS, DoubtParams

_PLUGIN = "@fiftyone-ntt/ntt"
# Seconds that an event waits for the database; what takes longer is fetched meanwhile. The first reading always does.
_PATIENCE, _FIRST_PATIENCE = 0.1, 0.02


class ReviewTab:
    """Draws the tab and answers its events; mixed into the panel."""

    def load_review(self, ctx: Any) -> None:
        """Called when the tab is opened, and when what it shows may have changed."""
        fields = parts.fields_of_runs(ctx.dataset)
        state = ctx.panel.state
        if state.review_field not in fields:
            state.review_field = fields[-1] if fields else None
            state.review_threshold, state.review_class = None, parts.ALL
        if state.review_field:
            self._review_counts(ctx)
            parts.show_verdicts(ctx)

    def draw_review(self, ctx: Any, panel: types.Object) -> None:
        """Adds the tab's content to the panel."""
        state = ctx.panel.state
        if not state.review_field:  # an event may bring a state from before the tab was loaded
            self.load_review(ctx)
        if not state.review_field:
            panel.md(parts.NOTHING_YET, name="review_empty")
            return
        if state.review_reading:
            panel.md("Reading labels ...", name="review_reading_text")
            timer = types.TimerView(interval=700, on_interval=self.on_review_refresh)
            panel.view("review_timer", timer)
        if not state.review_classes:
            if not state.review_reading:
                panel.md(parts.NO_LABELS, name="review_no_labels")
            return
        parts.draw_choices(self, ctx, panel, parts.fields_of_runs(ctx.dataset))
        parts.draw_counts(self, panel)
        parts.draw_threshold(self, ctx, panel)
        parts.draw_verdicts(self, ctx, panel)
        parts.draw_decisions(self, ctx, panel)
        parts.draw_doubt(self, panel)
        self.draw_learn(ctx, panel)  # type: ignore[attr-defined]
        parts.draw_export(self, panel)

    def on_review_refresh(self, ctx: Any) -> None:
        """Something may have changed in the database."""
        self.load_review(ctx)

    def on_review_field(self, ctx: Any) -> None:
        """Another field is to be reviewed."""
        self.on_review_show_all(ctx)
        state = ctx.panel.state
        state.review_field = ctx.params.get("value")
        state.review_threshold, state.review_class = None, parts.ALL
        self.load_review(ctx)

    def on_review_class(self, ctx: Any) -> None:
        """One class, or all."""
        self._review_choose(ctx, ctx.params.get("value"))

    def on_review_row(self, ctx: Any) -> None:
        """The row of a class is clicked: the grid shows that class."""
        names = [parts.ALL, *(ctx.panel.state.review_classes or [])]
        row = ctx.params.get("row")
        self._review_choose(ctx, names[row] if isinstance(row, int) and 0 <= row < len(names) else parts.ALL)

    def on_review_without(self, ctx: Any) -> None:
        """The row of a class is clicked in the table of images: the grid shows those without that class."""
        from fiftyone_ntt.review.presence import judged_without
        from fiftyone_ntt.review.ranking import without

        state, row = ctx.panel.state, ctx.params.get("row")
        names = state.review_judged or []
        if isinstance(row, int) and 0 <= row < len(names) and self._review_whole_images(ctx):
            base = without(ctx.view, state.review_added or [])
            self._review_show(ctx, base, judged_without(base, state.review_field, names[row]))

    def on_review_threshold(self, ctx: Any) -> None:
        """Another threshold, by the slider."""
        value = ctx.params.get("value")
        # The slider also reports when it is drawn.
        if isinstance(value, (int, float)) and abs(value - parts.threshold(ctx)) > 0.001:
            self._review_filter(ctx, float(value))

    def on_review_bar(self, ctx: Any) -> None:
        """Another threshold, by a click on the histogram: where the clicked bar begins."""
        x = ctx.params.get("x")
        if isinstance(x, (int, float)):
            self._review_filter(ctx, parts.bar_start(float(x)))

    def on_review_suggest(self, ctx: Any) -> None:
        """The fitted threshold, or the one that parts the scores best."""
        self._review_filter(ctx, parts.suggested(ctx))

    def on_review_fit(self, ctx: Any) -> None:
        """Opens the form that fits thresholds to the decisions."""
        run_key = parts.run_of_field(ctx.dataset, ctx.panel.state.review_field)
        ctx.prompt(f"{_PLUGIN}/fit_thresholds", {"run_key": run_key}, on_success=self.on_review_fitted)

    def on_review_fitted(self, ctx: Any) -> None:
        """There are fitted thresholds now: the one of the chosen class is set."""
        complete = bool(ctx.panel.state.review_field)  # FiftyOne may call back without the panel's state
        if not complete:
            run_key = (ctx.params.get("original_params") or {}).get("run_key")
            ctx.panel.state.review_field = parts.field_of_run(ctx.dataset, run_key)
        self.load_review(ctx)
        if complete and ctx.panel.state.review_classes:
            self.on_review_suggest(ctx)

    def on_review_show_all(self, ctx: Any) -> None:
        """Back to what the grid showed before."""
        from fiftyone_ntt.review.ranking import without

        marks = ctx.panel.state.review_added
        if marks:
            ctx.ops.set_view(without(ctx.view, marks))
            ctx.panel.state.review_added = []

    def on_review_export(self, ctx: Any) -> None:
        """Opens the form of the export."""
        ctx.prompt(f"{_PLUGIN}/export_labels", params={"label_field": ctx.panel.state.review_field})

    def on_review_doubt(self, ctx: Any) -> None:
        """The most doubtful labels first."""
        from fiftyone_ntt.review.ranking import most_doubtful, without

        kind = ctx.params.get("by") or ctx.params.get("value")
        if kind not in DOUBTS or not self._review_whole_images(ctx):
            return
        state = ctx.panel.state
        base = without(ctx.view, state.review_added or [])
        classes = None if parts.chosen(ctx) is None else (parts.chosen(ctx),)
        params = DoubtParams(state.review_field, kind, parts.threshold(ctx), classes)
        self._review_show(ctx, base, most_doubtful(parts.table(ctx), base, params))

    def on_review_accept(self, ctx: Any) -> None:
        """The selected labels are right."""
        self._review_decide_selected(ctx, "accept_labels")

    def on_review_reject(self, ctx: Any) -> None:
        """The selected labels are wrong."""
        self._review_decide_selected(ctx, "reject_labels")

    def on_review_clear(self, ctx: Any) -> None:
        """The selected labels are undecided again."""
        self._review_decide_selected(ctx, "clear_decisions")

    def on_review_accept_above(self, ctx: Any) -> None:
        """Everything above the threshold that nobody has decided on is right."""
        self._review_decide_all(ctx, "accept_labels", "above")

    def on_review_reject_below(self, ctx: Any) -> None:
        """Everything up to the threshold that nobody has decided on is wrong."""
        self._review_decide_all(ctx, "reject_labels", "below")

    def _review_counts(self, ctx: Any) -> None:
        """Table, histogram and numbers on buttons, as far as the labels have been read."""
        state = ctx.panel.state
        labels = parts.table(ctx)
        state.review_reading = not labels.refresh(_PATIENCE if labels.loaded else _FIRST_PATIENCE)
        if not labels.loaded:
            state.review_classes = []
            return
        if state.review_threshold is None:
            state.review_threshold = parts.suggested(ctx)
        parts.show_counts(ctx, labels)

    def _review_choose(self, ctx: Any, name: Any) -> None:
        known = ctx.panel.state.review_classes or []
        ctx.panel.state.review_class = name if name in known else parts.ALL
        self._review_filter(ctx, parts.threshold(ctx))

    def _review_filter(self, ctx: Any, value: float) -> None:
        from fiftyone_ntt.review.ranking import above_threshold, without

        state = ctx.panel.state
        state.review_threshold = round(min(max(value, 0.0), 1.0), 3)
        self._review_counts(ctx)
        if self._review_whole_images(ctx):
            base = without(ctx.view, state.review_added or [])
            shown = above_threshold(base, state.review_field, state.review_threshold, parts.chosen(ctx))
            self._review_show(ctx, base, shown)

    def _review_show(self, ctx: Any, base: Any, shown: Any) -> None:
        from fiftyone_ntt.review.ranking import added

        ctx.panel.state.review_added = added(shown, base)
        ctx.ops.set_view(shown)

    def _review_whole_images(self, ctx: Any) -> bool:
        if not is_generated(ctx.view):
            return True
        ctx.ops.notify("The grid shows patches: go back to whole images first.", variant="warning")
        return False

    def _review_decide_selected(self, ctx: Any, operator: str) -> None:
        if ctx.selected_labels or ctx.selected:
            # The operator asks where images are selected and no labels.
            at_once = bool(ctx.selected_labels) or is_patches(ctx.view)
            params = {} if at_once else {"label_field": ctx.panel.state.review_field}
            ctx.prompt(f"{_PLUGIN}/{operator}", params, on_success=self.on_review_refresh, skip_prompt=at_once)
        else:
            ctx.ops.notify(parts.SELECT_FIRST, variant="warning")

    def _review_decide_all(self, ctx: Any, operator: str, side: str) -> None:
        state, name = ctx.panel.state, parts.chosen(ctx)
        params = {
            "label_field": state.review_field,
            side: parts.threshold(ctx),
            "_shown_by_panel": state.review_added or [],
            **({} if name is None else {"classes": [name]}),
        }
        ctx.prompt(f"{_PLUGIN}/{operator}", params, on_success=self.on_review_refresh, skip_prompt=True)
