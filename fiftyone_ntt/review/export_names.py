"""Names of images in an export, and content that what trains with it can read."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from io import BytesIO
from pathlib import PurePosixPath

from PIL import Image

from fiftyone_ntt.pixels.drawing import encode_png
from fiftyone_ntt.pixels.images import decode_image

_LONGEST_PART, _LONGEST_NAME = 200, 800  # bytes; file systems allow 255 and about 4,000
_YOLO_KINDS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
"""What every trainer of YOLO models reads: Pillow's name of a format -> suffix."""
YOLO_SUFFIXES = frozenset({f".{suffix}" for suffix in (*_YOLO_KINDS.values(), "jpeg", "mpo", "tiff")})
"""Images with other suffixes these trainers pass over in silence."""


class Names:
    """Names for images within an export: the path below the folder that all of them share.

    Names are distinct also where a file system takes ``A.jpg`` for ``a.jpg``; in YOLO, whose labels lie in
    ``<name>.txt``, without their extensions, too.

    Args:
        paths: of all images.
        format: of the export.
    """

    def __init__(self, paths: Sequence[str], format: str) -> None:
        self.format = format
        self.renamed: dict[str, str] = {}
        try:
            self.root = os.path.commonpath({os.path.dirname(os.path.normpath(path)) for path in paths})
        except ValueError:  # no paths, or addresses among them
            self.root = ""
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._last: dict[str, tuple[PurePosixPath, int]] = {}  # key -> what came of it last: thousands may share one
        self._listed: dict[str, bool] = {}

    def in_place(self, path: str) -> str:
        """The name of an image that stays where it is: the end of its path, or all of it.

        What reads the export looks below the shared folder, but finds no hidden file there and none behind a link.
        """
        place, (folder, name) = os.path.normpath(path), os.path.split(os.path.normpath(path))
        if folder not in self._listed:
            inside = folder.removeprefix(self.root).strip(os.sep)
            straight = os.path.normpath(os.path.join(os.path.realpath(self.root), inside))
            self._listed[folder] = self.root not in ("", os.sep) and os.path.realpath(folder) == straight
        is_found = self._listed[folder] and not name.startswith(".") and os.path.isfile(place)
        return place.removeprefix(self.root).strip(os.sep) if is_found else path

    def name(self, path: str, suffix: str | None = None) -> str:
        """A name that no other image of this export has, with ``/`` between folders; it may need another suffix."""
        relative = os.path.normpath(path).removeprefix(self.root)
        parts = [self._part(part) for part in relative.split(os.sep) if part not in ("", ".", "..")] or ["image"]
        if len("/".join(parts).encode()) > _LONGEST_NAME:
            parts = [_digest("/".join(parts[:-1])), parts[-1]]
        if suffix is not None:
            parts[-1] = os.path.splitext(parts[-1])[0] + suffix
        plain = PurePosixPath(*parts)
        first = self._key(plain)
        name, count = self._last.get(first, (plain, 1))
        while self._is_taken(name):
            count += 1
            # Where a file has the name of a folder above, another name in that folder is no way out.
            top = f"{plain.parts[0]}-{count}" if self._is_below_a_file(name) else plain.parts[0]
            own = plain.name if top != plain.parts[0] else f"{plain.stem}-{count}{plain.suffix}"
            name = PurePosixPath(top, *plain.parts[1:-1], own) if len(plain.parts) > 1 else PurePosixPath(own)
        self._last[first] = name, count
        key = self._key(name)
        self._files.add(key)
        self._folders.update(key[:i] for i, letter in enumerate(key) if letter == "/")
        if str(name) != relative.strip(os.sep):
            self.renamed[str(name)] = path
        return str(name)

    def _part(self, part: str) -> str:
        text = "".join("_" if letter == "\\" or unicodedata.category(letter)[0] == "C" else letter for letter in part)
        if text.startswith("."):
            text = f"_{text}"  # loaders skip hidden files
        if self.format == "yolo" and text == "images":
            text = "images_"  # loaders replace the last folder of this name by `labels`
        if len(text.encode()) > _LONGEST_PART:
            stem, suffix = os.path.splitext(text)
            suffix = suffix if len(suffix.encode()) < 20 else ""
            text = f"{stem.encode()[: _LONGEST_PART - 40].decode(errors='ignore')}-{_digest(text)}{suffix}"
        return text

    def _is_taken(self, name: PurePosixPath) -> bool:
        key = self._key(name)
        return key in self._files or key in self._folders or self._is_below_a_file(name)

    def _is_below_a_file(self, name: PurePosixPath) -> bool:
        key = self._key(name)
        return any(key[:i] in self._files for i, letter in enumerate(key) if letter == "/")

    def _key(self, name: PurePosixPath) -> str:
        text = str(name.with_suffix(".txt") if self.format == "yolo" else name)
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def for_yolo(data: bytes, path: str) -> tuple[bytes, str | None]:
    """Content of an image as trainers of YOLO models read it, and the suffix that it needs where its own will not do.

    Args:
        data: content of the file.
        path: where it lies.

    Raises:
        InputError: if it cannot be decoded.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            kind = _YOLO_KINDS.get(image.format or "")
    except Exception:  # what only other decoders read, these trainers do not
        kind = None
    if kind is None:
        return encode_png(decode_image(data, path)), ".png"
    return data, None if os.path.splitext(path)[1].lower() in YOLO_SUFFIXES else f".{kind}"
