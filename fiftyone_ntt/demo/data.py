"""The demo's pictures: photographs that scikit-image carries in its package, cut and annotated here.

The photograph of 24 coins is cut between the coins into three tiles: one tile's coins are references, the coins of the
others are to be found. The motorcycle is a stereo pair: reference on the left, to be found on the right. Four more
photographs hold neither.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from fiftyone_ntt.errors import InputError

logger = logging.getLogger(__name__)

ANNOTATIONS = Path(__file__).with_name("annotations.json")


@dataclass(frozen=True)
class Tile:
    """A rectangle of a photograph.

    Attributes:
        name: name of the demo image.
        source: file name of the photograph.
        box: ``(left, top, right, bottom)`` in pixels of the photograph, right and bottom exclusive; ``None`` for all.
        reference: whether its objects are references.
    """

    name: str
    source: str
    box: tuple[int, int, int, int] | None = None
    reference: bool = False


@dataclass(frozen=True)
class DemoObject:
    """An annotated object.

    Attributes:
        label: its class.
        mask: bool ``[H, W]`` in pixels of the demo image.
    """

    label: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class DemoImage:
    """An image of the demo with its ground truth.

    Attributes:
        name: short name, also its file name without suffix.
        pixels: uint8 ``[H, W, 3]`` RGB.
        objects: what is annotated in it.
        reference: whether its objects are references.
    """

    name: str
    pixels: NDArray[np.uint8]
    objects: tuple[DemoObject, ...]
    reference: bool


# No coin is cut: the gaps between the rows are at 85, 150 and 226, the gap beside column three is at 183.
TILES = (
    Tile("coins_1", "coins.png", (0, 0, 183, 150), reference=True),
    Tile("coins_2", "coins.png", (183, 0, 384, 150)),
    Tile("coins_3", "coins.png", (0, 150, 384, 303)),
    Tile("motorcycle_left", "motorcycle_left.png", reference=True),
    Tile("motorcycle_right", "motorcycle_right.png"),
    Tile("astronaut", "astronaut.png"),
    Tile("chelsea", "chelsea.png"),
    Tile("coffee", "coffee.png"),
    Tile("rocket", "rocket.jpg"),
)


_OF_REFERENCES = {tile.source for tile in TILES if tile.reference} | {"motorcycle_right.png"}


def load_images() -> list[DemoImage]:
    """Reads and cuts the photographs, and draws the masks from the annotated outlines.

    Raises:
        InputError: scikit-image is not installed, or carries other photographs than the annotated ones.
    """
    images = []
    for tile in TILES:
        try:
            images.append(_demo_image(tile))
        except InputError as error:
            if tile.reference or tile.source in _OF_REFERENCES:
                raise
            logger.warning("left out: %s", error)  # it holds nothing to find: the demo is the same without it
    return images


def photographs_folder() -> Path:
    """Where the installed scikit-image keeps its photographs; found without importing it.

    Raises:
        InputError: it is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the demo's photographs come with the package scikit-image, which is not installed: "
            "pip install scikit-image"
        )
    return Path(next(iter(spec.submodule_search_locations)), "data")


def _demo_image(tile: Tile) -> DemoImage:
    pixels = _photograph(tile.source)
    height, width = pixels.shape[:2]
    left, top, right, bottom = tile.box or (0, 0, width, height)
    cut = [(label, mask, mask[top:bottom, left:right]) for label, mask in _objects(tile.source)]
    # An object is in the tile that holds most of it; the tiles are laid so that this is all of it.
    objects = tuple(DemoObject(label, part.copy()) for label, mask, part in cut if 2 * part.sum() > mask.sum())
    return DemoImage(tile.name, pixels[top:bottom, left:right].copy(), objects, tile.reference)


def _photograph(name: str) -> NDArray[np.uint8]:
    path = photographs_folder() / name
    if not path.is_file():
        raise InputError(f"expected the photograph {name} in {path.parent}, found none: pip install -U scikit-image")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    expected = next((item["width"], item["height"]) for item in _document()["images"] if item["file_name"] == name)
    if pixels.shape[:2] != expected[::-1]:
        raise InputError(
            f"expected {name} of scikit-image to have {expected} pixels, as annotated; it has {pixels.shape[1::-1]}"
        )
    return pixels


def _objects(source: str) -> list[tuple[str, NDArray[np.bool_]]]:
    document = _document()
    image = next(item for item in document["images"] if item["file_name"] == source)
    names = {category["id"]: category["name"] for category in document["categories"]}
    size = image["height"], image["width"]
    outlines = [item for item in document["annotations"] if item["image_id"] == image["id"]]
    return [(names[item["category_id"]], _rasterised(item["segmentation"], size)) for item in outlines]


def _rasterised(polygons: list[list[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of polygons ``[x, y, x, y, ...]`` as bool ``[H, W]``."""
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    mask: NDArray[np.bool_] = coco_mask.decode(encoded).astype(bool)
    return mask


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ANNOTATIONS.read_text(encoding="utf-8"))
    return document
