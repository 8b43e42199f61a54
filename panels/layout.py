"""How tables and plots fit into a panel that is half a window wide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fiftyone.operators import types

PANEL = {
    "container": {"sx": {"px": 2, "pb": 4, "boxSizing": "border-box"}},
    "grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}},  # nothing is wider than the panel
}
"""For the view that holds all of a panel."""
# FiftyOne's tables are at least 650 pixels wide otherwise.
_NARROW = {"table": {"sx": {"minWidth": 0, "& .MuiTableCell-root": {"px": 1}}}}


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
