"""Labels that may come from strangers: made of the documents that the database holds, one at a time, within bounds.

FiftyOne unpacks all masks of a sample when it loads the sample: one that is damaged costs the sample, and a megabyte
may become gigabytes. It also opens whatever a ``mask_path`` names, and waits for ever where that is a pipe. So labels
are fetched as documents (``raw_samples``) and become labels here, where what a mask says of itself is looked at before
it is unpacked.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from numpy.lib import format as numpy_format
from numpy.typing import NDArray
from pymongo import UpdateOne

from fiftyone_ntt.dataset.fields import dataset_of, is_patches, label_root, labels_at, root_dataset_of
from fiftyone_ntt.dataset.parts import raw_samples
from fiftyone_ntt.dataset.storage import database_collection, in_parts
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.deep_images import stored_values
from fiftyone_ntt.pixels.files import MOST_PIXELS
from fiftyone_ntt.pixels.images import read_bytes

Document = Mapping[str, Any]
"""A label as the database holds it."""
MOST_BYTES = MOST_PIXELS
"""What a mask may take when it is unpacked: a byte for each pixel of the largest image that is labelled."""
MOST_OF_MAP = 2 * MOST_PIXELS
"""The same of a semantic segmentation mask, of more than 255 classes. What is written is checked by these bounds."""
_SAMPLES_AT_ONCE = 100
_BEGINNING, _PIECE = 1 << 16, 1 << 20  # bytes; a header of NumPy's is shorter
_KINDS = {
    kind.__name__: kind
    for kind in (fo.Detection, fo.Keypoint, fo.Polyline, fo.Segmentation, fo.Classification)
}  # fmt: skip
# What nearly every mask begins with: NumPy parses it as a program.
_PLAIN_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '(\|b1|\|u1)', 'fortran_order': False, "
    rb"'shape': \((\d{1,7}), (\d{1,7})\), \} *\n",
    re.DOTALL,
)
_PLAIN_KINDS, _LONGEST_PLAIN = {b"|b1": np.dtype(bool), b"|u1": np.dtype(np.uint8)}, 256
_PLAIN = frozenset({str, float, int, bool, type(None), ObjectId})
"""Types of what nearly all values of a label are: nothing is hidden in them."""
_HOLDERS = {"Detections": "detections", "Keypoints": "keypoints", "Polylines": "polylines"}


def single_documents(value: Any) -> list[dict[str, Any]]:
    """The single labels in a field's value, those of its list or the value itself; what is no document is none."""
    if not isinstance(value, dict):
        return []
    # A part of a document that was asked for may lack its class.
    name = _HOLDERS.get(str(value["_cls"])) if "_cls" in value else next(filter(value.get, _HOLDERS.values()), None)
    if name is None:
        return [value] if value.get("_cls") in _KINDS else []
    listed = value.get(name)
    return [label for label in listed if isinstance(label, dict)] if isinstance(listed, list) else []


def class_of(document: Document) -> str | None:
    """The class of a label; ``None`` where no name of one stands there."""
    name = document.get("label")
    return name if isinstance(name, str) and name else None


def tags_of(document: Document) -> set[str]:
    """The tags of a label; none where something else stands in place of a list of texts."""
    tags = document.get("tags")
    return {tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else set()


def can_be_tagged(document: Document) -> bool:
    """Whether FiftyOne can tag a label: others write something else in place of an id or of tags."""
    return isinstance(document.get("_id"), ObjectId) and isinstance(document.get("tags"), (list, type(None)))


def has_mask(document: Document) -> bool:
    """Whether a label has a mask, in the database or in a file, readable or not."""
    return document.get("mask") is not None or document.get("mask_path") is not None


def score_of(document: Document) -> float:
    """A label's confidence; one without is certain.

    Raises:
        InputError: if it is no number.
    """
    score = document.get("confidence")
    if score is None:
        return 1.0
    if isinstance(score, (str, bytes)) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise InputError(f"expected a confidence between 0 and 1, got {_words(ValueError(repr(score)))}")
    return float(score)


def label_of(document: Document) -> Any:
    """The label that a document describes, its mask included; a ``mask_path`` is left for ``mask_of`` to read.

    Raises:
        InputError: if it is no label, or its mask cannot be unpacked.
    """
    kind = _KINDS.get(str(document.get("_cls")))
    if kind is None:
        raise InputError(f"expected a label, got {shortened(document.get('_cls'))}; draw it again or remove it")
    if kind is fo.Detection:
        relative_box(document.get("bounding_box"))  # FiftyOne makes numbers of texts
    try:
        label = kind.from_dict(_checked(document))
    except Exception as error:  # anything may stand where FiftyOne expects a box or points
        raise InputError(f"it cannot be read ({_words(error)}); draw it again or remove the label") from error
    if document.get("mask") is not None:
        label.mask = unpacked(document["mask"], MOST_OF_MAP if kind is fo.Segmentation else MOST_BYTES)
    return label


@dataclass(frozen=True, eq=False)
class StoredDetection:
    """What is read of a detection: making FiftyOne's object of one takes longer than unpacking its mask.

    Attributes:
        id: its id.
        label: its class, if it has a name.
        bounding_box: x, y, width and height, relative.
        confidence: its score, if it has one.
        mask: its mask as it is stored, if the database holds one.
        mask_path: the file that holds it otherwise.
    """

    id: str
    label: str | None
    bounding_box: Any
    confidence: float | None
    mask: NDArray[Any] | None
    mask_path: str | None

    @property
    def has_mask(self) -> bool:
        """Whether it has a mask, here or in a file."""
        return self.mask is not None or self.mask_path is not None


def detection_of(document: Document) -> StoredDetection:
    """What ``label_of`` gives of a detection, where only class, score, box and mask are asked for.

    Raises:
        InputError: if it is no detection, or its score, box or mask cannot be used.
    """
    if document.get("_cls") != "Detection":
        raise InputError(f"expected a detection, got {shortened(document.get('_cls'))}; draw it again or remove it")
    score, mask, path = score_of(document), document.get("mask"), document.get("mask_path")
    relative_box(document.get("bounding_box"))
    _checked(document)  # what FiftyOne could not read must not get to its evaluation either
    if path is not None and not isinstance(path, str):
        raise InputError(f"expected the name of a mask file, got {shortened(path)}; draw it again or remove the label")
    return StoredDetection(
        str(document.get("_id")), class_of(document), document["bounding_box"],
        None if document.get("confidence") is None else score, None if mask is None else unpacked(mask), path,
    )  # fmt: skip


@dataclass(frozen=True)
class SampleDocument:
    """A sample as the database holds it.

    Attributes:
        id: its id.
        source_id: of the sample itself, also of a patch of it.
        filepath: its image.
        tags: its tags.
        fields: those asked for, as far as it has them.
    """

    id: str
    source_id: str
    filepath: str
    tags: list[str]
    fields: dict[str, Document | None]

    @property
    def labels(self) -> list[Document]:
        """The single labels in all of its fields."""
        return [label for value in self.fields.values() for label in single_documents(value)]


def sample_documents(collection: SampleCollection, fields: Sequence[str]) -> Iterator[SampleDocument]:
    """The samples of a collection in its order, some in memory at a time; fields that it does not have are left out."""
    source = "sample_id" if collection.has_field("sample_id") else "id"
    names = [name for name in fields if collection.has_field(name)]
    for own, whole, path, tags, *values in raw_samples(collection, ["id", source, "filepath", "tags", *names]):
        yield SampleDocument(str(own), str(whole), path, tags or [], dict(zip(names, values, strict=True)))


def label_parts(
    collection: SampleCollection, field_name: str, parts: Sequence[str]
) -> Iterator[tuple[ObjectId, list[Document]]]:
    """Of each sample its id, and of each of its labels some attributes as far as it has them; nothing else is read."""
    labels = labels_at(collection, field_name)
    wanted = {"$map": {"input": labels, "in": {part: f"$$this.{part}" for part in parts}}}
    # Thousands of samples at once would outlive what Python collects in passing: it would look through all objects.
    cursor = collection._aggregate(post_pipeline=[{"$project": {"labels": wanted}}]).batch_size(_SAMPLES_AT_ONCE)
    for document in cursor:
        yield document["_id"], document["labels"]


def documents_of(dataset: fo.Dataset, sample_ids: Sequence[str], fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sample id -> some of its fields as the database holds them; samples that are gone are left out."""
    query = {"_id": {"$in": [ObjectId(sample_id) for sample_id in sample_ids]}}
    documents = database_collection(dataset).find(query, dict.fromkeys(fields, 1))
    return {str(document["_id"]): document for document in documents}


def stamp_of_now() -> datetime:
    """The time as the database keeps it: in UTC, and to the millisecond."""
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def set_documents(
    dataset: fo.Dataset,
    values: Mapping[str, Mapping[str, Any]],
    stamps: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> list[str]:
    """Writes fields of samples as the database is to hold them, several at once: sample id -> field -> document.

    What FiftyOne's ``set_values`` does for one field, without looking for the samples first.

    Args:
        dataset: the dataset.
        values: what to write.
        stamps: sample id -> ``last_modified_at`` as it was when ``values`` were made of what the sample held. A sample
            that somebody has changed since is left alone.
        now: what ``last_modified_at`` becomes, see ``stamp_of_now``; the same again where an answer was lost, so that
            what was written then is known as the caller's own.

    Returns:
        The samples that were left alone.
    """
    now = now or stamp_of_now()
    ids = [ObjectId(sample_id) for sample_id in values]
    if not ids:
        return []
    changes = [{"$set": {**fields, "last_modified_at": now}} for fields in values.values()]
    known = {ObjectId(key): {"last_modified_at": {"$in": [stamp, now]}} for key, stamp in (stamps or {}).items()}
    writes = [UpdateOne({"_id": _id, **known.get(_id, {})}, change) for _id, change in zip(ids, changes, strict=True)]
    dataset._bulk_write(writes, ids=ids)
    if stamps is None:
        return []
    others = {"_id": {"$in": ids}, "last_modified_at": {"$ne": now}}
    return [str(row["_id"]) for row in database_collection(dataset).find(others, {"_id": 1})]


def relative_box(box: Any) -> NDArray[np.float64]:
    """The four numbers x, y, width, height of a box; raises InputError if there are no such, or not finite ones."""
    if type(box) is list and len(box) == 4 and all(type(value) is float for value in box) and math.isfinite(sum(box)):
        return np.array(box)  # as nearly all are
    is_box = isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4
    if not is_box or not all(isinstance(value, (int, float, np.number)) and np.isfinite(value) for value in box):
        raise InputError(f"expected a relative box [x, y, width, height], got {shortened(box)}")
    return np.array([float(value) for value in box])


def shortened(value: Any) -> str:
    """What stands where a box or points should, as it may stand in a message."""
    text = repr(value)
    return text if len(text) < 100 else f"{text[:100]}..."


def mask_of(label: Any) -> NDArray[Any] | None:
    """The values of a label's mask as they are stored, from its file where they lie in one; ``None`` without a mask.

    Raises:
        InputError: if they cannot be read; names the file.
    """
    if label.mask is not None:
        return np.asarray(label.mask)
    if label.mask_path is None:
        return None
    most = MOST_OF_MAP if isinstance(label, fo.Segmentation) else MOST_BYTES
    try:
        return stored_values(read_bytes(label.mask_path, most), most)
    except InputError as error:
        raise InputError(f"the mask file {label.mask_path!r} cannot be read ({_words(error)})") from error


def unpacked(data: Any, most: int = MOST_BYTES) -> NDArray[Any]:
    """The array that FiftyOne has packed into bytes: ``numpy.save``, then zlib.

    The size that it declares is checked before more than its header is unpacked.

    Args:
        data: what the database holds.
        most: bytes that the array may take.

    Raises:
        InputError: if it is damaged, holds something other than numbers, or would take too much memory.
    """
    if not isinstance(data, bytes):
        raise InputError(f"expected a mask of bytes, got {type(data).__name__}; draw it again or remove the label")
    try:
        unpacker = zlib.decompressobj()
        beginning = io.BytesIO(unpacker.decompress(data, _BEGINNING))
        shape, by_columns, kind = _header(beginning)
        count = math.prod(shape)
        size = count * kind.itemsize
        if kind.kind not in "biuf" or size > most:
            raise InputError(f"expected at most {most} bytes of numbers, got {size} of {kind}")
        values: NDArray[Any] = np.empty(count, kind)
        _fill(values.view(np.uint8).data, beginning.read(), unpacker)
        return values.reshape(shape, order="F" if by_columns else "C")
    except Exception as error:  # whatever a stranger's bytes make these parsers raise
        raise InputError(f"its mask cannot be read ({_words(error)}); draw it again or remove the label") from error


def _fill(room: memoryview, content: bytes, unpacker: Any) -> None:
    """Fills a part of memory with what has been unpacked and what comes next, a piece at a time; it must fit."""
    filled = 0
    while content := content or unpacker.decompress(unpacker.unconsumed_tail, _PIECE):
        if filled + len(content) > len(room):
            raise InputError(f"it holds more than the {len(room)} bytes that it speaks of")
        room[filled : filled + len(content)] = content
        filled, content = filled + len(content), b""
    if filled < len(room):
        raise InputError(f"it ends after {filled} of {len(room)} bytes")


def _header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type, of what ``numpy.save`` wrote."""
    plain = _PLAIN_HEADER.match(stream.getvalue()[:_LONGEST_PLAIN])
    if plain is not None and plain.end() == 10 + int.from_bytes(plain[1], "little"):
        stream.seek(plain.end())
        return (int(plain[3]), int(plain[4])), False, _PLAIN_KINDS[plain[2]]
    version = numpy_format.read_magic(stream)
    read = {(1, 0): numpy_format.read_array_header_1_0, (2, 0): numpy_format.read_array_header_2_0}.get(version)
    if read is None:
        raise InputError(f"expected an array of NumPy's format 1 or 2, got {version}")
    shape, by_columns, kind = read(stream)
    if len(shape) > 4 or any(not 0 <= length <= MOST_OF_MAP for length in shape):
        raise InputError(f"expected the shape of a mask, got one of {len(shape)} lengths, too long for any")
    return shape, bool(by_columns), kind


def _checked(value: Any) -> Any:
    """A copy of a document without its mask; raises InputError where FiftyOne could not unpack other bytes in it."""
    if isinstance(value, Mapping):
        rest = {key: item for key, item in value.items() if key != "mask"}
        return {key: item if type(item) in _PLAIN else _checked(item) for key, item in rest.items()}
    if isinstance(value, list) and value and isinstance(value[0], (Mapping, bytes, list)):
        return [_checked(item) for item in value]
    if isinstance(value, bytes):
        unpacked(value)
    return value


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) < 300 else f"{text[:300]}...") or type(error).__name__


def make_tag_lists(labels: SampleCollection, label_field: str, sample_ids: Iterable[Any] | None = None) -> None:
    """Gives labels whose tags are ``null``, or not there, an empty list; to be called before any are tagged.

    FiftyOne, asked to tag a label without a list of tags, writes its sample with that label alone: the others are gone.

    Args:
        labels: samples, or patches of them, with the labels that are to be tagged.
        label_field: their field.
        sample_ids: only these samples; all where ``None``.
    """
    places = [(dataset_of(labels), list(labels.values("_id") if sample_ids is None else sample_ids))]
    if is_patches(labels):  # FiftyOne tags what they are of as well
        places.append((root_dataset_of(labels), [ObjectId(key) for key in labels.values("sample_id")]))
    for dataset, ids in places:
        if not dataset.has_field(label_field):
            continue
        root, is_list = label_root(dataset, label_field)
        bare: dict[str, Any] = {root: {"$elemMatch": {"tags": None}}}
        path, filters = f"{root}.$[label].tags", [{"label": {"$type": "object"}, "label.tags": None}]
        if not is_list:
            bare, path, filters = {root: {"$type": "object"}, f"{root}.tags": None}, f"{root}.tags", []
        for some in in_parts(ids):
            query = {"_id": {"$in": some}, **bare}
            database_collection(dataset).update_many(query, {"$set": {path: []}}, array_filters=filters or None)
