"""Items of the stream that go through the models in parts, and become one again before they are finished."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.candidates.compact import CompactImage


@runtime_checkable
class Parted(Protocol):
    """An item that goes through the models in parts."""

    def contents(self) -> Iterable[NDArray[np.uint8] | CompactImage]:
        """Each part in turn, as an item of one part is loaded; called in a reader's thread."""
        ...

    def add(self, number: int, content: CompactImage) -> Any | None:
        """Takes what was found in a part; returns what ``finish`` is to be called with once it is the last."""
        ...


class ItemInParts:
    """What is known of all parts of an item together."""

    def __init__(self, item: Parted) -> None:
        self.item = item
        self._lock = threading.Lock()
        self._failed, self._seconds, self._from_index = False, 0.0, True

    @property
    def failed(self) -> bool:
        """Whether one of its parts has failed: the rest is of no use."""
        return self._failed

    def fail(self) -> bool:
        """Whether this is the first of its parts that fails: an item fails once."""
        with self._lock:
            first, self._failed = not self._failed, True
        return first

    def add(self, number: int, content: CompactImage, seconds: float, from_index: bool) -> tuple[Any, float, bool]:
        """Takes a part; the item's content once it is the last, all seconds, and whether no model ran for it."""
        with self._lock:
            self._seconds += seconds
            self._from_index &= from_index
            failed, facts = self._failed, (self._seconds, self._from_index)
        return (None if failed else self.item.add(number, content)), *facts


@dataclass(frozen=True, eq=False)
class Part:
    """Which part of an item this is."""

    whole: ItemInParts
    number: int
