"""Reading an image file the way every other module expects it."""

from __future__ import annotations

import hashlib
import stat
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.contrast import contrast_note
from fiftyone_ntt.pixels.deep_images import (
    bits_of_jpeg2000,
    deep_colours,
    is_plain_tiff,
    is_tiff,
    next_is,
    notes_on_channels,
    opacity_of_tiff,
    read_tiff,
    size_of_tiff,
    turn_of,
    turned,
)
from fiftyone_ntt.pixels.extra_readers import IN_SEVERAL_FILES, how_to_install, is_slide, size_by_extras
from fiftyone_ntt.pixels.file_kinds import diagnosis, has_exif, reason_of
from fiftyone_ntt.pixels.files import read_file
from fiftyone_ntt.pixels.transparency import opacity_of, visible
from fiftyone_ntt.pixels.windowing import windowed

MOST_BYTES = 1 << 31
"""Of an image file, wherever it lies."""
MARKED_BY = 32
"""Bytes at the beginning of a file that tell a PNG of 16 bits from others."""
_REFUSED_FORMATS = frozenset({"EPS"})
"""Formats that PIL hands to another program, which would run what the file says."""
_WIDTH, _HEIGHT, _DESCRIPTION, _ORIENTATION = 256, 257, 270, 274
_SIDEWAYS = (5, 6, 7, 8)
_HEADER = 1 << 16
_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image, and what a person should know who looks at results on it.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB, upright.
        notes: e.g. that only the first page is used, or that there is hardly any contrast. Most images have none.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_image(path: str | Path, *, upright: bool = True) -> NDArray[np.uint8]:
    """Reads an image as RGB, upright.

    EXIF rotation is applied, because FiftyOne's App shows images (and draws labels on them) that way. Values of more
    than 8 bits are brought to 8 by the range of the content, see ``windowed``.

    Args:
        path: any file PIL can open, and TIFF files of up to 64 bits a value and any number of channels.
        upright: apply EXIF rotation; the annotations of published data sets are of the pixels as they are stored. TIFF
            files are upright always.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        InputError: if the file is missing, unreadable or not an image.

    Example:
        >>> read_image("slide.tif").shape  # doctest: +SKIP
        (1024, 1536, 3)
    """
    return decode_with_notes(read_bytes(path), path, upright=upright).pixels


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The content of an image file.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        InputError: if the file is missing, unreadable, or nothing that could be an image.
    """
    try:
        data = read_file(path, most)
    except FileNotFoundError as error:
        raise InputError(f"image file not found: {path}") from error
    except InputError as error:
        raise InputError(f"not a readable image: {path} ({error}); get it again") from error
    except (OSError, TypeError, ValueError, MemoryError) as error:
        raise InputError(f"not a readable image: {path} ({reason_of(error)})") from error
    if not data:
        raise InputError(f"not a readable image: {path} (expected 1 to {most} bytes, got an empty file); get it again")
    return data


def is_plain_file(path: str | Path) -> bool:
    """Whether a file is there that reading comes to an end of: no pipe, no device, no folder."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, TypeError, ValueError):
        return False


def image_size(path: str | Path, *, upright: bool = True) -> tuple[int, int] | None:
    """Height and width of an image as it is read, from its header; ``None`` where that does not tell.

    Args:
        path: the file.
        upright: with EXIF rotation. TIFF files are upright always.
    """
    if not is_plain_file(path):
        return None
    if is_slide(path):
        size = size_by_extras(path)
        if size is not None or Path(path).suffix.lower() in IN_SEVERAL_FILES:
            return size
    is_too_large = False
    try:
        with Image.open(path) as image:
            if image.format != "TIFF":
                return upright_size(image) if upright else (image.height, image.width)
            if is_plain_tiff(image):
                tags: Any = image.tag_v2
                # As stored: whether Pillow's own size is turned already depends on its version.
                height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
                return (width, height) if tags.get(_ORIENTATION) in _SIDEWAYS else (height, width)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:  # ``tifffile`` may open it
        is_too_large = isinstance(error, Image.DecompressionBombError)
    except Exception:  # whoever decodes it will say what is wrong
        return None
    with suppress(Exception):
        return size_of_tiff(path)
    return size_by_extras(path) if is_too_large else None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of a picture (no TIFF, which Pillow turns by itself) as it is shown."""
    width, height = image.size
    return (width, height) if orientation_of(image) in _SIDEWAYS else (height, width)


def decode_image(data: bytes, path: str | Path) -> NDArray[np.uint8]:
    """The image in the content of a file, as ``read_image`` gives it; ``path`` is for the error."""
    return decode_with_notes(data, path).pixels


def decode_with_notes(data: bytes, path: str | Path, *, upright: bool = True) -> ReadImage:
    """The image in the content of a file, as ``read_image`` gives it, with what to note about it.

    Args:
        data: the content.
        path: for the error.
        upright: apply EXIF rotation.

    Raises:
        InputError: if it is not an image, or one of a kind that cannot be read; the message names the kind.
    """
    if Path(path).suffix.lower() in IN_SEVERAL_FILES:  # what the file itself holds is at most a small picture
        raise InputError(
            f"not a readable image: {path} (a slide in several files, which is read in tiles: "
            f"{how_to_install('openslide')})"
        )
    try:
        pixels, notes = _decoded(data, upright)
    except InputError as error:
        raise InputError(f"not a readable image: {path} ({error})") from error
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise InputError(f"not a readable image: {path} ({diagnosis(data, error)})") from error
    contrast = contrast_note(pixels)
    return ReadImage(pixels, (*notes, contrast) if contrast else tuple(notes))


def content_digest(data: bytes, *, upright: bool = True) -> str:
    """What tells the content of image files apart: SHA-256, and another one for images that were read otherwise before.

    Candidates found in a picture of 16 bits as earlier versions read it must not be taken for those of the picture.
    """
    digest = hashlib.sha256(data)
    digest.update(digest_marks(data[:MARKED_BY], BytesIO(data), upright))
    return digest.hexdigest()


def digest_marks(head: bytes, source: Path | BytesIO, upright: bool) -> bytes:
    """What ``content_digest`` adds to the content; nothing for most images.

    Args:
        head: the first ``MARKED_BY`` bytes of the content, or all of it.
        source: the file, or its content.
        upright: apply EXIF rotation.
    """
    anew = b"windowed" if _is_read_anew(head, source) else b""
    anew += b"on a background" if _has_transparent_parts(head, source) else b""
    anew += b"not by XMP" if upright and _is_turned_by_xmp(source) else b""
    return anew + (b"as stored" if not upright and _is_rotated(source) else b"")


def content_key(data: bytes) -> str:
    """The same with the file's length in front: files of another length need not be read to be told apart."""
    return f"{len(data)}-{content_digest(data)}"


def _is_rotated(source: Path | BytesIO) -> bool:
    try:
        with _opened(source) as image:
            return orientation_of(image) not in (None, 1)
    except Exception:  # whoever decodes it will say what is wrong
        return False


def _decoded(data: bytes, upright: bool = True) -> tuple[NDArray[np.uint8], list[str]]:
    try:
        image = _opened(BytesIO(data))
    except UnidentifiedImageError:
        if not is_tiff(data):
            raise
        pixels, notes = read_tiff(data, None)
        return _three(pixels), notes
    with image:
        if image.format in _REFUSED_FORMATS:
            raise InputError(f"{image.format} draws, export it as PNG")
        if image.format == "TIFF" and not is_plain_tiff(image):
            pixels, notes = read_tiff(data, image)
            return _three(pixels), notes
        notes = _frame_notes(image, data)
        if is_deep_colour(image, data):
            opacity, orientation = opacity_of(image), orientation_of(image) if upright else None
            return turned(visible(deep_colours(data, image, opacity), opacity, notes), orientation), notes
        picture = _upright(image) if upright else image
        return visible(np.asarray(to_rgb(picture)), opacity_of(picture), notes), notes


def _is_read_anew(head: bytes, source: Path | BytesIO) -> bool:
    """Whether the values of an image have more than 8 bits, or are those of a TIFF that Pillow does not read."""
    if head[:3] == b"\xff\xd8\xff" or head[:4] in (b"RIFF", b"GIF8") or head[:2] == b"BM":
        return False  # never; most images are of these
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return head[24:25] == b"\x10"
    try:
        with Image.open(source) as image:
            deep = image.mode == "F" or image.mode.startswith("I") or is_deep_colour(image, head)
            return deep or (image.format == "TIFF" and not is_plain_tiff(image))
    except Exception:  # whoever decodes it will say what is wrong
        return is_tiff(head)


def _has_transparent_parts(head: bytes, source: Path | BytesIO) -> bool:
    """Whether an image is shown on a background. Only what may have transparent parts is decoded."""
    if head[:3] == b"\xff\xd8\xff" or head[8:16] == b"WEBPVP8 ":
        return False  # never; most images are of these
    try:
        with Image.open(source) as image:
            return opacity_of(image) is not None
    except Exception:  # whoever decodes it will say what is wrong
        return is_tiff(head) and isinstance(source, BytesIO) and opacity_of_tiff(source.getvalue()) is not None


# Decoding by Pillow


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # what is wrong with the pixels costs the image, what is wrong with the EXIF data does not
    turn = turn_of(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> Any:
    """The EXIF orientation, and not that of XMP data: Pillow takes these too, browsers and OpenCV do not."""
    try:
        if image.format == "TIFF":
            return image.getexif().get(_ORIENTATION)  # that of the page; see ``_opened``
        stream: Any = getattr(image, "fp", None)
        if image.format == "PNG" and stream is not None and has_exif(stream):
            image.getexif()  # it may stand behind the pixels, and this reads on
        data, raw = image.info.get("exif"), image.info.get("Raw profile type exif")
        if data is None and raw is not None:  # as some programs put it into a PNG: as text
            data = bytes.fromhex("".join(raw.split("\n")[3:]))
        exif = Image.Exif()
        exif.load(data or b"")
        return exif.get(_ORIENTATION)
    except Exception:  # damaged EXIF data; a browser shows such an image as it is
        return None


def _opened(source: Path | BytesIO) -> Image.Image:
    """A picture that Pillow turns, while it decodes a TIFF, by the orientation of the page alone."""
    image = Image.open(source)
    if image.format == "TIFF":
        image.info.pop("xmp", None)
    return image


def _is_turned_by_xmp(source: Path | BytesIO) -> bool:
    """Whether earlier versions turned an image by its XMP data."""
    if not isinstance(source, BytesIO) or b"tiff:Orientation" not in source.getvalue():
        return False
    try:
        with Image.open(source) as image:
            before = image.getexif().get(_ORIENTATION)
        with _opened(source) as image:
            return turn_of(before) != turn_of(orientation_of(image))
    except Exception:  # whoever decodes it will say what is wrong
        return False


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture in RGB, whatever its mode."""
    if image.mode == "La":  # the only mode that Pillow brings to one other alone
        image = image.convert("LA")
    # 16- or 32-bit greyscale, or real numbers: PIL would clip instead of scaling.
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(windowed(np.asarray(image)))
    if image.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return image.convert("RGB") if converted is None else converted
    return image.convert("RGB")


def _three(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


# Notes


def _frame_notes(image: Image.Image, data: bytes) -> list[str]:
    """Whether there is more in the file than the one picture that is used."""
    try:
        if image.format in _ANIMATED and getattr(image, "is_animated", False):
            return ["only the first frame of the animation is used"]
        if image.format != "TIFF":
            return []
        notes, tags = notes_on_channels(image), getattr(image, "tag_v2", {})
        if getattr(image, "is_animated", False) and _has_pages(data):
            notes.append(f"only the first {next_is(tags.get(_DESCRIPTION))} is used")
        return notes
    except Exception:  # what is behind the first one may be damaged
        return []


def _has_pages(data: bytes) -> bool:
    """Whether the second page of a TIFF is a picture of its own, not a smaller copy or a mask of the first."""
    page: Any = Image.open(BytesIO(data))
    with page:
        page.seek(1)
        return not page.tag_v2.get(254, 0) & 0b101


def notes_at_a_glance(path: str | Path) -> tuple[str, ...]:
    """The notes on an image that need not be decoded for anything else; none on one that cannot be read."""
    try:
        data = read_bytes(path)
        if not data.startswith(b"\xff\xd8\xff"):
            return decode_with_notes(data, path).notes
        with Image.open(BytesIO(data)) as image:
            image.draft("RGB", (256, 256))  # a JPEG can be decoded at an eighth of its size, in less time
            note = contrast_note(np.asarray(image.convert("RGB")))
        return () if note is None else (note,)
    except Exception:
        return ()


def is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow would keep only the high bytes of the colours of a PNG, PPM or JPEG 2000."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PNG":
        return data[24] == 16  # bits a value, in the header
    if image.format == "JPEG2000":
        return bits_of_jpeg2000(_beginning_of(image)) > 8
    tiles: Any = getattr(image, "tile", ())
    return image.format == "PPM" and any(tile[0] != "raw" and tile[3][1] > 255 for tile in tiles)


def _beginning_of(image: Image.Image) -> bytes:
    """The first bytes of the file of a picture that is not decoded yet."""
    stream: Any = getattr(image, "fp", None)
    if stream is None:
        return b""
    place = stream.tell()
    stream.seek(0)
    head = bytes(stream.read(_HEADER))
    stream.seek(place)
    return head
