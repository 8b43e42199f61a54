"""Taking part in a run: alone or with other workers, from its start or where others left off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.dataset.banks import keep_with_run
from fiftyone_ntt.dataset.database import patiently
from fiftyone_ntt.dataset.leases import Worker, live_workers
from fiftyone_ntt.dataset.origin import Origin, current_origin
from fiftyone_ntt.dataset.replaced import begin_pass
from fiftyone_ntt.dataset.runs import PROVENANCE, RunRecord, check_free, goes_on, register, status_field
from fiftyone_ntt.dataset.states import RUNNING, close_quietly, close_run, open_run, state_of
from fiftyone_ntt.dataset.work import Work
from fiftyone_ntt.errors import InputError


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
    dataset, run_key = call.targets._dataset, call.record.run_key
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
    record, dataset = call.record, call.targets._dataset
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
    dataset, name = call.targets._dataset, call.record.label_field
    info = dataset.get_field(name).info if dataset.has_field(name) else None
    for run_key in {call.record.run_key, (info or {}).get(PROVENANCE, {}).get("run_key", call.record.run_key)}:
        state = state_of(dataset, run_key)
        others = [job for job in live_workers(dataset, run_key) if job["id"] != worker.id]
        if others and state is not None and state["state"] == RUNNING:
            raise InputError(f"run {run_key!r} is writing to field {name!r} right now; cancel it first, see cancel_run")
