"""Stopping a run from outside, and going on with one from what is kept with the dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import Progress, StageOneSettings
from fiftyone_ntt.references.banks import bank_of_run
from fiftyone_ntt.runs.applied_thresholds import named
from fiftyone_ntt.runs.listing import list_runs, queued_runs
from fiftyone_ntt.runs.record import (
    CANCELLED,
    COMPLETED,
    GENERIC,
    METHOD,
    RUNNING,
    State,
    change_state,
    match_config,
    stage_one_settings,
    state_of,
    status_field,
    stored_record,
    targets_of,
)
from fiftyone_ntt.runs.segment import SegmentReport, Task, label
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

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.cancel_run(dataset, "ntt_ntt")  # doctest: +SKIP
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

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.resume_run(dataset, "ntt_ntt")  # doctest: +SKIP
    """
    config_of(dataset, run_key)
    state = state_of(dataset, run_key)
    if state is None or targets_of(dataset, state) is None:
        reason = "an earlier version made it" if state is None else "its view is too large to be kept"
        raise InputError(f"run {run_key!r} does not know its samples ({reason}): call segment as before, it resumes")
    run = StoredRun.load(dataset, run_key)
    return segment_again(run, stage_one=run.stage_one.changed(preset=preset), progress=progress)


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A run as the dataset keeps it: what it takes to go on with it, or to make its labels again.

    Attributes:
        dataset: the dataset.
        run_key: key of the run.
        record: its record, see ``RunRecord``; earlier versions may have written it.
        bank: its memory bank.
        targets: the samples it was for.
        stage_one: how its candidates were made.
    """

    dataset: fo.Dataset
    run_key: str
    record: dict[str, Any]
    bank: MemoryBank
    targets: SampleCollection
    stage_one: StageOneSettings

    @classmethod
    def load(cls, dataset: fo.Dataset, run_key: str) -> StoredRun:
        """The run of a key; where nobody noted its samples, they are those whose status names it.

        Raises:
            InputError: if there is no such run.
        """
        record, state = dict(config_of(dataset, run_key).record), state_of(dataset, run_key)
        targets = None if state is None else targets_of(dataset, state)
        if targets is None:
            targets = every_image(dataset).match(F(f"{status_field(record['label_field'])}.run_key") == run_key)
        stage_one = stage_one_settings(record, state["options"] if state is not None else {})
        return cls(dataset, run_key, record, bank_of_run(dataset, run_key), targets, stage_one)

    @property
    def label_field(self) -> str:
        """The field that holds its labels."""
        return str(self.record["label_field"])

    @property
    def config(self) -> MatchConfig:
        """Its settings of the match."""
        return match_config(self.record)

    @property
    def thresholds(self) -> dict[str, float] | None:
        """Class -> the score that its labels had to exceed; ``None`` without any."""
        return named(self.record.get("thresholds"), self.record["classes"])


def segment_again(run: StoredRun, **changes: Any) -> SegmentReport:
    """Labels the samples of a run with the settings of that run.

    Args:
        run: the run.
        **changes: attributes of ``Task`` that are to be others, for example ``bank`` and ``overwrite``.
    """
    return label(
        replace(
            Task(
                run.targets,
                run.bank,
                run.label_field,
                run.run_key,
                run.config,
                run.stage_one,
                thresholds=run.thresholds,
                mode=run.record.get("mode", GENERIC),
                include_references=True,  # the samples are those that were left when references had been taken out
            ),
            **changes,
        )
    )


def config_of(dataset: fo.Dataset, run_key: str) -> Any:
    """The configuration of a labelling run; raises InputError unless there is such a run, and names those there are."""
    if dataset.has_run(run_key):
        config = dataset.get_run_info(run_key).config
        if config.method == METHOD:
            stored_record(config)  # refuses a damaged one
            return config
    if run_key in queued_runs(dataset):
        raise InputError(f"run {run_key!r} waits for a worker to begin it; take it out of FiftyOne's queue instead")
    keys = ", ".join(repr(run["run_key"]) for run in list_runs(dataset)) or "none"
    raise InputError(f"no labelling run {run_key!r} in {dataset.name!r}; there is: {keys}")
