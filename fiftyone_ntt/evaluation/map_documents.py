"""Between FiftyOne's labels and semantic segmentation masks, called maps here for short.

Detections become pieces of a map, values of a map become classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from bson import Binary, ObjectId
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import MOST_OF_MAP, label_of, score_of, tags_of
from fiftyone_ntt.dataset.fields import REJECTED_TAG, dataset_of
from fiftyone_ntt.dataset.geometry import box_in_pixels, place_mask, read_map
from fiftyone_ntt.dataset.labels import is_from_run, is_right, serialised_strips
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.pixels.frames import whole_pixels
from fiftyone_ntt.pixels.semantic_maps import VOID, Piece, in_order, map_dtype, painted, rows_of, strips
from fiftyone_ntt.runs.record import MAPS, provenance_of

Document = dict[str, Any]


@dataclass(frozen=True)
class Ranking:
    """Which labels of a field are painted, and which of them lies on top.

    Attributes:
        of_run: whether a run wrote the labels, so that others were drawn by a person.
        classes: of that run.
        least: undecided labels at or below this score are left out.
    """

    of_run: bool
    classes: tuple[str, ...]
    least: float | None = None

    @classmethod
    def of(cls, collection: SampleCollection, label_field: str, least: float | None) -> Ranking:
        """That of a field's labels."""
        run = provenance_of(collection, label_field)
        return cls(bool(run), tuple(run.get("classes") or ()), least)

    def rank(self, label: Document) -> tuple[float, float] | None:
        """Whether a person said that a label is right (1 or 0), and its score; ``None`` where it does not count."""
        if REJECTED_TAG in tags_of(label):
            return None
        by_person = is_right(label, self.classes) or (self.of_run and not is_from_run(label))
        try:
            score = score_of(label)
        except InputError:  # said when the label is painted
            score = 1.0
        return (float(by_person), score) if by_person or self.least is None or score > self.least else None


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
    left, top, right, bottom = whole_pixels(box_in_pixels(label, size), size)
    return Piece(left, top, np.ones((bottom - top, right - left), bool), value, rank)


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
            f"expected mask targets for {field_name!r}, which say which value of a mask is which class, got none; set "
            f"dataset.mask_targets[{field_name!r}] = {{1: 'first class', ...}} and dataset.save()"
        )
    if not all(isinstance(value, int) for value in targets):
        raise WrongTypeError(f"expected masks of values in {field_name!r}, got masks of colours; convert them first")
    return {int(value): str(name) for value, name in targets.items()}


def maps_info(dataset: fo.Dataset, field_name: str) -> dict[str, Any]:
    """What ``to_segmentation`` noted of the maps in a field; empty if it made none."""
    field = dataset.get_field(field_name)
    return dict(((field.info if field is not None else None) or {}).get(MAPS) or {})


class PaintedMap:
    """A map of pieces, painted some rows at a time.

    Args:
        pieces: what to paint.
        size: ``(height, width)`` in pixels.
    """

    def __init__(self, pieces: Sequence[Piece], size: tuple[int, int]) -> None:
        self.size, self._pieces = size, in_order(pieces)

    def rows(self, top: int, bottom: int) -> NDArray[np.int64]:
        """Integers ``[bottom - top, W]``."""
        return painted(self._pieces, top, bottom, self.size[1], np.int64)


class StoredMap:
    """A map as it is stored, in which ``rows`` become classes: 1 + i is ``classes[i]``.

    Args:
        values: integers ``[H, W]``.
        targets: what they mean.
        classes: the classes wanted; others, and 0 unless it is the value of one, become 0.
        unknown: what becomes of other values without a meaning, such as 255 for "leave this pixel out".
        others: is told of classes that are not wanted: name -> pixels, added to what it holds.
        is_plain: whether FiftyOne sees these values too, see ``read_map_as_stored``.
    """

    def __init__(
        self, values: NDArray[np.integer[Any]], targets: Mapping[int, str], classes: Sequence[str],
        unknown: int = VOID, others: Counter[str] | None = None, is_plain: bool = True,
    ) -> None:  # fmt: skip
        self.size, self.is_plain = (int(values.shape[0]), int(values.shape[1])), is_plain
        self._values, self._targets, self._unknown, self._others = values, targets, unknown, others
        self._index = {name: k for k, name in enumerate(classes, start=1)}

    def rows(self, top: int, bottom: int) -> NDArray[np.int64]:
        """Integers ``[bottom - top, W]``."""
        strip = self._values[top:bottom]
        # A table is quick where values are small; sorting takes any.
        if strip.dtype.itemsize <= 2 and strip.dtype.kind == "u":
            counts = np.bincount(strip.reshape(-1))
            there, place = np.arange(len(counts)), strip
        else:
            there, place, counts = np.unique(strip, return_inverse=True, return_counts=True)
        if self._others is not None:
            for value in np.flatnonzero(counts).tolist():
                name = self._targets.get(int(there[value]))
                if name is not None and int(there[value]) and name not in self._index:
                    self._others[name] += int(counts[value])
        meant = np.array([self._meant(value) for value in there.tolist()], np.int64)
        return np.asarray(meant[place].reshape(strip.shape))

    def _meant(self, value: int) -> int:
        if value in self._targets:
            return self._index.get(self._targets[value], 0)
        return 0 if value == 0 else self._unknown


def rows_at(values: PaintedMap | StoredMap, size: tuple[int, int], top: int, bottom: int) -> NDArray[np.int64]:
    """Some rows of a map that is brought to another size ``(height, width)``, nearest value."""
    if values.size == size:
        return values.rows(top, bottom)
    (old_height, old_width), (height, width) = values.size, size
    rows = np.arange(top, bottom) * old_height // height
    columns = np.arange(width) * old_width // width
    return np.asarray(values.rows(int(rows[0]), int(rows[-1]) + 1)[np.ix_(rows - rows[0], columns)])


def check_map_size(size: tuple[int, int], classes: int = 1) -> None:
    """Raises InputError if a map of so many pixels and classes is larger than what is read: before it is painted."""
    needed = size[0] * size[1] * np.dtype(map_dtype(classes)).itemsize
    if needed > MOST_OF_MAP:
        raise InputError(
            f"expected a segmentation mask of at most {MOST_OF_MAP} bytes, got one of {size[1]} x {size[0]} pixels and "
            f"{needed} bytes; cut the image into tiles, or make it smaller"
        )


def to_map_document(pieces: Sequence[Piece], size: tuple[int, int], classes: int) -> Document:
    """A map of pieces as the document that FiftyOne keeps of a ``Segmentation``, with a fingerprint as ``written``.

    Runs of equal values take little: 100 to 200 KB for a 12 megapixel image. So maps lie in the database beside their
    labels, and go where the dataset goes.

    Args:
        pieces: what to paint.
        size: ``(height, width)`` of the image in pixels.
        classes: how many classes there are.
    """
    kind = map_dtype(classes)
    digest = _Digest(size)
    packed = serialised_strips(map(digest.add, strips(pieces, size, kind)), size, kind)
    pattern: Document = fo.Segmentation().to_dict()
    return {**pattern, "_id": ObjectId(), "mask": Binary(packed), "written": f"{_digest(packed)}-{digest.text}"}


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
    digest = _Digest((int(values.shape[0]), int(values.shape[1])))
    for top, bottom in rows_of(digest.size):
        digest.add(values[top:bottom])
    return digest.text


class _Digest:
    """Fingerprint of a map's content, whatever the type of its values, from its rows."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._digest = hashlib.blake2b(np.array(size, np.int64).tobytes(), digest_size=6)

    def add(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """Takes the next rows, and gives them back."""
        self._digest.update(np.ascontiguousarray(rows, np.uint32).data)
        return rows

    @property
    def text(self) -> str:
        """Of all rows so far."""
        return self._digest.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=6).hexdigest()
