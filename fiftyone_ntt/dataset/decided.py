"""What a person decided on a label, and which new labels would contradict that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import DECIDED_TAGS, PROTECTED_TAGS, REJECTED_TAG
from fiftyone_ntt.dataset.geometry import place_mask
from fiftyone_ntt.dataset.labels import is_edited
from fiftyone_ntt.errors import InputError

Document = dict[str, Any]
"""A detection as the database holds it."""

SAME_OBJECT = 0.5
"""Two masks with an IoU above this mark the same object."""


def is_from_run(label: Document) -> bool:
    """Whether a run wrote this label: a person's tools do not fill in the mask model's own estimate."""
    return label.get("predicted_iou") is not None


def is_decided(label: Document) -> bool:
    """Whether a person has accepted, rejected or edited this label."""
    return bool(DECIDED_TAGS & set(label.get("tags") or [])) or is_edited(label)


def is_kept(label: Document) -> bool:
    """Whether a person wants this label: accepted it, or edited it and did not reject it after all."""
    tags = set(label.get("tags") or [])
    return bool(PROTECTED_TAGS & tags) or (REJECTED_TAG not in tags and is_edited(label))


def without_contradictions(new: list[Document], decided: list[Document]) -> list[Document]:
    """New labels of one image, without those that a person's decisions speak against.

    Args:
        new: labels that a run is about to write; each has a mask.
        decided: the labels that a person decided on. One that is kept stands for its object, whatever a run calls it; a
            rejected one only keeps its own class from coming back.
    """
    if not decided or not new:
        return new
    size = _image_size(new[0])
    known = [(_Place.of(label, size), label["label"], is_kept(label)) for label in decided]
    return [label for label in new if not _contradicted(label, size, known)]


def _contradicted(label: Document, size: tuple[int, int], decided: list[tuple[_Place, str, bool]]) -> bool:
    place = _Place.of(label, size)
    return any((kept or name == label["label"]) and place.overlap(other) > SAME_OBJECT for other, name, kept in decided)


def _image_size(label: Document) -> tuple[int, int]:
    """Height and width of the image, from a label whose mask has exactly the pixels of its box."""
    mask = fo.Detection.from_dict(label).get_mask()
    if mask is None:
        return 1000, 1000  # any grid does: boxes are compared then
    return round(mask.shape[0] / label["bounding_box"][3]), round(mask.shape[1] / label["bounding_box"][2])


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a label lies: its box ``[x, y, w, h]``, 0..1, and its mask with left column and top row, if it has one."""

    box: NDArray[np.float64]
    left: int = 0
    top: int = 0
    mask: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, label: Document, size: tuple[int, int]) -> _Place:
        box = np.array(label.get("bounding_box") or [0, 0, 0, 0], np.float64)
        try:
            return cls(box, *place_mask(fo.Detection.from_dict(label), size))
        except InputError:  # no mask, or none that can be read
            return cls(box)

    def overlap(self, other: _Place) -> float:
        """Intersection over union, of the masks if both have one, else of the boxes."""
        low = np.maximum(self.box[:2], other.box[:2])
        high = np.minimum(self.box[:2] + self.box[2:], other.box[:2] + other.box[2:])
        meeting = float(np.prod(np.maximum(high - low, 0)))
        if meeting <= 0:
            return 0.0
        if self.mask is None or other.mask is None:
            return meeting / max(float(self.box[2:].prod() + other.box[2:].prod()) - meeting, 1e-12)
        shared = self._shared(self.mask, other, other.mask)
        return shared / max(int(self.mask.sum()) + int(other.mask.sum()) - shared, 1)

    def _shared(self, mine: NDArray[np.bool_], other: _Place, theirs: NDArray[np.bool_]) -> int:
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + mine.shape[0], other.top + theirs.shape[0])
        right = min(self.left + mine.shape[1], other.left + theirs.shape[1])
        if bottom <= top or right <= left:
            return 0
        a = mine[top - self.top : bottom - self.top, left - self.left : right - self.left]
        b = theirs[top - other.top : bottom - other.top, left - other.left : right - other.left]
        return int((a & b).sum())
