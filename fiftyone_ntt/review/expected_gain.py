"""Which images promise to teach most: from the scores of their labels, and vectors of what they look like. Arrays only.

Learning gains most from objects of classes of which little is known, and from images unlike each other. So an image
counts by the objects to expect in it, each class with diminishing returns: one more of a class with a single reference
is worth much, one more of a class with fifty hardly anything. ``docs/experiments/head.md`` has the figures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Look = Callable[[int], "NDArray[np.floating] | None"]

BATCH = 10
"""Of so many images in a row no two are near-duplicates, as long as there are others."""
ALIKE = 0.9
"""Images whose looks have a cosine above this are near-duplicates: of photographs of everyday scenes, the nearest
reaches 0.6, of photographs of one kind of surface, 0.87."""
UNSURE = 0.5
"""What a label that may as well be wrong counts besides; a decision on it teaches either way."""
MOST_LOOKS = 1000
"""Images that are looked at in one choice; each is a file of the candidate cache."""


def expected_objects(
    image: NDArray[np.integer], kind: NDArray[np.integer], score: Floats, threshold: Floats, shape: tuple[int, int]
) -> Floats:
    """What a review of each image is expected to tell of each class.

    Args:
        image: int ``[L]``, the image of each label.
        kind: int ``[L]``, its class.
        score: float64 ``[L]``; NaN says nothing.
        threshold: float64 ``[K]``, above which labels of each class are probably right.
        shape: I images, K classes.

    Returns:
        float64 ``[I, K]``: objects, and a bit more where it is unsure whether there are any.
    """
    square = np.nan_to_num(score).clip(0) ** 2
    # One half at the threshold; at twice the threshold, the score that an object usually gets, four of five.
    chance = square / np.maximum(square + threshold[kind] ** 2, 1e-12)
    expected = np.zeros(shape)
    np.add.at(expected, (image, kind), chance + UNSURE * 4 * chance * (1 - chance))
    return expected


def most_telling(expected: Floats, known: Floats, count: int, look: Look) -> list[int]:
    """The images to review next, the most telling first; ties go to the first.

    Greedy: always the image with the highest gain in the sum over the classes of ``log(1 + what is known)``, times how
    much unlike the images chosen before it looks.

    Args:
        expected: float64 ``[I, K]`` of ``expected_objects``.
        known: float64 ``[K]``, references and decided objects of each class.
        count: how many images.
        look: what an image looks like, float ``[C]`` of length 1; ``None`` where that is not known. Only asked for
            images that may be chosen.

    Returns:
        At most ``count`` indices.
    """
    choice = _Choice(expected, known, look)
    while len(choice.chosen) < min(count, len(expected)):
        choice.take(choice.best())
    return choice.chosen


class _Choice:
    """What was chosen so far, and what the others are worth beside it."""

    def __init__(self, expected: Floats, known: Floats, look: Look) -> None:
        self.chosen: list[int] = []
        self._expected, self._known, self._look = expected, np.asarray(known, np.float64).copy(), look
        self._gains = self._gains_of(slice(None))  # [I, K]
        self._gain = self._gains.sum(axis=1)
        self._free = np.ones(len(expected), bool)
        # Of images that were looked at: their looks, the highest cosine to a chosen one, and to one of the same batch.
        self._seen: dict[int, NDArray[np.floating] | None] = {}
        self._near, self._near_batch = np.zeros(len(expected)), np.zeros(len(expected))

    def best(self) -> int:
        """The next image: from the highest gain on they are looked at, until none of the others can be worth more."""
        if len(self.chosen) % BATCH == 0:
            self._near_batch[:] = 0
        while True:
            apart = self._free & (self._near_batch <= ALIKE)
            # Where nothing but near-duplicates is left, it is their turn.
            worth = np.where(apart if apart.any() else self._free, self._gain * (1 - self._near), -1.0)
            first = int(worth.argmax())
            if first in self._seen or len(self._seen) >= MOST_LOOKS:
                return first
            self._seen[first] = self._look(first)
            of_batch = len(self.chosen) % BATCH
            cosines = self._cosines(first, self.chosen)
            self._near[first] = cosines.max(initial=0)
            self._near_batch[first] = cosines[len(cosines) - of_batch :].max(initial=0)

    def take(self, index: int) -> None:
        """Chooses an image: its classes are better known now, and what looks like it is worth less."""
        self.chosen.append(index)
        self._free[index] = False
        changed = np.flatnonzero(self._expected[index] > 0)
        self._known[changed] += self._expected[index, changed]
        before = self._gains[:, changed].copy()
        self._gains[:, changed] = self._gains_of(changed)
        self._gain += (self._gains[:, changed] - before).sum(axis=1)
        others = list(self._seen)
        cosines = self._cosines(index, others)
        for near in (self._near, self._near_batch):
            near[others] = np.maximum(near[others], cosines)

    def _cosines(self, index: int, others: list[int]) -> Floats:
        """Cosine of an image to others, in 0..1; 0 where one of both was not looked at."""
        own, cosines = self._seen.get(index), np.zeros(len(others))
        there = [place for place, other in enumerate(others) if self._seen.get(other) is not None]
        if own is not None and there:
            looks = np.stack([np.asarray(self._seen[others[place]]) for place in there])
            cosines[there] = (looks @ own).clip(0, 1)
        return cosines

    def _gains_of(self, classes: slice | NDArray[np.int64]) -> Floats:
        known = self._known[classes]
        return np.asarray(np.log1p(known + self._expected[:, classes]) - np.log1p(known), np.float64)
