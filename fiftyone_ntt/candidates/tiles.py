"""Large images in tiles: which there are, and how they go through the stream of all images and into the cache.

A tile is to the models an image of its own, and to the cache another image of the same settings: so nothing that is
kept of ordinary images changes, and labelling an image again needs no model here either.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.options.tiled import TiledImage
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.pixels.images import image_size
from fiftyone_ntt.pixels.regions import MOST_WHOLE, Box, Tile, open_regions

SIDE = 1024
"""Image pixels along a tile of the finest level: as many as the mask model sees."""
OVERLAP, MOST_OVERLAP = 0.25, 0.5
"""Of a tile's side: at least, and at most where larger objects are expected."""
_ASPECT, _LEAST_SIDE = 1.5, 256
"""A tile is so much longer than wide at most, or than this many pixels: else a thin strip has thousands of tiles."""
_LONGEST, _ORDINARY, _STRIP = 6400, 2048, 4
"""``auto``: from 6,400 pixels on objects of 200 lie unseen between 32 points a side; a strip's are lost far earlier."""

Content = CompactImage | TiledImage
"""What stage one found in an image, in one part or in tiles."""


def is_tiled(size: tuple[int, int], large_images: str) -> bool:
    """Whether an image of ``(height, width)`` is looked at in tiles.

    Args:
        size: of the image.
        large_images: ``"off"``; ``"on"`` for all that are larger than a tile; ``"auto"`` for those in which a grid of
            points misses what anybody would see: longer than 6,400 pixels, or than 2,048 and four times as long as
            wide.
    """
    longest, shortest = max(size), min(size)
    if large_images == "auto":
        return longest > _LONGEST or (longest > _ORDINARY and longest >= _STRIP * shortest)
    return large_images == "on" and longest > SIDE


def tile_grid(size: tuple[int, int], largest_object: int | None = None, side: int = SIDE) -> list[Tile]:
    """The tiles of an image, coarse to fine; they depend on nothing but the arguments.

    First the image as a whole, unless it has more than ``MOST_WHOLE`` pixels. Then levels of tiles, each of twice the
    side of the next, down to tiles whose every pixel is seen. Tiles overlap, so that what is smaller than the overlap
    is whole in one of them; the last ones of a row or column are shifted inwards.

    Args:
        size: ``(height, width)`` of the image.
        largest_object: pixels that the largest objects are long; coarser levels than these need are left out. All are
            there where ``None``.
        side: of the tiles of the finest level.

    Example:
        >>> [tile.box for tile in tile_grid((600, 1500), side=1024)]
        [(0, 0, 1500, 600), (0, 0, 900, 600), (600, 0, 1500, 600)]
    """
    levels: list[list[Tile]] = []
    before, shrink = (0, 0), 1
    while True:
        tile = _tile_size(size, side * shrink)
        if tile in (size, before) or tile[0] * tile[1] > MOST_WHOLE:
            break
        least = OVERLAP * max(tile)
        fits = largest_object is not None and largest_object <= MOST_OVERLAP * min(tile)
        overlap = max(least, largest_object or 0) if fits else least
        levels.append([Tile(box, size, shrink) for box in _boxes(size, tile, int(overlap))])
        if fits:
            break
        before, shrink = tile, 2 * shrink
    if size[0] * size[1] <= MOST_WHOLE:
        levels.append([Tile((0, 0, size[1], size[0]), size)])
    return [tile for level in reversed(levels) for tile in level]


def _tile_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``(height, width)`` of a tile: within the image, and not much longer than wide, as the models squash it."""
    height, width = min(side, size[0]), min(side, size[1])
    most = int(_ASPECT * max(min(height, width), _LEAST_SIDE))
    return min(height, most), min(width, most)


def _boxes(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Box]:
    rows, columns = (
        [min(start, total - own) for start in range(0, max(total - overlap, 1), max(own - overlap, 1))]
        for total, own in zip(size, tile, strict=True)
    )
    starts = product(dict.fromkeys(rows), dict.fromkeys(columns))
    return [(x, y, x + tile[1], y + tile[0]) for y, x in starts]


def window_of(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """The part of a large image in which a reference is seen as objects are in tiles: the object takes at most half.

    All of a strip in which a tile would be narrower than the object.

    Args:
        box: xyxy of the object in image pixels.
        size: ``(height, width)`` of the image.
    """
    side = SIDE
    while side < 2 * max(box[2] - box[0], box[3] - box[1]):
        side *= 2
    height, width = _tile_size(size, side)
    if box[2] - box[0] > width or box[3] - box[1] > height:
        return 0, 0, size[1], size[0]
    left = int(np.clip((box[0] + box[2] - width) / 2, 0, size[1] - width))
    top = int(np.clip((box[1] + box[3] - height) / 2, 0, size[0] - height))
    return left, top, left + width, top + height


def tiles_of(filepath: str | Path, settings: StageOneSettings, *, upright: bool = True) -> list[Tile]:
    """The tiles of an image file; none of an ordinary image, and where the settings want none."""
    if settings.large_images == "off":
        return []
    # As stored first: which side is up matters to no ordinary image, and a PNG is decoded to know of it.
    size = image_size(filepath, upright=False)
    if size is None or not is_tiled(size, settings.large_images):
        return []
    size = image_size(filepath) if upright else size
    return [] if size is None else tiles_of_size(size, settings)


def tiles_of_size(size: tuple[int, int], settings: StageOneSettings) -> list[Tile]:
    """The same for an image of ``(height, width)``."""
    return tile_grid(size, settings.largest_object) if is_tiled(size, settings.large_images) else []


def digests_of(image: str, tiles: Sequence[Tile]) -> list[str]:
    """What the cache knows each tile by; the image as a whole goes by its own digest, as an ordinary one does."""
    return [image if tile.is_whole else _digest(image, tile) for tile in tiles]


def _digest(image: str, tile: Tile) -> str:
    return hashlib.sha256(f"{image} tile {tile.box} {tile.shrink}".encode()).hexdigest()


@dataclass(eq=False)
class TiledItem:
    """A large image on its way through ``stream``, tile by tile. Its methods may be called from several threads.

    Attributes:
        filepath: the file.
        tiles: its tiles.
        digests: what the cache knows each by.
        upright: apply EXIF rotation.
        recall: what the cache has under a digest.
        keep: called with the digest of a tile that the cache did not have, and what was found in it.
        note: called with notes on the file.
        told: called once all tiles are there, with whether the cache had all of them.
    """

    filepath: str
    tiles: list[Tile]
    digests: list[str]
    upright: bool
    recall: Callable[[str], CompactImage | None]
    keep: Callable[[str, CompactImage], None]
    note: Callable[[Sequence[str]], None]
    told: Callable[[bool], None]

    def __post_init__(self) -> None:
        self._parts: dict[int, CompactImage] = {}
        self._lock = threading.Lock()
        self._missing: set[int] = set()  # numbers of the tiles that were not in the cache

    def contents(self) -> Iterator[NDArray[np.uint8] | CompactImage]:
        """Each tile in turn: what the cache has of it, else its pixels.

        Raises:
            InputError: if the file cannot be read, now or half-way.
        """
        recalled = [self.recall(digest) for digest in self.digests]
        self._missing = {i for i, content in enumerate(recalled) if content is None}
        if not self._missing:
            yield from (content for content in recalled if content is not None)
            return
        size = self.tiles[0].image_size
        with open_regions(self.filepath, upright=self.upright) as reader:
            if reader.size != size:  # the tiles would lie elsewhere, and the cache would keep them
                raise InputError(
                    f"not a readable image: {self.filepath} (expected {size[1]} x {size[0]} pixels as its header says, "
                    f"got {reader.size[1]} x {reader.size[0]}; save it anew, or use large_images='off')"
                )
            self.note(reader.notes)
            for tile, content in zip(self.tiles, recalled, strict=True):
                yield reader.read(tile.box, tile.shown_size) if content is None else content

    def add(self, number: int, content: CompactImage) -> TiledImage | None:
        """Takes what was found in a tile; the whole image once it is the last."""
        if number in self._missing:
            self.keep(self.digests[number], content)
        with self._lock:
            self._parts[number] = content
            if len(self._parts) < len(self.tiles):
                return None
            parts = tuple(self._parts[i] for i in range(len(self.tiles)))
        self.told(not self._missing)
        return TiledImage(self.tiles[0].image_size, tuple(self.tiles), parts)

    def cached(self) -> TiledImage | None:
        """The image, if the cache has all of its tiles."""
        recalled = [self.recall(digest) for digest in self.digests]
        parts = tuple(content for content in recalled if content is not None)
        if len(parts) < len(self.tiles):
            return None
        return TiledImage(self.tiles[0].image_size, tuple(self.tiles), parts)
