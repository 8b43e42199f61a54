"""Stopping a run from outside, and going on with one from what is kept with the dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import dataset_of, every_image
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.errors import InputError, listing
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.starting_threshold import starting_thresholds
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import Progress, StageOneSettings, checked_progress, plain_values, stage_one_of
from fiftyone_ntt.params.labelling import CancelParams, LowerThresholdParams, ResumeParams, SegmentParams
from fiftyone_ntt.references.banks import bank_of_run
from fiftyone_ntt.references.tagged_bank import BankPlan
from fiftyone_ntt.runs.applied_thresholds import STARTING, check_mode, named
from fiftyone_ntt.runs.background import cancel
from fiftyone_ntt.runs.listing import list_runs, queued_runs
from fiftyone_ntt.runs.mending import check_field, check_free, default_run_key, is_superseded, mend_runs
from fiftyone_ntt.runs.record import (
    GENERIC,
    METHOD,
    match_config,
    run_of_field,
    stage_one_settings,
    status_field,
    stored_record,
)
from fiftyone_ntt.runs.segment import SegmentReport, Task, label, record_of, settled, taught
from fiftyone_ntt.runs.session import goes_on
from fiftyone_ntt.runs.states import BEGINNING, CANCELLED, COMPLETED, RUNNING, State, change_state, state_of, targets_of
from fiftyone_ntt.runs.workers import request_cancel


def cancel_run(dataset: fo.Dataset, run_key: str) -> int:
    """Stops a run: each of its workers stops within the chunk it is at, and writes nothing more.

    What was written stays; ``resume_run`` goes on, ``undo_run`` takes it back. One that waits, or is starting, does not
    begin.

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
    (run_key,) = plain_values(CancelParams, run_key=run_key)
    asked, state = queued_runs(dataset).get(run_key), state_of(dataset, run_key)
    if asked is not None:
        stopped = cancel(dataset, asked["operation"])
        if state is None or state["state"] != RUNNING or not dataset.has_run(run_key):
            return int(stopped and asked["state"] == BEGINNING)
    record_of_run(dataset, run_key)
    now = COMPLETED if state is None else state["state"]
    if now != RUNNING:
        raise InputError(f"run {run_key!r} is {now}; only a run that is at work or was interrupted can be cancelled")

    def cancelled(state: State) -> State | None:
        return {**state, "state": CANCELLED} if state and state["state"] == RUNNING else None

    change_state(dataset, run_key, cancelled)
    return request_cancel(dataset, run_key)


@with_bar
def resume_run(
    dataset: fo.Dataset, run_key: str, *, preset: str | Preset | None = None, progress: Progress | bool | None = None
) -> SegmentReport:
    """Goes on with a run on the samples it was for, with its settings and the memory bank kept with it.

    Samples that failed are tried again. A run that is at work is joined.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.
        preset: the preset of the run; only needed where that was a ``Preset`` object of your own.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        What ``segment`` returns.

    Raises:
        InputError: if there is no such run, or it cannot be resumed this way.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.resume_run(dataset, "ntt_ntt")  # doctest: +SKIP
    """
    progress = checked_progress(progress)
    record = record_of_run(dataset, run_key)
    state, name = state_of(dataset, run_key), record["label_field"]
    if state is None or targets_of(dataset, run_key, name, state) is None:
        reason = "nothing noted them" if state is None else "they were too many to note, or their view is gone"
        raise InputError(f"run {run_key!r} does not know its samples ({reason}): call segment as before, it resumes")
    run = StoredRun.load(dataset, run_key)
    return segment_again(run, stage_one=run.stage_one.changed(preset=preset), progress=progress)


@with_bar
def lower_threshold(
    dataset: fo.Dataset,
    run_key: str,
    score_threshold: float = 0.0,
    *,
    preset: str | Preset | None = None,
    progress: Progress | bool | None = None,
) -> SegmentReport:
    """Writes the weak labels that a run has left out, down to another score threshold.

    Their images are matched again, from the candidate cache where they are in it: seconds for hundreds of images. What
    a person decided, edited or drew stays, and so do the labels that are there, with their ids and tags. It is a new
    pass of the run, which ``undo_run`` takes back.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.
        score_threshold: labels of all classes above this score are written; 0 writes all.
        preset: the preset of the run; only needed where that was a ``Preset`` object of your own.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        What ``segment`` returns.

    Raises:
        InputError: if there is no such run, it is at work or not through, or its labels above that score are written.
        WrongTypeError: if the threshold is no number.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.lower_threshold(dataset, "ntt_ntt", 0.1)  # doctest: +SKIP
    """
    progress = checked_progress(progress)
    params = LowerThresholdParams(run_key, score_threshold)
    run = StoredRun.load(dataset, run_key)
    state, writer = state_of(dataset, run_key), run_of_field(dataset, run.label_field)
    if writer != run_key:
        raise InputError(f"the labels in {run.label_field!r} are of run {writer!r} by now, not of {run_key!r}")
    if state is not None and state["state"] != COMPLETED:
        raise InputError(
            f"expected a run that is through, got {run_key!r}, which is {state['state']}; resume it or wait, then "
            "lower its threshold"
        )
    new, before, overall = params.score_threshold, run.thresholds, run.config.score_threshold
    # A label had to exceed both: what its class asks for, and what all do.
    highest = max(overall, *(before or {"": 0.0}).values())
    if new >= highest:
        bound = f"{highest:g}" if highest > 0 else "every score"
        raise InputError(
            f"expected a score threshold below what run {run_key!r} has written already, got {new:g}: its labels above "
            f"{bound} are there; filter them instead"
        )
    lowered = None if before is None else {name: min(threshold, new) for name, threshold in before.items()}
    config, stage_one = replace(run.config, score_threshold=min(overall, new)), run.stage_one.changed(preset=preset)
    return segment_again(run, config=config, stage_one=stage_one, thresholds=lowered, overwrite=True, progress=progress)


def foresee(view: SampleCollection, params: SegmentParams, plan: BankPlan) -> bool:
    """What ``segment`` would say of its field, run key and settings before any work, for a form to say it first.

    Args:
        view: the samples to label.
        params: what ``segment`` would get.
        plan: the memory bank.

    Returns:
        Whether labels that the same run wrote before would be replaced.

    Raises:
        InputError: if the field, the run key or a setting cannot be used.
        WrongTypeError: if the field holds something other than detections.
    """
    dataset, name = dataset_of(view), params.label_field
    run_key = params.run_key or default_run_key(dataset, name)
    check_mode(params.mode, params.thresholds)
    written = check_field(dataset, run_key, name, params.overwrite)
    if not plan.fresh:
        return written is not None
    bank = plan.bank()
    bank = taught(view, bank, name) if params.bank is None else bank
    config, asked = settled(None, params.score_threshold, params.max_instances, stage_one_of(params, {}))
    chosen = params.thresholds
    if params.score_threshold is None and chosen is None and params.mode == GENERIC:
        chosen = STARTING
    task = Task(
        view, bank, name, run_key, config, asked, overwrite=params.overwrite, thresholds=chosen, mode=params.mode
    )
    record, _ = record_of(task)
    again = params.bank is None and is_superseded(dataset, record)
    overwrite = (params.overwrite or again) and not (
        params.resume and goes_on(dataset, record, _records(dataset, run_key), params.overwrite)
    )
    check_free(dataset, record, params.resume, overwrite)
    return again


def _records(dataset: fo.Dataset, run_key: str) -> dict[str, dict[str, Any]]:
    return {run_key: record_of_run(dataset, run_key)} if dataset.has_run(run_key) else {}


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
        record, state = record_of_run(dataset, run_key), state_of(dataset, run_key)
        name = record["label_field"]
        targets = None if state is None else targets_of(dataset, run_key, name, state)
        if targets is None:
            targets = every_image(dataset).match(F(f"{status_field(name)}.run_key") == run_key)
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

    @property
    def suggested(self) -> dict[str, float] | None:
        """Class -> where review begins, as the references suggest it; ``None`` where nothing was guessed."""
        return named(self.record.get("suggested"), self.record["classes"])

    def thresholds_for(self, bank: MemoryBank) -> tuple[dict[str, float] | None, dict[str, float] | None]:
        """``thresholds`` and ``suggested`` for a bank that has gained or lost classes since.

        A new class begins at its starting thresholds where those of the run were guessed, and without any elsewhere.
        """
        if self.thresholds is None or self.suggested is None:
            known = self.thresholds
            return None if known is None else {name: known.get(name, 0.0) for name in bank.classes}, None
        guess = starting_thresholds(bank)
        written, suggested = ({**(named(new, bank.classes) or {}), **old} for new, old in (
            (guess.written, self.thresholds), (guess.suggested, self.suggested)))  # fmt: skip
        return {name: written[name] for name in bank.classes}, {name: suggested[name] for name in bank.classes}


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
                suggested=run.suggested,
            ),
            **changes,
        )
    )


def written_by(dataset: fo.Dataset, label_field: str, otherwise: str) -> str:
    """Key of the run whose labels a field holds.

    Args:
        dataset: the dataset.
        label_field: the field.
        otherwise: what cannot be done with labels of no run.

    Raises:
        InputError: if no run wrote the field, or it is a copy of the field that one wrote.
    """
    records = mend_runs(dataset)
    run_key = run_of_field(dataset, label_field)
    if run_key is None or run_key not in records:
        raise InputError(
            f"no run of this plugin wrote the labels in {label_field!r}, so {otherwise}; choose a field that "
            "'NTT: Label images' filled"
        )
    name = records[run_key]["label_field"]
    if name != label_field:
        raise InputError(f"the labels in {label_field!r} are a copy of those of run {run_key!r}; choose {name!r}")
    return run_key


def record_of_run(dataset: fo.Dataset, run_key: str) -> dict[str, Any]:
    """The record of a labelling run; raises InputError unless there is such a run, and names those there are.

    What became of its field since is taken over first, see ``mend_runs``.
    """
    (run_key,) = plain_values(ResumeParams, run_key=run_key)
    mend_runs(dataset)
    if dataset.has_run(run_key):
        config = dataset.get_run_info(run_key).config
        if config.method == METHOD:
            return stored_record(config)
    if run_key in queued_runs(dataset):
        raise InputError(f"run {run_key!r} has not begun yet; wait until it has, or cancel it")
    keys = listing((repr(run["run_key"]) for run in list_runs(dataset)), like=repr(run_key))
    raise InputError(f"no labelling run {run_key!r} in {dataset.name!r}; there is: {keys}")
