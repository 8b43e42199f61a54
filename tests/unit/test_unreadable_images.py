"""What is no image is called by its name, at once and within bounds; one row an input."""

import io
import os
import socket
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from support.image_files import DEEP, GREY, RGB, by_pillow, tiff

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.images import decode_image, read_image

# What cannot be read: named


def boxed(brand):
    return b"\0\0\0\x18ftyp" + brand + bytes(500)


def claiming(width, height):
    """A TIFF that says it is larger than it is."""
    data = bytearray(tiff(DEEP.astype(np.uint32)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages.first.tags
        for code, value in ((256, width), (257, height)):
            assert int(tags[code].dtype) == 4
            struct.pack_into("<I", data, tags[code].valueoffset, value)
    return bytes(data)


def thinned_colours():
    """An uncompressed TIFF of YCbCr colours with one pair of them for four pixels."""
    content = bytes(60 * 80 * 3 // 2)
    entries = [(256, 4, 1, 80), (257, 4, 1, 60), (258, 3, 3, len(content) + 146), (259, 3, 1, 1), (262, 3, 1, 6),
               (273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, 60), (279, 4, 1, len(content)), (284, 3, 1, 1),
               (530, 3, 2, 2 | 2 << 16)]  # fmt: skip
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    assert len(content) + 8 + len(table) == entries[2][3]
    return struct.pack("<4sI", b"II*\0", 8 + len(content)) + content + table + struct.pack("<HHH", 8, 8, 8)


KINDS = {
    "video (MP4)": boxed(b"mp42"),
    "QuickTime": boxed(b"qt  "),
    "HEIC photo; pip install pillow-heif": boxed(b"heic"),
    "CR3": boxed(b"crx "),
    "Matroska": b"\x1aE\xdf\xa3" + bytes(99),
    "video (AVI)": b"RIFF\0\0\0\0AVI " + bytes(99),
    "sound (WAV)": b"RIFF\0\0\0\0WAVE" + bytes(99),
    "MPEG": b"\0\0\x01\xba" + bytes(99),
    "transport stream": (b"G" + bytes(187)) * 4,
    "a PDF": b"%PDF-1.7\n" + bytes(99),
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "SVG drawing": b"\xef\xbb\xbf<svg/>",
    "HTML page": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "an HTML": b"<html>" + "ä".encode() * 3000,
    "XML": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "JSON": b'{"error": "not found"}',
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "DICOM": bytes(128) + b"DICM" + bytes(99),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
    "NumPy": b"\x93NUMPY\x01\0" + bytes(99),
    "OpenEXR": b"\x76\x2f\x31\x01" + bytes(99),
    "Radiance": b"#?RADIANCE\n" + bytes(99),
    "Photoshop": b"8BPS\0\x01" + bytes(50),
    "GIMP": b"gimp xcf v011\0" + bytes(50),
    "MATLAB": b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99),
    "JPEG XL": b"\xff\x0a" + bytes(range(2, 99)),
    "ZIP": b"PK\x03\x04" + bytes(99),
    "gzip": b"\x1f\x8b\x08" + bytes(99),
    "PLY": b"ply\nformat ascii 1.0\n",
    "64 zero bytes": bytes(64),
    "PostScript": b"%!PS-Adobe-3.0\n",
    "export it as PNG": by_pillow(RGB, "EPS"),
    "format is not known": b"what is this",
    "truncated JPEG": by_pillow(RGB, "JPEG")[:-700],
    "truncated PNG": by_pillow(RGB, "PNG")[:200],
    "complex64": tiff(GREY.astype(np.complex64)),
    "ICCLab": tiff(RGB, photometric="icclab"),
    "YCbCr colours, fewer than there are pixels": thinned_colours(),
    "raw pixels": tiff(DEEP, photometric="cfa", extratags=[(33421, "H", 2, (2, 2), True)]),
    "raw file of a camera": tiff(
        RGB, photometric="rgb", subfiletype=1, extratags=[(50706, "B", 4, (1, 4, 0, 0), True)]),
    "a truncated JPEG": by_pillow(RGB, "JPEG")[:30],
    "an empty file": b"",
    "a truncated TIFF": claiming(60, 10_000),
    "damaged WebP": by_pillow(RGB, "WEBP")[:100],
    "damaged GIF": by_pillow(RGB, "GIF")[:10],
    "truncated TIFF": tiff(DEEP)[:-2000],
    "a TIFF that cannot be read": by_pillow(DEEP, "TIFF", compression="tiff_adobe_deflate")[:500],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_image_is_named(kind):
    with pytest.raises(InputError, match="readable image.*some.png") as caught:
        decode_image(KINDS[kind], "some.png")
    assert kind in str(caught.value)


def opened_socket(path):
    short = os.path.relpath(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(short if len(short) < len(str(path)) else str(path))


NODES = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a socket": opened_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "an empty file": lambda path: path.write_bytes(b""),
    "not found": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
@pytest.mark.parametrize("kind", NODES)
def test_what_is_no_file_is_named_at_once(kind, tmp_path):
    path = tmp_path / "x.png"
    NODES[kind](path)
    with pytest.raises(InputError, match=kind):
        read_image(path)


def bomb_of_deflate():
    """One megabyte that unpacks to 256, in an image of 60 x 80."""
    packer = zlib.compressobj(1)
    zeros = bytes(1 << 20)
    packed = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
    data = bytearray(tiff(DEEP, compression="zlib", rowsperstrip=60))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages.first.tags
        places = [(tags[code].valueoffset, tags[code].dtype) for code in (273, 279)]
    for (place, kind), value in zip(places, (len(data), len(packed)), strict=True):
        struct.pack_into("<H" if int(kind) == 3 else "<I", data, place, value)
    return bytes(data) + packed


BOMBS = {"deflate": bomb_of_deflate, "claimed": lambda: claiming(100_000, 100_000),
         "claimed too long": lambda: claiming(4_000_000_000, 4_000_000_000)}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_no_memory(name):
    data = BOMBS[name]()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="readable image"):
            decode_image(data, "x.tif")
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
