"""What a fleet has made, and that it is whole: shards of candidates, each published by its receipt.

    <store>/index/<key>/settings.json              what the shards were made with
    <store>/index/<key>/shards/<unit>-<hash>.ntts  the records of a unit's images, end to end
    <store>/index/<key>/receipts/<unit>.parquet    one row an image: what became of it, and where in the shard it is

Readers know of a shard by its receipt only, which is written last and never again: what a killed worker left half-way
is never read. A shard's name holds a hash of its content, so that two workers at one unit do no harm to each other.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.candidates.shards import ShardPart
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.fleet.bucket import Bucket, FleetError, needed, read_many

T = TypeVar("T")

OK, ERROR = "ok", "error"
FACTS = b"fiftyone-ntt"
RECEIPTS = ".parquet"
_SHARDS = ".ntts"


@dataclass(frozen=True)
class ImageStatus:
    """What became of an image.

    Attributes:
        id: the image's id in the manifest.
        status: ``"ok"`` or ``"error"``.
        image: sha256 of the file as the candidate cache knows it; ``None`` where it failed.
        offset: where its record begins in the shard.
        length: bytes of the record.
        candidates: how many masks were found.
        error: what went wrong.
        kind: the error in a word, to count by.
    """

    id: str
    status: str
    image: str | None = None
    offset: int = 0
    length: int = 0
    candidates: int = 0
    error: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Receipt:
    """What was made of a unit.

    Attributes:
        unit: its name.
        shard: name of its shard in the store; ``None`` where every image failed.
        images: one status an image, in the order of the manifest.
        facts: for people and for ``status``: when it ended (seconds since 1970), how many seconds it took, where.
    """

    unit: str
    shard: str | None
    images: tuple[ImageStatus, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> dict[str, Any]:
        """The receipt without its rows: what its footer holds."""
        failed = [image for image in self.images if image.status != OK]
        kinds: dict[str, int] = {}
        for image in failed:
            kinds[image.kind or "unknown"] = kinds.get(image.kind or "unknown", 0) + 1
        size = sum(image.length for image in self.images)
        counts = {"images": len(self.images), "failed": len(failed), "kinds": kinds, "bytes": size}
        return {**self.facts, "unit": self.unit, "shard": self.shard, **counts}

    def to_bytes(self) -> bytes:
        """The receipt as a Parquet file."""
        pyarrow = needed("pyarrow")
        columns = {name: [getattr(image, name) for image in self.images] for name, _ in _columns()}
        schema = pyarrow.schema(_columns(), metadata={FACTS: json.dumps(self.summary, sort_keys=True)})
        sink = io.BytesIO()
        needed("pyarrow.parquet").write_table(pyarrow.table(columns, schema=schema), sink)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """What ``to_bytes`` wrote."""
        table = needed("pyarrow.parquet").read_table(io.BytesIO(data))
        facts = json.loads(table.schema.metadata[FACTS])
        columns = [table.column(name).to_pylist() for name, _ in _columns()]
        return cls(
            facts.pop("unit"),
            facts.pop("shard"),
            tuple(ImageStatus(*values) for values in zip(*columns, strict=True)),
            {name: facts[name] for name in facts if name not in ("images", "failed", "kinds", "bytes")},
        )


class IndexFolder:
    """The part of a store that holds the candidates of one set of settings.

    Args:
        bucket: the store.
        key: name of the settings, known before a model is loaded, see ``work.index_key``.
    """

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key, self._folder = bucket, key, f"index/{key}"

    @cached_property
    def settings(self) -> IndexSettings:
        """What the shards were made with.

        Raises:
            FleetError: if nothing is there yet.
        """
        try:
            return IndexSettings.from_json(self.bucket.read(f"{self._folder}/settings.json").decode())
        except FileNotFoundError as error:
            raise FleetError(
                f"expected candidates in {self.bucket.url_of(self._folder)}, got none; `fiftyone-ntt fleet index` with "
                "the same settings makes them"
            ) from error

    def claim(self, settings: IndexSettings) -> None:
        """Makes these settings those of the folder, or sees that they are.

        Raises:
            FleetError: if it has others, as the weights of this machine are not those of the other ones.
        """
        name = f"{self._folder}/settings.json"
        if "settings" not in vars(self):  # they were not read yet
            try:
                self.bucket.read(name)
            except FileNotFoundError:
                self.bucket.publish(name, settings.to_json().encode())
        differences = settings.differences(self.settings)
        if differences:
            raise FleetError(
                f"this machine would make other candidates than those in {self.bucket.url_of(self._folder)}: "
                f"{'; '.join(differences)}; give it the same weights and version"
            )

    def publish(self, unit: str, records: Sequence[bytes], images: Sequence[ImageStatus], facts: Any) -> Receipt:
        """Writes the shard of a unit, then its receipt; returns the one that counts, which may be another worker's."""
        data = b"".join(records)
        digest = hashlib.sha256(data).hexdigest()
        shard = f"{self._folder}/shards/{unit}-{digest[:16]}{_SHARDS}" if records else None
        if shard is not None:
            self.bucket.write(shard, data)
        receipt = Receipt(unit, shard, tuple(images), {**facts, "ended": time.time()})
        first = self.bucket.publish(f"{self._folder}/receipts/{unit}{RECEIPTS}", receipt.to_bytes())
        return receipt if first else self.receipt(unit)

    def done(self) -> set[str]:
        """Names of the units that have a receipt."""
        return {name[: -len(RECEIPTS)] for name in self.bucket.names(f"{self._folder}/receipts", RECEIPTS)}

    def receipt(self, unit: str) -> Receipt:
        """The receipt of a unit.

        Raises:
            FileNotFoundError: if there is none.
            FleetError: if it is damaged.
        """
        name = f"{self._folder}/receipts/{unit}{RECEIPTS}"
        return _understood(self.bucket, name, Receipt.from_bytes)

    def records(self, receipt: Receipt) -> Iterator[tuple[ImageStatus, bytes]]:
        """The record of each image of a unit that has one, of a shard read once."""
        data = memoryview(b"" if receipt.shard is None else self.bucket.read(receipt.shard))
        for image in receipt.images:
            if image.status == OK:
                yield image, bytes(data[image.offset : image.offset + image.length])

    def way_out(self, receipt: Receipt, trouble: str) -> str:
        """What to say of a shard that is not as its receipt says."""
        name = self.bucket.url_of(f"{self._folder}/receipts/{receipt.unit}{RECEIPTS}")
        return (
            f"shard {self.bucket.url_of(str(receipt.shard))} {trouble}; delete its receipt {name}, and `fiftyone-ntt "
            "fleet index` makes it again"
        )

    def summaries(self, units: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The footers of receipts; the rows are not unpacked."""
        yield from read_many(self._summary, [f"{self._folder}/receipts/{unit}{RECEIPTS}" for unit in units])

    def parts(self, units: Sequence[str]) -> Iterator[ShardPart]:
        """Where the record of each image of some units is, for a local cache."""
        for receipt in read_many(self.receipt, units):
            for image in receipt.images:
                if image.image is not None and receipt.shard is not None:
                    yield ShardPart(image.image, self.bucket.url_of(receipt.shard), image.offset, image.length)

    def _summary(self, name: str) -> dict[str, Any]:
        def footer(data: bytes) -> dict[str, Any]:
            schema = needed("pyarrow.parquet").read_schema(io.BytesIO(data))
            facts: dict[str, Any] = json.loads(schema.metadata[FACTS])
            return facts

        return _understood(self.bucket, name, footer)


def _understood(bucket: Bucket, name: str, parse: Callable[[bytes], T]) -> T:
    """What a parser makes of a file of the store."""
    data = bucket.read(name)
    try:
        return parse(data)
    except (needed("pyarrow").ArrowInvalid, InputError, LookupError, ValueError, TypeError, OSError) as error:
        raise FleetError(
            f"{bucket.url_of(name)} is damaged ({error!r}); delete it, and its unit is done again"
        ) from error


def _columns() -> list[tuple[str, Any]]:
    pyarrow = needed("pyarrow")
    text, number = pyarrow.string(), pyarrow.int64()
    return [
        ("id", text), ("status", text), ("image", text), ("offset", number), ("length", number),
        ("candidates", number), ("error", text), ("kind", text),
    ]  # fmt: skip
