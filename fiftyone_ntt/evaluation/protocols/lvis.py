"""LVIS v1: all classes, or those of one frequency; scored by LVIS's own rules beside the published way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, Needed, needed_images
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, Reference, Targets
from fiftyone_ntt.evaluation.protocols.samplers import draw, references_of

NEGATIVE_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""Of an image: classes that were looked for and are not there, and classes of which not every object is annotated."""
PARTS = {"all": "rcf", "rare": "r", "common": "c", "frequent": "f"}
_SOURCE = "lvisdataset.org, v1"


def lvis_file(data: Path, split: str) -> CocoFile:
    """A json of LVIS.

    Raises:
        InputError: if it lacks what LVIS's own rules need.
    """
    file = CocoFile.read(data / f"lvis_v1_{split}.json", data)
    odd = [one["name"] for one in file.content["categories"] if one.get("frequency") not in ("r", "c", "f")]
    if odd:
        raise InputError(f"expected r, c or f as frequency of each class in {file.path}, got none of {odd[0]!r}")
    for key in NEGATIVE_LISTS:
        lists = [image.get(key, []) for image in file.content["images"]]
        if not all(isinstance(one, list) and set(map(type, one)) <= {int} for one in lists):
            raise InputError(f"expected lists of class ids as {key} in {file.path}, got something else; get it again")
    return file


def classes_of(file: CocoFile, part: str) -> list[str]:
    """Names of the classes of a part."""
    return [one["name"] for one in file.content["categories"] if one["frequency"] in PARTS[part]]


def _files(data: Path, part: str) -> list[Needed]:
    return [
        *(Needed(data / f"lvis_v1_{split}.json", f"{_SOURCE} {split}") for split in ("train", "val")),
        needed_images(data / "train2017", "cocodataset.org, 2017 train images"),
        needed_images(data / "val2017", "cocodataset.org, 2017 val images"),
    ]


def _targets(data: Path, part: str) -> Targets:
    file = lvis_file(data, "val")
    targets = file.targets(classes_of(file, part))
    ids = {k: i for i, k in enumerate(file.ids_of(targets.classes))}
    frequency = {one["name"]: one["frequency"] for one in file.content["categories"]}
    facts = {
        "frequency": [frequency[name] for name in targets.classes],
        **{
            key: {number: [ids[k] for k in image.get(key, []) if k in ids] for number, image in file.images.items()}
            for key in NEGATIVE_LISTS
        },
    }
    return replace(targets, facts=facts)


def _references(case: Case) -> list[Reference]:
    file = lvis_file(case.data, "train")
    classes = classes_of(lvis_file(case.data, "val"), case.part)
    return references_of(file, draw(file, classes, case.shots, case.seed, fill=True))


PROTOCOL = DetectionProtocol(
    "lvis",
    "LVIS v1 val: all classes, or the rare, common or frequent ones",
    parts=tuple(PARTS),
    shots=(1, 5, 10),
    seeds=(42,),
    scorers=("lvis", "coco"),
    files=_files,
    max_instances=300,
    targets=_targets,
    references=_references,
    published_instances=100,  # an image, all classes together
    most_labels={"coco": 100},
)
