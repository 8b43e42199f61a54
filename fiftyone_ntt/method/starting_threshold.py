"""Where a first look begins: score thresholds of each class, guessed from the references alone. Past the paper.

The published method never says "not in this image", so without a threshold every image is covered with weak labels.
Nothing is known of the images to label before they are labelled, but the references tell how much objects of one class
look like each other, and from that follows how much an object like them will look like their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.method.memory_bank import MemoryBank

Floats = NDArray[np.float64]

ALIKE = 0.35
"""How much two objects of one class look alike (cosine) where the references do not tell."""
PAIRS_OF_PRIOR = 3.0
"""So many pairs of references that is worth, for all classes together, and what all classes say for each of them."""
SUGGESTED, WRITTEN = 0.5, 0.2
"""Shares of the expected similarity: above the first a label is probably right, below the other hardly ever. A score is
lower than the similarity that it comes from: few masks are whole, clean and alone."""


@dataclass(frozen=True)
class StartingThresholds:
    """Score thresholds of each class before anybody has decided on a label.

    Attributes:
        written: K scores; labels at or below that of their class are not written, but stay in the candidate cache.
        suggested: K scores; labels above that of their class are probably right. Between both lies what is to be
            reviewed.
    """

    written: list[float]
    suggested: list[float]


def starting_thresholds(bank: MemoryBank) -> StartingThresholds:
    """The thresholds that a bank's references suggest.

    The same references always give the same numbers, on every machine: workers that share a run agree on them.

    Args:
        bank: a memory bank of K classes.

    Example:
        >>> bank = MemoryBank(("coin",), np.ones((1, 3)), [0], ("photo 1",))
        >>> starting_thresholds(bank).written
        [0.07]
    """
    expected = expected_similarity(bank)
    # Rounded: the last digits differ between processors, and runs compare their thresholds.
    written, suggested = ((share * expected).round(2).tolist() for share in (WRITTEN, SUGGESTED))
    return StartingThresholds(written, suggested)


def expected_similarity(bank: MemoryBank) -> Floats:
    """Cosine to expect between an object of each class and the prototype of that class: float64 ``[K]`` in 0..1."""
    vectors = bank.project(bank.vectors).astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # [M, C]
    shots = np.bincount(bank.class_index, minlength=len(bank.classes))
    sums = np.stack([unit[bank.class_index == k].sum(axis=0) for k in range(len(bank.classes))])  # [K, C]
    pairs = shots * (shots - 1) / 2
    # Of unit vectors: |sum|^2 = n + 2 * (sum of the cosines of all pairs).
    alike = ((sums**2).sum(axis=1) - shots) / 2  # [K]
    everywhere = (PAIRS_OF_PRIOR * ALIKE + alike.sum()) / (PAIRS_OF_PRIOR + pairs.sum())
    pair = ((PAIRS_OF_PRIOR * everywhere + alike) / (PAIRS_OF_PRIOR + pairs)).clip(0, 1)
    # Of n vectors with the cosine r between each two, a further one has r * sqrt(n / (1 + (n - 1) r)) to their mean.
    expected: Floats = pair * np.sqrt(shots / (1 + (shots - 1) * pair))
    return expected
