"""What an evaluation of detections has read from a view, and what there is to say of it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fiftyone_ntt.dataset.fields import REJECTED_TAG
from fiftyone_ntt.errors import counted
from fiftyone_ntt.evaluation.coco import MAX_DETECTIONS, GroundTruth, Prediction

_MOST_LINES = 5


@dataclass
class Objects:
    """What an evaluation of detections remembers of what it has read: counts, and what it has to name.

    Attributes:
        images: samples read.
        truth: annotated objects of each class; predicted: predicted ones, likewise.
        masked: how many of both have a mask.
        scores: of all predictions.
        crowded: samples with more predictions of one class than count.
        unlabelled: samples whose label field is empty.
        without_score: predictions that carry no confidence.
        ignored: annotated objects that are marked as to be ignored, or as difficult.
        uncounted: ids of annotated objects that count neither way, crowds among them.
        misread: whether FiftyOne would take others for such.
        rejected: predictions that a person has rejected; they are not in ``predicted``.
        label_field: field of the predictions.
        unusable: ids of labels that cannot be used, and why, with sample and field.
        unmatched: ids of labels that can be used and that FiftyOne cannot load.
        declared: field -> what the dataset declares of its labels.
    """

    label_field: str
    images: int = 0
    truth: Counter[int] = field(default_factory=Counter)
    predicted: Counter[int] = field(default_factory=Counter)
    masked: list[int] = field(default_factory=lambda: [0, 0])
    scores: array[float] = field(default_factory=lambda: array("d"))
    crowded: int = 0
    unlabelled: int = 0
    without_score: int = 0
    rejected: int = 0
    ignored: int = 0
    uncounted: list[Any] = field(default_factory=list)
    misread: bool = False
    unusable: list[tuple[Any, str]] = field(default_factory=list)
    unmatched: list[Any] = field(default_factory=list)
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def all_masked(self) -> bool:
        """Whether every object and every prediction has a mask."""
        return self.masked == [self.truth.total(), self.predicted.total()]

    @property
    def can_compare_masks(self) -> bool:
        """Whether both sides have masks, as far as there is anything on the side of the predictions."""
        return self.masked[0] > 0 and (self.masked[1] > 0 or not self.predicted.total())

    def count(self, truth: Sequence[GroundTruth], predicted: Sequence[Prediction]) -> None:
        """Counts what has been read of one sample."""
        self.images += 1
        self.truth.update(item.label for item in truth)
        self.masked[0] += sum(item.rle is not None for item in truth)
        self.masked[1] += sum(item.rle is not None for item in predicted)
        self.scores.extend(item.score for item in predicted)
        of_class = Counter(item.label for item in predicted)
        self.predicted.update(of_class)
        self.crowded += max(of_class.values(), default=0) > MAX_DETECTIONS


def remarks_on(objects: Objects, threshold: float) -> list[str]:
    """What a reader of the scores should know of what was read; ``threshold`` as ``evaluate`` takes it."""
    label_field, remarks = objects.label_field, []
    if not objects.scores:
        reason = "all were rejected or cannot be used" if objects.rejected or objects.unusable else (
            "label these images first, or choose another field"
        )  # fmt: skip
        remarks.append(f"no label in {label_field!r} counts here: {reason}")
    elif max(objects.scores) <= threshold:
        remarks.append(f"no label has a score above {threshold:g}, so no class is claimed: lower score_threshold")
    if objects.unlabelled:
        remarks.append(
            f"{objects.unlabelled} of {counted(objects.images, 'sample')} never labelled in {label_field!r} (or "
            "failed): all objects there count as missed"
        )
    if objects.rejected:
        remarks.append(f"{counted(objects.rejected, 'rejected label')} (tag {REJECTED_TAG}) left out")
    if objects.without_score:
        remarks.append(f"{counted(objects.without_score, 'label')} with no confidence, taken as certain (1.0)")
    if objects.unusable:
        lines = [line for _, line in objects.unusable[:_MOST_LINES]] + ["..."] * (len(objects.unusable) > _MOST_LINES)
        remarks.append(f"{counted(len(objects.unusable), 'label')} left out that cannot be used: {'; '.join(lines)}")
    if objects.ignored:
        remarks.append(
            f"{counted(objects.ignored, 'ground-truth object')} marked ignore or difficult: labels there count neither "
            "as right nor as wrong"
        )
    if objects.crowded:
        remarks.append(
            f"{counted(objects.crowded, 'sample')} with more than {MAX_DETECTIONS} labels of one class: only the "
            f"{MAX_DETECTIONS} best of each count, as COCO has it"
        )
    sides = ((objects.truth, "ground truth"), (objects.predicted, "predicted"))
    for (labels, name), masked in zip(sides, objects.masked, strict=True):
        if 0 < masked < (count := labels.total()):
            remarks.append(
                f"{count - masked} of {counted(count, f'{name} object')} without a mask: the filled box stands in for "
                "it"
            )
    return remarks
