"""How far runs are, how fast they go, and which ones wait for a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState

from fiftyone_ntt.dataset.fields import every_image, is_labelled
from fiftyone_ntt.dataset.storage import database_collection, dataset_id
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.runs.background import is_alive, is_in_background, mend
from fiftyone_ntt.runs.history import passes
from fiftyone_ntt.runs.mending import default_run_key, mend_runs
from fiftyone_ntt.runs.record import DECISIVE, METHOD, has_statuses, named_record, status_field, stored_record
from fiftyone_ntt.runs.states import (
    BEGINNING,
    COMPLETED,
    FAILED,
    INTERRUPTED,
    QUEUED,
    RUNNING,
    State,
    count_left,
    sound_state,
    state_of,
)
from fiftyone_ntt.runs.workers import DONE, live_workers

logger = logging.getLogger(__name__)

_DAMAGE = (InputError, LookupError, TypeError, ValueError, AttributeError)
PLUGIN = "@fiftyone-ntt/ntt/"
SEGMENT_OPERATOR, RESUME_OPERATOR = f"{PLUGIN}segment", f"{PLUGIN}resume_run"


LOST = "lost"
"""Samples that a run has labelled, and whose labels are gone: they are to be labelled again."""


def status_counts(dataset: fo.Dataset, label_field: str) -> dict[str, dict[str, int]]:
    """How many samples each run has brought to each state: run key -> state, or ``LOST`` -> samples.

    Asks the database itself: FiftyOne's own queries pass by the index that makes this take milliseconds, and read
    documents with all their masks.

    Args:
        dataset: the dataset.
        label_field: the field that the runs wrote.
    """
    counts: dict[str, dict[str, int]] = {}
    status = status_field(label_field)
    if not has_statuses(dataset, label_field):
        return counts
    there = {"$gt": [f"${label_field}._cls", None]} if dataset.has_field(label_field) else {"$literal": False}
    key = {"run": f"${status}.run_key", "state": f"${status}.state", "there": there}
    pipeline: list[dict[str, Any]] = [
        {"$match": {f"{status}.run_key": {"$gt": ""}}},
        {"$group": {"_id": key, "samples": {"$sum": 1}}},
    ]
    for row in database_collection(dataset).aggregate(pipeline):
        state, of_run = row["_id"].get("state"), counts.setdefault(row["_id"]["run"], {})
        state = LOST if state in DONE and not row["_id"]["there"] else state
        of_run[state] = of_run.get(state, 0) + row["samples"]
    return counts


def figures_of(dataset: fo.Dataset, run_key: str, label_field: str, by_state: dict[str, int]) -> dict[str, Any]:
    """State, speed and origin of a run that has begun, as ``list_runs`` tells them.

    Args:
        dataset: the dataset.
        run_key: key of the run.
        label_field: the field that it writes.
        by_state: samples that it has been at, see ``status_counts``.
    """
    state, note = state_of(dataset, run_key), _note(dataset, label_field, by_state)
    if state is None:  # of an earlier version, or of a dataset that was copied without it
        unknown = dict.fromkeys(("throughput", "eta_seconds", "started_by", "door", "error", "ended"))
        figures = {"state": INTERRUPTED if note else COMPLETED, "left": by_state.get(LOST, 0), "note": note}
        return {**figures, "workers": 0, "options": {}, **unknown}
    if note and state["state"] == COMPLETED:  # something is left to do after all
        state = {**state, "state": RUNNING}
    workers = live_workers(dataset, run_key)
    left = _left(dataset, state, label_field, run_key, sum(by_state.values()) - by_state.get(LOST, 0))
    running = state["state"] == RUNNING and (bool(workers) or is_alive(dataset, state.get("operation")))
    parts = [job["progress"] for job in workers if job["progress"]] if running else []
    throughput = sum(map(_speed, parts)) or _speed(state["worked"])
    return {
        "state": INTERRUPTED if state["state"] == RUNNING and not running else state["state"],
        "left": left,
        "throughput": throughput or None,
        "eta_seconds": left / throughput if running and throughput else None,
        "workers": len(workers),
        "options": state["options"],
        "started_by": state["user"],
        "door": state["door"],
        "error": state["error"],
        "ended": state["ended"],
        "note": note,
    }


def _note(dataset: fo.Dataset, label_field: str, by_state: dict[str, int]) -> str | None:
    """What a person should know who believes that the labels of a run are there."""
    advice = "resume_run labels again, undo_run forgets the run"
    if not dataset.has_field(label_field):
        return f"field {label_field!r} was deleted: {advice}"
    lost = by_state.get(LOST, 0)
    have_lost = counted(lost, "image has lost its labels", "images have lost their labels")
    return f"{have_lost} in field {label_field!r}: {advice}" if lost else None


def queued_runs(dataset: fo.Dataset) -> dict[str, dict[str, Any]]:
    """Runs that were asked for and have not begun: run key -> what is known of them.

    Their state is ``queued`` while they wait for a worker, ``starting`` once one is at them (it loads models, or builds
    the memory bank). A run that is to be resumed is among them.
    """
    return {key: run for key, (run, begun) in _asked_for(dataset).items() if not begun}


def _asked_for(dataset: fo.Dataset) -> dict[str, tuple[dict[str, Any], bool]]:
    """Run key -> what is known of a run that was asked for, and whether it has a state of its own by now."""
    asked: dict[str, tuple[dict[str, Any], bool]] = {}
    for operation in _open_operations(dataset):
        if operation.operator not in (SEGMENT_OPERATOR, RESUME_OPERATOR):
            continue
        params = dict((operation.context.request_params if operation.context else {}).get("params") or {})
        field = params.get("label_field") or "ntt"
        key = params.get("run_key") or default_run_key(dataset, field)
        state = sound_state(dataset, key)
        begun = state is not None and state.get("operation") == str(operation.id)
        described = _scheduled(dataset, operation)
        run = {
            "run_key": key,
            "label_field": field,
            "state": described["state"],
            "message": described["message"],
            "in_background": described["in_background"],
            "started": str(operation.queued_at),
            "door": "delegated",
            "operation": str(operation.id),
            "configuration": params,
            "counts": {},
            "layers": [],
            "states": {},
        }
        asked[key] = run, begun
    return asked


def _left(dataset: fo.Dataset, state: State, label_field: str, run_key: str, done: int) -> int:
    if state["state"] == COMPLETED:
        return 0
    total = state.get("total")
    return count_left(dataset, state, label_field, run_key) if total is None else max(int(total) - done, 0)


def _speed(figures: dict[str, float] | None) -> float:
    return figures["done"] / figures["seconds"] if figures and figures["seconds"] else 0.0


def scheduled_work(dataset: fo.Dataset, limit: int = 5) -> list[dict[str, Any]]:
    """What FiftyOne's queue holds of this plugin for a dataset, labelling runs aside unless they failed.

    Args:
        dataset: the dataset.
        limit: how many operations that failed to tell, the newest ones.

    Returns:
        Of each ``operator``, its ``operation``, ``state`` (``queued``, ``starting``, ``running`` or ``failed``),
        ``progress`` in 0..1 or ``None``, ``eta_seconds``, ``message``, ``error`` in one line, the date ``at``, and
        whether it is ``in_background``, where it needs no worker; what failed comes last. What was cancelled is not
        among them.
    """
    at_work = [
        _scheduled(dataset, operation)
        for operation in _open_operations(dataset)
        if operation.operator not in (SEGMENT_OPERATOR, RESUME_OPERATOR)
    ]
    failed = [
        operation
        for operation in _operations(dataset, ExecutionRunState.FAILED)
        if "RunCancelledError" not in _last_line_of(getattr(operation.result, "error", None))
    ]
    return [*at_work, *[_scheduled(dataset, operation) for operation in failed[-limit:]]]


def _open_operations(dataset: fo.Dataset) -> list[Any]:
    """The operations of this plugin that wait or are at work."""
    # In the order in which they go through these states: one that goes on in between is found twice, not missed.
    states = (ExecutionRunState.SCHEDULED, ExecutionRunState.QUEUED, ExecutionRunState.RUNNING)
    return list({str(found.id): found for state in states for found in _operations(dataset, state)}.values())


def _operations(dataset: fo.Dataset, state: str) -> list[Any]:
    operations = DelegatedOperationService().list_operations(dataset_id=dataset_id(dataset), run_state=state)
    return [operation for operation in operations if str(operation.operator).startswith(PLUGIN)]


def _scheduled(dataset: fo.Dataset, operation: Any) -> dict[str, Any]:
    status, error = operation.status, getattr(operation.result, "error", None)
    in_background = is_in_background(dataset, str(operation.id))
    if operation.run_state == ExecutionRunState.RUNNING:
        state = RUNNING if operation.operator not in (SEGMENT_OPERATOR, RESUME_OPERATOR) else BEGINNING
    elif operation.run_state == ExecutionRunState.FAILED:
        state = FAILED
    else:
        state = BEGINNING if in_background else QUEUED
    progress = getattr(status, "progress", None)
    return {
        "operator": str(operation.operator).removeprefix(PLUGIN),
        "operation": str(operation.id),
        "state": state,
        "progress": progress,
        "eta_seconds": _rest(operation.started_at, progress),
        "message": getattr(status, "label", None),
        "error": _last_line(error) if state == FAILED else None,
        "in_background": in_background,
        "at": operation.failed_at or operation.started_at or operation.queued_at,
    }


def _rest(started_at: datetime | None, progress: float | None) -> float | None:
    """Seconds that work still takes if it goes on as before; ``None`` where nobody can know."""
    if started_at is None or not progress:
        return None
    worked = (datetime.now(timezone.utc) - started_at.replace(tzinfo=timezone.utc)).total_seconds()
    return max(worked, 0.0) * (1 - progress) / progress


def _last_line_of(traceback: str | None) -> str:
    lines = (traceback or "").strip().splitlines()
    return lines[-1] if lines else ""


def _last_line(traceback: str | None) -> str:
    """What an exception says, without where it came from."""
    line = _last_line_of(traceback)
    if not line:
        return "its worker was stopped"
    name, colon, message = line.partition(": ")
    return message if colon and name.replace(".", "").replace("_", "").isalnum() else line


def list_runs(dataset: fo.Dataset) -> list[dict[str, Any]]:
    """The labelling runs of a dataset, oldest first; runs that wait for a worker to begin come last.

    A run whose record cannot be read is among them, as ``failed`` with an ``error`` that says so.

    Returns:
        Of each run its settings (``run_key``, ``label_field``, ``preset``, ``bank_hash``, ...), and

        * ``state``: ``queued``, ``starting``, ``running``, ``interrupted``, ``cancelled``, ``completed`` or ``failed``,
        * ``counts``: samples that are ``ok``, ``empty``, ``error`` and ``left``,
        * ``throughput`` in images a second, ``eta_seconds`` while it runs, ``workers`` that are at it now,
        * ``configuration``: all that decides the labels, ``options``: all that does not,
        * ``note``: what became of its labels since, where they are gone: then it counts as ``interrupted``,
        * ``layers``: what ``undo_run`` takes back, one a call, the last one first: ``what`` (``labelling`` or
          ``learning``) and when it began, ``at``,
        * ``started_by``, ``door`` (``sdk``, ``app``, ``cli`` or ``delegated``), and the ``error`` of a run that failed.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> [(run["run_key"], run["state"]) for run in ntt.list_runs(dataset)]  # doctest: +SKIP
    """
    mend(dataset)
    # Before the records: what begins in between is then in both, and no run is in neither.
    waiting = _asked_for(dataset)
    mend_runs(dataset)
    facts: dict[str, dict[str, Any]] = {}
    damaged: dict[str, str] = {}  # one damaged record, or state, costs its run
    for key in dataset.list_runs(method=METHOD):
        try:
            config = dataset.get_run_info(key).config
            facts[key] = {**named_record(config), "run_key": key}
            stored_record(config)  # refuses one that cannot be gone on with; it can still be undone
        except _DAMAGE as error:
            damaged[key] = str(error)
    counts = {name: status_counts(dataset, name) for name in {record["label_field"] for record in facts.values()}}
    runs = []
    for key, record in facts.items():
        if key in damaged:
            continue
        try:
            runs.append(_described(dataset, record, counts))
        except InputError as error:
            damaged[key] = str(error)
        except _DAMAGE as error:
            damaged[key] = f"its state is damaged ({type(error).__name__}: {error}); undo the run, or delete its record"
    runs += [_damaged(key, facts.get(key, {}), reason) for key, reason in damaged.items()]
    for run in runs:
        asked, begun = waiting.get(run["run_key"], ({}, True))
        if not begun and run["state"] != RUNNING:
            run |= {name: asked[name] for name in ("state", "operation", "message", "in_background")}
            run["error"] = None  # of the time before
    recorded = {run["run_key"] for run in runs}
    new = [run for key, (run, _) in waiting.items() if key not in recorded]
    return [*sorted(runs, key=lambda run: str(run["started"])), *new]


def _damaged(key: str, facts: dict[str, Any], reason: str) -> dict[str, Any]:
    """What there is to say of a run whose record or state cannot be read: that, and nothing else."""
    logger.warning("run %r cannot be read: %s", key, reason)
    nothing = dict.fromkeys(("throughput", "eta_seconds", "started_by", "door", "ended", "note"))
    named = {"run_key": key, "label_field": "", "started": "", **facts}
    counts = {"ok": 0, "empty": 0, "error": 0, "left": 0}
    known = {"state": FAILED, "error": reason, "workers": 0, "options": {}, "configuration": {}, "counts": counts}
    return {**named, **nothing, **known}


def _described(
    dataset: fo.Dataset, facts: dict[str, Any], counts: dict[str, dict[str, dict[str, int]]]
) -> dict[str, Any]:
    key, name = facts["run_key"], facts["label_field"]
    by_state = counts[name].get(key, {})
    figures = figures_of(dataset, key, name, by_state)
    return {
        **facts,
        "configuration": {name: facts[name] for name in DECISIVE if name in facts},
        "layers": layers_of(dataset, key),
        "counts": {**{name: by_state.get(name, 0) for name in ("ok", "empty", "error")}, "left": figures.pop("left")},
        **figures,
    }


def layers_of(dataset: fo.Dataset, run_key: str) -> list[dict[str, Any]]:
    """What ``undo_run`` takes back of a run, a layer a call, the last one first.

    Args:
        dataset: the dataset.
        run_key: key of the run.

    Returns:
        ``what`` each was, begun ``at``, and what its report ``told``, in the order in which they were written.
    """
    return [{"what": run_pass.what, "at": run_pass.at, "told": run_pass.told} for run_pass in passes(dataset, run_key)]


def layer_in_words(layer: dict[str, Any] | None) -> str:
    """``"what learning wrote on 2026-11-29 16:20"``, and what changed, as the report said it."""
    what, at, told = (layer["what"], layer["at"], layer["told"]) if layer else ("labelling", None, "")
    when = f" on {at[:16].replace('T', ' ')}" if at else ""
    return f"what {what} wrote{when}{f' ({told})' if told else ''}"


def last_layer(dataset: fo.Dataset, run_key: str) -> str:
    """What ``undo_run`` would take back now, in words, and what is left then."""
    layers = layers_of(dataset, run_key)
    before = len(layers) - 1
    rest = "" if before < 1 else "; what was there before comes back" if before == 1 else (
        f"; the {counted(before, 'layer')} before it stay, and can be undone after it"
    )  # fmt: skip
    return f"{layer_in_words(layers[-1] if layers else None)}{rest}"


def images_of_run(dataset: fo.Dataset, run_key: str, label_field: str, state: str) -> SampleCollection | None:
    """The images that a run has brought to a state; ``None`` if there are none.

    Args:
        dataset: the dataset.
        run_key: key of the run.
        label_field: the field that it writes.
        state: ``"ok"``, ``"empty"`` or ``"error"``.
    """
    status = status_field(label_field)
    if not status_counts(dataset, label_field).get(run_key, {}).get(state):
        return None
    of_run = (F(f"{status}.run_key") == run_key) & (F(f"{status}.state") == state)
    return every_image(dataset).match(of_run & is_labelled(label_field) if state in DONE else of_run)


def is_given_up(operation: Any) -> Callable[[], bool]:
    """A question to ask now and then: whether a scheduled operation was marked as failed, or deleted, meanwhile.

    Args:
        operation: its id.
    """
    service = DelegatedOperationService()

    def given_up() -> bool:
        try:
            return bool(service.get(operation).run_state == ExecutionRunState.FAILED)
        except ValueError:  # it has been deleted
            return True

    return given_up
