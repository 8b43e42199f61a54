"""Sizes of PNG files, which are read without their pixels; one row a place for EXIF data."""

import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin
from support.image_files import RGB, by_pillow

from fiftyone_ntt.pixels.images import decode_image, image_size

EXIF_PLACES = ["nowhere", "before", "behind", "as text", "as text behind", "truncated"]


@pytest.mark.parametrize("place", EXIF_PLACES)
def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path, place, monkeypatch):
    """EXIF data may stand behind the pixels, and in a chunk of their own or in one of text."""
    exif = Image.Exif()
    exif[274] = 6
    plain, content = by_pillow(RGB, "PNG"), exif.tobytes()
    as_text = f"\nexif\n{len(content)}\n{content.hex()}\n".encode()
    kind, body = (b"tEXt", b"Raw profile type exif\0" + as_text) if "text" in place else (b"eXIf", content[6:])
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    at = len(plain) - 12 if "behind" in place else 33
    data = plain if place == "nowhere" else plain[:at] + chunk + plain[at:]
    (tmp_path / "a.png").write_bytes(data[:-40] if place == "truncated" else data)
    if "behind" not in place and place != "as text":
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)  # calling it fails
    size = RGB.shape[:2] if place == "nowhere" else RGB.shape[1::-1]
    assert image_size(tmp_path / "a.png") == size
    if place != "truncated":
        monkeypatch.undo()
        assert decode_image(data, place).shape[:2] == size
