"""A folder anywhere that ``fsspec`` knows: on a disk, in S3, in the memory of a test. Files are whole or not there."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fiftyone_ntt.candidates.shards import is_remote
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.pixels.files import PART_SUFFIX, naming, write_file, write_problem
from fiftyone_ntt.pixels.images import read_bytes

T = TypeVar("T")

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links say: some network drives, and buckets that are mounted."""
_READERS = 16
"""Small files read side by side: what takes time is the way to a bucket and back."""


class FleetError(NttError):
    """Something that a fleet cannot go on with: a store, a manifest, or a worker that dies again and again."""


def needed(name: str) -> Any:
    """A package that only fleets need.

    Raises:
        FleetError: if it is missing; says how to get it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        extra = "ray" if name.startswith("ray") else "fleet"
        raise FleetError(
            f"expected the package {name.partition('.')[0]}, which fleets need, and it is not installed ({error}): "
            f"pip install 'fiftyone-ntt[{extra}]'"
        ) from error


class Bucket:
    """A folder of a store. Names of files in it are relative, with slashes.

    Args:
        url: a path, or a URL such as ``s3://bucket/folder``.

    Attributes:
        url: the same, without a slash at its end; of a path on this machine, absolute.

    Raises:
        FleetError: if nothing knows that kind of URL.
    """

    def __init__(self, url: str | Path) -> None:
        self.remote = is_remote(str(url))
        plain = str(url) if self.remote else os.path.abspath(str(url).removeprefix("file://"))
        self.url = plain.rstrip("/")
        self._system: Any = None
        if self.remote:
            try:
                self._system, root = needed("fsspec").core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise FleetError(f"{self.url} cannot be used: {error}; install the package that it names") from error
            self._root = root.rstrip("/")

    def url_of(self, name: str) -> str:
        """Path or URL of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: if it is not there.
            OSError: if it cannot be read.
        """
        if not self.remote:
            return Path(self.url, name).read_bytes()
        data: bytes = self._system.cat_file(f"{self._root}/{name}")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whose name goes with its content: whoever else writes it, writes the same."""
        if self.remote:
            self._system.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(f"{self._root}/{name}", data)
        else:
            with _explained():
                write_file(Path(self.url, name), data)

    def publish(self, name: str, data: bytes) -> bool:
        """Writes a file unless it is there; of two that do so at once, one wins.

        Returns:
            Whether this one did.
        """
        if self.remote:
            self._system.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
            try:
                self._system.pipe_file(f"{self._root}/{name}", data, mode="create")
            except FileExistsError:
                return False
            return True
        path = Path(self.url, name)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
        try:
            with _explained():
                write_file(part, data)
            with naming(path, part):
                _link(part, path)
        except FileExistsError:
            return False
        finally:
            part.unlink(missing_ok=True)
        return True

    def remove(self, name: str) -> None:
        """Removes a file; does nothing where it is not there."""
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{name}") if self.remote else Path(self.url, name).unlink()

    def names(self, folder: str, suffix: str) -> list[str]:
        """Names of the files in a folder that end so, sorted; none where there is no such folder."""
        if self.remote:
            self._system.invalidate_cache()
            try:
                paths = self._system.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                paths = []
        else:
            try:
                paths = os.listdir(Path(self.url, folder))
            except FileNotFoundError:
                paths = []
        return sorted(name for path in paths if (name := path.rpartition("/")[2]).endswith(suffix))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        if not self.remote:
            base = Path(self.url, folder)
            return sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
        try:
            entries = self._system.ls(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")

    @contextmanager
    def filling(self, name: str) -> Iterator[BinaryIO]:
        """A new file that is written piece by piece, and is there once all of it is written."""
        with tempfile.TemporaryDirectory(prefix="fiftyone-ntt-") as folder:
            part = Path(folder, "part")
            if not self.remote:
                path = Path(self.url, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
            try:
                with part.open("xb") as stream:
                    yield stream
                if self.remote:
                    self._system.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
                    self._system.put_file(str(part), f"{self._root}/{name}")
                else:
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """A file to read parts of.

        Raises:
            FileNotFoundError: if it is not there.
        """
        if self.remote:
            with self._system.open(f"{self._root}/{name}", "rb") as stream:
                yield stream
        else:
            with Path(self.url, name).open("rb") as stream:
                yield stream


def _link(part: Path, path: Path) -> None:
    """Gives a file its name, unlike a rename never in place of another one's."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(error.errno, "it is there", str(path)) from error
        os.rename(part, path)  # in the same moment another one may win: what either says is true


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        raise FleetError(write_problem(error)) from error


def read_many(read: Callable[[str], T], names: Sequence[str]) -> Iterable[T]:
    """What ``read`` returns for each name, in their order, several at once and not all in memory."""
    with ThreadPoolExecutor(_READERS) as pool:
        step = 8 * _READERS
        for start in range(0, len(names), step):
            yield from pool.map(read, names[start : start + step])


def read_image_file(uri: str) -> bytes:
    """The content of an image file on any file system.

    Raises:
        InputError: if it is missing, unreadable, or empty.
    """
    if not is_remote(uri):
        return read_bytes(uri.removeprefix("file://"))
    try:
        system, path = needed("fsspec").core.url_to_fs(uri)
        data: bytes = system.cat_file(path)
    except FileNotFoundError as error:
        raise InputError(f"image file not found: {uri}") from error
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"not a readable image: {uri} ({error})") from error
    if not data:
        raise InputError(f"not a readable image: {uri} (expected some bytes, got an empty file); get it again")
    return data


def size_of(uri: str) -> int | None:
    """Bytes of a file; ``None`` if it is not there, or cannot be asked for."""
    try:
        if not is_remote(uri):
            return os.stat(uri.removeprefix("file://")).st_size
        system, path = needed("fsspec").core.url_to_fs(uri)
        return int(system.info(path)["size"])
    except (OSError, ValueError, ImportError, KeyError, TypeError):
        return None
