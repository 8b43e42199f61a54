"""Loops that numba compiles, and what there is where it cannot: nothing, and numpy does the same work."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])
OFF_VARIABLE = "FIFTYONE_NTT_NO_COMPILE"
"""Set to anything but nothing, no loop is compiled: numpy gives the same bits, slower."""
NUMBA_OFF_VARIABLE = "NUMBA_DISABLE_JIT"
"""numba's own: set to 1, it compiles nothing for anybody."""


@dataclass(frozen=True)
class Loops:
    """The compiled loops: ``bits`` over the pixels of masks, ``runs`` over their runs, ``rings`` along their edges."""

    bits: Any
    runs: Any
    rings: Any


_lock = threading.Lock()
_loaded: list[Loops | None] = []
_reasons: list[str] = ["they were not asked for"]


def loops() -> Loops | None:
    """The compiled loops; ``None`` where there is no numba, or it cannot keep what it compiled.

    The first call on a machine compiles them, which takes some ten seconds; later ones read them from numba's cache:
    beside these files, or where that cannot be written in the user's own cache folder, or in ``NUMBA_CACHE_DIR``.
    """
    if not _loaded:
        with _lock:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def why_none() -> str:
    """Why there are no compiled loops; empty where there are."""
    return "" if loops() is not None else _reasons[-1]


def _load() -> Loops | None:
    try:
        if os.environ.get(OFF_VARIABLE):
            raise ImportError(f"{OFF_VARIABLE} is set")
        if (of_numba := logging.getLogger("numba")).level == logging.NOTSET:
            of_numba.setLevel(logging.WARNING)  # of 150,000 lines that it logs for debugging while it compiles
        from numba import config

        if getattr(config, "DISABLE_JIT", 0):  # all of them would be plain Python, and take minutes
            raise ImportError(f"{NUMBA_OFF_VARIABLE} is set")
        from fiftyone_ntt.pixels import bit_loops, ring_loops, run_loops
    except Exception as error:  # numba may be missing, not fit this numpy, or find no folder for its cache
        _reasons.append(str(error))
        logger.info("masks are worked on by numpy, which takes several times longer than compiled loops: %s", error)
        return None
    return Loops(bit_loops, run_loops, ring_loops)


def compiled(signature: str) -> Callable[[Function], Function]:
    """Compiles a function when it is defined, or takes it from numba's cache; it runs beside other Python threads.

    Args:
        signature: as numba has it, shorter: ``i4[]`` is a contiguous array int32 of one dimension, ``f4[:]`` one of two
            and ``f4[::]`` one of three. Arrays are only read unless there is a ``!`` behind them.
    """
    from numba import njit

    kinds = [_numba_type(part.strip()) for part in re.findall(r"[a-z]+\d*(?:\[:*\]!?)?", signature)]
    # No fastmath: sums are rounded as numpy rounds them. numpy's division needs no check of its own.
    decorator = njit(kinds[0](*kinds[1:]), cache=True, nogil=True, error_model="numpy")
    return lambda function: decorator(function)


def _numba_type(name: str) -> Any:
    from numba import types

    kind, _, array = name.partition("[")
    scalar = getattr(types, {"b1": "boolean", "void": "void"}.get(kind, kind))
    if not array:
        return scalar
    return types.Array(scalar, array.count(":") + 1, "C", readonly=not name.endswith("!"), aligned=False)
