"""What an evaluation of detections has read from a view, and what there is to say of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fiftyone_ntt.dataset.fields import REJECTED_TAG
from fiftyone_ntt.errors import counted
from fiftyone_ntt.evaluation.coco import MAX_DETECTIONS, GroundTruth, Prediction

_MOST_LINES = 5


@dataclass
class Objects:
    """Everything that an evaluation of detections has read from a view.

    Attributes:
        truth: annotated objects; ``rle`` is ``None`` where a label has no mask.
        predicted: predicted objects, likewise.
        sizes: sample id -> ``(height, width)`` in pixels, in the order of the view.
        unlabelled: samples whose label field is empty.
        without_score: predictions that carry no confidence.
        ignored: annotated objects that are marked as to be ignored, or as difficult.
        uncounted: ids of annotated objects that count neither way, crowds among them.
        misread: whether FiftyOne would take others for such.
        rejected: predictions that a person has rejected; they are not in ``predicted``.
        label_field: field of the predictions.
        unusable: id of a label that cannot be used -> why, with its sample and field.
    """

    label_field: str
    truth: list[GroundTruth] = field(default_factory=list)
    predicted: list[Prediction] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    unlabelled: int = 0
    without_score: int = 0
    rejected: int = 0
    ignored: int = 0
    uncounted: list[Any] = field(default_factory=list)
    misread: bool = False
    unusable: dict[Any, str] = field(default_factory=dict)

    @property
    def all_masked(self) -> bool:
        return all(item.rle is not None for item in self.truth) and all(item.rle is not None for item in self.predicted)


def remarks_on(objects: Objects, threshold: float) -> list[str]:
    """What a reader of the scores should know of what was read; ``threshold`` as ``evaluate`` takes it."""
    label_field, remarks = objects.label_field, []
    if not objects.predicted:
        reason = "all were rejected or cannot be used" if objects.rejected or objects.unusable else (
            "label these images first, or choose another field"
        )  # fmt: skip
        remarks.append(f"no label in {label_field!r} counts here: {reason}")
    elif max(item.score for item in objects.predicted) <= threshold:
        remarks.append(f"no label has a score above {threshold:g}, so no class is claimed: lower score_threshold")
    if objects.unlabelled:
        remarks.append(
            f"{objects.unlabelled} of {counted(len(objects.sizes), 'sample')} never labelled in {label_field!r} (or "
            "failed): all objects there count as missed"
        )
    if objects.rejected:
        remarks.append(f"{counted(objects.rejected, 'rejected label')} (tag {REJECTED_TAG}) left out")
    if objects.without_score:
        remarks.append(f"{counted(objects.without_score, 'label')} with no confidence, taken as certain (1.0)")
    if objects.unusable:
        lines = [*list(objects.unusable.values())[:_MOST_LINES], *["..."] * (len(objects.unusable) > _MOST_LINES)]
        remarks.append(f"{counted(len(objects.unusable), 'label')} left out that cannot be used: {'; '.join(lines)}")
    if objects.ignored:
        remarks.append(
            f"{counted(objects.ignored, 'ground-truth object')} marked ignore or difficult: labels there count neither "
            "as right nor as wrong"
        )
    crowded = Counter((item.image_id, item.label) for item in objects.predicted)
    many = {image_id for (image_id, _), count in crowded.items() if count > MAX_DETECTIONS}
    if many:
        remarks.append(
            f"{counted(len(many), 'sample')} with more than {MAX_DETECTIONS} labels of one class: only the "
            f"{MAX_DETECTIONS} best of each count, as COCO has it"
        )
    for items, name in ((objects.truth, "ground truth"), (objects.predicted, "predicted")):
        bare = sum(item.rle is None for item in items)
        if 0 < bare < len(items):
            remarks.append(
                f"{bare} of {counted(len(items), f'{name} object')} without a mask: the filled box stands in for it"
            )
    return remarks
