"""PASCAL VOC's average precision until 2009: eleven points of a curve. Pure: numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fiftyone_ntt.evaluation.coco import Box, Prediction
from fiftyone_ntt.evaluation.protocols.coco_files import Annotated


def eleven_points(truth: Mapping[Any, Sequence[Annotated]], found: Sequence[Prediction]) -> float | None:
    """AP of one class at IoU above 0.5: the mean precision at a recall of 0, 0.1 to 1.

    Args:
        truth: objects of each image, boxes that end after their last pixel; difficult ones and crowds are ignored.
        found: labels in descending score.

    Returns:
        A fraction, or ``None`` where there is no object to find.
    """
    objects = sum(not (item.difficult or item.crowd) for items in truth.values() for item in items)
    if not objects:
        return None
    taken: set[tuple[Any, int]] = set()
    right: list[bool] = []
    for one in found:
        single = [item for item in truth.get(one.image_id, []) if not item.crowd]
        crowds = [item for item in truth.get(one.image_id, []) if item.crowd]
        overlaps = [_iou(one.box, item.box) for item in single]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best < 0 or overlaps[best] <= 0.5:
            # VOC knows no crowds: as COCO has it, what lies in one is neither right nor wrong.
            if not any(_share_inside(one.box, item.box) > 0.5 for item in crowds):
                right.append(False)
        elif not single[best].difficult:
            right.append((one.image_id, best) not in taken)
            taken.add((one.image_id, best))
    hits = np.cumsum(right)
    recall, precision = hits / objects, hits / np.arange(1, len(right) + 1)
    return float(np.mean([precision[recall >= t].max(initial=0.0) for t in np.linspace(0, 1, 11)]))


def last_pixel_counted(box: Box) -> Box:
    """A box that ends on its last pixel as one that ends after it, as all boxes do elsewhere."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 + 1, y2 + 1


def _shared(box: Box, other: Box) -> float:
    width, height = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _iou(box: Box, truth: Box) -> float:
    shared = _shared(box, truth)
    return shared / (_area(box) + _area(truth) - shared) if shared else 0.0


def _share_inside(box: Box, crowd: Box) -> float:
    """How much of a box lies in a crowd."""
    shared = _shared(box, crowd)
    return shared / _area(box) if shared else 0.0
