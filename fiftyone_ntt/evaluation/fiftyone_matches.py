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

from fiftyone_ntt.dataset.fields import REJECTED_TAG, dataset_of, is_tagged, with_labels
from fiftyone_ntt.dataset.labels import scores_above
from fiftyone_ntt.dataset.storage import database_collection, in_parts, store
from fiftyone_ntt.evaluation.summary import EvaluationResults

METRIC_URI = "@fiftyone-ntt/ntt/metric_"
"""Prefix of the operators that put our scores into FiftyOne's own evaluation panel."""
METRICS = ("box_ap", "mask_ap", "mask_ap50", "ar100")
"""Scores that have such an operator."""
UNCOUNTED_NOTE = (
    "in FiftyOne's matches ({key}) labels on the {objects} neither way are marked 'tp' or 'fp', and one of "
    "these with nothing on it 'fn'; the scores here leave all of that out"
)
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
