"""Reads reference samples: which instances they show, which classes there are, what is a negative."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import NEGATIVE_TAG, check_reference_field, image_samples, label_path
from fiftyone_ntt.errors import BadReferenceError, InputError
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.references.label_kinds import ClassValues, Shown, class_values, classes_in, shown_in, single_labels


@dataclass(frozen=True, eq=False)
class ReadSample:
    """One reference sample.

    Attributes:
        sample_id: of the sample itself, also where the collection is a patches view.
        image: uint8 ``[H, W, 3]`` RGB.
        shown: the instances of the wanted classes.
        negatives: instances of what is not wanted.
        empty: whether the whole image shows none of the classes.
    """

    sample_id: str
    image: NDArray[np.uint8]
    shown: list[Shown]
    negatives: list[Shown] = field(default_factory=list)
    empty: bool = False


class ReferenceReader:
    """The reference samples of a call, which can be gone through more than once.

    Args:
        references: samples with labels. Those tagged ``ntt:negative`` show none of the classes, labels tagged so show
            what their class is not.
        fields: the fields with the labels.
        classes: the classes wanted; all there are, sorted, where ``None``.
        negatives: more samples that show what is not wanted: by their labels tagged ``ntt:negative``, or as a whole.

    Raises:
        InputError: if a field or the samples are missing.
        BadReferenceError: if there is no label of a class, or one cannot be used.
    """

    def __init__(
        self,
        references: SampleCollection,
        fields: Sequence[str],
        classes: Sequence[str] | None = None,
        negatives: SampleCollection | None = None,
    ) -> None:
        self.fields = check_reference_field(references, fields)
        self.references = references
        self.negatives = None if negatives is None else image_samples(negatives)
        self.values = {name: _values_of(references, name, classes is None) for name in self.fields}
        self.classes = _wanted(self, classes)

    def __len__(self) -> int:
        return len(self.references) + (0 if self.negatives is None else len(self.negatives))

    @property
    def any_prompts(self) -> bool:
        """Whether there are fields whose labels may be points or scribbles."""
        kinds = (fo.Keypoint, fo.Keypoints, fo.Polyline, fo.Polylines)
        return any(issubclass(self.references.get_field(name).document_type, kinds) for name in self.fields)

    def samples(self) -> Iterator[ReadSample | None]:
        """Every sample; ``None`` for one that shows nothing wanted and nothing that is not."""
        seen: set[str] = set()
        for one in self.references.select_fields(["filepath", "tags", *self.fields]).iter_samples():
            seen.add(_source_id(one))
            yield self._read(one, NEGATIVE_TAG in one.tags, positives=True)
        if self.negatives is None:
            return
        fields = [name for name in self.fields if self.negatives.has_field(name)]
        for one in self.negatives.select_fields(["filepath", "tags", *fields]).iter_samples():
            if _source_id(one) in seen:  # as a reference it has told already
                yield None
                continue
            labelled = any(NEGATIVE_TAG in (label.tags or []) for label in _labels(one, fields))
            yield self._read(one, NEGATIVE_TAG in one.tags or not labelled, positives=False)

    def _read(self, sample: fo.Sample, empty: bool, positives: bool) -> ReadSample | None:
        labels = _labels(sample, self.fields)
        wanted = not empty and positives and any(NEGATIVE_TAG not in (label.tags or []) for label in labels)
        if not (empty or wanted or any(NEGATIVE_TAG in (label.tags or []) for label in labels)):
            return None
        if wanted and not self._any_of_the_classes(labels):
            return None
        image = _image(sample)
        size = (int(image.shape[0]), int(image.shape[1]))
        shown: list[Shown] = []
        for name in self.fields:
            try:
                shown += self._shown(sample, name, size)
            except BadReferenceError as error:
                raise BadReferenceError(f"reference sample {sample.id}, {error}") from error
        return ReadSample(
            _source_id(sample),
            image,
            [one for one in shown if wanted and not one.negative and one.label in self.classes],
            [one for one in shown if one.negative],
            empty,
        )

    def _any_of_the_classes(self, labels: Sequence[fo.Label]) -> bool:
        """Whether any label may be of a class wanted (a map has to be read for that), or is a negative."""
        return any(
            isinstance(label, fo.Segmentation) or label.label in self.classes or NEGATIVE_TAG in (label.tags or [])
            for label in labels
        )

    def _shown(self, sample: fo.Sample, name: str, size: tuple[int, int]) -> Iterator[Shown]:
        """Labels of other classes are not looked at: they may be anything."""
        for label in single_labels(_value(sample, name)):
            maps = isinstance(label, fo.Segmentation)
            if maps or label.label in self.classes or NEGATIVE_TAG in (label.tags or []):
                yield from shown_in(label, size, self.values[name])


def _value(sample: fo.Sample, name: str) -> fo.Label | None:
    return sample[name] if sample.has_field(name) else None


def _labels(sample: fo.Sample, fields: Sequence[str]) -> list[fo.Label]:
    return [label for name in fields for label in single_labels(_value(sample, name))]


def _values_of(references: SampleCollection, name: str, strict: bool) -> ClassValues | None:
    maps = issubclass(references.get_field(name).document_type, fo.Segmentation)
    return class_values(references, name, strict=strict) if maps else None


def _image(sample: fo.Sample) -> NDArray[np.uint8]:
    try:
        return read_image(sample.filepath)
    except InputError as error:
        raise BadReferenceError(f"reference sample {sample.id}: {error}") from error


def _source_id(sample: fo.Sample) -> str:
    return str(getattr(sample, "sample_id", None) or sample.id)


def _wanted(reader: ReferenceReader, classes: Sequence[str] | None) -> list[str]:
    """The classes in the order of their indices."""
    references, fields = reader.references, " and ".join(map(repr, reader.fields))
    if not len(references):
        raise InputError("expected reference samples, got an empty view; tag samples or select a view that holds some")
    found = {name for name in _found(reader) if _is_class_name(name)}
    if classes is None:
        if not found:
            raise BadReferenceError(
                f"the {len(references)} reference samples have no labels with a class name in {fields}; give "
                "each reference the name of its class"
            )
        return sorted(found)
    if isinstance(classes, str) or not all(map(_is_class_name, classes)) or not 0 < len(classes) == len(set(classes)):
        raise InputError(f"expected a list of distinct class names, got {classes!r}")
    missing = [name for name in classes if name not in found]
    if missing:
        raise BadReferenceError(
            f"no reference labelled {', '.join(map(repr, missing))} in {fields}; labels there: "
            f"{', '.join(map(repr, sorted(found))) or 'none'}"
        )
    return list(classes)


def _found(reader: ReferenceReader) -> Collection[str]:
    """Class names of the references. The database knows them, but for those in segmentation maps."""
    found: set[str] = set()
    positive = reader.references.match_tags(NEGATIVE_TAG, bool=False)
    for name in reader.fields:
        if reader.values[name] is None:
            paths = [label_path(positive, name, part) for part in ("label", "tags")]
            labels, tags = (positive.values(path) for path in paths)
            for mine, marks in zip(labels, tags, strict=True):
                listed = isinstance(mine, list)
                pairs = zip(mine, marks, strict=True) if listed else [(mine, marks)]
                found.update(one for one, mark in pairs if one is not None and NEGATIVE_TAG not in (mark or []))
            continue
        for sample in positive.select_fields(name).iter_samples():
            try:
                found |= classes_in(sample[name], reader.values[name])
            except BadReferenceError as error:
                raise BadReferenceError(f"reference sample {sample.id}, {error}") from error
    return found


def _is_class_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())
