"""The plugin's panel: its tabs, and which of them is open.

Answers of a busy server overtake each other, so an answer may be of a tab that is no longer open. Three rules keep the
content with the tab. Which tab is open is only said by the tabs themselves: they write it into the panel's state before
they tell of it, every event brings that state along, and no answer overwrites it. Whatever the event, what is drawn is
the tab that the event says is open. And drawing another tab than before starts a timer under a name of its own, which
asks whether that tab is the one that is open: so an answer that came too late is found out by the browser itself, also
where it lacks the timer that looks after filters.
"""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_ntt.errors import NttError
from fiftyone_ntt.operators.forms import as_markdown
from fiftyone_ntt.operators.review import guard_labels
from fiftyone_ntt.panels.evaluate_tab import EvaluateTab
from fiftyone_ntt.panels.kept_filters import LOOK, Found, look_after, mark, next_look
from fiftyone_ntt.panels.references_tab import ReferencesTab
from fiftyone_ntt.panels.review_tab import ReviewTab
from fiftyone_ntt.panels.runs_tab import RunsTab
from fiftyone_ntt.panels.tabs import PANEL, Tab, go_to, tabs_name
from fiftyone_ntt.params.wording import for_app

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
LARGE = 10_000
"""Samples from which on the panel makes indexes when it is opened."""
_LONGEST = 1000
# Milliseconds: until labels that came back are looked at again, and until a tab asks whether it is the open one.
_LOOK_EVERY, _SETTLING, _CHECK_AFTER = 1000, 1200, 250


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
        """Answers an event, and draws the panel; not where it only asked whether the right tab is drawn, and it is."""
        method = str(ctx.params.get("__method__") or "")
        if not ctx.panel_state:  # when a form is through, FiftyOne calls back without the panel's state
            for key in TABS:
                if method.startswith(f"on_{key}_"):
                    go_to(ctx, key)
        is_drawn = method == "on_drawn" and ctx.params.get("drawn") == _drawn(ctx)
        filters = look_after(ctx, method, quiet=is_drawn)
        if method == LOOK and filters is Found.OLDER:
            return None
        ctx.params["filters_found"] = filters
        if ctx.dataset is not None and guard_labels(ctx, tell=True):
            ctx.panel.state.settling = True  # the editor may still be saving: look once more a moment later
        elif is_drawn:
            return None
        return super().execute(ctx)

    def on_load(self, ctx: Any) -> None:
        self._index(ctx)
        self._load(ctx)

    def on_change_dataset(self, ctx: Any) -> None:
        ctx.panel.state.clear()
        go_to(ctx, next(iter(TABS)))
        self._index(ctx)
        self._load(ctx)

    def on_change_group_slice(self, ctx: Any) -> None:
        """Other samples are shown, perhaps such that something can be done with."""
        self._load(ctx)

    def on_change_current_sample(self, ctx: Any) -> None:
        """A sample was opened or closed; ``execute`` has seen to its labels."""

    def on_tab(self, ctx: Any) -> None:
        """The person opens another tab, or the tabs are drawn for the first time."""
        name, value = tabs_name(ctx), ctx.params.get("value")
        if value in TABS and ctx.params.get("path", name) == name:  # not of tabs that are no longer there
            ctx.panel_state[name] = value  # for this answer alone: the browser knows it
        self._load(ctx)

    def on_kept(self, ctx: Any) -> None:
        """The App has the filters that are looked after; ``render`` asks for one more look."""

    def on_seen(self, ctx: Any) -> None:
        """A moment after that; ``execute`` has compared, and the timer is gone where the App still has them."""

    def on_drawn(self, ctx: Any) -> None:
        """What was drawn is of another tab than the one that is open."""
        self._load(ctx)

    def on_settled(self, ctx: Any) -> None:
        """A moment after labels came back; ``execute`` has looked at them again."""
        ctx.panel.state.settling = False

    def render(self, ctx: Any) -> types.Property:
        panel = types.Object()
        view, tab = types.TabsView(variant="fullWidth"), open_tab(ctx)
        for key, title in TABS.items():
            view.add_choice(key, label=title)
        panel.enum(tabs_name(ctx), list(TABS), view=view, default=tab, on_change=self.on_tab)
        if ctx.dataset is None:
            panel.md("Open a dataset first.", name="no_dataset")
        elif ctx.panel.state.trouble:
            panel.md(f"⚠ {as_markdown(ctx.panel.state.trouble, _LONGEST)}", name=f"{tab}_trouble")
        else:
            self.tabs[tab].render(ctx, panel)
        if look := next_look(ctx, str(ctx.params.get("__method__")), ctx.params.get("filters_found", Found.NOTHING)):
            # Under names of their own: a timer that is there already goes on as it is.
            panel.view(look, view=types.TimerView(interval=_LOOK_EVERY, on_interval=getattr(self, look)))
        if ctx.panel.state.settling:
            panel.view("settling", view=types.TimerView(timeout=_SETTLING, on_timeout=self.on_settled))
        drawn = _drawn(ctx)
        check = types.TimerView(timeout=_CHECK_AFTER, on_timeout=self.on_drawn, params={"drawn": drawn})
        panel.view(f"drawn_{drawn}", view=check)
        return types.Property(panel, view=types.GridView(orientation="vertical", gap=2, componentsProps=PANEL))

    def _index(self, ctx: Any) -> None:
        """What the tabs ask of tags takes no time from here on, and one look at all samples the first time.

        Not where that look is quick anyway: a page of FiftyOne's that asks for all indexes in the moment in which one
        comes to be shows an error in place of the dataset.
        """
        from fiftyone_ntt.dataset.fields import reference_fields
        from fiftyone_ntt.dataset.schema import index_tags

        if ctx.dataset is not None and len(ctx.dataset) >= LARGE:
            index_tags(ctx.dataset, reference_fields(ctx.dataset))

    def _load(self, ctx: Any) -> None:
        """Loads the open tab; where that cannot be, one sentence says why in its place."""
        ctx.panel.state.trouble = None
        if ctx.dataset is not None:
            try:
                self.tabs[open_tab(ctx)].load(ctx)
            except NttError as error:
                ctx.panel.state.trouble = for_app(error)


def open_tab(ctx: Any) -> str:
    """Key of the tab that is open, as the panel's tabs report it."""
    tab: str | None = ctx.panel.state.get(tabs_name(ctx))
    return tab if tab is not None and tab in TABS else next(iter(TABS))


def _drawn(ctx: Any) -> str:
    """What is drawn: which tab, of which tabs, and for which filters there is a timer."""
    return f"{tabs_name(ctx)}_{open_tab(ctx)}_{mark(ctx)}"
