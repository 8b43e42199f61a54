"""Between FiftyOne's labels and semantic segmentation masks, called maps here for short.

Detections become pieces of a map, values of a map become classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import fiftyone as fo
import numpy as np
from bson import Binary, ObjectId
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import label_of
from fiftyone_ntt.dataset.fields import dataset_of
from fiftyone_ntt.dataset.geometry import box_in_pixels, place_mask, read_map
from fiftyone_ntt.dataset.labels import serialised
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.pixels.semantic_maps import VOID, Piece
from fiftyone_ntt.runs.record import MAPS

Document = dict[str, Any]


def piece_of(label: fo.Detection, value: int, rank: tuple[float, ...], size: tuple[int, int]) -> Piece:
    """A detection as a piece of a map; the filled box stands in for a mask that is not there.

    Args:
        label: the detection.
        value: value of its class.
        rank: see ``Piece``.
        size: ``(height, width)`` of the image in pixels.

    Raises:
        InputError: if box or mask cannot be used.
    """
    if label.has_mask:
        return Piece(*place_mask(label, size), value, rank)
    x1, y1, x2, y2 = (round(edge) for edge in box_in_pixels(label, size))
    return Piece(x1, y1, np.ones((y2 - y1, x2 - x1), bool), value, rank)


def targets_of(collection: SampleCollection, field_name: str) -> dict[int, str]:
    """What the values of a field of maps mean: value -> class.

    Raises:
        InputError: if the dataset does not say.
        WrongTypeError: if the maps are colours.
    """
    dataset = dataset_of(collection)
    targets = dataset.mask_targets.get(field_name) or dataset.default_mask_targets
    if not targets:
        targets = dict(enumerate(maps_info(dataset, field_name).get("classes") or [], start=1))
    if not targets:
        raise InputError(
            f"expected mask targets for {field_name!r}, which say which value of a map is which class, got none; set "
            f"dataset.mask_targets[{field_name!r}] = {{1: 'first class', ...}} and dataset.save()"
        )
    if not all(isinstance(value, int) for value in targets):
        raise WrongTypeError(f"expected maps of values in {field_name!r}, got maps of colours; convert them first")
    return {int(value): str(name) for value, name in targets.items()}


def maps_info(dataset: fo.Dataset, field_name: str) -> dict[str, Any]:
    """What ``to_segmentation`` noted of the maps in a field; empty if it made none."""
    field = dataset.get_field(field_name)
    return dict(((field.info if field is not None else None) or {}).get(MAPS) or {})


def in_classes(
    values: NDArray[np.integer[Any]], targets: Mapping[int, str], classes: Sequence[str], unknown: int = VOID
) -> NDArray[np.int64]:
    """A map in which 1 + i is ``classes[i]``.

    Args:
        values: integers ``[H, W]``.
        targets: what they mean.
        classes: the classes wanted; others, and 0 unless it is the value of one, become 0.
        unknown: what becomes of other values without a meaning, such as 255 for "leave this pixel out".
    """
    index = {name: k for k, name in enumerate(classes, start=1)}
    there, place = np.unique(values, return_inverse=True)
    meant = [index.get(targets[v], 0) if v in targets else 0 if v == 0 else unknown for v in there.tolist()]
    return np.array(meant, np.int64)[place].reshape(values.shape)


def to_map_document(values: NDArray[np.unsignedinteger[Any]]) -> Document:
    """A map as the document that FiftyOne keeps of a ``Segmentation``, with a fingerprint of it as ``written``.

    Runs of equal values take little: 100 to 200 KB for a 12 megapixel image. So maps lie in the database beside their
    labels, and go where the dataset goes.
    """
    packed = serialised(values)
    pattern: Document = fo.Segmentation().to_dict()
    return {**pattern, "_id": ObjectId(), "mask": Binary(packed), "written": f"{_digest(packed)}-{_of_pixels(values)}"}


def is_as_written(document: Document) -> bool:
    """Whether a map is still the one that ``to_map_document`` made."""
    of_bytes, _, of_pixels = str(document.get("written") or "").partition("-")
    if not of_pixels:
        return False
    mask = document.get("mask")
    if isinstance(mask, bytes) and of_bytes == _digest(bytes(mask)):
        return True
    try:  # other bytes may be the same pixels: packed again by FiftyOne, or moved to a file
        return of_pixels == _of_pixels(read_map(label_of(document)))
    except (InputError, WrongTypeError):
        return False


def _of_pixels(values: NDArray[np.integer[Any]]) -> str:
    return _digest(np.array(values.shape, np.int64).tobytes() + values.astype(np.uint32).tobytes())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()
