"""The filters that a tab wants in the App's sidebar, looked after as long as the person wants them.

FiftyOne loads its page anew after every change of a panel's state, of the view and of the dataset, and then may give
filters up: it goes back to those of before, or to none. When a page is there is up to the machine, so no number of
seconds is enough. What is wanted lies in the panel's state instead. Every event compares it with what the App says to
have, and sends it again where these are older ones. A timer asks every second after each answer that may have changed
something; its own events change nothing, which would have the page loaded once more. When two looks in a row have seen
what is wanted, the App is at rest: no page is being loaded. What goes then was taken away by the person, and so was
what is neither wanted nor older.

Until then all of the panel reads what is wanted in place of what is older, so no slider and no count jumps back.

Events and answers overtake each other. So what is looked after has a number, and only that number is let go; and what
was sent lately, and what is at rest, is remembered here, since an event may know the panel as it was before that.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

_STATE, _DONE = "kept_filters", "kept_filters_done"
LOOK, LOOK_AGAIN = "on_kept", "on_seen"
"""Events of the timer: until the App has the filters, and once more after that."""
_sent: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=20))
"""Name of a dataset -> the gist of what this server sent lately."""
_at_rest: deque[str] = deque(maxlen=1000)
"""Numbers of what two looks in a row have seen, with nothing after them that could have changed something."""


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
    _sent[dataset].append(wanted)
    earlier = [] if kept is None or kept.number in _at_rest else [*kept.older, _gist(kept.wanted)]
    now = _Kept(uuid4().hex[:8], dataset, dict(filters), sorted({*earlier, reported, _gist({})}))
    # As text: FiftyOne would merge what a dictionary in the state holds with what it held before.
    ctx.panel.state.set(_STATE, json.dumps(asdict(now)))


def look_after(ctx: Any, event: str, *, quiet: bool = False) -> Found:
    """Compares, and sends again what is missing; to be called at the beginning of every event of the panel.

    Args:
        ctx: FiftyOne's context.
        event: name of the event.
        quiet: whether its answer changes nothing.
    """
    kept = _kept(ctx)
    # What goes while a form or a sample is open was not taken away in the sidebar.
    if "original_params" in ctx.params or event == "on_change_current_sample":
        _at_rest.clear()
    if kept is None:
        return Found.NOTHING
    reported, is_here = _gist(ctx.request_params.get("filters")), kept.dataset == ctx.request_params["dataset_name"]
    rests = kept.number in _at_rest
    if is_here and reported == _gist(kept.wanted):
        _note_rest(kept.number, event == LOOK_AGAIN or (rests and quiet))
        return Found.WANTED
    _note_rest(kept.number, False)
    if rests or not is_here or reported not in {*kept.older, *_sent[kept.dataset]}:
        ctx.panel.state.set(_DONE, kept.number)  # the person has chosen others
        return Found.NOTHING
    if not ctx.current_sample:  # nobody sees the grid behind an open sample, and its editor is left in peace
        ctx.trigger("set_filters", kept.wanted)
    ctx.request_params["filters"] = kept.wanted
    return Found.OLDER


def next_look(ctx: Any, event: str, found: Found) -> str:
    """The event of the timer that is to be drawn; empty where none is needed."""
    kept = _kept(ctx)
    if kept is None or kept.number in _at_rest:
        return ""
    return LOOK_AGAIN if event == LOOK and found is Found.WANTED else LOOK


def mark(ctx: Any) -> str:
    """Tells drawings apart by whether they need a timer for these filters."""
    kept = _kept(ctx)
    return "" if kept is None else kept.number + "_rests" * (kept.number in _at_rest)


def _note_rest(number: str, rests: bool) -> None:
    with suppress(ValueError):  # another event may have been quicker
        _at_rest.remove(number)
    if rests:
        _at_rest.append(number)


def _kept(ctx: Any) -> _Kept | None:
    text = ctx.panel.state.get(_STATE)
    kept = _Kept(**json.loads(text)) if text else None
    return None if kept is None or kept.number == ctx.panel.state.get(_DONE) else kept


def _gist(filters: Mapping[str, Any] | None) -> str:
    """Tells filters apart by what they let through; the App adds to the rest, and writes 1.0 as 1."""
    entries = (filters or {}).items()
    gist = {path: [_as_sent((entry or {}).get(key)) for key in ("range", "values")] for path, entry in entries}
    return json.dumps(gist, sort_keys=True)


def _as_sent(numbers: Any) -> Any:
    return [float(one) if type(one) is int else one for one in numbers] if isinstance(numbers, list) else numbers
