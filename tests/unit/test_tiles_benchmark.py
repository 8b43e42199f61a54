"""The benchmark of tiles: photographs in mosaics, and what is found there cut back into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from benchmarks.tiles import cut_back, laid_out, mosaics
from fiftyone_ntt.core import Instances
from fiftyone_ntt.evaluation.protocols.coco_files import TargetImage
from fiftyone_ntt.pixels.packed_masks import PackedMask

SIZE = (40, 60)


def photographs(count):
    return [TargetImage(number, Path(f"{number}.png"), SIZE) for number in range(count)]


def found(*boxes, size):
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    scores, labels = np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64)
    return Instances(
        np.array(boxes, np.float32),
        scores,
        labels,
        scores,
        tuple(PackedMask.from_crop(mask, 0, 0) for mask in masks),
        size,
    )


def test_what_is_found_goes_to_the_photograph_it_lies_in():
    photos = photographs(4)
    boxes = [(5, 6, 20, 30), (70, 10, 80, 20), (61, 45, 119, 79), (50, 10, 90, 20)]  # the last one lies over a seam
    items = list(cut_back(found(*boxes, size=(80, 120)), photos, (2, 2)))
    assert [(item.image_id, item.box) for item in items] == [
        (0, (5, 6, 20, 30)), (1, (10, 10, 20, 20)), (3, (1, 5, 59, 39)), (1, (0, 10, 30, 20)),
    ]  # fmt: skip
    for item in items:
        assert tuple(coco.toBbox(item.rle)) == (*item.box[:2], item.box[2] - item.box[0], item.box[3] - item.box[1])


def test_boxes_are_those_of_what_is_left():
    """Of an object over a seam, whose part in the other photograph is higher."""
    size = (40, 120)
    masks = np.zeros((1, *size), bool)
    masks[0, 10:20, 55:110] = True
    masks[0, 2:38, 50:60] = True
    ones = np.ones(1, np.float32)
    instances = Instances(
        np.array([[50, 2, 110, 38]], np.float32),
        ones,
        np.zeros(1, np.int64),
        ones,
        tuple(PackedMask.from_crop(mask, 0, 0) for mask in masks),
        size,
    )
    (item,) = cut_back(instances, photographs(2), (1, 2))
    assert (item.image_id, item.box) == (1, (0, 10, 50, 20))


def test_a_photograph_that_comes_again_counts_once():
    photos = photographs(1)
    (group,) = mosaics(photos, (1, 2))
    assert group == photos * 2
    items = list(cut_back(found((5, 5, 9, 9), (65, 5, 69, 9), size=(40, 120)), group, (1, 2)))
    assert [item.box for item in items] == [(5, 5, 9, 9)]


def test_mosaics_are_of_whole_groups(monkeypatch):
    assert [len(group) for group in mosaics(photographs(9), (2, 2))] == [4, 4]
    monkeypatch.setattr(
        "benchmarks.tiles.read_target_image", lambda image: np.full((*SIZE, 3), image.image_id, np.uint8)
    )
    mosaic = laid_out(photographs(4), (2, 2))
    assert mosaic.shape == (80, 120, 3) and mosaic[::79, ::119, 0].tolist() == [[0, 1], [2, 3]]
