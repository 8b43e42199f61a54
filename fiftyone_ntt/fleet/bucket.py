"""A folder anywhere that ``fsspec`` knows: on a disk, in S3, in the memory of a test. Files are whole or not there."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fiftyone_ntt.candidates.shards import is_remote
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.pixels.files import PART_SUFFIX, expanded, naming, plain_file, write_file, write_problem
from fiftyone_ntt.pixels.images import MOST_BYTES, read_bytes

T = TypeVar("T")

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links say: some network drives, and buckets that are mounted."""
_READERS = 16
"""Small files read side by side: what takes time is the way to a bucket and back."""
_TRIES, _PAUSE = 4, 0.5
"""How often a store is asked that fails in a way that may pass, and seconds before the second time, then twice that."""
_ANSWERS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that are answers: asking again gives the same."""
_FLAT = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2", "memory"}
"""Stores without folders: making one there may need a right that writing needs not."""


class FleetError(NttError):
    """Something that a fleet cannot go on with: a store, a manifest, or a worker that dies again and again."""

    def __init__(self, text: str) -> None:
        super().__init__(masked(text))


class UnreachableImageError(InputError):
    """An image file that is not there, or may not be read: perhaps a matter of the machine, not of the image."""


def masked(text: str) -> str:
    """A text without the passwords and signatures of the URLs in it.

    Example:
        >>> masked("sftp://me:secret@host/a.png is not there")
        'sftp://***@host/a.png is not there'
        >>> masked("https://host/a.png?signature=abc: 403")
        'https://host/a.png?*** 403'
    """
    text = re.sub(r"(\w://)[^/\s@]*@", r"\1***@", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\")]+", r"\1?***", text)


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
        plain = str(url) if self.remote else os.path.abspath(expanded(str(url).removeprefix("file://")))
        self.url = plain if plain.endswith("://") else plain.rstrip("/") or "/"
        self._system: Any = None
        if self.remote:
            try:
                self._system, root = needed("fsspec").core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise FleetError(f"{self.url} cannot be used: {error}; install the package that it names") from error
            except Exception as error:  # each kind of store has errors of its own, of credentials for instance
                raise FleetError(f"{self.url} cannot be used: {error!r}; see to its address and credentials") from error
            self._root = root.rstrip("/")
            protocol = self._system.protocol
            self._flat = bool(_FLAT & set([protocol] if isinstance(protocol, str) else protocol))

    def url_of(self, name: str) -> str:
        """Path or URL of a file."""
        return f"{self.url}{'' if self.url.endswith('/') else '/'}{name}"

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: if it is not there.
            FleetError: if it cannot be read.
        """
        with self._explained(name):
            if not self.remote:
                return plain_file(Path(self.url, name)).read_bytes()
            data: bytes = _tried(lambda: self._system.cat_file(f"{self._root}/{name}"))
        return data

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whose name goes with its content: whoever else writes it, writes the same."""
        if self.remote:
            with self._explained(name, writing=True):
                self._make_folder(name)
                _tried(lambda: self._system.pipe_file(f"{self._root}/{name}", data))
        else:
            with _written():
                write_file(Path(self.url, name), data)

    def publish(self, name: str, data: bytes) -> bool:
        """Writes a file unless it is there; of two that do so at once, one wins.

        Returns:
            Whether this one did.
        """
        if self.remote:
            with self._explained(name, writing=True):
                self._make_folder(name)
                return _tried(lambda: self._created(name, data))
        part = self._part_of(name)
        try:
            with _written():
                write_file(part, data)
            return self._named(part, name)
        finally:
            part.unlink(missing_ok=True)

    def _created(self, name: str, data: bytes) -> bool:
        """Writes a file of a bucket unless it is there. What an error says is not trusted, but what lies there then.

        Stores have words of their own for "it is there"; and where an answer was lost on its way, it was this one that
        wrote the file.
        """
        try:
            self._system.pipe_file(f"{self._root}/{name}", data, mode="create")
        except Exception as error:
            self._system.invalidate_cache()
            try:
                there = self._system.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                raise error from None
            return not isinstance(error, FileExistsError) and bool(there == data)
        return True

    def _part_of(self, name: str) -> Path:
        """Where a file on a disk is made, beside its place."""
        path = Path(self.url, name)
        return path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")

    def _named(self, part: Path, name: str) -> bool:
        """Gives a file that was made on a disk its name; says whether it was free."""
        path = Path(self.url, name)
        try:
            with _written(), naming(path, part):
                _link(part, path)
        except FileExistsError:
            return False
        return True

    def _make_folder(self, name: str) -> None:
        """Makes the folder of a file, in stores that have folders."""
        if not self._flat:
            _tried(lambda: self._system.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True))

    @contextmanager
    def _explained(self, name: str, writing: bool = False) -> Iterator[None]:
        """Each kind of store has errors of its own: all become a sentence, but that a file to read is not there."""
        try:
            yield
        except NttError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not writing:
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
            raise FleetError(
                f"{self.url_of(name)} cannot be used ({reason}); see to the store, its credentials and its rights, "
                "then start again: what is done stays"
            ) from error

    def try_out(self) -> None:
        """Writes a file and removes it: who may not write hears of it before anything long begins.

        Raises:
            FleetError: then.
        """
        name = f"tried-{uuid.uuid4().hex}"
        self.write(name, b"fiftyone-ntt")
        self.remove(name)

    def remove(self, name: str) -> None:
        """Removes a file; does nothing where it is not there."""
        with suppress(FileNotFoundError), self._explained(name):
            if self.remote:
                _tried(lambda: self._system.rm_file(f"{self._root}/{name}"))
            else:
                Path(self.url, name).unlink()

    def names(self, folder: str, suffix: str) -> list[str]:
        """Names of the files in a folder that end so, sorted; none where there is no such folder."""
        paths: list[str] = []
        with suppress(FileNotFoundError), self._explained(folder):
            if self.remote:
                self._system.invalidate_cache()
                paths = _tried(lambda: self._system.ls(f"{self._root}/{folder}", detail=False))
            else:
                paths = os.listdir(Path(self.url, folder))
        return sorted(name for path in paths if (name := path.rpartition("/")[2]).endswith(suffix))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        entries: list[dict[str, Any]] = []
        with suppress(FileNotFoundError), self._explained(folder):
            if not self.remote:
                base = Path(self.url, folder)
                return sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
            entries = _tried(lambda: self._system.ls(f"{self._root}/{folder}", detail=True))
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory")

    @contextmanager
    def filling(self, names: Iterable[str]) -> Iterator[Filling]:
        """A new file that is written piece by piece. Once all of it is written, it gets the first name that is free.

        Args:
            names: in one folder; of two that write at once, one gets the first and the other the second.
        """
        choices = iter(names)
        first = next(choices)
        with tempfile.TemporaryDirectory(prefix="fiftyone-ntt-") as folder, _written():
            part = Path(folder, "part") if self.remote else self._part_of(first)
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("xb") as stream:
                    filling = Filling(stream)
                    yield filling
                    stream.flush()
                    os.fsync(stream.fileno())  # or the name could reach the disk before the content
                for name in chain([first], choices):
                    if self.publish(name, part.read_bytes()) if self.remote else self._named(part, name):
                        filling.name = name
                        return
            finally:
                part.unlink(missing_ok=True)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """A file to read parts of.

        Raises:
            FileNotFoundError: if it is not there.
        """
        # What is raised inside is explained where the store did it, and left alone where the content did.
        try:
            if self.remote:
                with _tried(lambda: self._system.open(f"{self._root}/{name}", "rb")) as stream:
                    yield stream
            else:
                with plain_file(Path(self.url, name)).open("rb") as stream:
                    yield stream
        except (OSError, asyncio.TimeoutError):
            with self._explained(name):
                raise


@dataclass
class Filling:
    """A file that is being written: where to, and what it is called once it is there."""

    stream: BinaryIO
    name: str = ""


def _tried(ask: Callable[[], T]) -> T:
    """What a store answers; asked again a few times where it fails in a way that may pass."""
    for attempt in range(_TRIES):
        try:
            return ask()
        except _ANSWERS:
            raise
        except (OSError, asyncio.TimeoutError):  # on Python 3.10 the latter is no OSError
            if attempt == _TRIES - 1:
                raise
            time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


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
def _written() -> Iterator[None]:
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
        UnreachableImageError: if it is missing, or cannot be reached from here.
        InputError: if it is empty, or nothing that could be an image.
    """
    if not is_remote(uri):
        try:
            return read_bytes(uri.removeprefix("file://"))
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise UnreachableImageError(str(error)) from error
            raise
    shown, fsspec = masked(uri), needed("fsspec")
    try:
        system, path = fsspec.core.url_to_fs(uri)
        size = _tried(lambda: system.info(path)).get("size")  # some stores do not say
        data: bytes = b"" if size is not None and size > MOST_BYTES else _tried(lambda: system.cat_file(path))
    except FileNotFoundError as error:
        raise UnreachableImageError(f"image file not found: {shown}") from error
    except Exception as error:  # each kind of store has errors of its own, of credentials for instance
        raise UnreachableImageError(f"not a readable image: {shown} ({masked(repr(error))})") from error
    if not 0 < (length := size or len(data)) <= MOST_BYTES:
        got = f"one of {length}" if length else "an empty file"
        raise InputError(f"not a readable image: {shown} (expected 1 to {MOST_BYTES} bytes, got {got}); get it again")
    return data


def size_of(uri: str) -> int | None:
    """Bytes of a file; ``None`` if it is not there, or cannot be asked for."""
    if not is_remote(uri):
        try:
            return os.stat(uri.removeprefix("file://")).st_size
        except (OSError, ValueError):
            return None
    fsspec = needed("fsspec")
    try:
        system, path = fsspec.core.url_to_fs(uri)
        return int(system.info(path)["size"])
    except Exception:  # each kind of store has errors of its own
        return None
