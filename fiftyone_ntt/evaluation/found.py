"""What became of predictions, and precision and recall of those above a threshold. Pure: nothing of FiftyOne."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the predictions of one class at IoU 0.5, as COCO pairs them with objects.

    Attributes:
        scores: float64 ``[n]``, of all predictions that count: those on crowd regions do not.
        right: bool ``[n]``, whether each is paired with an object.
        objects: annotated objects, crowd regions aside.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    objects: int

    def above(self, threshold: float) -> Found:
        """What is found by the predictions with a score above a threshold.

        COCO pairs the best first, so those above a threshold are paired alike without the others.
        """
        chosen = self.right[self.scores > threshold]
        return Found(int(chosen.sum()), len(chosen), self.objects)


@dataclass(frozen=True)
class Found:
    """How many predictions are right, and how many objects there are.

    Attributes:
        right: predictions that are paired with an object.
        labels: predictions.
        objects: annotated objects.
    """

    right: int
    labels: int
    objects: int

    @property
    def precision(self) -> float | None:
        """Share of the predictions that are right; ``None`` without any."""
        return self.right / self.labels if self.labels else None

    @property
    def recall(self) -> float | None:
        """Share of the objects that are found; ``None`` without any."""
        return self.right / self.objects if self.objects else None


def threshold_of_best_f1(present: NDArray[np.bool_], score: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The best F1 over all thresholds ``score > t``, and a ``t`` that gives it."""
    if not present.any():
        return None, None
    order = np.argsort(-score, kind="stable")
    ranked, right = score[order], np.cumsum(present[order])
    f1 = 2 * right / (int(present.sum()) + np.arange(1, len(order) + 1))
    # A threshold cannot part equal scores, and cannot claim what no prediction speaks for.
    usable = np.append(ranked[:-1] > ranked[1:], True) & np.isfinite(ranked)
    if not usable.any() or f1[usable].max() <= 0:
        return 0.0, None
    best = int(np.flatnonzero(usable)[f1[usable].argmax()])
    follows = ranked[best + 1] if best + 1 < len(ranked) else -np.inf
    return float(f1[best]), float(follows if np.isfinite(follows) else np.nextafter(ranked[best], -np.inf))
