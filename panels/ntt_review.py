"""The plugin's panel: its tabs, and which of them is open."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_ntt.operators.review import guard_labels
from fiftyone_ntt.panels.evaluate_tab import EvaluateTab
from fiftyone_ntt.panels.references_tab import ReferencesTab
from fiftyone_ntt.panels.review_tab import ReviewTab
from fiftyone_ntt.panels.runs_tab import RunsTab
from fiftyone_ntt.panels.tabs import PANEL, Tab

_TABS: tuple[type[Tab], ...] = (ReferencesTab, RunsTab, ReviewTab, EvaluateTab)
TABS = {tab.KEY: tab.TITLE for tab in _TABS}
"""Key of each tab, in the order of the work -> what it is called."""
HELP = """
Tag a few samples that show what you want, and find it in all the others. Nothing is trained.

1. **References**: choose samples with labels, look at what they teach, try it on four images.
2. **Runs**: label everything; follow, resume, cancel or undo.
3. **Review**: choose a score threshold, accept and reject, learn from that.
4. **Evaluate**: compare with ground truth where there is some.
"""
_SETTLING = 1200  # milliseconds


class NttReview(foo.Panel):
    """The way from tagged references to reviewed labels, a tab a step."""

    def __init__(self, _builtin: bool = False) -> None:
        super().__init__(_builtin)
        self.tabs = {tab.KEY: tab(self) for tab in _TABS}
        # FiftyOne looks the handler of an event up by its name on the panel.
        for tab in self.tabs.values():
            for handler in tab.handlers.values():
                setattr(self, handler.__name__, handler)

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="ntt_review",
            label="No Time to Train",
            icon="auto_awesome",
            help_markdown=HELP,
            category=foo.Categories.CURATE,
            surfaces="grid",
        )

    def execute(self, ctx: Any) -> Any:
        """Answers an event, and draws the panel."""
        _keep_tab(ctx)
        if ctx.dataset is not None and guard_labels(ctx, tell=True):
            ctx.panel.state.settling = True  # the editor may still be saving: look once more a moment later
        return super().execute(ctx)

    def on_load(self, ctx: Any) -> None:
        ctx.panel.state.tab = _tab(ctx)
        self._load(ctx)

    def on_change_dataset(self, ctx: Any) -> None:
        ctx.panel.state.clear()
        ctx.panel.state.tab = next(iter(TABS))
        self._load(ctx)

    def on_change_current_sample(self, ctx: Any) -> None:
        """A sample was opened or closed; ``execute`` has seen to its labels."""

    def on_tab(self, ctx: Any) -> None:
        """The person opens another tab."""
        chosen = ctx.params.get("value")
        chosen = chosen if chosen in TABS else next(iter(TABS))
        # The tabs tell theirs again whenever they are drawn, and know it before this is called. Setting it every time
        # would let two clicks in quick succession undo each other for ever.
        if chosen != ctx.panel.state.tab:
            ctx.panel.state.tab = chosen
        if chosen != ctx.panel.state.tab_loaded:
            self._load(ctx)

    def on_settled(self, ctx: Any) -> None:
        """A moment after a tab was drawn: answers may overtake each other, and the last one drawn be of another tab."""
        ctx.panel.state.settling = False
        if ctx.panel.state.tab_loaded != _tab(ctx):
            self._load(ctx)

    def render(self, ctx: Any) -> types.Property:
        panel = types.Object()
        view = types.TabsView(variant="fullWidth")
        for key, title in TABS.items():
            view.add_choice(key, label=title)
        panel.enum("tab", list(TABS), view=view, default=_tab(ctx), on_change=self.on_tab)
        if ctx.dataset is None:
            panel.md("Open a dataset first.", name="no_dataset")
        else:
            self.tabs[_tab(ctx)].render(ctx, panel)
        if ctx.panel.state.settling:  # under a name for each tab, so that each starts anew
            timer = types.TimerView(timeout=_SETTLING, on_timeout=self.on_settled)
            panel.view(f"settling_{_tab(ctx)}", view=timer)
        return types.Property(panel, view=types.GridView(orientation="vertical", gap=2, componentsProps=PANEL))

    def _load(self, ctx: Any) -> None:
        ctx.panel.state.tab_loaded, ctx.panel.state.settling = _tab(ctx), True
        if ctx.dataset is not None:
            self.tabs[_tab(ctx)].load(ctx)


def _tab(ctx: Any) -> str:
    tab = ctx.panel.state.tab
    return tab if tab in TABS else next(iter(TABS))


def _keep_tab(ctx: Any) -> None:
    """When a form is through, FiftyOne calls back without the panel's state: the handler's name tells its tab."""
    method = str(ctx.params.get("__method__") or "")
    if ctx.panel.state.tab is None:
        for key in TABS:
            if method.startswith(f"on_{key}_"):
                ctx.panel.state.tab = key
