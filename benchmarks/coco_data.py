"""Folders of COCO json with images and ready reference sets, as ``benchmarks.accuracy`` reads them.

DIR/refs/{classes}_{n}shot_seed{S}.json    the references: images, one annotation an instance
DIR/annotations/...                        the targets: instances_val2017[_voc20].json, or test.json
DIR/{train2017,val2017} or DIR/images      the image files
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from fiftyone_ntt.core import ReferenceItem, read_image
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.coco import GroundTruth, Rle

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Where the sets lie by default: in a folder beside the checkout."""
SHARE_WITHOUT_CLASS = 0.2
"""Of a subset, this share of images holds none of the classes (as far as there are such images)."""
_TARGETS = {"voc20": "instances_val2017_voc20.json", "all80": "instances_val2017.json", "all": "test.json"}


@dataclass(frozen=True)
class TargetImage:
    """An image to label: its id in the json, its file, and ``(height, width)`` in pixels."""

    image_id: int
    path: Path
    size: tuple[int, int]


@dataclass(frozen=True)
class Targets:
    """The images to label and what is in them.

    Attributes:
        classes: names in the order of their category ids.
        images: in ascending id, the order in which COCO evaluation ranks ties.
        truth: annotated objects of these images.
    """

    classes: tuple[str, ...]
    images: tuple[TargetImage, ...]
    truth: tuple[GroundTruth, ...]


def known_classes(root: Path) -> list[str]:
    """The class lists that a folder has reference sets for, e.g. ``["all80", "voc20"]``."""
    return sorted({path.name.split("_")[0] for path in (root / "refs").glob("*_*shot_seed*.json")})


def default_classes(root: Path) -> str:
    """The only class list of a folder, or ``voc20``, the one of the published protocol."""
    known = known_classes(root)
    if "voc20" in known or len(known) == 1:
        return "voc20" if "voc20" in known else known[0]
    raise InputError(f"expected reference sets refs/<classes>_<n>shot_seed<s>.json in {root}, got those of {known}")


def read_targets(root: Path, classes: str, count: int | None = None) -> Targets:
    """Reads the target images and their objects.

    Args:
        root: the data folder.
        classes: name of the class list.
        count: take only so many images, chosen by ``choose_images``; all where ``None``.
    """
    content = _read_json(root / "annotations" / _target_name(classes))
    names, index = _categories(content)
    images = {
        image["id"]: TargetImage(
            image["id"], _image_path(root, "val2017", image["file_name"]), (image["height"], image["width"])
        )
        for image in content["images"]
    }
    truth = [
        _ground_truth(annotation, index[annotation["category_id"]], images[annotation["image_id"]].size)
        for annotation in content["annotations"]
    ]
    if count is not None and count < len(images):
        chosen = set(choose_images(list(images.values()), truth, len(names), count))
        images = {image_id: image for image_id, image in images.items() if image_id in chosen}
        truth = [item for item in truth if item.image_id in images]
    return Targets(names, tuple(images[image_id] for image_id in sorted(images)), tuple(truth))


def choose_images(images: Sequence[TargetImage], truth: Sequence[GroundTruth], classes: int, count: int) -> list[int]:
    """A subset that covers the classes evenly and keeps some images without any; the same on every machine.

    A fifth of the images are those without any class (fewer if there are fewer). For the rest, the class that fewest
    chosen images hold so far gives the next image, ties going to the class that is rarer in the whole set. Within
    "class" and "no class" images stand in the order of the sha256 of their file names, which has nothing to do with
    their content.

    Returns:
        ``count`` image ids.
    """
    held: dict[int, set[int]] = {image.image_id: set() for image in images}
    for item in truth:
        held[item.image_id].add(item.label)  # type: ignore[index]
    order = sorted(images, key=lambda image: hashlib.sha256(image.path.name.encode()).hexdigest())
    bare = [image.image_id for image in order if not held[image.image_id]]
    chosen = bare[: min(len(bare), int(count * SHARE_WITHOUT_CLASS))]
    queues = {k: [image.image_id for image in order if k in held[image.image_id]] for k in range(classes)}
    rarity = {k: len(queue) for k, queue in queues.items()}
    while len(chosen) < count and any(queues.values()):
        covered = {k: sum(k in held[image_id] for image_id in chosen) for k in queues}
        rarest = min((k for k in queues if queues[k]), key=lambda k: (covered[k], rarity[k], k))
        chosen.append(queues[rarest][0])
        queues = {k: [image_id for image_id in queue if image_id != chosen[-1]] for k, queue in queues.items()}
    return [*chosen, *(image_id for image_id in bare if image_id not in chosen)][:count]


def read_references(root: Path, classes: str, shots: int, seed: int, names: Sequence[str]) -> Iterator[ReferenceItem]:
    """Yields the reference instances of one draw, those of one image after each other."""
    path = root / "refs" / f"{classes}_{shots}shot_seed{seed}.json"
    content = _read_json(path)
    found, index = _categories(content)
    if list(found) != list(names):
        raise InputError(f"the classes of {path.name} differ from those of the targets: {found} and {tuple(names)}")
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    for entry in content["images"]:
        pixels = read_image(_image_path(root, "train2017", entry["file_name"]))
        size = _checked_size(pixels, entry)
        for annotation in annotations.get(entry["id"], []):
            x, y, w, h = annotation["bbox"]
            yield ReferenceItem(
                image=pixels,
                mask=mask_utils.decode(encode_segmentation(annotation["segmentation"], size)).astype(bool),
                label=found[index[annotation["category_id"]]],
                reference_id=f"{entry['file_name']}/{annotation['id']}",
                box=(x, y, x + w, y + h),
            )


def read_target_image(image: TargetImage) -> np.ndarray:
    """The pixels, uint8 ``[H, W, 3]``; refuses a file whose size is not that of the json."""
    pixels = read_image(image.path)
    _checked_size(pixels, {"file_name": image.path.name, "height": image.size[0], "width": image.size[1]})
    return pixels


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Compressed RLE of a COCO segmentation: polygons, uncompressed or compressed RLE."""
    height, width = size
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        counts = segmentation["counts"]
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    encoded = mask_utils.frPyObjects(segmentation, height, width)
    rle: Rle = mask_utils.merge(encoded) if isinstance(encoded, list) else encoded
    return rle


def _ground_truth(annotation: dict[str, Any], label: int, size: tuple[int, int]) -> GroundTruth:
    x, y, w, h = annotation["bbox"]
    rle = encode_segmentation(annotation["segmentation"], size)
    return GroundTruth(annotation["image_id"], label, (x, y, x + w, y + h), rle, bool(annotation.get("iscrowd", 0)))


def _categories(content: dict[str, Any]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names in ascending category id, and category id -> index."""
    ordered = sorted(content["categories"], key=lambda category: category["id"])
    return tuple(category["name"] for category in ordered), {category["id"]: k for k, category in enumerate(ordered)}


def _target_name(classes: str) -> str:
    if classes not in _TARGETS:
        raise InputError(f"expected classes to be one of {', '.join(_TARGETS)}, got {classes!r}")
    return _TARGETS[classes]


def _image_path(root: Path, split: str, file_name: str) -> Path:
    """COCO keeps its images in a folder a split, the other sets in ``images``."""
    folder = root / split
    return (folder if folder.is_dir() else root / "images") / file_name


def _checked_size(pixels: np.ndarray, entry: dict[str, Any]) -> tuple[int, int]:
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    if size != (entry["height"], entry["width"]):
        raise InputError(f"{entry['file_name']} is {size}, its json says {(entry['height'], entry['width'])}")
    return size


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"expected a COCO json at {path}, got no such file")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
