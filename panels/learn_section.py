"""The part of the tab "Review" that learns from decisions."""

from __future__ import annotations

from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.operators.learn import COLUMNS
from fiftyone_ntt.panels import layout

_OPERATOR = "@fiftyone-ntt/ntt/learn"
_INTRODUCTION = (
    "**Learn.** What you accepted becomes a reference, what you rejected an example of what you do not want; then all "
    "images are matched again. You see what would change before anything is written."
)


class LearnSection:
    """Draws the section and answers its events; mixed into the tab."""

    def draw_learn(self, ctx: Any, panel: types.Object) -> None:
        """Adds the section to the panel."""
        panel.md(_INTRODUCTION, name="learn_introduction")
        outcome = _outcome(ctx)
        # One button while there is nothing to show or write; more would only ask which to press first.
        buttons = panel.h_stack("learn_buttons", gap=2, align_x="left")
        buttons.btn("learn_preview", "Learn from my decisions", icon="school", variant="contained",
                    on_click=self.on_learn_preview)  # fmt: skip
        if outcome is None:
            return
        if outcome["changed"]:
            buttons.btn("learn_show", "Show changed images", icon="visibility", variant="outlined",
                        on_click=self.on_learn_show)  # fmt: skip
            if not outcome["applied"]:
                buttons.btn("learn_apply", "Apply", icon="check", variant="outlined", on_click=self.on_learn_apply)
        panel.md(outcome["summary"], name="learn_summary")
        ctx.panel.set_data("learn_rows", outcome["rows"])
        panel.list("learn_rows", types.Object(), view=layout.table(COLUMNS), label="Labels of each class")

    def on_learn_preview(self, ctx: Any) -> None:
        """Opens the form that shows what was decided; it looks what would change, which takes seconds."""
        self._learn_prompt(ctx, apply=False)

    def on_learn_apply(self, ctx: Any) -> None:
        """Opens the same form, set to write."""
        self._learn_prompt(ctx, apply=True)

    def on_learn_show(self, ctx: Any) -> None:
        """The grid shows the images whose labels change, or changed."""
        outcome = _outcome(ctx)
        if outcome is not None and outcome["changed"]:
            ctx.ops.set_view(ctx.dataset.select(outcome["changed"]))

    def on_learn_done(self, ctx: Any) -> None:
        """The operator is through: the counts may be others, and there is an outcome to show."""
        state = ctx.panel.state
        if not state.tab:  # FiftyOne may call back without the panel's state: stay where the button is
            state.tab = "review"
            state.review_field = (ctx.params.get("original_params") or {}).get("label_field")
        self.load_review(ctx)  # type: ignore[attr-defined]

    def _learn_prompt(self, ctx: Any, apply: bool) -> None:
        params = {"label_field": ctx.panel.state.review_field, "apply": apply}
        threshold = ctx.panel.state.review_threshold
        if isinstance(threshold, (int, float)):
            params["threshold"] = float(threshold)
        ctx.prompt(_OPERATOR, params=params, on_success=self.on_learn_done)


def _outcome(ctx: Any) -> dict[str, Any] | None:
    """What the last learning on the field under review found."""
    from fiftyone_ntt.review.learn import last_outcome

    field = ctx.panel.state.review_field
    return last_outcome(ctx.dataset, field) if field else None
