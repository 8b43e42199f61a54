"""A COCO json of one's own: what is wrong in it is said with file and entry, what it may leave out is made."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from pycocotools import mask as mask_utils
from support.coco_sets import SIZE, coco_file

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.coco import GroundTruth, encode_box
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, TargetImage, choose_images
from fiftyone_ntt.evaluation.protocols.json_checks import run_lengths

CLEAR = (100, 100, 50, 60)
PIXELS = SIZE[0] * SIZE[1]


def read(tmp_path, change=None, kind="annotations", at=0):
    """A file of two objects with one entry changed, from disk."""
    content = coco_file([("a", "1.jpg", CLEAR), ("b", "2.jpg", CLEAR)]).content
    content[kind][at].update(change or {})
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    return CocoFile.read(path, tmp_path)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("images", {"id": "7"}, "id as a whole number in images"),
        ("images", {"height": None}, "height as a whole number above 0 in images"),
        ("images", {"height": 0}, "height as a whole number above 0 in images"),
        ("images", {"width": 1.5}, "width as a whole number above 0 in images"),
        ("images", {"file_name": None}, "file_name as text in images"),
        ("images", {"file_name": 7}, "file_name as text in images"),
        ("images", {"file_name": ""}, "file_name as text in images"),
        ("categories", {"id": True}, "id as a whole number in categories"),
        ("categories", {"name": "b"}, "class name once"),
        ("categories", {"name": None}, "name as text in categories"),
        ("categories", {"name": ["a"]}, "name as text in categories"),
        ("annotations", {"image_id": 99}, "images and classes that are in the file"),
        ("annotations", {"image_id": [7]}, "image_id as a whole number in annotations"),
        ("annotations", {"category_id": 1}, "images and classes that are in the file"),
        ("annotations", {"bbox": [1, 2, 3]}, "bbox as four numbers"),
        ("annotations", {"bbox": [1, 2, float("nan"), 3]}, "bbox as four numbers"),
        ("annotations", {"bbox": [1, 2, -3, 3]}, "bbox as four numbers"),
        ("annotations", {"bbox": [1, 2, True, 3]}, "bbox as four numbers"),
        ("annotations", {"bbox": [1, 2, 10**400, 3]}, "too large"),
        ("annotations", {"bbox": None}, "bbox as four numbers"),
        ("annotations", {"area": "12"}, "area as a number"),
        ("annotations", {"area": [1]}, "area as a number"),
        ("annotations", {"area": float("inf")}, "area as a number"),
        ("annotations", {"iscrowd": "0"}, "iscrowd as 0 or 1"),
        ("annotations", {"difficult": [1]}, "difficult as 0 or 1"),
        ("annotations", {"ignore": 2}, "ignore as 0 or 1"),
        ("annotations", {"segmentation": "x"}, "polygons or run lengths .* in annotation 1000"),
        ("annotations", {"segmentation": 5}, "polygons or run lengths .* in annotation 1000"),
        ("annotations", {"segmentation": [[1, 2, 3, 4]]}, "three or more points .* in annotation 1000"),
        ("annotations", {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "three or more points .* in annotation 1000"),
        ("annotations", {"segmentation": [1, 2, 3, 4, 5, 6]}, "three or more points .* in annotation 1000"),
        ("annotations", {"segmentation": [[1, 2, "3", 4, 5, 6]]}, "three or more points .* in annotation 1000"),
        ("annotations", {"segmentation": [[1, 2, float("nan"), 4, 5, 6]]}, "three or more points"),
        ("annotations", {"segmentation": {"size": list(SIZE)}}, "polygons or run lengths .* in annotation 1000"),
        ("annotations", {"segmentation": {"counts": [1, 2]}}, "the image's size .* in annotation 1000"),
        ("annotations", {"segmentation": {"counts": [9], "size": [3, 3]}}, "the image's size .* in annotation 1000"),
        ("annotations", {"segmentation": {"counts": [1, 2], "size": list(SIZE)}}, f"{PIXELS} pixels in all"),
        ("annotations", {"segmentation": {"counts": [PIXELS + 1, -1], "size": list(SIZE)}}, f"{PIXELS} pixels in all"),
        ("annotations", {"segmentation": {"counts": ["1"], "size": list(SIZE)}}, f"{PIXELS} pixels in all"),
        ("annotations", {"segmentation": {"counts": None, "size": list(SIZE)}}, f"{PIXELS} pixels in all"),
        ("annotations", {"segmentation": {"counts": "abc", "size": list(SIZE)}}, f"{PIXELS} pixels in all"),
        ("annotations", {"segmentation": {"counts": "\u00ff ", "size": list(SIZE)}}, f"{PIXELS} pixels in all"),
    ],
)
def test_a_json_of_ones_own_is_checked(kind, change, message, tmp_path):
    """The file is named, and the entry that is wrong."""
    assert read(tmp_path).targets().classes == ("b", "a")
    with pytest.raises(InputError, match=rf"other.json.*{message}"):
        read(tmp_path, change, kind)


@pytest.mark.parametrize("kind", ["images", "categories", "annotations"])
def test_entries_are_objects_with_ids_of_their_own(kind, tmp_path):
    content = coco_file([("a", "1.jpg", CLEAR), ("b", "2.jpg", CLEAR)]).content
    path = tmp_path / "other.json"
    for entries, message in (([5], f"objects of JSON in {kind}"), ([content[kind][0]] * 2, f"id of {kind} once")):
        path.write_text(json.dumps({**content, kind: entries}))
        with pytest.raises(InputError, match=rf"other.json.*{message}"):
            CocoFile.read(path, tmp_path)


@pytest.mark.parametrize(
    ("change", "area", "pixels"),
    [
        ({"segmentation": []}, 3000, None),
        ({"segmentation": [[]]}, 3000, None),
        ({"segmentation": None}, 3000, None),
        ({"segmentation": {}}, 3000, None),
        ({"segmentation": [[]], "area": None}, 50 * 60, None),
        ({"segmentation": [[], [0, 0, 10, 0, 10, 10, 0, 10]], "area": None}, 100, 100),
        ({"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]], "area": 7}, 7, 100),
        ({"segmentation": encode_box((3, 4, 23, 14), SIZE), "area": None}, 200, 200),
        ({"segmentation": {"counts": [2, 30, PIXELS - 32], "size": list(SIZE)}, "area": None}, 30, 30),
    ],
)
def test_what_is_left_out_is_made(change, area, pixels, tmp_path):
    """No segmentation is a box; no area is that of the mask, or of the box."""
    if isinstance(change["segmentation"], dict) and isinstance(change["segmentation"].get("counts"), bytes):
        change["segmentation"]["counts"] = change["segmentation"]["counts"].decode()
    file = read(tmp_path, change)
    (item,) = [one for one in file.targets().truth if one.image_id == file.content["annotations"][0]["image_id"]]
    assert item.area == area
    assert (None if item.rle is None else mask_utils.area(item.rle)) == pixels
    reference = file.reference(file.content["annotations"][0])
    mask = reference.read_mask()
    assert (None if mask is None else int(mask.sum())) == pixels


@pytest.mark.parametrize("mark", ["difficult", "ignore"])
@pytest.mark.parametrize("value", [1, True, 0, None])
def test_difficult_objects_may_be_called_ignored(mark, value, tmp_path):
    """Converters of VOC's files write ``ignore``, and so do we."""
    file = read(tmp_path, {mark: value})
    (item,) = [one for one in file.targets().truth if one.image_id == file.content["annotations"][0]["image_id"]]
    assert item.difficult is bool(value)


def test_images_may_be_named_by_address(tmp_path):
    """As those of LVIS are; of both names the file's own counts."""
    file = read(tmp_path, {"coco_url": "http://images.example/train2017/9.jpg"}, "images")
    assert file.targets().images[0].path == tmp_path / "1.jpg"
    del file.content["images"][0]["file_name"]
    (tmp_path / "third.json").write_text(json.dumps(file.content))
    assert CocoFile.read(tmp_path / "third.json", tmp_path).targets().images[0].path == tmp_path / "train2017/9.jpg"


def test_run_lengths_are_those_of_pycocotools():
    """Numbers of several characters, differences of both signs, and texts that end too early."""
    stream = random.Random(1)
    for _ in range(50):
        lengths = [stream.choice([1, 7, 40, 900, 70000]) for _ in range(stream.randrange(1, 12))]
        rle = mask_utils.frPyObjects({"size": [sum(lengths), 1], "counts": lengths}, sum(lengths), 1)
        assert run_lengths(rle["counts"].decode()) == lengths
    assert run_lengths("P") is None and run_lengths(None) is None and run_lengths("") == []


def chosen_plainly(images, truth, classes, count):
    """The subset as it is described, each step counted anew."""
    held = {image.image_id: {item.label for item in truth if item.image_id == image.image_id} for image in images}
    order = sorted(images, key=lambda image: hashlib.sha256(image.path.name.encode()).hexdigest())
    bare = [image.image_id for image in order if not held[image.image_id]]
    chosen = bare[: min(len(bare), int(count * 0.2))]
    rarity = [sum(k in held[image.image_id] for image in order) for k in range(classes)]
    while len(chosen) < count:
        left = {
            k: [one.image_id for one in order if k in held[one.image_id] and one.image_id not in chosen]
            for k in range(classes)
        }
        there = [k for k in left if left[k]]
        if not there:
            break
        chosen.append(left[min(there, key=lambda k: (sum(k in held[one] for one in chosen), rarity[k], k))][0])
    return [*chosen, *(one for one in bare if one not in chosen)][:count]


@pytest.mark.parametrize("count", [1, 7, 30, 59, 60])
def test_a_subset_is_chosen_as_it_is_described(count):
    stream = random.Random(count)
    images = [TargetImage(10 + i, Path(f"{i}.jpg"), SIZE) for i in range(60)]
    truth = [GroundTruth(10 + stream.randrange(50), stream.randrange(6), (0, 0, 9, 9)) for _ in range(70)]
    assert choose_images(images, truth, 7, count) == chosen_plainly(images, truth, 7, count)
