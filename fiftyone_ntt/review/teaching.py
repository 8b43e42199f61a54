"""What decisions make of a memory bank: references and negatives, and a head where one is asked for and is better."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.source import describe_error
from fiftyone_ntt.candidates.tiles import Content
from fiftyone_ntt.dataset.documents import class_of, detection_of
from fiftyone_ntt.dataset.fields import DONE_TAG
from fiftyone_ntt.dataset.geometry import place_mask
from fiftyone_ntt.dataset.labels import is_decided, is_from_run
from fiftyone_ntt.dataset.storage import patiently
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.tiled import TiledImage
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.params.review import HEAD, REFERENCES
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.references.banks import HEAD_IMAGES, with_contents
from fiftyone_ntt.review.head_fit import HeadReport, train_head
from fiftyone_ntt.review.head_rows import NONE, Decided, FullMasks, Rows, rows_of
from fiftyone_ntt.review.lessons import (
    Lesson,
    ReviewedRun,
    is_no_example,
    kind_of,
    labels_in_chunks,
    lessons_of,
    stays,
    taught,
)
from fiftyone_ntt.runs.record import provenance_of

Document = dict[str, Any]
MOST_ROWS = 100_000
"""Candidates of all images that are in memory at once: 400 MB of vectors with 1,024 channels."""


@dataclass
class Learned:
    """What decisions have made of a memory bank.

    Attributes:
        bank: the bank.
        decisions: class -> how many labels were ``accepted``, ``edited`` and ``rejected``.
        errors: sample id -> what went wrong.
        head: what came of training a head; ``None`` where none was asked for.
        in_tiles: images that taught a head nothing, because they were looked at in tiles.
    """

    bank: MemoryBank
    decisions: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    head: HeadReport | None = None
    in_tiles: int = 0


def done_images(samples: SampleCollection, targets: SampleCollection, label_field: str) -> dict[str, str]:
    """Sample id -> file path of the images that are marked as done, and say by silence what is not there.

    Not those with a label that was only given another class: it stays, so its object is there, but nobody has said that
    its mask is right.

    Args:
        samples: those to learn from.
        targets: those that the run was for: in others, e.g. its references, its field says nothing.
        label_field: the field of the run.
    """
    done = samples.match_tags(DONE_TAG)
    classes = provenance_of(samples, label_field).get("classes") or ()
    labelled: set[str] | None = None
    images = {}
    for paths, labels in labels_in_chunks(done, label_field):
        labelled = set(patiently(targets.values, "id")) if labelled is None else labelled
        for sample_id, path in paths.items():
            renamed = (
                stays(label) and is_from_run(label) and not is_decided(label, classes) for label in labels[sample_id]
            )
            if sample_id in labelled and not any(renamed):
                images[sample_id] = path
    return images


def teach(review: ReviewedRun, decided: dict[str, tuple[str, list[Document]]], done: Mapping[str, str], method: str,
          progress: Progress | None) -> Learned:  # fmt: skip
    """The bank of a run with the decisions in it.

    Args:
        review: the run.
        decided: sample id -> file path and decided labels.
        done: sample id -> file path of images that a person is through with; only a head learns from them.
        method: ``"references"``, ``"head"`` or ``"auto"``.
        progress: called with (done, total, message).
    """
    lessons: list[Lesson] = []
    parts: dict[str, Rows] = {}  # sample id -> what its decisions say of its candidates
    count = 0
    learned = Learned(review.bank)
    images = {**done, **{sample_id: path for sample_id, (path, _) in decided.items()}}
    names = _names(review.bank, decided)
    # Learning twice is learning once: what the run has learned from these samples has no say.
    plain = review.bank if method == REFERENCES else _bank_of(review.bank, [], set(decided), HEAD)

    def read(sample_id: str, content: Content) -> tuple[list[Lesson], Rows | None]:
        labels = decided[sample_id][1] if sample_id in decided else []
        rows = None
        if isinstance(content, TiledImage):
            learned.in_tiles += method != REFERENCES
        elif method != REFERENCES:  # a head learns of images in one part
            what = decided_of(labels, content.candidates.frame.image_size, names, sample_id in done)
            rows = rows_of(content, what, plain.prototypes, plain.center)
        return lessons_of(sample_id, labels, content), rows

    with closing(review.source.outcomes(images.items(), read)) as outcomes:
        for i, outcome in enumerate(outcomes, start=1):
            if outcome.error is not None:
                learned.errors[outcome.key] = describe_error(outcome.key, outcome.error)
            of_image, rows = outcome.value or ([], None)
            lessons += of_image
            if rows is not None:
                parts[outcome.key] = rows
                count += len(rows)
            if count > MOST_ROWS:
                parts = {key: part.halved() for key, part in parts.items()}
                count = sum(map(len, parts.values()))
            if progress is not None:
                progress(i, len(images), f"read the decisions in {i} of {counted(len(images), 'image')}")
    for lesson in lessons:
        of_class = learned.decisions.setdefault(lesson.label, {"accepted": 0, "edited": 0, "rejected": 0})
        of_class[lesson.kind] += 1
    lessons.sort(key=lambda lesson: lesson.key)
    if parts and progress is not None:
        progress(len(images), len(images), "training the head, with some images left out in turn")
    bank, learned.head = learned_bank(review.bank, lessons, set(decided), method, parts, names)
    learned.bank = with_contents(bank, images)
    return learned


def _names(bank: MemoryBank, decided: Mapping[str, tuple[str, list[Document]]]) -> list[str]:
    """The classes of a bank, then those that only decided labels have."""
    named = {class_of(label) for _, labels in decided.values() for label in labels if kind_of(label) != "rejected"}
    return [*bank.classes, *sorted(str(name) for name in named - {None, "", *bank.classes})]


def decided_of(labels: Sequence[Document], size: tuple[int, int], names: Sequence[str], done: bool) -> Decided:
    """What the labels of an image say of its candidates.

    A label without a class or a readable mask, e.g. a box that a person drew, says nothing. But where it is wanted its
    object is there, so that the image does not say by silence what is not.

    Args:
        labels: those that a person decided on or drew.
        size: ``(height, width)`` of the image.
        names: classes; a label's number is its place here.
        done: whether a person is through with the image.
    """
    masks, classes, ignored = [], [], []
    for label in labels:
        name, wanted = class_of(label), kind_of(label) != "rejected"
        try:
            left, top, crop = place_mask(detection_of(label), size)
        except InputError:
            crop = np.zeros((0, 0), bool)
        if not name or not crop.any():
            done &= not wanted
            continue
        masks.append(PackedMask.from_crop(crop, top, left))
        classes.append(list(names).index(name) if wanted else NONE)
        ignored.append(is_no_example(label))
    return Decided(FullMasks(masks, size), np.array(classes, np.int64), np.array(ignored, bool), done)


def _bank_of(before: MemoryBank, lessons: Sequence[Lesson], samples: Collection[str], method: str,
             left_out: Collection[str] = ()) -> MemoryBank:  # fmt: skip
    """The bank with what is learned from lessons, apart from a head.

    Args:
        before: as the run had it.
        lessons: what was decided.
        samples: ids of all samples that were decided on.
        method: with ``"head"`` only classes that the bank does not have get references.
        left_out: samples to learn nothing from; a class that is known from them only keeps its references.
    """
    used = [lesson for lesson in lessons if method != HEAD and lesson.key.split("/")[0] not in left_out]
    if method == HEAD or left_out:
        known = {*taught(before, [], samples).classes, *(lesson.label for lesson in used if lesson.kind != "rejected")}
        used += [lesson for lesson in lessons if lesson.label not in known and lesson.kind != "rejected"]
    return taught(before, sorted(used, key=lambda lesson: lesson.key), samples)


def learned_bank(
    before: MemoryBank, lessons: Sequence[Lesson], samples: Collection[str], method: str, parts: Mapping[str, Rows],
    names: Sequence[str],
) -> tuple[MemoryBank, HeadReport | None]:  # fmt: skip
    """A bank with what decisions teach.

    Args:
        before: the bank as a run had it.
        lessons: what was decided, in the order of their keys.
        samples: ids of all samples with decisions.
        method: ``"references"``, ``"head"`` or ``"auto"``.
        parts: sample id -> what its decisions say of its candidates; none where no head is asked for.
        names: the classes that these number.

    Returns:
        The bank, with a head if that is better; and what came of training one.
    """
    bank = _bank_of(before, lessons, samples, method)
    if not parts:
        return bank, None if method == REFERENCES else HeadReport(0, 0)
    keys = sorted(parts)
    places = {name: place for place, name in enumerate(bank.classes)}
    # The classes of the bank in place of those that were known beforehand; the last stands for none.
    place_of = np.array([*(places.get(name, len(names)) for name in names), NONE])
    rows = Rows.joined([parts[key].of_image(i) for i, key in enumerate(keys)])
    moved = place_of[rows.classes]
    rows = Rows(rows.vectors, moved, rows.counts, rows.images).select(moved < len(bank.classes))

    def without(images: Collection[int]) -> MemoryBank:
        return _bank_of(before, lessons, samples, method, {keys[i] for i in images})

    head, report = train_head(rows, without)
    origin = {name: value for name, value in bank.origin.items() if name != HEAD_IMAGES}
    if head is None:
        return bank.changed(origin=origin), report
    return bank.changed(head=head, origin={**origin, HEAD_IMAGES: keys}), report
