"""COCO-20i and PASCAL-5i: one class at a time, asked of images that show it; HSNet's episodes and scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fiftyone_ntt.evaluation.protocols.base import Case, EpisodeProtocol, Needed, needed_images
from fiftyone_ntt.evaluation.protocols.episodes import (
    Episode,
    coco_classes,
    coco_episodes,
    coco_lists,
    pascal_classes,
    pascal_episodes,
    pascal_lines,
)
from fiftyone_ntt.evaluation.protocols.voc_fsod import CLASSES as VOC_CLASSES

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
_HSNET = "the repository of HSNet (juhongm999/hsnet) and its page of data sets"


def _coco_files(data: Path, part: str) -> list[Needed]:
    return [
        Needed(data / "splits" / "coco" / "val" / f"fold{part}.pkl", f"{_HSNET}: data/splits/coco/val"),
        needed_images(data / "COCO2014" / "val2014", "cocodataset.org, 2014 val images"),
        needed_images(data / "COCO2014" / "annotations" / "val2014", f"{_HSNET}: masks, a PNG an image"),
    ]


def _coco_episodes(case: Case) -> Iterator[Episode]:
    path = case.data / "splits" / "coco" / "val" / f"fold{case.part}.pkl"
    return coco_episodes(coco_lists(path), int(case.part), case.shots)


def _coco_paths(data: Path, name: str) -> tuple[Path, Path]:
    root = data / "COCO2014"
    return root / name, (root / "annotations" / name).with_suffix(".png")


def _coco_number(name: str) -> str:
    return str(int(Path(name).stem.split("_")[-1]))


COCO_20I = EpisodeProtocol(
    "coco-20i",
    "COCO-20i few-shot semantic segmentation: four folds of 20 classes, 1,000 episodes each",
    parts=("0", "1", "2", "3"),
    shots=(1, 5),
    seeds=(),
    scorers=("miou",),
    files=_coco_files,
    presence="given",
    mean_of_parts=True,
    episodes=_coco_episodes,
    fold_classes=coco_classes,
    digests={
        ("0", 1): "25fba57002d5bf3a", ("1", 1): "bbe347cf2c0a1789", ("2", 1): "e09488e58632d1b8",
        ("3", 1): "e31b717b020a0ebf", ("0", 5): "ef77a2ea96081a05", ("1", 5): "d4401fc07543eff5",
        ("2", 5): "dab03c3e51b65024", ("3", 5): "e7d35fb4d97dda37",
    },
    short=_coco_number,
    paths=_coco_paths,
    class_names=COCO_CLASSES,
)  # fmt: skip


def _pascal_files(data: Path, part: str) -> list[Needed]:
    return [
        Needed(data / "splits" / "pascal" / "val" / f"fold{part}.txt", f"{_HSNET}: data/splits/pascal/val"),
        needed_images(data / "VOC2012" / "JPEGImages", "host.robots.ox.ac.uk/pascal/VOC, VOC2012 trainval"),
        needed_images(data / "VOC2012" / "SegmentationClassAug", f"{_HSNET}: VOC2012 with SBD's masks"),
    ]


def _pascal_episodes(case: Case) -> Iterator[Episode]:
    path = case.data / "splits" / "pascal" / "val" / f"fold{case.part}.txt"
    return pascal_episodes(pascal_lines(path), int(case.part), case.shots)


def _pascal_paths(data: Path, name: str) -> tuple[Path, Path]:
    root = data / "VOC2012"
    return root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClassAug" / f"{name}.png"


PASCAL_5I = EpisodeProtocol(
    "pascal-5i",
    "PASCAL-5i few-shot semantic segmentation: four folds of 5 classes, 1,000 episodes each",
    parts=("0", "1", "2", "3"),
    shots=(1, 5),
    seeds=(),
    scorers=("miou",),
    files=_pascal_files,
    presence="given",
    mean_of_parts=True,
    episodes=_pascal_episodes,
    fold_classes=pascal_classes,
    digests={
        ("0", 1): "fad6ef3427716eeb", ("1", 1): "d5cf37d505a73c60", ("2", 1): "b1344311b165e580",
        ("3", 1): "b8d4d9f213feb7ce", ("0", 5): "a4db2043941009a2", ("1", 5): "34b629f43c9731f0",
        ("2", 5): "a1abffb515f6fd3e", ("3", 5): "65b6dafb6677ef03",
    },
    paths=_pascal_paths,
    class_names=VOC_CLASSES,
    ignored=255,
)  # fmt: skip
