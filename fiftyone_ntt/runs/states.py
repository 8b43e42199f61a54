"""The states of labelling runs: who started each, on which samples, what it does now.

They are kept in FiftyOne's execution store. What a run has done is said by the statuses of its samples, what decides
its labels by its record (``runs/record.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import REFERENCE_TAG, dataset_of, every_image, is_labelled
from fiftyone_ntt.errors import InputError, LeaseLostError, RunCancelledError
from fiftyone_ntt.runs.record import RunRecord, has_statuses, status_field
from fiftyone_ntt.runs.run_samples import RunSamples, joined, noted
from fiftyone_ntt.runs.workers import DONE, Origin, live_workers, run_store

logger = logging.getLogger(__name__)

QUEUED, BEGINNING, RUNNING, INTERRUPTED = "queued", "starting", "running", "interrupted"
CANCELLED, COMPLETED, FAILED = "cancelled", "completed", "failed"
IN_A_CHUNK = 16
"""Samples that a worker claims at once, on average."""
_ATTEMPTS = 16

State = dict[str, Any]
_FACTS = {"state", "options", "user", "door", "error", "ended", "worked", "chunks"}
"""What every version has noted."""


def state_of(dataset: fo.Dataset, run_key: str) -> State | None:
    """What is known of a run: ``state``, ``samples``, ``options``, ...; ``None`` if nothing is.

    Raises:
        InputError: if it is damaged.
    """
    state: State | None = run_store(dataset).get(run_key)
    if state is not None and not _is_sound(state):
        raise InputError(
            f"the state of run {run_key!r} is damaged; call segment as before, which makes it anew, or take the run "
            "back with undo_run"
        )
    return state


def sound_state(dataset: fo.Dataset, run_key: str) -> State | None:
    """The same, where a damaged state is none: for what can do without."""
    state = run_store(dataset).get(run_key)
    return state if _is_sound(state) else None


def _is_sound(state: Any) -> bool:
    if not isinstance(state, Mapping) or not state.keys() >= _FACTS:
        return False
    has_samples = "samples" in state or isinstance(state.get("views"), list)
    return has_samples and isinstance(state["state"], str) and isinstance(state["options"], Mapping)


def change_state(dataset: fo.Dataset, run_key: str, change: Callable[[State], State | None]) -> State | None:
    """Changes the state of a run, as one step among those of others.

    Args:
        dataset: the dataset.
        run_key: key of the run.
        change: gets the state (empty if there is none), returns the new one, or ``None`` to leave it.

    Returns:
        The new state; ``None`` if it was left.
    """
    store = run_store(dataset)
    for _ in range(_ATTEMPTS):
        before = store.get(run_key)
        after = change(dict(before) if isinstance(before, Mapping) else {})
        if after is None:
            return None
        done = store.set_if_absent(run_key, after) if before is None else store.compare_and_set(run_key, before, after)
        if done:
            return after
    raise RuntimeError(f"the state of run {run_key!r} was changed by others {_ATTEMPTS} times in a row")


def delete_state(dataset: fo.Dataset, run_key: str) -> None:
    """Forgets the state of a run."""
    run_store(dataset).delete(run_key)


def open_run(
    targets: SampleCollection, record: RunRecord, origin: Origin, options: dict[str, Any], fresh: bool,
    overwrites: bool = False, whole: bool = False,
) -> State:  # fmt: skip
    """Notes that a run goes on, or starts.

    Args:
        targets: the samples to label.
        record: the run.
        origin: who asks for it.
        options: arguments of ``segment`` that a later worker needs and that do not decide the labels.
        fresh: whether what is known of an earlier run of this key no longer holds.
        overwrites: whether it replaces labels: then those that are there need not be its own.
        whole: whether it is for the whole dataset but for its references, and what comes to it later, too.
    """
    dataset, run_key = dataset_of(targets), record.run_key
    asked = RunSamples.of(targets, whole)
    size = len(targets)
    shared = len(live_workers(dataset, run_key)) > 1

    def change(state: State) -> State:
        state = state if _is_sound(state) else {}
        samples: RunSamples | None = asked
        if overwrites or not state or not fresh:
            # Of a pass that replaces labels, those that the run has been at before are not done any more.
            samples = joined(dataset, run_key, record.label_field, state, asked)
        if fresh or not state:
            state = {"chunks": None, "started": _now(), "worked": None, "door": origin.door}
            state |= {"user": origin.user, "options": options, "overwrites": overwrites}
        state.pop("views", None)  # of earlier versions
        state["samples"] = None if samples is None else samples.packed()
        if not shared or state["chunks"] is None:  # others that are at it have these chunks in mind
            state["chunks"] = max(state["chunks"] or 1, -(-size // IN_A_CHUNK))
        state["total"] = size if samples == asked else None if samples is None else len(samples.of_dataset(dataset))
        return {**state, "state": RUNNING, "error": None, "ended": None, "operation": origin.operation}

    return change_state(dataset, run_key, change) or {}


def close_run(dataset: fo.Dataset, run_key: str, label_field: str, worked: State, error: BaseException | None) -> None:
    """Notes how a worker's part ended; the last worker of a run decides what becomes of the run.

    An interrupted run stays as it is: running without a worker is what being interrupted means.
    """
    if isinstance(error, LeaseLostError) or (error is not None and not isinstance(error, Exception)):
        return
    if isinstance(error, RunCancelledError):
        new: str | None = CANCELLED
    elif live_workers(dataset, run_key):
        new = None
    elif error is not None:
        new = FAILED
    else:
        state = state_of(dataset, run_key)
        new = COMPLETED if state is not None and not count_left(dataset, state, label_field, run_key) else None

    def change(state: State) -> State | None:
        if not state:
            return None
        if worked["done"]:
            state["worked"] = worked
        if new is not None and (state["state"] == RUNNING or new == CANCELLED):
            state |= {"state": new, "ended": _now(), "error": str(error) if new == FAILED else None}
        return state

    change_state(dataset, run_key, change)


def close_quietly(dataset: fo.Dataset, run_key: str, label_field: str, worked: State, error: BaseException) -> None:
    """``close_run`` after an error, which nothing may hide: the database itself may be gone."""
    try:
        close_run(dataset, run_key, label_field, worked, error)
    except Exception:
        logger.warning("could not note how run %r ended", run_key)
        logger.debug("why", exc_info=True)


def targets_of(dataset: fo.Dataset, run_key: str, label_field: str, state: State) -> SampleCollection | None:
    """The samples that the calls of a run were for; ``None`` if nobody knows them, or they were too many to note.

    References that were tagged since, and that the run has not labelled, are not among them.
    """
    samples = noted(dataset, run_key, label_field, state)
    if samples is None:
        return None
    if not samples.but:
        return samples.of_dataset(dataset)
    late = every_image(dataset).match_tags(REFERENCE_TAG)
    if has_statuses(dataset, label_field):
        late = late.match(F(f"{status_field(label_field)}.run_key") != run_key)
    return RunSamples(samples.ids | set(late.values("id")), but=True).of_dataset(dataset)


def count_left(dataset: fo.Dataset, state: State, label_field: str, run_key: str) -> int:
    """Samples that a run has not been at yet, or whose labels are gone."""
    targets, status = targets_of(dataset, run_key, label_field, state), status_field(label_field)
    if targets is None:
        return 0
    if not has_statuses(dataset, label_field) or not dataset.has_field(label_field):
        return len(targets)
    lost = F(f"{status}.state").is_in(DONE) & ~is_labelled(label_field)
    return len(targets.match((F(f"{status}.run_key") != run_key) | lost))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
