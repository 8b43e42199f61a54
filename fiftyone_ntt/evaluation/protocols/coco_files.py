"""COCO json as the protocols read it: images to label, annotated objects, references. Nothing of FiftyOne."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import InputError, listing
from fiftyone_ntt.evaluation.coco import Box, GroundTruth
from fiftyone_ntt.evaluation.protocols.json_checks import is_empty, problems
from fiftyone_ntt.pixels.files import plain_file
from fiftyone_ntt.pixels.mask_codes import Rle

SHARE_WITHOUT_CLASS = 0.2
"""Of a subset, this share of images holds none of the classes (as far as there are such images)."""


@dataclass(frozen=True)
class TargetImage:
    """An image to label: its id in the json, its file, and ``(height, width)`` in pixels as the json has it."""

    image_id: int
    path: Path
    size: tuple[int, int]


@dataclass(frozen=True)
class Annotated(GroundTruth):
    """An annotated object of a json.

    Attributes:
        area: in pixels, as the json has it; that of the mask, or of the box, where it has none.
        difficult: PASCAL VOC's mark, which converters to COCO call ``ignore``. What it means is the scorer's matter.
    """

    area: float = 0.0
    difficult: bool = False


@dataclass(frozen=True)
class Targets:
    """The images to label and what is in them.

    Attributes:
        classes: names in the order of their category ids.
        images: in ascending id, the order in which COCO evaluation ranks ties; those without any object included.
        truth: annotated objects of these images.
        facts: what else a scorer may ask for, by name: LVIS's lists of an image, frequencies of the classes.
        category_ids: of the classes, in the json.
        inclusive_boxes: whether boxes of the truth end on their last pixel, as those of VOC do, not after it.
        notes: what a reader of the figures must know.
    """

    classes: tuple[str, ...]
    images: tuple[TargetImage, ...]
    truth: tuple[GroundTruth, ...]
    facts: dict[str, Any] | None = None
    category_ids: tuple[int, ...] = ()
    inclusive_boxes: bool = False
    notes: tuple[str, ...] = ()

    def limited(self, count: int | None) -> Targets:
        """Only so many of the images, as ``choose_images`` takes them; all where ``None``."""
        if count is None or count >= len(self.images):
            return self
        chosen = set(choose_images(self.images, self.truth, len(self.classes), count))
        images = tuple(image for image in self.images if image.image_id in chosen)
        truth = tuple(item for item in self.truth if item.image_id in chosen)
        return replace(self, images=images, truth=truth)

    def without_masks(self) -> Targets:
        """With boxes as truth, whatever else the json has: polygons of boxes are no masks."""
        return replace(self, truth=tuple(replace(item, rle=None) for item in self.truth))

    @property
    def truth_digest(self) -> str:
        """Tells the truth apart from that of an annotation file that was changed: sha256 of all that is scored."""
        return digest_of(map(repr, self.truth))


@dataclass(frozen=True)
class Reference:
    """One reference object, not read yet.

    Attributes:
        path: the image file.
        size: ``(height, width)`` of the image in pixels.
        annotation_id: id in the json.
        label: class name.
        box: xyxy in image pixels.
        segmentation: COCO's polygons or run lengths; ``None`` where there is only a box.
    """

    path: Path
    size: tuple[int, int]
    annotation_id: int
    label: str
    box: Box
    segmentation: Any = None

    @property
    def key(self) -> str:
        """Where it came from, for people."""
        return f"{self.path.name}/{self.annotation_id}"

    @property
    def identity(self) -> str:
        """Tells it apart from all others: shot files may number different objects alike."""
        return f"{self.path} {self.label} {' '.join(f'{value:.2f}' for value in self.box)}"

    def read_mask(self) -> NDArray[np.bool_] | None:
        """bool ``[H, W]``; ``None`` where there is only a box."""
        return None if self.segmentation is None else decode_segmentation(self.segmentation, self.size)


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A COCO json.

    Attributes:
        path: the file.
        content: what is in it; shared by all who read the file, so nobody changes it.
        folder: where its images lie.
    """

    path: Path
    content: dict[str, Any]
    folder: Path

    @classmethod
    def read(cls, path: Path, folder: Path) -> CocoFile:
        """Reads a file.

        Raises:
            InputError: if it is not there, or no COCO json.
        """
        if not path.is_file():
            raise InputError(
                f"expected a COCO json at {path}, got no such file; `protocol prepare` says what is needed"
            )
        facts = path.stat()
        return _read(path, folder, facts.st_mtime_ns, facts.st_size)

    @cached_property
    def names(self) -> dict[int, str]:
        """Category id -> name, in ascending id."""
        ordered = sorted(self.content["categories"], key=lambda category: category["id"])
        return {category["id"]: category["name"] for category in ordered}

    @cached_property
    def used(self) -> set[str]:
        """Names of the categories that objects are of."""
        return {self.names[k] for k in {annotation["category_id"] for annotation in self.content["annotations"]}}

    @cached_property
    def images(self) -> dict[int, dict[str, Any]]:
        """Image id -> its entry."""
        return {image["id"]: image for image in self.content["images"]}

    def ids_of(self, classes: Sequence[str]) -> dict[int, str]:
        """Category id -> name of some classes, which are looked up by name, in ascending id.

        Raises:
            InputError: if one is not there, or there twice.
        """
        ids = {k: name for k, name in self.names.items() if name in set(classes)}
        unknown = [name for name in classes if name not in ids.values()]
        if unknown or len(ids) != len(set(classes)):
            raise InputError(
                f"expected the classes {listing(unknown or classes)} once each in {self.path.name}, got "
                f"{listing((f'{k} {name}' for k, name in self.names.items()), 100)}; names must be spelt as there"
            )
        return ids

    def image_path(self, image: dict[str, Any]) -> Path:
        """The file of an image's entry."""
        return self.folder / str(image["file_name"])

    def targets(self, classes: Sequence[str] | None = None) -> Targets:
        """Every image, and the objects of some classes (all where ``None``)."""
        ids = self.names if classes is None else self.ids_of(classes)
        index = {k: i for i, k in enumerate(ids)}
        images = {
            number: TargetImage(number, self.image_path(image), (image["height"], image["width"]))
            for number, image in self.images.items()
        }
        truth = [
            _annotated(annotation, index[annotation["category_id"]], images[annotation["image_id"]].size)
            for annotation in self.content["annotations"]
            if annotation["category_id"] in index
        ]
        ordered = tuple(images[number] for number in sorted(images))
        return Targets(tuple(ids.values()), ordered, tuple(truth), category_ids=tuple(ids))

    def reference(self, annotation: dict[str, Any]) -> Reference:
        """An annotation as a reference."""
        image = self.images[annotation["image_id"]]
        return Reference(
            self.image_path(image),
            (image["height"], image["width"]),
            annotation["id"],
            self.names[annotation["category_id"]],
            xyxy(annotation["bbox"]),
            _segmentation(annotation),
        )


@lru_cache(maxsize=2)  # that of COCO's training images takes long to read, and every draw wants it
def _read(path: Path, folder: Path, changed: int, size: int) -> CocoFile:
    try:
        content = json.loads(plain_file(path).read_text(encoding="utf-8"))
        missing = [key for key in ("images", "annotations", "categories") if not isinstance(content[key], list)]
        if missing:
            raise InputError(f"expected lists of {', '.join(missing)} in {path}, got something else; get it again")
        problem = next(problems(content), None)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"expected a COCO json at {path}, got something else ({error}); get it again") from error
    if problem is not None:
        raise InputError(f"{path}: {problem}; mend the file, or get it again")
    for image in content["images"]:  # LVIS names its images by address only: folder and file are the end of it
        image.setdefault("file_name", "/".join(str(image.get("coco_url")).split("/")[-2:]))
    return CocoFile(path, content, folder)


def xyxy(box: Sequence[float]) -> Box:
    """COCO's ``(x, y, width, height)`` as corners."""
    x, y, w, h = box
    return x, y, x + w, y + h


def _annotated(annotation: dict[str, Any], label: int, size: tuple[int, int]) -> Annotated:
    x1, y1, x2, y2 = xyxy(annotation["bbox"])
    segmentation, area = _segmentation(annotation), annotation.get("area")
    rle = None if segmentation is None else encode_segmentation(segmentation, size)
    if area is None:
        area = (x2 - x1) * (y2 - y1) if rle is None else _mask_area(rle)
    return Annotated(
        annotation["image_id"],
        label,
        (x1, y1, x2, y2),
        rle,
        bool(annotation.get("iscrowd")),
        float(area),
        bool(annotation.get("difficult") or annotation.get("ignore")),
    )


def _segmentation(annotation: dict[str, Any]) -> Any:
    """Polygons or run lengths of an annotation; ``None`` where it has only a box."""
    segmentation = annotation.get("segmentation")
    if is_empty(segmentation):
        return None
    return [one for one in segmentation if one] if isinstance(segmentation, list) else segmentation


def _mask_area(rle: Rle) -> float:
    from pycocotools import mask as mask_utils

    return float(mask_utils.area(rle))


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> Rle:
    """Compressed RLE of a COCO segmentation: polygons, uncompressed or compressed RLE."""
    from pycocotools import mask as mask_utils

    height, width = size
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        counts = segmentation["counts"]
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    encoded = mask_utils.frPyObjects(segmentation, height, width)
    rle: Rle = mask_utils.merge(encoded) if isinstance(encoded, list) else encoded
    return rle


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool ``[H, W]`` of a COCO segmentation."""
    from pycocotools import mask as mask_utils

    decoded: NDArray[np.bool_] = mask_utils.decode(encode_segmentation(segmentation, size)).astype(bool)
    return decoded


def digest_of(lines: Iterable[str]) -> str:
    """sha256 of lines of text, hex."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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
    chosen = dict.fromkeys(bare[: min(len(bare), int(count * SHARE_WITHOUT_CLASS))])
    queues: dict[int, list[int]] = {k: [] for k in range(classes)}
    for image in order:
        for k in held[image.image_id]:
            queues[k].append(image.image_id)
    rarity, covered = {k: len(queue) for k, queue in queues.items()}, dict.fromkeys(queues, 0)
    places = {k: 0 for k, queue in queues.items() if queue}  # how far each queue has been gone through
    while len(chosen) < count and places:
        rarest = min(places, key=lambda k: (covered[k], rarity[k], k))
        image_id = queues[rarest][places[rarest]]
        if image_id not in chosen:
            chosen[image_id] = None
            for k in held[image_id]:
                covered[k] += 1
        places[rarest] += 1
        if places[rarest] == len(queues[rarest]):
            del places[rarest]
    return [*chosen, *(image_id for image_id in bare if image_id not in chosen)][:count]
