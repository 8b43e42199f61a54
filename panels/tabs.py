"""What the tabs of the panel share: one protocol, handlers that FiftyOne can name, tables and plots that fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_ntt.dataset.storage import view_documents
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.operators.base import show_in_grid, show_samples
from fiftyone_ntt.panels.kept_filters import keep
from fiftyone_ntt.params.wording import for_app

if TYPE_CHECKING:
    from fiftyone.core.collections import SampleCollection

    from fiftyone_ntt.review.ranking import Grid

PLUGIN = "@fiftyone-ntt/ntt"
Handle = Callable[[Any], object]
"""Answers an event; gets FiftyOne's context."""
Button = tuple[str, str, str, str | None]
"""Event, label, icon, and variant (``"contained"``, ``"outlined"`` or none)."""
PANEL = {
    "container": {"sx": {"px": 2, "pb": 4, "boxSizing": "border-box"}},
    "grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}},  # nothing is wider than the panel
}
"""For the view that holds all of a panel."""
# FiftyOne's tables are at least 650 pixels wide otherwise.
_NARROW = {"table": {"sx": {"minWidth": 0, "& .MuiTableCell-root": {"px": 0.5, "fontSize": "0.8rem"}}}}


def tabs_name(ctx: Any) -> str:
    """The name of the tabs in the panel, and of what they report in its state."""
    return f"tab_{ctx.panel.state.tabs or 'first'}"


def go_to(ctx: Any, key: str) -> None:
    """Opens a tab for the person: with tabs of a new name, since those that are there only listen to clicks."""
    ctx.panel.state.tabs = uuid4().hex[:8]
    ctx.panel.state.set(tabs_name(ctx), key)


class Handler:
    """A handler as FiftyOne wants it: a callable goes to the App as the address of ``__self__`` and its ``__name__``.

    Args:
        panel: the panel, on which FiftyOne looks the name up when the event comes.
        name: the name there.
        handle: what answers the event.
    """

    def __init__(self, panel: foo.Panel, name: str, handle: Handle) -> None:
        self.__self__, self.__name__ = panel, name
        self._handle = handle

    def __call__(self, ctx: Any) -> None:
        try:
            self._handle(ctx)
        except NttError as error:  # the sentence, not a panel that failed
            ctx.ops.notify(for_app(error), variant="warning")


class Tab:
    """A tab of the panel. A subclass loads what it shows, renders it, and lists what answers its events.

    Args:
        panel: the panel that it belongs to.

    Attributes:
        KEY: begins the names of its state and of its handlers.
        TITLE: what it is called.
        panel: that panel; its ``tabs`` are all of them by key.
        handlers: event -> its handler, ``on_<KEY>_<event>`` on the panel.
    """

    KEY: ClassVar[str]
    TITLE: ClassVar[str]

    def __init__(self, panel: foo.Panel) -> None:
        self.panel = panel
        self.handlers = {
            event: Handler(panel, f"on_{self.KEY}_{event}", handle) for event, handle in self.events().items()
        }

    def load(self, ctx: Any) -> None:
        """Puts what the tab shows into the panel's state and data: when it is opened, and after changes."""
        raise NotImplementedError

    def render(self, ctx: Any, panel: types.Object) -> None:
        """Adds the tab's content to the panel, from its state alone."""
        raise NotImplementedError

    def events(self) -> dict[str, Handle]:
        """The events of the tab, and what answers each."""
        raise NotImplementedError

    def on(self, event: str) -> Handler:
        """The handler of an event, for ``on_click`` and the like."""
        return self.handlers[event]

    def prompt(
        self,
        ctx: Any,
        operator: str,
        params: Mapping[str, Any] | None = None,
        *,
        then: str | Handler | None = None,
        at_once: bool = False,
    ) -> None:
        """Opens the form of an operator.

        Args:
            ctx: FiftyOne's context.
            operator: its name.
            params: what the form begins with.
            then: event of this tab, or handler of another, when the operator is through.
            at_once: runs it without showing the form.
        """
        on_success = self.on(then) if isinstance(then, str) else then
        ctx.prompt(f"{PLUGIN}/{operator}", params=params, on_success=on_success, skip_prompt=at_once)

    def add_buttons(self, row: types.Object, buttons: Iterable[Button], **options: Any) -> None:
        """Adds buttons to a row of the panel.

        Args:
            row: what to add them to.
            buttons: the buttons.
            **options: of all of them, those of ``Object.btn``.
        """
        for event, label, icon, variant in buttons:
            style = {} if variant is None else {"variant": variant}
            row.btn(f"{self.KEY}_{event}", label, icon=icon, on_click=self.on(event), **style, **options)


def show_grid(ctx: Any, grid: Grid) -> None:
    """``show_in_grid`` from a tab: the panel looks after the filters until the App has them."""
    show_in_grid(ctx, grid)
    keep(ctx, grid.filters)  # compares with what the App said to have
    # What this event still counts, it counts in the grid that was just asked for.
    ctx.request_params.update(filters=grid.filters, view=view_documents(grid.view()), view_name=None)


def show_images(ctx: Any, view: SampleCollection) -> None:
    """``show_samples`` from a tab: the panel sees to it that the review's filters are gone."""
    keep(ctx, show_samples(ctx, view))


def choice(values: Iterable[str], **options: Any) -> types.DropdownView:
    """A dropdown of values that are their own labels.

    Args:
        values: the values.
        **options: those of ``DropdownView``.
    """
    view = types.DropdownView(**options)
    for value in values:
        view.add_choice(value, label=value)
    return view


def table(columns: Mapping[str, str], **options: Any) -> types.TableView:
    """A table as narrow as its content.

    Args:
        columns: key in the rows -> heading.
        **options: those of ``TableView``.
    """
    view = types.TableView(componentsProps=_NARROW, **options)
    for key, label in columns.items():
        view.add_column(key, label=label)
    return view


def add_plot(panel: types.Object, name: str, height: int, layout: Mapping[str, Any], **options: Any) -> None:
    """Adds a plot of a fixed height; FiftyOne gives it that of the panel otherwise.

    Args:
        panel: what to add it to.
        name: name of the property; its data are set under it.
        height: in pixels.
        layout: of Plotly.
        **options: those of ``PlotlyView``.
    """
    size = {"height": f"{height}px", "width": "100%"}
    panel.plot(
        name,
        layout={"height": height, "autosize": True, **layout},
        config={"displayModeBar": False},
        height=height,
        componentsProps={"item": {"sx": size}, "container": {"style": size}, "plotly": {"style": size}},
        **options,
    )
