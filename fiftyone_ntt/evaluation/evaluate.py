"""Scores a field of predicted detections against ground truth: COCO box and mask scores, presence, per-object matches.

AP and AR come from pycocotools, never from FiftyOne, whose own mAP is too high where scores tie. FiftyOne contributes
the per-object matches (``eval_key``) that its review tools rely on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import Document, detection_of, relative_box, score_of, single_documents
from fiftyone_ntt.dataset.fields import (
    NO_IMAGES,
    REJECTED_TAG,
    check_detections_field,
    check_name,
    dataset_of,
    is_map_field,
    is_name,
    label_path,
    whole_images,
    with_sizes,
)
from fiftyone_ntt.dataset.geometry import FAR_OUTSIDE, place_mask
from fiftyone_ntt.dataset.labels import attribute_of, is_crowd, is_ignored
from fiftyone_ntt.dataset.storage import raw_samples
from fiftyone_ntt.errors import InputError, as_text, counted
from fiftyone_ntt.evaluation.coco import (
    Box,
    CocoScores,
    GroundTruth,
    Prediction,
    PresenceScores,
    Scores,
    coco_scores,
    encode_box,
    presence_scores,
)
from fiftyone_ntt.evaluation.fiftyone_matches import UNCOUNTED_NOTE, Matching, keep_results, write_matches
from fiftyone_ntt.evaluation.left_out import SeenImages, class_notes
from fiftyone_ntt.evaluation.map_documents import targets_of
from fiftyone_ntt.evaluation.objects import Objects, remarks_on
from fiftyone_ntt.evaluation.review_point import ReviewPoint, review_thresholds
from fiftyone_ntt.evaluation.semantic_scores import evaluate_maps, shared_targets, write_map_scores
from fiftyone_ntt.evaluation.summary import ClassResult, EvaluationResults
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.labelling import EvaluateParams
from fiftyone_ntt.pixels.mask_codes import Rle, encode_crop
from fiftyone_ntt.runs.record import provenance_of

_NO_SCORES = Scores(None, None, None, None)


def evaluate(
    view: SampleCollection,
    label_field: str = "ntt",
    gt_field: str = "ground_truth",
    *,
    eval_key: str | None = None,
    score_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    include_references: bool = False,
    progress: Progress | None = None,
) -> EvaluationResults:
    """Scores predicted detections, or semantic segmentation masks, against ground truth.

    AP and AR rank all labels of the field whatever their score; ``notes`` say where the run left weak ones out.
    Objects with the attribute ``iscrowd``, ``ignore`` or ``difficult`` count neither as found nor as missed, nor does
    what lies on them; of segmentation masks, neither do the pixels under them.
    A sample without labels counts: its objects are missed. Labels that a person has rejected are left out, and so are
    those whose box or mask cannot be read, which ``notes`` name. Image sizes are computed and kept where they are
    missing, and so are the results, for the App.

    Where one of the fields holds semantic segmentation masks, pixels are compared: ``results.semantic`` has the IoU of
    each class and its mean, with and without background. Detections in the other field are painted into such masks
    first. A class without a pixel in ground truth and predictions is in no mean; ``notes`` name it. Such results are
    not kept.

    Args:
        view: the samples to score; of grouped samples, those of the active slice. Images that the references come from
            are left out, those that were learned from and copies of them (files of the same content) included;
            ``notes`` say how many.
        label_field: ``Detections`` or ``Segmentation`` field with the predictions.
        gt_field: ``Detections`` or ``Segmentation`` field with the ground truth.
        eval_key: also writes FiftyOne's per-object matches (true and false positives, misses at IoU 0.5) under this
            key, replacing an evaluation of the same key. Of segmentation masks, its per-image accuracy, precision and
            recall.
        score_threshold: labels at or below this score neither claim presence nor take part in the matches; 0 where
            ``None``, so that every label counts.
        classes: the classes to score; those of the run that wrote ``label_field`` where ``None``, else all there are.
        include_references: score the references too. Their scores are too good: they have seen the answers.
        progress: called with (done, total, message).

    Raises:
        InputError: if a field is missing or there is nothing to score.
        WrongTypeError: if a field holds something other than detections.

    Example:
        >>> results = ntt.evaluate(dataset, "ntt", gt_field="ground_truth", eval_key="ntt_eval")  # doctest: +SKIP
        >>> results.mask.ap50, results.presence.micro.f1  # doctest: +SKIP
        (0.61, 0.88)
    """
    check_arguments(EvaluateParams, progress, score_threshold=score_threshold, include_references=include_references)
    notes: list[str] = []
    samples, names = to_score(view, label_field, gt_field, eval_key, classes, include_references, notes)
    if not include_references:
        samples = SeenImages.of(samples, label_field, gt_field).without_copies(samples, notes)
    maps = [name for name in (label_field, gt_field) if is_map_field(samples, name)]
    if maps:
        asked = classes is not None
        return _of_maps(samples, label_field, gt_field, names, asked, score_threshold, notes, eval_key, progress)
    samples = with_sizes(samples, notes)
    notes += class_notes(samples, label_field, gt_field, names, classes)
    objects = _read(samples, label_field, gt_field, names, progress)
    if eval_key is not None and objects.uncounted:
        count = len(objects.uncounted)
        objects_that = counted(count, "ground-truth object that counts", "ground-truth objects that count")
        notes.append(UNCOUNTED_NOTE.format(key=repr(eval_key), objects=objects_that))
    review = review_thresholds(samples, label_field, names, [item.score for item in objects.predicted], score_threshold)
    results = _score(objects, names, score_threshold or 0.0, label_field, notes, review)
    if eval_key is not None:
        results = replace(results, eval_key=eval_key)
        threshold, unusable = score_threshold or 0.0, list(objects.unusable)
        uncounted = objects.uncounted if objects.misread else None
        matching = Matching(label_field, gt_field, names, threshold, objects.all_masked, unusable, uncounted)
        write_matches(samples, matching, eval_key, results)
    keep_results(dataset_of(samples), label_field, gt_field, results)
    return results


def to_score(
    view: SampleCollection, label_field: str, gt_field: str, eval_key: str | None, classes: Sequence[str] | None,
    include_references: bool, notes: list[str],
) -> tuple[SampleCollection, list[str]]:  # fmt: skip
    """The samples and the classes that ``evaluate`` is about to score; raises what it raises before any work.

    ``notes`` gets a line where samples are left out. Copies of references are still among them: telling them takes a
    look into the files.
    """
    view = whole_images(view)
    for name in (label_field, gt_field):
        if not is_map_field(view, name):
            check_detections_field(view, name)
    if label_field == gt_field:
        raise InputError(f"expected two different fields to compare, got {label_field!r} twice")
    if eval_key is not None:
        check_name(eval_key)
    if not include_references:
        view = SeenImages.of(view, label_field, gt_field).without(view, notes)
    if any(provenance_of(view, label_field).get("thresholds") or ()):
        notes.append(
            "weak labels that the run left out are not scored; AP ranks all there are after lower_threshold, or of a "
            "run with score_threshold=0"
        )
    return view, _class_names(view, label_field, gt_field, classes)


def _of_maps(
    samples: SampleCollection, label_field: str, gt_field: str, names: Sequence[str], asked: bool,
    threshold: float | None, notes: list[str], eval_key: str | None, progress: Progress | None,
) -> EvaluationResults:  # fmt: skip
    if eval_key is not None:
        shared_targets(samples, label_field, gt_field, names)  # refused before the work, not after it
    unusable: dict[Any, str] = {}
    results = evaluate_maps(
        samples, label_field, gt_field, names, score_threshold=threshold, notes=notes, asked=asked,
        unusable=unusable, progress=progress,
    )  # fmt: skip
    if eval_key is not None:
        write_map_scores(
            samples.exclude(list(unusable)) if unusable else samples, label_field, gt_field, names, eval_key
        )
        results = replace(results, eval_key=eval_key)
    return results


def score_view(view: SampleCollection, label_field: str, gt_field: str) -> EvaluationResults:
    """The scores of a view as it is: references count, and nothing is kept."""
    notes: list[str] = []
    names = _class_names(view, label_field, gt_field, None)
    objects = _read(with_sizes(view, notes), label_field, gt_field, names, None)
    return _score(objects, names, 0.0, label_field, notes, None)


def _class_names(view: SampleCollection, label_field: str, gt_field: str, classes: Sequence[str] | None) -> list[str]:
    if not len(view):
        raise InputError(f"expected samples to evaluate, got an empty view: {NO_IMAGES}")
    true_labels = _labels_of(view, gt_field)
    if not true_labels:
        raise InputError(f"no ground truth: {counted(len(view), 'sample')}, none with a label in {gt_field!r}")
    if isinstance(classes, str) or (classes is not None and (not classes or len(set(classes)) < len(classes))):
        raise InputError(f"expected a list of distinct class names, got {classes!r}")
    wanted = classes or provenance_of(view, label_field).get("classes")
    names = list(wanted or sorted({*true_labels, *_labels_of(view, label_field)}))
    if not set(names) & set(true_labels):
        raise InputError(
            f"no ground truth for any of the classes {names}; labels in {gt_field!r}: {sorted(true_labels)}"
        )
    return names


def _labels_of(view: SampleCollection, field_name: str) -> list[str]:
    if is_map_field(view, field_name):
        return [name for value, name in targets_of(view, field_name).items() if value]
    names = view.distinct(label_path(view, field_name, "label"))
    return list(filter(is_name, names))


def _read(
    view: SampleCollection, label_field: str, gt_field: str, classes: Sequence[str], progress: Progress | None
) -> Objects:
    objects, total = Objects(label_field), len(view)
    index = {name: k for k, name in enumerate(classes)}
    rows = raw_samples(view, ["id", "metadata.height", "metadata.width", gt_field, label_field])
    for done, (sample_id, height, width, truth, predicted) in enumerate(rows, start=1):
        key, size = str(sample_id), (int(height), int(width))
        objects.sizes[key] = size
        objects.unlabelled += predicted is None
        for document, label, box, rle in _usable(objects, truth, index, size, key, gt_field):
            ignored = is_ignored(document)
            objects.ignored += ignored
            counts_not = ignored or is_crowd(document)
            objects.truth.append(GroundTruth(key, index[label.label], box, rle, counts_not))
            objects.uncounted += [document.get("_id")] * (counts_not and "_id" in document)
            objects.misread |= counts_not != bool(attribute_of(document, "iscrowd"))
        for _, label, box, rle in _usable(objects, predicted, index, size, key, label_field):
            score = 1.0 if label.confidence is None else float(label.confidence)
            objects.without_score += label.confidence is None
            objects.predicted.append(Prediction(key, index[label.label], box, score, rle))
        if progress is not None:
            progress(done, total, f"reading labels ({done} of {total})")
    return objects


def _usable(
    objects: Objects, value: Document | None, index: dict[str, int], size: tuple[int, int], sample_id: str, field: str
) -> Iterator[tuple[Document, Any, Box, Rle | None]]:
    """The labels of a sample's field that count, with box and mask. One that cannot be used is noted and left out."""
    for document in single_documents(value):
        if document.get("label") not in index:
            continue
        if field == objects.label_field and REJECTED_TAG in (document.get("tags") or ()):
            objects.rejected += 1
            continue
        try:
            score_of(document)
            label = detection_of(document)
            if not hasattr(label, "has_mask"):  # of another class, in a list of detections
                raise InputError(f"expected a detection, got {type(label).__name__}; draw it again or remove it")
            yield document, label, *_geometry(label, size)
        except InputError as error:
            name = f"sample {sample_id}, label {document.get('_id')} ({as_text(document['label'])}) in {field!r}"
            objects.unusable[document.get("_id")] = f"{name}: {error}"


def _geometry(label: fo.Detection, size: tuple[int, int]) -> tuple[Box, Rle | None]:
    """Box (xyxy, image pixels, not clipped) and mask of a label; the mask is ``None`` where it has none."""
    box = _box(label, size)
    if not label.has_mask:
        return box, None
    if min(box[2], size[1]) <= max(box[0], 0) or min(box[3], size[0]) <= max(box[1], 0):
        return box, encode_box((0, 0, 0, 0), size)  # no part of it lies in the image: nothing can match it
    left, top, crop = place_mask(label, size)
    return box, encode_crop(crop, left, top, size)


def _box(label: fo.Detection, size: tuple[int, int]) -> Box:
    x, y, w, h = relative_box(label.bounding_box)
    if max(map(abs, (x, y, w, h))) > FAR_OUTSIDE or min(w, h) < 0:
        raise InputError(f"the box {[float(value) for value in (x, y, w, h)]} is no part of an image")
    height, width = size
    # A pixel coordinate divided and multiplied by the width is off by a rounding error; matches at IoU 0.5 see that.
    x1, y1, x2, y2 = np.round([x * width, y * height, (x + w) * width, (y + h) * height], 6).tolist()
    return x1, y1, x2, y2


def _score(
    objects: Objects, classes: Sequence[str], threshold: float, label_field: str, notes: list[str],
    review: tuple[str, dict[str, float]] | None,
) -> EvaluationResults:  # fmt: skip
    notes.extend(remarks_on(objects, threshold))
    compare_masks = any(item.rle is not None for item in objects.truth) and (
        not objects.predicted or any(item.rle is not None for item in objects.predicted)
    )
    if compare_masks:
        objects = _fill_boxes(objects)
    else:
        side = "predictions have" if any(item.rle is not None for item in objects.truth) else "ground truth has"
        notes.append(f"no mask scores: the {side} boxes only")
    image_ids = list(objects.sizes)
    coco = coco_scores(objects.truth, objects.predicted, classes, image_ids, masks=compare_masks)
    presence = presence_scores(objects.truth, objects.predicted, classes, image_ids, threshold)
    point = None if review is None else ReviewPoint.of(coco.matches, *review)
    return EvaluationResults(
        box=coco.box,
        mask=coco.mask or _NO_SCORES,
        presence=presence,
        per_class=tuple(_class_result(k, name, objects, coco, presence, point) for k, name in enumerate(classes)),
        images=len(image_ids),
        notes=tuple(notes),
        review=point,
    )


def _fill_boxes(objects: Objects) -> Objects:
    """Where some labels have masks, the filled box stands in for those that have none."""

    def filled(item: Any) -> Any:
        return item if item.rle is not None else replace(item, rle=encode_box(item.box, objects.sizes[item.image_id]))

    return replace(objects, truth=list(map(filled, objects.truth)), predicted=list(map(filled, objects.predicted)))


def _class_result(
    k: int, name: str, objects: Objects, coco: CocoScores, presence: PresenceScores, point: ReviewPoint | None
) -> ClassResult:
    there, found = presence.per_class[name], None if point is None else point.per_class[name]
    return ClassResult(
        name=name,
        objects=sum(item.label == k for item in objects.truth),
        predictions=sum(item.label == k for item in objects.predicted),
        box=coco.box_per_class[name],
        mask=coco.mask_per_class.get(name, _NO_SCORES),
        precision=there.precision,
        recall=there.recall,
        f1=there.f1,
        threshold=None if point is None else point.thresholds[name],
        label_precision=None if found is None else found.precision,
        label_recall=None if found is None else found.recall,
    )
