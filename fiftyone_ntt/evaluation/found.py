"""What became of predictions, and precision and recall of those above a threshold. Pure: nothing of FiftyOne."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import InputError

if TYPE_CHECKING:
    from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction


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


@dataclass(frozen=True)
class Presence:
    """How well "this class is in this image" is told.

    Attributes:
        precision: share of the claims that are right; ``None`` where nothing is claimed.
        recall: share of the true presences that are claimed; ``None`` where there is none.
        f1: their harmonic mean; ``None`` where neither exists.
        images: number of images that hold the class (for the whole: of image-class pairs).
        claimed: number of images in which the class is claimed.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    images: int
    claimed: int


@dataclass(frozen=True)
class PresenceScores:
    """What ``presence_scores`` returns.

    Attributes:
        threshold: a class is claimed for an image where a prediction of it scores above this.
        micro: over all pairs of an image and a class.
        per_class: class name -> presence of that class.
        best_f1: the highest micro F1 that any threshold would reach. An oracle: it has seen the answers.
        best_threshold: the threshold that reaches it; ``None`` if no prediction helps.
    """

    threshold: float
    micro: Presence
    per_class: dict[str, Presence]
    best_f1: float | None
    best_threshold: float | None


def check_objects(
    ground_truth: Sequence[GroundTruth],
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    image_ids: Sequence[Hashable],
    masks: bool,
) -> None:
    """Raises InputError if an object names an unknown image or class, or lacks its mask."""
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"expected distinct class names, got {list(classes)}")
    images_given = set(image_ids)
    if len(images_given) < len(image_ids):
        raise InputError("expected every image once in image_ids, got some twice")
    items: list[GroundTruth | Prediction] = [*ground_truth, *predictions]
    for item in items:
        if item.image_id not in images_given:
            raise InputError(f"an object belongs to image {item.image_id!r}, which is not among image_ids")
        if not 0 <= item.label < len(classes):
            raise InputError(f"an object has class index {item.label}, expected 0 to {len(classes) - 1}")
        if masks and item.rle is None:
            raise InputError(f"an object of image {item.image_id!r} has no mask; pass masks=False to score boxes only")


def presence_scores(
    ground_truth: Sequence[GroundTruth],
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    image_ids: Sequence[Hashable],
    threshold: float = 0.0,
) -> PresenceScores:
    """Is the class in the image? Precision, recall and F1 over images, whatever the masks look like.

    Args:
        ground_truth: annotated objects; a crowd region counts as presence too.
        predictions: predicted objects.
        classes: names; ``label`` of both indexes them.
        image_ids: every image that was looked at, those without any object included.
        threshold: a class is claimed for an image where a prediction of it scores above this; 0: where any fires.
    """
    check_objects(ground_truth, predictions, classes, image_ids, masks=False)
    counter = PresenceCounter(classes, threshold)
    counter.add(ground_truth, predictions, image_ids)
    return counter.scores()


class PresenceCounter:
    """The same of some images at a time; arguments are those of ``presence_scores``."""

    def __init__(self, classes: Sequence[str], threshold: float) -> None:
        self._classes, self._threshold = classes, threshold
        self._present: list[NDArray[np.bool_]] = []
        self._score: list[NDArray[np.float64]] = []

    def add(self, truth: Sequence[GroundTruth], predicted: Sequence[Prediction], image_ids: Sequence[Hashable]) -> None:
        """Counts some images, all of which come once."""
        row = {image_id: i for i, image_id in enumerate(image_ids)}
        present = np.zeros((len(row), len(self._classes)), bool)
        score = np.full((len(row), len(self._classes)), -np.inf)
        for item in truth:
            present[row[item.image_id], item.label] = True
        for prediction in predicted:
            cell = row[prediction.image_id], prediction.label
            score[cell] = np.fmax(score[cell], prediction.score)
        self._present.append(present)
        self._score.append(score)

    def scores(self) -> PresenceScores:
        """Of all images so far."""
        present, score = np.concatenate(self._present), np.concatenate(self._score)
        claimed = score > self._threshold
        best_f1, best_threshold = threshold_of_best_f1(present.ravel(), score.ravel())
        return PresenceScores(
            threshold=float(self._threshold),
            micro=_presence(present, claimed),
            per_class={name: _presence(present[:, k], claimed[:, k]) for k, name in enumerate(self._classes)},
            best_f1=best_f1,
            best_threshold=best_threshold,
        )


def _presence(present: NDArray[np.bool_], claimed: NDArray[np.bool_]) -> Presence:
    right, true, said = int((present & claimed).sum()), int(present.sum()), int(claimed.sum())
    return Presence(
        precision=right / said if said else None,
        recall=right / true if true else None,
        f1=2 * right / (true + said) if true + said else None,
        images=true,
        claimed=said,
    )
