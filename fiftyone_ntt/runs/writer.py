"""Writes labels and statuses of a run, in chunks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import bson
import fiftyone as fo
from fiftyone import ViewExpression
from pymongo.errors import DocumentTooLarge

from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.dataset.labels import is_decided, is_from_run, without_contradictions
from fiftyone_ntt.dataset.storage import (
    COMFORTABLE_DOCUMENT,
    LARGEST_DOCUMENT,
    masks_folder,
    move_masks,
    patiently,
    raw_values,
)
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.runs.history import Document, last_pass
from fiftyone_ntt.runs.record import status_field

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 20.0
_LARGEST_CHUNK = 25
_MOST_BYTES = 64 * 2**20
Written: TypeAlias = Callable[[str, list[Document], list[Document]], None]


@dataclass(frozen=True)
class _Present:
    """What a sample holds before it is written: its documents, and the bytes of everything else in it."""

    labels: Document | None
    status: Document | None
    others: int


class LabelWriter:
    """Collects what becomes of samples, and saves it now and then.

    What a pass that overwrites is about to replace is kept first (see ``history``), then come the labels, then the
    statuses: a sample counts as done only once its labels are there. A chunk that failed half-way can be saved again.

    Args:
        dataset: the dataset.
        label_field: field of the labels; the status goes to the field beside it. Both must be there.
        run_key: key of the run.
        guard: called right before every write; what it raises keeps a worker that lost its claim from writing.
        written: called with a sample's id, the labels that it had, and those that were found, once they are saved.

    Attributes:
        refused: sample id -> why its labels could not be saved; its status says the same.
    """

    def __init__(
        self,
        dataset: fo.Dataset,
        label_field: str,
        run_key: str,
        guard: Callable[[], None] | None = None,
        written: Written | None = None,
    ) -> None:
        self._dataset, self._field, self._run_key, self._guard = dataset, label_field, run_key, guard
        self._written = written
        self._labels: dict[str, Document] = {}
        self._statuses: dict[str, Document] = {}
        self._bytes, self._saved_at = 0, time.monotonic()
        self._pass = patiently(last_pass, dataset, run_key)
        self.refused: dict[str, str] = {}

    def add(
        self, sample_id: str, labels: Document | None, error: str | None, seconds: float, note: str | None = None
    ) -> str:
        """Notes the labels of a sample, or why there are none, and saves if it is time.

        Args:
            sample_id: id of the sample.
            labels: its detections as a document, see ``to_document``; ``None`` if it failed.
            error: what went wrong, ``None`` otherwise.
            seconds: time spent on it.
            note: what a person should know of its image.

        Returns:
            The sample's state: ``"ok"``, ``"empty"`` or ``"error"``.
        """
        state = "error" if labels is None else "ok" if labels["detections"] else "empty"
        if labels is not None:
            self._labels[sample_id] = labels
            self._bytes += sum(len(label.get("mask") or b"") for label in labels["detections"])
        noted = {} if note is None else {"note": note}
        status = fo.DynamicEmbeddedDocument(
            run_key=self._run_key, state=state, error=error, seconds=round(seconds, 3), **noted
        )  # fmt: skip
        self._statuses[sample_id] = status.to_dict()
        late = time.monotonic() - self._saved_at > _SECONDS_BETWEEN_SAVES
        if late or len(self._statuses) >= _LARGEST_CHUNK or self._bytes > _MOST_BYTES:
            self.save()
        return state

    @property
    def unsaved(self) -> int:
        """Samples added that are not in the database yet."""
        return len(self._statuses)

    def save(self) -> None:
        """Writes what has been collected.

        Raises:
            DatabaseGoneError: if the database does not answer for minutes.
        """
        if self._statuses:
            present = patiently(self._read)
            for sample_id in set(self._statuses) - set(present):  # someone has deleted the sample
                self._labels.pop(sample_id, None), self._statuses.pop(sample_id)
            if self._pass.overwrites:
                for sample_id, old in present.items():
                    self._write(self._pass.keep, sample_id, old.labels, old.status)
            labels = {key: self._merged(self._labels[key], old) for key, old in present.items() if key in self._labels}
            for sample_id, document in list(labels.items()):
                self._fit(sample_id, labels, present[sample_id].others + len(bson.encode(document)))
            self._set(self._field, labels)
            self._set(status_field(self._field), dict(self._statuses))
            if self._written is not None:
                for sample_id in labels:
                    before = (present[sample_id].labels or {}).get("detections") or []
                    self._written(sample_id, before, self._labels[sample_id]["detections"])
        self._labels, self._statuses, self._bytes, self._saved_at = {}, {}, 0, time.monotonic()

    def _read(self) -> dict[str, _Present]:
        view = every_image(self._dataset).select(list(self._statuses))
        status = status_field(self._field)
        size = ViewExpression({"$bsonSize": "$$ROOT"})
        found = raw_values(view, ["id", self._field, status, size])
        return {
            sample_id: _Present(labels, state, total - (len(bson.encode(labels)) if labels else 0))
            for sample_id, labels, state, total in zip(*found, strict=True)
        }

    def _merged(self, new: Document, old: _Present) -> Document:
        """The new labels that no decision of a person speaks against, and those of the old ones that stay."""
        before = (old.labels or {}).get("detections") or []
        decided = [label for label in before if is_decided(label)]
        drawn = [] if self._pass.overwrites else [one for one in before if not (is_from_run(one) or is_decided(one))]
        kept = [*decided, *drawn]
        return {**new, "detections": [*without_contradictions(new["detections"], decided), *kept]}

    def _fit(self, sample_id: str, labels: dict[str, Document], size: int) -> None:
        """Sees to it that the sample's document stays below MongoDB's limit, or that the sample is an error."""
        if size <= COMFORTABLE_DOCUMENT:
            return
        mine = {label["_id"] for label in self._labels[sample_id]["detections"]}
        new = [label for label in labels[sample_id]["detections"] if label["_id"] in mine]
        folder = masks_folder(self._dataset, self._run_key, self._pass.number)
        try:
            size -= move_masks(new, size - COMFORTABLE_DOCUMENT, folder)
        except OSError as error:
            self._refuse(
                sample_id, labels, f"its masks are too large for the database and cannot be put in files: {error}"
            )
            return
        if size > LARGEST_DOCUMENT:
            reason = (
                f"expected the sample to stay below MongoDB's limit of 16 MB, and it would take {size / 2**20:.1f} MB "
                "without the new masks; move labels of other fields to files, or to another dataset"
            )
            self._refuse(sample_id, labels, reason)

    def _refuse(self, sample_id: str, labels: dict[str, Document], reason: str) -> None:
        logger.warning("sample %s: labels not saved: %s", sample_id, reason)
        labels.pop(sample_id, None)
        self.refused[sample_id] = reason
        self._statuses[sample_id] |= {"state": "error", "error": reason}

    def _set(self, field: str, documents: dict[str, Document]) -> None:
        """Writes a chunk, or what of it the database takes: one sample must not cost the others theirs."""
        try:
            self._write(self._set_values, field, documents)
            return
        except NttError:
            raise
        except (ValueError, DocumentTooLarge) as error:  # FiftyOne turns what MongoDB refuses into a ValueError
            reason = f"the database refuses to save it: {error}"
        for sample_id, document in list(documents.items()):
            try:
                self._write(self._set_values, field, {sample_id: document})
            except NttError:
                raise
            except (ValueError, DocumentTooLarge):
                self._refuse(sample_id, documents, reason)
        if not documents and len(self._statuses) > 1 and field == status_field(self._field):
            # Not even a status: no use in going on for the rest of the night.
            raise NttError(f"{reason}; see that the database's disk has room, then start the run again to resume it")

    def _set_values(self, field: str, documents: dict[str, Document]) -> None:
        # FiftyOne writes documents as they are: what is slow, making them from objects, was done in other threads.
        if documents:
            self._dataset.set_values(field, documents, key_field="id", validate=False, dynamic=False)

    def _write(self, write: Callable[..., None], *arguments: Any) -> None:
        def guarded() -> None:  # a lease may have run out while the database was away
            if self._guard is not None:
                self._guard()
            write(*arguments)

        patiently(guarded)
