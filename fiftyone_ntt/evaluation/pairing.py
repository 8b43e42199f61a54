"""Which prediction is paired with which annotated object: COCO's rules, for many images in one go.

What ``COCOeval.evaluate`` of pycocotools does image by image and class by class, in Python. The overlaps are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from fiftyone_ntt.evaluation.borders import with_borders
from fiftyone_ntt.pixels.compiled import compiled, loops
from fiftyone_ntt.pixels.mask_codes import Rle

if TYPE_CHECKING:
    from fiftyone_ntt.evaluation.coco import Box, GroundTruth, Prediction

Kind: TypeAlias = Literal["bbox", "segm", "boundary"]
IOUS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
"""IoUs from which on a prediction may be paired, as pycocotools has them."""
_Int: TypeAlias = NDArray[np.int64]
_Bool: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Pairs:
    """What became of the predictions of one class in some images, image by image, the best first.

    Attributes:
        scores: float64 ``[n]`` of the predictions.
        matched: bool ``[IoU, n]``, whether each is paired.
        ignored: bool ``[IoU, n]``, whether it is paired with a crowd.
        objects_ignored: bool ``[m]``, whether each annotated object is a crowd.
    """

    scores: NDArray[np.float64]
    matched: _Bool
    ignored: _Bool
    objects_ignored: _Bool


def paired(
    truth: Sequence[GroundTruth], predicted: Sequence[Prediction], images: Sequence[int], kind: Kind, most: int
) -> dict[int, Pairs]:
    """Pairs the predictions of some images with the objects there.

    Args:
        truth: annotated objects.
        predicted: predicted objects; of equal scores the first is paired first.
        images: number of the image of each of ``truth``, then of each of ``predicted``.
        kind: whether boxes have to overlap, masks, or masks and their borders.
        most: only so many predictions of an image and class count.

    Returns:
        Index of a class -> its pairs, for each class that anything is of.
    """
    numbers = np.array(images, np.int64)
    crowd, scores = np.array([item.crowd for item in truth], bool), np.array([item.score for item in predicted], float)
    objects = _Sorted.of(truth, numbers[: len(truth)], crowd)  # crowds are paired last
    found = _Sorted.of(predicted, numbers[len(truth) :], -scores, most)
    crowd, scores = crowd[objects.order], scores[found.order]
    of_objects, of_found = objects.spans(), found.spans()
    both = np.array([(*of_found[key], *of_objects[key]) for key in of_found if key in of_objects], np.int64)
    ious = [_ious(predicted, truth, found.order[a:b], objects.order[c:d], kind) for a, b, c, d in both.reshape(-1, 4)]
    matched, ignored = (np.zeros((len(IOUS), len(found.order)), bool) for _ in range(2))
    if ious:
        flat = np.concatenate([each.ravel() for each in ious])
        _pairing()(both, flat, crowd, np.minimum(IOUS, 1 - 1e-10), matched, ignored)
    pairs = {}
    for k in np.union1d(found.labels, objects.labels).tolist():
        here, there = found.of_class(k), objects.of_class(k)
        pairs[k] = Pairs(scores[here], matched[:, here], ignored[:, here], crowd[there])
    return pairs


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Objects by class, then by image, then by rank.

    Attributes:
        order: int64 ``[n]``, their places in what was given; those beyond the best of an image and class are left out.
        labels: int64 ``[n]``, class of each; ascending.
        images: int64 ``[n]``, image of each.
    """

    order: _Int
    labels: _Int
    images: _Int

    @classmethod
    def of(
        cls, items: Sequence[GroundTruth | Prediction], images: _Int, rank: NDArray[Any], most: int | None = None
    ) -> _Sorted:
        labels = np.array([item.label for item in items], np.int64)
        order = np.lexsort((rank, images, labels))  # stable
        labels, images = labels[order], images[order]
        if most is not None:
            place = np.arange(len(order))
            begins = np.append(True, (labels[1:] != labels[:-1]) | (images[1:] != images[:-1]))[: len(order)]
            kept = place - np.maximum.accumulate(np.where(begins, place, 0)) < most
            order, labels, images = order[kept], labels[kept], images[kept]
        return cls(order, labels, images)

    def spans(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Class and image -> first and last (exclusive) of the objects there."""
        if not len(self.order):
            return {}
        starts = np.flatnonzero(np.append(True, (np.diff(self.labels) != 0) | (np.diff(self.images) != 0)))
        keys = zip(self.labels[starts].tolist(), self.images[starts].tolist(), strict=True)
        stops = [*starts[1:].tolist(), len(self.order)]
        return dict(zip(keys, zip(starts.tolist(), stops, strict=True), strict=True))

    def of_class(self, label: int) -> slice:
        """Where the objects of a class are."""
        first, stop = np.searchsorted(self.labels, [label, label + 1]).tolist()
        return slice(first, stop)


def _ious(
    predicted: Sequence[Prediction], truth: Sequence[GroundTruth], some: _Int, others: _Int, kind: Kind
) -> NDArray[np.float64]:
    """float64 ``[predictions, objects]``, their overlaps; with a crowd, the share of the prediction in it."""
    found, objects = [predicted[i] for i in some], [truth[i] for i in others]
    crowd = [int(item.crowd) for item in objects]
    if kind == "bbox":
        return np.asarray(mask_utils.iou(_boxes(found), _boxes(objects), crowd), np.float64)
    masks, true_masks = [cast(Rle, item.rle) for item in found], [cast(Rle, item.rle) for item in objects]
    ious = np.asarray(mask_utils.iou(masks, true_masks, crowd), np.float64)
    return with_borders(ious, masks, true_masks, crowd, least=float(IOUS[0])) if kind == "boundary" else ious


def _boxes(items: Sequence[GroundTruth | Prediction]) -> NDArray[np.float64]:
    """float64 ``[n, 4]``: left, top, width, height."""

    def sides(box: Box) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = (float(value) for value in box)
        return x1, y1, x2 - x1, y2 - y1

    return np.array([sides(item.box) for item in items], np.float64)


@lru_cache(maxsize=1)
def _pairing() -> Callable[..., None]:
    """``_pair``, compiled where that can be."""
    return _pair if loops() is None else compiled("void(i8[:], f8[], b1[], f8[], b1[:]!, b1[:]!)")(_pair)


def _pair(groups: _Int, ious: Any, crowd: _Bool, thresholds: Any, matched: _Bool, ignored: _Bool) -> None:
    """``COCOeval.evaluateImg`` of pycocotools, comparison by comparison, for one image and class after the other.

    Args:
        groups: int64 ``[n, 4]``: first and last (exclusive) prediction, first and last object of each.
        ious: float64, ``[predictions, objects]`` of each, end to end.
        crowd: bool, of the objects, those that are crowds behind the others of their group.
        thresholds: float64 ``[IoU]``.
        matched: bool ``[IoU, predictions]``, written.
        ignored: bool ``[IoU, predictions]``, written.
    """
    taken, start = np.zeros(len(crowd), np.bool_), 0
    for k in range(len(groups)):
        first, stop, low, high = groups[k, 0], groups[k, 1], groups[k, 2], groups[k, 3]
        for t in range(len(thresholds)):
            taken[low:high] = False
            for i in range(first, stop):
                overlap, best, row = thresholds[t], -1, start + (i - first) * (high - low) - low
                for j in range(low, high):
                    if taken[j] and not crowd[j]:
                        continue
                    if best >= 0 and not crowd[best] and crowd[j]:
                        break  # paired with an object: no crowd can have it
                    if ious[row + j] < overlap:
                        continue
                    overlap, best = ious[row + j], j
                if best >= 0:
                    taken[best] = matched[t, i] = True
                    ignored[t, i] = crowd[best]
        start += (stop - first) * (high - low)
