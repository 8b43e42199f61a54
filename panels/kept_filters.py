"""The filters that a tab wants in the App's sidebar, looked after until the App has them for good.

FiftyOne loads its page anew after every change of a panel's state, of the view and of the dataset. Filters that it gets
meanwhile are given up as soon as the page is there: it goes back to those of before, or to none. How long a page takes
is up to the machine, so no number of seconds is enough. What is wanted lies in the panel's state instead, every event
compares it with what the App says to have, and sends it again as long as these are older ones. A timer asks every
second; its events change nothing in the panel, which would have the page loaded once more. Two looks in a row have to
see what is wanted: what is in sight once may still be given up.

Until then all of the panel reads what is wanted in place of what is older, so no slider and no count jumps back.
Filters that are neither are the person's own: they win at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

_STATE = "kept_filters"


class Found(Enum):
    """What the App says to filter by: nothing that is looked after, what is wanted, or something older than that."""

    NOTHING, WANTED, OLDER = range(3)


@dataclass(frozen=True)
class _Kept:
    """What the App was asked for on a dataset, and the gist of all that it may go back to."""

    dataset: str
    wanted: dict[str, Any]
    older: list[str]


def keep(ctx: Any, filters: Mapping[str, Any]) -> None:
    """Looks after filters from now on; the App was asked for them in this event."""
    kept, reported = _kept(ctx), _gist(ctx.request_params.get("filters"))
    if kept is None and reported == _gist(filters):
        return
    earlier = [] if kept is None else [*kept.older, _gist(kept.wanted)]
    older = {*earlier, reported, _gist({})} - {_gist(filters)}
    now = _Kept(ctx.request_params["dataset_name"], dict(filters), sorted(older))
    # As text: FiftyOne would merge what a dictionary in the state holds with what it held before.
    ctx.panel.state.set(_STATE, json.dumps(asdict(now)))


def look_after(ctx: Any) -> Found:
    """Compares, and sends again what is missing; to be called at the beginning of every event of the panel."""
    kept = _kept(ctx)
    if kept is None:
        return Found.NOTHING
    reported = _gist(ctx.request_params.get("filters"))
    is_here = kept.dataset == ctx.request_params["dataset_name"]
    if is_here and reported == _gist(kept.wanted):
        return Found.WANTED
    if not is_here or reported not in kept.older:
        let_go(ctx)
        return Found.NOTHING
    if not ctx.current_sample:  # nobody sees the grid behind an open sample, and its editor is left in peace
        ctx.trigger("set_filters", kept.wanted)
    ctx.request_params["filters"] = kept.wanted
    return Found.OLDER


def are_kept(ctx: Any) -> bool:
    """Whether there are filters to look after."""
    return _kept(ctx) is not None


def let_go(ctx: Any) -> None:
    """The App has them for good, or the person has chosen others."""
    ctx.panel.state.set(_STATE, None)


def _kept(ctx: Any) -> _Kept | None:
    text = ctx.panel.state.get(_STATE)
    return _Kept(**json.loads(text)) if text else None


def _gist(filters: Mapping[str, Any] | None) -> str:
    """Tells filters apart by what they let through; the App adds to the rest."""
    gist = {path: [entry.get("range"), entry.get("values")] for path, entry in (filters or {}).items()}
    return json.dumps(gist, sort_keys=True)
