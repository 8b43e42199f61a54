"""What one label of a reference shows: its objects, as a mask, a box, points or a scribble.

``Detections`` with a mask, a mask file, or just a box; ``Keypoints``: each keypoint object is one instance, its points
lie on it, but for those marked 0 (or ``False``, or ``"negative"``) in its list ``point_labels``; ``Polylines``: closed
or filled ones are masks, open ones are scribbles; ``Segmentation``: every connected part of a value is an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray
from scipy import ndimage

from fiftyone_ntt.dataset.documents import Document, SampleDocument, class_of, label_of, single_documents, tags_of
from fiftyone_ntt.dataset.fields import NEGATIVE_TAG
from fiftyone_ntt.dataset.geometry import (
    box_in_pixels,
    full_mask,
    line_inside,
    near_image,
    points_in_pixels,
    read_map,
    stretched,
)
from fiftyone_ntt.errors import BadReferenceError, InputError, WrongTypeError, as_text, counted
from fiftyone_ntt.method.options.prompts import Prompt
from fiftyone_ntt.pixels.drawing import fill_polygon
from fiftyone_ntt.pixels.semantic_maps import class_at_zero

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


def is_negative(label: Document) -> bool:
    """Whether a label shows what its class is not."""
    return NEGATIVE_TAG in tags_of(label)


def objects_in(
    label: Document | fo.Label | None, size: Size, values: ClassValues | None = None
) -> Iterator[LabelledObject]:
    """The objects in one field of one sample.

    Args:
        label: what the field holds; best as the database holds it.
        size: ``(height, width)`` of the image in pixels.
        values: names of a segmentation's values.

    Raises:
        BadReferenceError: if one cannot be used; names the label.
    """
    for document in single_documents(label.to_dict() if isinstance(label, fo.Label) else label):
        try:
            single = label_of(document)
            if isinstance(single, fo.Segmentation):
                yield from _of_segmentation(single, size, values or ClassValues({}))
            elif type(single) in _READERS:
                yield _READERS[type(single)](single, size)
            else:
                raise InputError(f"expected a box, a mask, points or a line, got {document.get('_cls')!r}")
        # Anything may stand where points should, and go wrong in any way.
        except (InputError, WrongTypeError, TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            name = f" ({as_text(class_of(document))})" if class_of(document) else ""
            raise BadReferenceError(f"label {document.get('_id')}{name}: {error}") from error


def _marked(label: Any) -> bool:
    return NEGATIVE_TAG in (label.tags or [])


def _of_detection(label: fo.Detection, size: Size) -> LabelledObject:
    box, mask = box_in_pixels(label, size), full_mask(label, size) if label.has_mask else None
    kind = "box" if mask is None else "mask"
    return LabelledObject(label.label, label.id, kind, mask, box=box, negative=_marked(label))


def _of_keypoint(label: fo.Keypoint, size: Size) -> LabelledObject:
    points = points_in_pixels(label.points, size)  # [P, 2], NaN where a point is missing
    on_object = _marks(label, len(points))  # [P]
    there = np.isfinite(points).all(axis=1)
    placed = there & near_image(points, size)
    if not (placed & on_object).any():
        raise InputError(
            f"expected a point on the object, got {counted(len(points), 'point')}: {int((~there).sum())} missing "
            f"(NaN), {int((there & ~placed).sum())} outside the image, {int((placed & ~on_object).sum())} marked as "
            "beside it"
        )
    prompt = Prompt(points[placed], on_object[placed])
    return LabelledObject(label.label, label.id, "point", points=prompt, negative=_marked(label))


def _marks(label: fo.Keypoint, count: int) -> NDArray[np.bool_]:
    """bool ``[count]``, whether each point lies on the object; all do where nothing is said."""
    marks = label.get_attribute_value(POINT_LABELS, None) if label.has_attribute(POINT_LABELS) else None
    if marks is None:
        return np.ones(count, bool)
    allowed = (*_ON_OBJECT, *_BESIDE_OBJECT)
    if isinstance(marks, str) or len(marks) != count or any(mark not in allowed for mark in marks):
        raise InputError(
            f"expected {POINT_LABELS!r} to hold 1 (on the object) or 0 (beside it) for each of "
            f"{counted(count, 'point')}, got {marks!r}"
        )
    return np.array([mark in _ON_OBJECT for mark in marks], bool)


def _of_polyline(label: fo.Polyline, size: Size) -> LabelledObject:
    lines = [points_in_pixels(line, size) for line in label.points or []]
    lines = [line[np.isfinite(line).all(axis=1)] for line in lines]
    lines = [line for line in lines if len(line)]
    if not lines:
        raise InputError("expected a line of points, got none")
    if label.closed or label.filled:
        mask = fill_polygon(lines, size)
        if not mask.any():
            raise InputError("expected a polygon in the image, got one that lies outside")
        return LabelledObject(label.label, label.id, "mask", mask, negative=_marked(label))
    inside = [piece for line in lines for piece in line_inside(line, size)]
    if not inside:
        raise InputError("expected a line in the image, got one that lies outside")
    prompt = Prompt.scribble(*inside)
    return LabelledObject(label.label, label.id, "scribble", points=prompt, negative=_marked(label))


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
                    f"value {value} of the semantic segmentation mask has no name; name it in "
                    "dataset.mask_targets[field] or dataset.default_mask_targets (known: "
                    f"{dict(self.names) or 'none'}), or give the classes you want"
                )


def notes_on_zero(fields: Mapping[str, ClassValues]) -> list[str]:
    """A line for each field of maps whose value 0, which is background, has the name of a class."""
    named = {field: class_at_zero(values.names) for field, values in fields.items()}
    return [
        f"value 0 of the masks in {field!r} is background, so {as_text(name)!r}, as it is called there, has no "
        "reference in them: give that class another value"
        for field, name in named.items()
        if name is not None
    ]


def class_values(collection: SampleCollection, field_name: str, *, strict: bool = True) -> ClassValues:
    """The names of a segmentation field's values: the dataset's ``mask_targets`` for it, else the default ones."""
    targets = collection.mask_targets.get(field_name) or collection.default_mask_targets or {}
    if any(not isinstance(value, int) for value in targets):
        raise InputError(
            f"expected the mask targets of {field_name!r} to name whole numbers, got colours; references need "
            "semantic segmentation masks with one number a class"
        )
    return ClassValues({int(value): str(name) for value, name in targets.items()}, strict)


def classes_in_maps(sample: SampleDocument, values: ClassValues, unusable: dict[str, str]) -> set[str]:
    """The classes in the segmentation maps of a sample; ``unusable`` gets one that cannot be read: id -> why."""
    names: set[str] = set()
    for label in sample.labels:
        where = f"reference sample {sample.id}, label {label.get('_id')}"
        try:
            classes = read_map(label_of(label))
        except (InputError, WrongTypeError) as error:
            unusable[f"{sample.source_id}/{label.get('_id')}"] = f"{where}: {error}"
            continue
        try:
            names.update(name for _, name in values.named(classes))
        except InputError as error:  # what is wrong with the names is wrong with all maps
            raise BadReferenceError(f"{where}: {error}") from error
    return names


def _of_segmentation(label: fo.Segmentation, size: Size, values: ClassValues) -> Iterator[LabelledObject]:
    classes = stretched(read_map(label), size)  # [H, W], as FiftyOne shows it
    for value, name in values.named(classes):
        for number, part in enumerate(_parts(classes == value)):
            label_id = f"{label.id}.{value}.{number}"
            yield LabelledObject(name, label_id, "mask", part, negative=_marked(label))


def _parts(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The connected parts of a mask, largest first, without specks."""
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    for k in np.argsort(-areas, kind="stable"):
        if areas[k] >= _SPECK * areas.max():
            yield numbered == k + 1
