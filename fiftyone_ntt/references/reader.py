"""Reads reference samples: the objects that their labels show, the classes there are, and what is a negative.

``Detections`` with a mask, a mask file, or just a box; ``Keypoints``: each keypoint object is one instance, its points
lie on it, but for those marked 0 (or ``False``, or ``"negative"``) in its list ``point_labels``; ``Polylines``: closed
or filled ones are masks, open ones are scribbles; ``Segmentation``: every connected part of a value is an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray
from scipy import ndimage

from fiftyone_ntt.dataset.fields import NEGATIVE_TAG, check_reference_field, image_samples, is_map_field, label_path
from fiftyone_ntt.dataset.geometry import box_in_pixels, full_mask, points_in_pixels, read_map, stretched
from fiftyone_ntt.errors import BadReferenceError, InputError, WrongTypeError
from fiftyone_ntt.method.options.prompts import Prompt
from fiftyone_ntt.pixels.drawing import fill_polygon
from fiftyone_ntt.pixels.images import read_image

POINT_LABELS = "point_labels"
"""List attribute of a ``Keypoint`` with an entry for each of its points: whether it lies on the object."""
_ON_OBJECT = (1, True, "positive")
_BESIDE_OBJECT = (0, False, "negative")
_SPECK = 0.02
"""Of a segmentation map, parts smaller than this share of the largest of their value are slips of the brush."""

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class LabelledObject:
    """One object as its label shows it, before any model has seen it.

    Attributes:
        label: class name; may be missing where it is a negative.
        label_id: of the label; of a part of a segmentation map with the value and the part's number.
        kind: ``"mask"``, ``"box"``, ``"point"`` or ``"scribble"``.
        mask: bool ``[H, W]``; ``None`` where it has to be made.
        points: of a point or scribble, what to make the mask from.
        box: xyxy in image pixels as annotated, or ``None``.
        negative: whether it shows what its class is not.
    """

    label: str | None
    label_id: str
    kind: str
    mask: NDArray[np.bool_] | None = None
    points: Prompt | None = None
    box: tuple[float, float, float, float] | None = None
    negative: bool = False

    @property
    def prompt(self) -> Prompt | None:
        """What to make the mask from; ``None`` where there is one."""
        return Prompt.box(self.box) if self.kind == "box" and self.box is not None else self.points


@dataclass(frozen=True, eq=False)
class ReferenceSample:
    """One reference sample.

    Attributes:
        sample_id: of the sample itself, also where the collection is a patches view.
        image: uint8 ``[H, W, 3]`` RGB.
        positives: the objects of the wanted classes.
        negatives: objects of what is not wanted.
        empty: whether the whole image shows none of the classes.
    """

    sample_id: str
    image: NDArray[np.uint8]
    positives: list[LabelledObject]
    negatives: list[LabelledObject] = field(default_factory=list)
    empty: bool = False

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
        # The names of the values of each field with maps. Given classes, a value without a name is just another one.
        self._values = {
            name: class_values(references, name, strict=classes is None)
            for name in self.fields
            if is_map_field(references, name)
        }
        self.classes = self._wanted(classes)

    def __len__(self) -> int:
        return len(self.references) + (0 if self.negatives is None else len(self.negatives))

    @property
    def any_prompts(self) -> bool:
        """Whether there are fields whose labels may be points or scribbles."""
        kinds = (fo.Keypoint, fo.Keypoints, fo.Polyline, fo.Polylines)
        return any(issubclass(self.references.get_field(name).document_type, kinds) for name in self.fields)

    def samples(self) -> Iterator[ReferenceSample | None]:
        """Every sample; ``None`` for one that shows nothing wanted and nothing that is not."""
        seen: set[str] = set()
        for sample in self.references.select_fields(["filepath", "tags", *self.fields]).iter_samples():
            seen.add(_source_id(sample))
            yield self._read(sample, empty=NEGATIVE_TAG in sample.tags, positives=True)
        if self.negatives is None:
            return
        fields = [name for name in self.fields if self.negatives.has_field(name)]
        for sample in self.negatives.select_fields(["filepath", "tags", *fields]).iter_samples():
            if _source_id(sample) in seen:  # as a reference it has told already
                yield None
                continue
            labelled = any(map(is_negative, _labels(sample, fields)))
            yield self._read(sample, empty=NEGATIVE_TAG in sample.tags or not labelled, positives=False)

    def _read(self, sample: fo.Sample, *, empty: bool, positives: bool) -> ReferenceSample | None:
        labels = _labels(sample, self.fields)
        wanted = not empty and positives and not all(map(is_negative, labels))
        # The image is only read where something on it counts.
        if wanted and not any(map(self._counts, labels)):
            return None
        if not (empty or wanted or any(map(is_negative, labels))):
            return None
        try:
            image = read_image(sample.filepath)
        except InputError as error:
            raise BadReferenceError(f"reference sample {sample.id}: {error}") from error
        objects = list(self._objects(sample, (int(image.shape[0]), int(image.shape[1]))))
        return ReferenceSample(
            _source_id(sample),
            image,
            [item for item in objects if wanted and not item.negative and item.label in self.classes],
            [item for item in objects if item.negative],
            empty,
        )

    def _counts(self, label: fo.Label) -> bool:
        """Whether a label may be of a class wanted (a map has to be read for that), or is a negative."""
        return isinstance(label, fo.Segmentation) or label.label in self.classes or is_negative(label)

    def _objects(self, sample: fo.Sample, size: Size) -> Iterator[LabelledObject]:
        """What the labels of a sample show. Labels of other classes are not looked at: they may be anything."""
        try:
            for name in self.fields:
                for label in filter(self._counts, _labels(sample, [name])):
                    yield from objects_in(label, size, self._values.get(name))
        except BadReferenceError as error:
            raise BadReferenceError(f"reference sample {sample.id}, {error}") from error

    def _wanted(self, classes: Sequence[str] | None) -> list[str]:
        """The classes in the order of their indices."""
        fields = " and ".join(map(repr, self.fields))
        if not len(self.references):
            raise InputError(
                "expected reference samples, got an empty view; tag samples or select a view that holds some"
            )
        present = {name for name in self._class_names() if _is_class_name(name)}
        if classes is None:
            if not present:
                raise BadReferenceError(
                    f"the {len(self.references)} reference samples have no labels with a class name in {fields}; give "
                    "each reference the name of its class"
                )
            return sorted(present)
        listed = not isinstance(classes, str) and all(map(_is_class_name, classes))
        if not listed or not 0 < len(classes) == len(set(classes)):
            raise InputError(f"expected a list of distinct class names, got {classes!r}")
        missing = [name for name in classes if name not in present]
        if missing:
            raise BadReferenceError(
                f"no reference labelled {', '.join(map(repr, missing))} in {fields}; labels there: "
                f"{', '.join(map(repr, sorted(present))) or 'none'}"
            )
        return list(classes)

    def _class_names(self) -> set[str]:
        """Class names of the references. The database knows them, but for those in segmentation maps."""
        names: set[str] = set()
        positive = self.references.match_tags(NEGATIVE_TAG, bool=False)
        for field_name in self.fields:
            if field_name in self._values:
                for sample in positive.select_fields(field_name).iter_samples():
                    names |= _classes_in_maps(sample, field_name, self._values[field_name])
                continue
            paths = [label_path(positive, field_name, part) for part in ("label", "tags")]
            for labels, tags in zip(*(positive.values(path) for path in paths), strict=True):
                # A field of single labels has one of each, not lists.
                pairs = zip(labels, tags, strict=True) if isinstance(labels, list) else [(labels, tags)]
                names.update(name for name, marks in pairs if name is not None and NEGATIVE_TAG not in (marks or []))
        return names


def _labels(sample: fo.Sample, fields: Sequence[str]) -> list[Any]:
    return [label for name in fields if sample.has_field(name) for label in single_labels(sample[name])]


def _source_id(sample: fo.Sample) -> str:
    """The sample itself, also of a patch of it."""
    return str(getattr(sample, "sample_id", None) or sample.id)


def _is_class_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def single_labels(label: fo.Label | None) -> list[Any]:
    """The single labels in a field's value: its detections, keypoints or polylines, or the value itself."""
    if label is None:
        return []
    for holder, name in ((fo.Detections, "detections"), (fo.Keypoints, "keypoints"), (fo.Polylines, "polylines")):
        if isinstance(label, holder):
            return list(getattr(label, name) or [])
    return [label]


def is_negative(label: Any) -> bool:
    """Whether a label shows what its class is not."""
    return NEGATIVE_TAG in (label.tags or [])


def objects_in(label: fo.Label | None, size: Size, values: ClassValues | None = None) -> Iterator[LabelledObject]:
    """The objects in one field of one sample.

    Args:
        label: what the field holds.
        size: ``(height, width)`` of the image in pixels.
        values: names of a segmentation's values.

    Raises:
        BadReferenceError: if one cannot be used; names the label.
    """
    for single in single_labels(label):
        try:
            if isinstance(single, fo.Segmentation):
                yield from _of_segmentation(single, size, values or ClassValues({}))
            else:
                yield _READERS[type(single)](single, size)
        except (InputError, WrongTypeError) as error:
            name = f" ({single.label})" if getattr(single, "label", None) else ""
            raise BadReferenceError(f"label {single.id}{name}: {error}") from error


def _of_detection(label: fo.Detection, size: Size) -> LabelledObject:
    box, mask = box_in_pixels(label, size), full_mask(label, size) if label.has_mask else None
    kind = "box" if mask is None else "mask"
    return LabelledObject(label.label, label.id, kind, mask, box=box, negative=is_negative(label))


def _of_keypoint(label: fo.Keypoint, size: Size) -> LabelledObject:
    points = points_in_pixels(label.points, size)  # [P, 2], NaN where a point is missing
    on_object = _marks(label, len(points))  # [P]
    placed = np.isfinite(points).all(axis=1)
    if not (placed & on_object).any():
        raise InputError(
            f"expected a point on the object, got {len(points)} points, of which {int((~placed).sum())} are missing "
            f"(NaN) and {int((placed & ~on_object).sum())} marked as beside it"
        )
    prompt = Prompt(points[placed], on_object[placed])
    return LabelledObject(label.label, label.id, "point", points=prompt, negative=is_negative(label))


def _marks(label: fo.Keypoint, count: int) -> NDArray[np.bool_]:
    """bool ``[count]``, whether each point lies on the object; all do where nothing is said."""
    marks = label.get_attribute_value(POINT_LABELS, None) if label.has_attribute(POINT_LABELS) else None
    if marks is None:
        return np.ones(count, bool)
    allowed = (*_ON_OBJECT, *_BESIDE_OBJECT)
    if isinstance(marks, str) or len(marks) != count or any(mark not in allowed for mark in marks):
        raise InputError(
            f"expected {POINT_LABELS!r} to hold 1 (on the object) or 0 (beside it) for each of the {count} points, "
            f"got {marks!r}"
        )
    return np.array([mark in _ON_OBJECT for mark in marks], bool)


def _of_polyline(label: fo.Polyline, size: Size) -> LabelledObject:
    lines = [points_in_pixels(line, size) for line in label.points or []]
    lines = [line[np.isfinite(line).all(axis=1)] for line in lines]
    lines = [line for line in lines if len(line)]
    if not lines:
        raise InputError("expected a line of points, got none")
    if label.closed or label.filled:
        mask = np.logical_or.reduce([fill_polygon(line, size) for line in lines])
        return LabelledObject(label.label, label.id, "mask", mask, negative=is_negative(label))
    prompt = Prompt.scribble(*lines)
    return LabelledObject(label.label, label.id, "scribble", points=prompt, negative=is_negative(label))


_READERS: dict[type, Callable[[Any, Size], LabelledObject]] = {
    fo.Detection: _of_detection,
    fo.Keypoint: _of_keypoint,
    fo.Polyline: _of_polyline,
}


@dataclass(frozen=True)
class ClassValues:
    """Names of a segmentation field's values.

    Attributes:
        names: value -> class name.
        strict: whether a value without a name is an error, and not just another class.
    """

    names: Mapping[int, str]
    strict: bool = True

    def named(self, classes: NDArray[Any]) -> Iterator[tuple[int, str]]:
        """The values in a map ``[h, w]`` with their names, 0 (background) aside."""
        for value in map(int, np.unique(classes)):
            if value in self.names:
                if value != 0:
                    yield value, self.names[value]
            elif value != 0 and self.strict:
                raise InputError(
                    f"value {value} of the segmentation map has no name; name it in dataset.mask_targets[field] or "
                    f"dataset.default_mask_targets (known: {dict(self.names) or 'none'}), or give the classes you want"
                )


def class_values(collection: SampleCollection, field_name: str, *, strict: bool = True) -> ClassValues:
    """The names of a segmentation field's values: the dataset's ``mask_targets`` for it, else the default ones."""
    targets = collection.mask_targets.get(field_name) or collection.default_mask_targets or {}
    if any(not isinstance(value, int) for value in targets):
        raise InputError(
            f"expected the mask targets of {field_name!r} to name whole numbers, got colours; references need "
            "segmentation maps with one number a class"
        )
    return ClassValues({int(value): str(name) for value, name in targets.items()}, strict)


def _classes_in_maps(sample: fo.Sample, field_name: str, values: ClassValues) -> set[str]:
    names: set[str] = set()
    for label in single_labels(sample[field_name]):
        try:
            names.update(name for _, name in values.named(read_map(label)))
        except (InputError, WrongTypeError) as error:
            raise BadReferenceError(f"reference sample {sample.id}, label {label.id}: {error}") from error
    return names


def _of_segmentation(label: fo.Segmentation, size: Size, values: ClassValues) -> Iterator[LabelledObject]:
    classes = stretched(read_map(label), size)  # [H, W], as FiftyOne shows it
    for value, name in values.named(classes):
        for number, part in enumerate(_parts(classes == value)):
            label_id = f"{label.id}.{value}.{number}"
            yield LabelledObject(name, label_id, "mask", part, negative=is_negative(label))


def _parts(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The connected parts of a mask, largest first, without specks."""
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    for k in np.argsort(-areas, kind="stable"):
        if areas[k] >= _SPECK * areas.max():
            yield numbered == k + 1
