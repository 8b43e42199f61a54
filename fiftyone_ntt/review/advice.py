"""Which references help, which do not, which classes need more, and what a person should label next."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.candidates.tiles import Content
from fiftyone_ntt.dataset.fields import (
    dataset_of,
    every_image,
    image_samples,
    is_detections_field,
    root_dataset_of,
    sound_lists,
)
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.errors import InputError, WrongTypeError, counted
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.review import AdviceParams
from fiftyone_ntt.references.banks import LEARNED, load_bank, notes_of
from fiftyone_ntt.references.gallery import describe_references
from fiftyone_ntt.references.tagged_bank import plan_bank
from fiftyone_ntt.review.advice_report import Advice, ReferenceAdvice, Suggestion
from fiftyone_ntt.review.influence import (
    Influence,
    change_on,
    class_needs,
    leave_one_out,
    most_helpful,
    near_duplicates,
    outliers,
)
from fiftyone_ntt.review.label_rows import UNDECIDED, Rows, decisions
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.review.lessons import Lesson, ReviewedRun, decided_labels, labels_in_chunks, lessons_of

logger = logging.getLogger(__name__)

_LOOKED_AT = 300
"""Labels whose vectors are read to find the most helpful ones: the most doubtful of the run."""


@with_bar
def advise_references(
    view: SampleCollection,
    bank: MemoryBank | str | None = None,
    label_field: str = "ground_truth",
    *,
    reviewed: str = "ntt",
    suggest: int = 20,
    preset: str | Preset | None = None,
    device: str | None = None,
    index_dir: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Advice:
    """Says which references help and which do not, which classes need more, and what to label next.

    Nothing is written and, with a bank, no model runs: everything follows from the vectors in the bank and, where a run
    has labelled images, from those in the candidate cache.

    Args:
        view: the dataset, or the samples whose decisions and labels count.
        bank: a memory bank, or the name of one kept with the dataset; that of the references as they are tagged now
            where ``None``, as for ``segment``.
        label_field: the ``Detections`` field with the reference labels.
        reviewed: the field that a run wrote; may be missing.
        suggest: how many labels to suggest.
        preset: the models, where they are needed; the bank's where ``None``, ``"lite"`` without a bank.
        device: for the models, where they are needed.
        index_dir: folder of the candidate cache; where the run had it, or else the default one, where ``None``.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        The advice.

    Raises:
        InputError: if there is no such bank or field, or nothing is tagged.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> advice = ntt.advise_references(dataset)  # doctest: +SKIP
        >>> session.view = advice.references_view(dataset)  # doctest: +SKIP
    """
    progress, suggest = check_arguments(AdviceParams, progress, suggest=suggest)
    samples = image_samples(view)
    memory_bank = _bank(samples, bank, label_field, preset, device, progress)
    vectors, advice = memory_bank.project(memory_bank.vectors), Advice([], {}, reviewed_field=reviewed)
    advice.notes += notes_of(memory_bank)
    influence = leave_one_out(vectors, memory_bank.class_index)
    run = _run(samples, memory_bank, reviewed, index_dir, preset, advice)
    lessons = _lessons(run, samples, memory_bank, advice) if run is not None else []
    advice.decided = len(lessons)
    advice.references = _references(
        samples, memory_bank, influence, _on_reviewed(memory_bank, lessons), (label_field, reviewed)
    )
    needs = class_needs(influence.margin, memory_bank.class_index, len(memory_bank.classes))
    advice.classes = dict(zip(memory_bank.classes, needs, strict=True))
    if run is not None and suggest:
        advice.suggestions = _suggestions(run, samples, memory_bank, lessons, suggest, advice, progress)
    of, told = counted(len(advice.references), "reference"), counted(len(advice.suggestions), "suggestion")
    logger.info("advice on %s, %s", of, told)
    return advice


def _bank(
    samples: SampleCollection, bank: MemoryBank | str | None, label_field: str, preset: str | Preset | None,
    device: str | None, progress: Progress | None,
) -> MemoryBank:  # fmt: skip
    if isinstance(bank, str):
        return load_bank(root_dataset_of(samples), bank)
    if bank is None:
        return plan_bank(samples, label_field, preset=preset).bank(device, progress)
    if not isinstance(bank, MemoryBank):
        raise WrongTypeError(f"expected a MemoryBank or the name of one, got {type(bank).__name__}")
    return bank


def _run(
    samples: SampleCollection, bank: MemoryBank, reviewed: str, index_dir: str | Path | None,
    preset: str | Preset | None, advice: Advice,
) -> ReviewedRun | None:  # fmt: skip
    """The run whose labels can say more; ``None``, and a note, where there is none that fits the bank."""
    if not reviewed or dataset_of(samples).get_field(reviewed) is None:
        advice.notes.append("Label images with these references to learn more: what to label next, for one.")
        return None
    try:
        run = ReviewedRun.of(samples, reviewed, index_dir, preset)
    except InputError as error:
        advice.notes.append(f"The labels in {reviewed!r} say nothing about the references: {error}")
        return None
    if (run.bank.preset, dict(run.bank.weights)) != (bank.preset, dict(bank.weights)):
        advice.notes.append(f"The labels in {reviewed!r} were made with other models, so they say nothing here.")
        return None
    return run


def _contents(run: ReviewedRun, paths: dict[str, str], advice: Advice) -> Iterator[tuple[str, Content]]:
    """What the candidate cache has of some images; the rest is counted in a note."""
    missing = 0
    for sample_id, path in paths.items():
        try:
            content = run.source.cached(sample_id, path)
        except InputError:
            missing += 1
            continue
        if content is None:
            missing += 1
        else:
            yield sample_id, content
    if missing:
        images = counted(missing, "image")
        note = f"{images} passed over, not being in the candidate cache: run 'NTT: Precompute candidates'."
        advice.notes += [] if note in advice.notes else [note]


def _lessons(run: ReviewedRun, samples: SampleCollection, bank: MemoryBank, advice: Advice) -> list[Lesson]:
    """The decisions on labels of the bank's classes, without those that the bank itself has learned from."""
    decided = decided_labels(samples, run.label_field)
    used_ids = {*bank.reference_ids, *bank.negative_ids}
    lessons = []
    for sample_id, content in _contents(run, {key: path for key, (path, _) in decided.items()}, advice):
        lessons += lessons_of(sample_id, decided[sample_id][1], content)
    return [
        lesson
        for lesson in lessons
        if lesson.label in bank.classes and not {LEARNED + lesson.key, lesson.key} & used_ids
    ]


def _on_reviewed(bank: MemoryBank, lessons: Sequence[Lesson]) -> NDArray[np.float64]:
    if not lessons:
        return np.full(len(bank.vectors), np.nan)
    probes = bank.project(np.stack([lesson.vector for lesson in lessons]))
    names = np.array([bank.classes.index(lesson.label) for lesson in lessons], np.int64)
    wanted = np.array([lesson.kind != "rejected" for lesson in lessons])
    return change_on(bank.project(bank.vectors), bank.class_index, probes, names, wanted)


def _references(
    samples: SampleCollection, bank: MemoryBank, influence: Influence, reviewed: NDArray[np.float64],
    fields: Sequence[str],
) -> list[ReferenceAdvice]:  # fmt: skip
    keys = [_key(reference_id) for reference_id in bank.reference_ids]
    names = _file_names(samples, [sample for sample, _ in keys if sample is not None])
    flaws = _flaws(samples, [label for _, label in keys if label is not None], fields)
    far = outliers(influence.similarity, bank.class_index)
    twins: dict[int, list[str]] = {}
    # Both of a pair are told, so that a person can choose which one to take away.
    for i, k in near_duplicates(bank.project(bank.vectors)):
        twins.setdefault(i, []).append(bank.reference_ids[k])
        twins.setdefault(k, []).append(bank.reference_ids[i])
    return [
        ReferenceAdvice(
            bank.reference_ids[i],
            *keys[i],
            bank.classes[int(bank.class_index[i])],
            names.get(keys[i][0] or "", bank.reference_ids[i]),
            _points(influence.change[i]),
            _points(reviewed[i]),
            float(influence.similarity[i]) if np.isfinite(influence.similarity[i]) else None,
            bank.classes[int(influence.rival[i])] if influence.margin[i] < 0 else None,
            bool(far[i]),
            tuple(twins.get(i, ())),
            flaws.get(keys[i][1] or "", ()),
        )
        for i in range(len(keys))
    ]


def _key(reference_id: str) -> tuple[str | None, str | None]:
    """Sample and label that a reference comes from, as far as its id names them."""
    sample_id, _, label_id = reference_id.removeprefix(LEARNED).partition("/")
    return (sample_id, label_id) if ObjectId.is_valid(sample_id) and ObjectId.is_valid(label_id) else (None, None)


def _file_names(samples: SampleCollection, sample_ids: Sequence[str]) -> dict[str, str]:
    columns = every_image(dataset_of(samples)).select(list(dict.fromkeys(sample_ids))).values(["id", "filepath"])
    return {sample_id: Path(path).name for sample_id, path in zip(*columns, strict=True)}


def _flaws(samples: SampleCollection, label_ids: Sequence[str], fields: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Label -> what is wrong with it by itself; reads the images of the references."""
    images, flaws = every_image(dataset_of(samples)), dict[str, tuple[str, ...]]()
    for name in fields:
        if label_ids and images.has_field(name) and is_detections_field(images, name):
            held = sound_lists(images, name).select_labels(ids=list(label_ids), fields=name)
            flaws |= {card.label_id: card.flaws for card in describe_references(held, name, tag="")}
    return flaws


def _suggestions(
    run: ReviewedRun, samples: SampleCollection, bank: MemoryBank, lessons: Sequence[Lesson], count: int,
    advice: Advice, progress: Progress | None,
) -> list[Suggestion]:  # fmt: skip
    """The most helpful of the most doubtful labels."""
    doubts = _doubts(run, samples)
    by_sample: dict[str, list[str]] = {}
    for label_id, (sample_id, _) in doubts.items():
        by_sample.setdefault(sample_id, []).append(label_id)
    read: list[Lesson] = []
    images = every_image(dataset_of(samples)).select(list(by_sample))
    for paths, labels in labels_in_chunks(images, run.label_field):
        for sample_id, content in _contents(run, paths, advice):
            wanted = [label for label in labels[sample_id] if str(label.get("_id")) in by_sample[sample_id]]
            read += lessons_of(sample_id, wanted, content)
        if progress is not None:
            progress(len(read), len(doubts), f"looked at {len(read)} of {counted(len(doubts), 'label')}")
    if not read:
        return []
    good = [lesson.vector for lesson in lessons if lesson.kind != "rejected"]
    # [R, C] what needs no more labels near it: the references, and what was accepted or edited
    labelled = bank.project(np.concatenate([bank.vectors, *(vector[None] for vector in good)]))
    weights = np.array([doubts[lesson.key.partition("/")[2]][1] for lesson in read])
    chosen = most_helpful(bank.project(np.stack([lesson.vector for lesson in read])), weights, labelled, count)
    return [Suggestion(*_ids(read[i].key), read[i].label) for i in chosen]


def _ids(key: str) -> tuple[str, str]:
    sample_id, _, label_id = key.partition("/")
    return sample_id, label_id


def _doubts(run: ReviewedRun, samples: SampleCollection) -> dict[str, tuple[str, float]]:
    """Undecided label -> its sample and how doubtful it is, of the most doubtful ones."""
    table = table_of(run.dataset, run.label_field).refreshed()
    rows, ids = table.rows, table.sample_ids
    inside = {ObjectId(sample_id) for sample_id in samples.values("id")}
    rows = rows[
        (decisions(rows) == UNDECIDED) & np.array([sample_id in inside for sample_id in ids], bool)[rows["sample"]]
    ]
    doubt = _doubt(rows)
    order = np.argsort(-doubt, kind="stable")[:_LOOKED_AT]
    return {
        str(ObjectId(rows["label"][i].tobytes())): (str(ids[rows["sample"][i]]), float(doubt[i]))
        for i in order.tolist()
        if doubt[i] > 0
    }


def _doubt(rows: Rows) -> NDArray[np.float64]:
    """High where something is likely an object, by score and mask, but no clear case of its class.

    A clear case is much like its class and little like the next one.
    """
    lead = np.nan_to_num(rows["similarity"]) - np.nan_to_num(rows["alternative_similarity"])
    mask = np.nan_to_num(rows["predicted_iou"]).clip(0, 1)
    doubt: NDArray[np.float64] = rows["confidence"] * mask * (1 - lead.clip(0, 1))
    return doubt


def _points(value: float) -> float | None:
    return 100 * float(value) if math.isfinite(value) else None
