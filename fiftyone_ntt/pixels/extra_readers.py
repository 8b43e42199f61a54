"""Readers of image files that Pillow and tifffile do not read: by packages that are installed for them.

Each is a ``RegionReader``. A file that can be read without them is read without them, so that what is in the candidate
cache does not depend on what else is installed; slides are the exception, see ``SLIDES``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.files import plain_file
from fiftyone_ntt.pixels.windowing import Window, in_window, window_of

Box = tuple[int, int, int, int]
SLIDES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"})
"""Endings of the files of slide scanners, which OpenSlide reads where it is installed."""
IN_SEVERAL_FILES = frozenset({".mrxs", ".vms", ".vmu"})
"""Those of which the file itself holds a small picture, or none."""
EXTRAS = {"openslide": "slides", "rasterio": "geotiff", "pyvips": "pyvips"}
"""Package -> what it is called as an extra of this one."""
_SAMPLE, _AT_ONCE = 1024, 1 << 24
_ORIENTATION = 274
_JPEG2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")


def is_slide(path: str | Path) -> bool:
    """Whether a file is a slide scanner's, by its ending."""
    return Path(path).suffix.lower() in SLIDES


def is_installed(package: str) -> bool:
    """Whether a package of ``EXTRAS`` is there."""
    return find_spec(package) is not None


def how_to_install(package: str) -> str:
    """What to do where a package is missing: ``"pip install 'fiftyone-ntt[slides]'"``."""
    return f"pip install 'fiftyone-ntt[{EXTRAS[package]}]'"


def package_for(path: str | Path) -> str:
    """The package that reads a file which Pillow and tifffile do not read."""
    if is_slide(path):
        return "openslide"
    with plain_file(path).open("rb") as stream:
        head = stream.read(12)
    of_maps = head.startswith(_JPEG2000) or head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    return "rasterio" if of_maps else "pyvips"


def size_by_extras(path: str | Path) -> tuple[int, int] | None:
    """Height and width of a file that Pillow and tifffile do not read, from its header; ``None`` if nothing does."""
    try:
        if not is_installed(package_for(path)):
            return None
        with open_by_extras(path) as reader:
            height, width = reader.size
            return height, width
    except Exception:  # whoever reads it will say what is wrong
        return None


@contextmanager
def open_by_extras(path: str | Path) -> Iterator[Any]:
    """A ``RegionReader`` of a file that Pillow and tifffile do not read.

    Raises:
        InputError: if the package for it is missing, or cannot read it either.
    """
    package = package_for(path)
    if not is_installed(package):
        raise InputError(f"not a readable image: {path} (it is read by {package}: {how_to_install(package)})")
    opened = {"openslide": _slide, "rasterio": _raster, "pyvips": _picture}[package]
    try:
        reader, close = opened(path)
    except InputError:
        raise
    except Exception as error:  # each package has errors of its own
        raise InputError(f"not a readable image: {path} ({package}: {_said(error)}; get it again)") from error
    try:
        yield reader
    finally:
        close()


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ExtraReader:
    """Parts of an image as a package gives them; see ``RegionReader``.

    Args:
        path: for the errors.
        size: ``(height, width)``, upright.
        values: gives the values ``[*out_size, 1 or 3]`` of a part, smaller where it is asked for.
        nodata: a value that stands for "no data".
        together: one window for all channels, as for colours.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        values: Callable[[Box, tuple[int, int]], NDArray[Any]],
        nodata: float | None = None,
        together: bool = True,
    ) -> None:
        self.size, self.notes = size, ()
        self._path, self._values, self._nodata = path, values, nodata
        self._together, self._windows = together, list[Window]()

    def read(self, box: Box, out_size: tuple[int, int]) -> NDArray[np.uint8]:
        """See ``RegionReader``."""
        try:
            pixels = self._shown(self._values(box, out_size))
        except Exception as error:
            raise InputError(
                f"not a readable image: {self._path} (a part of it: {_said(error)}; get it again)"
            ) from error
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)

    def _shown(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """The values in 8 bits: in the window of the whole image, or tiles would differ."""
        if values.dtype == np.uint8:
            return values
        if not self._windows:
            height, width = self.size
            share = min(1.0, _SAMPLE / max(self.size))
            small = self._values((0, 0, width, height), (max(1, int(height * share)), max(1, int(width * share))))
            channels = [small] if self._together else np.split(small, small.shape[2], axis=2)
            self._windows = [window_of(channel, self._nodata) for channel in channels]
        channels = [values] if self._together else np.split(values, values.shape[2], axis=2)
        shown = [in_window(each, window) for each, window in zip(channels, self._windows, strict=True)]
        return np.concatenate(shown, axis=2)


def resized(pixels: NDArray[Any], out_size: tuple[int, int]) -> NDArray[Any]:
    """Values ``[h, w, C]`` of 8 bits, each the mean of those that it stands for."""
    if pixels.shape[:2] == tuple(out_size):
        return pixels
    image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    small = np.asarray(image.resize((out_size[1], out_size[0]), Image.Resampling.BOX))
    return small if small.ndim == 3 else small[..., None]


Opened = tuple[ExtraReader, Callable[[], object]]


def _slide(path: str | Path) -> Opened:
    """By OpenSlide: from the level that is fine enough."""
    import openslide

    slide = openslide.OpenSlide(str(path))
    width, height = slide.dimensions

    def values(box: Box, out_size: tuple[int, int]) -> NDArray[Any]:
        x1, y1, x2, y2 = box
        shrink = min((y2 - y1) / out_size[0], (x2 - x1) / out_size[1])
        level = slide.get_best_level_for_downsample(max(shrink, 1.0) + 1e-3)
        factor = slide.level_downsamples[level]
        rows, columns = max(1, round((y2 - y1) / factor)), max(1, round((x2 - x1) / factor))
        strips, step = [], max(1, _AT_ONCE // columns)  # rows at a time: a slide may have one level only
        for top in range(0, rows, step):
            bottom = min(top + step, rows)
            shown = out_size[0] * bottom // rows - out_size[0] * top // rows
            if not shown:
                continue
            part = slide.read_region((x1, y1 + round(top * factor)), level, (columns, bottom - top))
            paper = Image.new("RGBA", part.size, "white")  # what was not scanned is transparent
            strip = np.asarray(Image.alpha_composite(paper, part).convert("RGB"))
            strips.append(resized(strip, (shown, out_size[1])))
        return np.concatenate(strips)

    return ExtraReader(path, (height, width), values), slide.close


def _raster(path: str | Path) -> Opened:
    """By rasterio: GDAL's windows, overviews, and value for "no data"."""
    import rasterio
    from rasterio.enums import ColorInterp, Resampling
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window as Part

    with warnings.catch_warnings():  # a picture that lies nowhere on earth is a picture nevertheless
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(path)
    kinds = file.colorinterp
    if _is_turned(path):
        file.close()
        raise InputError(f"not a readable image: {path} (expected an image that is stored upright; save it as such)")
    if file.count == 0 or kinds[0] in (ColorInterp.palette, ColorInterp.cyan, ColorInterp.hue):
        file.close()
        raise InputError(f"not a readable image: {path} (expected grey or RGB values, got {kinds[:1]}; save it as RGB)")
    channels = [1, 2, 3] if file.count > 2 else [1]
    coloured = kinds[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)

    def values(box: Box, out_size: tuple[int, int]) -> NDArray[Any]:
        part = Part(box[0], box[1], box[2] - box[0], box[3] - box[1])
        found = file.read(channels, window=part, out_shape=(len(channels), *out_size), resampling=Resampling.average)
        return np.moveaxis(found, 0, -1)

    return ExtraReader(path, (file.height, file.width), values, file.nodata, coloured or len(channels) == 1), file.close


def _is_turned(path: str | Path) -> bool:
    """Whether a TIFF is to be shown turned, which GDAL does not say."""
    try:
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            tag: Any = tiff.pages.first.tags.get(_ORIENTATION)
        return tag is not None and tag.value not in (0, 1)
    except Exception:  # no TIFF
        return False


def _picture(path: str | Path) -> Opened:
    """By libvips, which keeps what it has decoded on disk where it is large."""
    import pyvips

    image = pyvips.Image.new_from_file(str(path), fail_on="error").autorot()
    if image.hasalpha():
        image = image.flatten(background=[65535 if image.format == "ushort" else 255] * (image.bands - 1))
    if image.interpretation not in ("b-w", "grey16", "srgb", "rgb16", "rgb"):
        image = image.colourspace("srgb")
    if image.bands not in (1, 3):
        image = image[:3] if image.bands > 3 else image[0]

    def values(box: Box, out_size: tuple[int, int]) -> NDArray[Any]:
        x1, y1, x2, y2 = box
        part = image.crop(x1, y1, x2 - x1, y2 - y1)
        if (part.height, part.width) != tuple(out_size):
            part = part.resize(out_size[1] / part.width, vscale=out_size[0] / part.height, kernel="linear")
        found = np.asarray(part.numpy())
        found = (found if found.ndim == 3 else found[..., None])[: out_size[0], : out_size[1]]
        return np.pad(found, [(0, out_size[0] - len(found)), (0, out_size[1] - found.shape[1]), (0, 0)], "edge")

    return ExtraReader(path, (image.height, image.width), values), lambda: None
