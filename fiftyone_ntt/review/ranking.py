"""The views that review shows in the grid, and how to get back from them to what the person was looking at.

The labels worth a look first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from fiftyone.core.stages import ViewStage
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import single_documents
from fiftyone_ntt.dataset.fields import (
    check_detections_field,
    dataset_of,
    image_samples,
    is_generated,
    label_root,
)
from fiftyone_ntt.dataset.parts import shows_whole_lists
from fiftyone_ntt.dataset.storage import (
    app_view,
    database_collection,
    stage_document,
    stages_of,
    store,
)
from fiftyone_ntt.errors import InputError, WrongTypeError, empty_list
from fiftyone_ntt.params.review import DOUBTS, DoubtParams
from fiftyone_ntt.review.decisions import check_among
from fiftyone_ntt.review.label_rows import UNDECIDED, Rows, decisions
from fiftyone_ntt.review.label_table import LabelTable, table_of
from fiftyone_ntt.review.thresholds import first_threshold
from fiftyone_ntt.runs.record import provenance_of

Filters = dict[str, dict[str, Any]]
"""Path -> what of it to show, as the App's sidebar holds it."""
_OURS, _BEFORE = "ntt", "before"
"""Marks a filter as review's own; with what the person had filtered by there."""
_FINGERPRINT = "written"
_STORE, _STAGES, _MOST_STAGES = "ntt_review", "stages", 50


class Grid:
    """What the App's grid shows, taken apart: what the person chose, and what review added to it.

    Review never filters labels by a stage of the view. FiftyOne's editor takes the labels of a sample from the view,
    and saves them as the sample's whole list: what the view hides is deleted. The filters of the App's sidebar hide
    labels in the grid, and the editor sees all of them.

    Args:
        dataset: the open dataset.
        request: what the App tells an operator or a panel (``ctx.request_params``).
        label_field: the field under review.

    Attributes:
        filters: those of the sidebar.
        stages: those of the view bar.
    """

    def __init__(self, dataset: fo.Dataset, request: Mapping[str, Any], label_field: str) -> None:
        self._dataset, self._request, self._field = dataset, request, label_field
        self._root = label_root(dataset, label_field)[0]
        self.filters: Filters = {path: entry for path, entry in (request.get("filters") or {}).items() if entry}
        self.stages = stages_of(app_view(dataset, request, {}))
        self._marks: list[str] = store(dataset, _STORE).get(_STAGES) or [] if self.stages else []

    @property
    def is_filtered(self) -> bool:
        """Whether anything of review's is in the grid."""
        return any(_OURS in entry for entry in self.filters.values()) or len(self._others()) < len(self.stages)

    @property
    def threshold(self) -> float | None:
        """Where the grid's labels begin, if review, or the person in the sidebar, filters by score."""
        low = (self.filters.get(f"{self._root}.confidence") or {}).get("range")
        return None if not low or low[0] is None else round(float(low[0]), 6)

    def own_values(self, attribute: str) -> list[str]:
        """What review filters an attribute of the labels by; nothing where it does not."""
        entry = self.filters.get(f"{self._root}.{attribute}") or {}
        return list(entry.get("values") or []) if _OURS in entry else []

    @property
    def has_own_threshold(self) -> bool:
        """Whether review filters by score."""
        return _OURS in (self.filters.get(f"{self._root}.confidence") or {})

    @property
    def label_ids(self) -> list[str]:
        """The labels to which review has narrowed the grid; none where it has not."""
        entry = self.filters.get(f"{self._root}.{_FINGERPRINT}") or {}
        return list((entry.get(_OURS) or {}).get("labels") or [])

    def view(self) -> fo.DatasetView:
        """The view without the sidebar's filters."""
        return app_view(self._dataset, self._request, {}, self.stages)

    def has_view_of(self, request: Mapping[str, Any]) -> bool:
        """Whether the view bar holds the same stages as in a request."""
        shown = stages_of(app_view(self._dataset, request, {}))
        return [_mark(stage) for stage in self.stages] == [_mark(stage) for stage in shown]

    def samples(self) -> fo.DatasetView:
        """The images that the person looks at, with all their labels."""
        return app_view(self._dataset, self._request, {}, self._others())

    def everything(self) -> fo.DatasetView:
        """What the grid would show without anything of review's."""
        return app_view(self._dataset, self._request, plain_filters(self.filters), self._others())

    def images(self) -> fo.DatasetView:
        """The images in the grid, with the labels that the person does not hide herself."""
        return app_view(self._dataset, self._request, plain_filters(self.filters), self.stages)

    def on_both_sides(self) -> fo.DatasetView:
        """What the grid shows, on both sides of review's threshold."""
        path, filters = f"{self._root}.confidence", dict(self.filters)
        if _OURS in filters.get(path, {}):
            filters[path] = plain_filters(self.filters).get(path, {})
        filters = {key: entry for key, entry in filters.items() if entry}
        return app_view(self._dataset, self._request, filters, self.stages)

    def show(self, view: fo.DatasetView | None = None) -> None:
        """Takes all that is review's away, and may add the stages of a view that goes on from ``samples()``."""
        others = self._others()
        self.filters, self.stages = plain_filters(self.filters), others
        if view is not None:
            self.stages = stages_of(view)
            new = [_mark(stage) for stage in self.stages[len(others) :]]
            kept = [mark for mark in store(self._dataset, _STORE).get(_STAGES) or [] if mark not in new]
            self._marks = [*kept, *new][-_MOST_STAGES:]
            store(self._dataset, _STORE).set(_STAGES, self._marks)  # also for a panel that is closed and opened again

    def filter(
        self,
        *,
        above: float | None = None,
        values: Mapping[str, Collection[str]] | None = None,
        label_ids: Sequence[str] = (),
        images: Sequence[str] = (),
    ) -> None:
        """Adds filters to the person's own; what she had at the same place comes back with ``show``.

        Args:
            above: only labels with a confidence above this, and those without any: a person drew them.
            values: attribute (``"label"``, ``"tags"``, ...) -> only labels with one of these values.
            label_ids: only these labels, as far as a run wrote them,
            images: which are in these samples.
        """
        plain: dict[str, Any] = {"exclude": False, "isMatching": False}
        own: Filters = {}
        if above is not None:
            own["confidence"] = {**plain, "range": [float(np.nextafter(above, 2)), 1.0], "none": True}
        for attribute, wanted in (values or {}).items():
            own[attribute] = {**plain, "values": list(wanted)}
        if label_ids and (fingerprints := self._fingerprints(label_ids, images)):
            own[_FINGERPRINT] = {**plain, "values": fingerprints}
        for attribute, entry in own.items():
            path = f"{self._root}.{attribute}"
            self.filters[path] = {**entry, _OURS: {_BEFORE: self.filters.get(path)}}
            if attribute == _FINGERPRINT:
                self.filters[path][_OURS]["labels"] = list(label_ids)

    def undecided(self, table: LabelTable, threshold: float, name: str | None) -> tuple[int, int] | None:
        """How many labels in the grid nobody has decided on, above and below the threshold.

        Args:
            table: the field's labels.
            threshold: where to divide.
            name: only of this class.

        Returns:
            ``None`` where only the database could tell, which may take long: labels are hidden by something else.
        """
        ours = {path.removeprefix(f"{self._root}.") for path, entry in self.filters.items() if _OURS in entry}
        if "tags" in ours:  # of a decision
            return 0, 0
        view = self.images()
        if not shows_whole_lists(view, self._field) or ours - {"confidence", "label", _FINGERPRINT}:
            return None
        columns = table.columns
        rows = columns.rows
        counted = columns.decided == UNDECIDED
        if name is not None:
            counted &= columns.classes == table.class_index(name)
        if label_ids := {ObjectId(label_id).binary for label_id in self.label_ids}:  # they are in the grid's images
            counted &= np.array([label in label_ids for label in rows["label"].tolist()], bool)
        elif stages_of(view):
            inside = set(view.values("_id"))
            counted &= np.array([sample_id in inside for sample_id in table.sample_ids], bool)[rows["sample"]]
        above = int((counted & (columns.confidence > threshold)).sum())
        return above, int(counted.sum()) - above

    def _fingerprints(self, label_ids: Sequence[str], images: Sequence[str]) -> list[str]:
        """What tells the labels in the sidebar: FiftyOne's filter by id finds no label (it compares text with ids)."""
        names = {"_id": 1, f"{self._root}._id": 1, f"{self._root}.{_FINGERPRINT}": 1}
        chosen = {"_id": {"$in": list(map(ObjectId, images))}}
        documents = database_collection(self._dataset).find(chosen, names)
        labels = [label for document in documents for label in single_documents(document.get(self._field))]
        wanted = set(map(ObjectId, label_ids))
        texts = {label.get(_FINGERPRINT) for label in labels if label.get("_id") in wanted}
        return sorted(text for text in texts if text)

    def _others(self) -> list[ViewStage]:
        return [stage for stage in self.stages if _mark(stage) not in self._marks] if self._marks else self.stages


def plain_filters(filters: Filters) -> Filters:
    """The person's filters of the sidebar, without review's own."""
    before = {path: entry[_OURS].get(_BEFORE) if entry and _OURS in entry else entry for path, entry in filters.items()}
    return {path: entry for path, entry in before.items() if entry}


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
    """The most uncertain labels, as a view of their images, the most uncertain first.

    Only labels that nobody has decided on are looked at, and the view shows no other labels of this field.

    Args:
        view: whole images: where to look.
        label_field: field of the labels, written by a run.
        by: ``"threshold"``: closest to the threshold; ``"classes"``: another class fits nearly as well; ``"mask"``: the
            mask model itself is not sure of the mask; ``"merged"``: the score fell most since other labels overlap.
        threshold: for ``by="threshold"``; where left out, the one at which a review begins, see ``fit_thresholds``.
        classes: only labels of these classes; a text is one name.
        limit: number of labels.

    Returns:
        The view; for patches instead of images, call ``to_patches(label_field)`` on it.

    Raises:
        InputError: if there is no such field, no label or run has one of the classes, or an argument cannot be used.
        WrongTypeError: if the field holds no detections, or the view no whole images.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> session.view = ntt.doubtful(dataset, "ntt", limit=50)  # doctest: +SKIP
    """
    names: Any = (classes,) if isinstance(classes, str) else classes
    params = DoubtParams(label_field, by, threshold, names, limit)
    samples = image_samples(view)
    if is_generated(samples):
        raise WrongTypeError("expected whole images, got a view of patches or frames; use the dataset it came from")
    check_detections_field(samples, label_field)
    if params.classes == ():
        raise InputError(empty_list("classes"))
    table = table_of(dataset_of(samples), label_field).refreshed()
    of_run = provenance_of(samples, label_field).get("classes") or ()
    check_among(params.classes or (), {*table.named_classes, *of_run}, label_field)
    order, labels = most_doubtful(table, samples, params)
    return samples.select(order, ordered=True).select_labels(ids=labels, fields=label_field)


def most_doubtful(table: LabelTable, samples: SampleCollection, params: DoubtParams) -> tuple[list[str], list[str]]:
    """The same from a table: ids of the images, the most doubtful first, and of the labels."""
    rows = table.rows
    kept = decisions(rows) == UNDECIDED
    if params.classes is not None:
        kept &= np.isin(rows["class"], [table.class_index(name) for name in params.classes])
    ids = table.sample_ids
    if stages_of(samples):
        inside = set(samples.values("_id"))
        kept &= np.array([sample_id in inside for sample_id in ids], bool)[rows["sample"]]
    if not shows_whole_lists(samples, params.label_field):  # what the view hides is not to be looked at either
        shown = samples.values(f"{params.label_field}.detections._id", unwind=True)
        kept &= np.isin(rows["label"], np.array([key.binary for key in shown], rows["label"].dtype))
    threshold = params.threshold
    if threshold is None:
        name = params.classes[0] if params.classes and len(params.classes) == 1 else None
        threshold = first_threshold(dataset_of(samples), params.label_field, table, name)
    there = np.flatnonzero(kept)
    first = there[most_doubtful_rows(rows[there], params.by, threshold, params.limit)]
    # A sample comes where its most uncertain label does.
    order = dict.fromkeys(str(ids[number]) for number in rows["sample"][first].tolist())
    return list(order), [str(ObjectId(label.tobytes())) for label in rows["label"][first]]


def most_doubtful_rows(rows: Rows, by: str, threshold: float, limit: int | None = None) -> NDArray[np.int64]:
    """The places of rows in the order of ``doubtful``, at most ``limit``; without those of which nothing can be said.

    Args:
        rows: of labels that nobody has decided on.
        by: one of ``DOUBTS``.
        threshold: for ``"threshold"``.
        limit: how many; all where ``None``.
    """
    doubt = _DOUBT[by](rows, threshold)
    found = np.flatnonzero(np.isfinite(doubt))
    if limit is not None and len(found) > limit:  # few of very many: no need to sort all
        found = found[doubt[found] <= np.partition(doubt[found], limit - 1)[limit - 1]]
    return found[np.argsort(doubt[found], kind="stable")][:limit]


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
