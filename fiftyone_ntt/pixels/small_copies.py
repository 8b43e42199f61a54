"""Small copies of images that a browser cannot show: because of their size, or because of their kind."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from fiftyone_ntt.pixels.deep_images import turn_of
from fiftyone_ntt.pixels.extra_readers import is_slide
from fiftyone_ntt.pixels.files import plain_file
from fiftyone_ntt.pixels.images import (
    MARKED_BY,
    is_deep_colour,
    is_plain_file,
    orientation_of,
    to_rgb,
)
from fiftyone_ntt.pixels.regions import open_overview
from fiftyone_ntt.pixels.transparency import opacity_of

SUFFIXES = (".jpg", ".png")
_IN_BROWSERS = frozenset({"JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "AVIF"})
_LARGE = 1 << 24
_one_large_at_a_time = threading.Lock()


@dataclass(frozen=True)
class PreviewFile:
    """The content of a preview's file, and how the file is to end.

    Attributes:
        content: a JPEG, or a PNG where parts of the image are transparent.
        suffix: of ``SUFFIXES``.
    """

    content: bytes
    suffix: str


def needs_preview(path: str | Path, larger_than: int) -> bool:
    """Whether a browser shows an image badly or not at all, from its header.

    So it is with images that have a side of more than ``larger_than`` pixels, with more than 8 bits a value, and in
    formats that browsers do not know, such as TIFF. Also with what is no image: whoever makes the preview will say so.
    """
    if is_slide(path) or not is_plain_file(path):
        return True
    try:
        with Path(path).open("rb") as stream, Image.open(path) as image:
            is_deep = image.mode.startswith(("I", "F")) or is_deep_colour(image, stream.read(MARKED_BY))
            return bool(image.format not in _IN_BROWSERS or is_deep or max(image.size) > larger_than)
    except Exception:
        return True


def preview_file(path: str | Path, longest_side: int) -> PreviewFile:
    """An image as it is looked at (upright, 8 bits), made smaller where it is larger than ``longest_side``.

    Large images are read in parts or decoded at a fraction of their size where their format allows that, and one at a
    time, whichever thread asks.

    Raises:
        InputError: if the image cannot be read.
    """
    with _one_large_at_a_time if _is_large(path) else nullcontext():
        image = _by_pillow(path, longest_side)
        if image is None:
            with open_overview(path, longest_side) as reader:
                height, width = reader.size
                shown = _fitting((width, height), longest_side)
                image = Image.fromarray(reader.read((0, 0, width, height), (shown[1], shown[0])))
        stream, transparent = BytesIO(), image.mode == "RGBA"
        if transparent:
            image.save(stream, "PNG")
        else:
            image.save(stream, "JPEG", quality=90)
    return PreviewFile(stream.getvalue(), SUFFIXES[transparent])


def is_preview(path: Path, longest_side: int) -> bool:
    """Whether a file is a picture that a browser shows, of at most this size."""
    try:
        with Image.open(plain_file(path)) as image:
            return bool(image.format in ("JPEG", "PNG") and max(image.size) <= longest_side)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


def _is_large(path: str | Path) -> bool:
    try:
        with Image.open(plain_file(path)) as image:
            return bool(image.width * image.height > _LARGE)
    except Exception:  # not for Pillow, or too large for it
        return True


def _by_pillow(path: str | Path, longest_side: int) -> Image.Image | None:
    """A JPEG, decoded at a fraction of its size; or a picture with transparent parts. ``None`` for all others.

    And for what cannot be decoded: the ordinary way says what is wrong with it.
    """
    if is_slide(path):  # some begin with a small picture
        return None
    try:
        with Image.open(plain_file(path)) as image:
            if image.format in ("JPEG", "MPO"):
                image.draft(None, _fitting(image.size, longest_side))
                return _upright(image, image if image.mode == "L" else to_rgb(image), longest_side)
            if image.format != "TIFF" and not is_deep_colour(image, _head(path)) and opacity_of(image) is not None:
                return _upright(image, image.convert("RGBA"), longest_side)
    except Exception:  # a damaged file can make a decoder raise nearly anything
        pass
    return None


def _head(path: str | Path) -> bytes:
    with Path(path).open("rb") as stream:
        return stream.read(MARKED_BY)


def _upright(source: Image.Image, image: Image.Image, longest_side: int) -> Image.Image:
    """An image of the orientation of another, upright and made smaller."""
    turn = turn_of(orientation_of(source))
    small = image.resize(_fitting(image.size, longest_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return small if turn is None else small.transpose(turn)


def _fitting(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Two sides, none longer than that; smaller images keep theirs."""
    share = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))
