"""What an evaluation leaves in FiftyOne: per-object matches, our scores beside them, and the last results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import (
    REJECTED_TAG,
    check_name,
    dataset_of,
    is_map_field,
    is_tagged,
    label_path,
    with_labels,
)
from fiftyone_ntt.dataset.labels import ATTRIBUTES, OF_REFERENCES, scores_above
from fiftyone_ntt.dataset.storage import database_collection, in_parts, store
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.summary import EvaluationResults

METRIC_URI = "@fiftyone-ntt/ntt/metric_"
"""Prefix of the operators that put our scores into FiftyOne's own evaluation panel."""
METRICS = ("box_ap", "mask_ap", "mask_ap50", "ar100")
"""Scores that have such an operator."""
UNCOUNTED_NOTE = (
    "in FiftyOne's matches ({key}) labels on the {objects} neither way are marked 'tp' or 'fp', and one of "
    "these with nothing on it 'fn'; the scores here leave all of that out"
)
_TAKEN = (
    "expected an eval_key under which nothing else is kept, got {key!r}: an evaluation would replace {place}; choose "
    "another key"
)
_COUNTS = ("_tp", "_fp", "_fn")
_STORE, _LAST = "ntt_evaluation", "last"
_UNCOUNTED = "ntt_uncounted"


@dataclass(frozen=True)
class Matching:
    """What is compared.

    Attributes:
        label_field: field of the predictions.
        gt_field: field of the ground truth.
        classes: labels of other classes are left alone.
        threshold: predictions at or below this score are left alone.
        use_masks: whether masks are compared, or boxes.
        unusable: ids of labels that must not be read.
        uncounted: ids of ground-truth labels that count neither way; ``None`` where ``iscrowd`` tells FiftyOne.
    """

    label_field: str
    gt_field: str
    classes: Sequence[str]
    threshold: float
    use_masks: bool
    unusable: Sequence[Any] = ()
    uncounted: Sequence[Any] | None = None


def check_eval_key(view: SampleCollection, eval_key: str | None, fields: Sequence[str], *, read: bool = False) -> None:
    """Raises InputError where something else stands in a place that an evaluation of this key would write to.

    Args:
        view: the samples to evaluate.
        eval_key: key of the evaluation, if it is to have one; what one of this key wrote before may be replaced.
        fields: those of the predictions and of the ground truth.
        read: also look for attributes that are not declared, which takes a look at all labels.
    """
    if eval_key is None:
        return
    check_name(eval_key)
    dataset = dataset_of(view)
    own: set[str | None] = set()
    if dataset.has_evaluation(eval_key):
        config = dataset.get_evaluation_info(eval_key).config
        own = {getattr(config, name, None) for name in ("pred_field", "gt_field")}
    of_label = [f"{eval_key}{end}" for end in ("", "_id", "_iou")]
    for name in of_label:
        if hasattr(fo.Detection, name) or name in {*ATTRIBUTES, *OF_REFERENCES, _UNCOUNTED}:
            raise InputError(_TAKEN.format(key=eval_key, place=f"the attribute {name!r} of every label"))
    ends = ("_accuracy", "_precision", "_recall") if any(is_map_field(view, name) for name in fields) else _COUNTS
    paths = [f"{eval_key}{end}" for end in ends if not own]
    for field in set(fields) - own:
        if not is_map_field(view, field):
            paths += [label_path(dataset, field, name) for name in of_label]
    samples = database_collection(dataset)
    for path in paths:
        if dataset.has_field(path) or (read and samples.find_one({path: {"$exists": True}}, {"_id": 1})):
            raise InputError(_TAKEN.format(key=eval_key, place=repr(path)))


def write_matches(view: SampleCollection, matching: Matching, eval_key: str, results: EvaluationResults) -> None:
    """FiftyOne's true positives, false positives and misses, without its mAP, but with ours where it can show it.

    Args:
        view: the samples that were evaluated.
        matching: what is compared.
        eval_key: key of the evaluation; one of this key is replaced.
        results: our scores.
    """
    if dataset_of(view).has_evaluation(eval_key):
        dataset_of(view).delete_evaluation(eval_key)
    wanted = F("label").is_in(list(matching.classes))
    if matching.unusable:  # FiftyOne would unpack their masks, and fail
        wanted &= ~F("_id").is_in(list(matching.unusable))
    matched = with_labels(view, matching.gt_field, wanted, only_matches=False)
    counted = wanted & ~is_tagged(REJECTED_TAG)
    if matching.threshold > 0:
        counted &= scores_above(matching.threshold)
    matched = with_labels(matched, matching.label_field, counted, only_matches=False)
    with _marked(dataset_of(view), matching.gt_field, matching.uncounted) as crowd:
        matched.evaluate_detections(
            matching.label_field,
            gt_field=matching.gt_field,
            eval_key=eval_key,
            method="coco",
            classes=list(matching.classes),
            use_masks=matching.use_masks,
            classwise=True,
            iscrowd=crowd,
            compute_mAP=False,
            custom_metrics=_custom_metrics(results),
            progress=False,
        )


@contextmanager
def _marked(dataset: fo.Dataset, gt_field: str, ids: Sequence[Any] | None) -> Iterator[str]:
    """The attribute by which FiftyOne knows labels that count neither way: one of ours, for as long as it matches.

    FiftyOne knows one attribute, and takes any text in it for "yes"; datasets have ``ignore``, ``difficult``, "0".
    """
    if ids is None:
        yield "iscrowd"
        return
    samples, labels = database_collection(dataset), f"{gt_field}.detections"
    try:
        for part in in_parts(ids):
            some = {"$in": list(part)}
            change = {"$set": {f"{labels}.$[label].{_UNCOUNTED}": True}}
            samples.update_many({f"{labels}._id": some}, change, array_filters=[{"label._id": some}])
        yield _UNCOUNTED
    finally:
        marked = {f"{labels}.{_UNCOUNTED}": {"$exists": True}}
        samples.update_many(marked, {"$unset": {f"{labels}.$[].{_UNCOUNTED}": ""}})


def scores_shown(results: EvaluationResults) -> dict[str, float | None]:
    """The scores that FiftyOne's evaluation panel shows: name of the metric -> value."""
    recall = results.box.ar100 if results.mask.ar100 is None else results.mask.ar100
    values = (results.box.ap, results.mask.ap, results.mask.ap50, recall)
    return dict(zip(METRICS, values, strict=True))


def _custom_metrics(results: EvaluationResults) -> dict[str, dict[str, float]] | None:
    """Our scores for FiftyOne to keep; ``None`` where the plugin that FiftyOne would ask for them is not installed."""
    values = {f"{METRIC_URI}{name}": value for name, value in scores_shown(results).items() if value is not None}
    there = {uri: {"value": value} for uri, value in values.items() if foo.operator_exists(uri)}
    return there or None


def keep_results(dataset: fo.Dataset, label_field: str, gt_field: str, results: EvaluationResults) -> None:
    """Notes the results of an evaluation with the dataset, in place of those of the last one."""
    facts = {
        "label_field": label_field,
        "gt_field": gt_field,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "eval_key": results.eval_key,
        "images": results.images,
        "notes": list(results.notes),
        "table": results.table(),
        "review": None if results.review is None else str(results.review),
        **scores_shown(results),
    }
    store(dataset, _STORE).set(_LAST, facts)


def last_results(dataset: fo.Dataset) -> dict[str, Any] | None:
    """What the last evaluation of a dataset found: fields, date, ``eval_key``, and a ``table`` with a row a class."""
    facts: dict[str, Any] | None = store(dataset, _STORE).get(_LAST)
    return facts


def attribute_of_outcome(dataset: fo.Dataset, results: Mapping[str, Any], outcome: str) -> tuple[str, str] | None:
    """Where an evaluation says which labels came to an outcome.

    Args:
        dataset: the dataset.
        results: those of the evaluation, see ``last_results``.
        outcome: ``"tp"``, ``"fp"`` (of the predictions) or ``"fn"`` (of the ground truth).

    Returns:
        Field of the labels, and their attribute that holds the outcome; ``None`` if the matches are no longer there.
    """
    key = results.get("eval_key")
    if not key or not dataset.has_evaluation(key):
        return None
    return str(results["gt_field" if outcome == "fn" else "label_field"]), str(key)
