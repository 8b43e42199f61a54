"""What a label shows as a reference: a mask, or a box, points or a scribble that a mask is made from.

``Detections`` with a mask, a mask file, or just a box; ``Keypoints``: each keypoint object is one instance, its points
lie on it, but for those marked 0 (or ``False``, or ``"negative"``) in its list ``point_labels``; ``Polylines``: closed
or filled ones are masks, open ones are scribbles; ``Segmentation``: every connected part of a value is an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from fiftyone_ntt.dataset.fields import NEGATIVE_TAG
from fiftyone_ntt.dataset.geometry import box_in_pixels, full_mask, inside_image
from fiftyone_ntt.errors import BadReferenceError, InputError
from fiftyone_ntt.method.options.prompts import SCRIBBLE_POINTS, Prompt, points_along

POINT_LABELS = "point_labels"
"""List attribute of a ``Keypoint`` with an entry for each of its points: whether it lies on the object."""
_ON_OBJECT = (1, True, "positive")
_BESIDE_OBJECT = (0, False, "negative")
_SPECK = 0.02
"""Of a segmentation map, parts smaller than this share of the largest of their value are slips of the brush."""

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Shown:
    """One reference instance as its label shows it, before any model has seen it.

    Attributes:
        label: class name; may be missing where it is a negative.
        label_id: of the label; of a part of a segmentation map with the value and the part's number.
        kind: ``"mask"``, ``"box"``, ``"point"`` or ``"scribble"``.
        mask: bool ``[H, W]``; ``None`` where it has to be made.
        prompt: what to make it from; ``None`` where there is a mask.
        box: xyxy in image pixels as annotated, or ``None``.
        negative: whether it shows what its class is not.
    """

    label: str | None
    label_id: str
    kind: str
    mask: NDArray[np.bool_] | None = None
    prompt: Prompt | None = None
    box: tuple[float, float, float, float] | None = None
    negative: bool = False


@dataclass(frozen=True)
class ClassValues:
    """Names of a segmentation field's values.

    Attributes:
        names: value -> class name.
        strict: whether a value without a name is an error, and not just another class.
    """

    names: Mapping[int, str]
    strict: bool = True


def class_values(collection: SampleCollection, field_name: str, *, strict: bool = True) -> ClassValues:
    """The names of a segmentation field's values: the dataset's ``mask_targets`` for it, else the default ones."""
    targets = collection.mask_targets.get(field_name) or collection.default_mask_targets or {}
    if any(not isinstance(value, int) for value in targets):
        raise InputError(
            f"expected the mask targets of {field_name!r} to name whole numbers, got colours; references need "
            "segmentation maps with one number a class"
        )
    return ClassValues({int(value): str(name) for value, name in targets.items()}, strict)


def shown_in(label: fo.Label | None, size: Size, values: ClassValues | None = None) -> Iterator[Shown]:
    """The instances in one field of one sample.

    Args:
        label: what the field holds.
        size: ``(height, width)`` of the image in pixels.
        values: names of a segmentation's values.

    Raises:
        BadReferenceError: if one cannot be used; names the label.
    """
    for one in single_labels(label):
        try:
            if isinstance(one, fo.Segmentation):
                yield from _of_segmentation(one, size, values or ClassValues({}))
            else:
                yield _READERS[type(one)](one, size)
        except InputError as error:
            name = f" ({one.label})" if getattr(one, "label", None) else ""
            raise BadReferenceError(f"label {one.id}{name}: {error}") from error


def single_labels(label: fo.Label | None) -> list[Any]:
    """The single labels in a field's value: its detections, keypoints or polylines, or the value itself."""
    if label is None:
        return []
    for holder, name in ((fo.Detections, "detections"), (fo.Keypoints, "keypoints"), (fo.Polylines, "polylines")):
        if isinstance(label, holder):
            return list(getattr(label, name) or [])
    return [label]


def classes_in(label: fo.Label | None, values: ClassValues | None) -> set[str]:
    """The class names in one field of one sample; of a segmentation its map is read."""
    found: set[str] = set()
    for one in single_labels(label):
        if isinstance(one, fo.Segmentation):
            try:
                found.update(name for _, name in _named_values(_map_of(one), values or ClassValues({})))
            except InputError as error:
                raise BadReferenceError(f"label {one.id}: {error}") from error
        elif one.label is not None and not is_negative(one):
            found.add(one.label)
    return found


def is_negative(label: Any) -> bool:
    """Whether a label shows what its class is not."""
    return NEGATIVE_TAG in (label.tags or [])


def _of_detection(label: fo.Detection, size: Size) -> Shown:
    box = box_in_pixels(label, size)
    if label.has_mask:
        return Shown(label.label, label.id, "mask", full_mask(label, size), None, box, is_negative(label))
    return Shown(label.label, label.id, "box", None, Prompt.box(box), box, is_negative(label))


def _of_keypoint(label: fo.Keypoint, size: Size) -> Shown:
    points = _pixels(label.points, size)
    on_object = _marks(label, len(points))
    seen = np.isfinite(points).all(axis=1)
    if not (seen & on_object).any():
        raise InputError(
            f"expected a point on the object, got {len(points)} points, of which {int((~seen).sum())} are missing "
            f"(NaN) and {int((seen & ~on_object).sum())} marked as beside it"
        )
    points, on_object = points[seen], on_object[seen]
    inside_image(points, size)
    return Shown(label.label, label.id, "point", None, Prompt(points, on_object), negative=is_negative(label))


def _marks(label: fo.Keypoint, count: int) -> NDArray[np.bool_]:
    """bool ``[count]``, whether each point lies on the object; all do where nothing is said."""
    marks = label.get_attribute_value(POINT_LABELS, None) if label.has_attribute(POINT_LABELS) else None
    if marks is None:
        return np.ones(count, bool)
    known = (*_ON_OBJECT, *_BESIDE_OBJECT)
    if isinstance(marks, str) or len(marks) != count or any(mark not in known for mark in marks):
        raise InputError(
            f"expected {POINT_LABELS!r} to hold 1 (on the object) or 0 (beside it) for each of the {count} points, "
            f"got {marks!r}"
        )
    return np.array([mark in _ON_OBJECT for mark in marks], bool)


def _of_polyline(label: fo.Polyline, size: Size) -> Shown:
    lines = [_pixels(line, size) for line in label.points or []]
    lines = [line[np.isfinite(line).all(axis=1)] for line in lines]
    lines = [line for line in lines if len(line)]
    if not lines:
        raise InputError("expected a line of points, got none")
    for line in lines:
        inside_image(line, size)
    if label.closed or label.filled:
        mask = np.zeros(size, bool)
        for line in lines:
            mask |= filled(line, size)
        return Shown(label.label, label.id, "mask", mask, negative=is_negative(label))
    points = np.concatenate([points_along(line, count) for line, count in zip(lines, _shares(lines), strict=True)])
    prompt = Prompt(points, np.ones(len(points), bool), "scribble")
    return Shown(label.label, label.id, "scribble", None, prompt, negative=is_negative(label))


def _shares(lines: Sequence[NDArray[np.float32]]) -> list[int]:
    """How many points each line gives: by its length, at least one."""
    lengths = np.array([np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines])
    shares = SCRIBBLE_POINTS * lengths / max(float(lengths.sum()), 1e-6)
    return [max(1, round(float(share))) for share in shares] if len(lines) > 1 else [SCRIBBLE_POINTS]


def filled(outline: NDArray[np.floating], size: Size) -> NDArray[np.bool_]:
    """The inside of a closed line ``[V, 2]`` (x, y) in pixels: bool ``[H, W]``."""
    canvas = Image.new("1", (size[1], size[0]))
    corners = [(float(x) - 0.5, float(y) - 0.5) for x, y in outline]  # PIL counts from the centres of pixels
    if len(corners) > 2:
        ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
    return np.asarray(canvas, bool)


def _pixels(points: Any, size: Size) -> NDArray[np.float32]:
    """Relative points as float32 ``[P, 2]`` (x, y) in image pixels."""
    try:
        found = np.asarray(points if points is not None else [], np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected points [x, y], got {points!r}") from error
    return np.asarray(found * [size[1], size[0]], np.float32)


def _of_segmentation(label: fo.Segmentation, size: Size, values: ClassValues) -> Iterator[Shown]:
    classes = _map_of(label)
    if classes.shape != size:
        # As FiftyOne shows it: stretched over the image.
        rows, columns = (np.arange(n) * m // n for n, m in zip(size, classes.shape, strict=True))
        classes = classes[np.ix_(rows, columns)]
    for value, name in _named_values(classes, values):
        for number, part in enumerate(_parts(classes == value)):
            yield Shown(name, f"{label.id}.{value}.{number}", "mask", part, negative=is_negative(label))


def _named_values(classes: NDArray[Any], values: ClassValues) -> Iterator[tuple[int, str]]:
    """The values in a map with their names, 0 (background) aside."""
    for value in np.unique(classes).tolist():
        if value == 0:
            continue
        if int(value) in values.names:
            yield int(value), values.names[int(value)]
        elif values.strict:
            raise InputError(
                f"value {int(value)} of the segmentation map has no name; name it in dataset.mask_targets[field] or "
                f"dataset.default_mask_targets (known: {dict(values.names) or 'none'}), or give the classes you want"
            )


def _map_of(label: fo.Segmentation) -> NDArray[Any]:
    """The class values ``[h, w]``."""
    try:
        classes = label.get_mask()
    except Exception as error:  # whatever the reader of a damaged file raises
        raise InputError(f"the segmentation map {label.mask_path} cannot be read ({error})") from error
    if classes is None:
        raise InputError(f"expected a segmentation map at {label.mask_path or 'mask'}, got none")
    classes = np.asarray(classes)
    if classes.ndim != 2 or 0 in classes.shape:
        raise InputError(
            f"expected a segmentation map of one number a pixel, got shape {classes.shape}; colours are not read"
        )
    return classes


def _parts(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    """The connected parts of a mask, largest first, without specks."""
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    for k in np.argsort(-areas, kind="stable"):
        if areas[k] >= _SPECK * areas.max():
            yield numbered == k + 1


_READERS: dict[type, Callable[[Any, Size], Shown]] = {
    fo.Detection: _of_detection,
    fo.Keypoint: _of_keypoint,
    fo.Polyline: _of_polyline,
}
