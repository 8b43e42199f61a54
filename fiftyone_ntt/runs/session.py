"""Taking part in a run: alone or with other workers, from its start or where others left off.

Who asks for a run, and through which door: known to the doors, kept with the run.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import check_name, dataset_of, every_image, is_detections_field
from fiftyone_ntt.dataset.storage import patiently
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.references.banks import keep_with_run
from fiftyone_ntt.runs.history import begin_pass
from fiftyone_ntt.runs.record import (
    METHOD,
    PROVENANCE,
    RUNNING,
    RunRecord,
    close_quietly,
    close_run,
    goes_on,
    open_run,
    register,
    state_of,
    status_field,
)
from fiftyone_ntt.runs.workers import Origin, Worker, current_origin, live_workers


@dataclass(frozen=True)
class Call:
    """What a call of ``segment`` is for.

    Attributes:
        targets: the samples to label.
        record: the run.
        bank: its memory bank, kept with it.
        resume: go on with a run of these settings.
        overwrite: replace what is there.
        options: arguments that do not decide the labels, for whoever resumes the run.
    """

    targets: SampleCollection
    record: RunRecord
    bank: MemoryBank
    resume: bool
    overwrite: bool
    options: dict[str, Any]


@contextmanager
def part_in_run(call: Call) -> Iterator[tuple[Worker, Work]]:
    """Starts or joins a run, and notes afterwards what became of it.

    Yields:
        The lease of this worker, and its work.

    Raises:
        InputError: if the field or the run key is another's, or others are at what would be replaced.
    """
    dataset, run_key = dataset_of(call.targets), call.record.run_key
    status, origin = status_field(call.record.label_field), current_origin()
    worker = patiently(Worker, dataset, run_key, origin)
    begun, error = False, None
    try:
        with worker.alone():
            chunks = _begin(call, worker, origin)
            begun = True
        yield worker, Work(call.targets, status, worker, run_key, chunks)
    except BaseException as caught:
        error = caught
        raise
    finally:
        worker.end()
        if begun:
            (close_run if error is None else close_quietly)(dataset, run_key, status, worker.figures, error)


def _begin(call: Call, worker: Worker, origin: Origin) -> int:
    """Registers the run unless it is there. Returns into how many chunks its samples are divided."""
    record, dataset = call.record, dataset_of(call.targets)
    state = state_of(dataset, record.run_key)
    if state is not None and not _is_known(dataset, record):
        dataset.reload()  # another process has begun the run since this one loaded the dataset, or while it did
    # The run that was to overwrite and did not get through does not overwrite itself.
    overwrite = call.overwrite and not (call.resume and goes_on(dataset, record))
    check_free(dataset, record, call.resume, overwrite)
    if overwrite:
        _check_nobody_is_at(call, worker)
    fresh = overwrite or state is None or not dataset.has_run(record.run_key)
    if fresh or not dataset.has_field(status_field(record.label_field)):
        begin_pass(call.targets, record, overwrite)
        register(dataset, record)
        keep_with_run(dataset, record.run_key, call.bank)
    opened = open_run(call.targets, record.run_key, origin, call.options, fresh)
    return int(opened["chunks"])


def _is_known(dataset: fo.Dataset, record: RunRecord) -> bool:
    """Whether this process knows all that ``register`` writes: it may have loaded the dataset between two steps."""
    name = record.label_field
    if not all(dataset.has_field(field) for field in (name, status_field(name))):
        return False
    return dataset.has_run(record.run_key) and PROVENANCE in (dataset.get_field(name).info or {})


def _check_nobody_is_at(call: Call, worker: Worker) -> None:
    """Raises InputError if a run is at work whose labels are about to be replaced."""
    dataset, name = dataset_of(call.targets), call.record.label_field
    info = dataset.get_field(name).info if dataset.has_field(name) else None
    for run_key in {call.record.run_key, (info or {}).get(PROVENANCE, {}).get("run_key", call.record.run_key)}:
        state = state_of(dataset, run_key)
        others = [job for job in live_workers(dataset, run_key) if job["id"] != worker.id]
        if others and state is not None and state["state"] == RUNNING:
            raise InputError(f"run {run_key!r} is writing to field {name!r} right now; cancel it first, see cancel_run")


class Work:
    """What one worker has to do in a run that others may be at as well.

    Which chunk a sample is in depends on its id alone, so workers agree on it whatever view they were given.
    ``samples`` runs in the readers' threads of the stream, in one of them at a time.

    Args:
        targets: the samples to label.
        status: name of the status field.
        worker: the lease of this worker.
        run_key: key of the run.
        chunks: into how many chunks samples are divided.

    Attributes:
        dataset: the dataset.
        resumed: samples that were done before.
        total: samples that were left at the start.
        by_others: how many of these another worker did.
    """

    def __init__(self, targets: SampleCollection, status: str, worker: Worker, run_key: str, chunks: int) -> None:
        self.dataset, self._status, self._worker = dataset_of(targets), status, worker
        self._run_key, self._chunks = run_key, chunks
        ids, paths, runs, states = targets.values(["id", "filepath", f"{status}.run_key", f"{status}.state"])
        self._paths = dict(zip(ids, paths, strict=True))
        mine = {key: state for key, run, state in zip(ids, runs, states, strict=True) if run == run_key}
        self._failed_before = {key for key, state in mine.items() if state not in DONE}
        self._left = {key: None for key in ids if mine.get(key) not in DONE}
        self._held: dict[str, set[str]] = {}
        self._lock = threading.RLock()
        self.resumed = len(ids) - len(self._left)
        self.total = len(self._left)
        self.by_others = 0

    @property
    def left(self) -> bool:
        """Whether there are samples that nobody has done, as far as this worker knows."""
        return bool(self._left)

    def samples(self) -> Iterator[tuple[str, str]]:
        """Ids and paths of samples that this worker now has to itself. Ends where others hold all that is left."""
        chunks: dict[str, list[str]] = {}
        for sample_id in self._left:
            chunks.setdefault(str(zlib.crc32(sample_id.encode()) % self._chunks), []).append(sample_id)
        for chunk, ids in chunks.items():
            if not patiently(self._worker.claim, chunk):
                continue
            undone = self._undone(ids)  # now that nobody else can be at them
            if not undone:
                patiently(self._worker.release, chunk)
                continue
            with self._lock:
                self._held[chunk] = set(undone)
            for sample_id in undone:
                self._worker.check()
                yield sample_id, self._paths[sample_id]

    def written(self, sample_ids: list[str]) -> None:
        """These samples are in the database: chunks of which nothing is left are given back."""
        with self._lock:
            for sample_id in sample_ids:
                self._left.pop(sample_id, None)
            for ids in self._held.values():
                ids.difference_update(sample_ids)
            through = [chunk for chunk, ids in self._held.items() if not ids]
            for chunk in through:
                del self._held[chunk]
        for chunk in through:
            patiently(self._worker.release, chunk)

    def look_again(self) -> None:
        """Passes over what others have done meanwhile."""
        self._undone(list(self._left))

    def _undone(self, ids: list[str]) -> list[str]:
        """The samples that still have to be done; one that failed for another worker meanwhile is not tried again."""
        fields = ["id", f"{self._status}.run_key", f"{self._status}.state"]
        found = zip(*patiently(every_image(self.dataset).select(ids).values, fields), strict=True)
        undone = {
            key
            for key, run, state in found
            if run != self._run_key or (state not in DONE and key in self._failed_before)
        }
        with self._lock:
            for sample_id in ids:
                if sample_id not in undone and sample_id in self._left:
                    del self._left[sample_id]
                    self.by_others += 1
        return [sample_id for sample_id in ids if sample_id in undone]


DONE = ("ok", "empty")


def check_free(dataset: fo.Dataset, record: RunRecord, resume: bool, overwrite: bool) -> None:
    """Refuses to write onto what another run or a person wrote.

    Raises:
        InputError: with the choices there are.
        WrongTypeError: if the field holds something other than detections.
    """
    check_name(record.run_key)
    name = record.label_field
    if dataset.has_run(record.run_key):
        taken = dataset.get_run_info(record.run_key).config
        if taken.method != METHOD or taken.record["label_field"] != name:
            raise InputError(
                f"run key {record.run_key!r} of {dataset.name!r} belongs to something else; choose another run_key"
            )
    if not dataset.has_field(name):
        if not name.isidentifier() or name.startswith("_"):
            raise InputError(f"expected label_field to be a name of letters, digits and underscores, got {name!r}")
        return
    if not is_detections_field(dataset, name):
        raise WrongTypeError(f"field {name!r} exists and does not hold Detections; choose another label_field")
    previous = (dataset.get_field(name).info or {}).get(PROVENANCE)
    choices = "choose another label_field, pass overwrite=True, or take the old labels back with undo_run"
    if overwrite:
        return
    if previous is None:
        if every_image(dataset).count(f"{name}.detections"):
            raise InputError(f"field {name!r} holds labels that no run of this plugin wrote; {choices}")
        return
    changed = record.differences(previous)
    if changed or previous["run_key"] != record.run_key or not resume:
        reason = f"with other {', '.join(changed)}" if changed else "already"
        raise InputError(f"field {name!r} was written by run {previous['run_key']!r} {reason}; {choices}")
