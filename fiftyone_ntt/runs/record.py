"""Records of labelling runs: what was run, and on which field."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import check_name, dataset_of, detections_fields, every_image, is_detections_field
from fiftyone_ntt.dataset.labels import ATTRIBUTES, OF_REFERENCES
from fiftyone_ntt.dataset.schema import activate_schema
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.params.labelling import StageOneSettings
from fiftyone_ntt.runs.state import COMPLETED, state_of

if TYPE_CHECKING:  # it brings the models' library along, which those that only read records can do without
    from fiftyone_ntt.candidates.source import StageOne

METHOD = "ntt/segment"
PROVENANCE = "ntt"
"""Key of a label field's ``info`` under which its run's facts lie."""
MAPS = "ntt_maps"
"""The same for a field of class maps: what they were made from."""
DECISIVE = (
    "classes",
    "preset",
    "bank_hash",
    "weights",
    "match",
    "points_per_side",
    "points",
    "precision",
    "thresholds",
    "granularity",
    "mode",
)
"""Settings in which two runs must agree for their labels to be the same."""
MODES = GENERIC, REFERRING = "generic", "referring"
"""What is asked for: all instances of the classes, or the one best match of each reference."""


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
        granularity: which of a point's masks became candidates; never ``"auto"``, but what that came to.
        mode: of ``MODES``.
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
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @classmethod
    def of(
        cls, run_key: str, label_field: str, bank: MemoryBank, config: MatchConfig, stage_one: StageOne,
        mode: str = GENERIC, thresholds: list[float] | None = None,
    ) -> RunRecord:  # fmt: skip
        """The record of a run about to start."""
        asked = stage_one.settings
        return cls(
            run_key, label_field, list(bank.classes), bank.preset, bank.content_hash, dict(bank.weights),
            asdict(config), stage_one.points_per_side, asked.points, asked.precision, thresholds, asked.granularity,
            mode,
        )  # fmt: skip

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Names of the settings in which another record would give other labels."""
        mine = asdict(self)
        # What records mean that were made before these settings were there.
        before = {"points": "grid", "precision": "fp32", "granularity": "best", "mode": GENERIC}
        with suppress(InputError):  # settings that this version does not have differ from all that it has
            other = {**other, "match": asdict(match_config(other))}
        return [name for name in DECISIVE if mine[name] != other.get(name, before.get(name))]


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


def provenance_of(collection: SampleCollection, field_name: str) -> dict[str, Any]:
    """The record of the run that wrote a field of labels, or the labels that its class maps were made from.

    Returns:
        The record; empty if no run of ours did.
    """
    field = dataset_of(collection).get_field(field_name)
    info = (field.info if field is not None else None) or {}
    return dict(info.get(PROVENANCE) or (info.get(MAPS) or {}).get("run") or {})


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


def goes_on(dataset: fo.Dataset, record: RunRecord) -> bool:
    """Whether a run of this key and these settings is there and not through."""
    if not dataset.has_run(record.run_key):
        return False
    taken = dataset.get_run_info(record.run_key).config
    state = state_of(dataset, record.run_key)
    if taken.method != METHOD or state is None or state["state"] == COMPLETED:
        return False
    return taken.record["label_field"] == record.label_field and not record.differences(taken.record)


def register(dataset: fo.Dataset, record: RunRecord) -> None:
    """Writes the run record, declares its fields for queries and for the editor, and notes where labels came from."""
    config = dataset.init_run(method=METHOD, record=asdict(record))
    dataset.register_run(record.run_key, config, overwrite=True)
    name, status = record.label_field, status_field(record.label_field)
    if not dataset.has_field(name):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    attributes = {**ATTRIBUTES, **OF_REFERENCES} if record.mode == REFERRING else ATTRIBUTES
    for attribute, (kind, description) in attributes.items():
        dataset.add_sample_field(f"{name}.detections.{attribute}", kind, description=description)
    if not dataset.has_field(status):
        dataset.add_sample_field(
            status,
            fo.EmbeddedDocumentField,
            embedded_doc_type=fo.DynamicEmbeddedDocument,
            description=f"what the last labelling run of {name!r} did with this sample",
        )
    for part, kind in (("run_key", fo.StringField), ("state", fo.StringField), ("error", fo.StringField),
                       ("seconds", fo.FloatField)):  # fmt: skip
        dataset.add_sample_field(f"{status}.{part}", kind)
    dataset.create_index([(f"{status}.run_key", 1), (f"{status}.state", 1)])  # whoever follows runs counts these often
    label_field = dataset.get_field(name)
    label_field.info = {**(label_field.info or {}), PROVENANCE: asdict(record)}
    label_field.save()
    activate_schema(dataset, name, record.classes)


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
