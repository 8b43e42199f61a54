"""Labels as the documents that FiftyOne keeps of them.

Made from instances without label objects, which is most of the time it would take otherwise; compared with what a run
wrote, to tell what a person edited; and new ones checked against what a person decided.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import numpy as np
from bson import Binary, ObjectId
from fiftyone import ViewExpression
from fiftyone import ViewField as F
from numpy.lib import format as numpy_format
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import class_of, detection_of, mask_of, relative_box, single_documents, tags_of
from fiftyone_ntt.dataset.fields import DECIDED_TAGS, PROTECTED_TAGS, REJECTED_TAG
from fiftyone_ntt.dataset.geometry import place_mask
from fiftyone_ntt.errors import InputError

if TYPE_CHECKING:
    from fiftyone_ntt.method.results import Instances
    from fiftyone_ntt.pixels.packed_masks import PackedMask

Document = dict[str, Any]
"""A detection as the database holds it."""
_FOUR = struct.Struct("=4d").pack
SAME_OBJECT = 0.5
"""Two masks with an IoU above this mark the same object."""
ATTRIBUTES: dict[str, tuple[type[fo.Field], str]] = {
    "predicted_iou": (fo.FloatField, "the mask model's own estimate of this mask's quality"),
    "similarity": (
        fo.FloatField,
        "how much this looks like its class, before overlaps and a doubtful mask lower the confidence",
    ),
    "alternative": (fo.StringField, "the class that this looks like next"),
    "alternative_similarity": (fo.FloatField, "how much this looks like that other class"),
    "written": (
        fo.StringField,
        "fingerprints of box and mask, and of the class, as the run wrote them; tell what was changed since",
    ),
}
"""What a run writes on each label beside FiftyOne's own attributes: kind and description."""
OF_REFINED: dict[str, tuple[type[fo.Field], str]] = {
    "refined": (fo.StringField, "what became of refining this mask: the mask model that did, or why the old one stays"),
}
"""What ``refine_labels`` writes besides."""
OF_REFERENCES: dict[str, tuple[type[fo.Field], str]] = {
    "reference_id": (fo.StringField, "the reference of which this is the best match in the image"),
}
"""What a run in the referring mode writes besides."""


def to_document(
    instances: Instances, classes: Sequence[str], reference_ids: Sequence[str] | None = None
) -> dict[str, Any]:
    """Detections with in-box masks, confidence and ``ATTRIBUTES``, as the document that FiftyOne keeps of them.

    ``set_values`` writes such a document as it is; turning label objects into documents is most of the time it takes
    otherwise. FiftyOne makes one document of one label, the others are made after it. Safe in any thread.

    A box is exactly its mask's pixels, so the mask comes back from FiftyOne bit for bit.

    Args:
        instances: what ``match`` found in one image.
        classes: class names; ``instances.labels`` index them.
        reference_ids: of the referring task; ``instances.labels`` index them, too.

    Returns:
        What ``fo.Detections.from_dict`` takes.
    """
    pattern = fo.Detection(bounding_box=[0, 0, 0, 0]).to_dict()
    labels = [{**pattern, **_changes(instances, i, classes)} for i in range(len(instances))]
    if reference_ids is not None:
        for label, which in zip(labels, instances.labels, strict=True):
            label["reference_id"] = reference_ids[int(which)]
    return {**fo.Detections().to_dict(), "detections": labels}


def _changes(instances: Instances, i: int, classes: Sequence[str]) -> dict[str, Any]:
    height, width = instances.image_size
    (x1, y1, x2, y2), mask = instances.crop(i)
    label, packed = classes[int(instances.labels[i])], serialised(mask)
    box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
    return {
        "_id": ObjectId(),
        "label": label,
        "bounding_box": box,
        "mask": Binary(packed),
        "confidence": float(instances.scores[i]),
        "predicted_iou": float(instances.predicted_iou[i]),
        **_look(instances, i, classes),
        "written": f"{_of_bytes('', box, packed)}-{_of_pixels('', box, mask)}-{_of_class(label)}",
    }


def scores_above(threshold: float) -> ViewExpression:
    """For the database: whether a label's confidence is above a threshold; one without is certain (``score_of``).

    The database takes what is absent for less than any number.
    """
    above = F("confidence") > threshold
    return above | ~F("confidence").exists() if threshold < 1 else above


def is_edited(document: Mapping[str, Any], classes: Iterable[str] = ()) -> bool:
    """Whether box or mask of a label are no longer those that a run wrote: a person's decision on its shape.

    Args:
        document: a detection as the database holds it. One without fingerprints counts as not edited.
        classes: of the run, where that is known. Version 0.1.0 wrote one fingerprint of class and shape together: these
            tell a label that was only renamed.
    """
    of_bytes, of_pixels, of_class = _written(document)
    if not of_pixels:
        return False
    try:
        names = {""} if of_class else {str(name) for name in (document.get("label"), *classes)}
        mask, packed = document.get("mask"), _packed(document.get("bounding_box"))
        if isinstance(mask, bytes) and any(_digest(name, packed, mask) == of_bytes for name in names):
            return False
        box = relative_box(document.get("bounding_box"))
        # Other bytes may still be the same pixels: packed again by FiftyOne, or moved to a file.
        pixels = mask_of(detection_of(document))
        return of_pixels not in {_of_pixels(name, box, pixels) for name in names}
    except (InputError, ValueError, TypeError):  # a file that is gone was not edited away, nor were damaged bytes
        return False


def is_changed(document: Mapping[str, Any]) -> bool:
    """Whether class, box or mask of a label are no longer those that a run wrote: nothing may replace it unasked.

    Another class alone is no decision on the label: whoever renames a class has not looked at the masks.
    """
    of_class = _written(document)[2]
    return bool(of_class and of_class != _of_class(document.get("label"))) or is_edited(document)


def _written(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """Fingerprints of a label as the database packs it, of its pixels, and of its class; empty where there is none."""
    written = document.get("written")
    parts = [*(written if isinstance(written, str) else "").split("-"), "", ""]
    return parts[0], parts[1], parts[2]


def fingerprint(label: str | None, box: Sequence[float], mask: NDArray[np.bool_]) -> str:
    """What ``is_edited`` and ``is_changed`` compare a label with; see ``ATTRIBUTES``."""
    return f"{_of_bytes('', box, serialised(mask))}-{_of_pixels('', box, mask)}-{_of_class(label)}"


def fingerprint_of_refined(
    document: Mapping[str, Any], box: Sequence[float], mask: NDArray[np.bool_], classes: Iterable[str] = ()
) -> str:
    """The fingerprints of a label whose box and mask a program has replaced.

    Its shape is nobody's edit then; another class than the run wrote is still one.

    Args:
        document: the label as it was, not edited.
        box: its new box.
        mask: its new mask, bool ``[h, w]``.
        classes: as for ``is_edited``.
    """
    of_class = _written(document)[2]
    if not of_class:  # version 0.1.0 wrote one fingerprint of class and shape
        names = (document.get("label"), *classes)
        of_class = _of_class(next((name for name in names if not is_edited({**document, "label": name})), None))
    of_bytes, of_pixels, _ = fingerprint(None, box, mask).split("-")
    return f"{of_bytes}-{of_pixels}-{of_class}"


def _packed(box: Any) -> bytes:
    """A box as bytes; raises InputError if it is none. Of millions of labels most have one that is a list of floats."""
    if type(box) is list and len(box) == 4 and all(type(value) is float for value in box) and math.isfinite(sum(box)):
        return _FOUR(*box)
    return relative_box(box).tobytes()


def _of_bytes(label: object, box: Sequence[float] | NDArray[np.float64], mask: bytes) -> str:
    return _digest(label, np.array(box, np.float64).tobytes(), mask)


def _of_pixels(label: object, box: Sequence[float] | NDArray[np.float64], mask: NDArray[Any] | None) -> str:
    """Fingerprint of the content: it stays through packing masks again, and through rounding of coordinates."""
    # Shifted: the fractions that boxes are made of would often lie right where rounding goes either way.
    steps = np.floor(np.array(box, np.float64) * 10_000 + 0.2137).astype(np.int64)
    plain = np.zeros((0, 0), bool) if mask is None else np.asarray(mask) > 0
    shape = np.array(plain.shape, np.int64)
    return _digest(label, steps.tobytes(), shape.tobytes() + np.packbits(plain).tobytes())


def _of_class(label: object) -> str:
    return _digest(label, b"", b"")


def _digest(label: object, box: bytes, mask: bytes) -> str:
    name = str(label).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(b"\0".join((name, box, mask)), digest_size=6).hexdigest()


def _look(instances: Instances, i: int, classes: Sequence[str]) -> dict[str, Any]:
    """What instance ``i`` looks like, and what next, as far as it is known."""
    if instances.similarity is None:
        return {}
    look: dict[str, Any] = {"similarity": float(instances.similarity[i])}
    if instances.alternative is not None and instances.alternative_similarity is not None:
        other = int(instances.alternative[i])
        if other >= 0:
            look |= {
                "alternative": classes[other],
                "alternative_similarity": float(instances.alternative_similarity[i]),
            }
    return look


def serialised(mask: NDArray[Any]) -> bytes:
    """A mask as FiftyOne's array fields keep it: what ``numpy.save`` writes, compressed by zlib.

    Masks are runs of equal bytes: told so, zlib is four times faster than FiftyOne calls it, and the result as small.
    """
    return serialised_strips([mask], mask.shape, mask.dtype)


def serialised_strips(strips: Iterable[NDArray[Any]], shape: tuple[int, ...], kind: Any) -> bytes:
    """The same of an array that comes from top to bottom, some rows at a time, and is never in memory as a whole."""
    header = io.BytesIO()
    facts = {"descr": numpy_format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
    numpy_format.write_array_header_1_0(header, facts)
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    parts = [packer.compress(header.getvalue())]
    parts += [packer.compress(np.ascontiguousarray(strip).reshape(-1).view(np.uint8).data) for strip in strips]
    return b"".join([*parts, packer.flush()])


def is_from_run(label: Mapping[str, Any]) -> bool:
    """Whether a run wrote this label: a person's tools do not fill in the mask model's own estimate."""
    return label.get("predicted_iou") is not None


def is_decided(label: Document, classes: Iterable[str] = ()) -> bool:
    """Whether a person has accepted or rejected this label, or edited its shape; ``classes`` as for ``is_edited``."""
    return bool(DECIDED_TAGS & tags_of(label)) or is_edited(label, classes)


def is_right(label: Document, classes: Iterable[str] = ()) -> bool:
    """Whether a person said that this label is right: accepted it or edited its shape, and did not reject it."""
    tags = tags_of(label)
    return REJECTED_TAG not in tags and (bool(PROTECTED_TAGS & tags) or is_edited(label, classes))


def is_kept(label: Document) -> bool:
    """Whether a person wants this label as it is: right, or given another class and not rejected after all."""
    tags = tags_of(label)
    return REJECTED_TAG not in tags and (bool(PROTECTED_TAGS & tags) or is_changed(label))


def is_touched(label: Document) -> bool:
    """Whether a person did anything to this label: no run replaces it."""
    return bool(DECIDED_TAGS & tags_of(label)) or is_changed(label)


def without_contradictions(new: list[Document], decided: list[Document]) -> list[Document]:
    """New labels of one image, without those that a person's decisions speak against.

    Args:
        new: labels that a run is about to write; each has a mask.
        decided: the labels that a person touched. One that is kept stands for its object, whatever a run calls it; a
            rejected one only keeps its own class from coming back.
    """
    if not decided or not new:
        return new
    size = _image_size(new[0])
    places = [(_Place.of(label, size), class_of(label), is_kept(label)) for label in decided]
    return [label for label in new if not _contradicted(label, size, places)]


def keep_identity(new: Document, old: Document | None) -> None:
    """Gives the new labels of an image that are there already their ids, their tags, and what was noted on them.

    Views, selections and notes of a person's own name labels that nobody has decided on by these.

    Args:
        new: detections that a run is about to write; changed in place.
        old: what is there, with the same scores.
    """
    there: dict[str, Document] = {}
    for label in single_documents(old):
        # What a person touched is kept anyway, beside what is written.
        if isinstance(label.get("written"), str) and isinstance(label.get("_id"), ObjectId) and not is_touched(label):
            there.setdefault(label["written"], label)
    for label in new["detections"]:
        same = there.pop(label.get("written"), None)
        if same is None:
            continue
        label |= {key: value for key, value in same.items() if key not in label and key != "mask_path"}
        label |= {"_id": same["_id"], "tags": same["tags"] if isinstance(same.get("tags"), list) else []}


def _contradicted(label: Document, size: tuple[int, int], decided: list[tuple[_Place, Any, bool]]) -> bool:
    place = _Place.of(label, size)
    return any((kept or name == label["label"]) and place.overlap(other) > SAME_OBJECT for other, name, kept in decided)


def _image_size(label: Document) -> tuple[int, int]:
    """Height and width of the image, from a label whose mask has exactly the pixels of its box."""
    try:
        mask = mask_of(detection_of(label))
    except InputError:  # of an image so large that its mask is beyond what is read
        mask = None
    if mask is None:
        return 1000, 1000  # any grid does: boxes are compared then
    return round(mask.shape[0] / label["bounding_box"][3]), round(mask.shape[1] / label["bounding_box"][2])


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a label lies: its box ``[x, y, w, h]``, 0..1, and its mask, if it has one."""

    box: NDArray[np.float64]
    mask: PackedMask | None = None

    @classmethod
    def of(cls, label: Document, size: tuple[int, int]) -> _Place:
        from fiftyone_ntt.pixels.packed_masks import PackedMask  # late: it loads torch, which the App's server need not

        box = np.zeros(4)
        try:
            box = relative_box(label.get("bounding_box"))
            left, top, mask = place_mask(detection_of(label), size)
            return cls(box, PackedMask.from_crop(mask, top, left))
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
        return self.mask.iou(other.mask)
