"""Image files of every kind, made in memory."""

import io

import cv2
import numpy as np
import tifffile
from PIL import Image

from fiftyone_ntt.pixels.images import decode_with_notes

ROWS, COLUMNS = np.mgrid[:60, :80]
GREY = ((ROWS + COLUMNS) / 138 * 255).astype(np.uint8)
GREY[20:40, 30:50] = 250
GREY[5:10, 5:10] = 3
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
FIVE = np.concatenate([RGB, RGB[..., :2]], axis=2)
DEEP = GREY.astype(np.uint16)
OPAQUE = np.full_like(GREY, 255)
ALL_TURNS = [None, *(Image.Transpose(turn) for turn in (0, 3, 1, 5, 4, 6, 2))]


def tiff(values, **settings):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **{"photometric": "minisblack", **settings})
    return stream.getvalue()


def by_pillow(pixels, kind, **settings):
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **settings)
    return stream.getvalue()


def by_opencv(pixels, kind, *settings):
    return cv2.imencode(kind, pixels[..., ::-1] if pixels.ndim == 3 else pixels, settings)[1].tobytes()


def changed(pixels, **at):
    """The pixels with some of them replaced: ``r30c40=65535``."""
    pixels = pixels.copy()
    for place, value in at.items():
        row, column = place[1:].split("c")
        pixels[int(row), int(column)] = value
    return pixels


def banded(pixels, value):
    """The pixels with "no data" in the first ten rows."""
    pixels = pixels.copy()
    pixels[:10] = value
    return pixels


def seen(data):
    return decode_with_notes(data, "x.tif").pixels


def expected(picture):
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
