"""A worker's part in a run: begun or joined, its labels and statuses written in chunks, and its end noted.

``part_in_run`` is the frame, ``LabelWriter`` what happens inside it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import bson
import fiftyone as fo
from fiftyone import ViewExpression
from fiftyone.core.collections import SampleCollection
from pymongo.errors import DocumentTooLarge

from fiftyone_ntt.dataset.documents import set_documents, single_documents, stamp_of_now
from fiftyone_ntt.dataset.fields import dataset_of, every_image, steady
from fiftyone_ntt.dataset.labels import is_touched, keep_identity, without_contradictions
from fiftyone_ntt.dataset.schema import is_field_in_database
from fiftyone_ntt.dataset.storage import (
    COMFORTABLE_DOCUMENT,
    LARGEST_DOCUMENT,
    has_results,
    masks_folder,
    move_masks,
    patiently,
    raw_values,
)
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.pixels.files import write_problem
from fiftyone_ntt.references.banks import check_kept_size, keep_with_run
from fiftyone_ntt.runs.history import Document, begin_pass, last_pass
from fiftyone_ntt.runs.mending import (
    check_free,
    check_nobody_is_at,
    forget_cleared_labels,
    forget_lost_labels,
    is_superseded,
    mend_runs,
)
from fiftyone_ntt.runs.record import RunRecord, has_statuses, register, run_of_field, status_field
from fiftyone_ntt.runs.states import COMPLETED, close_quietly, close_run, open_run, sound_state
from fiftyone_ntt.runs.workers import Origin, Work, Worker, current_origin

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 20.0
_LARGEST_CHUNK, _ATTEMPTS = 25, 5
_MOST_BYTES = 64 * 2**20
T = TypeVar("T")
Written: TypeAlias = Callable[[str, list[Document], list[Document]], None]


@dataclass(frozen=True)
class Call:
    """What a call of ``segment`` is for.

    Attributes:
        targets: the samples to label.
        record: the run.
        bank: its memory bank, kept with it.
        resume: go on with a run of these settings.
        overwrite: replace what is there.
        again: replace what this run wrote before, where it would write something else now.
        what: what this is for, see ``listing.layers_of``.
        options: arguments that do not decide the labels, for whoever resumes the run.
        whole: whether this is for all of the dataset but its references.
    """

    targets: SampleCollection
    record: RunRecord
    bank: MemoryBank
    resume: bool
    overwrite: bool
    again: bool
    what: str
    options: dict[str, Any]
    whole: bool = False


@contextmanager
def part_in_run(call: Call) -> Iterator[tuple[Worker, Work]]:
    """Starts or joins a run, and notes afterwards what became of it.

    Yields:
        The lease of this worker, and its work.

    Raises:
        InputError: if the field or the run key is another's, or others are at what would be replaced.
    """
    dataset, run_key, name = dataset_of(call.targets), call.record.run_key, call.record.label_field
    check_kept_size(call.bank)  # before anything is written: a run without its bank could not go on
    origin = current_origin()
    call = replace(call, targets=patiently(steady, call.targets, name))
    worker = patiently(Worker, dataset, run_key, origin)
    begun, error = False, None
    try:
        with worker.alone(name):
            chunks, lost = _begin(call, worker, origin)
            begun = True
        work = Work(call.targets, name, status_field(name), worker, run_key, chunks)
        work.lost += lost
        yield worker, work
    except BaseException as caught:
        error = caught
        raise
    finally:
        worker.end()
        if begun:
            if error is None:
                close_run(dataset, run_key, name, worker.figures, None)
            else:
                close_quietly(dataset, run_key, name, worker.figures, error)


def _begin(call: Call, worker: Worker, origin: Origin) -> tuple[int, int]:
    """Registers the run unless it is there. Only one worker on the field does this at a time.

    Returns:
        Into how many chunks its samples are divided, and how many had been labelled in a field that is gone.
    """
    record, dataset = call.record, dataset_of(call.targets)
    # Others may have begun a run, or deleted fields, since this process loaded the dataset.
    records, name = mend_runs(dataset), record.label_field
    is_there = dataset.has_field(name)
    # The run that was to overwrite and did not get through does not overwrite itself.
    overwrite = call.overwrite or (call.again and is_superseded(dataset, record))
    overwrite = overwrite and is_there and not (call.resume and goes_on(dataset, record, records, call.overwrite))
    check_nobody_is_at(dataset, name, _others(record, records, overwrite), worker.id)
    check_free(dataset, record, call.resume, overwrite)
    lost = 0 if is_there else forget_lost_labels(dataset, name)
    if is_there and (writer := run_of_field(dataset, name)):
        forget_cleared_labels(dataset, name, writer)
    known = is_there and has_statuses(dataset, name) and run_of_field(dataset, name) == record.run_key
    fresh = overwrite or not is_there or record.run_key not in records or sound_state(dataset, record.run_key) is None
    if fresh or not known:
        other_settings = record.run_key in records and bool(record.differences(dict(records[record.run_key])))
        begin_pass(call.targets, record, overwrite, call.what, other_settings=other_settings)
    # Before the record: a process that ends anywhere from here on leaves a run that is not through.
    opened = open_run(call.targets, record, origin, call.options, fresh, overwrite, call.whole)
    if fresh or not known:
        register(dataset, record)
    if fresh or not known or not has_results(dataset, record.run_key):
        keep_with_run(dataset, record.run_key, call.bank)
    return int(opened["chunks"]), lost


def goes_on(dataset: fo.Dataset, record: RunRecord, records: Mapping[str, Mapping[str, Any]], overwrite: bool) -> bool:
    """Whether a run of this key and these settings is there and not through; one that overwrites, where that is asked.

    Args:
        dataset: the dataset.
        record: the run.
        records: key of each run that is there -> its record.
        overwrite: whether somebody asks for labels to be replaced: those of another run, or of this one's beginning.
    """
    state, taken = sound_state(dataset, record.run_key), records.get(record.run_key)
    if taken is None or state is None or state["state"] == COMPLETED or is_superseded(dataset, record):
        return False
    if overwrite and not (state.get("overwrites") and run_of_field(dataset, record.label_field) == record.run_key):
        return False
    return taken["label_field"] == record.label_field and not record.differences(dict(taken))


def _others(record: RunRecord, records: Mapping[str, Mapping[str, Any]], overwrite: bool) -> list[str]:
    """The runs on the field that must not be at work: all but this one, and this one where it replaces its labels."""
    on_field = {key: taken for key, taken in records.items() if taken["label_field"] == record.label_field}
    return [
        key for key, taken in on_field.items() if key != record.run_key or overwrite or record.differences(dict(taken))
    ]


@dataclass(frozen=True)
class _Present:
    """What a sample holds before it is written: its documents, the bytes of everything else in it, and since when."""

    labels: Document | None
    status: Document | None
    others: int
    stamp: Any


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
        overwrite: whether this call is to overwrite; it may also go on with a pass that does.

    Attributes:
        refused: sample id -> why its labels could not be saved; its status says the same.
        unwritten: how many labels that makes.
    """

    def __init__(
        self,
        dataset: fo.Dataset,
        label_field: str,
        run_key: str,
        guard: Callable[[], None] | None = None,
        written: Written | None = None,
        overwrite: bool = False,
    ) -> None:
        self.dataset, self._field, self._run_key, self._guard = dataset, label_field, run_key, guard
        self._written, self._asked = written, overwrite
        self._labels: dict[str, Document] = {}
        self._statuses: dict[str, Document] = {}
        self._bytes, self._saved_at = 0, time.monotonic()
        self._pass = patiently(last_pass, dataset, run_key)
        self.refused: dict[str, str] = {}
        self.unwritten = 0

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
            patiently(self._check_field)
            present = patiently(self._read, list(self._statuses))
            for sample_id in set(self._statuses) - set(present):  # someone has deleted the sample
                self._labels.pop(sample_id, None), self._statuses.pop(sample_id)
            labels = self._save_labels(present)
            self._set(status_field(self._field), dict(self._statuses))
            if self._written is not None:
                for sample_id in labels:
                    before = single_documents(present[sample_id].labels)
                    self._written(sample_id, before, self._labels[sample_id]["detections"])
        self._labels, self._statuses, self._bytes, self._saved_at = {}, {}, 0, time.monotonic()

    def _save_labels(self, present: dict[str, _Present]) -> list[str]:
        """Writes labels; where somebody changed a sample since it was read, what it holds now is read, and merged.

        Returns:
            The samples that have their labels now.
        """
        rest, saved = present, list[str]()
        for attempt in range(_ATTEMPTS):
            drawings = {key: self._drawings(key, old) for key, old in rest.items()}
            if self._pass.overwrites:
                for sample_id, old in rest.items():
                    self._write(self._pass.keep, sample_id, old.labels, old.status, drawings[sample_id])
            if self._pass.same_scores:
                for sample_id in self._labels.keys() & rest.keys():
                    keep_identity(self._labels[sample_id], rest[sample_id].labels)
            new = {key: self._labels[key] for key in rest if key in self._labels}
            labels = {key: self._merged(document, rest[key], drawings[key]) for key, document in new.items()}
            for sample_id, document in list(labels.items()):
                self._fit(sample_id, labels, rest[sample_id].others + len(bson.encode(document)))
            last = attempt == _ATTEMPTS - 1  # whatever changes it all the time is no person
            changed = self._set(self._field, labels, None if last else {key: rest[key].stamp for key in labels})
            saved += [key for key in labels if key not in changed]
            if not changed:
                break
            rest = patiently(self._read, changed)
        return saved

    def _drawings(self, sample_id: str, old: _Present) -> list[Document]:
        return patiently(self._pass.drawings, sample_id, old.labels, old.stamp, self._asked)

    def _check_field(self) -> None:
        if not is_field_in_database(self.dataset, self._field):
            raise InputError(
                f"field {self._field!r} was deleted or renamed while run {self._run_key!r} was writing to it; nothing "
                "more is written: start the run again to go on"
            )

    def _read(self, sample_ids: list[str]) -> dict[str, _Present]:
        view = every_image(self.dataset).select(sample_ids)
        status = status_field(self._field)
        size = ViewExpression({"$bsonSize": "$$ROOT"})
        columns = raw_values(view, ["id", self._field, status, size, "last_modified_at"])
        return {
            sample_id: _Present(labels, state, total - len(bson.encode({self._field: labels})), stamp)
            for sample_id, labels, state, total, stamp in zip(*columns, strict=True)
        }

    def _merged(self, new: Document, old: _Present, drawings: list[Document]) -> Document:
        """The new labels that nothing a person did speaks against, and those of the old ones that stay."""
        kept = [*(label for label in single_documents(old.labels) if is_touched(label)), *drawings]
        return {**new, "detections": [*without_contradictions(new["detections"], kept), *kept]}

    def _fit(self, sample_id: str, labels: dict[str, Document], size: int) -> None:
        """Sees to it that the sample's document stays below MongoDB's limit, or that the sample is an error."""
        if size <= COMFORTABLE_DOCUMENT:
            return
        new_ids = {label.get("_id") for label in self._labels[sample_id]["detections"]}
        new = [label for label in labels[sample_id]["detections"] if label.get("_id") in new_ids]
        folder = masks_folder(self.dataset, self._run_key, self._pass.number)
        try:
            size -= move_masks(new, size - COMFORTABLE_DOCUMENT, folder)
        except OSError as error:
            reason = f"its masks are too large for the database and cannot be put in files: {write_problem(error)}"
            self._refuse(sample_id, labels, reason)
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
        if sample_id not in self.refused and sample_id in self._labels:
            self.unwritten += len(self._labels[sample_id]["detections"])
        self.refused[sample_id] = reason
        self._statuses[sample_id] |= {"state": "error", "error": reason}

    def _set(self, field: str, documents: dict[str, Document], stamps: dict[str, Any] | None = None) -> list[str]:
        """Writes a chunk, or what of it the database takes: one sample must not cost the others theirs.

        Documents are written as they are: what is slow, making them from objects, was done in other threads.

        Returns:
            The samples that were left alone, as they are not as their ``stamps`` say any more; see ``set_documents``.
        """
        values, now = {key: {field: document} for key, document in documents.items()}, stamp_of_now()
        try:
            return self._write(set_documents, self.dataset, values, stamps, now)
        except NttError:
            raise
        except (ValueError, DocumentTooLarge) as error:  # FiftyOne turns what MongoDB refuses into a ValueError
            reason = f"the database refuses to save it: {error}"
        changed: list[str] = []
        for sample_id, value in values.items():
            own = None if stamps is None else {sample_id: stamps[sample_id]}
            try:
                changed += self._write(set_documents, self.dataset, {sample_id: value}, own, now)
            except NttError:
                raise
            except (ValueError, DocumentTooLarge):
                self._refuse(sample_id, documents, reason)
        if not documents and len(self._statuses) > 1 and field == status_field(self._field):
            # Not even a status: no use in going on for the rest of the night.
            raise NttError(f"{reason}; see that the database's disk has room, then start the run again to resume it")
        return changed

    def _write(self, write: Callable[..., T], *arguments: Any) -> T:
        def guarded() -> T:  # a lease may have run out while the database was away
            if self._guard is not None:
                self._guard()
            return write(*arguments)

        return patiently(guarded)
