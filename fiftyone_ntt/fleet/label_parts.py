"""Labels as a fleet hands them on: one Parquet file a unit, one row an image, readable without this package.

    <store>/labels/<key>/match.json      the memory bank and the settings that they were made with
    <store>/labels/<key>/<unit>.parquet
    <store>/labels/<key>/failed/<unit>.json   only where images failed while they were matched: id -> what went wrong

A mask is the COCO run lengths (compressed) of the mask inside its own extent, as ``pycocotools`` decodes them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fiftyone_ntt.fleet.bucket import Bucket, FleetError, needed, read_many
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.pixels.packed_masks import PackedMask

SUFFIX, _FAILED = ".parquet", ".json"
_NUMBERS = ("score", "predicted_iou", "similarity", "alternative", "alternative_similarity")
"""Of each instance, in the names of the columns; all but the score may be missing."""

Document = dict[str, Any]


@dataclass(frozen=True)
class ImageLabels:
    """What was found in an image.

    Attributes:
        id: the image's id in the manifest.
        instances: its labels; ``None`` where it failed.
        error: what went wrong.
    """

    id: str
    instances: Instances | None
    error: str | None = None

    def to_row(self) -> Document:
        """Plain values, as a row of the Parquet file has them."""
        found = self.instances
        if found is None:
            return {"id": self.id, "height": None, "width": None, "instances": None, "error": self.error}
        height, width = found.image_size
        each = [_instance(found, i) for i in range(len(found))]
        return {"id": self.id, "height": height, "width": width, "instances": each, "error": None}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ImageLabels:
        """What ``to_row`` made a row of, to the bit."""
        if row["instances"] is None:
            return cls(row["id"], None, row["error"] or "it was not matched")
        each = row["instances"]
        columns: dict[str, Any] = {name: [one[name] for one in each] for name in _NUMBERS}
        optional = {name: _column(columns[name], name) for name in _NUMBERS[2:]}
        instances = Instances(
            np.asarray([one["box"] for one in each], np.float32).reshape(-1, 4),
            np.asarray(columns["score"], np.float32),
            np.asarray([one["label"] for one in each], np.int64),
            np.asarray(columns["predicted_iou"], np.float32),
            tuple(_packed(one["extent"], one["mask"]) for one in each),
            (row["height"], row["width"]),
            **optional,
        )
        return cls(row["id"], instances)


def _column(values: list[Any], name: str) -> Any:
    if not values:  # none were found: then nobody asks
        return np.zeros(0, np.int64 if name == "alternative" else np.float32)
    return None if values[0] is None else np.asarray(values, np.int64 if name == "alternative" else np.float32)


def _instance(found: Instances, i: int) -> Document:
    from pycocotools import mask as coder

    extent, crop = found.crop(i)
    counts = coder.encode(np.asfortranarray(crop, np.uint8))["counts"] if crop.size else b""
    numbers = {"score": found.scores, "predicted_iou": found.predicted_iou, "similarity": found.similarity,
               "alternative": found.alternative, "alternative_similarity": found.alternative_similarity}  # fmt: skip
    plain = {name: None if column is None else column[i].item() for name, column in numbers.items()}
    return {
        "label": int(found.labels[i]), "box": found.boxes[i].tolist(), "extent": list(extent),
        "mask": counts.decode("ascii"), **plain,
    }  # fmt: skip


def _packed(extent: list[int], counts: str) -> PackedMask:
    from pycocotools import mask as coder

    x1, y1, x2, y2 = extent
    crop = np.zeros((y2 - y1, x2 - x1), bool)
    if crop.size:
        crop = coder.decode({"size": [y2 - y1, x2 - x1], "counts": counts.encode("ascii")}).astype(bool)
    return PackedMask.from_crop(crop, y1, x1)


class LabelFolder:
    """The part of a store that holds the labels of one memory bank.

    Args:
        bucket: the store.
        key: see ``label_key``.
    """

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key, self._folder = bucket, key, f"labels/{key}"

    def describe(self, bank: MemoryBank, config: MatchConfig, index: str) -> None:
        """Notes what the labels are made with, for people and for those who read the Parquet files."""
        facts = {"classes": list(bank.classes), "bank": bank.content_hash, "match": asdict(config), "index": index}
        self.bucket.write(f"{self._folder}/match.json", json.dumps(facts, sort_keys=True, indent=1).encode())

    def publish(self, unit: str, rows: Iterable[ImageLabels], failed: Mapping[str, str] | None = None) -> str:
        """Writes the labels of a unit; of two that do so at once, one wins. Returns the file's name in the store.

        Args:
            unit: its name.
            rows: its images.
            failed: what went wrong with those that have candidates and could not be matched.
        """
        if failed:  # first, so that no failure goes unseen
            self.bucket.write(self._failed(unit), json.dumps(failed, sort_keys=True).encode())
        pyarrow, name, sink = needed("pyarrow"), self._name(unit), io.BytesIO()
        table = pyarrow.Table.from_pylist([row.to_row() for row in rows], schema=_schema())
        needed("pyarrow.parquet").write_table(table, sink, compression="zstd")
        self.bucket.publish(name, sink.getvalue())
        return name

    def done(self) -> set[str]:
        """Names of the units whose labels are there."""
        return {name[: -len(SUFFIX)] for name in self.bucket.names(self._folder, SUFFIX)}

    def failed(self) -> dict[str, dict[str, str]]:
        """Units in which matching failed -> id of each such image -> what went wrong."""
        units = [name[: -len(_FAILED)] for name in self.bucket.names(f"{self._folder}/failed", _FAILED)]
        return {unit: json.loads(data) for unit, data in zip(units, read_many(self._failure, units), strict=True)}

    def forget(self, unit: str) -> None:
        """Removes the labels of a unit: it is matched again."""
        self.bucket.remove(self._name(unit))
        self.bucket.remove(self._failed(unit))

    def rows(self, unit: str) -> list[Document]:
        """The rows of a unit, as ``ImageLabels.from_row`` takes them.

        Raises:
            FleetError: if they are not there, or damaged.
        """
        name = self._name(unit)
        try:
            data = self.bucket.read(name)
        except FileNotFoundError as error:
            raise FleetError(f"expected labels at {self.bucket.url_of(name)}, got no such file") from error
        try:
            table = needed("pyarrow.parquet").read_table(io.BytesIO(data))
            rows: list[Document] = table.select(_schema().names).to_pylist()
        except (needed("pyarrow").ArrowInvalid, LookupError, ValueError, OSError) as error:
            raise FleetError(
                f"{self.bucket.url_of(name)} is damaged ({error!r}); delete it, and its unit is matched again"
            ) from error
        return rows

    def _name(self, unit: str) -> str:
        return f"{self._folder}/{unit}{SUFFIX}"

    def _failed(self, unit: str) -> str:
        return f"{self._folder}/failed/{unit}{_FAILED}"

    def _failure(self, unit: str) -> bytes:
        return self.bucket.read(self._failed(unit))


def label_key(bank: MemoryBank, config: MatchConfig, index: str) -> str:
    """What the labels of a memory bank are called in a store: a hash of all that decides them, 32 hex digits.

    Args:
        bank: the memory bank.
        config: settings of the match.
        index: key of the candidates.
    """
    facts = json.dumps([bank.content_hash, asdict(config), index], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def _schema() -> Any:
    pyarrow = needed("pyarrow")
    real, whole, text = pyarrow.float32(), pyarrow.int32(), pyarrow.string()
    instance = pyarrow.struct(
        [("label", whole), ("box", pyarrow.list_(real)), ("extent", pyarrow.list_(whole)), ("mask", text),
         *((name, whole if name == "alternative" else real) for name in _NUMBERS)]
    )  # fmt: skip
    return pyarrow.schema(
        [("id", text), ("height", whole), ("width", whole), ("instances", pyarrow.list_(instance)), ("error", text)]
    )
