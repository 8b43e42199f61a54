"""A run that a person has reviewed: its settings, its candidates, and the labels that were decided on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.dataset.fields import check_detections_field, dataset_of, every_image
from fiftyone_ntt.dataset.labels import is_decided, is_from_run, is_touched
from fiftyone_ntt.dataset.storage import patiently, raw_values
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import Preset
from fiftyone_ntt.runs.control import StoredRun, written_by
from fiftyone_ntt.runs.record import REFERRING, provenance_of

_AT_ONCE = 100
"""Samples whose labels are in memory at once."""
Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ReviewedRun(StoredRun):
    """The run that was reviewed, and where the candidates of its samples come from."""

    source: CandidateSource

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
        run = StoredRun.load(dataset, written_by(dataset, label_field, "there is nothing to match again"))
        if run.record.get("mode") == REFERRING:
            raise InputError(
                f"run {run.run_key!r} looked for single references (mode 'referring'); choose the labels of a run that "
                "looked for classes (mode 'generic')"
            )
        stage_one = run.stage_one.changed(preset=preset)
        if index_dir is not None:
            stage_one = stage_one.changed(index_dir=index_dir)
        source = CandidateSource(StageOne.of(stage_one, run.bank), bank=run.bank)
        source.open()
        return cls(dataset, run.run_key, run.record, run.bank, run.targets, stage_one, source)


def labels_in_chunks(
    samples: SampleCollection, label_field: str
) -> Iterator[tuple[dict[str, str], dict[str, list[Document]]]]:
    """File path and labels, as the database holds them, of some samples at a time."""
    images, ids = every_image(dataset_of(samples)), patiently(samples.values, "id")
    for start in range(0, len(ids), _AT_ONCE):
        some = images.select(ids[start : start + _AT_ONCE])
        sample_ids, paths, labels = patiently(raw_values, some, ["id", "filepath", label_field])
        names = [str(sample_id) for sample_id in sample_ids]
        yield (
            dict(zip(names, paths, strict=True)),
            {name: (document or {}).get("detections") or [] for name, document in zip(names, labels, strict=True)},
        )


def stays(label: Document) -> bool:
    """Whether no run replaces a label: a person touched it, or drew it."""
    return is_touched(label) or not is_from_run(label)


def decided_labels(samples: SampleCollection, label_field: str) -> dict[str, tuple[str, list[Document]]]:
    """Sample id -> file path and the labels that a person decided on or drew; only samples that have some.

    A label that was only given another class is none of them: nobody has said that its mask is right.
    """
    by_sample = {}
    classes = provenance_of(samples, label_field).get("classes") or ()
    for paths, labels in labels_in_chunks(samples, label_field):
        for sample_id, path in paths.items():
            decided = [label for label in labels[sample_id] if is_decided(label, classes) or not is_from_run(label)]
            if decided:
                by_sample[sample_id] = path, decided
    return by_sample
