"""A slide of 400 megapixels is read by its own tiles: it is never in memory as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.blob_models import blobs

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels import regions as subject
from fiftyone_ntt.pixels.images import content_digest, image_size, read_image
from fiftyone_ntt.pixels.regions import open_regions

ROOT = Path(__file__).resolve().parents[2]
SIDE, STEP = 20_000, 256
LIMIT = 2_000_000_000
LABEL_A_SLIDE = """
import sys
from pathlib import Path
from support.blob_models import blob_bank, blob_segmenter
from fiftyone_ntt.candidates.stream import stream
from fiftyone_ntt.candidates.tiles import TiledItem, tile_grid
from fiftyone_ntt.core import Matcher
from fiftyone_ntt.method.options.tiled import match_image
from fiftyone_ntt.pixels.images import content_digest, image_size, read_image

path = sys.argv[1]
tiles = tile_grid(image_size(path), 200)
nothing = lambda *_: None
item = TiledItem(path, tiles, [""] * len(tiles), True, nothing, nothing, nothing, nothing)
segmenter = blob_segmenter(12)
matcher = Matcher(blob_bank(segmenter))
(outcome,) = stream([segmenter], [("slide", lambda: item)], lambda key, content: match_image(matcher, content))
assert outcome.error is None, outcome.error
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(len(tiles), len(outcome.value), peak)
"""


def slide(path, tiles_of):
    """Writes a TIFF of 20,000 x 20,000 pixels tile by tile; nearly all are black."""
    count = -(-SIDE // STEP)

    def parts():
        black = np.zeros((STEP, STEP, 3), np.uint8)
        for row in range(count):
            for column in range(count):
                yield tiles_of.get((row, column), black)

    tifffile.imwrite(path, parts(), shape=(SIDE, SIDE, 3), dtype=np.uint8, photometric="rgb", tile=(STEP, STEP),
                     compression="zlib")  # fmt: skip


def test_a_slide_stays_under_two_gigabytes(tmp_path):
    path, disc = tmp_path / "slide.tif", blobs((STEP, STEP), [(128, 128, 90)])
    wanted = {(3, 3), (3, 70), (40, 40), (76, 5), (77, 77)}
    slide(path, dict.fromkeys(wanted, disc))
    assert image_size(path) == (SIDE, SIDE)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LABEL_A_SLIDE, str(path)], capture_output=True, text=True, cwd=ROOT,
                          env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    tiles, labels, peak = (int(value) for value in done.stdout.split())
    assert labels == len(wanted)
    assert tiles > 600
    assert peak < LIMIT, f"{peak / 1e9:.2f} GB"


@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"rowsperstrip": 100}, {"tile": (256, 256), "bigtiff": True}])
@pytest.mark.parametrize("grey", [False, True])
def test_regions_are_those_of_the_whole(tmp_path, monkeypatch, layout, grey):
    monkeypatch.setattr(subject, "MOST_WHOLE", 1 << 18)
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), dtype=np.uint8)
    values = pixels[..., 0] if grey else pixels
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, values, photometric="minisblack" if grey else "rgb", compression="zlib", **layout)
    whole = np.repeat(values[..., None], 3, axis=2) if grey else values
    with open_regions(path) as reader:
        assert isinstance(reader, subject.TiledTiff)
        assert np.array_equal(reader.read((100, 300, 1100, 500), (200, 1000)), whole[300:500, 100:1100])
        small = reader.read((0, 0, 1100, 900), (90, 110)).astype(float)  # in bands
        assert np.abs(small - whole.reshape(90, 10, 110, 10, 3).mean(axis=(1, 3))).max() <= 1


def test_a_truncated_part_says_which_file(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "MOST_WHOLE", 1 << 18)
    path = tmp_path / "image.tif"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1100, 3), dtype=np.uint8)
    tifffile.imwrite(path, noise, photometric="rgb", tile=(256, 256), compression="zlib")
    with open_regions(path) as reader:
        last = int(reader._page.dataoffsets[-1])
    path.write_bytes(path.read_bytes()[: last + 10])
    with pytest.raises(InputError, match=r"image\.tif"), open_regions(path) as reader:
        reader.read((800, 700, 1100, 900), (200, 300))


def saved(folder, kind):
    """A TIFF of a kind that is read whole or not at all, and what it shows."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    path, grey = folder / "image.tif", pixels[..., 0]
    if kind.startswith("orientation"):
        pixels = np.concatenate([pixels, pixels // 2])
        Image.fromarray(pixels).save(path, tiffinfo={274: int(kind[-1])})
    elif kind == "16 bits":
        tifffile.imwrite(path, grey.astype(np.uint16) * 257, tile=(256, 256))
    elif kind == "planar":
        tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate", rowsperstrip=50)
    elif kind == "one strip":
        tifffile.imwrite(path, pixels, photometric="rgb")
    elif kind == "pages of rows":  # what ``imwrite`` makes of an array whose last axis it cannot know for colours
        tifffile.imwrite(path, pixels[:, :, [0, 1, 2, 0, 1]], photometric="minisblack")
    else:
        mode, compression = kind.split()
        Image.fromarray(pixels).convert(mode).save(path, compression=compression)
    return path


KINDS = [
    "16 bits", "planar", "one strip", "pages of rows", "1 group4", "P tiff_lzw", "CMYK raw", "RGB tiff_lzw",
    "YCbCr raw", "orientation 3", "orientation 6", "orientation 8",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_that_needs_to_be_whole_is_read_whole(tmp_path, monkeypatch, kind):
    """As it was before there were tiles, and as large as its header says."""
    path = saved(tmp_path, kind)
    whole = read_image(path)
    monkeypatch.setattr(subject, "MOST_WHOLE", 1 << 15)
    assert image_size(path) == image_size(path, upright=False) == whole.shape[:2]
    with open_regions(path) as reader:
        assert reader.size == whole.shape[:2]
        assert np.array_equal(reader.read((20, 10, 220, 110), (100, 200)), whole[10:110, 20:220])


def test_a_slide_of_16_bits_is_refused_with_advice(tmp_path, monkeypatch):
    """One that is larger than what is ever decoded whole."""
    monkeypatch.setattr(subject, "MOST_WHOLE", 1 << 18)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 18)
    monkeypatch.setattr(subject, "is_installed", lambda package: False)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((900, 1100), np.uint16), tile=(256, 256))
    assert image_size(path) == (900, 1100)
    with pytest.raises(InputError, match="8 bits"), open_regions(path):
        pass


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("kind", ["png of 16 bits", "turned png", "16 bits", "RGB tiff_lzw"])
def test_a_file_read_bit_by_bit_has_the_same_digest(tmp_path, monkeypatch, kind, upright):
    if kind == "turned png":
        exif = Image.Exif()
        exif[274] = 6
        path = tmp_path / "image.png"
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(path, exif=exif)
    elif kind == "png of 16 bits":
        path = tmp_path / "image.png"
        Image.fromarray(np.zeros((30, 40), np.uint16)).save(path)
    else:
        path = saved(tmp_path, kind)
    expected = content_digest(path.read_bytes(), upright=upright)
    assert subject.file_digest(path, upright=upright) == expected
    monkeypatch.setattr(subject, "_IN_MEMORY", 0)
    assert subject.file_digest(path, upright=upright) == expected
