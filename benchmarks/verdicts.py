"""What a person acts on: is the class in this image, what fires where nothing is, and what a score is worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from fiftyone_ntt.metrics import GroundTruth, Prediction

BINS = 10


@dataclass(frozen=True)
class Verdicts:
    """Fractions in 0..1.

    Attributes:
        fires: presence F1 if any label claims its class: the published way of reading it.
        fitted: presence F1 at the threshold that is best on the other half of the images, both halves taken together.
        best: presence F1 at the best threshold of all, chosen with knowledge of the answers.
        false_alarms: labels an image, above the fitted threshold, in images that hold none of the classes.
        false_alarms_unfiltered: the same without a threshold.
        calibration: expected calibration error of the score as the probability of a right label (mask IoU 0.5).
        calibration_fitted: the same after isotonic regression on the other half.
    """

    fires: float
    fitted: float
    best: float
    false_alarms: float | None
    false_alarms_unfiltered: float | None
    calibration: float | None
    calibration_fitted: float | None

    def fractions(self) -> dict[str, float | None]:
        """Those in 0..1 by name."""
        return {
            "presence_fires": self.fires, "presence_fitted": self.fitted, "presence_best": self.best,
            "calibration": self.calibration, "calibration_fitted": self.calibration_fitted,
        }  # fmt: skip

    def counts(self) -> dict[str, float | None]:
        """Labels an image by name."""
        return {"false_alarms": self.false_alarms, "false_alarms_unfiltered": self.false_alarms_unfiltered}


def verdicts(
    truth: Sequence[GroundTruth], predictions: Sequence[Prediction], classes: int, image_ids: Sequence[Hashable]
) -> Verdicts:
    """Judges the labels of one reference set."""
    row = {image_id: i for i, image_id in enumerate(image_ids)}
    present = np.zeros((len(row), classes), bool)
    for item in truth:
        present[row[item.image_id], item.label] |= not item.crowd
    score = np.zeros((len(row), classes))
    for item in predictions:
        score[row[item.image_id], item.label] = max(score[row[item.image_id], item.label], item.score)
    half = np.arange(len(row)) % 2 == 0
    thresholds = np.where(
        half, best_threshold(present[~half], score[~half]), best_threshold(present[half], score[half])
    )
    claimed = score > thresholds[:, None]
    bare = ~present.any(axis=1)
    scores, images = (np.array([getattr(item, name) for item in predictions]) for name in ("score", "image_id"))
    rows = np.array([row[image_id] for image_id in images.tolist()], int)
    in_bare = bare[rows] if len(rows) else np.zeros(0, bool)
    right = right_labels(truth, predictions)
    fitted = _isotonic_by_halves(scores, right, half[rows] if len(rows) else np.zeros(0, bool))
    return Verdicts(
        fires=f1(present, score > 0),
        fitted=f1(present, claimed),
        best=f1(present, score > best_threshold(present, score)),
        false_alarms=float((scores[in_bare] > thresholds[rows[in_bare]]).sum() / bare.sum()) if bare.any() else None,
        false_alarms_unfiltered=float(in_bare.sum() / bare.sum()) if bare.any() else None,
        calibration=calibration_error(scores, right),
        calibration_fitted=calibration_error(fitted, right),
    )


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
