"""Scores of labelled instances against ground truth: COCO AP and AR, and image-level presence.

Pure: knows numpy and pycocotools, nothing of FiftyOne or of the method. Scores are fractions in 0..1; a score that
is not defined (a class without ground truth) is ``None``.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from fiftyone_ntt.evaluation.found import Matches, Presence, PresenceScores, check_objects, presence_scores
from fiftyone_ntt.evaluation.pairing import IOUS, Kind, Pairs, paired
from fiftyone_ntt.pixels.frames import whole_pixels
from fiftyone_ntt.pixels.mask_codes import Rle, encode_crop

__all__ = ["Presence", "PresenceScores", "presence_scores"]  # known by this name
Box = tuple[float, float, float, float]
MAX_DETECTIONS = 100
"""Per image and class, only this many predictions of highest score count (the COCO convention)."""

IMAGES_AT_ONCE = 500
"""So many images are paired with what is predicted of them at once."""

# pycocotools prints; its output is swallowed by replacing sys.stdout, which two threads must not do at once.
QUIET = threading.Lock()


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """One annotated object.

    Attributes:
        image_id: which image.
        label: index of the class.
        box: xyxy in image pixels, x2 and y2 outer edges.
        rle: the mask as compressed COCO RLE at image size, or ``None`` where there is only a box.
        crowd: a region of many objects: predictions inside it are neither right nor wrong.
    """

    image_id: Hashable
    label: int
    box: Box
    rle: Rle | None = None
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted object; attributes as in ``GroundTruth``.

    Attributes:
        image_id: which image.
        label: index of the class.
        box: xyxy in image pixels.
        score: confidence; higher is better.
        rle: the mask, or ``None``.
    """

    image_id: Hashable
    label: int
    box: Box
    score: float
    rle: Rle | None = None


@dataclass(frozen=True)
class Scores:
    """COCO scores for one kind of overlap (boxes or masks), averaged over the classes that have ground truth.

    Attributes:
        ap: average precision, mean over IoU 0.50:0.05:0.95.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ar100: average recall with at most 100 predictions an image and class.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None


@dataclass(frozen=True)
class CocoScores:
    """What ``coco_scores`` returns.

    Attributes:
        box: scores by box overlap.
        mask: scores by mask overlap, or ``None`` where masks were not compared.
        box_per_class: class name -> scores by box overlap.
        mask_per_class: class name -> scores by mask overlap; empty where masks were not compared.
        matches: class name -> what became of each prediction, by mask overlap where masks were compared.
        boundary: scores by the lesser of mask and border overlap, or ``None`` where borders were not compared.
        boundary_per_class: class name -> the same; empty where borders were not compared.
    """

    box: Scores
    mask: Scores | None
    box_per_class: dict[str, Scores]
    mask_per_class: dict[str, Scores]
    matches: dict[str, Matches] = field(default_factory=dict, compare=False)
    boundary: Scores | None = None
    boundary_per_class: dict[str, Scores] = field(default_factory=dict)


def encode_box(box: Box, image_size: tuple[int, int]) -> Rle:
    """Compressed RLE at image size of a filled box (xyxy in image pixels), rounded to pixels.

    A box thinner than a pixel has one; one without an area in the image has none.
    """
    height, width = image_size
    if min(box[2], width) <= max(box[0], 0) or min(box[3], height) <= max(box[1], 0):
        return encode_crop(np.zeros((0, 0), bool), 0, 0, image_size)
    left, top, right, bottom = whole_pixels(box, image_size)
    return encode_crop(np.ones((bottom - top, right - left), bool), left, top, image_size)


def coco_scores(
    ground_truth: Sequence[GroundTruth],
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    image_ids: Sequence[Hashable],
    *,
    masks: bool = True,
    boundary: bool = False,
) -> CocoScores:
    """COCO box and mask scores, computed by pycocotools.

    Predictions of equal score are ranked in the order of ``image_ids`` and, within an image, as given: the result
    depends on nothing else. Crowd regions are honoured. At most 100 predictions an image and class count.

    Args:
        ground_truth: annotated objects.
        predictions: predicted objects.
        classes: names; ``label`` of both indexes them.
        image_ids: every image that was looked at, those without any object included.
        masks: also compare masks; every object must then have its ``rle``.
        boundary: where masks are compared, also compare their borders.

    Raises:
        InputError: if an object names an unknown image or class, or lacks its mask.
    """
    check_objects(ground_truth, predictions, classes, image_ids, masks)
    scorer = CocoScorer(classes, masks, boundary)
    for block in _blocks(ground_truth, predictions, image_ids):
        scorer.add(*block)
    return scorer.scores()


class CocoScorer:
    """The same of some images at a time: what has been scored need not be kept.

    pycocotools makes several copies of everything: of a hundred thousand images that is no memory to ask for.

    Args:
        classes: names; ``label`` of objects and predictions indexes them.
        masks: also compare masks; every object must then have its ``rle``.
        boundary: where masks are compared, also compare their borders.
    """

    def __init__(self, classes: Sequence[str], masks: bool, boundary: bool = False) -> None:
        self._classes, self.masks = classes, masks
        of_masks: tuple[Kind, ...] = ("segm", "boundary") if boundary else ("segm",)
        kinds: tuple[Kind, ...] = ("bbox", *of_masks) if masks else ("bbox",)
        self._outcomes = {kind: [list[Pairs]() for _ in classes] for kind in kinds}

    def add(self, truth: Sequence[GroundTruth], predicted: Sequence[Prediction], image_ids: Sequence[Hashable]) -> None:
        """Pairs the predictions of some images, at most ``IMAGES_AT_ONCE``, with the objects there."""
        number = {image_id: i for i, image_id in enumerate(image_ids)}
        images = [number[item.image_id] for items in (truth, predicted) for item in items]
        for kind, outcomes in self._outcomes.items():
            for k, pairs in paired(truth, predicted, images, kind, MAX_DETECTIONS).items():
                outcomes[k].append(pairs)

    def scores(self, masks: bool = True) -> CocoScores:
        """The scores of all images so far; without those of masks where they were not, or are not to be, compared."""
        box, box_per_class, matches = _accumulated(self._outcomes["bbox"], self._classes, "bbox")
        if not (masks and self.masks):
            return CocoScores(box, None, box_per_class, {}, matches)
        mask, mask_per_class, matches = _accumulated(self._outcomes["segm"], self._classes, "segm")
        if "boundary" not in self._outcomes:
            return CocoScores(box, mask, box_per_class, mask_per_class, matches)
        # pycocotools knows no borders; once all is paired, they are scored as masks are.
        boundary, boundary_per_class, _ = _accumulated(self._outcomes["boundary"], self._classes, "segm")
        return CocoScores(box, mask, box_per_class, mask_per_class, matches, boundary, boundary_per_class)


def _blocks(
    ground_truth: Sequence[GroundTruth], predictions: Sequence[Prediction], image_ids: Sequence[Hashable]
) -> Iterator[tuple[list[GroundTruth], list[Prediction], Sequence[Hashable]]]:
    """Objects, predictions and ids of some images at a time."""
    block_of = {image_id: i // IMAGES_AT_ONCE for i, image_id in enumerate(image_ids)}
    truth: dict[int, list[GroundTruth]] = defaultdict(list)
    predicted: dict[int, list[Prediction]] = defaultdict(list)
    for item in ground_truth:
        truth[block_of[item.image_id]].append(item)
    for prediction in predictions:
        predicted[block_of[prediction.image_id]].append(prediction)
    for block, start in enumerate(range(0, len(image_ids), IMAGES_AT_ONCE)):
        yield truth[block], predicted[block], image_ids[start : start + IMAGES_AT_ONCE]


def _as_one_image(of_class: list[Pairs]) -> dict[str, Any] | None:
    """All images as one, for ``COCOeval.accumulate``, which only joins them; ``None`` without any."""
    if not of_class:
        return None
    return {
        "dtScores": np.concatenate([pairs.scores for pairs in of_class]),
        "dtMatches": np.concatenate([pairs.matched for pairs in of_class], axis=1),
        "dtIgnore": np.concatenate([pairs.ignored for pairs in of_class], axis=1),
        "gtIgnore": np.concatenate([pairs.objects_ignored for pairs in of_class]),
    }


def _accumulated(
    outcomes: list[list[Pairs]], classes: Sequence[str], kind: Kind
) -> tuple[Scores, dict[str, Scores], dict[str, Matches]]:
    evaluation = COCOeval(iouType=kind)
    evaluation.params.catIds, evaluation.params.imgIds = list(range(len(classes))), [0]
    # Only the range "all" is reported, so an object's area, which would select a range, plays no part.
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[-np.inf, np.inf]], ["all"]
    evaluation.params.maxDets = [sys.maxsize]  # each image has been cut to the best already
    evaluation.params.iouThrs = IOUS
    evaluation.evalImgs = [_as_one_image(of_class) for of_class in outcomes]
    evaluation._paramsEval = evaluation.params
    with QUIET, contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # [IoU, recall, class]; -1 where there is no ground truth
    recall = evaluation.eval["recall"][..., 0, 0]  # [IoU, class]
    thresholds = evaluation.params.iouThrs
    per_class = {
        name: _scores(precision[:, :, k : k + 1], recall[:, k : k + 1], thresholds) for k, name in enumerate(classes)
    }
    return _scores(precision, recall, thresholds), per_class, _matches(evaluation, classes)


def _matches(evaluation: COCOeval, classes: Sequence[str]) -> dict[str, Matches]:
    at50 = int(np.flatnonzero(np.isclose(evaluation.params.iouThrs, 0.5))[0])
    matches = {}
    for name, found in zip(classes, evaluation.evalImgs, strict=True):
        if found is None:
            matches[name] = Matches(np.zeros(0, np.float64), np.zeros(0, bool), 0)
            continue
        counted = ~found["dtIgnore"][at50]
        right = found["dtMatches"][at50][counted]
        matches[name] = Matches(found["dtScores"][counted], right, int((~found["gtIgnore"]).sum()))
    return matches


def _scores(precision: NDArray[np.float64], recall: NDArray[np.float64], thresholds: NDArray[np.float64]) -> Scores:
    at50, at75 = np.isclose(thresholds, 0.5), np.isclose(thresholds, 0.75)
    return Scores(_mean(precision), _mean(precision[at50]), _mean(precision[at75]), _mean(recall))


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
