"""Regions that count neither way, wherever labels are compared: boxes and masks, pixels, FiftyOne's own matches."""

import re

import fiftyone as fo
import numpy as np
import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection

SIZE = (40, 40)
# Attributes of a ground-truth label -> whether it counts neither way. COCO's `iscrowd`, Pascal VOC's `difficult` (as
# texts, in its XML files), Open Images' `IsGroupOf`, BDD100K's `crowd`, CrowdHuman's `ignore`, older FiftyOne's.
MARKS = [
    ({"iscrowd": 1}, True),
    ({"iscrowd": True}, True),
    ({"iscrowd": 0}, False),
    # voxel51/fiftyone#1363: texts like "false" were taken for true
    ({"iscrowd": "0"}, False),
    ({"iscrowd": "1"}, True),
    # rafaelpadilla/review_object_detection_metrics#48: they were scored; amdegroot/ssd.pytorch#349: texts of XML
    ({"difficult": "1"}, True),
    ({"difficult": "0"}, False),
    # cocodataset/cocoapi#123, #466: overwritten by `iscrowd`; facebookresearch/detectron2#1909: CrowdHuman's
    ({"ignore": True}, True),
    # bdd100k/bdd100k#8: what is to be ignored was not marked as a crowd for COCO
    ({"crowd": "yes"}, True),
    # voxel51/fiftyone#918, #1070
    ({"IsGroupOf": True}, True),
    # voxel51/fiftyone#1664: exports without `iscrowd` where it was not among the attributes
    ({"attributes": {"iscrowd": fo.NumericAttribute(value=1)}}, True),
    # ours: empty cells of a table, other spellings
    ({"difficult": float("nan")}, False),
    ({"Difficult": "1"}, True),
    ({"group_of": True}, True),
]


def mask_of(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


OBJECT, REGION, CLAIM = mask_of(2, 2, 12, 12), mask_of(20, 20, 38, 38), mask_of(22, 22, 30, 30)


def detections(*masks, **attributes):
    return fo.Detections(detections=[fo.Detection.from_mask(mask, label="a", **attributes) for mask in masks])


@pytest.fixture(params=MARKS, ids=[str(marks) for marks, _ in MARKS])
def scene(request, dataset):
    """An object that is found, a region with a mark, and a label on the region."""
    marks, is_void = request.param
    truth = detections(OBJECT)
    truth.detections.append(fo.Detection.from_mask(REGION, label="a", **marks))
    sample = fo.Sample("/a.png", truth=truth, found=detections(OBJECT, CLAIM, confidence=0.9))
    sample.metadata = fo.ImageMetadata(width=SIZE[1], height=SIZE[0])
    dataset.add_sample(sample)
    return dataset, is_void


def keys_of(dataset):
    """What the labels hold, as the database has it."""
    sample = database_collection(dataset).find_one()
    return [key for field in ("truth", "found") for label in sample[field]["detections"] for key in label]


def marks_of(dataset, field, key):
    return [label.get_attribute_value(key, None) for label in dataset.first()[field].detections]


def test_what_fiftyones_matches_know_is_said(scene):
    dataset, is_void = scene
    results = ntt.evaluate(dataset, "found", "truth", eval_key="ev")
    assert results.mask.ar100 == (1.0 if is_void else 0.5)
    # Between masks FiftyOne knows no crowd: a small label on a large region is none of its matches, and we say so.
    assert marks_of(dataset, "found", "ev") == ["tp", "fp"]
    assert marks_of(dataset, "truth", "ev") == ["tp", "fn"]
    said = [note for note in results.notes if "'ev'" in note and "1 ground-truth object that counts" in note]
    assert bool(said) is is_void
    assert not any("uncounted" in key for key in keys_of(dataset)), "nothing else is left on anybody's labels"


def test_pixels_under_them_count_neither_way(scene):
    dataset, is_void = scene
    maps = ntt.to_segmentation(dataset, "found", "maps")
    results = ntt.evaluate(dataset, "maps", "truth")
    shared, union = int(OBJECT.sum()), int((OBJECT | REGION).sum())
    if is_void:
        assert results.semantic.miou == 1.0 and results.semantic.pixels == OBJECT.size - REGION.sum()
    else:
        assert results.semantic.miou == (shared + int(CLAIM.sum())) / union
    said = [note for note in results.notes if "of the pixels count neither way: they lie under 1 ground" in note]
    assert bool(said) is is_void
    assert maps.marked == 0 and ntt.to_segmentation(dataset, "truth", "painted").marked == int(is_void)


def test_an_object_on_such_a_region_counts(dataset):
    truth = detections(CLAIM)
    truth.detections.insert(0, fo.Detection.from_mask(REGION, label="a", ignore=True))
    truth.detections.append(fo.Detection.from_mask(REGION, label="b", iscrowd=1, confidence=0.99))
    sample = fo.Sample("/a.png", truth=truth, found=detections(OBJECT, confidence=0.9))
    sample.metadata = fo.ImageMetadata(width=SIZE[1], height=SIZE[0])
    dataset.add_sample(sample)
    ntt.to_segmentation(dataset, "found", "maps", classes=["a", "b"])
    results = ntt.evaluate(dataset, "maps", "truth", classes=["a", "b"])
    assert results.semantic.per_class == {"a": 0.0, "b": None}
    assert results.semantic.pixels == OBJECT.size - REGION.sum() + CLAIM.sum()


VALUES = np.zeros(SIZE, np.uint8)
VALUES[:10], VALUES[10:15], VALUES[15:17] = 1, 2, 255
# Fields of truth and predictions -> what is said of classes that one side does not know.
# JdeRobot/PerceptionMetrics#385: a class with ground truth and no prediction was in no mean.
SIDES = {
    "maps": (fo.Segmentation(mask=VALUES), "classes of the ground truth .* background: b \\(200 pixels\\)"),
    "labels": (
        fo.Detections(detections=[*detections(VALUES == 1).detections,
                                  fo.Detection.from_mask(VALUES == 2, label="b")]),
        "classes of the ground truth .* background: b \\(1 label\\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIDES)
def test_classes_of_one_side_are_named(dataset, kind):
    truth, text = SIDES[kind]
    sample = fo.Sample("/a.png", truth=truth, found=fo.Segmentation(mask=np.where(VALUES == 1, 3, 0).astype(np.uint8)))
    sample.metadata = fo.ImageMetadata(width=SIZE[1], height=SIZE[0])
    dataset.add_sample(sample)
    dataset.mask_targets = {"truth": {1: "a", 2: "b"}, "found": {3: "a", 4: "c"}}
    dataset.save()
    field = dataset.get_field("found")
    field.info = {"ntt_maps": {"run": {"run_key": "ntt_ntt", "classes": ["a", "c"]}}}
    field.save()
    results = ntt.evaluate(dataset, "found", "truth")
    assert results.semantic.per_class == {"a": 1.0, "c": None}
    assert [note for note in results.notes if re.search(text, note)], results.notes
    asked = ntt.evaluate(dataset, "found", "truth", classes=["a"])
    assert not [note for note in asked.notes if "not scored" in note], "left out on purpose"


# lyft/nuscenes-devkit#36, Striveworks/valor#736: predictions of a class without ground truth divided by zero
def test_a_class_that_is_only_predicted_is_named(dataset):
    sample = fo.Sample("/a.png", truth=fo.Segmentation(mask=np.where(VALUES == 1, 1, 0).astype(np.uint8)))
    sample["found"] = fo.Segmentation(mask=VALUES % 255)
    dataset.add_sample(sample)
    dataset.mask_targets = dict.fromkeys(("truth", "found"), {1: "a", 2: "b"})
    dataset.save()
    results = ntt.evaluate(dataset, "found", "truth")
    assert results.semantic.per_class == {"a": 1.0, "b": 0.0}
    assert any(note.startswith("b: no ground truth here") for note in results.notes)
