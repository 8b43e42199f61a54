"""Exports: masks and pictures to write, and what lies in a folder read back by FiftyOne."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
from PIL import Image

from fiftyone_ntt.dataset.geometry import full_mask

SIZE = (60, 80)
LOAD = {
    "coco": {"dataset_type": fo.types.COCODetectionDataset, "label_types": ["segmentations"]},
    "yolo": {"dataset_type": fo.types.YOLOv5Dataset, "split": "train", "label_type": "instances"},
    "fiftyone": {"dataset_type": fo.types.FiftyOneDataset},
}


def disc(x, y, radius=9, hole=0):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(rows - y, columns - x)
    return (distance < radius) & (distance >= hole)


def drawing(*boxes, size=SIZE, holes=()):
    mask = np.zeros(size, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    for top, left, bottom, right in holes:
        mask[top:bottom, left:right] = False
    return mask


def picture(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return str(path)


def accepted(mask, label="a", **attributes):
    return fo.Detection.from_mask(mask, label=label, tags=["ntt:accepted"], **attributes)


def load(folder, format):
    dataset = fo.Dataset.from_dir(str(folder), **LOAD[format])
    (name,) = [name for name in dataset.get_field_schema() if name in ("segmentations", "ground_truth", "ntt")]
    found = [sample[name].detections if sample[name] else [] for sample in dataset]
    masks = [[full(label) for label in labels] for labels in found]
    labels = [[label.label for label in labels] for labels in found]
    dataset.delete()
    return labels, masks


def full(label):
    return full_mask(label, SIZE)  # FiftyOne's own `to_segmentation` loses a row and a column of many masks
