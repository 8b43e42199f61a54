"""Scores semantic segmentation masks, called maps here for short: IoU of each class over all pixels, and the mean.

FiftyOne's own ``evaluate_segmentations`` gives accuracy, precision and recall, no IoU; it passes over images without a
predicted map, whose objects are missed, and pixels of values without a target, background among them. So the confusion
matrix is counted here; FiftyOne contributes what its review tools filter on (``eval_key``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import (
    Document,
    class_of,
    detection_of,
    has_mask,
    label_of,
    score_of,
    single_documents,
)
from fiftyone_ntt.dataset.fields import count_classes, dataset_of, is_map_field, with_sizes
from fiftyone_ntt.dataset.geometry import read_map_as_stored
from fiftyone_ntt.dataset.marks import left_out_mark
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError, as_text, counted, listing
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, Scores, presence_scores
from fiftyone_ntt.evaluation.left_out import listed_counts
from fiftyone_ntt.evaluation.map_documents import (
    PaintedMap,
    Ranking,
    StoredMap,
    check_map_size,
    piece_of,
    rows_at,
    targets_of,
)
from fiftyone_ntt.evaluation.objects import note_on_nothing, sized_samples
from fiftyone_ntt.evaluation.summary import ClassResult, EvaluationResults
from fiftyone_ntt.pixels.semantic_maps import VOID, SemanticScores, class_at_zero, confusion, rows_of

_NO_SCORES = Scores(None, None, None, None)
_NOWHERE = (0.0, 0.0, 0.0, 0.0)
_MOST_LINES = 5
_BEING_WRITTEN = "_being_written"
_Map = PaintedMap | StoredMap


@dataclass
class _Counts:
    """What has been read so far; of samples and labels that cannot be used, why.

    Attributes:
        matrix: pixels, row = class in the ground truth, column = predicted; 0 is background.
        marked: ground-truth labels of a crowd, difficult ones and such to be ignored.
        others: classes of the maps that are not scored: name -> pixels, of the ground truth and of the predictions.
        unseen: samples with a map in which FiftyOne does not see the values that it holds.
    """

    matrix: NDArray[np.int64]
    images: list[str] = field(default_factory=list)
    truth: list[GroundTruth] = field(default_factory=list)
    predicted: list[Prediction] = field(default_factory=list)
    without_truth: int = 0
    unlabelled: int = 0
    negatives: int = 0
    resized: int = 0
    void: int = 0
    marked: int = 0
    others: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    unusable: dict[Any, str] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    error: NttError | None = None

    def add(self, sample_id: str, truth: _Map, predicted: _Map | None) -> None:
        """Counts an image, some rows at a time; a class is in it where it has a pixel.

        Without a prediction all of it is background.
        """
        classes = len(self.matrix) - 1
        counts = np.zeros_like(self.matrix)
        for top, bottom in rows_of(truth.size):
            true = truth.rows(top, bottom)
            claimed = np.zeros_like(true) if predicted is None else rows_at(predicted, truth.size, top, bottom)
            counts += confusion(true, claimed, classes)
            self.void += int((true == VOID).sum())
        self.images.append(sample_id)
        self.matrix += counts
        self.resized += predicted is not None and predicted.size != truth.size
        there, claims = counts[1:].any(axis=1), counts[:, 1:].any(axis=0)
        self.truth += [GroundTruth(sample_id, int(k), _NOWHERE, None, False) for k in np.flatnonzero(there)]
        self.predicted += [Prediction(sample_id, int(k), _NOWHERE, 1.0, None) for k in np.flatnonzero(claims)]


def evaluate_maps(
    samples: SampleCollection,
    label_field: str,
    gt_field: str,
    classes: Sequence[str],
    *,
    score_threshold: float | None,
    notes: list[str],
    asked: bool = False,
    unusable: dict[Any, str] | None = None,
    unseen: list[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> EvaluationResults:
    """Scores fields of which at least one holds maps; detections in the other are painted as ``to_segmentation`` does.

    Pixels under ground truth that is marked as a crowd, as difficult or as to be ignored count neither way, unless
    another object lies on them.

    Args:
        samples: the samples to score.
        label_field: predictions.
        gt_field: ground truth. Values without a mask target, other than 0, count neither way; classes that are not
            scored are background.
        classes: the classes to score.
        score_threshold: of predicted detections, undecided ones at or below this do not count.
        notes: what there is to know already; extended.
        asked: whether a caller chose the classes: others are left out on purpose.
        unusable: gets the ids of samples (with a map) and labels that cannot be used, and why.
        unseen: gets the ids of samples with a map that FiftyOne would read otherwise.
        progress: called with (done, total, message).

    Raises:
        InputError: if there is nothing to compare.
        WrongTypeError: if all maps are colours.
    """
    if score_threshold is not None and is_map_field(samples, label_field):
        raise InputError(
            f"expected no score_threshold for the masks in {label_field!r}, which have no scores; give it to "
            "to_segmentation, or evaluate the labels that the masks were made from"
        )
    if not (is_map_field(samples, gt_field) and is_map_field(samples, label_field)):
        samples = with_sizes(samples, notes)
    counts = _Counts(
        np.zeros((len(classes) + 1,) * 2, np.int64),
        unusable={} if unusable is None else unusable,
        unseen=[] if unseen is None else unseen,
    )
    truth = _reader(samples, gt_field, classes, counts, None, is_truth=True)
    predicted = _reader(samples, label_field, classes, counts, score_threshold, is_truth=False)
    total = len(samples)
    for done, (sample_id, size, documents) in enumerate(sized_samples(samples, gt_field, label_field), start=1):
        _compare(sample_id, size, documents, (truth, predicted), counts)
        if progress is not None:
            progress(done, total, f"comparing masks ({done} of {total})")
    if not counts.images:
        if counts.error is not None:  # what is wrong with the first one may be wrong with all of them
            raise counts.error
        raise InputError(f"no ground truth: {counted(total, 'sample')}, none with a mask in {gt_field!r}")
    notes += _class_notes(samples, label_field, gt_field, classes, counts, asked)
    return _results(counts, classes, label_field, gt_field, notes)


_Reader = Callable[["Document | None", "tuple[int, int] | None"], "_Map | None"]
"""From a sample's label and its image's size to a map."""


def _reader(
    samples: SampleCollection, name: str, classes: Sequence[str], counts: _Counts, least: float | None, is_truth: bool
) -> _Reader:
    """What turns a sample's label into a map of the classes; ``None`` where there is none."""
    if not is_map_field(samples, name):
        index, ranking = {name: k for k, name in enumerate(classes, start=1)}, Ranking.of(samples, name, least)
        return lambda label, size: _painted(label, index, counts, ranking, size, is_truth)
    targets, unknown = targets_of(samples, name), VOID if is_truth else 0
    others = counts.others[0 if is_truth else 1]

    def stored(label: Document | None, _size: tuple[int, int] | None) -> StoredMap | None:
        if label is None or not has_mask(label):
            return None
        values, is_plain = read_map_as_stored(label_of(label))
        return StoredMap(values, targets, classes, unknown, others, is_plain)

    return stored


def _painted(
    value: Document | None, index: Mapping[str, int], counts: _Counts, ranking: Ranking,
    size: tuple[int, int] | None, is_truth: bool,
) -> PaintedMap:  # fmt: skip
    """Labels as a map; notes those that cannot be used."""
    if size is None:
        raise InputError("expected the image's size in the sample's metadata; run dataset.compute_metadata()")
    check_map_size(size)
    pieces = []
    for document in single_documents(value):
        name, rank = class_of(document), ranking.rank(document)
        if name is None or name not in index or rank is None:
            continue
        try:
            score_of(document)
            counts_not = is_truth and left_out_mark(document) is not None
            value_of = VOID if counts_not else index[name]
            # An object on a region that counts neither way counts.
            pieces.append(piece_of(detection_of(document), value_of, (float(not counts_not), *rank), size))
            counts.marked += counts_not
        except InputError as error:
            key = document.get("_id")
            counts.unusable[key] = f"label {key} ({as_text(name)}): {error}"
    return PaintedMap(pieces, size)


def _compare(
    sample_id: str, size: tuple[int, int] | None, documents: Sequence[Document | None],
    readers: tuple[_Reader, _Reader], counts: _Counts,
) -> None:  # fmt: skip
    """Counts the pixels of a sample; ``documents`` and ``readers`` are of the truth, then of the predictions."""
    try:
        true, claimed = (read(document, size) for read, document in zip(readers, documents, strict=True))
    except (InputError, WrongTypeError) as error:
        counts.error = counts.error or type(error)(f"sample {sample_id}: {error}")
        counts.unusable[sample_id] = f"sample {sample_id}: {error}"
        return
    if true is None:
        counts.without_truth += 1
        return
    if documents[1] is None or claimed is None:
        counts.unlabelled += 1
        claimed = None
    if any(isinstance(values, StoredMap) and not values.is_plain for values in (true, claimed)):
        counts.unseen.append(sample_id)
    counts.negatives += documents[0] is None
    counts.add(sample_id, true, claimed)


def _class_notes(
    samples: SampleCollection, label_field: str, gt_field: str, classes: Sequence[str], counts: _Counts, asked: bool
) -> list[str]:
    """What a reader should know of classes that nobody asked to leave out, and of those without ground truth."""
    notes = []
    sides = (
        () if asked else ((gt_field, "ground truth", counts.others[0]), (label_field, "predictions", counts.others[1]))
    )
    for name, side, pixels in sides:
        if is_map_field(samples, name):
            others, unit = dict(pixels), "pixel"
        else:
            others = {label: count for label, count in count_classes(samples, name).items() if label not in classes}
            unit = "label"
        if others:
            notes.append(
                f"classes of the {side} that are not scored, since the run does not know them, and count as "
                f"background: {listed_counts(others, unit)}"
            )
    at_zero = {name: class_at_zero(targets_of(samples, name)) for name, _, _ in sides if is_map_field(samples, name)}
    for field_name, zero in at_zero.items():
        if zero is not None and zero not in classes:
            notes.append(
                f"value 0 of the masks in {field_name!r} is background, so {as_text(zero)!r}, as it is called there, "
                "is not scored; name it among the classes to score it, or give it another value"
            )
    bare = [name for k, name in enumerate(classes, 1) if not counts.matrix[k].any() and counts.matrix[:, k].any()]
    if bare:
        notes.append(f"{listing(bare)}: no ground truth here; what is predicted counts as an IoU of 0")
    return notes


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
        unusable = counted(len(counts.unusable), "mask or label", "masks or labels")
        remarks.append(f"{unusable} left out that cannot be used: {'; '.join(lines)}")
    if scores.nowhere:
        remarks.append(
            f"{listing(scores.nowhere)}: no pixel in ground truth or predictions; in no mean, neither as 0 nor as 1"
        )
    if counts.unlabelled:
        remarks.append(
            f"{counts.unlabelled} of {counted(len(counts.images), 'sample')} with nothing in {label_field!r}: all of "
            "it counts as background, all objects there as missed"
        )
    if counts.negatives:
        remarks.append(note_on_nothing(counts.negatives, len(counts.images), gt_field))
    if counts.without_truth:
        remarks.append(f"{counted(counts.without_truth, 'sample')} without a mask in {gt_field!r} left out")
    if counts.resized:
        remarks.append(f"{counted(counts.resized, 'mask')} brought to the size of the ground truth (nearest pixel)")
    if counts.void:
        share = f"{counts.void / max(counts.void + scores.pixels, 1):.1%} of the pixels"
        remarks.append(
            f"{share} count neither way: they lie under {counted(counts.marked, 'ground-truth label')} marked as a "
            "crowd, as difficult or as to be ignored"
            if counts.marked
            else f"{share} have a value without a mask target in {gt_field!r}: left out"
        )
    return remarks


def write_map_scores(
    samples: SampleCollection, label_field: str, gt_field: str, classes: Sequence[str], eval_key: str
) -> None:
    """FiftyOne's accuracy, precision and recall of each image, and its evaluation panel.

    Args:
        samples: the samples that were evaluated, but for those with maps that FiftyOne reads otherwise.
        label_field: field of maps.
        gt_field: field of maps.
        classes: the classes.
        eval_key: key of the evaluation; one of this key is replaced as soon as the new one is there.
    """
    targets = shared_targets(samples, label_field, gt_field, classes)
    dataset, new_key = dataset_of(samples), f"{eval_key}{_BEING_WRITTEN}"
    _forget(dataset, new_key)  # of a process that was killed
    try:
        samples.evaluate_segmentations(
            label_field, gt_field=gt_field, eval_key=new_key, mask_targets={0: "background", **targets}, progress=False
        )
    except Exception:
        _forget(dataset, new_key)
        raise
    _forget(dataset, eval_key)
    dataset.rename_evaluation(new_key, eval_key)


def _forget(dataset: fo.Dataset, eval_key: str) -> None:
    if dataset.has_evaluation(eval_key):
        dataset.delete_evaluation(eval_key)


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
        f"an eval_key needs masks with the same mask targets in {label_field!r} and {gt_field!r}; leave it out, or "
        "make both with to_segmentation and the same classes"
    )
