"""Names of the presets, known here without loading any model code; forms and commands offer them."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

logger = logging.getLogger(__name__)

BUILT_IN = ("lite", "tiny", "base", "large", "paper", "edge", "hq", "sam3", "dinov3", "radio", "tips")
"""Presets of this package."""
GROUP = "fiftyone_ntt.presets"
"""Group of entry points by which other packages offer presets: the preset's name = "module:object"."""

_registered: dict[str, None] = {}


def preset_names() -> tuple[str, ...]:
    """Every preset there is: of this package, of other packages, and registered in this process."""
    return tuple(dict.fromkeys((*BUILT_IN, *offered(), *_registered)))


def remember(name: str) -> None:
    """Adds the name of a preset that was registered in this process."""
    _registered[name] = None


@lru_cache(maxsize=1)
def offered() -> dict[str, EntryPoint]:
    """Presets of installed packages by name; nothing is imported. One of a name of this package's is not offered.

    Of two of one name the first counts, as the first of two modules does for Python.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN:
            continue
        first = points.setdefault(point.name, point)
        if first.value != point.value:
            logger.warning(
                "two packages offer a preset %s: %s is taken, %s is not; remove one, or have its author rename it",
                point.name,
                first.value,
                point.value,
            )
    return points
