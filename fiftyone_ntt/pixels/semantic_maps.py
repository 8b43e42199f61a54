"""Semantic output: instances painted into one map of classes, and how well such maps agree.

The published script paints the surest instance first, so that the least certain one ends on top, and scores five of
twenty classes with background among them (docs/method.md 5). Here the surest is on top, 0 is background and nothing
else, and every class asked for counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOID = -1
"""Pixels of the ground truth that count neither way."""
_STRIP = 1 << 22
"""Pixels that are painted or compared at once: a map of 300 million pixels is never in memory as numbers."""


_NO_CLASSES = frozenset({
    "", "0", "background", "bg", "void", "none", "nothing", "null", "unlabeled", "unlabelled", "unknown", "undefined",
    "unclassified", "ignore", "ignored", "other", "others", "empty", "invalid", "nodata", "outofroi",
})  # fmt: skip
"""What data sets call the value 0 where it is that of no class, in small letters and without anything between them."""


def class_at_zero(names: Mapping[int, str]) -> str | None:
    """The name of value 0 where it seems to be that of a class, such as the road of Cityscapes' train ids."""
    name = names.get(0)
    if name is None or "".join(filter(str.isalnum, name.lower())) in _NO_CLASSES:
        return None
    return name


@dataclass(eq=False)
class Piece:
    """What one object contributes to a map; its mask is kept packed, a bit a pixel.

    Attributes:
        left: first column of its mask in the image.
        top: first row.
        mask: bool ``[h, w]``, wholly inside the image.
        value: value of its class, from 1; ``VOID`` for a region that counts neither way.
        rank: higher ranks lie on top; of equal ones the smaller object does.
        area: pixels of the mask.
    """

    left: int
    top: int
    mask: InitVar[NDArray[np.bool_]]
    value: int
    rank: tuple[float, ...]
    area: int = field(init=False)

    def __post_init__(self, mask: NDArray[np.bool_]) -> None:
        self._size, self.area = mask.shape, int(np.count_nonzero(mask))
        self._bits = np.packbits(mask, axis=1)

    def paint(self, strip: NDArray[np.integer[Any]], top: int) -> None:
        """Paints itself onto rows of the image, of which ``top`` is the first."""
        first, last = max(self.top, top), min(self.top + self._size[0], top + len(strip))
        if first < last:
            width = self._size[1]
            mask = np.unpackbits(self._bits[first - self.top : last - self.top], axis=1, count=width).view(bool)
            strip[first - top : last - top, self.left : self.left + width][mask] = self.value


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
    kind = map_dtype(classes)
    return np.concatenate([np.zeros((0, image_size[1]), kind), *strips(pieces, image_size, kind)])


def strips(pieces: Iterable[Piece], image_size: tuple[int, int], kind: type[np.integer[Any]]) -> Iterator[NDArray[Any]]:
    """The same map from top to bottom, some rows at a time, of a type that holds all values."""
    ordered = in_order(pieces)
    for top, bottom in rows_of(image_size):
        yield painted(ordered, top, bottom, image_size[1], kind)


def in_order(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces as they are to be painted: the last one lies on top."""
    return sorted(pieces, key=lambda piece: (*piece.rank, -piece.area))


def painted(ordered: Sequence[Piece], top: int, bottom: int, width: int, kind: type[np.integer[Any]]) -> NDArray[Any]:
    """The rows ``top`` to ``bottom`` (exclusive) of a map of pieces in order: ``[bottom - top, width]``."""
    strip = np.zeros((bottom - top, width), kind)
    for piece in ordered:
        piece.paint(strip, top)
    return strip


def rows_of(image_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First row and the one after the last, of each strip of an image ``(height, width)``."""
    height, width = image_size
    step = max(1, _STRIP // max(width, 1))
    for top in range(0, height, step):
        yield top, min(top + step, height)


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
