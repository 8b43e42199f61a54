"""Labels as FiftyOne's own objects and documents."""

from __future__ import annotations

import numpy as np
import pytest

fo = pytest.importorskip("fiftyone")

from fiftyone_ntt.core import Instances  # noqa: E402
from fiftyone_ntt.core.masks import PackedMask  # noqa: E402
from fiftyone_ntt.dataset.labels import to_document  # noqa: E402

SIZE = (70, 130)


@pytest.fixture
def instances():
    """Three masks: a blob over several words, one pixel in a corner, noise."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = [(y - 30) ** 2 + (x - 60) ** 2 < 500, np.zeros(SIZE, bool), np.random.default_rng(0).random(SIZE) > 0.5]
    masks[1][-1, -1] = True
    packed = tuple(PackedMask.from_crop(mask, 0, 0) for mask in masks)
    boxes = np.array([mask.extent for mask in packed], np.float32)
    scores, ious = np.array([0.9, 0.5, 0.1], np.float32), np.array([0.8, 0.7, 0.6], np.float32)
    return Instances(boxes, scores, np.array([1, 0, 1]), ious, packed, SIZE)


def by_fiftyone(instances, i):
    """The same label, made the plain way."""
    x1, y1, x2, y2 = instances.boxes[i].tolist()
    return fo.Detection(
        label=["a", "b"][instances.labels[i]],
        bounding_box=[x1 / SIZE[1], y1 / SIZE[0], (x2 - x1) / SIZE[1], (y2 - y1) / SIZE[0]],
        mask=instances.mask(i)[int(y1) : int(y2), int(x1) : int(x2)],
        confidence=float(instances.scores[i]),
        predicted_iou=float(instances.predicted_iou[i]),
    )


def test_documents_are_those_that_fiftyone_would_write(instances):
    document = to_document(instances, ["a", "b"])
    plain = fo.Detections(detections=[by_fiftyone(instances, i) for i in range(3)]).to_dict()
    assert {**document, "detections": None} == {**plain, "detections": None}
    for mine, theirs in zip(document["detections"], plain["detections"], strict=True):
        changing = {"_id", "mask"}
        assert {key: mine[key] for key in mine.keys() - changing} == {
            key: theirs[key] for key in theirs.keys() - changing
        }
        assert {key: type(mine[key]) for key in changing} == {key: type(theirs[key]) for key in changing}


def test_masks_come_back_bit_for_bit(instances):
    labels = fo.Detections.from_dict(to_document(instances, ["a", "b"])).detections
    assert len({label.id for label in labels}) == 3
    for i, label in enumerate(labels):
        assert label.mask.dtype == bool
        np.testing.assert_array_equal(label.mask, by_fiftyone(instances, i).mask)


def test_nothing_found_is_an_empty_list():
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), ()
    assert to_document(Instances(*none, SIZE), ["a"]) == fo.Detections().to_dict()
