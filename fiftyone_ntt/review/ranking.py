"""The views that review shows in the grid, and how to get back from them to what the person was looking at.

The labels worth a look first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from fiftyone.core.stages import ViewStage
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import (
    DECIDED_TAGS,
    check_detections_field,
    dataset_of,
    image_samples,
    is_generated,
    root_dataset_of,
)
from fiftyone_ntt.dataset.storage import stage_document, stages_of
from fiftyone_ntt.errors import WrongTypeError
from fiftyone_ntt.params.review import DOUBTS, DoubtParams
from fiftyone_ntt.review.label_table import UNDECIDED, LabelTable, Rows, decisions, suggest_threshold, table_of


def above_threshold(view: fo.DatasetView, label_field: str, threshold: float, name: str | None) -> fo.DatasetView:
    """Only labels with a confidence above the threshold (of one class, if it is named), and images that have some."""
    condition = F("confidence") > threshold
    return view.filter_labels(label_field, condition if name is None else condition & (F("label") == name))


def undecided(view: fo.DatasetView, label_field: str) -> fo.DatasetView:
    """Only labels without a tag of a decision, and images that have some."""
    return view.filter_labels(label_field, ~(F("tags") != None).if_else(  # noqa: E711
        F("tags").contains(sorted(DECIDED_TAGS)), False
    ))  # fmt: skip


def added(view: fo.DatasetView, base: fo.DatasetView) -> list[str]:
    """Marks of the stages by which a view goes on from another."""
    return [_mark(stage) for stage in stages_of(view)[len(stages_of(base)) :]]


def without(view: Any, marks: Collection[str]) -> fo.DatasetView:
    """A view without the stages of these marks, so that what review shows does not pile up.

    Args:
        view: what is in the grid now; a person may have changed it since.
        marks: see ``added``.
    """
    plain: fo.DatasetView = view.view()
    stages = stages_of(plain)
    kept = [stage for stage in stages if _mark(stage) not in marks]
    return plain if len(kept) == len(stages) else _of_stages(view, kept)


def _of_stages(view: Any, stages: Sequence[ViewStage]) -> fo.DatasetView:
    result = root_dataset_of(view).view()
    for stage in stages:
        result = result.add_stage(stage)
    return result


def _mark(stage: ViewStage) -> str:
    # Through JSON and back, as a stage goes through the App; its own id is another each time.
    text = json.dumps(stage_document(stage), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def doubtful(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    by: str = "threshold",
    threshold: float | None = None,
    classes: Collection[str] | None = None,
    limit: int = 200,
) -> SampleCollection:
    """The labels that are most in doubt, as a view of their images, the most doubtful image first.

    Only labels that nobody has decided on are looked at, and the view shows no other labels of this field.

    Args:
        view: whole images: where to look.
        label_field: field of the labels, written by a run.
        by: ``"threshold"``: closest to the threshold; ``"classes"``: another class fits nearly as well; ``"mask"``: the
            mask model itself is not sure of the mask; ``"merged"``: the score fell most since other labels overlap.
        threshold: for ``by="threshold"``; where left out, where the scores fall apart into two groups best.
        classes: only labels of these classes.
        limit: number of labels.

    Returns:
        The view; for patches instead of images, call ``to_patches(label_field)`` on it.

    Raises:
        InputError: if there is no such field, or an argument cannot be used.
        WrongTypeError: if the field holds no detections, or the view no whole images.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> session.view = ntt.doubtful(dataset, "ntt", limit=50)  # doctest: +SKIP
    """
    params = DoubtParams(label_field, by, threshold, None if classes is None else tuple(classes), limit)
    samples = image_samples(view)
    if is_generated(samples):
        raise WrongTypeError("expected whole images, got a view of patches or frames; use the dataset it came from")
    check_detections_field(samples, label_field)
    return most_doubtful(table_of(dataset_of(samples), label_field).refreshed(), samples, params)


def most_doubtful(table: LabelTable, samples: SampleCollection, params: DoubtParams) -> SampleCollection:
    """The same from a table."""
    rows = table.rows
    rows = rows[decisions(rows) == UNDECIDED]
    if params.classes is not None:
        rows = rows[np.isin(rows["class"], [table.class_index(name) for name in params.classes])]
    ids = table.sample_ids
    if stages_of(samples):
        inside = set(samples.values("_id"))
        rows = rows[np.array([sample_id in inside for sample_id in ids], bool)[rows["sample"]]]
    threshold = params.threshold if params.threshold is not None else suggest_threshold(table)
    doubt = _DOUBT[params.by](rows, threshold)
    rows, doubt = rows[np.isfinite(doubt)], doubt[np.isfinite(doubt)]
    first = np.argsort(doubt, kind="stable")[: params.limit]
    # A sample comes where its most uncertain label does.
    order = dict.fromkeys(str(ids[number]) for number in rows["sample"][first].tolist())
    labels = [str(ObjectId(label.tobytes())) for label in rows["label"][first]]
    return samples.select(list(order), ordered=True).select_labels(ids=labels, fields=params.label_field)


def _from_threshold(rows: Rows, threshold: float) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.abs(rows["confidence"] - threshold)
    return distance


def _between_classes(rows: Rows, threshold: float) -> NDArray[np.float64]:
    lead: NDArray[np.float64] = rows["similarity"] - rows["alternative_similarity"]
    return lead


def _of_mask(rows: Rows, threshold: float) -> NDArray[np.float64]:
    quality: NDArray[np.float64] = rows["predicted_iou"]
    return quality


def _merged(rows: Rows, threshold: float) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        left: NDArray[np.float64] = rows["confidence"] / rows["similarity"]
    return left


_DOUBT: dict[str, Any] = dict(zip(DOUBTS, (_from_threshold, _between_classes, _of_mask, _merged), strict=True))
