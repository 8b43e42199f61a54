"""Images of more than 8 bits a value, and TIFF files that Pillow reads wrongly or not at all."""

from __future__ import annotations

import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.pixels.transparency import (
    MOST_OF_TIFF,
    MULTIPLIED,
    OPACITIES,
    opacity_of,
    visible,
    visible_only,
)
from fiftyone_ntt.pixels.windowing import is_data, windowed

_MOST_BYTES = 1 << 31
_MOST_INFLATION = 1032
"""By how much deflate can shrink a block at most."""
_SAMPLE = 1 << 20
_NO_DATA_TAG, _INVERTED, _RGB = 42113, 0, 2
_NAMES = {
    3: "a palette of more than 8 bits", 4: "a mask for another picture", 5: "CMYK colours", 6: "YCbCr colours",
    8: "CIELab colours", 9: "ICCLab colours", 10: "ITULab colours", 32803: "the raw pixels of a camera",
    32844: "LogL values", 32845: "LogLuv values", 34892: "the raw pixels of a camera",
}  # fmt: skip
_PNG, _CHANNELS_OF_PNG = b"\x89PNG\r\n\x1a\n", {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_SUBFILE, _BITS, _SHOWS, _ORIENTATION, _SUB_IFDS, _EXTRA, _FORMAT, _DNG = 254, 258, 262, 274, 330, 338, 339, 50706
_PLAIN, _DEFLATE, _OTHERS = 1, (8, 32946), (5, 7, 32773)
_LOSSLESS = (_PLAIN, *_DEFLATE, 5, 32773)
_COMPRESSION, _DESCRIPTION, _CHANNELS, _SUBSAMPLING, _YCBCR = 259, 270, 277, 530, 6
_AXES = {"C": "channel of the file", "Z": "slice of the volume", "T": "frame of the file"}
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}  # fmt: skip


# TIFF


def is_tiff(data: bytes) -> bool:
    """Whether the content of a file is a TIFF, classic or big."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_plain_tiff(image: Image.Image) -> bool:
    """Whether Pillow reads the TIFF rightly: up to 8 bits without a sign, in colours it knows.

    Raises:
        InputError: if the file is a camera's, and its first page only a small preview.
    """
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_SUBFILE, 0) & 1 and (_DNG in tags or _SUB_IFDS in tags):
        raise InputError("expected an image, got the raw file of a camera; export it as PNG, JPEG or TIFF")
    thinned = tags.get(_SUBSAMPLING, (1, 1)) != (1, 1) and tags.get(_COMPRESSION, _PLAIN) in _LOSSLESS
    if tags.get(_SHOWS) == _YCBCR and thinned:  # a decoder takes it for a file that ends too early
        raise InputError(
            "expected a TIFF of grey or RGB values, got one of YCbCr colours, fewer than there are pixels; save it as "
            "RGB"
        )
    bits, formats = _several(tags.get(_BITS, 1)), _several(tags.get(_FORMAT, 1))
    sliver = image.width <= 8 < image.height  # an [H, W, C] array that was written as H pages
    return image.mode == "CMYK" or (max(bits) <= 8 and set(formats) <= {1, 4} and not sliver)


def read_tiff(data: bytes, image: Image.Image | None) -> tuple[NDArray[np.uint8], list[str]]:
    """The first page of a TIFF, and what to note about it.

    Args:
        data: the content of the file.
        image: what Pillow makes of it; ``None`` if it cannot open it.

    Returns:
        uint8 ``[H, W]`` or ``[H, W, 3]``, upright, and notes.

    Raises:
        InputError: if it is a TIFF of a kind that cannot be read, or too large.
    """
    try:
        values, page, notes = _by_tifffile(data)
    except InputError:
        raise
    except Exception as error:
        if image is None:
            raise InputError(_unreadable(error)) from error
        picture, notes = _by_pillow(data, image), []
        return visible(picture, opacity_of(image), notes), notes
    return turned(_shown(values, page, notes), _tag(page, _ORIENTATION, 1)), notes


def _by_tifffile(data: bytes) -> tuple[NDArray[Any], Any, list[str]]:
    """Values ``[H, W]`` or ``[H, W, C]`` of the first page, the page, and what to note."""
    import tifffile  # late: most images need none of it

    with tifffile.TiffFile(BytesIO(data)) as file:
        page, source = _source(file)
        notes: list[str] = []
        if source is page and any(not (other.is_reduced or other.is_mask) for other in _next_pages(file)):
            notes.append(f"only the first {next_is(page.description)} is used")
        _check_size(page, source)
        axes, values = source.axes, np.asarray(source.asarray(maxworkers=1))
        if source is page and page.planarconfig == 2 and axes.startswith("S"):
            values = np.moveaxis(values, 0, -1)
        elif values.ndim > 2 and "Z" in axes:
            values = values[0]
            notes.append("only the first slice of the volume is used")
        if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
            raise InputError(f"expected a TIFF of two dimensions and real numbers, got {values.shape} {values.dtype}")
        return values, page, notes


def _source(file: Any) -> tuple[Any, Any]:
    """The first page, and what holds the picture: the page, or all of ``[H, W, C]`` that was written as H pages."""
    page: Any = file.pages.first
    if page.imagewidth <= 8 < page.imagelength and page.is_shaped:
        series: Any = file.series[0]
        if series.ndim == 3 and series.shape[1:] == page.shape:
            return page, series
    return page, page


def size_of_tiff(path: str | Path) -> tuple[int, int]:
    """Height and width, upright, of what ``read_tiff`` makes of a file; raises anything where it is none."""
    import tifffile  # late: most images need none of it

    with tifffile.TiffFile(path) as file:
        page, source = _source(file)
        height, width = source.shape[:2] if source is not page else (page.imagelength, page.imagewidth)
        return (width, height) if _tag(page, _ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)


def _next_pages(file: Any) -> list[Any]:
    """The second page, if there is one; a forged file may have any number."""
    try:
        return [file.pages[1]]
    except Exception:  # there is none, or it is damaged
        return []


def _check_size(page: Any, source: Any) -> None:
    """Raises InputError if a page would take more memory than any image should; nothing is decoded yet."""
    height, width = (*source.shape[:2],) if source is not page else (page.imagelength, page.imagewidth)
    size = int(np.prod(source.shape, dtype=np.float64)) * (page.dtype.itemsize if page.dtype is not None else 8)
    most = Image.MAX_IMAGE_PIXELS
    if (most is not None and height * width > 2 * most) or size > _MOST_BYTES:
        raise InputError(f"expected at most {2 * (most or 0)} pixels, got {height * width} pixels; cut it into tiles")
    if page.compression not in (_PLAIN, *_DEFLATE, *_OTHERS):
        raise ValueError(f"compression {page.compression!r}")
    if len(page.dataoffsets) < int(np.prod(page.chunked, dtype=np.float64)):
        raise InputError("a truncated TIFF: parts of it are missing; get it again")  # decoders leave them black
    if page.is_tiled and page.tilewidth * page.tilelength > 4 * _SAMPLE + 4 * height * width:
        raise InputError(f"expected tiles of the size of the image, got {page.tilewidth} x {page.tilelength}")
    if page.compression in _DEFLATE:
        _check_deflated(page, size)


def _check_deflated(page: Any, size: int) -> None:
    """A few megabytes of deflate can unpack to gigabytes."""
    import zlib

    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count * _MOST_INFLATION <= max(4 * size, 1 << 26):
            continue
        page.parent.filehandle.seek(offset)
        unpacked = zlib.decompressobj().decompress(page.parent.filehandle.read(count), 2 * size + 1)
        if len(unpacked) > 2 * size:
            raise InputError(f"expected {size} bytes of pixels, got more; the file is damaged, get it again")


def _shown(values: NDArray[Any], page: Any, notes: list[str]) -> NDArray[np.uint8]:
    """The picture ``[H, W]`` or ``[H, W, 3]`` that the values stand for."""
    shows = int(page.photometric)
    if shows in _NAMES:
        raise InputError(f"expected a TIFF of grey or RGB values, got one of {_NAMES[shows]}; save it as RGB")
    nodata, extra = _nodata(page), _several(_tag(page, _EXTRA, ()))
    opacity = _opacity(values, extra)
    if values.ndim == 3:
        values = _three_channels(values, shows, extra, notes)
    if opacity is not None:
        values = visible_only(_not_multiplied(values, opacity) if extra == (MULTIPLIED,) else values, opacity)
    picture = windowed(values, nodata, together=shows == _RGB)
    if shows == _INVERTED:
        picture = np.where(is_data(values, nodata), 255 - picture, 0).astype(np.uint8)
    return visible(picture, opacity, notes)


def opacity_of_tiff(data: bytes) -> NDArray[np.uint8] | None:
    """``opacity_of`` a TIFF that Pillow cannot open, ``None`` too where nothing can."""
    try:
        values, page, _ = _by_tifffile(data)
        return _opacity(values, _several(_tag(page, _EXTRA, ())))
    except Exception:  # whoever decodes it will say what is wrong
        return None


def _opacity(values: NDArray[Any], extra: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Opacity of each pixel, uint8 ``[H, W]``; ``None`` where the file has none, or the same everywhere."""
    if values.ndim != 3 or values.shape[2] not in (2, 4) or extra not in OPACITIES or values.dtype.kind not in "uf":
        return None
    stored = values[..., -1]
    if stored.size > MOST_OF_TIFF:
        return None
    if values.dtype.kind == "u":
        opacity = (stored >> (8 * values.dtype.itemsize - 8)).astype(np.uint8)
    else:
        share = np.nan_to_num(stored, posinf=0.0).clip(0, None)
        opacity = np.rint(share / max(1.0, float(share.max())) * 255).astype(np.uint8)
    return None if opacity.min() == opacity.max() else opacity


def _not_multiplied(values: NDArray[Any], opacity: NDArray[np.uint8]) -> NDArray[Any]:
    """Colours before their opacity was multiplied into them."""
    share = np.maximum(opacity, 1).reshape(opacity.shape + (1,) * (values.ndim - 2)) / np.float32(255)
    most = np.iinfo(values.dtype).max if values.dtype.kind == "u" else np.inf
    return np.asarray(np.minimum(values / share, most)).astype(values.dtype)


def _three_channels(values: NDArray[Any], shows: int, extra: tuple[int, ...], notes: list[str]) -> NDArray[Any]:
    """Of channels, those to show: ``[H, W]`` or ``[H, W, 3]``."""
    channels = values.shape[2]
    coloured = shows == _RGB and channels >= 3
    alone = channels == 1 or (channels == 2 and extra in ((1,), (2,)))  # grey, or grey and its opacity
    if not alone and not (coloured and channels <= 4):
        notes.append(_note_on(channels))
    return values[..., :3] if channels > 2 else values[..., 0]


def _note_on(channels: int) -> str:
    names = "the first three are used as red, green and blue" if channels > 2 else "the first is used"
    return f"the file has {counted(channels, 'channel')}, {names}"


def notes_on_channels(image: Image.Image) -> list[str]:
    """What to note about the channels of a TIFF that Pillow reads: it gives the first of two grey ones."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    channels = tags.get(_CHANNELS, 1)
    is_grey = tags.get(_SHOWS) in (_INVERTED, 1)
    return [_note_on(channels)] if is_grey and channels > 1 and tuple(tags.get(_EXTRA, ())) not in OPACITIES else []


def next_is(description: object) -> str:
    """What the second page of a TIFF is one more of, as ImageJ and OME write it into the description of the first."""
    text = str(description or "")[:_SAMPLE]
    if text.startswith("ImageJ="):
        found = re.findall(r"^(channels|slices|frames)=(\d{1,9})$", text, re.MULTILINE)
        sizes, order = {{"channels": "C", "slices": "Z", "frames": "T"}[key]: int(size) for key, size in found}, "CZT"
    else:
        sizes = {axis: int(size) for axis, size in reversed(re.findall(r'\bSize([CZT])="(\d{1,9})"', text))}
        order = next(iter(re.findall(r'\bDimensionOrder="XY([CZT]{3})"', text)), "")
        per_page = next(iter(re.findall(r'\bSamplesPerPixel="(\d{1,9})"', text)), "1")
        sizes["C"] = sizes.get("C", 1) // max(1, int(per_page))
    return next((_AXES[axis] for axis in order if sizes.get(axis, 1) > 1), "page of the file")


def _by_pillow(data: bytes, image: Image.Image) -> NDArray[np.uint8]:
    """What Pillow or OpenCV can read of a TIFF that ``tifffile`` alone cannot unpack: uint8, upright."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    inverted, signed = tags.get(_SHOWS) == _INVERTED, 2 in _several(tags.get(_FORMAT, 1))
    bits = max(_several(tags.get(_BITS, 1)))
    if image.mode.startswith("RGB") and bits == 16:
        return deep_colours(data, image)
    image.load()  # turns it upright, too
    values = np.asarray(image)
    if image.mode == "I" and bits == 32 and not signed:
        values = values.view(np.uint32)
    elif image.mode == "L" and signed:
        values = values.view(np.int8)
    elif image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return np.asarray(image.convert("RGB"))
    picture = windowed(values)
    return 255 - picture if inverted and image.mode != "L" else picture


def _nodata(page: Any) -> float | None:
    """What GDAL wrote into the file to stand for "no data"."""
    try:
        return float(_tag(page, _NO_DATA_TAG, ""))
    except (TypeError, ValueError):
        return None


def turn_of(orientation: object) -> Image.Transpose | None:
    """What brings an image of an EXIF orientation upright; ``None`` where nothing has to."""
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def turned(image: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    turn = turn_of(orientation)
    return image if turn is None else np.asarray(Image.fromarray(image).transpose(turn))


def _tag(page: Any, code: int, default: object) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value


def _several(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _unreadable(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "imagecodecs" in text or "COMPRESSION" in text:
        return (
            f"expected a TIFF that can be unpacked here, got {text}; pip install imagecodecs, or save it uncompressed"
        )
    return f"a TIFF that cannot be read: {text}"


# Colours of 16 bits


def deep_colours(data: bytes, image: Image.Image, opacity: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Colours of 16 bits, windowed where they use little of their range: uint8 ``[H, W, 3]``.

    Pillow decodes first: it is strict, and what it makes of them stands where OpenCV reads something else.
    """
    image.load()
    high_bytes = np.asarray(image.convert("RGB"))
    import cv2  # late: few images need it

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # [H, W, 3 or 4], BGR or BGRA
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[:2] != high_bytes.shape[:2]:
        return high_bytes
    colours = values[..., 2::-1].astype(np.uint16, copy=False)
    if image.format == "JPEG2000":  # a picture of 12 bits that uses them all is no dark one of 16
        colours = colours << np.uint16(16 - bits_of_jpeg2000(data))
        if np.abs((colours >> 8).astype(np.int16) - high_bytes).max() > 1:  # other colours than red, green and blue
            return high_bytes
    return windowed(colours if opacity is None else visible_only(colours, opacity))


def bits_of_jpeg2000(data: bytes) -> int:
    """Bits a value of a JPEG 2000, from where its code begins; 0 where that is not found, or more than 16."""
    size = data.find(b"\xff\x4f\xff\x51")  # a picture begins, and says how large it is
    depth = data[size + 42 : size + 43] if size >= 0 else b""
    bits = (depth[0] & 127) + 1 if depth else 0
    return bits if bits <= 16 else 0


def has_palette(path: str | Path) -> bool:
    """Whether the pixels of a picture are the numbers of colours, as those of Pascal VOC's masks are."""
    try:
        with Image.open(path) as image:
            return str(image.mode) == "P"
    except Exception:  # whoever decodes it will say what is wrong
        return False


def stored_values(data: bytes, most: int) -> NDArray[Any]:
    """The values of a picture as they are stored, which is what masks are read by: ``[H, W]`` or ``[H, W, RGB(A)]``.

    Args:
        data: content of the file.
        most: bytes that the values may take; what the file says of itself is checked before it is decoded.

    Raises:
        InputError: if it is no picture, or a larger one.
    """
    import cv2  # late: few images need it

    try:
        size = _size_of_png(data) if data[:8] == _PNG else _size_of_picture(data)
    except Exception as error:  # whatever a stranger's bytes make a decoder raise
        raise InputError(f"expected a picture, got {' '.join(str(error).split()) or type(error).__name__}") from error
    if size > most:
        raise InputError(f"expected a picture of at most {most} bytes, got one of {size}")
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # colours are BGR or BGRA
    except cv2.error as error:
        raise InputError(f"expected a picture, got a damaged one ({error.err})") from error
    if values is None:
        raise InputError("expected a picture, got a damaged one")
    if values.ndim == 2:
        return np.asarray(values)
    return np.asarray(values[..., [2, 1, 0, *range(3, values.shape[2])]])


def _size_of_picture(data: bytes) -> int:
    """Bytes that the values of a picture take, from its header."""
    with Image.open(BytesIO(data)) as image:
        return int(image.width * image.height * len(image.getbands()) * (1 if image.mode in ("1", "L", "P") else 2))


def _size_of_png(data: bytes) -> int:
    """The same of a PNG file: masks lie in such, also of images that Pillow opens only where it is told to."""
    width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
    return int(width * height * _CHANNELS_OF_PNG[kind] * (2 if bits == 16 else 1))
