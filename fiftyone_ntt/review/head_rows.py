"""What decisions say of candidates: the rows that a head is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.method.results import StageOneResult
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame
from fiftyone_ntt.pixels.mask_codes import Runs
from fiftyone_ntt.pixels.packed_masks import PackedMask, intersection_over_union

SAME, OTHER = 0.5, 0.3
"""IoU with a label from which on a candidate is the same object, and below which it is another; between it is none."""
NONE = -1
"""Stands for "none of the classes"."""
MOST_OF_NONE = 40
"""Candidates of an image that are taken for "none": those that the person rejected, then those most like a class."""


class FullMasks(Sequence[NDArray[np.bool_]]):
    """Masks at image size, of which only one is in memory at a time.

    Args:
        masks: of an image.
        size: ``(height, width)`` of the image.
    """

    def __init__(self, masks: Sequence[PackedMask], size: tuple[int, int]) -> None:
        self._masks, self._size = masks, size

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: Any) -> Any:
        return self._masks[index].full(self._size)


@dataclass(frozen=True, eq=False)
class Decided:
    """What a person said of one image.

    Attributes:
        masks: bool ``[L, H, W]``, masks of the labels at image size.
        classes: int64 ``[L]``, what each of them is; ``NONE`` for one that was rejected.
        ignored: bool ``[L]``, labels that say nothing of what is under them, e.g. a crowd.
        done: whether the image was gone through: what nobody accepted is not wanted then.
    """

    masks: Sequence[NDArray[np.bool_]]
    classes: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    done: bool


@dataclass(frozen=True, eq=False)
class Rows:
    """n candidates of which decisions tell what they are.

    Attributes:
        vectors: float32 ``[n, C]``, not normalised.
        classes: int64 ``[n]``; ``NONE`` for none of the classes.
        counts: float32 ``[n]``, what each counts: the candidates of one object together count as one.
        images: int64 ``[n]``, which image each is from.
    """

    vectors: NDArray[np.float32]
    classes: NDArray[np.int64]
    counts: NDArray[np.float32]
    images: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    def of_image(self, image: int) -> Rows:
        """The same, as those of an image of this number."""
        return replace(self, images=np.full(len(self), image))

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Rows:
        """Some of them."""
        return Rows(self.vectors[rows], self.classes[rows], self.counts[rows], self.images[rows])

    def halved(self) -> Rows:
        """Every second of them, each for two; one stays one."""
        if len(self) < 2:
            return self
        half = self.select(np.arange(0, len(self), 2))
        return replace(half, counts=half.counts * (self.counts.sum() / half.counts.sum()))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Those of several images; there must be one at least."""
        names = ("vectors", "classes", "counts", "images")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def rows_of(content: StageOneResult, decided: Decided, prototypes: NDArray[np.float32],
            center: NDArray[np.float32] | None) -> Rows:  # fmt: skip
    """The rows of one image, which is number 0.

    Args:
        content: its candidates.
        decided: what a person said of it.
        prototypes: float32 ``[K, C]``, l2-normalised: which candidates that are none look most like a class.
        center: of the memory bank.
    """
    vectors = np.asarray(content.vectors, np.float32)  # [N, C]
    overlaps = overlaps_with(content.candidates.mask_runs, len(vectors), content.candidates.frame, decided.masks)
    usable = np.isfinite(vectors).all(axis=1)
    wanted, rejected = decided.classes != NONE, decided.classes == NONE
    classes, known, counts = (
        np.full(len(vectors), NONE),
        np.zeros(len(vectors), bool),
        np.ones(len(vectors), np.float32),
    )
    on_wanted = _highest(overlaps, wanted & ~decided.ignored)  # [N]
    on_anything = _highest(overlaps, wanted)
    # Of its class is what covers an accepted label; the candidates of one label share its count.
    if (wanted & ~decided.ignored).any():
        best = np.where(wanted & ~decided.ignored, overlaps, -1).argmax(axis=1)  # [N]
        positive = usable & (on_wanted >= SAME)
        classes[positive], known[positive] = decided.classes[best[positive]], True
        shared = np.bincount(best[positive], minlength=overlaps.shape[1])
        counts[positive] = 1 / shared[best[positive]]
    # None is what covers a rejected label, and in an image that is done all that covers no accepted one.
    said = usable & ~known & (on_anything < SAME) & (_highest(overlaps, rejected) >= SAME)
    silent = usable & ~known & (on_anything < OTHER) & ~said & decided.done
    known |= said | _hardest(silent, vectors, prototypes, center, MOST_OF_NONE - int(said.sum()))
    chosen = np.flatnonzero(known)
    return Rows(vectors[chosen], classes[chosen], counts[chosen], np.zeros(len(chosen), np.int64))


def _highest(overlaps: NDArray[np.float32], which: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The highest overlap with some of the labels: float32 ``[N]``, 0 where there is none of them."""
    return np.asarray(np.where(which, overlaps, 0).max(axis=1, initial=0), np.float32)


def _hardest(among: NDArray[np.bool_], vectors: NDArray[np.float32], prototypes: NDArray[np.float32],
             center: NDArray[np.float32] | None, most: int) -> NDArray[np.bool_]:  # fmt: skip
    """At most so many of some candidates: half of them most like a class, the others spread over the rest."""
    index = np.flatnonzero(among)
    chosen = np.zeros(len(vectors), bool)
    if len(index) > most > 0:
        alike = (unit(vectors[index], center) @ prototypes.T).max(axis=1)
        order = index[np.argsort(-alike, kind="stable")]
        rest = order[most // 2 :]
        index = np.concatenate([order[: most // 2], rest[np.linspace(0, len(rest) - 1, most - most // 2).astype(int)]])
    chosen[index[: max(most, 0)]] = True
    return chosen


def unit(vectors: NDArray[np.floating], center: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Vectors ``[n, C]`` where the prototypes are, l2-normalised."""
    moved = np.asarray(vectors, np.float32) - (0 if center is None else center)
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12), np.float32)


def overlaps_with(runs: Runs, count: int, frame: ImageFrame, masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """IoU of candidates with masks at image size, both in the mask frame: float32 ``[N, L]``.

    Args:
        runs: masks of the N candidates.
        count: N.
        frame: maps image pixels to the mask frame.
        masks: L masks, bool ``[H, W]``.
    """
    overlaps = np.zeros((count, len(masks)), np.float32)
    areas = np.bincount(runs.owner, runs.length, count)  # [N]
    (height, width), (high, wide) = frame.image_size, frame.mask_content
    # The image pixel under the middle of each pixel of the mask frame.
    rows, columns = (
        ((np.arange(min(MASK_SIDE, int(np.ceil(extent)))) + 0.5) * size / extent).astype(int).clip(max=size - 1)
        for extent, size in ((high, height), (wide, width))
    )
    for k, mask in enumerate(masks):
        before = np.zeros((MASK_SIDE, MASK_SIDE + 1))  # in each row, how many pixels lie before each column
        before[: len(rows), 1 : len(columns) + 1] = np.cumsum(mask[np.ix_(rows, columns)], axis=1)
        before[:, len(columns) + 1 :] = before[:, [len(columns)]]
        inside = before[runs.row, runs.stop] - before[runs.row, runs.start]
        shared, area = np.bincount(runs.owner, inside, count), before[:, -1].sum()
        overlaps[:, k] = intersection_over_union(shared, np.maximum(areas, 1), area)
    return overlaps
