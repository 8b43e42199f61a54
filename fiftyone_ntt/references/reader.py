"""Reads reference samples: the objects that their labels show, the classes there are, and what is a negative.

Labels that are marked as a crowd, as difficult or as to be ignored are no examples: they are left out, with a note.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import (
    Document,
    SampleDocument,
    class_of,
    label_parts,
    sample_documents,
    single_documents,
    tags_of,
)
from fiftyone_ntt.dataset.fields import NEGATIVE_TAG, check_reference_field, image_samples, is_map_field, with_labels
from fiftyone_ntt.dataset.marks import is_example, left_out_mark, marks_in
from fiftyone_ntt.errors import BadReferenceError, InputError, as_text, counted, listing
from fiftyone_ntt.pixels.images import content_key, decode_image, read_bytes
from fiftyone_ntt.references.label_kinds import (
    POINT_LABELS,
    LabelledObject,
    Size,
    class_values,
    classes_in_maps,
    is_negative,
    notes_on_zero,
    objects_in,
)
from fiftyone_ntt.references.tagging import count_labels

_MOST_REASONS = 5


@dataclass(frozen=True, eq=False)
class ReferenceSample:
    """One reference sample.

    Attributes:
        sample_id: of the sample itself, also where the collection is a patches view.
        image: uint8 ``[H, W, 3]`` RGB.
        positives: the objects of the wanted classes.
        negatives: objects of what is not wanted.
        empty: whether the whole image shows none of the classes.
        content: what tells the content of its file from others, see ``content_key``.
    """

    sample_id: str
    image: NDArray[np.uint8]
    positives: list[LabelledObject]
    negatives: list[LabelledObject] = field(default_factory=list)
    empty: bool = False
    content: str = ""

    @property
    def objects(self) -> list[LabelledObject]:
        """The positives, then the negatives."""
        return [*self.positives, *self.negatives]

    @property
    def size(self) -> Size:
        """``(height, width)`` of the image in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])


class ReferenceReader:
    """The reference samples of a call, which can be gone through more than once.

    Args:
        references: samples with labels. Those tagged ``ntt:negative`` show none of the classes, labels tagged so show
            what their class is not.
        fields: the fields with the labels.
        classes: the classes wanted; all there are, sorted, where ``None``.
        negatives: more samples that show what is not wanted: by their labels tagged ``ntt:negative``, or as a whole.
        insist: whether each of ``classes`` must have a reference that can be used; where ``False``, those without are
            dropped like those of no list.

    Attributes:
        left_out: id of a label that is no example -> its sample, its class, and the attribute that says so.
        classes: the classes wanted, in the order of their indices; after ``drop_bare``, those with a reference.
        unusable: id of a sample or label that cannot be used -> why, with its name. It costs itself, and its class
            where that has no other, see ``drop_bare``.

    Raises:
        InputError: if a field or the samples are missing.
        BadReferenceError: if there is no label of a class.
    """

    def __init__(
        self,
        references: SampleCollection,
        fields: Sequence[str],
        classes: Sequence[str] | None = None,
        negatives: SampleCollection | None = None,
        *,
        insist: bool = True,
    ) -> None:
        self.fields = check_reference_field(references, fields)
        self.references = references
        self.negatives = None if negatives is None else image_samples(negatives)
        # The names of the values of each field with maps. Given classes, a value without a name is just another one.
        self._values = {
            name: class_values(references, name, strict=classes is None)
            for name in self.fields
            if is_map_field(references, name)
        }
        self.left_out: dict[str, tuple[str, str, str]] = {}
        self.unusable: dict[str, str] = {}
        self._bare: dict[str, list[str]] = {}  # class without a reference that can be used -> ids in `unusable`
        self._unusable_of: dict[str, set[str]] = {}  # class -> ids in `unusable`
        self._all_classes, self._insists = classes is None, insist and classes is not None
        self.classes = self._wanted(classes)

    def __len__(self) -> int:
        return len(self.references) + (0 if self.negatives is None else len(self.negatives))

    @property
    def any_prompts(self) -> bool:
        """Whether there are fields whose labels may be points or scribbles."""
        kinds = (fo.Keypoint, fo.Keypoints, fo.Polyline, fo.Polylines)
        return any(issubclass(self.references.get_field(name).document_type, kinds) for name in self.fields)

    @property
    def notes(self) -> list[str]:
        """What a person should know of the references that were read so far: a line an attribute."""
        by_mark: dict[str, dict[str, str]] = {}
        for label_id, (sample_id, name, mark) in self.left_out.items():
            by_mark.setdefault(mark, {})[f"{name!r} of sample {sample_id}, label {label_id}"] = name
        marked = [
            f"left out of the references, as marked {mark!r}: {_counted(Counter(labels.values()))} "
            f"(e.g. {next(iter(labels))})"
            for mark, labels in by_mark.items()
        ]
        told = {key for ids in self._bare.values() for key in ids}
        reasons = [reason for key, reason in self.unusable.items() if key not in told]
        bare = [
            f"class {as_text(name)} is left out, none of its references can be used"
            + (f": {_listed(self.unusable, ids)}" if ids else "")
            for name, ids in self._bare.items()
        ]
        more = len(reasons) - _MOST_REASONS
        return [
            *bare,
            *marked,
            *(f"left out, as it cannot be used: {reason}" for reason in reasons[:_MOST_REASONS]),
            *([f"left out, as they cannot be used: {more} more"] if more > 0 else []),
            *(notes_on_zero(self._values) if self._all_classes else ()),
        ]

    def cannot_use(self, key: str, reason: str, classes: Iterable[str | None]) -> None:
        """Notes a sample or label that cannot be used, and of which classes it would have been an example."""
        self.unusable[key] = reason
        for name in classes:
            if name in self.classes:
                self._unusable_of.setdefault(str(name), set()).add(key)

    def drop_bare(self, classes: Collection[str]) -> list[str]:
        """The classes that have references; the others are noted, each with the reason.

        Args:
            classes: those of which there are some.

        Raises:
            BadReferenceError: if there are none at all, or none of a class that was asked for; says why.
        """
        bare = [name for name in self.classes if name not in classes]
        if bare and self.unusable and (self._insists or len(bare) == len(self.classes)):
            raise BadReferenceError(
                f"no reference of {listing(map(repr, bare))} is left: {_listed(self.unusable, self.unusable)}"
            )
        if not (bare and self._insists):
            self._bare = {name: sorted(self._unusable_of.get(name, ())) for name in bare}
            self.classes = [name for name in self.classes if name in classes]
        return self.classes

    def samples(self) -> Iterator[ReferenceSample | None]:
        """Every sample; ``None`` for one that shows nothing wanted and nothing that is not."""
        seen: set[str] = set()
        for sample in sample_documents(self.references, self.fields):
            seen.add(sample.source_id)
            yield self._read(sample, empty=NEGATIVE_TAG in sample.tags, positives=True)
        if self.negatives is None:
            return
        for sample in sample_documents(self.negatives, self.fields):
            if sample.source_id in seen:  # as a reference it has told already
                yield None
                continue
            labelled = any(map(is_negative, sample.labels))
            yield self._read(sample, empty=NEGATIVE_TAG in sample.tags or not labelled, positives=False)

    def _read(self, sample: SampleDocument, *, empty: bool, positives: bool) -> ReferenceSample | None:
        labels = sample.labels
        wanted = not empty and positives and not all(map(is_negative, labels))
        if wanted:
            self._note_left_out(sample, labels)
        # The image is only read where something on it counts.
        if wanted and not any(map(self._counts, labels)):
            return None
        if not (empty or wanted or any(map(is_negative, labels))):
            return None
        try:
            data = read_bytes(sample.filepath)
            image = decode_image(data, sample.filepath)
        except InputError as error:
            names = [class_of(label) for label in labels] if wanted else []
            self.cannot_use(sample.id, f"reference sample {sample.id}: {error}", names)
            return None
        objects = list(self._objects(sample, (int(image.shape[0]), int(image.shape[1]))))
        return ReferenceSample(
            sample.source_id,
            image,
            [item for item in objects if wanted and not item.negative and item.label in self.classes],
            [item for item in objects if item.negative],
            empty,
            content_key(data),
        )

    def _counts(self, label: Document) -> bool:
        """Whether a label may be of a class wanted (a map has to be read for that), or is a negative."""
        if label.get("_cls") == "Segmentation" or is_negative(label):
            return True
        return class_of(label) in self.classes and left_out_mark(label) is None

    def _note_left_out(self, sample: SampleDocument, labels: Sequence[Document]) -> None:
        for label in labels:
            mark = None if is_negative(label) else left_out_mark(label)
            if mark is not None and (self._all_classes or class_of(label) in self.classes):
                self.left_out[str(label.get("_id"))] = sample.source_id, str(class_of(label)), mark

    def _objects(self, sample: SampleDocument, size: Size) -> Iterator[LabelledObject]:
        """What the labels of a sample show. Labels of other classes are not looked at: they may be anything.

        One that cannot be used, now or as a prompt before, is left out.
        """
        for name in self.fields:
            for label in filter(self._counts, single_documents(sample.fields.get(name))):
                try:
                    objects = list(objects_in(label, size, self._values.get(name)))
                except BadReferenceError as error:
                    key, reason = f"{sample.source_id}/{label.get('_id')}", f"reference sample {sample.id}, {error}"
                    self.cannot_use(key, reason, () if is_negative(label) else [class_of(label)])
                    continue
                for item in objects:
                    key = f"{sample.source_id}/{item.label_id}"
                    if item.mask is not None and not item.mask.any():
                        reason = f"label {item.label_id} ({as_text(item.label)}): the mask is empty; draw it again or "
                        reason = f"reference sample {sample.id}, {reason}remove the label"
                        self.cannot_use(key, reason, () if item.negative else [item.label])
                    if key not in self.unusable:
                        yield item

    def _wanted(self, classes: Sequence[str] | None) -> list[str]:
        """The classes in the order of their indices."""
        fields = " and ".join(map(repr, self.fields))
        if not len(self.references):
            raise InputError(
                "expected reference samples, got an empty view; tag samples or select a view that holds some"
            )
        present = {name for name in self._class_names() if _is_class_name(name)}
        if classes is None:
            if not present and self.unusable:
                raise BadReferenceError(
                    f"no reference in {fields} can be used: {_listed(self.unusable, self.unusable)}"
                )
            if not present:
                raise BadReferenceError(
                    f"{counted(len(self.references), 'reference sample')}, and no labels with a class name in {fields} "
                    "that can be an example (regions of a crowd, difficult and ignored labels are none); give each "
                    "reference the name of its class"
                )
            return sorted(present)
        listed = not isinstance(classes, str) and all(map(_is_class_name, classes))
        if not listed or not 0 < len(classes) == len(set(classes)):
            raise InputError(f"expected a list of distinct class names, got {classes!r}")
        missing = [name for name in classes if name not in present]
        if missing:
            raise BadReferenceError(
                f"no reference labelled {listing(map(repr, missing))} in {fields}; labels there, but for crowds, "
                f"difficult and ignored ones: {listing(map(repr, sorted(present)), like=repr(missing[0]))}"
                + (f"; what cannot be used: {_listed(self.unusable, self.unusable)}" if self.unusable else "")
                + "".join(f"; {note}" for note in notes_on_zero(self._values))
            )
        return list(classes)

    def _class_names(self) -> set[str]:
        """Class names of the references. The database knows them, but for those in segmentation maps."""
        names: set[str] = set()
        positive = self.references.match_tags(NEGATIVE_TAG, bool=False)
        for field_name in self.fields:
            if field_name in self._values:
                for sample in sample_documents(positive, [field_name]):
                    names |= classes_in_maps(sample, self._values[field_name], self.unusable)
                continue
            examples = with_labels(positive, field_name, is_example(), only_matches=False)
            for _, labels in label_parts(examples, field_name, ["label", "tags"]):
                names.update(name for label in labels if not is_negative(label) and (name := class_of(label)))
        return names


def _counted(counts: Counter[str]) -> str:
    return listing(f"{count} x {name}" for name, count in counts.most_common())


def _listed(reasons: Mapping[str, str], keys: Iterable[str]) -> str:
    """The first of the reasons, and how many more there are."""
    chosen = [reasons[key] for key in keys]
    more = f"; and {len(chosen) - _MOST_REASONS} more" if len(chosen) > _MOST_REASONS else ""
    return f"{'; '.join(chosen[:_MOST_REASONS])}{more}"


def _is_class_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


_TEACHES = (
    "_cls", "label", "bounding_box", "mask", "mask_path", "points", "closed", "filled", "attributes", POINT_LABELS,
)  # fmt: skip
"""What of a label a bank can depend on, and its marks: not, for example, what an evaluation notes on it."""


@dataclass(frozen=True)
class MadeFrom:
    """What a bank was built from: two that are equal make the same bank.

    Attributes:
        fields: the fields with the labels.
        classes: the classes that were asked for; all there were where ``None``.
        ask_granularity: whether the references were asked which granularity fits them.
        content: fingerprint of the references and negatives.
        left_out: classes that were there and not asked for.
        tagged: whether these are the references as the App tags them; only such a bank is ever replaced unasked.
    """

    fields: tuple[str, ...]
    classes: tuple[str, ...] | None
    ask_granularity: bool
    content: str
    left_out: tuple[str, ...] = field(default=(), compare=False)
    tagged: bool = field(default=False, compare=False)

    @classmethod
    def of(
        cls, references: SampleCollection, fields: Sequence[str], classes: Sequence[str] | None, ask_granularity: bool,
        negatives: SampleCollection | None,
    ) -> MadeFrom:  # fmt: skip
        """Reads the labels of the references, and of no image more than its size and date."""
        digest = hashlib.blake2b(digest_size=16)
        for samples in (references, negatives):
            if samples is not None:
                for line in sorted(_lines(image_samples(samples), fields)):
                    digest.update(line.encode())
            digest.update(b"\0")
        wanted = None if classes is None else tuple(classes)
        left_out = () if wanted is None else sorted(set(count_labels(references, fields)) - {*wanted})
        return cls(tuple(fields), wanted, ask_granularity, digest.hexdigest(), tuple(left_out))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> MadeFrom:
        """What was kept beside a bank."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
        }
        return cls(**plain)


def _lines(samples: SampleCollection, fields: Sequence[str]) -> Iterator[str]:
    """A line for each label and for each image, in no order, the same for patches as for whole images."""
    for name in fields:
        if samples.has_field(name) and is_map_field(samples, name):
            yield repr((name, samples.mask_targets.get(name) or samples.default_mask_targets))
    for sample in sample_documents(samples, fields):
        path = sample.filepath
        yield repr((path, _on_disk(path), NEGATIVE_TAG in sample.tags))
        for name, document in sample.fields.items():
            for label in single_documents(document):
                facts = [(key, label[key]) for key in (*_TEACHES, *marks_in(label)) if key in label]
                negative = NEGATIVE_TAG in tags_of(label)
                yield repr((path, name, str(label.get("_id")), negative, facts, _on_disk(label.get("mask_path"))))


def _on_disk(path: Any) -> tuple[int, int] | None:
    try:
        facts = os.stat(path if isinstance(path, str) else "")
    except (OSError, ValueError):
        return None
    return facts.st_size, facts.st_mtime_ns
