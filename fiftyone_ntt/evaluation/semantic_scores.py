"""Scores semantic segmentation masks, called maps here for short: IoU of each class over all pixels, and the mean.

FiftyOne's own ``evaluate_segmentations`` gives accuracy, precision and recall, no IoU; it passes over images without a
predicted map, whose objects are missed, and pixels of values without a target, background among them. So the confusion
matrix is counted here; FiftyOne contributes what its review tools filter on (``eval_key``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import Document, detection_of, has_mask, label_of, score_of, single_documents
from fiftyone_ntt.dataset.fields import REJECTED_TAG, dataset_of, is_map_field, with_sizes
from fiftyone_ntt.dataset.geometry import read_map, stretched
from fiftyone_ntt.dataset.storage import raw_samples
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError, as_text
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, Scores, presence_scores
from fiftyone_ntt.evaluation.map_documents import in_classes, piece_of, targets_of
from fiftyone_ntt.evaluation.summary import ClassResult, EvaluationResults
from fiftyone_ntt.pixels.semantic_maps import VOID, SemanticScores, confusion, paint

_NO_SCORES = Scores(None, None, None, None)
_NOWHERE = (0.0, 0.0, 0.0, 0.0)
_MOST_LINES = 5
_Map = NDArray[np.int64]


@dataclass
class _Counts:
    """What has been read so far; of samples and labels that cannot be used, why."""

    matrix: NDArray[np.int64]
    images: list[str] = field(default_factory=list)
    truth: list[GroundTruth] = field(default_factory=list)
    predicted: list[Prediction] = field(default_factory=list)
    without_truth: int = 0
    unlabelled: int = 0
    resized: int = 0
    void: int = 0
    unusable: dict[Any, str] = field(default_factory=dict)
    error: NttError | None = None

    def add(self, sample_id: str, truth: _Map, predicted: _Map) -> None:
        """Counts an image; a class is in it where it has a pixel."""
        self.images.append(sample_id)
        # [1 + K, 1 + K] pixels: row = class in the ground truth, column = predicted; 0 is background
        counts = confusion(truth, predicted, len(self.matrix) - 1)
        self.matrix += counts
        self.void += int((truth == VOID).sum())
        there, claimed = counts[1:].any(axis=1), counts[:, 1:].any(axis=0)
        self.truth += [GroundTruth(sample_id, int(k), _NOWHERE, None, False) for k in np.flatnonzero(there)]
        self.predicted += [Prediction(sample_id, int(k), _NOWHERE, 1.0, None) for k in np.flatnonzero(claimed)]


def evaluate_maps(
    samples: SampleCollection,
    label_field: str,
    gt_field: str,
    classes: Sequence[str],
    *,
    score_threshold: float | None,
    notes: list[str],
    unusable: dict[Any, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> EvaluationResults:
    """Scores fields of which at least one holds maps; detections in the other are painted as ``to_segmentation`` does.

    Args:
        samples: the samples to score.
        label_field: predictions.
        gt_field: ground truth. Values without a mask target, other than 0, count neither way; classes that are not
            scored are background.
        classes: the classes to score.
        score_threshold: of predicted detections, those at or below this do not count.
        notes: what there is to know already; extended.
        unusable: gets the ids of samples (with a map) and labels that cannot be used, and why.
        progress: called with (done, total, message).

    Raises:
        InputError: if there is nothing to compare.
        WrongTypeError: if all maps are colours.
    """
    if score_threshold is not None and is_map_field(samples, label_field):
        raise InputError(
            f"expected no score_threshold for the maps in {label_field!r}, which have no scores; give it to "
            "to_segmentation, or evaluate the labels that the maps were made from"
        )
    if not (is_map_field(samples, gt_field) and is_map_field(samples, label_field)):
        samples = with_sizes(samples, notes)
    truth = _reader(samples, gt_field, classes, VOID, None)
    predicted = _reader(samples, label_field, classes, 0, score_threshold)
    counts = _Counts(np.zeros((len(classes) + 1,) * 2, np.int64), unusable={} if unusable is None else unusable)
    total = len(samples)
    rows = raw_samples(samples, ["id", "metadata.height", "metadata.width", gt_field, label_field])
    for done, (sample_id, height, width, *documents) in enumerate(rows, start=1):
        size = (int(height), int(width)) if height and width else None
        _compare(str(sample_id), size, documents, (truth, predicted), counts)
        if progress is not None:
            progress(done, total, f"comparing maps ({done} of {total})")
    if not counts.images:
        if counts.error is not None:  # what is wrong with the first one may be wrong with all of them
            raise counts.error
        raise InputError(f"no ground truth: none of the {total} samples has a map in {gt_field!r}")
    return _results(counts, classes, label_field, gt_field, notes)


_Reader = Callable[["Document | None", "tuple[int, int] | None", dict[Any, str]], "_Map | None"]
"""From a sample's label and its image's size to a map; notes the labels that cannot be used: id -> why."""


def _reader(samples: SampleCollection, name: str, classes: Sequence[str], unknown: int, least: float | None) -> _Reader:
    """What turns a sample's label into a map of the classes; ``None`` where there is none."""
    if is_map_field(samples, name):
        targets = targets_of(samples, name)
        return lambda label, size, unusable: None if label is None or not has_mask(label) else in_classes(
            read_map(label_of(label)), targets, classes, unknown
        )  # fmt: skip
    index = {name: k for k, name in enumerate(classes, start=1)}
    return lambda label, size, unusable: _painted(label, index, least, size, unusable)


def _painted(
    value: Document | None, index: Mapping[str, int], least: float | None, size: tuple[int, int] | None,
    unusable: dict[Any, str],
) -> _Map:  # fmt: skip
    if size is None:
        raise InputError("expected the image's size in the sample's metadata; run dataset.compute_metadata()")
    pieces = []
    for document in single_documents(value):
        if document.get("label") not in index or REJECTED_TAG in (document.get("tags") or ()):
            continue
        try:
            score = score_of(document)
            if least is None or score > least:
                pieces.append(piece_of(detection_of(document), index[document["label"]], (score,), size))
        except InputError as error:
            unusable[document.get("_id")] = f"label {document.get('_id')} ({as_text(document['label'])}): {error}"
    return paint(pieces, size, len(index)).astype(np.int64)


def _compare(
    sample_id: str, size: tuple[int, int] | None, documents: Sequence[Document | None],
    readers: tuple[_Reader, _Reader], counts: _Counts,
) -> None:  # fmt: skip
    """Counts the pixels of a sample; ``documents`` and ``readers`` are of the truth, then of the predictions."""
    try:
        true, claimed = (
            read(document, size, counts.unusable) for read, document in zip(readers, documents, strict=True)
        )
    except (InputError, WrongTypeError) as error:
        counts.error = counts.error or type(error)(f"sample {sample_id}: {error}")
        counts.unusable[sample_id] = f"sample {sample_id}: {error}"
        return
    if true is None:
        counts.without_truth += 1
        return
    if documents[1] is None or claimed is None:
        counts.unlabelled += 1
        claimed = np.zeros_like(true)
    counts.resized += claimed.shape != true.shape
    counts.add(sample_id, true, stretched(claimed, true.shape))


def _results(
    counts: _Counts, classes: Sequence[str], label_field: str, gt_field: str, notes: list[str]
) -> EvaluationResults:
    scores = SemanticScores.of(counts.matrix, classes)
    presence = presence_scores(counts.truth, counts.predicted, classes, counts.images, 0.0)
    notes.extend(_remarks(counts, scores, label_field, gt_field))
    rows = []
    for k, name in enumerate(classes):
        there = presence.per_class[name]
        objects, claims = (sum(item.label == k for item in items) for items in (counts.truth, counts.predicted))
        iou, shares = scores.per_class[name], (there.precision, there.recall, there.f1)
        rows.append(ClassResult(name, objects, claims, _NO_SCORES, _NO_SCORES, *shares, iou=iou))
    return EvaluationResults(
        _NO_SCORES, _NO_SCORES, presence, tuple(rows), len(counts.images), notes=tuple(notes), semantic=scores
    )


def _remarks(counts: _Counts, scores: SemanticScores, label_field: str, gt_field: str) -> list[str]:
    remarks = []
    if counts.unusable:
        lines = [*list(counts.unusable.values())[:_MOST_LINES], *["..."] * (len(counts.unusable) > _MOST_LINES)]
        remarks.append(f"{len(counts.unusable)} maps or labels cannot be used and are left out: {'; '.join(lines)}")
    if scores.nowhere:
        remarks.append(
            f"{', '.join(map(as_text, scores.nowhere))}: no pixel in ground truth or predictions; in no mean, neither "
            "as 0 nor as 1"
        )
    if counts.unlabelled:
        remarks.append(
            f"{counts.unlabelled} of {len(counts.images)} samples have nothing in {label_field!r}; all of them counts "
            "as background, their objects as missed"
        )
    if counts.without_truth:
        remarks.append(f"{counts.without_truth} samples without a map in {gt_field!r} left out")
    if counts.resized:
        remarks.append(f"{counts.resized} maps were brought to the size of the ground truth (nearest pixel)")
    if counts.void:
        share = counts.void / max(counts.void + scores.pixels, 1)
        remarks.append(f"{share:.1%} of the pixels have a value without a mask target in {gt_field!r}: left out")
    return remarks


def write_map_scores(
    samples: SampleCollection, label_field: str, gt_field: str, classes: Sequence[str], eval_key: str
) -> None:
    """FiftyOne's accuracy, precision and recall of each image, and its evaluation panel.

    Args:
        samples: the samples that were evaluated.
        label_field: field of maps.
        gt_field: field of maps.
        classes: the classes.
        eval_key: key of the evaluation; one of this key is replaced.
    """
    targets = shared_targets(samples, label_field, gt_field, classes)
    if dataset_of(samples).has_evaluation(eval_key):
        dataset_of(samples).delete_evaluation(eval_key)
    samples.evaluate_segmentations(
        label_field, gt_field=gt_field, eval_key=eval_key, mask_targets={0: "background", **targets}, progress=False
    )


def shared_targets(
    samples: SampleCollection, label_field: str, gt_field: str, classes: Sequence[str]
) -> dict[int, str]:
    """Values of the classes that mean the same in both fields; raises InputError where they do not."""
    if is_map_field(samples, label_field) and is_map_field(samples, gt_field):
        ours, theirs = (
            {value: name for value, name in targets_of(samples, field).items() if name in classes and value}
            for field in (label_field, gt_field)
        )
        if ours == theirs:
            return ours
    raise InputError(
        f"an eval_key needs maps with the same mask targets in {label_field!r} and {gt_field!r}; leave it out, or make "
        "both with to_segmentation and the same classes"
    )
