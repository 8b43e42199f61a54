"""A run that a person has reviewed, and from what was decided on its labels to vectors for the memory bank.

What is different between the labels that an image has and those that it would get.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.candidates.tiles import Content
from fiftyone_ntt.dataset.documents import (
    class_of,
    detection_of,
    relative_box,
    score_of,
    single_documents,
    tags_of,
)
from fiftyone_ntt.dataset.fields import (
    ACCEPTED_TAG,
    REJECTED_TAG,
    check_detections_field,
    dataset_of,
    every_image,
)
from fiftyone_ntt.dataset.geometry import full_mask, place_mask
from fiftyone_ntt.dataset.labels import is_decided, is_from_run, is_right, is_touched
from fiftyone_ntt.dataset.marks import left_out_mark
from fiftyone_ntt.dataset.storage import patiently, raw_values
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.tiled import TiledImage
from fiftyone_ntt.method.pooling import pool_mask
from fiftyone_ntt.models import Preset
from fiftyone_ntt.references.banks import LEARNED
from fiftyone_ntt.runs.control import StoredRun, written_by
from fiftyone_ntt.runs.record import REFERRING, provenance_of

Document = dict[str, Any]
_AT_ONCE = 100
"""Samples whose labels are in memory at once."""


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
            {name: single_documents(document) for name, document in zip(names, labels, strict=True)},
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


@dataclass(frozen=True, eq=False)
class Lesson:
    """One decision.

    Attributes:
        key: sample and label.
        label: name of the class.
        kind: ``"accepted"``, ``"edited"`` (drawn included) or ``"rejected"``.
        vector: float32 ``[C]``, what is under the label's mask.
    """

    key: str
    label: str
    kind: str
    vector: NDArray[np.float32]


def lessons_of(sample_id: str, labels: Sequence[dict[str, Any]], content: Content) -> list[Lesson]:
    """What decided labels of one image teach; no model is needed.

    A label without a class, or without a mask that can be read, teaches nothing. Nor does one that is kept though it is
    marked as a crowd, as difficult or as to be ignored: it is no example of its class.

    Args:
        sample_id: the sample.
        labels: documents of detections.
        content: what the index knows of the image.
    """
    lessons = []
    for label in labels:
        name = class_of(label)
        if is_no_example(label):
            continue
        try:
            vector = _vector(label, content)
        except InputError:
            continue
        if name and vector is not None:
            lessons.append(Lesson(f"{sample_id}/{label.get('_id')}", name, kind_of(label), vector))
    return lessons


def _vector(label: dict[str, Any], content: Content) -> NDArray[np.float32] | None:
    """float32 ``[C]``, what is under a label's mask, in the tile that sees it best; ``None`` under an empty one."""
    if isinstance(content, TiledImage):
        left, top, crop = place_mask(detection_of(label), content.image_size)
        extent = (left, top, left + crop.shape[1], top + crop.shape[0])
        tile, part = content.part_for(extent)
        x1, y1, x2, y2 = tile.box
        mask = np.zeros(tile.size, bool)
        # What of the mask lies in the tile; for a tile that sees all of it the whole crop.
        seen = crop[max(y1 - top, 0) : max(y2 - top, 0), max(x1 - left, 0) : max(x2 - left, 0)]
        row, column = max(top - y1, 0), max(left - x1, 0)
        mask[row : row + seen.shape[0], column : column + seen.shape[1]] = seen
    else:
        part, mask = content, full_mask(detection_of(label), content.candidates.frame.image_size)
    return pool_mask(mask, part.tokens.full()) if mask.any() else None


def is_no_example(label: dict[str, Any]) -> bool:
    """Whether a person wants a label, and it is marked as something that cannot be an example of its class."""
    return is_right(label) and left_out_mark(label) is not None


def kind_of(label: dict[str, Any]) -> str:
    """What a person decided: ``"accepted"``, ``"edited"`` (drawn included) or ``"rejected"``."""
    tags = tags_of(label)
    if REJECTED_TAG in tags:
        return "rejected"
    return "accepted" if ACCEPTED_TAG in tags else "edited"


def taught(bank: MemoryBank, lessons: Sequence[Lesson], samples: Collection[str]) -> MemoryBank:
    """The bank with lessons in place of those that it learned from the same samples before.

    A class that is only known from an accepted or edited label is added. A rejected label of an unknown class teaches
    nothing. A head, which knows those samples too, is left behind.

    Args:
        bank: as a run had it.
        lessons: what was learned.
        samples: ids of the samples that ``lessons`` cover.
    """
    kept = [i for i, key in enumerate(bank.reference_ids) if not _is_of(key, samples)]
    good = [lesson for lesson in lessons if lesson.kind != "rejected"]
    references = _with_lessons(bank.references.select(kept), good)
    names = set(references.labels)
    classes = [name for name in bank.classes if name in names]
    classes += sorted(str(name) for name in names - {*classes})
    bad = [lesson for lesson in lessons if lesson.kind == "rejected" and lesson.label in classes]
    before = bank.negatives or VectorSet(bank.vectors[:0], ())
    kept = [
        i
        for i, (key, label) in enumerate(zip(before.ids, before.labels, strict=True))
        if not _is_of(key, samples) and label in (*classes, None)
    ]
    return bank.changed(
        classes=tuple(classes), references=references, negatives=_with_lessons(before.select(kept), bad), head=None
    )


def _is_of(key: str, samples: Collection[str]) -> bool:
    return key.startswith(LEARNED) and key.removeprefix(LEARNED).split("/")[0] in samples


def _with_lessons(vectors: VectorSet, lessons: Sequence[Lesson]) -> VectorSet:
    if not lessons:
        return vectors
    learned = np.stack([lesson.vector for lesson in lessons])
    labels, ids = tuple(lesson.label for lesson in lessons), tuple(LEARNED + lesson.key for lesson in lessons)
    return vectors.joined(VectorSet(learned, labels, ids))


@dataclass
class ClassChange:
    """What becomes of the labels of one class.

    Attributes:
        gained: labels where there was none.
        lost: labels that are gone.
        relabelled: labels that had another class.
        unchanged: labels that stay, whatever their score.
    """

    gained: int = 0
    lost: int = 0
    relabelled: int = 0
    unchanged: int = 0


def changes_of(
    old: Sequence[Document], new: Sequence[Document], threshold: float, changes: dict[str, ClassChange]
) -> bool:
    """Adds the changes in one image to those counted so far. The same box is the same object.

    Args:
        old: labels as they are, documents of detections.
        new: labels as they would be.
        threshold: labels with a confidence at or below this do not count, on either side.
        changes: class -> what was counted so far.

    Returns:
        Whether there are any.
    """
    before, after = _by_place(old, threshold), _by_place(new, threshold)
    differ = False
    for place in before.keys() | after.keys():
        gone, come = before.get(place, Counter()), after.get(place, Counter())
        for name, count in (gone & come).items():
            changes.setdefault(name, ClassChange()).unchanged += count
        left, arrived = list((gone - come).elements()), list((come - gone).elements())
        for name in arrived[: len(left)]:
            changes.setdefault(name, ClassChange()).relabelled += 1
        for name in arrived[len(left) :]:
            changes.setdefault(name, ClassChange()).gained += 1
        for name in left[len(arrived) :]:
            changes.setdefault(name, ClassChange()).lost += 1
        differ |= bool(left or arrived)
    return differ


def _by_place(labels: Sequence[Document], threshold: float) -> dict[tuple[int, ...], Counter[str]]:
    by_place: dict[tuple[int, ...], Counter[str]] = {}
    for label in labels:
        try:
            counts = label.get("confidence") is not None and score_of(label) > threshold
            place = tuple(round(value * 100_000) for value in relative_box(label.get("bounding_box")).tolist())
        except InputError:  # of a stranger: it is at no place
            continue
        if counts:
            by_place.setdefault(place, Counter())[class_of(label) or ""] += 1
    return by_place
