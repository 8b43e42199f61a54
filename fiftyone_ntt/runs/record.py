"""Labelling runs as the dataset keeps them: the record of what was run, and the state of what it does now.

The record does not change while a run goes on, and says all that decides its labels. The state is kept in FiftyOne's
execution store: who started the run, on which samples, what it does now. What is done is said by the samples' statuses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from bson import json_util
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import dataset_of, detections_fields, every_image, is_labelled, reference_fields
from fiftyone_ntt.dataset.schema import activate_schema, colour_by_class, declare_labels, declare_status, index_tags
from fiftyone_ntt.dataset.storage import stages_of, view_documents, view_from_documents
from fiftyone_ntt.errors import InputError, LeaseLostError, RunCancelledError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.runs.workers import DONE, Origin, live_workers, run_store

if TYPE_CHECKING:  # it brings the models' library along, which those that only read records can do without
    from fiftyone_ntt.candidates.source import StageOne

logger = logging.getLogger(__name__)

METHOD = "ntt/segment"
PROVENANCE = "ntt"
"""Key of a label field's ``info`` under which its run's facts lie."""
MAPS = "ntt_maps"
"""The same for a field of semantic segmentation masks: what they were made from."""
DECISIVE = (
    "classes", "preset", "bank_hash", "weights", "match", "points_per_side", "points", "precision", "thresholds",
    "granularity", "mode", "large_images", "largest_object",
)  # fmt: skip
"""Settings in which two runs must agree for their labels to be the same."""
MODES = GENERIC, REFERRING = "generic", "referring"
"""What is asked for: all instances of the classes, or the one best match of each reference."""

QUEUED, BEGINNING, RUNNING, INTERRUPTED = "queued", "starting", "running", "interrupted"
CANCELLED, COMPLETED, FAILED = "cancelled", "completed", "failed"
IN_A_CHUNK = 16
"""Samples that a worker claims at once, on average."""
_LARGEST_VIEWS = 3 * 2**20
"""Bytes of all views of a run that are noted."""
_ATTEMPTS = 16

State = dict[str, Any]


def status_field(label_field: str) -> str:
    """The field beside ``label_field`` that tells what a run did with each sample."""
    return f"{label_field}_status"


@dataclass(frozen=True)
class RunRecord:
    """Everything needed to know what wrote a field, and whether another run would write the same.

    Attributes:
        run_key: key of the run.
        label_field: field that the run writes.
        classes: class names.
        preset: preset of models.
        bank_hash: content hash of the memory bank.
        weights: model name -> sha256.
        match: settings of stage two.
        points_per_side: prompt points along each side.
        points: which of them were prompted.
        precision: of the image encoders.
        thresholds: of each class, the score that its labels must exceed to be written; ``None`` without any.
        suggested: of each class, the score above which its labels are probably right, where that and ``thresholds``
            were guessed from the references; ``None`` where somebody chose what is written, and in records of before.
        granularity: which of a point's masks became candidates; never ``"auto"``, but what that came to.
        mode: of ``MODES``.
        large_images: whether large images were looked at in tiles; in none of before.
        largest_object: pixels that the largest objects of large images are long, if that was said.
        started: ISO time, UTC.
    """

    run_key: str
    label_field: str
    classes: list[str]
    preset: str
    bank_hash: str
    weights: dict[str, str]
    match: dict[str, Any]
    points_per_side: int
    points: str = "grid"
    precision: str = "fp32"
    thresholds: list[float] | None = None
    granularity: str = "best"
    mode: str = GENERIC
    suggested: list[float] | None = None
    large_images: str = "auto"
    largest_object: int | None = None
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @classmethod
    def of(
        cls, run_key: str, label_field: str, bank: MemoryBank, config: MatchConfig, stage_one: StageOne,
        mode: str = GENERIC, thresholds: list[float] | None = None, suggested: list[float] | None = None,
    ) -> RunRecord:  # fmt: skip
        """The record of a run about to start."""
        asked = stage_one.settings
        return cls(
            run_key, label_field, list(bank.classes), bank.preset, bank.content_hash, dict(bank.weights),
            asdict(config), stage_one.points_per_side, asked.points, asked.precision, thresholds, asked.granularity,
            mode, suggested, asked.large_images, asked.largest_object,
        )  # fmt: skip

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Names of the settings in which another record would give other labels."""
        settings = asdict(self)
        # What records mean that were made before these settings were there.
        before = {"points": "grid", "precision": "fp32", "granularity": "best", "mode": GENERIC, "large_images": "off"}
        with suppress(InputError):  # settings that this version does not have differ from all that it has
            other = {**other, "match": asdict(match_config(other))}
        return [name for name in DECISIVE if settings[name] != other.get(name, before.get(name))]


def options_of(settings: StageOneSettings) -> dict[str, Any]:
    """The part of stage one that does not decide the labels: it is kept with the run's state, for whoever resumes."""
    where = None if settings.index_dir is None else str(settings.index_dir)
    return {
        "use_index": settings.use_index,
        "index_dir": where,
        "device": settings.device,
        "compile": settings.compile,
    }


def stage_one_settings(record: Mapping[str, Any], options: Mapping[str, Any]) -> StageOneSettings:
    """How the candidates of a run were made; what its record does not know was at its default then.

    Args:
        record: the run's record.
        options: what ``options_of`` returned when it began; may be empty.
    """
    return StageOneSettings(
        points_per_side=record["points_per_side"],
        points=record.get("points", "grid"),
        granularity=record.get("granularity", "best"),
        second_look=match_config(record).second_look > 0,
        precision=record.get("precision", "fp32"),
        large_images=record.get("large_images", "off"),
        largest_object=record.get("largest_object"),
        device=options.get("device"),
        compile=bool(options.get("compile")),
        use_index=options.get("use_index", True),
        index_dir=options.get("index_dir"),
    )


def match_config(record: Mapping[str, Any]) -> MatchConfig:
    """The settings of the match that a run was made with; what its record does not know was as published then.

    Raises:
        InputError: if an option was on that is no more.
    """
    return MatchConfig.from_stored(record.get("match", {}))


def stored_record(config: Any) -> dict[str, Any]:
    """The record in the configuration of a labelling run.

    Raises:
        InputError: if it is damaged.
    """
    record = getattr(config, "record", None)
    if not isinstance(record, Mapping) or not all(isinstance(record.get(k), str) for k in ("run_key", "label_field")):
        raise InputError(
            "expected the record of a labelling run, got a damaged one; its labels are still there, and "
            "dataset.delete_run removes the record"
        )
    return dict(record)


def provenance_of(collection: SampleCollection, field_name: str) -> dict[str, Any]:
    """The record of the run that wrote a field of labels, or the labels that its segmentation masks were made from.

    Returns:
        The record; empty if no run of ours did.
    """
    field = dataset_of(collection).get_field(field_name)
    info = (field.info if field is not None else None) or {}
    return dict(info.get(PROVENANCE) or (info.get(MAPS) or {}).get("run") or {})


def run_records(dataset: fo.Dataset) -> dict[str, dict[str, Any]]:
    """Key of each labelling run -> its record; without those that are damaged."""
    records = {}
    for key in dataset.list_runs(method=METHOD):
        with suppress(InputError, LookupError, TypeError, ValueError, AttributeError):
            records[key] = {**stored_record(dataset.get_run_info(key).config), "run_key": key}
    return records


def labelled_fields(dataset: fo.Dataset) -> list[str]:
    """The fields that labelling runs wrote, the newest last."""
    return [name for name in detections_fields(dataset) if PROVENANCE in (dataset.get_field(name).info or {})]


def run_of_field(dataset: fo.Dataset, field_name: str) -> str | None:
    """Key of the run that wrote a field; ``None`` if no run of ours did."""
    run_key: str | None = provenance_of(dataset, field_name).get("run_key")
    return run_key


def fields_of_runs(dataset: fo.Dataset) -> dict[str, str]:
    """Key of the run that wrote each field, the newest first -> the field; without runs that are gone."""
    written = {run_of_field(dataset, name): name for name in reversed(labelled_fields(dataset))}
    return {run_key: name for run_key, name in written.items() if run_key is not None and dataset.has_run(run_key)}


def register(dataset: fo.Dataset, record: RunRecord) -> None:
    """Writes the run record, declares its fields for queries and for the editor, and notes where labels came from."""
    config = dataset.init_run(method=METHOD, record=asdict(record))
    dataset.register_run(record.run_key, config, overwrite=True)
    name = record.label_field
    declare_labels(dataset, name, of_references=record.mode == REFERRING)
    declare_status(dataset, name, status_field(name))
    index_tags(dataset, [*reference_fields(dataset), name])
    note_provenance(dataset, name, asdict(record))
    activate_schema(dataset, name, record.classes)
    colour_by_class(dataset, name, record.classes)


def note_provenance(dataset: fo.Dataset, name: str, record: Mapping[str, Any] | None) -> None:
    """Notes which run wrote the labels of a field; ``None`` takes the note away."""
    label_field = dataset.get_field(name)
    others = {key: value for key, value in (label_field.info or {}).items() if key != PROVENANCE}
    label_field.info = {**others, **({PROVENANCE: dict(record)} if record else {})} or None
    label_field.save()


def state_of(dataset: fo.Dataset, run_key: str) -> State | None:
    """What is known of a run: ``state``, ``views``, ``options``, ...; ``None`` if nothing is."""
    state: State | None = run_store(dataset).get(run_key)
    return state


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
        after = change(dict(before or {}))
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
    targets: SampleCollection, run_key: str, origin: Origin, options: dict[str, Any], fresh: bool,
    overwrites: bool = False,
) -> State:  # fmt: skip
    """Notes that a run goes on, or starts.

    Args:
        targets: the samples to label.
        run_key: key of the run.
        origin: who asks for it.
        options: arguments of ``segment`` that a later worker needs and that do not decide the labels.
        fresh: whether what is known of an earlier run of this key no longer holds.
        overwrites: whether it replaces labels: then those that are there need not be its own.
    """
    dataset = dataset_of(targets)
    view, size = _stages_of(targets), len(targets)
    shared = len(live_workers(dataset, run_key)) > 1

    def change(state: State) -> State:
        if fresh or not state:
            # Of a pass that replaces labels, those that the run has been at before are not done any more.
            views = state.get("views", []) if overwrites else []
            state = {"views": views, "chunks": None, "started": _now(), "worked": None, "door": origin.door}
            state |= {"user": origin.user, "options": options, "overwrites": overwrites}
        if view not in state["views"]:
            state["views"] = [[]] if view == [] else _bounded([*state["views"], view])
        if not shared or state["chunks"] is None:  # others that are at it have these chunks in mind
            state["chunks"] = max(state["chunks"] or 1, -(-size // IN_A_CHUNK))
        if len(state["views"]) == 1:
            state["total"] = size
        else:
            of_all_views = targets_of(dataset, state)
            state["total"] = None if of_all_views is None else len(of_all_views)
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


def _bounded(views: list[list[str] | None]) -> list[list[str] | None]:
    """Views as far as a document takes them, which is written with the one before it in the same command."""
    size = sum(len(stage) for view in views for stage in view or ())
    return views if size < _LARGEST_VIEWS else [None]


def targets_of(dataset: fo.Dataset, state: State) -> SampleCollection | None:
    """The samples that the calls of a run were for; ``None`` if that was too much to note."""
    views = state["views"]
    if None in views:
        return None
    loaded = [view_from_documents(dataset, [json_util.loads(stage) for stage in view]) for view in views]
    if len(loaded) == 1:
        return loaded[0]
    ids = dict.fromkeys(sample_id for view in loaded for sample_id in view.values("id"))
    return every_image(dataset).select(list(ids))


def count_left(dataset: fo.Dataset, state: State, label_field: str, run_key: str) -> int:
    """Samples that a run has not been at yet, or whose labels are gone."""
    targets, status = targets_of(dataset, state), status_field(label_field)
    if targets is None:
        return 0
    if not dataset.has_field(status) or not dataset.has_field(label_field):
        return len(targets)
    lost = F(f"{status}.state").is_in(DONE) & ~is_labelled(label_field)
    return len(targets.match((F(f"{status}.run_key") != run_key) | lost))


def _stages_of(view: SampleCollection) -> list[str] | None:
    if isinstance(view, fo.Dataset):
        return []
    if dataset_of(view).media_type == fo.core.media.GROUP and not isinstance(stages_of(view)[0], fo.SelectGroupSlices):
        # What stages before the choice of a slice mean depends on the slice that is active when they are applied.
        view = every_image(dataset_of(view)).select(view.values("id"))
    stages = [json_util.dumps(stage) for stage in view_documents(view)]
    return stages if sum(map(len, stages)) < _LARGEST_VIEWS else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
