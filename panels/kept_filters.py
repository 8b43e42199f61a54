"""The filters that a tab wants in the App's sidebar, looked after until the App has them for good.

FiftyOne loads its page anew after every change of a panel's state, of the view and of the dataset. Filters that it gets
meanwhile are given up as soon as the page is there: it goes back to those of before, or to none. How long a page takes
is up to the machine, so no number of seconds is enough. What is wanted lies in the panel's state instead, every event
compares it with what the App says to have, and sends it again as long as these are older ones. A timer asks every
second; its events change nothing in the panel, which would have the page loaded once more. Two looks in a row have to
see what is wanted: what is in sight once may still be given up.

Until then all of the panel reads what is wanted in place of what is older, so no slider and no count jumps back.
Filters that are neither are the person's own: they win at once.

Events and answers overtake each other. So what is looked after has a number, and only that number is let go; and what
was sent lately is remembered here as well, since an event may know the panel as it was before that.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

_STATE, _DONE = "kept_filters", "kept_filters_done"
_sent: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=20))
"""Name of a dataset -> the gist of what this server sent lately."""


class Found(Enum):
    """What the App says to filter by: nothing that is looked after, what is wanted, or something older than that."""

    NOTHING = 0
    WANTED = 1
    OLDER = 2


@dataclass(frozen=True)
class _Kept:
    """What the App was asked for on a dataset, and the gist of all that it may go back to."""

    number: str
    dataset: str
    wanted: dict[str, Any]
    older: list[str]


def keep(ctx: Any, filters: Mapping[str, Any]) -> None:
    """Looks after filters from now on; the App was asked for them in this event."""
    kept, reported, wanted = _kept(ctx), _gist(ctx.request_params.get("filters")), _gist(filters)
    dataset = str(ctx.request_params["dataset_name"])
    if kept is None and reported == wanted == next(reversed(_sent[dataset]), wanted):
        return
    _sent[dataset].append(wanted)
    earlier = [] if kept is None else [*kept.older, _gist(kept.wanted)]
    now = _Kept(uuid4().hex[:8], dataset, dict(filters), sorted({*earlier, reported, _gist({})}))
    # As text: FiftyOne would merge what a dictionary in the state holds with what it held before.
    ctx.panel.state.set(_STATE, json.dumps(asdict(now)))


def look_after(ctx: Any) -> Found:
    """Compares, and sends again what is missing; to be called at the beginning of every event of the panel."""
    kept = _kept(ctx)
    if kept is None:
        return Found.NOTHING
    reported, is_here = _gist(ctx.request_params.get("filters")), kept.dataset == ctx.request_params["dataset_name"]
    if is_here and reported == _gist(kept.wanted):
        return Found.WANTED
    if not is_here or reported not in {*kept.older, *_sent[kept.dataset]}:
        let_go(ctx)
        return Found.NOTHING
    if not ctx.current_sample:  # nobody sees the grid behind an open sample, and its editor is left in peace
        ctx.trigger("set_filters", kept.wanted)
    ctx.request_params["filters"] = kept.wanted
    return Found.OLDER


def number_of_kept(ctx: Any) -> str:
    """The number of what is looked after; empty where nothing is."""
    kept = _kept(ctx)
    return "" if kept is None else kept.number


def let_go(ctx: Any) -> None:
    """The App has them for good, or the person has chosen others."""
    ctx.panel.state.set(_DONE, number_of_kept(ctx))


def _kept(ctx: Any) -> _Kept | None:
    text = ctx.panel.state.get(_STATE)
    kept = _Kept(**json.loads(text)) if text else None
    return None if kept is None or kept.number == ctx.panel.state.get(_DONE) else kept


def _gist(filters: Mapping[str, Any] | None) -> str:
    """Tells filters apart by what they let through; the App adds to the rest, and writes 1.0 as 1."""
    entries = (filters or {}).items()
    gist = {path: [_as_sent(entry.get(key)) for key in ("range", "values")] for path, entry in entries}
    return json.dumps(gist, sort_keys=True)


def _as_sent(numbers: Any) -> Any:
    return [float(one) if type(one) is int else one for one in numbers] if isinstance(numbers, list) else numbers
