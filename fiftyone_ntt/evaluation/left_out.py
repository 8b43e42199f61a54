"""What an evaluation leaves out: images that the references come from, and copies of them, whose scores would flatter.

And the classes that only one side has.

An image has been seen if it or one of its labels, in any field, is tagged as a reference, if the memory bank of the run
has a reference or a negative of it (learned ones included), or if its file has the content of such an image.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import fiftyone as fo
from bson import ObjectId
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import (
    REFERENCE_TAG,
    count_classes,
    dataset_of,
    every_image,
    is_tagged,
    label_path,
    reference_fields,
    with_labels,
)
from fiftyone_ntt.errors import InputError, as_text, counted, listing
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.pixels.contrast import NO_CONTRAST
from fiftyone_ntt.pixels.images import content_key, notes_at_a_glance, read_bytes
from fiftyone_ntt.references.banks import bank_of_run, bank_summaries, contents_of, load_bank, seen_images
from fiftyone_ntt.runs.record import provenance_of

_MOST_NAMES = 12
_WORDS = {
    "reference": ("reference sample", "left out"),
    "learned": ("sample", "left out whose labels were learned from: in effect references by now"),
    "negative": ("sample", "left out, as negatives of the references"),
}


@dataclass(frozen=True)
class SeenImages:
    """Images that the references of a run come from.

    Attributes:
        kinds: id of each -> ``"reference"``, ``"negative"`` or ``"learned"``.
        contents: id -> ``content_key`` of its file, as far as the memory bank knows it.
        bank_is_gone: whether a run wrote the labels whose memory bank is no longer there.
    """

    kinds: Mapping[str, str]
    contents: Mapping[str, str]
    bank_is_gone: bool = False

    @classmethod
    def of(cls, view: SampleCollection, label_field: str) -> SeenImages:
        """Those behind the labels in a field, whether or not a view shows them: their copies may be in it.

        Args:
            view: the samples to score.
            label_field: the predictions.
        """
        record = provenance_of(view, label_field)
        bank = _bank_behind(dataset_of(view), record)
        kinds = {} if bank is None else seen_images(bank)
        tagged = dict.fromkeys(_tagged_images(dataset_of(view)), "reference")
        contents = {} if bank is None else contents_of(bank)
        gone = bank is None and bool(record)
        return cls({**kinds, **tagged}, contents, gone)

    def without(self, view: SampleCollection, notes: list[str]) -> SampleCollection:
        """The samples of a view that are none of these images; ``notes`` says how many are, and as what.

        Raises:
            InputError: if there are no others.
        """
        if self.bank_is_gone:
            notes.append("the memory bank of this run is gone: images that it has seen are only known by their tags")
        inside = [sample_id for sample_id in view.values("id") if sample_id in self.kinds]
        counts = Counter(self.kinds[sample_id] for sample_id in inside)
        notes += [f"{counted(counts[kind], what)} {why}" for kind, (what, why) in _WORDS.items() if counts[kind]]
        return _others(view, inside, notes)

    def without_copies(self, view: SampleCollection, notes: list[str]) -> SampleCollection:
        """The samples of a view whose files do not have the content of one of these images; ``notes`` as above.

        Files are only read where one of these images has the same length. A picture of one colour, such as a camera's
        lost frame, is nobody's copy: no reference can have shown what is in it.

        Raises:
            InputError: if there are no others.
        """
        contents, unknown = self._all_contents(dataset_of(view))
        if unknown:
            notes.append(
                f"copies of {counted(unknown, 'image')} that the references come from cannot be told: not in this "
                "dataset any more, and the memory bank, of an earlier version, does not know their content"
            )
        lengths = {key.partition("-")[0] for key in contents}
        ids, paths = view.values(["id", "filepath"]) if lengths else ([], [])
        copies = {
            sample_id: contents[key]
            for sample_id, path in zip(ids, paths, strict=True)
            if (key := _key_of(path, lengths)) in contents and not _is_blank(path)
        }
        if copies:
            copy, original = next(iter(copies.items()))
            notes.append(
                f"{counted(len(copies), 'sample')} left out, as copies of reference images (files of the same "
                f"content), e.g. sample {copy} of {original}"
            )
        return _others(view, list(copies), notes)

    def _all_contents(self, dataset: fo.Dataset) -> tuple[dict[str, str], int]:
        """``content_key`` -> id of the image that has it, and of how many images it is not known."""
        found, known = {key: name for name, key in self.contents.items()}, set(self.contents)
        ids = [name for name in self.kinds if ObjectId.is_valid(name)]
        for sample_id, path in zip(*every_image(dataset).select(ids).values(["id", "filepath"]), strict=True):
            with suppress(InputError):  # its file is gone
                found[content_key(read_bytes(path))] = sample_id  # beside what the bank saw: files are replaced
                known.add(sample_id)
        return found, len(set(self.kinds) - known)


def _tagged_images(dataset: fo.Dataset) -> list[str]:
    """Ids of the images that are tagged as references, or have a label that is, in any field."""
    images = every_image(dataset)
    paths = {name: label_path(images, name, "tags") for name in reference_fields(images)}
    ids = list(images.match_tags(REFERENCE_TAG).values("id"))
    if not paths:
        return ids
    # One pass over the documents for all fields; what it finds may be no list of tags.
    some = images.match({"$or": [{path: REFERENCE_TAG} for path in paths.values()]}).values("id")
    for name in paths if some else ():
        ids += with_labels(images.select(some), name, is_tagged(REFERENCE_TAG)).values("id")
    return ids


def _others(view: SampleCollection, left_out: list[str], notes: list[str]) -> SampleCollection:
    if not left_out:
        return view
    if len(left_out) == len(view):
        raise InputError(
            f"the view holds only references ({'; '.join(notes)}); evaluate on others, or pass include_references=True"
        )
    return view.exclude(left_out)


def _bank_behind(dataset: fo.Dataset, record: Mapping[str, object]) -> MemoryBank | None:
    """The memory bank that a run labelled with, which the run keeps, or a name stands for; ``None`` if it is gone."""
    run_key, wanted = record.get("run_key"), record.get("bank_hash")
    if run_key and dataset.has_run(run_key):
        with suppress(InputError):  # what it kept is damaged
            bank = bank_of_run(dataset, str(run_key))
            if bank.content_hash == wanted:
                return bank
    names = [name for name, summary in bank_summaries(dataset).items() if summary.content_hash == wanted]
    return load_bank(dataset, names[0]) if names else None


def _is_blank(path: str) -> bool:
    return any(NO_CONTRAST in note for note in notes_at_a_glance(path))


def _key_of(path: str, lengths: set[str]) -> str | None:
    """``content_key`` of a file of one of these lengths."""
    with suppress(OSError, ValueError, InputError):
        if str(os.stat(path).st_size) in lengths:
            return content_key(read_bytes(path))
    return None


def class_notes(
    view: SampleCollection, label_field: str, gt_field: str, names: Sequence[str], asked: Sequence[str] | None
) -> list[str]:
    """What a reader should know of classes that only one of two fields of detections has.

    Args:
        view: the samples to score.
        label_field: the predictions.
        gt_field: the ground truth.
        names: the classes scored.
        asked: the classes that a caller wants, if any: others are left out on purpose.
    """
    truth, predicted = (count_classes(view, field) for field in (gt_field, label_field))
    notes = []
    unknown = {name: count for name, count in truth.items() if name not in names}
    if unknown and asked is None:
        notes.append(
            f"{counted(sum(unknown.values()), 'object')} of {counted(len(unknown), 'class', 'classes')} not scored, "
            f"as the run does not know: {listed_counts(unknown)}"
        )
    without = {name: predicted.get(name, 0) for name in names if name not in truth}
    if without:
        notes.append(
            f"no ground truth here for {len(without)} of {counted(len(names), 'class', 'classes')}, in no mean of AP: "
            f"{listed_counts(without, 'label')}"
        )
    strange = {name: count for name, count in predicted.items() if name not in names}
    if strange and asked is None:
        notes.append(f"labels of classes that the run does not know are not scored: {listed_counts(strange)}")
    return notes


def listed_counts(counts: Mapping[str, int], unit: str = "") -> str:
    """``"fig (3), nut (1)"`` or, of a unit, ``"fig (3 labels), nut (1 label)"``, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{as_text(name, 40)} ({counted(count, unit) if unit else count})" for name, count in ordered]
    return listing(parts, _MOST_NAMES)
