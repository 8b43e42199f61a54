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
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fiftyone_ntt.evaluation.found import Matches, Presence, PresenceScores, check_objects, presence_scores
from fiftyone_ntt.pixels.frames import whole_pixels
from fiftyone_ntt.pixels.mask_codes import Rle, encode_crop

__all__ = ["Presence", "PresenceScores", "presence_scores"]  # known by this name
Box = tuple[float, float, float, float]
MAX_DETECTIONS = 100
"""Per image and class, only this many predictions of highest score count (the COCO convention)."""

IMAGES_AT_ONCE = 500
"""So many images are paired with what is predicted of them at once."""
_Kind: TypeAlias = Literal["bbox", "segm"]

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
    """

    box: Scores
    mask: Scores | None
    box_per_class: dict[str, Scores]
    mask_per_class: dict[str, Scores]
    matches: dict[str, Matches] = field(default_factory=dict, compare=False)


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

    Raises:
        InputError: if an object names an unknown image or class, or lacks its mask.
    """
    check_objects(ground_truth, predictions, classes, image_ids, masks)
    scorer = CocoScorer(classes, masks)
    for block in _blocks(ground_truth, predictions, image_ids):
        scorer.add(*block)
    return scorer.scores()


class CocoScorer:
    """The same of some images at a time: what has been scored need not be kept.

    pycocotools makes several copies of everything: of a hundred thousand images that is no memory to ask for.

    Args:
        classes: names; ``label`` of objects and predictions indexes them.
        masks: also compare masks; every object must then have its ``rle``.
    """

    def __init__(self, classes: Sequence[str], masks: bool) -> None:
        self._classes, self.masks = classes, masks
        kinds: tuple[_Kind, ...] = ("bbox", "segm") if masks else ("bbox",)
        self._outcomes = {kind: [_Outcomes() for _ in classes] for kind in kinds}

    def add(self, truth: Sequence[GroundTruth], predicted: Sequence[Prediction], image_ids: Sequence[Hashable]) -> None:
        """Pairs the predictions of some images, at most ``IMAGES_AT_ONCE``, with the objects there."""
        number = {image_id: i for i, image_id in enumerate(image_ids)}

        def annotations(items: Sequence[GroundTruth | Prediction]) -> list[dict[str, Any]]:
            return [_annotation(i, item, number[item.image_id], self.masks) for i, item in enumerate(items, start=1)]

        objects, found = annotations(truth), annotations(predicted)
        for kind, outcomes in self._outcomes.items():
            _add_outcomes(outcomes, objects, found, self._classes, len(image_ids), kind)

    def scores(self, masks: bool = True) -> CocoScores:
        """The scores of all images so far; without those of masks where they were not, or are not to be, compared."""
        box, box_per_class, matches = _accumulated(self._outcomes["bbox"], self._classes, "bbox")
        if not (masks and self.masks):
            return CocoScores(box, None, box_per_class, {}, matches)
        mask, mask_per_class, matches = _accumulated(self._outcomes["segm"], self._classes, "segm")
        return CocoScores(box, mask, box_per_class, mask_per_class, matches)


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


def _annotation(number: int, item: GroundTruth | Prediction, image: int, masks: bool) -> dict[str, Any]:
    """A COCO annotation. Ids start at 1: pycocotools takes a match with id 0 for none."""
    x1, y1, x2, y2 = (float(value) for value in item.box)
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": item.label,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": int(isinstance(item, GroundTruth) and item.crowd),
    }
    if masks:
        annotation["segmentation"] = item.rle
    return {**annotation, "score": float(item.score)} if isinstance(item, Prediction) else annotation


@dataclass
class _Outcomes:
    """What became of the predictions of one class, block after block, as pycocotools has it: ``[IoU, prediction]``."""

    scores: list[NDArray[np.float64]] = field(default_factory=list)
    matched: list[NDArray[np.bool_]] = field(default_factory=list)
    ignored: list[NDArray[np.bool_]] = field(default_factory=list)
    objects_ignored: list[NDArray[np.bool_]] = field(default_factory=list)

    def as_one_image(self) -> dict[str, Any] | None:
        """All images as one, for ``COCOeval.accumulate``, which only joins them; ``None`` without any."""
        if not self.scores:
            return None
        return {
            "dtScores": np.concatenate(self.scores),
            "dtMatches": np.concatenate(self.matched, axis=1),
            "dtIgnore": np.concatenate(self.ignored, axis=1),
            "gtIgnore": np.concatenate(self.objects_ignored),
        }


def _add_outcomes(
    outcomes: list[_Outcomes], truth: list[dict[str, Any]], predicted: list[dict[str, Any]], classes: Sequence[str],
    images: int, kind: _Kind,
) -> None:  # fmt: skip
    """Pairs the predictions of some images with the objects there."""
    with QUIET, contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth, classes, images), _coco(predicted, classes, images), kind)
        _set_params(evaluation, MAX_DETECTIONS)
        evaluation.evaluate()
    by_class: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for image in evaluation.evalImgs:
        if image is not None:  # an object or a prediction of the class is there
            by_class[image["category_id"]].append(image)
    for k, each in by_class.items():  # joined here: an array for each image would take more than what is in it
        outcomes[k].scores.append(np.concatenate([np.asarray(image["dtScores"], np.float64) for image in each]))
        outcomes[k].matched.append(np.concatenate([np.asarray(image["dtMatches"]) > 0 for image in each], axis=1))
        outcomes[k].ignored.append(np.concatenate([np.asarray(image["dtIgnore"], bool) for image in each], axis=1))
        outcomes[k].objects_ignored.append(np.concatenate([np.asarray(image["gtIgnore"], bool) for image in each]))


def _accumulated(
    outcomes: list[_Outcomes], classes: Sequence[str], kind: _Kind
) -> tuple[Scores, dict[str, Scores], dict[str, Matches]]:
    evaluation = COCOeval(iouType=kind)
    evaluation.params.catIds, evaluation.params.imgIds = list(range(len(classes))), [0]
    _set_params(evaluation, sys.maxsize)  # each image has been cut to the best already
    evaluation.evalImgs = [of_class.as_one_image() for of_class in outcomes]
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


def _set_params(evaluation: COCOeval, most: int) -> None:
    # Only the range "all" is reported, so an object's area, which would select a range, plays no part.
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[-np.inf, np.inf]], ["all"]
    evaluation.params.maxDets = [most]


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


def _coco(annotations: list[dict[str, Any]], classes: Sequence[str], images: int) -> COCO:
    """A COCO data set without a file. ``loadRes`` is not used: it fails on an empty list."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
        # pycocotools writes into these, and boxes and masks are evaluated from the same ones.
        "annotations": [dict(annotation) for annotation in annotations],
    }
    coco.createIndex()
    coco.annToRLE = lambda annotation: annotation["segmentation"]  # already RLE, and the images carry no size
    return coco


def _scores(precision: NDArray[np.float64], recall: NDArray[np.float64], thresholds: NDArray[np.float64]) -> Scores:
    at50, at75 = np.isclose(thresholds, 0.5), np.isclose(thresholds, 0.75)
    return Scores(_mean(precision), _mean(precision[at50]), _mean(precision[at75]), _mean(recall))


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
