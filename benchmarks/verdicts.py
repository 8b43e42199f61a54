"""What a person acts on: is the class in this image, what fires where nothing is, and what a score is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction
from fiftyone_ntt.review.threshold_fit import fit_curve

BINS = 10


@dataclass(frozen=True)
class Verdicts:
    """Fractions in 0..1.

    Attributes:
        fires: presence F1 if any label claims its class: the published way of reading it.
        fitted: presence F1 at the threshold that is best on the other half of the images, both halves taken together.
        by_similarity: the same by the highest plain similarity of the labels, before any weighting; the verdicts that
            ``judge_presence`` writes rest on this.
        per_class: the same with a threshold for each class, half-way between its own and that of all.
        best: presence F1 at the best threshold of all, chosen with knowledge of the answers.
        false_alarms: labels an image, above the fitted threshold, in images that hold none of the classes.
        false_alarms_unfiltered: the same without a threshold.
        false_alarms_labels: the same above the threshold with the best F1 of right labels on the other half.
        calibration: expected calibration error of the score as the probability of a right label (mask IoU 0.5).
        calibration_fitted: the same after isotonic regression on the other half.
        calibration_curve: the same after the logistic curve of ``fit_thresholds``, fitted on the other half.
    """

    fires: float
    fitted: float
    by_similarity: float | None
    per_class: float | None
    best: float
    false_alarms: float | None
    false_alarms_unfiltered: float | None
    false_alarms_labels: float | None
    calibration: float | None
    calibration_fitted: float | None
    calibration_curve: float | None

    def fractions(self) -> dict[str, float | None]:
        """Those in 0..1 by name."""
        return {
            "presence_fires": self.fires, "presence_fitted": self.fitted, "presence_best": self.best,
            "presence_similarity": self.by_similarity, "presence_per_class": self.per_class,
            "calibration": self.calibration, "calibration_fitted": self.calibration_fitted,
            "calibration_curve": self.calibration_curve,
        }  # fmt: skip

    def counts(self) -> dict[str, float | None]:
        """Labels an image by name."""
        return {"false_alarms": self.false_alarms, "false_alarms_unfiltered": self.false_alarms_unfiltered,
                "false_alarms_labels": self.false_alarms_labels}  # fmt: skip


def verdicts(
    truth: Sequence[GroundTruth], predictions: Sequence[Prediction], classes: int, image_ids: Sequence[Hashable],
    similarities: Sequence[float] | None = None,
) -> Verdicts:  # fmt: skip
    """Judges the labels of one reference set; ``similarities`` are those of the predictions, before any weighting."""
    row = {image_id: i for i, image_id in enumerate(image_ids)}
    present = np.zeros((len(row), classes), bool)
    for item in truth:
        present[row[item.image_id], item.label] |= not item.crowd
    place = np.array([(row[item.image_id], item.label) for item in predictions], int).reshape(-1, 2)
    scores = np.array([item.score for item in predictions], float)
    right = right_labels(truth, predictions)
    return judged(present, place, scores, right, None if similarities is None else np.asarray(similarities, float))


def judged(
    present: NDArray[np.bool_], place: NDArray[np.int_], scores: NDArray[np.float64], right: NDArray[np.bool_],
    similarities: NDArray[np.float64] | None,
) -> Verdicts:  # fmt: skip
    """The same from columns: ``present`` ``[images, classes]``; of each label its image and class, score, and so on."""
    score = highest(place, scores, present.shape)
    alike = None if similarities is None else highest(place, similarities, present.shape)
    half = np.arange(len(present)) % 2 == 0
    thresholds = by_halves(present, score, half)
    rows = place[:, 0]
    bare, mine = ~present.any(axis=1), half[rows]
    in_bare = bare[rows]

    def alarms(above: NDArray[np.bool_]) -> float | None:
        return float((above & in_bare).sum() / bare.sum()) if bare.any() else None

    return Verdicts(
        fires=f1(present, score > 0),
        fitted=f1(present, score > thresholds),
        by_similarity=None if alike is None else f1(present, alike > by_halves(present, alike, half)),
        per_class=None if alike is None else f1(present, alike > by_halves(present, alike, half, per_class=True)),
        best=f1(present, score > best_threshold(present, score)),
        false_alarms=alarms(scores > thresholds[rows, place[:, 1]]),
        false_alarms_unfiltered=alarms(np.ones(len(rows), bool)),
        false_alarms_labels=alarms(scores > _label_thresholds(scores, right, mine)),
        calibration=calibration_error(scores, right),
        calibration_fitted=calibration_error(_isotonic_by_halves(scores, right, mine), right),
        calibration_curve=calibration_error(_curve_by_halves(scores, place[:, 1], right, mine), right),
    )


def highest(
    place: NDArray[np.int_], values: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:  # fmt: skip
    """The highest value of each image and class; 0 where there is no label."""
    found = np.zeros(shape)
    np.maximum.at(found, (place[:, 0], place[:, 1]), values)
    return found


def by_halves(
    present: NDArray[np.bool_], score: NDArray[np.float64], half: NDArray[np.bool_], per_class: bool = False
) -> NDArray[np.float64]:
    """Thresholds ``[images, classes]``, each half's fitted on the other."""
    thresholds = np.zeros(score.shape)
    for mine in (half, ~half):
        rest, least = ~mine, best_threshold(present[~mine], score[~mine])
        thresholds[mine] = least
        for k in range(score.shape[1]) if per_class else ():
            if present[rest, k].any():
                thresholds[mine, k] = (least + best_threshold(present[rest, k], score[rest, k])) / 2
    return thresholds


def _label_thresholds(
    scores: NDArray[np.float64], right: NDArray[np.bool_], half: NDArray[np.bool_]
) -> NDArray[np.float64]:
    thresholds = np.zeros(len(scores))
    for mine in (half, ~half):
        thresholds[mine] = best_threshold(right[~mine], scores[~mine]) if (~mine).any() else 0.0
    return thresholds


def f1(present: NDArray[np.bool_], claimed: NDArray[np.bool_]) -> float:
    """F1 over all pairs of image and class."""
    right = int((present & claimed).sum())
    return 2 * right / max(int(present.sum() + claimed.sum()), 1)


def best_threshold(present: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """The threshold of the highest F1: half-way between the scores it parts."""
    order = np.argsort(-score, axis=None)
    flat, hits = score.ravel()[order], np.cumsum(present.ravel()[order])
    value = 2 * hits / (np.arange(1, len(flat) + 1) + max(int(present.sum()), 1))
    usable = np.append(flat[1:] < flat[:-1], True) & (flat > 0)
    if not usable.any():
        return 0.0
    i = int(np.argmax(np.where(usable, value, -1)))
    return float((flat[i] + (flat[i + 1] if i + 1 < len(flat) else 0.0)) / 2)


def right_labels(
    truth: Sequence[GroundTruth], predictions: Sequence[Prediction], iou: float = 0.5
) -> NDArray[np.bool_]:
    """Which labels are right: by descending score, each takes the free object of its class that it overlaps most."""
    objects, labels = defaultdict(list), defaultdict(list)
    for item in truth:
        if not item.crowd:
            objects[item.image_id, item.label].append(item.rle)
    for i, item in enumerate(predictions):
        labels[item.image_id, item.label].append(i)
    right = np.zeros(len(predictions), bool)
    for key, mine in labels.items():
        if key not in objects:
            continue
        mine.sort(key=lambda i: -predictions[i].score)
        overlaps = mask_utils.iou([predictions[i].rle for i in mine], objects[key], [0] * len(objects[key]))
        overlaps = np.asarray(overlaps).reshape(len(mine), -1)
        for place, i in enumerate(mine):
            best = int(overlaps[place].argmax())
            if overlaps[place, best] >= iou:
                right[i] = True
                overlaps[:, best] = -1
    return right


def calibration_error(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    """Expected calibration error over ten bins of equal width."""
    if not len(scores):
        return None
    bins = np.clip((np.asarray(scores) * BINS).astype(int), 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    gaps = np.abs(np.bincount(bins, right, BINS) - np.bincount(bins, scores, BINS))
    return float(gaps.sum() / count.sum())


def _isotonic_by_halves(
    scores: NDArray[np.float64], right: NDArray[np.bool_], half: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Each half's scores as probabilities fitted on the other half."""
    from sklearn.isotonic import IsotonicRegression

    fitted = np.zeros(len(scores))
    for mine in (half, ~half):
        if mine.any() and (~mine).any():
            model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores[~mine], right[~mine])
            fitted[mine] = model.predict(scores[mine])
    return fitted


def _curve_by_halves(
    scores: NDArray[np.float64], classes: NDArray[np.int_], right: NDArray[np.bool_], half: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The same by ``fit_curve``."""
    fitted = np.zeros(len(scores))
    for mine in (half, ~half):
        if mine.any() and (~mine).any():
            curve = fit_curve(scores[~mine], classes[~mine], right[~mine])
            fitted[mine] = curve.probability(scores[mine], classes[mine])
    return fitted
