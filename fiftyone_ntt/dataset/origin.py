"""Who asks for a run, and through which door: known to the doors, kept with the run."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return "unknown"


@dataclass(frozen=True)
class Origin:
    """Where a call of a service comes from.

    Attributes:
        door: ``"sdk"``, ``"app"``, ``"cli"`` or ``"delegated"``.
        user: who it is.
        operation: id of the delegated operation.
        stopped: whether the caller's side has given the run up; asked now and then from another thread.
    """

    door: str = "sdk"
    user: str = field(default_factory=_user)
    operation: str | None = None
    stopped: Callable[[], bool] | None = None


_current: ContextVar[Origin | None] = ContextVar("ntt_origin", default=None)


def current_origin() -> Origin:
    """The origin of the call at hand: Python, unless a door says otherwise."""
    return _current.get() or Origin()


@contextmanager
def through(origin: Origin) -> Iterator[None]:
    """Calls inside come from ``origin``."""
    token = _current.set(origin)
    try:
        yield
    finally:
        _current.reset(token)
