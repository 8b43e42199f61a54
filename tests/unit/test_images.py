"""Reading images: what a person would see in a viewer, whatever the file; one row an input."""

import hashlib
import io
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from support.image_files import (
    ALL_TURNS,
    DEEP,
    FIVE,
    GREY,
    OPAQUE,
    RGB,
    banded,
    by_opencv,
    by_pillow,
    changed,
    expected,
    seen,
    tiff,
)

from fiftyone_ntt.pixels.images import content_digest, decode_image, decode_with_notes, image_size, read_bytes

# Deep images: file, and the picture that a viewer shows


DEEP_IMAGES = {
    "16 bits": (lambda: tiff(DEEP * 257), GREY),
    "12 bits in 16": (lambda: tiff(DEEP * 16), GREY),
    "12 bits in a PNG": (lambda: by_pillow(DEEP * 16, "PNG"), GREY),
    "12 bits in a PGM": (lambda: by_opencv(DEEP * 16, ".pgm"), GREY),
    "10 bits in a JPEG 2000, in colour": (
        lambda: by_opencv(RGB.astype(np.uint16) * 4, ".jp2", cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000), RGB),
    "16 bits in a JPEG 2000, in colour": (
        lambda: by_opencv(RGB.astype(np.uint16) * 257, ".jp2", cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000), RGB),
    "12 bits in a JPEG 2000": (lambda: by_pillow(DEEP * 16, "JPEG2000"), GREY),
    "one hot pixel": (lambda: tiff(changed(DEEP * 16, r30c40=65535)), GREY),
    "one hot pixel in a corner": (lambda: tiff(changed(DEEP * 16, r0c0=65535)), GREY),
    "one hot pixel, little contrast": (lambda: tiff(changed(200 + DEEP * 200 // 255, r30c40=65535)), GREY),
    "hot pixels, some side by side": (
        lambda: tiff(changed(DEEP * 16, r30c40=65535, r30c41=65535, r50c3=65535, r7c70=60000)), GREY),
    "a hot and a dead pixel": (lambda: tiff(changed(2000 + DEEP, r30c40=65535, r9c9=0)), GREY),
    "one hot pixel, PNG": (lambda: by_pillow(changed(DEEP * 16, r30c40=65535), "PNG"), GREY),
    "signed, 16 bits": (lambda: tiff(DEEP.astype(np.int16) - 1000), GREY),
    "signed, 16 bits, both signs": (lambda: tiff((GREY.astype(np.int32) * 256 - 32000).astype(np.int16)), GREY),
    "signed, 8 bits": (lambda: tiff((GREY.astype(np.int16) - 128).astype(np.int8)), GREY),
    "signed, 32 bits": (lambda: tiff(GREY.astype(np.int32) * 1000 - 9), GREY),
    "unsigned, 32 bits": (lambda: tiff(GREY.astype(np.uint32) * 16_000_000), GREY),
    "64 bits": (lambda: tiff(GREY.astype(np.uint64) << 50), GREY),
    "real": (lambda: tiff(GREY.astype(np.float32) / 255), GREY),
    "real, negative": (lambda: tiff(GREY.astype(np.float32) / 255 - 7), GREY),
    "real, one hot pixel": (lambda: tiff(changed(GREY.astype(np.float32), r30c40=1e9)), GREY),
    "real, 16 bits": (lambda: tiff(GREY.astype(np.float16)), GREY),
    "real, 64 bits": (lambda: tiff(GREY.astype(np.float64)), GREY),
    "NaN": (lambda: tiff(banded(GREY.astype(np.float32), np.nan)), banded(GREY, 0)),
    "infinity": (lambda: tiff(banded(GREY.astype(np.float32), np.inf)), banded(GREY, 0)),
    "lowest float": (lambda: tiff(banded(GREY.astype(np.float32), np.finfo(np.float32).min)), banded(GREY, 0)),
    "-9999": (lambda: tiff(banded(100 + GREY.astype(np.float32), -9999)), banded(GREY, 0)),
    "-32768": (lambda: tiff(banded(100 + GREY.astype(np.int16), -32768)), banded(GREY, 0)),
    "no data as GDAL says": (
        lambda: tiff(banded(20000 + DEEP, 0), extratags=[(42113, "s", 2, "0", True)]), banded(GREY, 0)),
    "white is zero": (lambda: tiff((255 - DEEP) * 257, photometric="miniswhite"), GREY),
    "white is zero, 12 bits": (lambda: tiff((255 - DEEP) * 16, photometric="miniswhite"), GREY),
    "white is zero, real": (lambda: tiff(-GREY.astype(np.float32), photometric="miniswhite"), GREY),
    "white is zero, LZW": (
        lambda: lzw((255 - DEEP) * 16, photometric=0), GREY),
    "big-endian": (lambda: tiff(DEEP * 16, byteorder=">"), GREY),
    "BigTIFF": (lambda: tiff(DEEP * 16, bigtiff=True), GREY),
    "tiled": (lambda: tiff(DEEP * 16, tile=(32, 32)), GREY),
    "deflate": (lambda: tiff(DEEP * 16, compression="zlib"), GREY),
    "deflate, differences": (lambda: tiff(DEEP * 16, compression="zlib", predictor=True), GREY),
    "PackBits": (lambda: by_pillow(DEEP * 16, "TIFF", compression="packbits"), GREY),
    "LZW": (lambda: lzw(DEEP * 16), GREY),
    "LZW, real": (lambda: lzw(GREY.astype(np.float32)), GREY),
    "LZW, signed": (lambda: lzw(GREY.astype(np.int32) - 1000), GREY),
    "LZW, RGB": (lambda: by_opencv(RGB.astype(np.uint16) * 16, ".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 5), RGB),
    "RGB": (lambda: tiff(RGB.astype(np.uint16) * 257, photometric="rgb"), RGB),
    "RGB of 12 bits": (lambda: tiff(RGB.astype(np.uint16) * 16, photometric="rgb"), RGB),
    "RGB of 12 bits, a hot pixel": (
        lambda: tiff(changed(RGB.astype(np.uint16) * 16, r30c40=(65535, 9, 9)), photometric="rgb"), RGB),
    "RGB of 12 bits in a PNG": (lambda: by_opencv(RGB.astype(np.uint16) * 16, ".png"), RGB),
    "RGB of 12 bits in a PPM": (lambda: by_opencv(RGB.astype(np.uint16) * 16, ".ppm"), RGB),
    "RGBA of 12 bits in a PNG": (
        lambda: cv2.imencode(".png", np.dstack([RGB[..., ::-1], OPAQUE]).astype(np.uint16) * 16)[1].tobytes(), RGB),
    "grey and opacity of 12 bits in a PNG": (lambda: png_with_opacity(DEEP * 16), GREY),
    "RGB in planes": (
        lambda: tiff(np.moveaxis(RGB, 2, 0).astype(np.uint16) * 16, photometric="rgb", planarconfig="separate"), RGB),
    "RGB, real": (lambda: tiff(RGB.astype(np.float32), photometric="rgb"), RGB),
    "RGB, real, as rows": (lambda: tiff(RGB.astype(np.float32), photometric=None), RGB),
    "RGBA": (
        lambda: tiff(np.dstack([RGB, OPAQUE]).astype(np.uint16) * 257, photometric="rgb",
                     extrasamples=["unassalpha"]), RGB),
    "RGB and infrared": (
        lambda: tiff(np.dstack([RGB, OPAQUE]).astype(np.uint16) * 16, photometric="rgb",
                     extrasamples=["unspecified"]), RGB),
    "grey and opacity": (
        lambda: tiff(np.dstack([DEEP * 16, OPAQUE]), planarconfig="contig", extrasamples=["unassalpha"]), GREY),
    "CMYK": (
        lambda: tiff(np.dstack([255 - RGB, OPAQUE * 0]).astype(np.uint16) * 257, photometric="separated"), RGB),
    "five channels": (lambda: tiff(FIVE.astype(np.uint16) * 16, planarconfig="contig"), RGB),
    "five channels in planes": (
        lambda: tiff(np.moveaxis(FIVE, 2, 0).astype(np.uint16) * 16, planarconfig="separate"), RGB),
    "five channels as rows": (lambda: tiff(FIVE.astype(np.uint16) * 16), RGB),
    "five channels of 8 bits": (lambda: tiff(FIVE, planarconfig="contig"), RGB),
    "five channels of 8 bits in planes": (lambda: tiff(np.moveaxis(FIVE, 2, 0).copy(), planarconfig="separate"), RGB),
    "channels of other ranges": (
        lambda: tiff(FIVE * np.array([1, 16, 60, 1, 1], np.uint16), planarconfig="contig"), RGB),
    "pages": (lambda: tiff(np.stack([DEEP * 16, DEEP * 3])), GREY),
    "volume": (lambda: tiff(np.stack([DEEP * 16, DEEP * 3]), volumetric=True), GREY),
}  # fmt: skip


def lzw(values, photometric=None):
    tags = {} if photometric is None else {262: photometric}
    return by_pillow(values, "TIFF", compression="tiff_lzw", tiffinfo=tags)


def png_with_opacity(values):
    """Pillow and OpenCV write no such file."""
    rows = b"".join(b"\0" + np.dstack([row, row * 0 + 65535]).astype(">u2").tobytes() for row in values)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_cielab():
    difference = np.abs(seen(by_pillow(as_lab(RGB), "TIFF")).astype(int) - RGB)
    assert difference.mean() < 2


def as_lab(pixels):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.fromarray(pixels), *profiles, outputMode="LAB")


@pytest.mark.parametrize("name", DEEP_IMAGES)
def test_deep_images_look_as_in_a_viewer(name):
    write, picture = DEEP_IMAGES[name]
    pixels, wanted = seen(write()), expected(picture)
    assert pixels.dtype == np.uint8 and pixels.shape == wanted.shape
    exceptions = (np.abs(pixels.astype(int) - wanted) > 20).any(axis=2).sum()
    assert exceptions <= 5, f"{exceptions} pixels differ"  # the hot ones


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "LZW", "PNG", "PNG RGB"])
def test_orientation_of_deep_images(kind, orientation):
    turn = ALL_TURNS[orientation - 1]
    picture = RGB if "RGB" in kind else GREY
    exif = Image.Exif()
    exif[274] = orientation
    deep = picture.astype(np.uint16) * 16
    if kind == "TIFF":
        data = tiff(deep, extratags=[(274, "H", 1, orientation, True)])
    elif kind == "LZW":
        data = by_pillow(deep, "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
    elif kind == "PNG":
        data = by_pillow(deep, "PNG", exif=exif)
    else:
        data = with_exif(by_opencv(deep, ".png"), exif)
    wanted = expected(picture if turn is None else np.asarray(Image.fromarray(picture).transpose(turn)))
    pixels = seen(data)
    assert pixels.shape == wanted.shape and np.abs(pixels.astype(int) - wanted).max() < 20


def with_exif(data, exif):
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    return data[:33] + chunk + data[33:]


def test_small_bright_objects_outlive_the_window():
    # 12 x 12 of a million pixels, on a background of little noise
    field = 200 + np.random.default_rng(0).integers(0, 10, (1000, 1000)).astype(np.uint16)
    field[500:512, 500:512] = 3000
    pixels = seen(tiff(field))
    assert pixels[505, 505, 0] == 255 and pixels[:400].max() < 60


def test_a_line_of_one_pixel_outlives_the_window():
    field = 200 + np.random.default_rng(0).integers(0, 10, (200, 300)).astype(np.uint16)
    field[:, 150] = 3000
    pixels = seen(tiff(field))
    assert (pixels[:, 150] == 255).all() and pixels[:, :149].max() < 60


def test_highlights_do_not_take_all_grey_levels():
    field = DEEP * 16
    field[50:54, 60:64] = 65535
    pixels = seen(tiff(field))[..., 0].astype(int)
    assert np.percentile(pixels, 95) - np.percentile(pixels, 5) > 40


def test_large_deep_images_are_looked_at_in_part():
    pixels = seen(tiff(np.tile(DEEP * 16, (50, 50))))  # 12 million pixels
    assert np.abs(pixels[:60, :80, 0].astype(int) - GREY).max() < 20


# 8 bits: as Pillow reads them, to the bit


def exif_of(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


EIGHT_BITS = {
    "JPEG": lambda: by_pillow(RGB, "JPEG"),
    "JPEG, grey": lambda: by_pillow(GREY, "JPEG"),
    "JPEG, CMYK": lambda: by_pillow(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "JPEG, progressive": lambda: by_pillow(RGB, "JPEG", progressive=True),
    **{f"JPEG, turned {n}": lambda n=n: by_pillow(RGB, "JPEG", exif=exif_of(n)) for n in range(1, 9)},
    "PNG": lambda: by_pillow(RGB, "PNG"),
    "PNG, grey": lambda: by_pillow(GREY, "PNG"),
    "PNG, RGBA": lambda: by_pillow(np.dstack([RGB, OPAQUE]), "PNG"),
    "PNG, RGBA, all hidden": lambda: by_pillow(np.dstack([RGB, 0 * GREY]), "PNG"),
    "PNG, LA": lambda: by_pillow(Image.fromarray(RGB).convert("LA"), "PNG"),
    "PNG, palette": lambda: by_pillow(Image.fromarray(RGB).convert("P"), "PNG"),
    "PNG, palette, unused transparent colour": lambda: by_pillow(Image.fromarray(GREY // 2 * 2), "PNG", transparency=3),
    "PNG, one bit": lambda: by_pillow(Image.fromarray(GREY).convert("1"), "PNG"),
    "PNG, 16 bits in full": lambda: by_opencv(RGB.astype(np.uint16) * 257, ".png"),
    "GIF": lambda: by_pillow(RGB, "GIF"),
    "BMP": lambda: by_pillow(RGB, "BMP"),
    "WebP": lambda: by_pillow(RGB, "WEBP"),
    "WebP, RGBA": lambda: by_pillow(np.dstack([RGB, OPAQUE // 2]), "WEBP", lossless=True),
    "JPEG 2000": lambda: by_pillow(RGB, "JPEG2000"),
    "TGA": lambda: by_pillow(RGB, "TGA"),
    "PPM": lambda: by_pillow(RGB, "PPM"),
    "PGM": lambda: by_pillow(GREY, "PPM"),
    "TIFF": lambda: by_pillow(RGB, "TIFF"),
    "TIFF, grey": lambda: by_pillow(GREY, "TIFF"),
    "TIFF, white is zero": lambda: tiff(GREY, photometric="miniswhite"),
    "TIFF, one bit": lambda: by_pillow(Image.fromarray(GREY).convert("1"), "TIFF"),
    "TIFF, one bit, fax": lambda: by_pillow(Image.fromarray(GREY).convert("1"), "TIFF", compression="group4"),
    "TIFF, palette": lambda: by_pillow(Image.fromarray(RGB).convert("P"), "TIFF"),
    "TIFF, RGBA": lambda: by_pillow(np.dstack([RGB, OPAQUE // 2]), "TIFF"),
    "TIFF, LA": lambda: by_pillow(Image.fromarray(RGB).convert("LA"), "TIFF"),
    "TIFF, CMYK": lambda: by_pillow(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
    "TIFF, YCbCr": lambda: by_pillow(Image.fromarray(RGB).convert("YCbCr"), "TIFF"),
    "TIFF, LZW": lambda: by_pillow(RGB, "TIFF", compression="tiff_lzw"),
    "TIFF, deflate": lambda: by_pillow(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG": lambda: by_pillow(RGB, "TIFF", compression="jpeg"),
    "TIFF, BigTIFF": lambda: tiff(RGB, photometric="rgb", bigtiff=True),
    "TIFF, tiles": lambda: tiff(RGB, photometric="rgb", tile=(32, 32)),
    "TIFF, planes": lambda: tiff(np.moveaxis(RGB, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
    "TIFF, turned": lambda: by_pillow(RGB, "TIFF", tiffinfo={274: 6}),
}


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_images_of_8_bits_are_as_pillow_reads_them(name):
    data = EIGHT_BITS[name]()
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    read = decode_with_notes(data, name)
    assert np.array_equal(read.pixels, wanted) and read.notes == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_usual_images_need_no_other_library(kind, monkeypatch):
    data = by_pillow(RGB, kind)
    monkeypatch.setitem(sys.modules, "tifffile", None)  # importing it fails
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert decode_image(data, kind).shape == RGB.shape and content_digest(data)


# Orientation: that of EXIF data alone, as browsers and OpenCV have it


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def with_xmp(kind, orientation):
    """A picture whose XMP data say that it lies on its side, with an EXIF orientation or without."""
    settings = {} if orientation is None else {"exif": exif_of(orientation)}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        return by_pillow(RGB, kind, pnginfo=text, **settings)
    if kind == "TIFF":
        return by_pillow(RGB, kind, tiffinfo={700: XMP, **({} if orientation is None else {274: orientation})})
    return by_pillow(RGB, kind, xmp=XMP, **settings)


@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_data_turn_no_image(kind, orientation, tmp_path):
    data = with_xmp(kind, orientation)
    turn = ALL_TURNS[(orientation or 1) - 1]
    with Image.open(io.BytesIO(by_pillow(RGB, kind))) as image:
        wanted = image.convert("RGB")
    wanted = np.asarray(wanted if turn is None else wanted.transpose(turn))
    assert np.array_equal(decode_image(data, kind), wanted)
    (tmp_path / "x").write_bytes(data)
    assert image_size(tmp_path / "x") == wanted.shape[:2]
    is_anew = content_digest(data) != hashlib.sha256(data).hexdigest()
    assert is_anew is (orientation is None), "candidates of an image that was turned before are not taken"


# Notes


def pages(*pictures, kind="TIFF", **settings):
    first, *others = (Image.fromarray(picture) for picture in pictures)
    return by_pillow(first, kind, save_all=True, append_images=others, **settings)


NOTES = {
    "one value": (lambda: by_pillow(np.full((60, 80), 128, np.uint8), "PNG"), "contrast"),
    "two values": (lambda: by_pillow(128 + GREY % 2, "PNG"), "contrast"),
    "a hot pixel on nothing": (lambda: tiff(changed(DEEP * 0 + 500, r3c3=65535)), "contrast"),
    "one value of 16 bits": (lambda: tiff(DEEP * 0 + 500), "contrast"),
    "all NaN": (lambda: tiff(GREY * np.float32("nan")), "contrast"),
    "TIFF with pages": (lambda: pages(RGB, RGB[::-1]), "first page"),
    "TIFF with pages of 16 bits": (lambda: tiff(np.stack([DEEP * 16, DEEP])), "first page"),
    "ImageJ, channels": (lambda: image_j("CYX"), "only the first channel of the file"),
    "ImageJ, channels of 16 bits": (lambda: image_j("CYX", np.uint16), "only the first channel of the file"),
    "ImageJ, slices": (lambda: image_j("ZYX"), "only the first slice of the volume"),
    "ImageJ, frames": (lambda: image_j("TYX"), "only the first frame of the file"),
    "OME, channels": (lambda: ome("CYX"), "only the first channel of the file"),
    "OME, channels of 16 bits": (lambda: ome("CYX", np.uint16), "only the first channel of the file"),
    "OME, slices": (lambda: ome("ZYX"), "only the first slice of the volume"),
    "two channels of 8 bits": (lambda: tiff(np.dstack([GREY, GREY]), planarconfig="contig"), "2 channels"),
    "TIFF with a smaller copy": (lambda: with_copy(RGB), None),
    "TIFF with a smaller copy, 16 bits": (lambda: with_copy(RGB.astype(np.uint16) * 257), None),
    "volume": (lambda: tiff(np.stack([DEEP * 16, DEEP]), volumetric=True), "first slice"),
    "GIF": (lambda: pages(RGB, RGB[::-1], kind="GIF"), "first frame"),
    "WebP": (lambda: pages(RGB, RGB[::-1], kind="WEBP"), "first frame"),
    "PNG": (lambda: pages(RGB, RGB[::-1], kind="PNG"), "first frame"),
    "JPEG of a phone": (lambda: pages(RGB, RGB[::-1], kind="MPO"), None),
    "five channels": (lambda: tiff(FIVE, planarconfig="contig"), "5 channels"),
    "two channels": (lambda: tiff(np.dstack([DEEP, DEEP]), planarconfig="contig"), "2 channels"),
    "RGB and infrared": (
        lambda: tiff(np.dstack([RGB, OPAQUE]), photometric="rgb", extrasamples=["unspecified"]), None),
}  # fmt: skip


def image_j(axes, kind=np.uint8):
    return tiff(np.stack([GREY, GREY[::-1], GREY]).astype(kind), photometric=None, imagej=True, metadata={"axes": axes})


def ome(axes, kind=np.uint8):
    return tiff(np.stack([GREY, GREY[::-1], GREY]).astype(kind), ome=True, metadata={"axes": axes})


def with_copy(pixels):
    """A TIFF with a smaller copy behind the image, as geographic ones have it."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(pixels, photometric="rgb")
        writer.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
    return stream.getvalue()


@pytest.mark.parametrize("name", NOTES)
def test_notes(name):
    write, note = NOTES[name]
    notes = decode_with_notes(write(), name).notes
    assert (notes == ()) if note is None else (len(notes) == 1 and note in notes[0])


# What the index knows an image by


def test_digest_changes_for_images_read_anew_only():
    for name, write in EIGHT_BITS.items():
        if "16 bits" not in name:
            assert content_digest(write()) == hashlib.sha256(write()).hexdigest(), name
    for name, (write, _) in DEEP_IMAGES.items():
        if name != "CMYK":
            assert content_digest(write()) != hashlib.sha256(write()).hexdigest(), name
    assert content_digest(b"no image") == hashlib.sha256(b"no image").hexdigest()


def test_read_bytes_gives_the_content(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert read_bytes(tmp_path / "x") == b"abc"
