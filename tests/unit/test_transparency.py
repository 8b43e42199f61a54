"""Images with transparent parts are what a person sees of them; a row a kind of file."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from support.image_files import COLUMNS, GREY, OPAQUE, RGB, ROWS, by_opencv, by_pillow, tiff

from fiftyone_ntt.candidates.image_notes import ImageNotes
from fiftyone_ntt.pixels import regions, transparency
from fiftyone_ntt.pixels.images import content_digest, decode_with_notes

SHAPE = np.where((ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 300, 255, 0).astype(np.uint8)
SOFT = np.clip(2 * GREY.astype(int), 0, 255).astype(np.uint8)
BLACK, WHITE = np.zeros_like(RGB), np.full_like(RGB, 255)
HIDDEN = np.where(SHAPE[..., None] > 0, RGB, 255 - RGB)
"""Other colours where nobody sees them."""


def laid(colours, opacity, background):
    """The plain way."""
    share = opacity[..., None] / 255
    return np.rint(colours * share + background * (1 - share))


def deep(values):
    return values.astype(np.uint16) * 257


def multiplied(colours, opacity):
    return np.rint(colours * (opacity[..., None] / 255)).astype(np.uint8)


def with_palette(kind, **settings):
    """Two colours, of which the first is transparent."""
    image = Image.fromarray((SHAPE // 255).astype(np.uint8))
    image.putpalette([0, 0, 0, 0, 0, 0])
    return by_pillow(image, kind, transparency=0, **settings)


def key_of_16_bits():
    """A grey PNG of 16 bits in which one value is transparent."""
    data = by_pillow(deep(np.where(SHAPE > 0, GREY, 7)), "PNG")
    chunk = b"tRNS" + struct.pack(">H", 7 * 257)
    return data[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


KEYED = np.where(SHAPE > 0, np.maximum(GREY, 9), 7).astype(np.uint8)
KEYED_RGB = np.where(SHAPE[..., None] > 0, np.maximum(RGB, 9), 7).astype(np.uint8)
FILES = {
    "PNG, RGBA": (lambda: by_pillow(np.dstack([HIDDEN, SHAPE]), "PNG"), laid(RGB, SHAPE, 255)),
    "PNG, RGBA, soft edges": (lambda: by_pillow(np.dstack([RGB, SOFT]), "PNG"), laid(RGB, SOFT, 255)),
    "PNG, drawn in opacity": (lambda: by_pillow(np.dstack([BLACK, SHAPE]), "PNG"), laid(BLACK, SHAPE, 255)),
    "PNG, white drawing": (lambda: by_pillow(np.dstack([WHITE, SHAPE]), "PNG"), laid(WHITE, SHAPE, 0)),
    "PNG, LA": (lambda: by_pillow(np.dstack([GREY, SHAPE]), "PNG"), laid(GREY[..., None], SHAPE, 255)),
    "PNG, palette": (lambda: with_palette("PNG"), laid(BLACK, SHAPE, 255)),
    "PNG, one grey transparent": (
        lambda: by_pillow(KEYED, "PNG", transparency=7), laid(KEYED[..., None], SHAPE, 255)),
    "PNG, one colour transparent": (
        lambda: by_pillow(KEYED_RGB, "PNG", transparency=(7, 7, 7)), laid(KEYED_RGB, SHAPE, 255)),
    "PNG, RGBA of 16 bits": (
        lambda: by_opencv(deep(np.dstack([HIDDEN[..., ::-1], SHAPE]))[..., ::-1], ".png"), laid(RGB, SHAPE, 255)),
    "PNG, one grey of 16 bits transparent": (key_of_16_bits, laid(GREY[..., None], SHAPE, 255)),
    "GIF": (lambda: with_palette("GIF"), laid(BLACK, SHAPE, 255)),
    "WebP": (lambda: by_pillow(np.dstack([RGB, SOFT]), "WEBP", lossless=True, exact=True), laid(RGB, SOFT, 255)),
    "TGA": (lambda: by_pillow(np.dstack([HIDDEN, SHAPE]), "TGA"), laid(RGB, SHAPE, 255)),
    "TIFF": (lambda: tiff(np.dstack([HIDDEN, SHAPE]), photometric="rgb", extrasamples=["unassalpha"]),
             laid(RGB, SHAPE, 255)),
    "TIFF, LA": (lambda: tiff(np.dstack([GREY, SHAPE]), extrasamples=["unassalpha"], planarconfig="contig"),
                 laid(GREY[..., None], SHAPE, 255)),
    "TIFF, multiplied": (
        lambda: tiff(np.dstack([multiplied(RGB, SOFT), SOFT]), photometric="rgb", extrasamples=["assocalpha"]),
        laid(RGB, SOFT, 255)),
    "TIFF, LA, multiplied": (
        lambda: tiff(np.dstack([multiplied(GREY[..., None], SOFT), SOFT]), extrasamples=["assocalpha"],
                     planarconfig="contig"), laid(GREY[..., None], SOFT, 255)),
    "TIFF, 16 bits": (
        lambda: tiff(deep(np.dstack([HIDDEN, SHAPE])), photometric="rgb", extrasamples=["unassalpha"]),
        laid(RGB, SHAPE, 255)),
    "TIFF, 16 bits, multiplied": (
        lambda: tiff(np.rint(257 * np.dstack([RGB * (SOFT[..., None] / 255), SOFT])).astype(np.uint16),
                     photometric="rgb", extrasamples=["assocalpha"]), laid(RGB, SOFT, 255)),
    "TIFF, LA of 16 bits": (
        lambda: tiff(deep(np.dstack([GREY, SHAPE])), extrasamples=["unassalpha"], planarconfig="contig"),
        laid(GREY[..., None], SHAPE, 255)),
    "TIFF, real, up to 255": (
        lambda: tiff(np.dstack([RGB, SHAPE]).astype(np.float32), photometric="rgb", extrasamples=["unassalpha"]), None),
    "TIFF, real": (
        lambda: tiff(np.dstack([RGB, SHAPE]).astype(np.float32) / 255, photometric="rgb",
                     extrasamples=["unassalpha"]), None),
}  # fmt: skip
"""Name -> a file, and what is seen of it."""


@pytest.mark.parametrize("name", FILES)
def test_what_is_hidden_is_not_seen(name):
    write, wanted = FILES[name]
    read = decode_with_notes(write(), name)
    notes = [note for note in read.notes if transparency.TRANSPARENT in note]
    assert len(notes) == len(read.notes) == 1 and notes[0].endswith("black" if "white" in name else "white")
    assert content_digest(write()) != hashlib.sha256(write()).hexdigest(), "candidates of before are not taken"
    if wanted is None:
        assert (read.pixels[SHAPE == 0] == 255).all() and read.pixels[SHAPE > 0].std() > 20
        return
    # Where colours were multiplied by a low opacity, little is known of them any more; on white it hardly shows.
    off = np.abs(read.pixels - wanted.astype(int))
    assert off.max() <= (3 if "multiplied" in name else 1)


AS_STORED = {
    "opaque": lambda: by_pillow(np.dstack([RGB, OPAQUE]), "PNG"),
    "all hidden": lambda: by_pillow(np.dstack([RGB, 0 * OPAQUE]), "PNG"),
    "half opaque": lambda: by_pillow(np.dstack([RGB, OPAQUE // 2]), "WEBP", lossless=True, exact=True),
    "infrared": lambda: tiff(np.dstack([RGB, GREY]), photometric="rgb", extrasamples=["unspecified"]),
    "no transparent pixel": lambda: by_pillow(GREY // 2 * 2, "PNG", transparency=3),
}


@pytest.mark.parametrize("name", AS_STORED)
def test_colours_stay_where_opacity_means_nothing(name):
    data = AS_STORED[name]()
    read = decode_with_notes(data, name)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(read.pixels, np.asarray(image.convert("RGB"))) and read.notes == ()
    assert content_digest(data) == hashlib.sha256(data).hexdigest()


def test_hidden_values_decide_on_no_window():
    """Grey levels of 10 bits, beside which something bright is hidden."""
    values = np.where(SHAPE[..., None] > 0, RGB.astype(np.uint16) * 4, 65535)
    data = tiff(np.dstack([values, deep(SHAPE)]), photometric="rgb", extrasamples=["unassalpha"])
    read = decode_with_notes(data, "x").pixels[SHAPE > 0].astype(int)
    assert read.max() - read.min() > 200


def test_only_what_may_be_transparent_is_decoded_for_a_digest(monkeypatch):
    files = [by_pillow(RGB, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")]
    transparent = FILES["PNG, RGBA"][0]()
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it is decoded"))
    for data in files:
        assert content_digest(data) == hashlib.sha256(data).hexdigest()
    with pytest.raises(pytest.fail.Exception, match="decoded"):
        content_digest(transparent)


def test_tiffs_that_are_read_in_parts_know_of_no_opacity():
    assert transparency.MOST_OF_TIFF == regions.MOST_WHOLE


def test_a_report_has_a_line_for_transparent_images():
    notes = ImageNotes(32)
    for key in ("a", "b"):
        notes.note(key, decode_with_notes(FILES["PNG, RGBA"][0](), key).notes)
    (line,) = notes.lines()
    assert line.startswith("2 images with transparent parts, e.g. sample a: 8") and "shown on white" in line
