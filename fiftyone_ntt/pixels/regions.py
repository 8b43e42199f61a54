"""Parts of images that are too large to be looked at, or to be decoded, as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.deep_images import is_tiff
from fiftyone_ntt.pixels.extra_readers import (
    IN_SEVERAL_FILES,
    how_to_install,
    is_installed,
    is_slide,
    open_by_extras,
    package_for,
)
from fiftyone_ntt.pixels.images import (
    MARKED_BY,
    content_digest,
    decode_with_notes,
    digest_marks,
    image_size,
    is_plain_file,
    read_bytes,
)

Box = tuple[int, int, int, int]
MOST_WHOLE = 1 << 26
"""Pixels that are decoded, or looked at, at once: 200 MB. No mask is larger than that either."""
_IN_MEMORY = 1 << 28
_ORIENTATION = 274
_GREY, _RGB, _YCBCR = 1, 2, 6
_JPEG = (6, 7)


@dataclass(frozen=True)
class Tile:
    """A part of an image that the models look at as at an image of its own.

    Attributes:
        box: ``(x1, y1, x2, y2)`` in image pixels, x2 and y2 exclusive.
        image_size: ``(height, width)`` of the image.
        shrink: image pixels along each side of a pixel that the models see.
    """

    box: Box
    image_size: tuple[int, int]
    shrink: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in image pixels."""
        return self.box[3] - self.box[1], self.box[2] - self.box[0]

    @property
    def shown_size(self) -> tuple[int, int]:
        """``(height, width)`` of what the models see."""
        height, width = self.size
        return -(-height // self.shrink), -(-width // self.shrink)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the image."""
        return self.size == self.image_size

    def cuts(self, extent: Box) -> bool:
        """Whether an object of this extent, in image pixels, may go on beyond a border that is none of the image's."""
        (height, width), (x1, y1, x2, y2) = self.image_size, self.box
        # A mask has 256 pixels a side: closer than one of them to the border it cannot tell where the object ends.
        near_x, near_y = (x2 - x1) / 256 + 1, (y2 - y1) / 256 + 1
        return (
            (x1 > 0 and extent[0] < x1 + near_x)
            or (y1 > 0 and extent[1] < y1 + near_y)
            or (x2 < width and extent[2] > x2 - near_x)
            or (y2 < height and extent[3] > y2 - near_y)
        )


class RegionReader(Protocol):
    """An image file of which parts are read.

    Attributes:
        size: ``(height, width)`` in pixels, upright.
        notes: what a person should know of the file, see ``ReadImage``.
    """

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def read(self, box: Box, out_size: tuple[int, int]) -> NDArray[np.uint8]:
        """A part of the image, uint8 ``[*out_size, 3]`` RGB; ``box`` is xyxy in image pixels, within the image.

        Raises:
            InputError: if it cannot be read.
        """
        ...


def file_digest(path: str | Path, *, upright: bool = True) -> str:
    """``content_digest`` of a file; one that is too large to be in memory is read bit by bit.

    Args:
        path: the file.
        upright: apply EXIF rotation.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        path = Path(path)
        if path.stat().st_size <= _IN_MEMORY:
            return content_digest(read_bytes(path), upright=upright)
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            head = stream.read(MARKED_BY)
            digest.update(head)
            while block := stream.read(1 << 20):
                digest.update(block)
        digest.update(digest_marks(head, path, upright))
        return digest.hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"image file not found: {path}") from error
    except OSError as error:
        raise InputError(f"not a readable image: {path} ({error.strerror})") from error


@contextmanager
def open_regions(path: str | Path, *, upright: bool = True) -> Iterator[RegionReader]:
    """Opens an image file to read parts of it.

    A TIFF of more than ``MOST_WHOLE`` pixels is read strip by strip or tile by tile; all else is decoded whole once, as
    is a TIFF that cannot be read that way and is not too large. What is too large for that is read by a package of the
    extras, see ``extra_readers``, and so is a slide.

    Args:
        path: the file.
        upright: apply EXIF rotation.

    Raises:
        InputError: if it cannot be read.
    """
    with ExitStack() as stack:
        slide = _slide(stack, path)
        if slide is not None:
            yield slide
            return
        size = image_size(path, upright=False)  # a PNG would be decoded once more to know which side is up
        if size is None or size[0] * size[1] <= MOST_WHOLE or not _is_tiff_file(path):
            whole = size is None or not _is_too_large(size)
            yield WholeImage(path, upright=upright) if whole else stack.enter_context(open_by_extras(path))
            return
        try:
            reader: RegionReader = TiledTiff(stack.enter_context(_opened(path)), path)
            if reader.size != size:
                raise InputError(f"not a readable image: {path} (expected one page; save it as a tiled TIFF)")
        except Exception as error:
            package = package_for(path)
            if _is_too_large(size) and not is_installed(package):
                raise InputError(f"{_not_readable(path, error)}; or {how_to_install(package)}") from error
            stack.close()
            by_package = _is_too_large(size)
            reader = stack.enter_context(open_by_extras(path)) if by_package else WholeImage(path, upright=upright)
        yield reader


def _slide(stack: ExitStack, path: str | Path) -> RegionReader | None:
    """A slide by OpenSlide; ``None`` where it is not installed, or the file is a picture that is only called so."""
    if not is_slide(path) or not is_installed("openslide"):
        return None
    if not is_plain_file(path):
        raise InputError(f"image file not found: {path}")
    try:
        reader: RegionReader = stack.enter_context(open_by_extras(path))
    except InputError:
        if Path(path).suffix.lower() in IN_SEVERAL_FILES or image_size(path, upright=False) is None:
            raise
        return None
    return reader


@contextmanager
def open_overview(path: str | Path, longest_side: int) -> Iterator[RegionReader]:
    """``open_regions``, or a smaller copy of the image where its file holds one that is large enough.

    Slides and maps hold such copies, each of half the size of the one before.

    Args:
        path: the file.
        longest_side: pixels along the longer side that a copy must have at least.

    Raises:
        InputError: if it cannot be read.
    """
    with ExitStack() as stack:
        copy, size = None, image_size(path, upright=False)
        slide = _slide(stack, path)
        if slide is None and size is not None and size[0] * size[1] > MOST_WHOLE:  # others are decoded whole
            with suppress(Exception):  # the image itself is there, too
                copy = _copy_in_tiff(stack, path, longest_side) if _is_tiff_file(path) else None
        yield slide or copy or stack.enter_context(open_regions(path))


def _copy_in_tiff(stack: ExitStack, path: str | Path, longest_side: int) -> RegionReader | None:
    """The smallest copy in a TIFF that is large enough; ``None`` where only the image itself is."""
    import tifffile  # late: most images need none of it

    series = stack.enter_context(tifffile.TiffFile(path)).series[0]
    whole = series.keyframe
    orientation = whole.tags.get(_ORIENTATION)
    if orientation is not None and orientation.value not in (0, 1):  # the copies may not say that they are turned, too
        return None
    for level in reversed(series.levels[1:]):
        page = level.keyframe
        is_whole = abs(page.imagelength / whole.imagelength - page.imagewidth / whole.imagewidth) < 0.001
        if is_whole and max(page.imagelength, page.imagewidth) >= longest_side:
            return TiledTiff(page, path)
    return None


class WholeImage:
    """A file that is decoded whole; see ``RegionReader``."""

    def __init__(self, path: str | Path, *, upright: bool = True) -> None:
        image = decode_with_notes(read_bytes(path), path, upright=upright)
        self._pixels, self.notes = image.pixels, image.notes
        self.size = int(image.pixels.shape[0]), int(image.pixels.shape[1])

    def read(self, box: Box, out_size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``RegionReader``."""
        x1, y1, x2, y2 = box
        return _shrunk(self._pixels[y1:y2, x1:x2], out_size)


class TiledTiff:
    """A page of a TIFF file, classic or big, read by its own tiles or strips; see ``RegionReader``.

    Args:
        page: the page, of ``tifffile``; its file stays open meanwhile.
        path: for the errors.

    Raises:
        InputError: if its values are not grey or RGB of 8 bits, or a strip of it is too large or cannot be decoded.
    """

    def __init__(self, page: Any, path: str | Path) -> None:
        self._page, self._path = page, path
        self.size = int(page.imagelength), int(page.imagewidth)
        self.notes: tuple[str, ...] = ()
        # What is compressed as JPEG comes as RGB, whatever it is inside the file.
        is_jpeg = int(page.photometric) == _YCBCR and int(page.compression) in _JPEG
        is_grey_or_rgb = int(page.photometric) in (_GREY, _RGB) or is_jpeg
        plain = page.dtype == np.uint8 and is_grey_or_rgb and int(page.planarconfig) == 1
        orientation = page.tags.get(_ORIENTATION)
        upright = orientation is None or orientation.value in (0, 1)
        if not plain or not upright or page.imagedepth != 1:
            raise InputError(
                f"not a readable image: {path} (expected a TIFF of grey or RGB values of 8 bits, upright, for an image "
                f"of {self.size[1]} x {self.size[0]} pixels; save it as such, tiled)"
            )
        self._step = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        if self._step[0] * self._step[1] > MOST_WHOLE:
            raise InputError(
                f"not a readable image: {path} (expected tiles or strips of at most {MOST_WHOLE} pixels, got "
                f"{self._step[1]} x {self._step[0]}; save it as a tiled TIFF)"
            )
        self._segment(0)  # whether it can be unpacked here

    def read(self, box: Box, out_size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``RegionReader``."""
        x1, y1, x2, y2 = box
        bands = -(-((y2 - y1) * (x2 - x1)) // MOST_WHOLE)
        if bands > 1 and out_size[0] < bands:  # a row of the result alone is more than is read at once
            return _shrunk(self.read(box, (bands, out_size[1])), out_size)
        if bands > 1:  # some rows of the result at a time
            rows = [out_size[0] * k // bands for k in range(bands + 1)]
            edges = [y1 + (y2 - y1) * row // out_size[0] for row in rows]
            parts = [
                self.read((x1, top, x2, bottom), (end - start, out_size[1]))
                for (top, bottom), (start, end) in zip(pairwise(edges), pairwise(rows), strict=True)
                if end > start
            ]
            return np.concatenate(parts)
        (height, width), across = self._step, -(-self.size[1] // self._step[1])
        pixels = np.zeros((y2 - y1, x2 - x1, 3), np.uint8)
        for row, column in product(range(y1 // height, -(-y2 // height)), range(x1 // width, -(-x2 // width))):
            top, left = row * height, column * width
            part = self._segment(row * across + column)
            if part is None:  # never written: black
                continue
            ys, xs = slice(max(y1, top), min(y2, top + len(part))), slice(max(x1, left), min(x2, left + part.shape[1]))
            seen = part[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
            pixels[ys.start - y1 : ys.stop - y1, xs.start - x1 : xs.stop - x1] = seen
        return _shrunk(pixels, out_size)

    def _segment(self, index: int) -> NDArray[np.uint8] | None:
        """A strip or tile of the file: uint8 ``[h, w, 1 or 3]``."""
        page = self._page
        try:
            if page.databytecounts[index] == 0:
                return None
            page.parent.filehandle.seek(page.dataoffsets[index])
            data = page.parent.filehandle.read(page.databytecounts[index])
            if len(data) < page.databytecounts[index]:
                raise ValueError("the file is truncated")
            part, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
            advice = "pip install imagecodecs, or save it uncompressed" if "imagecodecs" in reason else "get it again"
            raise InputError(f"not a readable image: {self._path} (a part of it: {reason}; {advice})") from error
        plane = np.asarray(part)[0, : shape[1], : shape[2]]  # [h, w, samples]
        return plane[..., :3] if plane.shape[2] >= 3 else plane[..., :1]


def _is_too_large(size: tuple[int, int]) -> bool:
    """Whether an image is larger than what is ever decoded whole."""
    most = Image.MAX_IMAGE_PIXELS
    return most is not None and size[0] * size[1] > 2 * most


def _not_readable(path: str | Path, error: Exception) -> InputError:
    return error if isinstance(error, InputError) else InputError(f"not a readable image: {path} ({error})")


def _is_tiff_file(path: str | Path) -> bool:
    with Path(path).open("rb") as stream:
        return is_tiff(stream.read(4))


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The first page of a TIFF file."""
    import tifffile  # late: most images need none of it

    with tifffile.TiffFile(path) as file:
        yield file.pages.first


def _shrunk(pixels: NDArray[np.uint8], out_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Each pixel the mean of those that it stands for."""
    if pixels.shape[:2] == tuple(out_size):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((out_size[1], out_size[0]), Image.Resampling.BOX))
