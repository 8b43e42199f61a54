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
