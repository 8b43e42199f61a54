"""Files of an export: COCO and YOLO writers, and counting what lies on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from fiftyone_ntt.dataset.documents import single_documents
from fiftyone_ntt.errors import counted
from fiftyone_ntt.pixels.files import naming, write_file
from fiftyone_ntt.pixels.mask_codes import encode_crop
from fiftyone_ntt.pixels.polygons import Points, one_polygon, polygons_of, rings_of
from fiftyone_ntt.review.export_names import YOLO_SUFFIXES

IMAGES = {"coco": "data", "yolo": "images/train", "fiftyone": "data"}
"""Where each format keeps the images."""
_ABOUT_VAL = "# val: the same images, until you set some aside\n"
_INSET = 0.02  # pixels: corners lie in pixels of the mask, and boxes around the polygon stay those of the mask


@dataclass(frozen=True, eq=False)
class PlacedLabel:
    """A label in pixels of its image.

    Attributes:
        name: how reports call it.
        label: index of its class.
        box: x, y, width, height in pixels.
        left: image column of the mask's first column.
        top: image row of the mask's first row.
        mask: bool ``[h, w]``, wholly inside the image, with at least one pixel.
        crowd: a region of many objects.
        ignored: marked as difficult or as to be ignored.
    """

    name: str
    label: int
    box: tuple[float, float, float, float]
    left: int
    top: int
    mask: NDArray[np.bool_]
    crowd: bool = False
    ignored: bool = False


@dataclass
class Loss:
    """What polygons could not keep of masks.

    Attributes:
        labels: labels whose polygon is not their mask.
        pixels: pixels that differ.
        least_iou: of the worst one.
        crowds: crowd regions that were left out, because the format knows none.
        ignored: the same of labels marked as difficult or as to be ignored.
        images: images that were left out, because no label of them was left.
        joined: samples whose labels went to the image of another sample, which has the same file.
        unread: images with a suffix that trainers pass over.
        dropped: lines about labels that could not be written at all.
    """

    labels: int = 0
    pixels: int = 0
    least_iou: float = 1.0
    crowds: int = 0
    ignored: int = 0
    images: int = 0
    joined: int = 0
    unread: int = 0
    dropped: list[str] = field(default_factory=list)

    def measure(self, mask: NDArray[np.bool_], drawn: NDArray[np.bool_], outside: int = 0) -> None:
        """Counts where a polygon, drawn again, differs from the mask; ``outside``: pixels drawn beyond its window."""
        differing = int((mask ^ drawn).sum()) + outside
        if differing:
            self.labels += 1
            self.pixels += differing
            self.least_iou = min(self.least_iou, float((mask & drawn).sum() / ((mask | drawn).sum() + outside)))

    def notes(self, labels: int) -> list[str]:
        """What to say about it, of ``labels`` written."""
        lines = []
        if self.labels:
            lines.append(
                f"{self.labels} of {counted(labels, 'label')} lost something as polygons: "
                f"{counted(self.pixels, 'pixel')} in all, least IoU {self.least_iou:.3f}"
            )
        if self.crowds:
            lines.append(f"{counted(self.crowds, 'crowd region')} left out: YOLO has no crowds")
        if self.ignored:
            marked = counted(self.ignored, "label")
            lines.append(f"{marked} marked as difficult or to be ignored left out: YOLO has no such mark")
        if self.images:
            lines.append(f"{counted(self.images, 'image')} left out, of which no label was left")
        if self.joined:
            lines.append(
                f"{counted(self.joined, 'sample')} of a file of another sample: one image with the labels of all"
            )
        if self.unread:
            kind = counted(self.unread, "image")
            lines.append(f"{kind} of a kind that trainers of YOLO models pass over: put them there as PNG")
        return lines


def save(path: Path, content: str | bytes) -> None:
    """Writes one of the files of an export, whose folder gets its name once all of them are there."""
    write_file(path, content, durable=False)


class CocoWriter:
    """Writes ``labels.json``, one line an annotation, so that memory does not grow with the export.

    Args:
        folder: of the export.
        classes: their categories are numbered from 1.
        masks: ``"rle"`` (lossless) or ``"polygons"``; crowd regions are always run lengths, as readers expect.
    """

    def __init__(self, folder: Path, classes: Sequence[str], masks: str) -> None:
        self.loss = Loss()
        self._path, self._masks = folder / "labels.json", masks
        self._images: dict[str, str] = {}  # file name -> its entry
        self._count = 0
        with naming(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        categories = [{"id": i, "name": name, "supercategory": None} for i, name in enumerate(classes, start=1)]
        self._write('{"info": {}, "licenses": [], "categories": ' + json.dumps(categories) + ',\n"annotations": [')

    def add(self, name: str, size: tuple[int, int], labels: Sequence[PlacedLabel]) -> None:
        """Adds an image of ``size`` (height, width), or more labels of one that is there."""
        number = len(self._images) + 1
        entry = json.dumps({"id": number, "file_name": name, "width": size[1], "height": size[0]})
        if (earlier := self._images.setdefault(name, entry)) is not entry:
            number = json.loads(earlier)["id"]
            self.loss.joined += 1
        for label in labels:
            annotation = {
                "id": self._count + 1,
                "image_id": number,
                "category_id": label.label + 1,
                "bbox": list(label.box),
                "area": int(label.mask.sum()),
                "segmentation": self._segmentation(label, size),
                "iscrowd": int(label.crowd),
            }
            if label.ignored:
                annotation["ignore"] = 1
            self._write((",\n" if self._count else "\n") + json.dumps(annotation))
            self._count += 1

    def close(self) -> None:
        """Writes what comes last."""
        self._write('\n],\n"images": [\n' + ",\n".join(self._images.values()) + "\n]}\n")
        with naming(self._path):
            self._file.close()

    def abandon(self) -> None:
        """Closes the file, whatever state it is in."""
        try:
            self._file.close()
        except OSError:  # the disk is full: that has been said
            return

    def _write(self, text: str) -> None:
        with naming(self._path):
            self._file.write(text)

    def _segmentation(self, label: PlacedLabel, size: tuple[int, int]) -> Any:
        if self._masks == "rle" or label.crowd:
            rle = encode_crop(label.mask, label.left, label.top, size)
            return {"size": list(size), "counts": rle["counts"].decode("ascii")}
        polygons = polygons_of(rings_of(label.mask))  # at least four distinct corners each
        height, width = label.mask.shape
        drawn = mask_utils.merge(mask_utils.frPyObjects([part.ravel().tolist() for part in polygons], height, width))
        self.loss.measure(label.mask, mask_utils.decode(drawn).astype(bool))
        return [(part + [label.left, label.top]).ravel().tolist() for part in polygons]


class YoloWriter:
    """Writes one text file an image, one polygon a line, and ``dataset.yaml``.

    Args:
        folder: of the export.
        classes: numbered from 0.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.loss = Loss()
        self._folder = folder
        # What trains with it wants both, and says so only when it starts.
        about = {"train": "./images/train/", "val": "./images/train/", "names": dict(enumerate(classes))}
        save(folder / "dataset.yaml", _ABOUT_VAL + yaml.safe_dump(about, sort_keys=False))

    def add(self, name: str, size: tuple[int, int], labels: Sequence[PlacedLabel]) -> None:
        """Adds an image of ``size`` (height, width) with its labels.

        YOLO has no regions that count neither way. An image with nothing but such would say that there is nothing in
        it: it is taken out again.
        """
        lines = []
        for label in labels:
            if label.crowd or label.ignored:
                self.loss.crowds += label.crowd
                self.loss.ignored += not label.crowd
                continue
            line = self._line(label, size)
            if line is not None:
                lines.append(f"{label.label} {line}\n")
        if labels and not lines:
            self.loss.images += 1
            (self._folder / IMAGES["yolo"] / name).unlink(missing_ok=True)
            return
        self.loss.unread += PurePosixPath(name).suffix.lower() not in YOLO_SUFFIXES
        path = self._folder / "labels" / "train" / PurePosixPath(name).with_suffix(".txt")
        save(path, "".join(lines))

    def close(self) -> None:
        """Nothing is left to write."""

    def abandon(self) -> None:
        """Nothing is open."""

    def _line(self, label: PlacedLabel, size: tuple[int, int]) -> str | None:
        height, width = size
        corners = (one_polygon(rings_of(label.mask, _INSET)) + [label.left, label.top]) / [width, height]
        digits = max(6, len(str(max(size))) + 3)  # a thousandth of a pixel
        corners = corners.round(digits)
        corners = corners[np.any(corners != np.roll(corners, 1, axis=0), axis=1)]
        if len(np.unique(corners, axis=0)) < 3:
            self.loss.dropped.append(f"left out: {label.name}: its outline has fewer than three points")
            return None
        self._measure(label, corners * [width, height])
        return " ".join(f"{value:.{digits}f}" for value in corners.ravel())

    def _measure(self, label: PlacedLabel, corners: Points) -> None:
        """Draws the polygon as Ultralytics does (corners cut to whole pixels, border included) and compares."""
        drawn = np.zeros(label.mask.shape, np.uint8)
        pixels = (corners + 1e-9).astype(np.int32) - np.array([label.left, label.top], np.int32)
        cv2.fillPoly(drawn, [pixels], 1)
        self.loss.measure(label.mask, drawn.astype(bool))


@dataclass(frozen=True)
class OnDisk:
    """What an export's folder holds: images that its labels speak of, labels per class, and files."""

    images: int
    per_class: dict[str, int]
    files: int


def count_on_disk(folder: Path, format: str, label_field: str, classes: Sequence[str]) -> OnDisk:
    """Reads an export again and counts.

    Args:
        folder: of the export.
        format: of the export.
        label_field: of the FiftyOne format.
        classes: in the order of their numbers.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    counts: Counter[str] = Counter()
    if format == "yolo":
        texts = list((folder / "labels").rglob("*.txt"))
        for path in texts:
            lines = path.read_text(encoding="utf-8").splitlines()
            counts.update(classes[int(line.split(" ", 1)[0])] for line in lines)
        images = len(texts)
    elif format == "coco":
        images = 0
        with (folder / "labels.json").open(encoding="utf-8") as stored:
            for line in stored:
                if line.startswith('{"id"'):  # one annotation or image a line
                    entry = json.loads(line.rstrip().removesuffix(","))
                    images += "file_name" in entry
                    counts.update([classes[entry["category_id"] - 1]] if "category_id" in entry else [])
    else:
        images = 0
        with (folder / "samples.json").open(encoding="utf-8") as stored:
            for line in stored:
                if line.startswith('{"_id"'):  # one sample a line
                    labels = single_documents(json.loads(line.rstrip().removesuffix(",")).get(label_field))
                    counts.update(label["label"] for label in labels)
                    images += 1
    return OnDisk(images, {name: counts[name] for name in classes if counts[name]}, len(files))
