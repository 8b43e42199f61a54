"""Scores a field of predicted detections against ground truth: COCO box and mask scores, presence, per-object matches.

AP and AR come from pycocotools, never from FiftyOne, whose own mAP is too high where scores tie. FiftyOne contributes
the per-object matches (``eval_key``) that its review tools rely on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import (
    NO_IMAGES,
    check_detections_field,
    count_classes,
    dataset_of,
    is_map_field,
    whole_images,
    with_sizes,
)
from fiftyone_ntt.dataset.given import class_list
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.schema import check_lists_field
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.evaluation.coco import (
    CocoScores,
    Scores,
)
from fiftyone_ntt.evaluation.fiftyone_matches import (
    UNCOUNTED_NOTE,
    Matching,
    check_eval_key,
    keep_results,
    write_matches,
)
from fiftyone_ntt.evaluation.found import PresenceScores
from fiftyone_ntt.evaluation.left_out import SeenImages, class_notes
from fiftyone_ntt.evaluation.map_documents import targets_of
from fiftyone_ntt.evaluation.objects import Objects, Scorers, read_objects, remarks_on
from fiftyone_ntt.evaluation.review_point import ReviewPoint, review_thresholds
from fiftyone_ntt.evaluation.semantic_scores import evaluate_maps, shared_targets, write_map_scores
from fiftyone_ntt.evaluation.summary import ClassResult, EvaluationResults
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.labelling import EvaluateParams
from fiftyone_ntt.runs.record import provenance_of

_NO_SCORES = Scores(None, None, None, None)


@with_bar
def evaluate(
    view: SampleCollection,
    label_field: str = "ntt",
    gt_field: str = "ground_truth",
    *,
    eval_key: str | None = None,
    score_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    include_references: bool = False,
    boundary: bool = False,
    progress: Progress | bool | None = None,
) -> EvaluationResults:
    """Scores predicted detections, or semantic segmentation masks, against ground truth.

    AP and AR rank all labels of the field whatever their score; ``notes`` say where the run left weak ones out.
    Objects with the attribute ``iscrowd``, ``ignore`` or ``difficult`` count neither as found nor as missed, nor does
    what lies on them; of segmentation masks, neither do the pixels under them.
    A sample without labels counts: its objects are missed. One whose ground truth is ``None`` counts as an image
    without objects, which ``notes`` say; where the truth is masks it is left out. Labels that a person has rejected are
    left out, and so are those whose box or mask cannot be read, which ``notes`` name. Image sizes are computed and kept
    where they are missing, and so are the results, for the App.

    Where one of the fields holds semantic segmentation masks, pixels are compared: ``results.semantic`` has the IoU of
    each class and its mean, with and without background. Detections in the other field are painted into such masks
    first. A class without a pixel in ground truth and predictions is in no mean; ``notes`` name it. Such results are
    not kept.

    Args:
        view: the samples to score; of grouped samples, those of the active slice. Images that the references come from
            are left out, by a tag of theirs or of one of their labels, those that were learned from and copies of them
            (files of the same content) included; ``notes`` say how many.
        label_field: ``Detections`` or ``Segmentation`` field with the predictions.
        gt_field: ``Detections`` or ``Segmentation`` field with the ground truth.
        eval_key: also writes FiftyOne's per-object matches (true and false positives, misses at IoU 0.5) under this
            key, replacing an evaluation of the same key. Of segmentation masks, its per-image accuracy, precision and
            recall.
        score_threshold: labels at or below this score neither claim presence nor take part in the matches; 0 where
            ``None``, so that every label counts. Where pixels are compared, undecided ones are not painted.
        classes: the classes to score; those of the run that wrote ``label_field`` where ``None``, else all there are.
        include_references: score the references too. Their scores are too good: they have seen the answers.
        boundary: also scores the borders of masks (``results.boundary``): COCO's AP with the lesser of mask IoU and
            boundary IoU as the overlap of a pair. Under a millisecond a label, more on large images.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Raises:
        InputError: if a field is missing, there is nothing to score, or something else is kept under ``eval_key``.
        WrongTypeError: if a field holds something other than detections.

    Example:
        >>> results = ntt.evaluate(dataset, "ntt", gt_field="ground_truth", eval_key="ntt_eval")  # doctest: +SKIP
        >>> results.mask.ap50, results.presence.micro.f1  # doctest: +SKIP
        (0.61, 0.88)
    """
    progress, score_threshold, include_references, boundary = check_arguments(
        EvaluateParams, progress, score_threshold=score_threshold, include_references=include_references,
        boundary=boundary,
    )  # fmt: skip
    notes, classes = list[str](), class_list(classes)
    samples, names = to_score(view, label_field, gt_field, eval_key, classes, include_references, notes)
    check_eval_key(samples, eval_key, (label_field, gt_field), read=True)
    if not include_references:
        samples = SeenImages.of(samples, label_field).without_copies(samples, notes)
    maps = [name for name in (label_field, gt_field) if is_map_field(samples, name)]
    if maps:
        asked = classes is not None
        notes += ["no boundary scores: segmentation masks are compared pixel by pixel"] * boundary
        return _of_maps(samples, label_field, gt_field, names, asked, score_threshold, notes, eval_key, progress)
    samples = with_sizes(samples, notes)
    notes += class_notes(samples, label_field, gt_field, names, classes)
    objects, scorers = read_objects(samples, label_field, gt_field, names, score_threshold or 0.0, progress, boundary)
    if eval_key is not None and objects.uncounted:
        count = len(objects.uncounted)
        objects_that = counted(count, "ground-truth object that counts", "ground-truth objects that count")
        notes.append(UNCOUNTED_NOTE.format(key=repr(eval_key), objects=objects_that))
    if eval_key is not None and objects.unmatched:
        notes.append(
            f"{counted(len(objects.unmatched), 'label')} not in FiftyOne's matches ({eval_key!r}), as it cannot load "
            "what stands in place of tags, ids or attributes there"
        )
    review = review_thresholds(samples, label_field, names, objects.scores, score_threshold)
    results = _score(objects, scorers, names, notes, review, boundary)
    if eval_key is not None:
        results = replace(results, eval_key=eval_key)
        threshold, unusable = score_threshold or 0.0, [*(key for key, _ in objects.unusable), *objects.unmatched]
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
    check = check_detections_field if eval_key is None else check_lists_field  # FiftyOne matches lists only
    for name in (label_field, gt_field):
        if not is_map_field(view, name):
            check(view, name)
    if label_field == gt_field:
        raise InputError(f"expected two different fields to compare, got {label_field!r} twice")
    check_eval_key(view, eval_key, (label_field, gt_field))
    if not include_references:
        view = SeenImages.of(view, label_field).without(view, notes)
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
    unusable, unseen = dict[Any, str](), list[str]()
    results = evaluate_maps(
        samples, label_field, gt_field, names, score_threshold=threshold, notes=notes, asked=asked,
        unusable=unusable, unseen=unseen, progress=progress,
    )  # fmt: skip
    if eval_key is None:
        return results
    note = (
        f"{counted(len(unseen), 'sample')} not in FiftyOne's evaluation {eval_key!r}, as it takes a mask there for one "
        f"of colours, e.g. that of sample {unseen[0]}: save it with one channel"
    ) if unseen else ""  # fmt: skip
    results = replace(results, notes=(*results.notes, note) if note else results.notes)
    if len(unseen) == results.images:  # it would be an evaluation of nothing
        return results
    others = samples.exclude([*unusable, *unseen]) if unusable or unseen else samples
    write_map_scores(others, label_field, gt_field, names, eval_key)
    return replace(results, eval_key=eval_key)


def score_view(view: SampleCollection, label_field: str, gt_field: str) -> EvaluationResults:
    """The scores of a view as it is: references count, and nothing is kept."""
    notes: list[str] = []
    names = _class_names(view, label_field, gt_field, None)
    objects, scorers = read_objects(with_sizes(view, notes), label_field, gt_field, names, 0.0, None)
    return _score(objects, scorers, names, notes, None)


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
    return list(count_classes(view, field_name))


def _score(
    objects: Objects, scorers: Scorers, classes: Sequence[str], notes: list[str],
    review: tuple[str, dict[str, float]] | None, boundary: bool = False,
) -> EvaluationResults:  # fmt: skip
    presence = scorers[1].scores()
    notes.extend(remarks_on(objects, presence.threshold))
    if not objects.can_compare_masks:
        side = "predictions have" if objects.masked[0] else "ground truth has"
        notes.append(f"no {'mask or boundary' if boundary else 'mask'} scores: the {side} boxes only")
    coco = scorers[0].scores(masks=objects.can_compare_masks)
    point = None if review is None else ReviewPoint.of(coco.matches, *review)
    return EvaluationResults(
        box=coco.box,
        mask=coco.mask or _NO_SCORES,
        presence=presence,
        per_class=tuple(
            _class_result(k, name, objects, coco, presence, point, boundary) for k, name in enumerate(classes)
        ),
        images=objects.images,
        notes=tuple(notes),
        review=point,
        boundary=(coco.boundary or _NO_SCORES) if boundary else None,
    )


def _class_result(
    k: int, name: str, objects: Objects, coco: CocoScores, presence: PresenceScores, point: ReviewPoint | None,
    boundary: bool,
) -> ClassResult:  # fmt: skip
    there, found = presence.per_class[name], None if point is None else point.per_class[name]
    return ClassResult(
        name=name,
        objects=objects.truth[k],
        predictions=objects.predicted[k],
        box=coco.box_per_class[name],
        mask=coco.mask_per_class.get(name, _NO_SCORES),
        precision=there.precision,
        recall=there.recall,
        f1=there.f1,
        threshold=None if point is None else point.thresholds[name],
        label_precision=None if found is None else found.precision,
        label_recall=None if found is None else found.recall,
        boundary=coco.boundary_per_class.get(name, _NO_SCORES) if boundary else None,
    )
