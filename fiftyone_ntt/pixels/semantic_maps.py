"""Semantic output: instances painted into one map of classes, and how well such maps agree.

The published script paints the surest instance first, so that the least certain one ends on top, and scores five of
twenty classes with background among them (docs/method.md 5). Here the surest is on top, 0 is background and nothing
else, and every class asked for counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOID = -1
"""Pixels of the ground truth that count neither way."""


@dataclass(frozen=True, eq=False)
class Piece:
    """What one object contributes to a map.

    Attributes:
        left: first column of its mask in the image.
        top: first row.
        mask: bool ``[h, w]``, wholly inside the image.
        value: value of its class, from 1.
        rank: higher ranks lie on top; of equal ones the smaller object does.
    """

    left: int
    top: int
    mask: NDArray[np.bool_]
    value: int
    rank: tuple[float, ...]


def map_dtype(classes: int) -> type[np.unsignedinteger[Any]]:
    """The smallest type that holds background and so many classes."""
    return np.uint8 if classes <= 255 else np.uint16 if classes <= 65535 else np.uint32


def paint(pieces: Iterable[Piece], image_size: tuple[int, int], classes: int) -> NDArray[np.unsignedinteger[Any]]:
    """A map of classes.

    Args:
        pieces: what to paint.
        image_size: ``(height, width)`` in pixels.
        classes: how many classes there are; decides the dtype.

    Returns:
        uint8 (uint16 above 255 classes) ``[H, W]``; 0 is background.
    """
    painted = np.zeros(image_size, map_dtype(classes))
    for piece in sorted(pieces, key=lambda piece: (*piece.rank, -int(piece.mask.sum()))):
        height, width = piece.mask.shape
        painted[piece.top : piece.top + height, piece.left : piece.left + width][piece.mask] = piece.value
    return painted


def confusion(truth: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int) -> NDArray[np.int64]:
    """How many pixels of each true class were taken for which.

    Args:
        truth: integers ``[H, W]`` in 0..K, or ``VOID``.
        predicted: integers ``[H, W]`` in 0..K.
        classes: K.

    Returns:
        int64 ``[K + 1, K + 1]``, rows true, columns predicted; 0 is background. Void pixels are in none.
    """
    sides = classes + 1
    counted = truth != VOID
    pairs = truth[counted].astype(np.int64) * sides + predicted[counted]
    return np.bincount(pairs, minlength=sides * sides).reshape(sides, sides)


@dataclass(frozen=True)
class SemanticScores:
    """Intersection over union of semantic segmentation masks, of the pixels of all images together. Fractions in 0..1.

    Attributes:
        miou: mean over the classes that are in the ground truth or were predicted; ``None`` where none is.
        miou_with_background: the same with background as one class more.
        background: IoU of background; ``None`` where there is none.
        per_class: class -> IoU; ``None`` for a class without a pixel in ground truth and maps.
        nowhere: classes without a pixel: in no mean, neither as 0 nor as 1.
        pixels: pixels compared.
    """

    miou: float | None
    miou_with_background: float | None
    background: float | None
    per_class: dict[str, float | None]
    nowhere: tuple[str, ...]
    pixels: int

    @classmethod
    def of(cls, counts: NDArray[np.int64], classes: Sequence[str]) -> SemanticScores:
        """Scores of a confusion matrix ``[K + 1, K + 1]`` for K classes."""
        shared = np.diag(counts)
        union = counts.sum(axis=0) + counts.sum(axis=1) - shared
        each = [float(a / b) if b else None for a, b in zip(shared.tolist(), union.tolist(), strict=True)]
        per_class = dict(zip(classes, each[1:], strict=True))
        nowhere = tuple(name for name, iou in per_class.items() if iou is None)
        return cls(_mean(each[1:]), _mean(each), each[0], per_class, nowhere, int(counts.sum()))


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
