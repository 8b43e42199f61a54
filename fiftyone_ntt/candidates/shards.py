"""Shards of a fleet, as a local candidate cache knows them: many images' files end to end, taken in by reference.

    <root>/<sha256 of the settings>/shards/<name>.npy   one row an image, sorted: its sha256, which shard, where
    <root>/<sha256 of the settings>/shards/<name>.json  where these shards are

What is in a shard is what ``to_bytes`` makes of each image, so nothing of it is copied or converted: a cache that has
no file of an image looks it up here, and reads that part of the shard. A table of ten million images takes 0.5 GB on
disk and next to nothing in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.files import PART_SUFFIX, naming, plain_file, write_file

logger = logging.getLogger(__name__)

FOLDER = "shards"
_ROW = np.dtype([("image", "S32"), ("shard", "<u4"), ("offset", "<u8"), ("length", "<u4")])


@dataclass(frozen=True)
class ShardPart:
    """Where the record of an image is.

    Attributes:
        image: sha256 of the image file, hex.
        shard: path or URL of the shard.
        offset: first byte.
        length: bytes.
    """

    image: str
    shard: str
    offset: int
    length: int


class ShardTable:
    """One table of references, open for look-ups from any thread.

    Args:
        path: its ``.npy`` file; the list of shards lies beside it.

    Raises:
        InputError: if it is no such table.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            rows: NDArray[Any] = np.load(plain_file(path), mmap_mode="r", allow_pickle=False)
            described = json.loads(plain_file(path.with_suffix(".json")).read_bytes())
            self._shards = [str(shard) for shard in described["shards"]]
        except (ValueError, EOFError, LookupError, TypeError) as error:
            raise InputError(f"expected a table of shards in {path}, got something else: {error}") from error
        if rows.dtype != _ROW or rows.ndim != 1:
            raise InputError(f"expected a table of shards in {path}, got {rows.dtype} {rows.shape}")
        self._rows, self._images = rows, rows["image"]

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, image: str) -> ShardPart | None:
        """Where the record of an image is, sha256 in hex; ``None`` where this table has none."""
        wanted = bytes.fromhex(image).rstrip(b"\0")  # numpy leaves out zeros at the end of a text
        place = bisect_left(self._images, wanted)
        if place == len(self._rows) or self._images[place] != wanted:
            return None
        _, shard, offset, length = self._rows[place].item()
        if shard >= len(self._shards):  # a list of shards that is not this table's
            return None
        return ShardPart(image, self._shards[shard], offset, length)


def add_table(folder: Path, source: str, parts: Iterable[ShardPart]) -> Path:
    """Writes a table of references in place of the one from the same source.

    Args:
        folder: that of the settings in the cache.
        source: where the shards come from, e.g. the URL of a store.
        parts: of one image several may be given: the first one counts.

    Returns:
        The table's path.

    Raises:
        OSError: if it cannot be written.
    """
    shards: dict[str, int] = {}
    rows = np.fromiter(
        ((bytes.fromhex(p.image), shards.setdefault(p.shard, len(shards)), p.offset, p.length) for p in parts), _ROW
    )
    _, first = np.unique(rows["image"], return_index=True)  # sorted
    rows = rows[first]
    listed = json.dumps({"shards": list(shards)})
    digest = hashlib.sha256(listed.encode())
    digest.update(rows.view(np.uint8).data)
    origin = hashlib.sha256(source.encode()).hexdigest()[:16]
    path = folder / FOLDER / f"{origin}-{digest.hexdigest()[:32]}.npy"
    if not path.is_file():
        write_file(path.with_suffix(".json"), listed)
        part = path.with_suffix(f".{uuid.uuid4().hex}{PART_SUFFIX}")
        try:
            with naming(path, part), part.open("xb") as stream:
                np.save(stream, rows, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())  # or the name could reach the disk before the content
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    for older in (folder / FOLDER).glob(f"{origin}-*.npy"):
        if older != path:  # whoever has it open keeps it until the end
            older.unlink(missing_ok=True)
            older.with_suffix(".json").unlink(missing_ok=True)
    return path


def tables_in(folder: Path) -> list[ShardTable]:
    """The tables of references of one set of settings; what is no table is passed over."""
    tables = []
    for path in sorted((folder / FOLDER).glob("*.npy")):
        try:
            tables.append(ShardTable(path))
        except (InputError, OSError) as error:
            logger.warning("passing over %s: %s", path.name, error)
    return tables


def is_remote(location: str) -> bool:
    """Whether a path or URL is anything but a file of this machine."""
    return "://" in location and not location.startswith("file://")


def read_part(part: ShardPart) -> bytes:
    """The bytes of a record.

    Raises:
        OSError: if the shard cannot be read.
        InputError: if the package that knows its kind of URL is missing.
    """
    if not is_remote(part.shard):
        with plain_file(part.shard.removeprefix("file://")).open("rb") as stream:
            stream.seek(part.offset)
            return stream.read(part.length)
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(part.shard)
    except (ImportError, ValueError) as error:
        raise InputError(f"{part.shard} cannot be read here: {error}; install the package that it names") from error
    try:
        data: bytes = system.cat_file(path, start=part.offset, end=part.offset + part.length)
    except OSError:
        raise
    except Exception as error:  # each kind of bucket has errors of its own
        raise InputError(f"{part.shard} cannot be read: {error!r}") from error
    return data
