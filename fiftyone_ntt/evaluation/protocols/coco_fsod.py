"""COCO few-shot detection: 20 novel classes, references from train2017, all of val2017 as test."""

from __future__ import annotations

from pathlib import Path

from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, Needed, needed_images
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, Reference, Targets
from fiftyone_ntt.evaluation.protocols.samplers import draw, references_of

NOVEL = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat", "dog", "horse",
    "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv",
)  # fmt: skip
SEEDS = (42, 13, 27, 36, 88, 33, 69, 55, 77, 99)
_SOURCE = "cocodataset.org, 2017"


def _file(data: Path, split: str) -> CocoFile:
    return CocoFile.read(data / "annotations" / f"instances_{split}2017.json", data / f"{split}2017")


def _files(data: Path, part: str) -> list[Needed]:
    return [
        Needed(data / "annotations" / "instances_train2017.json", f"{_SOURCE} train/val annotations"),
        Needed(data / "annotations" / "instances_val2017.json", f"{_SOURCE} train/val annotations"),
        needed_images(data / "train2017", f"{_SOURCE} train images"),
        needed_images(data / "val2017", f"{_SOURCE} val images"),
    ]


def _targets(data: Path, part: str) -> Targets:
    return _file(data, "val").targets(NOVEL)


def _references(case: Case) -> list[Reference]:
    file = _file(case.data, "train")
    return references_of(file, draw(file, NOVEL, case.shots, case.seed))


PROTOCOL = DetectionProtocol(
    "coco-fsod",
    "COCO few-shot detection: 20 novel classes, all 5,000 images of val2017",
    parts=("novel",),
    shots=(1, 2, 3, 5, 10, 30),
    seeds=SEEDS,
    scorers=("coco", "boundary"),
    files=_files,
    targets=_targets,
    references=_references,
)
