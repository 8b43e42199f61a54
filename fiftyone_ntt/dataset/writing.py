"""Writes labels and statuses of a run, in chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fiftyone as fo

from fiftyone_ntt.dataset.fields import detections_of
from fiftyone_ntt.dataset.runs import is_protected, status_field

_SECONDS_BETWEEN_SAVES = 20.0
_LARGEST_CHUNK = 25


class LabelWriter:
    """Collects what becomes of samples, and saves it now and then.

    Args:
        dataset: the dataset.
        label_field: field of the labels; the status goes to the field beside it. Both must be there.
        run_key: key of the run.
        guard: called right before every write; what it raises keeps a worker that lost its claim from writing.
    """

    def __init__(
        self, dataset: fo.Dataset, label_field: str, run_key: str, guard: Callable[[], None] | None = None
    ) -> None:
        self._dataset, self._field, self._run_key, self._guard = dataset, label_field, run_key, guard
        self._labels: dict[str, dict[str, Any]] = {}
        self._statuses: dict[str, dict[str, Any]] = {}
        self._saved_at = time.monotonic()

    def add(self, sample_id: str, labels: dict[str, Any] | None, error: str | None, seconds: float) -> str:
        """Notes the labels of a sample, or why there are none, and saves if it is time.

        Args:
            sample_id: id of the sample.
            labels: its detections as a document, see ``to_document``; ``None`` if it failed.
            error: what went wrong, ``None`` otherwise.
            seconds: time spent on it.

        Returns:
            The sample's state: ``"ok"``, ``"empty"`` or ``"error"``.
        """
        state = "error" if labels is None else "ok" if labels["detections"] else "empty"
        if labels is not None:
            self._labels[sample_id] = labels
        status = fo.DynamicEmbeddedDocument(
            run_key=self._run_key, state=state, error=error, seconds=round(seconds, 3)
        )  # fmt: skip
        self._statuses[sample_id] = status.to_dict()
        if len(self._statuses) >= _LARGEST_CHUNK or time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES:
            self.save()
        return state

    @property
    def unsaved(self) -> int:
        """Samples added that are not in the database yet."""
        return len(self._statuses)

    def save(self) -> None:
        """Writes what has been collected. Labels first: a sample counts as done only once its labels are there."""
        if self._labels:
            for sample_id, kept in _decided_labels(self._dataset, self._field, list(self._labels)):
                self._labels[sample_id]["detections"].extend(label.to_dict() for label in kept)
            self._set(self._field, self._labels)
        if self._statuses:
            self._set(status_field(self._field), self._statuses)
        self._labels, self._statuses, self._saved_at = {}, {}, time.monotonic()

    def _set(self, field: str, documents: dict[str, dict[str, Any]]) -> None:
        if self._guard is not None:
            self._guard()
        # FiftyOne writes documents as they are: what is slow, making them from objects, was done in other threads.
        self._dataset.set_values(field, documents, key_field="id", validate=False, dynamic=False)


def _decided_labels(
    dataset: fo.Dataset, label_field: str, sample_ids: Sequence[str]
) -> Iterator[tuple[str, list[fo.Detection]]]:
    """Labels of these samples that a person has accepted or edited."""
    view = dataset.select(sample_ids).select_fields(label_field)
    if not view.count_label_tags(label_field):
        return
    for sample in view:
        yield sample.id, [label for label in detections_of(sample[label_field]) if is_protected(label)]
