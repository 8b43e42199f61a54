"""A run that a person has reviewed: its settings, its candidates, and the labels that were decided on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.dataset.fields import check_detections_field, dataset_of, every_image
from fiftyone_ntt.dataset.labels import is_decided, is_from_run
from fiftyone_ntt.dataset.storage import patiently, raw_values
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.models import Preset
from fiftyone_ntt.models.presets import resolve_preset
from fiftyone_ntt.references.bank_store import bank_of_run
from fiftyone_ntt.runs.applied_thresholds import named
from fiftyone_ntt.runs.control import config_of
from fiftyone_ntt.runs.record import PROVENANCE, REFERRING, match_config, status_field
from fiftyone_ntt.runs.state import state_of, targets_of

_AT_ONCE = 100
"""Samples whose labels are in memory at once."""
Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ReviewedRun:
    """The run that was reviewed, and where the candidates of its samples come from."""

    dataset: fo.Dataset
    label_field: str
    run_key: str
    record: dict[str, Any]
    options: dict[str, Any]
    targets: SampleCollection
    bank: MemoryBank
    config: MatchConfig
    source: CandidateSource
    preset: str | Preset | None

    @property
    def thresholds(self) -> dict[str, float] | None:
        """Class -> the score that the run's labels had to exceed; ``None`` without any."""
        return named(self.record.get("thresholds"), self.record["classes"])

    @classmethod
    def of(
        cls, view: SampleCollection, label_field: str, index_dir: str | Path | None, preset: str | Preset | None
    ) -> ReviewedRun:
        """The run that wrote a field.

        Args:
            view: the dataset, or samples of it.
            label_field: the field.
            index_dir: folder of the index; where the run had it where ``None``.
            preset: the preset of the run; only needed where that was a ``Preset`` object.

        Raises:
            InputError: if no run wrote the field.
        """
        dataset = dataset_of(view)
        check_detections_field(dataset, label_field)
        run_key = ((dataset.get_field(label_field).info or {}).get(PROVENANCE) or {}).get("run_key")
        if run_key is None or not dataset.has_run(run_key):
            raise InputError(
                f"no run of this plugin wrote the labels in {label_field!r}, so there is nothing to match again; "
                "choose a field that 'Segment with NTT references' filled"
            )
        record, bank = dict(config_of(dataset, run_key).record), bank_of_run(dataset, run_key)
        if record.get("mode") == REFERRING:
            raise InputError(
                f"run {run_key!r} looked for single references (mode 'referring'); choose the labels of a run that "
                "looked for classes (mode 'generic')"
            )
        state = state_of(dataset, run_key)
        targets = None if state is None else targets_of(dataset, state)
        if targets is None:
            targets = every_image(dataset).match(F(f"{status_field(label_field)}.run_key") == run_key)
        options = dict(state["options"]) if state is not None else {}
        if index_dir is not None:
            options["index_dir"] = str(index_dir)
        config = match_config(record)
        stage_one = StageOne(
            resolve_preset(preset or bank.preset), record["points_per_side"], record.get("points", "grid"),
            record.get("precision", "fp32"), bool(options.get("compile")), options.get("device"),
            record.get("granularity", "best"), config.second_look > 0,
        )  # fmt: skip
        source = CandidateSource(
            stage_one, bank=bank, use_index=options.get("use_index", True), index_dir=options.get("index_dir")
        )
        source.open()
        return cls(dataset, label_field, run_key, record, options, targets, bank, config, source, preset)


def labels_in_chunks(
    samples: SampleCollection, label_field: str
) -> Iterator[tuple[dict[str, str], dict[str, list[Document]]]]:
    """File path and labels, as the database holds them, of some samples at a time."""
    images, ids = every_image(dataset_of(samples)), patiently(samples.values, "id")
    for start in range(0, len(ids), _AT_ONCE):
        some = images.select(ids[start : start + _AT_ONCE])
        found, paths, labels = patiently(raw_values, some, ["id", "filepath", label_field])
        names = [str(one) for one in found]
        yield (
            dict(zip(names, paths, strict=True)),
            {name: (one or {}).get("detections") or [] for name, one in zip(names, labels, strict=True)},
        )


def is_persons_word(label: Document) -> bool:
    """Whether a label is a person's word: decided on, or drawn."""
    return is_decided(label) or not is_from_run(label)


def decided_labels(samples: SampleCollection, label_field: str) -> dict[str, tuple[str, list[Document]]]:
    """Sample id -> file path and the labels that a person decided on or drew; only samples that have some."""
    found = {}
    for paths, labels in labels_in_chunks(samples, label_field):
        for sample_id, path in paths.items():
            mine = [label for label in labels[sample_id] if is_persons_word(label)]
            if mine:
                found[sample_id] = path, mine
    return found
