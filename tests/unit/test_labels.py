"""Labels as FiftyOne's own objects and documents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

fo = pytest.importorskip("fiftyone")

from bson import ObjectId  # noqa: E402

from fiftyone_ntt.core import Instances  # noqa: E402
from fiftyone_ntt.dataset.documents import class_of, tags_of  # noqa: E402
from fiftyone_ntt.dataset.labels import (  # noqa: E402
    _of_bytes,
    _of_pixels,
    is_changed,
    is_edited,
    keep_identity,
    to_document,
)
from fiftyone_ntt.pixels.packed_masks import PackedMask  # noqa: E402

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
        assert {key: mine[key] for key in mine.keys() - changing - {"written"}} == {
            key: theirs[key] for key in theirs.keys() - changing
        }
        assert {key: type(mine[key]) for key in changing} == {key: type(theirs[key]) for key in changing}


def test_masks_come_back_bit_for_bit(instances):
    labels = fo.Detections.from_dict(to_document(instances, ["a", "b"])).detections
    assert len({label.id for label in labels}) == 3
    for i, label in enumerate(labels):
        assert label.mask.dtype == bool
        np.testing.assert_array_equal(label.mask, by_fiftyone(instances, i).mask)


def test_next_class_of_a_label_is_written_by_name(instances):
    one, half = np.full(3, 0.95, np.float32), np.full(3, 0.5, np.float32)
    known = replace(instances, similarity=one, alternative=np.array([0, -1, 0]), alternative_similarity=half)
    labels = to_document(known, ["a", "b"])["detections"]
    assert [label["similarity"] for label in labels] == pytest.approx([0.95] * 3)
    assert [label.get("alternative") for label in labels] == ["a", None, "a"]
    assert [label.get("alternative_similarity") for label in labels] == [0.5, None, 0.5]


def packed_again(label):
    return fo.Detection.from_dict(label).to_dict()


def through_json(label):
    """As a browser sends it back: numbers as JavaScript writes them, with the noise of a canvas."""
    box = [value * 3 / 3 + 1e-9 for value in label["bounding_box"]]
    return {**packed_again(label), "bounding_box": [int(value) if value == int(value) else value for value in box]}


def in_a_file(label, folder):
    moved = fo.Detection.from_dict(label)
    moved.export_mask(str(folder / "mask.png"), update=True)
    return {**moved.to_dict(), "mask_path": str(folder / "mask.png"), "mask": None}


def with_mask(label, change):
    edited = fo.Detection.from_dict(label)
    edited.mask = change(edited.mask)
    return edited.to_dict()


def one_pixel(mask):
    mask = mask.copy()
    mask[0, 0] ^= True
    return mask


@pytest.mark.parametrize(
    ("change", "edited", "changed"),
    [
        (lambda label, _: label, False, False),
        (lambda label, _: {**label, "tags": ["ntt:accepted"], "confidence": 0.1, "index": 3}, False, False),
        (lambda label, _: packed_again(label), False, False),
        (lambda label, _: through_json(label), False, False),
        (lambda label, _: with_mask(label, lambda mask: mask.astype(np.uint8) * 255), False, False),
        (in_a_file, False, False),
        (lambda label, _: {**label, "mask": None, "mask_path": "/gone.png"}, False, False),
        (lambda label, _: {**label, "label": "c"}, False, True),
        (lambda label, _: {**label, "label": None}, False, True),
        (lambda label, _: with_mask({**label, "label": "c"}, one_pixel), True, True),
        (lambda label, _: {**label, "bounding_box": [x + 1 / 130 for x in label["bounding_box"]]}, True, True),
        (lambda label, _: with_mask(label, one_pixel), True, True),
        (lambda label, folder: in_a_file(with_mask(label, one_pixel), folder), True, True),
        (lambda label, _: {**label, "mask": None}, True, True),
        (lambda label, _: {key: value for key, value in label.items() if key != "written"}, False, False),
        (lambda label, _: {**label, "written": "as it likes"}, False, False),
    ],
)
def test_edited_is_another_shape_changed_also_another_class(instances, tmp_path, change, edited, changed):
    for label in to_document(instances, ["a", "b"])["detections"]:
        now = change(label, tmp_path)
        assert (is_edited(now), is_changed(now)) == (edited, changed)


def test_a_renamed_label_of_an_old_run_is_told_by_its_classes(instances):
    """It wrote one fingerprint of class, box and mask together."""
    for label in to_document(instances, ["a", "b"])["detections"]:
        name, box, mask = label["label"], label["bounding_box"], fo.Detection.from_dict(label).get_mask()
        old = {**label, "written": f"{_of_bytes(name, box, bytes(label['mask']))}-{_of_pixels(name, box, mask)}"}
        renamed = {**old, "label": "c"}
        assert (is_edited(old), is_edited(renamed, ["a", "b"]), is_changed(renamed)) == (False, False, True)
        assert is_edited(with_mask(renamed, one_pixel), ["a", "b"])


def test_nothing_found_is_an_empty_list():
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), ()
    assert to_document(Instances(*none, SIZE), ["a"]) == fo.Detections().to_dict()


def test_a_copy_of_a_label_does_not_take_its_id(instances):
    """Of labels with one fingerprint the first that nobody touched, and that has an id, is the one that goes on."""
    old, new = (to_document(instances, ["a", "b"]) for _ in range(2))
    first = old["detections"][0]
    touched = {**first, "_id": ObjectId(), "tags": ["ntt:accepted"]}
    copies = [touched, {key: value for key, value in first.items() if key != "_id"}, {**first, "_id": "an id"}]
    old["detections"] = [*copies, first, {**first, "_id": ObjectId()}, None, "a label"]
    keep_identity(new, old)
    assert new["detections"][0]["_id"] == first["_id"]
    keep_identity(new, {"_cls": "Detections", "detections": "labels"})


NAMES = [(7, None), (["a"], None), ({"a": 1}, None), (None, None), ("", None), ("a", "a")]
TAGS = [(None, set()), ("ntt:accepted", set()), (4, set()), ({"a": 1}, set()), ([1, None, {}, "a"], {"a"})]


def test_what_stands_in_place_of_names_and_tags_is_none():
    assert [class_of({"label": name}) for name, _ in NAMES] == [wanted for _, wanted in NAMES]
    assert [tags_of({"tags": tags}) for tags, _ in TAGS] == [wanted for _, wanted in TAGS]
    assert class_of({}) is None and tags_of({}) == set()
