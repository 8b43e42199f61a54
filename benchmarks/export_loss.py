"""What masks lose on their way out and back in: ``python -m benchmarks.export_loss [FOLDER ...] --json FILE``.

Masks of plain shapes, and of the ground truth in folders of COCO json, go out by ``export_labels`` and by FiftyOne's
own exporter, and are read again: COCO files by pycocotools and by FiftyOne, YOLO files as Ultralytics draws them and by
FiftyOne. Printed are the share of masks whose IoU with what went out is below 0.9, and the smallest IoU. Of the folders
only annotations are read; FiftyOne gets a database of its own, which is gone afterwards.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import count
from benchmarks.coco_data import encode_segmentation
from benchmarks.faults import use_own_database
from benchmarks.tables import table, write_json
from fiftyone_ntt.errors import InputError

if TYPE_CHECKING:
    import fiftyone as fo

Mask = NDArray[np.bool_]
SIZE = (240, 320)
BELOW = 0.9
_SMALL = 32**2
"""Pixels: what COCO calls a small object."""
_FILES = ("all.json", "instances_val2017.json", "test.json")
_MOST_CLASSES = 10
"""Folders of so many classes are also told class by class."""


@dataclass(frozen=True)
class Item:
    """A mask at image size, and the image that it belongs to."""

    image: str
    mask: Mask


def shapes() -> dict[str, list[Item]]:
    """Kinds of shapes that outlines do badly, a few of each: thin ones, at the border, with holes, in parts."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    sets: dict[str, list[Mask]] = {
        "one-pixel line": [(rows == y) & (columns > 40) & (columns < 280) for y in (20, 120, 200)],
        "one-pixel diagonal": [rows == columns, rows + columns == 239],
        "bottom row": [rows == SIZE[0] - 1, (rows == SIZE[0] - 1) & (columns < 50)],
        "corner block": [(rows < 20) & (columns < 50), (rows >= 220) & (columns >= 270)],
        "ring": [ring(rows, columns, radius) for radius in (10, 40, 100)],
        "two parts": [((columns < 90) | (columns > 200)) & (rows > 50) & (rows < 150)],
        "single pixel": [(rows == y) & (columns == x) for y, x in ((0, 0), (120, 160), (239, 319))],
    }
    return {name: [Item(f"{name} {i}", mask) for i, mask in enumerate(masks)] for name, masks in sets.items()}


def ring(rows: NDArray[Any], columns: NDArray[Any], radius: int) -> Mask:
    distance = np.hypot(rows - SIZE[0] / 2, columns - SIZE[1] / 2)
    return (distance < radius) & (distance >= radius / 2)


def from_folder(root: Path) -> dict[str, list[Item]]:
    """The ground truth of a folder: its small objects, and its classes or all of them together; no crowds.

    Raises:
        InputError: if there is no annotation file.
    """
    from pycocotools import mask as mask_utils

    path = next((path for path in (root / "annotations" / name for name in _FILES) if path.is_file()), None)
    if path is None:
        raise InputError(f"expected one of {', '.join(_FILES)} in {root / 'annotations'}, got none")
    content = json.loads(path.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    sets: dict[str, list[Item]] = {}
    for annotation in content["annotations"]:
        if annotation.get("iscrowd"):
            continue
        image = annotation["image_id"]
        mask = mask_utils.decode(encode_segmentation(annotation["segmentation"], sizes[image])).astype(bool)
        if not mask.any():
            continue
        kinds = [names[annotation["category_id"]]] if len(names) <= _MOST_CLASSES else ["all objects"]
        for kind in [*kinds, *(["small objects"] if mask.sum() < _SMALL else [])]:
            sets.setdefault(f"{root.name}, {kind}", []).append(Item(str(image), mask))
    return sets


def make_dataset(items: Iterable[Item]) -> tuple[fo.Dataset, dict[str, Mask]]:
    """A dataset of the masks, each of a class of its own by which it is found again; and class -> mask."""
    import fiftyone as fo

    expected: dict[str, Mask] = {}
    samples: dict[str, fo.Sample] = {}
    for i, item in enumerate(items):
        name = f"object-{i}"
        expected[name] = item.mask
        height, width = item.mask.shape
        if item.image not in samples:
            size = fo.ImageMetadata(width=width, height=height)
            samples[item.image] = fo.Sample(f"/images/{item.image}.png", metadata=size, ntt=fo.Detections())
        samples[item.image].ntt.detections.append(fo.Detection.from_mask(item.mask, label=name))
    dataset = fo.Dataset()
    dataset.add_samples(list(samples.values()), progress=False)
    return dataset, expected


def by_pycocotools(folder: Path) -> dict[str, Mask]:
    from pycocotools import mask as mask_utils

    content = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    read = {}
    for item in content["annotations"]:
        name, size = names[item["category_id"]], sizes[item["image_id"]]
        try:
            read[name] = mask_utils.decode(encode_segmentation(item["segmentation"], size)).astype(bool)
        except Exception:  # an outline of fewer than three points: pycocotools cannot read it
            read[name] = np.zeros(size, bool)
    return read


def by_ultralytics(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Mask]:
    """As Ultralytics draws polygons: corners cut to whole pixels, border included."""
    import cv2
    import yaml

    names = yaml.safe_load((folder / "dataset.yaml").read_text(encoding="utf-8"))["names"]
    read = {}
    for path in (folder / "labels").rglob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            number_of_class, *values = line.split()
            name = names[int(number_of_class)]
            drawn = np.zeros(sizes[name], np.uint8)
            points = np.array(values, float).reshape(-1, 2) * sizes[name][::-1]
            cv2.fillPoly(drawn, [points.astype(np.int32)], 1)
            read[name] = drawn > 0
    return read


def by_fiftyone(folder: Path, sizes: Mapping[str, tuple[int, int]], **kind: Any) -> dict[str, Mask]:
    """As FiftyOne's importers read them, without images: only their sizes count."""
    import fiftyone as fo
    from PIL import Image

    from fiftyone_ntt.dataset.geometry import full_mask

    dataset = fo.Dataset.from_dir(str(folder), progress=False, **kind)
    (name,) = [name for name in dataset.get_field_schema() if name in ("segmentations", "ground_truth")]
    read = {}
    for sample in dataset:
        with Image.open(sample.filepath) as image:
            size = image.size[::-1]
        for label in sample[name].detections if sample[name] else []:
            read[label.label] = full_mask(label, size) if label.has_mask else np.zeros(size, bool)
    dataset.delete()
    return {label: mask for label, mask in read.items() if mask.shape == sizes[label]}


def add_images(folder: Path, dataset: fo.Dataset) -> None:
    """Black images of the right sizes, which FiftyOne's importers want to see."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for sample in dataset:
        size = sample.metadata.width, sample.metadata.height
        Image.new("1", size).save(folder / Path(sample.filepath).name)


def loss(expected: Mapping[str, Mask], read: Mapping[str, Mask]) -> dict[str, float]:
    """How many masks came back as they were, the share of those below 0.9, and the smallest IoU; missing ones are 0."""
    ious = np.array([_iou(mask, read.get(name)) for name, mask in expected.items()])
    return {
        "masks": len(ious),
        "equal": float((ious == 1).mean()),
        "below": float((ious < BELOW).mean()),
        "least_iou": float(ious.min()),
    }


def _iou(mask: Mask, other: Mask | None) -> float:
    if other is None:
        return 0.0
    return float((mask & other).sum() / (mask | other).sum())


def measure(items: Iterable[Item]) -> dict[str, dict[str, float]]:
    """Format and reader -> what a set of masks lost."""
    import fiftyone as fo

    from fiftyone_ntt.review.export import export_labels

    dataset, expected = make_dataset(items)
    sizes = {name: (mask.shape[0], mask.shape[1]) for name, mask in expected.items()}
    coco = {"dataset_type": fo.types.COCODetectionDataset, "label_types": ["segmentations"]}
    yolo = {"dataset_type": fo.types.YOLOv5Dataset, "split": "train", "label_type": "instances"}
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options: dict[str, Any] = {"only": "all", "export_media": False}
        for masks in ("rle", "polygons"):
            export_labels(dataset, folder / masks, "ntt", masks=masks, **options)
            add_images(folder / masks / "data", dataset)
            figures[f"COCO {masks}, pycocotools"] = loss(expected, by_pycocotools(folder / masks))
            figures[f"COCO {masks}, FiftyOne"] = loss(expected, by_fiftyone(folder / masks, sizes, **coco))
        export_labels(dataset, folder / "yolo", "ntt", format="yolo", **options)
        add_images(folder / "yolo" / "images" / "train", dataset)
        figures["YOLO, Ultralytics"] = loss(expected, by_ultralytics(folder / "yolo", sizes))
        figures["YOLO, FiftyOne"] = loss(expected, by_fiftyone(folder / "yolo", sizes, **yolo))
        dataset.export(
            export_dir=str(folder / "theirs"), dataset_type=fo.types.COCODetectionDataset, label_field="ntt",
            export_media=False, progress=False,
        )  # fmt: skip
        figures["FiftyOne's COCO, pycocotools"] = loss(expected, by_pycocotools(folder / "theirs"))
    dataset.delete()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="with annotations/*.json of COCO")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--most", type=count, default=500, help="masks of a set, the first ones")
    options = parser.parse_args()
    sets = shapes()
    for folder in options.folders:
        sets |= from_folder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        use_own_database(Path(temporary))
        figures = {name: measure(items[: options.most]) for name, items in sets.items()}
    kinds = list(next(iter(figures.values())))
    rows = []
    for name, of_set in figures.items():
        cells = [f"{of_set[kind]['below']:.0%}, {of_set[kind]['least_iou']:.3f}" for kind in kinds]
        rows.append([name, str(of_set[kinds[0]]["masks"]), *cells])
    print("share of masks with an IoU below 0.9, and the smallest IoU\n")
    print(table(["set", "masks", *kinds], rows))
    write_json(options.json, {"below": BELOW, "sets": figures})


if __name__ == "__main__":
    main()
