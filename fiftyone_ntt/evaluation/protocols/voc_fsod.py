"""PASCAL VOC few-shot detection: three splits of five classes, references from VOC07+12, VOC07 test."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, Needed, needed_images
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, Reference, Targets
from fiftyone_ntt.evaluation.protocols.samplers import draw, references_of
from fiftyone_ntt.pixels.files import plain_file

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = {
    "1": ("bird", "bus", "cow", "motorbike", "sofa"),
    "2": ("aeroplane", "bottle", "cow", "horse", "sofa"),
    "3": ("boat", "cat", "motorbike", "sheep", "sofa"),
}
TRAIN, TEST = (("VOC2007", "trainval"), ("VOC2012", "trainval")), (("VOC2007", "test"),)
_SOURCE = "host.robots.ox.ac.uk/pascal/VOC"


def _files(data: Path, part: str) -> list[Needed]:
    needed = []
    for year, split in (*TRAIN, *TEST):
        source = f"{_SOURCE}, {year} {split}"
        needed += [
            Needed(data / year / "ImageSets" / "Main" / f"{split}.txt", source),
            needed_images(data / year / "Annotations", source),
            needed_images(data / year / "JPEGImages", source),
        ]
    return list({one.path: one for one in needed}.values())


@lru_cache(maxsize=2)  # twenty thousand files
def voc_file(data: Path, lists: tuple[tuple[str, str], ...]) -> CocoFile:
    """Lists of VOC as one COCO json, as the published converter makes it.

    Category and image ids count from 0. One is subtracted from all coordinates, and a width is ``xmax - xmin``: a pixel
    short. ``difficult`` stays a mark of its own; what it means is the scorer's matter.
    """
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
    for year, split in lists:
        path = data / year / "ImageSets" / "Main" / f"{split}.txt"
        names = plain_file(path).read_text(encoding="utf-8").split()
        for name in names:
            root = _parsed(data / year / "Annotations" / f"{name}.xml")
            image = {
                "id": len(content["images"]),
                "file_name": f"{year}/JPEGImages/{name}.jpg",
                "height": int(_text(root, "size/height")),
                "width": int(_text(root, "size/width")),
            }
            content["images"].append(image)
            for number, annotation in enumerate(_objects(root), start=len(content["annotations"])):
                content["annotations"].append({"id": number, "image_id": image["id"], **annotation})
    return CocoFile(data / f"{'+'.join(f'{year} {split}' for year, split in lists)}", content, data)


def _parsed(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise InputError(f"expected annotations of VOC in {path}, got none ({error}); get the file again") from error


def _text(node: ElementTree.Element, name: str) -> str:
    found = node.findtext(name)
    if found is None:
        raise InputError(f"expected {name} in an annotation file of VOC, got none; get the files again")
    return found


def _objects(root: ElementTree.Element) -> Iterator[dict[str, Any]]:
    for item in root.findall("object"):
        name = _text(item, "name")
        if name not in CLASSES:
            raise InputError(f"expected one of {', '.join(CLASSES)} in {root.findtext('filename')}, got {name!r}")
        left, top, right, bottom = (
            float(_text(item, f"bndbox/{side}")) - 1 for side in ("xmin", "ymin", "xmax", "ymax")
        )  # fmt: skip
        difficult = int(item.findtext("difficult") or 0)
        yield {
            "category_id": CLASSES.index(name),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "difficult": difficult,
        }


def _targets(data: Path, part: str) -> Targets:
    return replace(voc_file(data, TEST).targets(SPLITS[part]), inclusive_boxes=True)


def _references(case: Case) -> list[Reference]:
    file = voc_file(case.data, TRAIN)
    return references_of(file, draw(file, SPLITS[case.part], case.shots, case.seed))


PROTOCOL = DetectionProtocol(
    "voc-fsod",
    "PASCAL VOC few-shot detection: splits 1 to 3, VOC07 test",
    parts=tuple(SPLITS),
    shots=(1, 2, 3, 5, 10),
    seeds=(33,),
    scorers=("ntt", "fsod-vfm", "voc07"),
    files=_files,
    mask_ap=False,
    mean_of_parts=True,
    targets=_targets,
    references=_references,
)
