"""Stopping a run from outside, and going on with one from what is kept with the dataset."""

from __future__ import annotations

from typing import Any

import fiftyone as fo

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import Preset
from fiftyone_ntt.references.bank_store import bank_of_run
from fiftyone_ntt.references.build import Progress
from fiftyone_ntt.runs.applied_thresholds import named
from fiftyone_ntt.runs.listing import list_runs, queued_runs
from fiftyone_ntt.runs.record import GENERIC, METHOD, match_config
from fiftyone_ntt.runs.segment import SegmentReport, segment
from fiftyone_ntt.runs.state import CANCELLED, COMPLETED, RUNNING, State, change_state, state_of, targets_of
from fiftyone_ntt.runs.workers import request_cancel


def cancel_run(dataset: fo.Dataset, run_key: str) -> int:
    """Stops a run: each of its workers stops within the chunk it is at, and writes nothing more.

    What was written stays; ``resume_run`` goes on, ``undo_run`` takes it back.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.

    Returns:
        Number of workers that were told to stop.

    Raises:
        InputError: if there is no such run, or it is over.
    """
    config_of(dataset, run_key)
    state = state_of(dataset, run_key)
    now = COMPLETED if state is None else state["state"]
    if now != RUNNING:
        raise InputError(f"run {run_key!r} is {now}; only a run that is at work or was interrupted can be cancelled")

    def cancelled(state: State) -> State | None:
        return {**state, "state": CANCELLED} if state and state["state"] == RUNNING else None

    change_state(dataset, run_key, cancelled)
    return request_cancel(dataset, run_key)


def resume_run(
    dataset: fo.Dataset, run_key: str, *, preset: str | Preset | None = None, progress: Progress | None = None
) -> SegmentReport:
    """Goes on with a run on the samples it was for, with its settings and the memory bank kept with it.

    Samples that failed are tried again. A run that is at work is joined.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.
        preset: the preset of the run; only needed where that was a ``Preset`` object of your own.
        progress: called with (done, total, message).

    Returns:
        What ``segment`` returns.

    Raises:
        InputError: if there is no such run, or it cannot be resumed this way.
    """
    config = config_of(dataset, run_key)
    record, state = config.record, state_of(dataset, run_key)
    targets = None if state is None else targets_of(dataset, state)
    if state is None or targets is None:
        reason = "an earlier version made it" if state is None else "its view is too large to be kept"
        raise InputError(f"run {run_key!r} does not know its samples ({reason}): call segment as before, it resumes")
    options: dict[str, Any] = state["options"]
    return segment(
        targets,
        bank_of_run(dataset, run_key),
        record["label_field"],
        run_key=run_key,
        points_per_side=record["points_per_side"],
        points=record["points"],
        precision=record["precision"],
        thresholds=named(record.get("thresholds"), record["classes"]),
        granularity=record.get("granularity", "best"),
        mode=record.get("mode", GENERIC),
        include_references=True,  # the samples are those that were left when references had been taken out
        config=match_config(record),
        preset=preset,
        progress=progress,
        **options,
    )


def config_of(dataset: fo.Dataset, run_key: str) -> Any:
    """The configuration of a labelling run; raises InputError unless there is such a run, and names those there are."""
    if dataset.has_run(run_key):
        config = dataset.get_run_info(run_key).config
        if config.method == METHOD:
            return config
    if run_key in queued_runs(dataset):
        raise InputError(f"run {run_key!r} waits for a worker to begin it; take it out of FiftyOne's queue instead")
    known = ", ".join(repr(run["run_key"]) for run in list_runs(dataset)) or "none"
    raise InputError(f"no labelling run {run_key!r} in {dataset.name!r}; there is: {known}")
