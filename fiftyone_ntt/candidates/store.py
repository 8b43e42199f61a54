"""The candidate cache of one set of settings: looked up by image content, shared by any number of workers.

    <root>/<sha256 of the settings>/settings.json                     what the files below were made with
    <root>/<sha256 of the settings>/<first two>/<sha256 of image>.ntt  one image
    <root>/<sha256 of the settings>/shards/                            what others hold, see ``shards``

Nothing is locked. Files are made under a temporary name and renamed, and two workers that make the same file make the
same content. Nothing is ever deleted here either: what does not fit any more is not stored.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.file_format import (
    LIMIT_VARIABLE,
    SUFFIX,
    DamagedIndexError,
    IndexSettings,
    Signature,
    default_root,
    from_bytes,
    limit_in_bytes,
    read_file,
    to_bytes,
)
from fiftyone_ntt.candidates.shards import ShardTable, is_remote, read_part, tables_in
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.pixels.files import write_file, write_problem

logger = logging.getLogger(__name__)

SETTINGS_FILE = "settings.json"
RECIPES = "recipes"
_HEX = re.compile(r"[0-9a-f]{64}")
_RESERVE = 1_000_000_000
"""Bytes left free on the disk: a database or a system without room breaks, an index only stops growing."""
_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_SECONDS_BETWEEN_COUNTS, _PART_OF_ROOM = 600.0, 1 / 16
"""The files are counted again after so long at the least, and once so much of the room was filled by this worker."""
_DAY = 24 * 3600.0


class IndexStorageError(NttError):
    """The index cannot take another image: full, read-only, or the disk has no room."""


class IndexFileError(IndexStorageError):
    """The index cannot take this very image, because of what lies in its place; it may take others."""


class IndexStore:
    """The index of one set of settings.

    Args:
        root: folder of the index, for all settings; ``default_root()`` where ``None``. Made when first written to.
        settings: what decides the content besides the image.
        size_limit: bytes that all files below ``root`` may take together; see ``limit_in_bytes`` where ``None``.

    Attributes:
        damaged: paths of files found damaged by ``get``.
    """

    def __init__(self, root: Path | None, settings: IndexSettings, size_limit: int | None = None) -> None:
        self.root = default_root() if root is None else Path(root)
        self.settings = settings
        self.size_limit = limit_in_bytes() if size_limit is None else size_limit
        self.folder = self.root / settings.digest
        self.damaged: list[Path] = []
        self._room = _Room(self.root, self.size_limit)

    def path_of(self, image: str) -> Path:
        """Where the file of an image belongs.

        Args:
            image: sha256 of the image file, hex.
        """
        if not _HEX.fullmatch(image):
            raise InputError(f"expected the sha256 of an image file, 64 hex digits, got {image!r}")
        return self.folder / image[:2] / f"{image}{SUFFIX}"

    def get(self, image: str) -> CompactImage | None:
        """The content of an image's file, or ``None`` if it is not there, or not to be trusted.

        A damaged file, and one that says it was made of another image or with other settings, is logged and noted in
        ``damaged``; ``put`` replaces it.
        """
        path = self.path_of(image)
        try:
            content = read_checked(path, Signature(image, self.settings))
        except (FileNotFoundError, NotADirectoryError):
            return self._from_shards(image)
        except (DamagedIndexError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            logger.warning("not using %s, which will be made again: %s", path.name, reason)
            self.damaged.append(path)
            return None
        _note_use(path)
        return content

    def has(self, image: str) -> bool:
        """Whether there is something of an image, in a file of its own or in a shard."""
        return self.path_of(image).is_file() or any(table.find(image) for table in self._shard_tables)

    @cached_property
    def _shard_tables(self) -> list[ShardTable]:
        return tables_in(self.folder)

    def _from_shards(self, image: str) -> CompactImage | None:
        """The content of an image as a fleet made it. What comes from afar is kept here while there is room."""
        part = next((part for table in self._shard_tables if (part := table.find(image))), None)
        if part is None:
            return None
        try:
            content = checked(read_part(part), Signature(image, self.settings))
        except (InputError, OSError) as error:
            logger.warning("not using the part of shard %s, which will be made again: %s", part.shard, error)
            return None
        if is_remote(part.shard):
            with suppress(IndexStorageError):  # it only saves the way next time
                self.put(image, content)
        return content

    def put(self, image: str, content: CompactImage) -> int:
        """Stores an image's content and returns the bytes it takes.

        Raises:
            IndexStorageError: if it cannot be stored; says why and what to do.
            IndexFileError: if that is so for this image only.
        """
        path = self.path_of(image)
        try:
            data = to_bytes(content, Signature(image, self.settings))
        except InputError as error:  # nobody could read it again
            raise IndexFileError(f"the candidate cache in {self.root} does not take an image: {error}") from error
        try:
            self._room.take(len(data))
            self._describe()
            write_file(path, data)
        except OSError as error:
            raise self._storage_error(error, path) from error
        return len(data)

    def _storage_error(self, error: OSError, path: Path) -> IndexStorageError:
        problem = f"the candidate cache in {self.root}: {write_problem(error)} (index_dir)"
        of_this_file = error.errno not in _NO_MORE and os.path.lexists(path.parent)
        return (IndexFileError if of_this_file else IndexStorageError)(problem)

    def remember(self, recipe: str) -> None:
        """Notes that ``recipe``, whatever its caller means by it, leads to these settings; see ``recalled``.

        A convenience: where it cannot be written it is left out.
        """
        path = self._recipe_path(recipe)
        try:
            if not path.is_file():
                self._describe()
                write_file(path, b"")
        except OSError as error:
            logger.debug("the recipe is not kept: %s", error)

    def forget(self, recipe: str) -> None:
        """Undoes ``remember``."""
        try:
            self._recipe_path(recipe).unlink(missing_ok=True)
        except OSError as error:
            logger.debug("the recipe is not removed: %s", error)

    def _recipe_path(self, recipe: str) -> Path:
        return self.folder / RECIPES / hashlib.sha256(recipe.encode()).hexdigest()

    def _describe(self) -> None:
        path = self.folder / SETTINGS_FILE
        if not path.is_file():
            write_file(path, self.settings.to_json().encode())


class _Room:
    """How much the index may still grow: counted once, then by what this worker adds.

    Others write too, so the files are counted again once this worker has filled a part of what was left. Whoever finds
    that it is time counts, and the others go on meanwhile.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit
        self._left: int | None = None
        self._counted, self._added, self._enough = 0.0, 0, 0.0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            if self._left is None:  # all others need it too
                self._note(used_bytes(self._root))
            is_time = time.monotonic() - self._counted > _SECONDS_BETWEEN_COUNTS and self._added > self._enough
            if is_time:
                self._counted, self._added = time.monotonic(), 0
        if is_time:
            used = used_bytes(self._root)
            with self._lock:
                self._note(used + self._added)  # what came meanwhile may be counted twice: better than not at all
        with self._lock:
            left = self._left or 0
            if size > left:
                raise IndexStorageError(
                    f"the candidate cache in {self._root} has reached its limit of {self._limit / 1e9:g} GB; raise "
                    f"size_limit_gb (or {LIMIT_VARIABLE}), or make room with `fiftyone-ntt index prune`"
                )
            self._root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._root).free
            if free - size < _RESERVE:
                raise IndexStorageError(
                    f"only {free / 1e9:.1f} GB are free on the disk of the candidate cache in {self._root}, and "
                    f"{_RESERVE / 1e9:g} GB are left to others; make room, or choose another index_dir"
                )
            self._left, self._added = left - size, self._added + size

    def _note(self, used: int) -> None:
        left = self._limit - used
        self._left, self._counted, self._added, self._enough = left, time.monotonic(), 0, left * _PART_OF_ROOM


def read_checked(path: Path, wanted: Signature) -> CompactImage:
    """Reads a file of the index.

    Raises:
        DamagedIndexError: if it is damaged, or not of that image and those settings.
        OSError: if it cannot be read.
    """
    return checked(read_file(path), wanted)


def checked(data: bytes, wanted: Signature) -> CompactImage:
    """What the bytes of a file hold, if that is what they should.

    Raises:
        DamagedIndexError: if they are damaged, or not of that image and those settings.
    """
    content, header = from_bytes(data)
    if header.image != wanted.image:
        raise DamagedIndexError(f"it was made of another image, {header.image[:12]}...")
    differences = header.settings.differences(wanted.settings)
    if differences:
        raise DamagedIndexError(f"it was made with other settings: {'; '.join(differences)}")
    return content


def _note_use(path: Path) -> None:
    """The file's time tells ``prune`` when it was last of use, to a day. Access times are off on many disks."""
    try:
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path)
    except OSError:  # read-only, or someone else's
        pass


def used_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile do not count."""
    return sum(size for _, size in walk(folder))


def walk(folder: Path) -> Iterator[tuple[str, int]]:
    """Every file below a folder with its size, links not followed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)  # a hundred thousand Path objects take longer than the disk
            try:
                yield path, os.lstat(path).st_size
            except OSError:
                continue


def settings_in(root: Path) -> dict[str, IndexSettings]:
    """The settings below a root, by digest; folders that are no index's are passed over."""
    by_digest = {}
    for path in sorted(root.glob(f"*/{SETTINGS_FILE}")):
        if _HEX.fullmatch(path.parent.name):
            try:
                settings = IndexSettings.from_json(read_file(path).decode())
                if settings.digest != path.parent.name:
                    raise InputError(f"{SETTINGS_FILE} describes other settings than the folder's name")
                by_digest[path.parent.name] = settings
            except (InputError, OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                logger.warning("passing over the index %s: %s", path.parent.name, reason)
    return by_digest


def recalled(root: Path, recipe: str) -> list[IndexSettings]:
    """The settings that ``IndexStore.remember`` noted for a recipe."""
    name = hashlib.sha256(recipe.encode()).hexdigest()
    return [settings for digest, settings in settings_in(root).items() if (root / digest / RECIPES / name).is_file()]


def explain_missing(root: Path, wanted: IndexSettings) -> str:
    """Why nothing is there for these settings: which others there are, and in what the nearest differ.

    Returns:
        One sentence; empty if there is an index of these settings, or none of any.
    """
    others = settings_in(root)
    if not others or wanted.digest in others:
        return ""
    differences = {digest: other.differences(wanted) for digest, other in others.items()}
    nearest = min(differences, key=lambda digest: len(differences[digest]))
    return (
        f"the candidate cache in {root} has nothing for these settings yet, but for {len(others)} other: "
        f"{nearest[:12]} has {'; '.join(differences[nearest])}"
    )
