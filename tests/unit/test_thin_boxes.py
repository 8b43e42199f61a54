"""A box without a mask stands for its pixels, rounded: at least one each way, however thin it is."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores, encode_box
from fiftyone_ntt.evaluation.map_documents import piece_of
from fiftyone_ntt.pixels.frames import whole_pixels
from fiftyone_ntt.references.prompted_masks import box_mask

SIZE = (60, 80)
BOXES = {  # xyxy in pixels -> left, top, right, bottom
    "plain": ((10, 20, 30, 50), (10, 20, 30, 50)),
    "rounded": ((9.6, 20.4, 30.4, 49.6), (10, 20, 30, 50)),
    "thin": ((40, 6, 40.32, 54), (40, 6, 41, 54)),
    "flat": ((6, 40.6, 54, 40.9), (6, 41, 54, 42)),
    "speck": ((40.1, 6.1, 40.2, 6.2), (40, 6, 41, 7)),
    "right border": ((79.7, 6, 80, 54), (79, 6, 80, 54)),
    "bottom border": ((6, 59.8, 54, 60), (6, 59, 54, 60)),
    "left border": ((-0.3, 6, 0.2, 54), (0, 6, 1, 54)),
    "all of it": ((0, 0, 80, 60), (0, 0, 80, 60)),
}


def filled(left, top, right, bottom):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("name", BOXES)
def test_every_box_has_its_pixels(name):
    box, place = BOXES[name]
    assert whole_pixels(box, SIZE) == place
    assert (mask_utils.decode(encode_box(box, SIZE)) == filled(*place)).all()
    x1, y1, x2, y2 = np.array(box, float) / [80, 60, 80, 60]
    piece = piece_of(fo.Detection(label="a", bounding_box=[x1, y1, x2 - x1, y2 - y1]), 1, (0.0,), SIZE)
    shown = np.zeros(SIZE, np.int64)
    piece.paint(shown, 0)
    assert ((shown == 1) == filled(*place)).all()
    assert (box_mask(box, SIZE).full(SIZE) == filled(*place)).all()


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (40, 6, 40, 54), (81, 6, 90, 54), (-9, 6, -1, 54), (6, 60, 54, 70)])
def test_what_has_no_area_inside_has_no_pixel(box):
    assert not mask_utils.decode(encode_box(box, SIZE)).any()


@pytest.mark.parametrize("name", BOXES)
def test_a_perfect_prediction_is_one_by_masks_too(name):
    box = BOXES[name][0]
    truth, found = GroundTruth("a", 0, box, encode_box(box, SIZE)), Prediction("a", 0, box, 0.9, encode_box(box, SIZE))
    scores = coco_scores([truth], [found], ["thin"], ["a"])
    assert scores.mask.ap == scores.box.ap == pytest.approx(1.0)
