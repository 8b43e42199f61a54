"""One file of the index: a ``CompactImage``, its signature and a checksum, in a safetensors container.

A tensor is kept as it is, or zlib-compressed where that makes it a fifth smaller: unpacking takes longer than reading.
Opening a file checks every byte of it: the checksum covers all tensors and all that is said about them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels import files
from fiftyone_ntt.pixels.files import expanded

SUFFIX = ".ntt"
_TYPES = {np.dtype(kind).name: np.dtype(kind) for kind in ("u1", "<u2", "i1", "<i2", "<i8", "<f2", "<f4", "<f8")}
_KEY = "fiftyone-ntt"
_LARGEST = 1 << 28
"""Bytes of a file, and of all its arrays unpacked: a hundred times what a thousand masks take."""
_LARGEST_HEADER = 1 << 20
_MOST_AXES = 8
_PAYS = 0.8


class DamagedIndexError(InputError):
    """A file of the index is not what was once written; it is to be made again."""


@dataclass(frozen=True)
class Signature:
    """What a file says it holds.

    Attributes:
        image: sha256 of the image file, hex.
        settings: everything else that decided the content.
    """

    image: str
    settings: IndexSettings


def to_bytes(image: CompactImage, signature: Signature) -> bytes:
    """The file's content.

    Raises:
        DamagedIndexError: if ``from_bytes`` would not take it, as it is too large.
    """
    tensors: dict[str, NDArray[Any]] = {}
    layout: dict[str, list[Any]] = {}
    for name, array in image.to_arrays().items():
        array = np.require(array, array.dtype.newbyteorder("<"), "C")
        packed = zlib.compress(_shuffled(array), 1)
        pays = len(packed) < _PAYS * array.nbytes
        tensors[name] = np.frombuffer(packed, np.uint8) if pays else array
        layout[name] = [array.dtype.name, list(array.shape), "zlib" if pays else "plain"]
    facts = {"image": signature.image, "settings": signature.settings.to_json(), "layout": layout}
    # One entry only: safetensors writes several in any order, and equal content shall be an equal file.
    description = json.dumps({**facts, "sha256": _checksum(facts, tensors)}, sort_keys=True)
    _check_size(layout)
    data: bytes = save(tensors, {_KEY: description})
    if len(data) > _LARGEST:
        raise DamagedIndexError(f"expected a file of at most {_LARGEST} bytes, got {len(data)}")
    return data


def from_bytes(data: bytes) -> tuple[CompactImage, Signature]:
    """What ``to_bytes`` made a file of.

    Raises:
        DamagedIndexError: if anything in it has changed, or it is another kind of file.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        if length > _LARGEST_HEADER:
            raise DamagedIndexError(f"it is no file of the index: its header would have {length} bytes")
        header = json.loads(data[8 : 8 + length])
        facts = json.loads(header["__metadata__"][_KEY])
        tensors = load(data)
        if facts.pop("sha256") != _checksum(facts, tensors):
            raise DamagedIndexError("its content does not fit its checksum")
        _check_size(facts["layout"])
        arrays = {name: _unpacked(tensor, *facts["layout"][name]) for name, tensor in tensors.items()}
        signature = Signature(facts["image"], IndexSettings.from_json(facts["settings"]))
        return CompactImage.from_arrays(arrays), signature
    except DamagedIndexError:
        raise
    # Whatever a stranger's bytes make these parsers raise, the file is no good.
    except (SafetensorError, InputError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
            RecursionError, MemoryError, ImportError, zlib.error) as error:  # fmt: skip
        raise DamagedIndexError(f"it is no file of the index, or was cut off ({error})") from error


def glance(path: Path) -> Signature:
    """What a file says it holds, from its beginning and its length alone: a file that was cut off is told by that.

    Raises:
        DamagedIndexError: if it is no file of the index, or longer or shorter than it says.
        OSError: if it cannot be read.
    """
    try:
        if not path.is_file():  # a pipe would not answer
            raise DamagedIndexError("it is no plain file")
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LARGEST_HEADER:
                raise DamagedIndexError(f"it is no file of the index: its header would have {length} bytes")
            header = json.loads(stream.read(length))
        facts = json.loads(header.pop("__metadata__")[_KEY])
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
        if path.stat().st_size != 8 + length + end:
            raise DamagedIndexError("it was cut off, or something was added to it")
        return Signature(facts["image"], IndexSettings.from_json(facts["settings"]))
    except DamagedIndexError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise DamagedIndexError(f"it is no file of the index, or was cut off ({error})") from error


def read_file(path: Path) -> bytes:
    """The content of a file that may be a stranger's: a plain file of a size that files of the index can have.

    Raises:
        DamagedIndexError: if it is something else.
        OSError: if it cannot be read.
    """
    try:
        return files.read_file(path, _LARGEST)
    except InputError as error:
        raise DamagedIndexError(str(error)) from error


def _checksum(facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).data.cast("B") if tensors[name].size else b"")
    return digest.hexdigest()


def _shuffled(array: NDArray[Any]) -> bytes:
    """All first bytes of the elements, then all second ones, and so on: zlib finds more in that."""
    planes: NDArray[np.uint8] = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T
    return planes.tobytes()


def _check_size(layout: Mapping[str, Sequence[Any]]) -> None:
    """Refuses a few bytes that would be unpacked to many."""
    size = 0
    for type_name, shape, _ in layout.values():
        # Each of them first: numbers of thousands of digits take long to multiply, and to print.
        is_shape = isinstance(shape, list) and len(shape) <= _MOST_AXES
        if not is_shape or not all(isinstance(length, int) and 0 <= length <= _LARGEST for length in shape):
            raise DamagedIndexError(f"expected at most {_MOST_AXES} lengths of at most {_LARGEST}, got others")
        size += math.prod(shape) * _TYPES[type_name].itemsize
    if size > _LARGEST:
        raise DamagedIndexError(f"expected arrays of at most {_LARGEST} bytes, got {size}")


def _unpacked(tensor: NDArray[Any], type_name: str, shape: list[int], codec: str) -> NDArray[Any]:
    kind = _TYPES[type_name]
    if codec == "plain":
        if tensor.dtype != kind or list(tensor.shape) != shape:
            raise DamagedIndexError(f"expected {type_name} {shape}, got {tensor.dtype} {list(tensor.shape)}")
        return tensor
    size = math.prod(shape) * kind.itemsize
    if codec != "zlib":
        raise DamagedIndexError(f"expected an array that is plain or zlib, got {codec!r}")
    raw = zlib.decompressobj().decompress(tensor.tobytes(), size + 1)
    planes = np.frombuffer(raw, np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(shape)


FORMAT_VERSION = 1
"""Raise it whenever the same image and settings would give other files, or the same file another ``CompactImage``."""


FOLDER_VARIABLE = "FIFTYONE_NTT_INDEX"
"""Environment variable that names the index's folder."""


LIMIT_VARIABLE = "FIFTYONE_NTT_INDEX_GB"
"""Environment variable that limits the index's size, in gigabytes (10^9 bytes)."""


DEFAULT_LIMIT_GB = 50.0


_SHOWN = 40


def default_root() -> Path:
    """The index's folder where none is given; it need not exist."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return expanded(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fiftyone-ntt" / "index"


def index_root(index_dir: str | Path | None) -> Path:
    """The index's folder: the one given, else (also for an empty text, as of an empty form field) the default one.

    Raises:
        InputError: if there is a file in its place.
    """
    root = default_root() if index_dir in (None, "") else expanded(index_dir)
    if root.exists() and not root.is_dir():
        raise InputError(f"expected the folder of a candidate cache, got the file {root}; choose another index_dir")
    return root


def limit_in_bytes(gigabytes: float | None = None) -> int:
    """The size limit: the one given, else that of the environment, else 50 GB.

    Raises:
        InputError: if it is no number of at least 0.
    """
    if gigabytes is None:
        text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
        try:
            gigabytes = float(text)
        except ValueError as error:
            raise InputError(f"expected {LIMIT_VARIABLE} to be a number of gigabytes, got {text!r}") from error
    if not (math.isfinite(gigabytes) and gigabytes >= 0):
        raise InputError(f"expected a size limit of 0 GB or more, got {gigabytes!r}")
    return round(gigabytes * 1e9)


@dataclass(frozen=True)
class IndexSettings:
    """Everything besides the image that decides what is in its file. Other settings, other folder.

    Attributes:
        preset: name of the preset. It counts, as it does for memory banks: a bank of one preset fits no other.
        facts: what ``Segmenter.facts`` returned.
        format: version of the files' format.
    """

    preset: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT_VERSION

    @cached_property
    def digest(self) -> str:
        """sha256 of the settings, hex: the name of their folder."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: equal settings give equal text."""
        plain = {"format": self.format, "preset": self.preset, "facts": dict(self.facts)}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> IndexSettings:
        """The settings of a file or folder, possibly a stranger's.

        Raises:
            InputError: if the text describes no settings.
        """
        try:
            plain = json.loads(text)
            settings = cls(str(plain["preset"]), dict(plain["facts"]), int(plain["format"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"expected the settings of a candidate cache, got something else: {error!r}") from error
        return settings

    def differences(self, wanted: IndexSettings) -> list[str]:
        """In what these settings differ from those wanted, e.g. ``["points_per_side 16, wanted 32"]``."""
        own, theirs = dict(_flat(json.loads(self.to_json()))), dict(_flat(json.loads(wanted.to_json())))
        return [
            f"{name.removeprefix('facts.')} {_short(own.get(name))}, wanted {_short(theirs.get(name))}"
            for name in sorted({*own, *theirs})
            if own.get(name) != theirs.get(name)
        ]


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    """A value as a person reads it; of a hash, the beginning."""
    text = "none" if value is None else str(value)
    return text if len(text) < _SHOWN else f"{text[:12]}..."
