"""Records of labelling runs: what was run, on which field, and taking it back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.core import MatchConfig, MemoryBank
from fiftyone_ntt.dataset.banks import check_name
from fiftyone_ntt.dataset.fields import PROTECTED_TAGS, detections_of, is_detections_field
from fiftyone_ntt.errors import InputError, WrongTypeError

METHOD = "ntt/segment"
PROVENANCE = "ntt"
"""Key of a label field's ``info`` under which its run's facts lie."""
_CHUNK = 100


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
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @classmethod
    def of(
        cls, run_key: str, label_field: str, bank: MemoryBank, config: MatchConfig, points_per_side: int,
        points: str = "grid", precision: str = "fp32",
    ) -> RunRecord:  # fmt: skip
        """The record of a run about to start."""
        return cls(
            run_key, label_field, list(bank.classes), bank.preset, bank.content_hash, dict(bank.weights),
            asdict(config), points_per_side, points, precision,
        )  # fmt: skip

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Names of the settings in which another record would give other labels."""
        mine = asdict(self)
        decisive = ("classes", "preset", "bank_hash", "weights", "match", "points_per_side", "points", "precision")
        before = {"points": "grid", "precision": "fp32"}  # what records without these entries mean
        return [name for name in decisive if mine[name] != other.get(name, before.get(name))]


def list_runs(dataset: fo.Dataset) -> list[dict[str, Any]]:
    """The labelling runs of a dataset, oldest first, each with its settings and counts of sample states."""
    runs = []
    for key in dataset.list_runs(method=METHOD):
        facts = dict(dataset.get_run_info(key).config.serialize()["record"])
        field_name = status_field(facts["label_field"])
        in_run = F(f"{field_name}.run_key") == key
        counts = dataset.match(in_run).count_values(f"{field_name}.state") if dataset.has_field(field_name) else {}
        runs.append({**facts, "states": counts})
    return sorted(runs, key=lambda run: run["started"])


def register(dataset: fo.Dataset, record: RunRecord) -> None:
    """Writes the run record, declares its fields, and notes on the field where its labels came from."""
    config = dataset.init_run(method=METHOD, record=asdict(record))
    dataset.register_run(record.run_key, config, overwrite=True)
    name, status = record.label_field, status_field(record.label_field)
    if not dataset.has_field(name):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.add_sample_field(
        f"{name}.detections.predicted_iou",
        fo.FloatField,
        description="the mask model's own estimate of this mask's quality",
    )
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
    label_field = dataset.get_field(name)
    label_field.info = {**(label_field.info or {}), PROVENANCE: asdict(record)}
    label_field.save()


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
        if dataset.count(f"{name}.detections"):
            raise InputError(f"field {name!r} holds labels that no run of this plugin wrote; {choices}")
        return
    changed = record.differences(previous)
    if changed or previous["run_key"] != record.run_key or not resume:
        reason = f"with other {', '.join(changed)}" if changed else "already"
        raise InputError(f"field {name!r} was written by run {previous['run_key']!r} {reason}; {choices}")


def is_protected(label: fo.Detection) -> bool:
    """Whether a person has decided on this label."""
    return bool(PROTECTED_TAGS & set(label.tags or []))


def undo_run(dataset: fo.Dataset, run_key: str) -> int:
    """Takes a labelling run back: its labels, its statuses and its record.

    Labels that a person has accepted or edited (tags ``ntt:accepted``, ``ntt:edited``) stay, and with them the field.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.

    Returns:
        Number of labels removed.

    Raises:
        InputError: if there is no such run.
    """
    known = [run["run_key"] for run in list_runs(dataset)]
    if run_key not in known:
        raise InputError(f"no labelling run {run_key!r} in {dataset.name!r}; there is: {', '.join(known) or 'none'}")
    name = dataset.get_run_info(run_key).config.record["label_field"]
    status = status_field(name)
    removed = _remove_labels(dataset.match(F(f"{status}.run_key") == run_key), name) if dataset.has_field(name) else 0
    dataset.delete_run(run_key)
    if not dataset.has_field(name) or not dataset.count(f"{name}.detections"):
        for field_name in (name, status):
            if dataset.has_field(field_name):
                dataset.delete_sample_field(field_name)
    else:
        _forget(dataset, name)
    return removed


def _remove_labels(view: SampleCollection, field_name: str) -> int:
    removed = 0
    for sample in view.select_fields(field_name).iter_samples(autosave=True, batch_size=_CHUNK):
        labels = detections_of(sample[field_name])
        kept = [label for label in labels if is_protected(label)]
        removed += len(labels) - len(kept)
        sample[field_name] = fo.Detections(detections=kept) if kept else None
    return removed


def _forget(dataset: fo.Dataset, field_name: str) -> None:
    """The labels that stay are a person's now: the field no longer names a run."""
    label_field = dataset.get_field(field_name)
    label_field.info = {key: value for key, value in (label_field.info or {}).items() if key != PROVENANCE}
    label_field.save()
    dataset.delete_sample_field(status_field(field_name))
