"""More sets to choose settings on, made from one: ``python -m benchmarks.more_sets DATA/coco-mini FOLDER``.

One class at a time, with only that class in the memory bank, as most people begin. Each becomes a folder that
``benchmarks.accuracy --data FOLDER`` takes as it takes any; what stands before the dot in its name is its group:

* ``crowded``: images with at least four objects of the class.
* ``large``: at most three, one of which fills a tenth of the image or more.
* ``small``: at most three, none larger than a hundredth.
* ``touching``: objects of the class cut out and put side by side on a photograph without any; the truth is exact.

Images are links to the files of the set. Which classes and images are taken depends on their names alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_utils

from benchmarks.arguments import folder

Entry = dict[str, Any]
SEEDS = (33, 42, 13)
SHOTS = (1, 3, 5)
CLASSES = 8
"""Classes of each group."""
IMAGES = 10
"""Images of each class at most."""
LEAST = 4
"""Images that a class must have to be one."""
TOUCHING = (640, 960)
"""Height and width of the made pictures."""


@dataclass(frozen=True)
class Source:
    """A set of many classes.

    Attributes:
        root: its folder.
        images: id -> entry of the json.
        names: category id -> name.
        objects: class -> image id -> annotations, crowd regions left out.
    """

    root: Path
    images: dict[int, Entry]
    names: dict[int, str]
    objects: dict[str, dict[int, list[Entry]]]

    @classmethod
    def read(cls, root: Path) -> Source:
        """Reads the target images of a set that has the layout of COCO."""
        content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        objects: dict[str, dict[int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        for annotation in content["annotations"]:
            if not annotation.get("iscrowd"):
                objects[names[annotation["category_id"]]][annotation["image_id"]].append(annotation)
        return cls(root, {entry["id"]: entry for entry in content["images"]}, names, objects)

    def share(self, annotation: Entry) -> float:
        """How much of its image an object fills."""
        image = self.images[annotation["image_id"]]
        return float(annotation["area"]) / (image["height"] * image["width"])

    def file(self, image: Entry, folder: str = "val2017") -> Path:
        """Where the picture of an image lies."""
        return self.root / folder / str(image["file_name"])


Rule = Callable[[Source, Sequence[Entry]], bool]
GROUPS: dict[str, Rule] = {
    "crowded": lambda source, objects: len(objects) >= 4,
    "large": lambda source, objects: len(objects) <= 3 and max(map(source.share, objects)) >= 0.1,
    "small": lambda source, objects: len(objects) <= 3 and max(map(source.share, objects)) <= 0.01,
}


def _in_order(values: Sequence[Any]) -> list[Any]:
    """In an order that has nothing to do with what they mean."""
    return sorted(values, key=lambda value: hashlib.sha256(str(value).encode()).hexdigest())


def chosen(source: Source, rule: Rule) -> Iterator[tuple[str, list[int]]]:
    """The classes of a group with their images: those with most images."""
    found = {
        name: [image for image, objects in per.items() if rule(source, objects)] for name, per in source.objects.items()
    }
    able = sorted(
        (name for name, images in found.items() if len(images) >= LEAST), key=lambda name: (-len(found[name]), name)
    )
    for name in able[:CLASSES]:
        yield name, sorted(_in_order(found[name])[:IMAGES])


def write_set(source: Source, folder: Path, name: str, images: Sequence[Entry], truth: Sequence[Entry]) -> None:
    """Writes the json of one class: what is looked for, and its references as the source draws them."""
    for part in ("annotations", "refs", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    number = next(key for key, value in source.names.items() if value == name)
    categories = [{"id": number, "name": name}]
    targets = {"images": list(images), "annotations": list(truth), "categories": categories}
    (folder / "annotations" / "test.json").write_text(json.dumps(targets))
    for shots in SHOTS:
        for seed in SEEDS:
            drawn = json.loads((source.root / "refs" / f"all80_{shots}shot_seed{seed}.json").read_text())
            kept = [entry for entry in drawn["annotations"] if entry["category_id"] == number]
            of = {entry["image_id"] for entry in kept}
            shown = [entry for entry in drawn["images"] if entry["id"] in of]
            for entry in shown:
                _link(source.file(entry, "train2017"), folder / "images" / entry["file_name"])
            content = {"images": shown, "annotations": kept, "categories": categories}
            (folder / "refs" / f"all_{shots}shot_seed{seed}.json").write_text(json.dumps(content))


def _link(file: Path, place: Path) -> None:
    if not place.exists():
        place.symlink_to(file.resolve())


# ---- Objects put side by side ----


def touching(
    source: Source, name: str, count: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]]:
    """Pictures with a group of objects of a class, and the mask of each as far as it is in sight."""
    cuts = [cut for per in source.objects[name].values() for entry in per if (cut := _cut(source, entry)) is not None]
    without = [image for image in _in_order(list(source.images)) if image not in source.objects[name]]
    for number in range(count):
        ground = Image.open(source.file(source.images[without[number]])).convert("RGB").resize(TOUCHING[::-1])
        yield _group(np.array(ground), cuts, rng)


def _cut(source: Source, annotation: Entry) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
    """An object and its mask, as large as its box; none where it is small or at the border: it may be cut off there."""
    image = source.images[annotation["image_id"]]
    height, width = image["height"], image["width"]
    x, y, w, h = (round(value) for value in annotation["bbox"])
    if min(w, h) < 60 or x < 2 or y < 2 or x + w > width - 2 or y + h > height - 2:
        return None
    outline = annotation["segmentation"]
    if not isinstance(outline, list) or len(outline) != 1:
        return None  # in several parts: something lies in front
    mask = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(outline, height, width))).astype(bool)
    pixels = np.asarray(Image.open(source.file(image)).convert("RGB"))
    return pixels[y : y + h, x : x + w], mask[y : y + h, x : x + w]


def _group(
    picture: NDArray[np.uint8], cuts: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Puts three to eight objects on a picture, each overlapping the one before by a tenth of its width."""
    size, masks = int(rng.integers(120, 260)), []
    x, y = int(rng.integers(20, 120)), int(rng.integers(40, TOUCHING[0] - size - 40))
    for _ in range(int(rng.integers(3, 9))):
        pixels, mask = cuts[int(rng.integers(len(cuts)))]
        scale = size / max(mask.shape)
        shape = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
        pixels = np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.LANCZOS))
        mask = np.asarray(Image.fromarray(mask).resize(shape))
        if x + shape[0] >= TOUCHING[1]:
            break
        top = int(np.clip(y + rng.integers(-30, 30), 0, TOUCHING[0] - shape[1]))
        placed = np.zeros(picture.shape[:2], bool)
        placed[top : top + shape[1], x : x + shape[0]] = mask
        picture[top : top + shape[1], x : x + shape[0]][mask] = pixels[mask]
        masks = [*(other & ~placed for other in masks), placed]
        x += round(shape[0] * 0.9)
    return picture, [mask for mask in masks if mask.sum() > 200]


def write_touching(source: Source, folder: Path, name: str) -> None:
    """Makes the pictures of a class, and writes them as a set."""
    rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[Entry] = []
    truth: list[Entry] = []
    number = next(key for key, value in source.names.items() if value == name)
    for index, (picture, masks) in enumerate(touching(source, name, IMAGES, rng), start=1):
        file = f"group_{index}.png"
        Image.fromarray(picture).save(folder / "images" / file)
        images.append({"id": index, "file_name": file, "height": picture.shape[0], "width": picture.shape[1]})
        truth += [_annotation(mask, len(truth) + i, index, number) for i, mask in enumerate(masks, start=1)]
    write_set(source, folder, name, images, truth)


def _annotation(mask: NDArray[np.bool_], number: int, image: int, category: int) -> Entry:
    rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = [float(value) for value in mask_utils.toBbox(rle)]
    packed = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
    facts = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
    return {**facts, "bbox": box, "area": int(mask.sum()), "segmentation": packed}


def make(root: Path, out: Path) -> list[str]:
    """Makes all sets; returns their names."""
    source, made = Source.read(root), []
    for group, rule in GROUPS.items():
        for name, images in chosen(source, rule):
            folder = out / f"{group}.{name.replace(' ', '_')}"
            entries = [source.images[image] for image in images]
            write_set(source, folder, name, entries, [item for image in images for item in source.objects[name][image]])
            for entry in entries:
                _link(source.file(entry), folder / "images" / entry["file_name"])
            made.append(folder.name)
    for name in _able_to_touch(source):
        write_touching(source, out / f"touching.{name.replace(' ', '_')}", name)
        made.append(f"touching.{name.replace(' ', '_')}")
    return made


def _able_to_touch(source: Source) -> list[str]:
    """Classes with at least five objects that can be cut out whole."""
    able: Mapping[str, int] = {
        name: sum(_cut(source, entry) is not None for objects in per.values() for entry in objects)
        for name, per in source.objects.items()
    }
    return _in_order([name for name, count in able.items() if count >= 5])[: CLASSES // 2]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.more_sets", description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=folder, help="a set in the layout of COCO, with reference sets all80_*")
    parser.add_argument("out", type=Path, help="where the sets go")
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"expected a folder that is not there yet, got {str(options.out)!r}")
    print("\n".join(make(options.source, options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
