"""Records and statuses follow the labels: what became of a run's field since, and what follows from that.

People rename, clear and delete fields with FiftyOne's own tools, which know of no run. So before anything is said or
done about runs, ``mend_runs`` brings what is noted about them in line with the labels that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from itertools import count
from typing import Any

import fiftyone as fo

from fiftyone_ntt.dataset.fields import check_name, every_image, is_detections_field
from fiftyone_ntt.dataset.schema import check_lists_field, declare_status
from fiftyone_ntt.dataset.storage import database_collection, refresh, store
from fiftyone_ntt.errors import InputError, WrongTypeError, counted
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.runs.presence_fields import forget_presence
from fiftyone_ntt.runs.record import (
    METHOD,
    RunRecord,
    has_statuses,
    named_record,
    provenance_of,
    run_of_field,
    run_records,
    status_field,
)
from fiftyone_ntt.runs.renamed import follow, renamed
from fiftyone_ntt.runs.states import COMPLETED, RUNNING, sound_state, state_of
from fiftyone_ntt.runs.workers import DONE, live_workers

logger = logging.getLogger(__name__)

LEARNED_STORE = "ntt_learn"
"""Where the outcome of the last learning on each label field is kept, see ``last_outcome``."""
DECIDED_STORE, DECIDED_LABELS = "ntt_decided", ":labels"
"""Where the last decision on each label field is kept, see ``last_decision``, and beside it what is about labels."""
_OF_LABELS = ((LEARNED_STORE, ""), (DECIDED_STORE, DECIDED_LABELS), (DECIDED_STORE, ""))
"""Store, and what follows a field's name there: all that review keeps about the labels of a field."""


def mend_runs(dataset: fo.Dataset) -> dict[str, dict[str, Any]]:
    """Brings what is noted about runs in line with the dataset as it is in the database now.

    A run whose field was renamed goes by the new name; where statuses were deleted and labels were not, they are made
    anew from the labels. What people deleted stays deleted: a field that is gone is only made again by a run.

    Args:
        dataset: the dataset; what other processes did to it since it was loaded is taken over.

    Returns:
        Key of each labelling run -> its record.
    """
    refresh(dataset)
    records = run_records(dataset)
    if moves := renamed(dataset, records):
        follow(dataset, moves, records, _OF_LABELS)
        records = run_records(dataset)
    restored = [_restore_statuses(dataset, *item) for item in records.items()]
    return run_records(dataset) if any(restored) else records


def default_run_key(dataset: fo.Dataset, label_field: str) -> str:
    """``ntt_<label_field>``; with a number behind it where that is a run on another field by now, which was renamed."""
    fields = {key: record["label_field"] for key, record in mend_runs(dataset).items()}
    keys = (f"ntt_{label_field}{'' if number == 1 else f'_{number}'}" for number in count(1))
    return next(key for key in keys if fields.get(key, label_field) == label_field)


def forget_lost_labels(dataset: fo.Dataset, label_field: str) -> int:
    """Forgets what is noted about the labels of a field that is gone: statuses, image-level labels, what review keeps.

    What the run replaced before stays kept: ``undo_run`` can still put it back.

    Returns:
        How many samples had been labelled.
    """
    status, lost = status_field(label_field), 0
    if has_statuses(dataset, label_field):
        lost = database_collection(dataset).count_documents({f"{status}.state": {"$in": DONE}})
        dataset.delete_sample_field(status)
    forget_presence(dataset, label_field)
    forget_review(dataset, label_field)
    return lost


def forget_cleared_labels(dataset: fo.Dataset, label_field: str, run_key: str) -> None:
    """Forgets image-level labels, and what review keeps, where somebody has cleared all of a field that a run wrote.

    The statuses stay: by these the run knows what it has to do again.
    """
    samples, status = database_collection(dataset), status_field(label_field)
    labelled = {f"{label_field}._cls": {"$exists": True}}
    done = {f"{status}.run_key": run_key, f"{status}.state": {"$in": DONE}, **labelled}
    # The first is answered by an index, and finds something in all but a cleared field.
    if not any(samples.find_one(query, {"_id": 1}) for query in (done, labelled)):
        forget_presence(dataset, label_field)
        forget_review(dataset, label_field)


def forget_review(dataset: fo.Dataset, label_field: str) -> None:
    """Forgets what was learned from labels that are gone, and what was decided on them last: nothing to take back."""
    for name, ending in _OF_LABELS:
        store(dataset, name).delete(label_field + ending)


def forget_statuses(dataset: fo.Dataset, label_field: str, run_key: str) -> None:
    """Forgets what a run did with samples whose labels are another run's by now."""
    status = status_field(label_field)
    if has_statuses(dataset, label_field):
        change = {"$set": {status: None, "last_modified_at": datetime.now(timezone.utc)}}
        database_collection(dataset).update_many({f"{status}.run_key": run_key}, change)


def has_same_scores(record: RunRecord, previous: Mapping[str, Any]) -> bool:
    """Whether the labels that are there are this run's, with the scores that it is about to give: it is lowered.

    Args:
        record: the run.
        previous: that of the label field, see ``provenance_of``.
    """
    if previous.get("run_key") != record.run_key:
        return False
    written_above = previous.get("match", {}).get("score_threshold", 0.0)  # decides which are written, as thresholds do
    same = replace(record, match={**record.match, "score_threshold": written_above})
    return not set(same.differences(dict(previous))) - {"thresholds"}


def said_of_lost(lost: int, label_field: str) -> list[str]:
    """What a report says of samples that had to be labelled again."""
    text = f"{counted(lost, 'sample')} labelled before, whose labels were gone from {label_field!r}"
    return [text] if lost else []


def _restore_statuses(dataset: fo.Dataset, run_key: str, record: Mapping[str, Any]) -> bool:
    """Makes statuses from the labels, where the field of the statuses is gone and all labels are of the run.

    A sample of which a person deleted every label still has its list of labels, an empty one: it is done.
    """
    name = record["label_field"]
    if dataset.has_field(status_field(name)) or not _all_are_of_run(dataset, run_key, name):
        return False
    declare_status(dataset, name, status_field(name))
    labels = f"{name}.detections"
    of_run = [{labels: {"$size": 0}}, {labels: {"$elemMatch": {"predicted_iou": {"$type": "number"}}}}]
    status = fo.DynamicEmbeddedDocument(run_key=run_key, error=None).to_dict()
    state = {"$cond": [{"$eq": [{"$size": f"${labels}"}, 0]}, "empty", "ok"]}
    now = datetime.now(timezone.utc)
    update = {"$set": {status_field(name): {**status, "state": state}, "last_modified_at": now}}
    changed = database_collection(dataset).update_many({"$or": of_run}, [update])
    logger.info("statuses of run %r were gone; %d were made from its labels", run_key, changed.modified_count)
    return True


def _all_are_of_run(dataset: fo.Dataset, run_key: str, name: str) -> bool:
    """Whether the labels in a field are those of a run, as far as a run wrote them."""
    if not dataset.has_field(name) or run_of_field(dataset, name) != run_key:
        return False
    state = sound_state(dataset, run_key)
    # A run that replaces labels, and is not through, leaves those that it has not come to.
    return state is None or state["state"] == COMPLETED or not state.get("overwrites", True)


def is_superseded(dataset: fo.Dataset, record: RunRecord) -> bool:
    """Whether a field holds labels of this very run, made with other references or settings."""
    previous = provenance_of(dataset, record.label_field)
    return previous.get("run_key") == record.run_key and bool(record.differences(dict(previous)))


def check_nobody_is_at(
    dataset: fo.Dataset, label_field: str, run_keys: Iterable[str], worker: str | None = None
) -> None:
    """Refuses to touch labels that are being written.

    Args:
        dataset: the dataset.
        label_field: the field of the labels.
        run_keys: the runs on that field which must not be at work.
        worker: id of a worker that does not count.

    Raises:
        InputError: if one of them is at work.
    """
    for run_key in run_keys:
        others = [job for job in live_workers(dataset, run_key) if job["id"] != worker]
        state = state_of(dataset, run_key) if others else None
        if state is not None and state["state"] == RUNNING:
            raise InputError(
                f"run {run_key!r} of {state['user']} is writing to field {label_field!r} right now; wait until it is "
                "through, cancel it first (see cancel_run), or choose another label_field"
            )


def as_begun(asked: StageOneSettings, dataset: fo.Dataset, run_key: str | None) -> StageOneSettings:
    """The settings with which a run of this key goes on: one from before there were tiles does without them.

    Where the precision may be any, it is that of the run, whatever this machine would choose.

    Args:
        asked: the settings that were asked for. ``large_images="on"`` is another run.
        dataset: the dataset.
        run_key: the run; ``None`` where it begins anew.
    """
    if run_key is None or not dataset.has_run(run_key) or (record := run_records(dataset).get(run_key)) is None:
        return asked
    if asked.large_images == "auto" and "large_images" not in record:
        asked = asked.changed(large_images="off")
    return asked.changed(precision=record.get("precision", "fp32")) if asked.precision == "auto" else asked


def check_free(dataset: fo.Dataset, record: RunRecord, resume: bool, overwrite: bool) -> None:
    """Refuses to write onto what another run or a person wrote.

    Raises:
        InputError: with the choices there are.
        WrongTypeError: if the field holds something other than detections.
    """
    previous = check_field(dataset, record.run_key, record.label_field, overwrite)
    if previous is None:
        return
    changed = record.differences(dict(previous))
    if changed or not resume:
        raise _taken(record.label_field, previous["run_key"], f"with other {', '.join(changed)}" if changed else "")


def check_field(dataset: fo.Dataset, run_key: str, name: str, overwrite: bool) -> dict[str, Any] | None:
    """The record of a run of this key whose labels a field holds, which the same settings go on with.

    Returns:
        ``None`` where the run may write in any case.

    Raises:
        InputError: if the field or the key is another's.
        WrongTypeError: if the field holds something other than detections.
    """
    check_name(run_key)
    if dataset.has_run(run_key):
        taken = dataset.get_run_info(run_key).config
        if taken.method != METHOD or named_record(taken)["label_field"] != name:
            raise InputError(
                f"run key {run_key!r} of {dataset.name!r} belongs to something else; choose another run_key"
            )
    status = status_field(name)
    if dataset.has_field(status) and not has_statuses(dataset, name):
        raise InputError(
            f"field {status!r} holds something else, and a run would write there what it did with each sample; choose "
            "another label_field, or rename that field with dataset.rename_sample_field"
        )
    if not dataset.has_field(name):
        if not name.isidentifier() or name.startswith("_"):
            raise InputError(f"expected label_field to be a name of letters, digits and underscores, got {name!r}")
        return None
    if not is_detections_field(dataset, name):
        raise WrongTypeError(f"field {name!r} exists and does not hold Detections; choose another label_field")
    check_lists_field(dataset, name)
    previous = provenance_of(dataset, name)
    if overwrite:
        return None
    if not previous and every_image(dataset).count(f"{name}.detections"):
        raise InputError(f"field {name!r} holds labels that no run of this plugin wrote; {_CHOICES}")
    if previous and previous["run_key"] != run_key:
        raise _taken(name, previous["run_key"])
    return previous or None


_CHOICES = "choose another label_field, pass overwrite=True, or take the old labels back with undo_run"


def _taken(name: str, run_key: str, how: str = "") -> InputError:
    return InputError(f"field {name!r} was written by run {run_key!r} {how or 'already'}; {_CHOICES}")
