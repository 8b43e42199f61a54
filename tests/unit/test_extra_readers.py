"""Files that Pillow and tifffile do not read: by packages that are extras, or a sentence that says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.image_files import by_pillow

from fiftyone_ntt.candidates.tiles import tiles_of
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.pixels import extra_readers as subject
from fiftyone_ntt.pixels import regions
from fiftyone_ntt.pixels.images import image_size, read_image
from fiftyone_ntt.pixels.regions import open_regions
from fiftyone_ntt.pixels.small_copies import needs_preview, preview_file
from fiftyone_ntt.pixels.windowing import windowed

HEIGHT, WIDTH = 600, 800
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
COLOURS = np.stack([ROWS * 255 // HEIGHT, COLUMNS * 255 // WIDTH, (ROWS + COLUMNS) // 8], axis=2).astype(np.uint8)
BOX, SMALL = (80, 40, 680, 540), (50, 60)
REASON = "reads files of this kind; an extra of this package"


def aperio(path):
    """A slide as a scanner of Aperio's writes it, and a copy of half of its size."""
    text = f"Aperio Image Library v11.2.1 \r\n{WIDTH}x{HEIGHT} [0,0 {WIDTH}x{HEIGHT}] (256x256)|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as writer:
        for pixels in (COLOURS, COLOURS[::2, ::2].copy()):
            writer.write(pixels, photometric="rgb", tile=(256, 256), compression="zlib", description=text,
                         metadata=None)  # fmt: skip
    return path


def deep(path):
    """A map of 16 bits, of few values, with some that stand for "no data"."""
    values = (1000 + COLUMNS).astype(np.uint16)
    values[:100] = 65535
    nodata = [(42113, "s", 0, "65535", True)]
    tifffile.imwrite(path, values, photometric="minisblack", tile=(128, 128), extratags=nodata)
    return path


@pytest.fixture
def too_large(monkeypatch):
    """What Pillow and whoever decodes whole would refuse: images of more than twice 100,000 pixels."""
    monkeypatch.setattr(regions, "MOST_WHOLE", 1 << 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)


def missing(monkeypatch):
    for module in (subject, regions):
        monkeypatch.setattr(module, "is_installed", lambda package: False)


def parts(path):
    """A part of an image as it is, and made smaller."""
    with open_regions(path) as reader:
        assert reader.size == (HEIGHT, WIDTH)
        assert reader.read((0, 0, WIDTH, HEIGHT), (3, 4)).shape == (3, 4, 3)
        x1, y1, x2, y2 = BOX
        return reader.read(BOX, (y2 - y1, x2 - x1)), reader.read(BOX, SMALL)


def shrunk(pixels):
    return np.asarray(Image.fromarray(pixels).resize(SMALL[::-1], Image.Resampling.BOX))


def check_parts(path, whole, tolerance=2):
    x1, y1, x2, y2 = BOX
    expected = whole[y1:y2, x1:x2]
    as_it_is, small = (part.astype(int) for part in parts(path))
    assert np.abs(as_it_is - expected).mean() <= tolerance
    assert np.abs(small - shrunk(expected)).mean() <= tolerance + 1


def test_a_slide_by_openslide(tmp_path):
    pytest.importorskip("openslide", reason=REASON)
    path = aperio(tmp_path / "slide.svs")
    assert image_size(path) == (HEIGHT, WIDTH)
    check_parts(path, COLOURS, 0)
    with open_regions(path) as reader:
        assert isinstance(reader, subject.ExtraReader)
    assert needs_preview(path, 4096)
    (tmp_path / "small.jpg").write_bytes(preview_file(path, 200).content)
    assert read_image(tmp_path / "small.jpg").shape == (150, 200, 3)


def test_a_slide_of_one_level_in_strips(tmp_path, monkeypatch):
    """A part that is made much smaller is read some rows at a time."""
    pytest.importorskip("openslide", reason=REASON)
    monkeypatch.setattr(subject, "_AT_ONCE", 40_000)
    check_parts(aperio(tmp_path / "slide.svs"), COLOURS, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "grey", "16 bits", "see-through", "turned"])
def test_pictures_by_pyvips(tmp_path, too_large, kind):
    pytest.importorskip("pyvips", reason=REASON)
    path, whole = tmp_path / "picture", COLOURS
    if kind == "grey":
        whole = np.repeat(COLOURS[..., :1], 3, axis=2)
        content = by_pillow(COLOURS[..., 0], "PNG")
    elif kind == "16 bits":
        values = (ROWS * 3 + 40).astype(np.uint16)
        whole, content = np.repeat(windowed(values)[..., None], 3, axis=2), by_pillow(values, "PNG")
    elif kind == "see-through":
        opacity = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        opacity[:300] = 0
        whole = np.where(opacity, COLOURS, 255).astype(np.uint8)
        content = by_pillow(np.concatenate([COLOURS, opacity], axis=2), "PNG")
    elif kind == "turned":
        exif = Image.Exif()
        exif[274] = 6
        content = by_pillow(np.rot90(COLOURS), "JPEG", exif=exif, quality=95)
    else:
        content = by_pillow(COLOURS, kind, **({"quality": 95} if kind == "JPEG" else {}))
    path.write_bytes(content)
    assert image_size(path) == (HEIGHT, WIDTH)
    check_parts(path, whole)


def test_maps_by_rasterio(tmp_path, too_large):
    pytest.importorskip("rasterio", reason=REASON)
    whole = read_image_unchecked(deep(tmp_path / "map.tif"))
    as_it_is, small = parts(tmp_path / "map.tif")
    assert np.abs(as_it_is.astype(int) - whole[40:540, 80:680]).max() <= 3, "the window of the whole image"
    assert not small[:5].any() and small[10, 50, 0] > small[10, 5, 0] > 10, "no data is black, and in no mean"


def test_jpeg_2000_by_rasterio(tmp_path, too_large):
    pytest.importorskip("rasterio", reason=REASON)
    path = tmp_path / "image.jp2"
    path.write_bytes(by_pillow(COLOURS, "JPEG2000"))
    assert image_size(path) == (HEIGHT, WIDTH)
    check_parts(path, COLOURS, 1)


def read_image_unchecked(path):
    values = tifffile.imread(path)
    return np.repeat(windowed(values, 65535)[..., None], 3, axis=2)


def test_what_can_be_read_without_them_is(tmp_path):
    """Or the candidate cache would depend on what is installed."""
    for name, content in (("a.png", by_pillow(COLOURS, "PNG")), ("a.jp2", by_pillow(COLOURS, "JPEG2000"))):
        (tmp_path / name).write_bytes(content)
        with open_regions(tmp_path / name) as reader:
            assert isinstance(reader, regions.WholeImage)
    with open_regions(deep(tmp_path / "map.tif")) as reader:
        assert isinstance(reader, regions.WholeImage)


MISSING = {
    "picture.jpg": (lambda: by_pillow(COLOURS, "JPEG"), r"pip install 'fiftyone-ntt\[pyvips\]'"),
    "image.jp2": (lambda: by_pillow(COLOURS, "JPEG2000"), r"pip install 'fiftyone-ntt\["),
    "slide.mrxs": (lambda: by_pillow(COLOURS[:60, :80], "JPEG"), r"pip install 'fiftyone-ntt\[slides\]'"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_package_is_named(tmp_path, too_large, monkeypatch, name):
    missing(monkeypatch)
    content, message = MISSING[name]
    path = tmp_path / name
    path.write_bytes(content())
    assert image_size(path) is None and tiles_of(path, StageOneSettings(large_images="on")) == []
    with pytest.raises(InputError, match=message), open_regions(path):
        pass


@pytest.mark.parametrize(("name", "extra"), [("map.tif", "geotiff"), ("slide.svs", "slides")])
def test_a_tiff_of_another_kind_names_it_too(tmp_path, too_large, monkeypatch, name, extra):
    missing(monkeypatch)
    with pytest.raises(InputError, match=rf"8 bits.*'fiftyone-ntt\[{extra}\]'"), open_regions(deep(tmp_path / name)):
        pass


def test_a_slide_without_openslide_is_read_as_the_tiff_it_is(tmp_path, too_large, monkeypatch):
    missing(monkeypatch)
    check_parts(aperio(tmp_path / "slide.svs"), COLOURS, 0)


def test_a_slide_compressed_as_jpeg_is_read_by_its_tiles(tmp_path, too_large, monkeypatch):
    """Its colours are not RGB inside the file."""
    pytest.importorskip("imagecodecs", reason="tifffile unpacks JPEG with it; no extra of this package")
    missing(monkeypatch)
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, COLOURS, photometric="rgb", tile=(256, 256), compression="jpeg", compressionargs={"level": 95}
    )
    with open_regions(path) as reader:
        assert isinstance(reader, regions.TiledTiff)
    check_parts(path, COLOURS)


@pytest.mark.parametrize("package", subject.EXTRAS)
def test_a_damaged_file_costs_itself(tmp_path, too_large, package):
    pytest.importorskip(package, reason=REASON)
    path = tmp_path / {"openslide": "slide.svs", "rasterio": "image.jp2", "pyvips": "picture.png"}[package]
    if package == "openslide":
        aperio(path)
    else:
        noise = np.random.default_rng(0).integers(0, 256, COLOURS.shape, dtype=np.uint8)
        path.write_bytes(by_pillow(noise, "JPEG2000" if package == "rasterio" else "PNG"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(InputError, match=path.name), open_regions(path) as reader:
        reader.read((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))


def test_the_extras_are_in_the_project():
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    for package, extra in subject.EXTRAS.items():
        assert f"\n{extra} = [" in text and package in text.split(f"\n{extra} = [")[1].split("]\n")[0]


def test_a_picture_that_is_called_a_slide_is_read(tmp_path):
    """OpenSlide takes none that no scanner wrote; whoever saved it anew kept its name."""
    pytest.importorskip("openslide", reason=REASON)
    path = tmp_path / "saved.svs"
    tifffile.imwrite(path, COLOURS, photometric="rgb")
    assert image_size(path) == (HEIGHT, WIDTH)
    check_parts(path, COLOURS, 0)
    (tmp_path / "small.jpg").write_bytes(preview_file(path, 200).content)
    assert read_image(tmp_path / "small.jpg").shape == (150, 200, 3)
    with pytest.raises(InputError, match="not found"), open_regions(tmp_path / "none.svs"):
        pass


def test_a_turned_map_is_refused_and_not_shown_wrongly(tmp_path, too_large):
    pytest.importorskip("rasterio", reason=REASON)
    path = tmp_path / "turned.tif"
    tifffile.imwrite(path, COLOURS, photometric="rgb", tile=(128, 128), extratags=[(274, "H", 1, 3, True)])
    with pytest.raises(InputError, match="upright"), open_regions(path):
        pass
