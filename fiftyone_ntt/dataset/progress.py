"""How far a call from Python is: FiftyOne's own progress bar, where somebody is there to see it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import fiftyone as fo
import fiftyone.core.context as foc
import fiftyone.core.utils as fou

from fiftyone_ntt.errors import as_text

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# A service that another one calls, or that an operator calls, shows nothing by itself.
_silent: ContextVar[bool] = ContextVar("ntt_no_bar", default=False)


def with_bar(service: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A service whose argument ``progress`` may be left out, or say whether a bar is shown.

    ``None`` shows one in a notebook and in a terminal, unless ``fo.config.show_progress_bars`` is off; ``True`` shows
    one in any case, ``False`` none; a callback gets it all, and no bar is shown. The service gets a callback or
    ``None``.
    """

    @functools.wraps(service)
    def shown(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        asked = kwargs.get("progress")
        wanted = is_seen() and not _silent.get() if asked is None else asked is True
        with without_bar(), _bar() as tell:
            if asked is None or isinstance(asked, bool):
                kwargs["progress"] = tell if wanted else None
            return service(*args, **kwargs)

    return shown


@contextmanager
def without_bar() -> Iterator[None]:
    """Services that are called inside show no bar unless they are told to."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def is_seen() -> bool:
    """Whether a person looks at what this process prints: a notebook, or a terminal; never FiftyOne's server."""
    if not fo.config.show_progress_bars or "FIFTYONE_SERVER" in os.environ:
        return False
    return bool(foc.is_notebook_context()) or (sys.stdout is not None and sys.stdout.isatty())


class _Bars:
    """One bar after the other: what is counted changes, from references to images, say."""

    def __init__(self) -> None:
        self._bar: fou.ProgressBar | None = None
        self._total, self._done, self._ended = 0, 0, False

    def tell(self, done: int, total: int, message: str) -> None:
        """Draws how far it is; nothing once the service has returned, whatever of it goes on."""
        if self._ended or not total:
            return
        if self._bar is None or total != self._total or done < self._done:
            self._close()
            self._bar, self._total = fou.ProgressBar(total=total, progress=True, show_iter_rate=False), total
            self._bar.start()
        self._done = done
        self._bar.set_iteration(done, suffix=as_text(message))  # one line, whatever a stranger called a file

    def end(self) -> None:
        """Leaves the last state in sight."""
        self._close()
        self._ended = True

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None]]:
    bars = _Bars()
    try:
        yield bars.tell
    finally:
        bars.end()
