"""Published figures, of ``published.json``: which of them are of the same thing as one that was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

MEAN = "mean"
"""In place of a part: the mean over all parts."""
ALL_SHOTS = 0
"""In place of a number of shots: the mean over all that are published."""


@dataclass(frozen=True)
class Figure:
    """What is published.

    Attributes:
        value: in points.
        method: whose figure it is.
        source: where it stands.
    """

    value: float
    method: str
    source: str


@lru_cache(maxsize=1)
def _published() -> dict[str, list[dict[str, Any]]]:
    content: dict[str, list[dict[str, Any]]] = json.loads(
        Path(__file__).with_name("published.json").read_text(encoding="utf-8")
    )  # fmt: skip
    return content


def _tables(protocol: str, part: str, shots: int, scorer: str, metric: str, size: object) -> Iterator[dict[str, Any]]:
    """Tables with the figure, of whatever draw."""
    for table in _published().get(protocol, []):
        same = (table["scorer"], table["metric"], table["size"]) == (scorer, metric, size)
        if same and _shots(shots) in table["parts"].get(part, {}):
            yield table


def _shots(shots: int) -> str:
    return "all" if shots == ALL_SHOTS else str(shots)


def figures(
    protocol: str, part: str, shots: int, seed: int | None, scorer: str, metric: str, size: int | str = "image"
) -> list[Figure]:
    """What is published of the same part, shots, draw, scorer and size of masks; that to be reproduced comes first.

    Args:
        protocol, scorer, metric: names.
        part: of the protocol, or ``MEAN``.
        shots: references a class, or ``ALL_SHOTS``.
        seed: of the draw; plays no part where the references are fixed.
        size: side of semantic masks when compared, ``"image"`` for the image's own.
    """
    found = []
    for table in _tables(protocol, part, shots, scorer, metric, size):
        seeds = table["seeds"]
        place = 0 if seeds == [None] else seeds.index(seed) if seed in seeds else None
        if place is not None:
            value = table["parts"][part][_shots(shots)][place]
            found.append(Figure(float(value), table["method"], table["source"]))
    return found


def is_of_another_draw(
    protocol: str, part: str, shots: int, seed: int | None, scorer: str, metric: str, size: int | str = "image"
) -> bool:
    """Whether there are figures, but of other seeds only."""
    key = (protocol, part, shots)
    return bool(list(_tables(*key, scorer, metric, size))) and not figures(*key, seed, scorer, metric, size)


def has_figures(protocol: str, metric: str) -> bool:
    """Whether anything is published of a metric."""
    return any(table["metric"] == metric for table in _published().get(protocol, []))
