"""Labelling runs as the dataset keeps them: the record of what was run.

It does not change while a run goes on, and says all that decides its labels. What a run does now is its state, see
``runs/states.py``; what is done is said by the statuses of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import dataset_of, detections_fields, reference_fields
from fiftyone_ntt.dataset.schema import activate_schema, colour_by_class, declare_labels, declare_status, index_tags
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.params.base import StageOneSettings

if TYPE_CHECKING:  # it brings the models' library along, which those that only read records can do without
    from fiftyone_ntt.candidates.source import StageOne

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


def status_field(label_field: str) -> str:
    """The field beside ``label_field`` that tells what a run did with each sample."""
    return f"{label_field}_status"


def has_statuses(dataset: fo.Dataset, label_field: str) -> bool:
    """Whether the field of statuses is there; one of its name that holds something else is a person's own."""
    field = dataset.get_field(status_field(label_field))
    return isinstance(field, fo.EmbeddedDocumentField) and "run_key" in field.get_field_schema()


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
        InputError: if an option was on that is no more, or what is kept of them is damaged.
    """
    stored = record.get("match", {})
    if not isinstance(stored, Mapping):
        raise InputError(f"expected the settings of the match of a run, got {type(stored).__name__}; undo the run")
    return MatchConfig.from_stored(stored)


def named_record(config: Any) -> dict[str, Any]:
    """The record in the configuration of a labelling run, as far as it says which run that is, and of which field.

    Raises:
        InputError: if not even that can be read.
    """
    record = getattr(config, "record", None)
    if not isinstance(record, Mapping) or not all(isinstance(record.get(k), str) for k in ("run_key", "label_field")):
        raise InputError(
            "expected the record of a labelling run, got a damaged one; its labels are still there, and "
            "dataset.delete_run removes the record"
        )
    started = record.get("started")
    return {**record, "started": started if isinstance(started, str) else ""}


def stored_record(config: Any) -> dict[str, Any]:
    """The same where all that whoever goes on with the run has to know can be read.

    Raises:
        InputError: if it is damaged; says where.
    """
    record = named_record(config)
    kinds = {"preset": str, "bank_hash": str, "points_per_side": int, "match": Mapping}
    damaged = [name for name, kind in kinds.items() if not isinstance(record.get(name), kind)]
    damaged = damaged or ([] if _has_classes(record) else ["classes or their thresholds"])
    if damaged:
        raise InputError(
            f"expected the record of a labelling run, got a damaged one of {record['run_key']!r} without usable "
            f"{', '.join(damaged)}; undo_run takes the run back, dataset.delete_run removes the record alone"
        )
    return record


def _has_classes(record: Mapping[str, Any]) -> bool:
    """Whether a record names its classes, and has thresholds for each of them or for none."""
    classes = record.get("classes")
    if not isinstance(classes, Sequence) or not all(isinstance(name, str) for name in classes):
        return False
    rows = [record[key] for key in ("thresholds", "suggested") if record.get(key) is not None]
    return not isinstance(classes, str) and all(
        isinstance(row, Sequence) and len(row) == len(classes) and all(isinstance(one, (int, float)) for one in row)
        for row in rows
    )


def provenance_of(collection: SampleCollection, field_name: str) -> dict[str, Any]:
    """The record of the run that wrote a field of labels, or the labels that its segmentation masks were made from.

    Returns:
        The record; empty if no run of ours did, or if what stands there is no record.
    """
    field = dataset_of(collection).get_field(field_name)
    info = (field.info if field is not None else None) or {}
    maps = info.get(MAPS)
    record = info.get(PROVENANCE) or (maps.get("run") if isinstance(maps, Mapping) else None)
    if not isinstance(record, Mapping) or not isinstance(record.get("run_key"), str) or not _has_classes(record):
        return {}
    return dict(record) if isinstance(record.get("match", {}), Mapping) else {}


def run_records(dataset: fo.Dataset) -> dict[str, dict[str, Any]]:
    """Key of each labelling run -> its record; without those that are damaged."""
    records = {}
    for key in dataset.list_runs(method=METHOD):
        with suppress(InputError, LookupError, TypeError, ValueError, AttributeError):
            records[key] = {**named_record(dataset.get_run_info(key).config), "run_key": key}
    return records


def labelled_fields(dataset: fo.Dataset) -> list[str]:
    """The fields that labelling runs wrote, the newest last."""
    return [name for name in detections_fields(dataset) if provenance_of(dataset, name)]


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
