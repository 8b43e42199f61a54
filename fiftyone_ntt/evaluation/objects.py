"""What an evaluation reads from a view, and what there is to say of detections read so."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import (
    Document,
    StoredDetection,
    class_of,
    detection_of,
    relative_box,
    single_documents,
    tags_of,
)
from fiftyone_ntt.dataset.fields import REJECTED_TAG, has_masks
from fiftyone_ntt.dataset.geometry import FAR_OUTSIDE, place_mask
from fiftyone_ntt.dataset.marks import attribute_of, is_crowd, is_ignored
from fiftyone_ntt.dataset.parts import in_threads, raw_parts, raw_samples
from fiftyone_ntt.dataset.schema import can_be_loaded, declared_attributes
from fiftyone_ntt.errors import InputError, as_text, counted
from fiftyone_ntt.evaluation.coco import (
    IMAGES_AT_ONCE,
    MAX_DETECTIONS,
    Box,
    CocoScorer,
    GroundTruth,
    Prediction,
    encode_box,
)
from fiftyone_ntt.evaluation.found import PresenceCounter
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.pixels.images import image_size
from fiftyone_ntt.pixels.mask_codes import Rle, encode_crop

_MOST_LINES = 5
_OF_IMAGES = ("id", "filepath", "metadata.height", "metadata.width")
Scorers = tuple[CocoScorer, PresenceCounter]


def size_of(path: str, height: Any, width: Any) -> tuple[int, int] | None:
    """``(height, width)`` of an image in pixels: of its file where that tells, or else as noted; ``None`` without both.

    The image knows best: FiftyOne takes some photographs for lying on their side, and files are replaced.
    """
    return image_size(path) or ((int(height), int(width)) if height and width else None)


def sized_samples(
    view: SampleCollection, gt_field: str, label_field: str
) -> Iterator[tuple[str, tuple[int, int] | None, list[Document | None]]]:
    """Id of each sample, ``size_of`` its image, and what is in its fields of the truth and of the predictions."""
    for sample_id, path, height, width, *documents in raw_samples(view, [*_OF_IMAGES, gt_field, label_field]):
        yield str(sample_id), size_of(path, height, width), documents


def note_on_nothing(count: int, images: int, gt_field: str) -> str:
    """What to say of samples whose ground truth is ``None``, as many imports leave images without objects."""
    return (
        f"{count} of {counted(images, 'sample')} with nothing in {gt_field!r} (None) count as images without objects: "
        f"if nobody has annotated them, evaluate view.exists({gt_field!r})"
    )


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
        without_truth: samples whose ground truth is.
        without_score: predictions that carry no confidence.
        ignored: annotated objects that are marked as to be ignored, or as difficult.
        uncounted: ids of annotated objects that count neither way, crowds among them.
        misread: whether FiftyOne would take others for such.
        rejected: predictions that a person has rejected; they are not in ``predicted``.
        label_field: field of the predictions.
        gt_field: field of the truth.
        unusable: ids of labels that cannot be used, and why, with sample and field.
        unmatched: ids of labels that can be used and that FiftyOne cannot load.
        declared: field -> what the dataset declares of its labels.
    """

    label_field: str
    gt_field: str
    images: int = 0
    truth: Counter[int] = field(default_factory=Counter)
    predicted: Counter[int] = field(default_factory=Counter)
    masked: list[int] = field(default_factory=lambda: [0, 0])
    scores: array[float] = field(default_factory=lambda: array("d"))
    crowded: int = 0
    unlabelled: int = 0
    without_truth: int = 0
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

    def add(self, other: Objects) -> None:
        """Counts what has been read of other samples, which come after these."""
        for name in ("images", "crowded", "unlabelled", "without_truth", "without_score", "rejected", "ignored"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("scores", "uncounted", "unusable", "unmatched"):
            getattr(self, name).extend(getattr(other, name))
        self.truth.update(other.truth)
        self.predicted.update(other.predicted)
        self.masked = [own + more for own, more in zip(self.masked, other.masked, strict=True)]
        self.misread |= other.misread


def read_objects(
    view: SampleCollection, label_field: str, gt_field: str, classes: Sequence[str], threshold: float,
    progress: Progress | None, boundary: bool = False,
) -> tuple[Objects, Scorers]:  # fmt: skip
    """Reads the labels of a view and scores them, some images at a time: all masks at once would take gigabytes.

    Args:
        view: images of known size.
        label_field: the predictions.
        gt_field: the ground truth.
        classes: labels of others are passed over.
        threshold: a class is claimed for an image where a prediction of it scores above this.
        progress: called with (done, total, message).
        boundary: also compare the borders of masks.

    Returns:
        What was read, and what scores it.
    """
    declared = {name: declared_attributes(view, name) for name in (gt_field, label_field)}
    index = {name: k for k, name in enumerate(classes)}

    def read(rows: list[tuple[Any, ...]]) -> tuple[Objects, _Block]:
        return _of_rows(rows, Objects(label_field, gt_field, declared=declared), index)

    # Whether masks can be compared is known when all has been read. Without any in the truth they cannot.
    scorers = CocoScorer(classes, has_masks(view, gt_field), boundary), PresenceCounter(classes, threshold)
    objects, block, total = Objects(label_field, gt_field, declared=declared), _Block(), len(view)
    parts = raw_parts(view, [*_OF_IMAGES, gt_field, label_field])
    for some, images in in_threads(read, parts):
        objects.add(some)
        block.add(images)
        if len(block.sizes) >= IMAGES_AT_ONCE:
            _score(scorers, block)
            block = _Block()
        for done in range(objects.images - some.images + 1, objects.images + 1):
            if progress is not None:
                progress(done, total, f"reading labels ({done} of {total})")
    _score(scorers, block)
    return objects, scorers


@dataclass
class _Block:
    """Some images: id -> ``(height, width)`` in pixels, and what is on them."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    truth: list[GroundTruth] = field(default_factory=list)
    predicted: list[Prediction] = field(default_factory=list)

    def add(self, other: _Block) -> None:
        """Adds the images of another block."""
        self.sizes |= other.sizes
        self.truth += other.truth
        self.predicted += other.predicted


def _of_rows(rows: list[tuple[Any, ...]], objects: Objects, index: dict[str, int]) -> tuple[Objects, _Block]:
    """Reads some samples: ``_OF_IMAGES``, and what the database holds of the truth and of the predictions."""
    block = _Block()
    for sample_id, path, height, width, *documents in rows:
        key, size = str(sample_id), size_of(path, height, width)
        if size is None:  # others were left out before: somebody has cleared what was noted since
            raise InputError(f"the size of the image of sample {key} is not known any more ({path}); evaluate again")
        truth, predicted = _of_sample(objects, key, size, documents, index)
        objects.count(truth, predicted)
        block.add(_Block({key: size}, truth, predicted))
    return objects, block


def _of_sample(
    objects: Objects, key: str, size: tuple[int, int], documents: Sequence[Any], index: dict[str, int]
) -> tuple[list[GroundTruth], list[Prediction]]:
    """Objects and predictions of a sample; ``documents`` are those of the truth, then of the predictions."""
    truth, predicted = [], []
    for document, label, box, rle in _usable(objects, documents[0], index, size, key, objects.gt_field):
        ignored = is_ignored(document)
        objects.ignored += ignored
        counts_not = ignored or is_crowd(document)
        truth.append(GroundTruth(key, index[label.label], box, rle, counts_not))
        objects.uncounted += [document.get("_id")] * (counts_not and "_id" in document)
        objects.misread |= counts_not != bool(attribute_of(document, "iscrowd"))
    objects.without_truth += documents[0] is None
    objects.unlabelled += documents[1] is None
    for _, label, box, rle in _usable(objects, documents[1], index, size, key, objects.label_field):
        score = 1.0 if label.confidence is None else float(label.confidence)
        objects.without_score += label.confidence is None
        predicted.append(Prediction(key, index[label.label], box, score, rle))
    return truth, predicted


def _score(scorers: Scorers, block: _Block) -> None:
    """Where some labels have masks, the filled box stands in for those that have none."""
    coco, presence = scorers

    def filled(item: Any) -> Any:
        return item if item.rle is not None else replace(item, rle=encode_box(item.box, block.sizes[item.image_id]))

    truth, predicted, image_ids = block.truth, block.predicted, list(block.sizes)
    presence.add(truth, predicted, image_ids)
    if coco.masks:
        truth, predicted = list(map(filled, truth)), list(map(filled, predicted))
    coco.add(truth, predicted, image_ids)


def _usable(
    objects: Objects, value: Document | None, index: dict[str, int], size: tuple[int, int], sample_id: str, field: str
) -> Iterator[tuple[Document, Any, Box, Rle | None]]:
    """The labels of a sample's field that count, with box and mask. One that cannot be used is noted and left out."""
    for document in single_documents(value):
        name = class_of(document)
        if name not in index:
            continue
        if field == objects.label_field and REJECTED_TAG in tags_of(document):
            objects.rejected += 1
            continue
        try:
            label = detection_of(document)
            box, rle = _geometry(label, size)
            if not can_be_loaded(document, objects.declared[field]):
                objects.unmatched.append(document.get("_id"))
            yield document, label, box, rle
        except InputError as error:
            where = f"sample {sample_id}, label {document.get('_id')} ({as_text(name)}) in {field!r}"
            objects.unusable.append((document.get("_id"), f"{where}: {error}"))


def _geometry(label: StoredDetection, size: tuple[int, int]) -> tuple[Box, Rle | None]:
    """Box (xyxy, image pixels, not clipped) and mask of a label; the mask is ``None`` where it has none."""
    box = _box(label, size)
    if not label.has_mask:
        return box, None
    if min(box[2], size[1]) <= max(box[0], 0) or min(box[3], size[0]) <= max(box[1], 0):
        return box, encode_box((0, 0, 0, 0), size)  # no part of it lies in the image: nothing can match it
    left, top, crop = place_mask(label, size)
    return box, encode_crop(crop, left, top, size)


def _box(label: StoredDetection, size: tuple[int, int]) -> Box:
    x, y, w, h = relative_box(label.bounding_box).tolist()
    if max(map(abs, (x, y, w, h))) > FAR_OUTSIDE or min(w, h) < 0:
        raise InputError(f"the box {[x, y, w, h]} is no part of an image")
    height, width = size
    # A pixel coordinate divided and multiplied by the width is off by a rounding error; matches at IoU 0.5 see that.
    return _rounded(x * width), _rounded(y * height), _rounded((x + w) * width), _rounded((y + h) * height)


def _rounded(value: float) -> float:
    """To six digits as numpy rounds, which takes several times longer for four numbers."""
    return round(value * 1e6) / 1e6


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
    if objects.without_truth:
        remarks.append(note_on_nothing(objects.without_truth, objects.images, objects.gt_field))
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
