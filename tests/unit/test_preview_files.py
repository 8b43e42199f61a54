"""Previews of single files: which need one, and what is read for it."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.image_files import RGB, by_pillow, tiff

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels import regions, small_copies
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.pixels.regions import open_overview
from fiftyone_ntt.pixels.small_copies import needs_preview, preview_file

NEEDED = {
    "tiff": (tiff(RGB, photometric="rgb"), True),
    "jpeg 2000": (by_pillow(RGB, "JPEG2000"), True),
    "ppm": (by_pillow(RGB, "PPM"), True),
    "grey of 16 bits": (by_pillow(RGB[..., 0].astype(np.uint16), "PNG"), True),
    "no image": (b"no image", True),
    "jpeg": (by_pillow(RGB, "JPEG"), False),
    "png": (by_pillow(RGB, "PNG"), False),
    "webp": (by_pillow(RGB, "WEBP"), False),
    "bmp": (by_pillow(RGB, "BMP"), False),
    "gif": (by_pillow(RGB, "GIF"), False),
}


@pytest.mark.parametrize("kind", NEEDED)
def test_only_what_a_browser_cannot_show_needs_one(tmp_path, kind):
    content, needed = NEEDED[kind]
    path = tmp_path / "file"
    path.write_bytes(content)
    assert needs_preview(path, 4096) == needed
    assert needs_preview(path, 79), "80 pixels wide"


def test_what_is_not_there_is_said(tmp_path):
    assert needs_preview(tmp_path / "nothing.jpg", 4096)
    for path in (tmp_path / "nothing.jpg", tmp_path):
        with pytest.raises(InputError, match="image"):
            preview_file(path, 100)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_preview_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path, small = tmp_path / "image.jpg", tmp_path / "small.jpg"
    corner = np.zeros((600, 800, 3), np.uint8)
    corner[:200, :100] = 255
    Image.fromarray(corner).save(path, exif=exif)
    small.write_bytes(preview_file(path, 80).content)
    upright, shown = read_image(path), read_image(small)
    assert max(shown.shape) == 80 and (shown.shape[0] > shown.shape[1]) == (upright.shape[0] > upright.shape[1])
    assert np.abs(upright[5::10, 5::10].astype(int) - shown).mean() < 6


@pytest.fixture
def pyramid(tmp_path, monkeypatch):
    """A TIFF with copies of half and of a quarter of its size, each of another colour."""
    monkeypatch.setattr(regions, "MOST_WHOLE", 1 << 12)
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as writer:
        for level, side in enumerate((512, 256, 128)):
            pixels = np.full((side, side * 2, 3), 50 * (level + 1), np.uint8)
            options = {"subifds": 2} if not level else {"subfiletype": 1}
            writer.write(pixels, photometric="rgb", tile=(64, 64), **options)
    return path


@pytest.mark.parametrize(("longest", "value"), [(100, 150), (256, 150), (257, 100), (512, 100), (600, 50), (5000, 50)])
def test_the_smallest_copy_that_is_large_enough_is_read(pyramid, longest, value):
    with open_overview(pyramid, longest) as reader:
        height, width = reader.size
        assert max(reader.size) >= min(longest, 1024)
        assert set(reader.read((0, 0, width, height), (16, 32)).reshape(-1)) == {value}
    content = preview_file(pyramid, longest).content
    path = pyramid.with_suffix(".jpg")
    path.write_bytes(content)
    assert read_image(path).shape[1] == min(longest, 1024)


def test_a_damaged_copy_costs_nothing(pyramid, monkeypatch):
    def broken(*_):
        raise RuntimeError("damaged")

    monkeypatch.setattr(regions, "_copy_in_tiff", broken)
    with open_overview(pyramid, 100) as reader:
        assert reader.size == (512, 1024)


def test_only_one_large_image_is_in_memory(tmp_path, monkeypatch):
    """Several threads make previews."""
    path, held = tmp_path / "image.tif", []
    path.write_bytes(tiff(RGB, photometric="rgb"))
    overview = small_copies.open_overview

    def watched(*arguments):
        held.append(small_copies._one_large_at_a_time.locked())
        return overview(*arguments)

    monkeypatch.setattr(small_copies, "open_overview", watched)
    preview_file(path, 50)
    monkeypatch.setattr(small_copies, "_LARGE", 100)
    preview_file(path, 50)
    assert held == [False, True]


def test_a_turned_tiff_with_copies_that_do_not_say_so(tmp_path, monkeypatch):
    """The preview is as upright as what the models look at."""
    monkeypatch.setattr(regions, "MOST_WHOLE", 1 << 12)
    rows, columns = np.mgrid[:120, :160]
    pixels = np.stack([rows * 2, columns, rows * 0 + 60], axis=2).astype(np.uint8)
    path = tmp_path / "turned.tif"
    with tifffile.TiffWriter(path) as writer:
        extratags = [(274, "H", 1, 3, True)]
        writer.write(pixels, photometric="rgb", tile=(16, 16), subifds=1, extratags=extratags)
        writer.write(pixels[::2, ::2].copy(), photometric="rgb", tile=(16, 16), subfiletype=1)
    (tmp_path / "small.jpg").write_bytes(preview_file(path, 40).content)
    seen, small = read_image(path)[2::4, 2::4], read_image(tmp_path / "small.jpg")
    assert np.abs(seen.astype(int) - small).mean() < 6
