"""What goes out comes back: masks to the pixel, images under names of their own, one bad item is one line.

Kinds of trouble that people of comparable tools reported; one row an input.
"""

from __future__ import annotations

import errno
import json
import os

import cv2
import fiftyone as fo
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from support.exports import LOAD, SIZE, accepted, disc, drawing, load, picture

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.review.export import export_labels
from fiftyone_ntt.review.export_names import Names

MASKS = {
    "one-pixel line": drawing((20, 10, 21, 70)),
    "one-pixel column": drawing((10, 30, 50, 31)),
    "one pixel": drawing((59, 79, 60, 80)),
    "bottom row": drawing((59, 0, 60, 80)),
    "right column": drawing((0, 79, 60, 80)),
    "block in a corner": drawing((0, 0, 20, 50)),
    "whole image": drawing((0, 0, 60, 80)),
    "ring": disc(40, 30, 20, 10),
    "two holes": drawing((5, 5, 40, 70), holes=[(10, 10, 20, 20), (15, 40, 30, 60)]),
    "two parts": drawing((5, 5, 20, 20), (30, 50, 50, 70)),
    "diagonal of single pixels": np.eye(*SIZE, dtype=bool),
    "an island in a lake": drawing((5, 5, 55, 75), holes=[(15, 15, 45, 65)]) | drawing((25, 30, 35, 50)),
}
LEAST_IN_YOLO = {"two parts": 0.8, "an island in a lake": 0.98}
"""A bridge over background is drawn, one pixel wide; everything else comes back as it was."""


def fill(dataset, paths, mask=MASKS["block in a corner"]):
    dataset.add_samples([fo.Sample(path, ntt=fo.Detections(detections=[accepted(mask)])) for path in paths])
    return dataset


def coco_of(folder):
    coco = COCO(str(folder / "labels.json"))
    return coco, [coco.anns[key] for key in sorted(coco.anns)]


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("masks", ["rle", "polygons"])
def test_masks_come_back_from_coco_to_the_pixel(dataset, tmp_path, masks):
    """Pixels lost on the way out: thin, at the border, with holes, in parts."""
    labels = [accepted(mask, name) for name, mask in MASKS.items()]
    dataset.add_sample(fo.Sample(picture(tmp_path / "a.png"), ntt=fo.Detections(detections=labels)))
    report = export_labels(dataset, tmp_path / "out", masks=masks)
    coco, annotations = coco_of(tmp_path / "out")
    assert (report.labels, report.notes, report.left_out) == (len(MASKS), [], [])
    for annotation in annotations:
        name = coco.cats[annotation["category_id"]]["name"]
        assert (coco.annToMask(annotation) == MASKS[name]).all(), name
        assert annotation["area"] == MASKS[name].sum() and annotation["iscrowd"] == 0
        rows, columns = np.nonzero(MASKS[name])
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == pytest.approx(box)
    names, back = load(tmp_path / "out", "coco")
    assert all((mask == MASKS[name]).all() for name, mask in zip(names[0], back[0], strict=True))


@pytest.mark.parametrize("name", MASKS)
def test_masks_come_back_from_yolo(dataset, tmp_path, name):
    """At least three distinct points a line, and what bridges cost is counted."""
    report = export_labels(fill(dataset, [picture(tmp_path / "a.png")], MASKS[name]), tmp_path / "out", format="yolo")
    (line,) = (tmp_path / "out/labels/train/a.txt").read_text().splitlines()
    points = np.array(line.split()[1:], float).reshape(-1, 2)
    assert len(np.unique(points, axis=0)) >= 3 and (points >= 0).all() and (points <= 1).all()
    assert load(tmp_path / "out", "yolo")[0] == [["a"]]
    drawn = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(drawn, [(points * SIZE[::-1]).astype(np.int32)], 1)  # as Ultralytics draws it
    mask = drawn > 0
    assert (mask & MASKS[name]).sum() / (mask | MASKS[name]).sum() >= LEAST_IN_YOLO.get(name, 1.0)
    assert bool(report.notes) == (name in LEAST_IN_YOLO)
    assert all("1 of 1 label " in note for note in report.notes)


PATHS = {
    "slices": ["left/0.png", "right/0.png"],
    "case only": ["A.png", "a.png"],
    "extension only": ["a.jpg", "a.png"],
    "a folder called images": ["left/images/0.png", "right/images/0.png"],
    "not ASCII": ["ä/ü 图.png", "ö/ü 图.png"],
    "very long": [f"{'x' * 240}.png", f"{'x' * 239}y.png"],
    "hidden": [".a/0.png", "b/.0.png"],
    "line break": ["a\nb.png", "a\tb.png"],
    "suffix taken": ["a.png", "A.png", "a-2.png"],
}


@pytest.mark.parametrize("format", LOAD)
@pytest.mark.parametrize("media", [True, False])
@pytest.mark.parametrize("kind", PATHS)
def test_names_keep_images_apart(dataset, tmp_path, kind, media, format):
    """Identity by base name: the report counts what is on disk, and nothing overwrites anything."""
    paths = [picture(tmp_path / "in" / path, seed=i) for i, path in enumerate(PATHS[kind])]
    out = tmp_path / "out"
    report = export_labels(fill(dataset, paths), out, format=format, export_media=media)
    assert (report.images, report.labels, report.files) == (len(paths), len(paths), len(files_of(out)))
    folded = [name.casefold() for name in files_of(out)]
    assert len(set(folded)) == len(folded)
    if format == "coco":
        names = [image["file_name"] for image in json.loads((out / "labels.json").read_text())["images"]]
        assert len({name.casefold() if media else name for name in names}) == len(paths)
        assert all((out / "data" / name if media else tmp_path / "in" / name).is_file() for name in names)
    if format == "yolo":
        assert len(list((out / "labels").rglob("*.txt"))) == len(paths)
    if media:
        assert load(out, format)[0] == [["a"]] * len(paths)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/left/0.jpg", "/d/right/0.jpg"], ["left/0.jpg", "right/0.jpg"]),
        (["/d/x/0.jpg", "/d/x/1.jpg"], ["0.jpg", "1.jpg"]),
        (["/d/../e/0.jpg", "/d/0.jpg"], ["e/0.jpg", "d/0.jpg"]),  # ..
        (["/d/0.jpg", "/d/0.jpg"], ["0.jpg", "0-2.jpg"]),  # one file in two samples
        (["s3://b/0.jpg", "/d/0.jpg"], ["s3:/b/0.jpg", "d/0.jpg"]),  # addresses
        (["/d/a", "/d/A/b.jpg"], ["a", "A-2/b.jpg"]),  # a file where a folder is to be, if case does not count
    ],
)
def test_names_lie_inside_the_export(paths, names):
    namer = Names(paths, "coco")
    given = [namer.name(path) for path in paths]
    assert given == names
    assert len(set(given)) == len(given) and not any(name.startswith("/") or ".." in name for name in given)


def spoil(dataset, kind):
    """Makes the third of five samples unusable, for the outside world has changed."""
    sample = dataset.skip(2).first()
    path = sample.filepath
    if kind == "missing":
        os.remove(path)
    elif kind == "no image":
        with open(path, "wb") as file:
            file.write(b"not an image")
    elif kind == "cut short":
        os.truncate(path, os.path.getsize(path) // 2)
    elif kind == "a pipe":
        os.remove(path)
        os.mkfifo(path)
    else:
        value = {
            "damaged mask": {"mask": b"\x00broken"},
            "mask file gone": {"mask": None, "mask_path": "/nowhere/m.png"},
            "box of text": {"bounding_box": ["a", "b", "c", "d"]},
            "box not a number": {"bounding_box": [float("nan"), 0, 1, 1]},
            "box outside": {"bounding_box": [2, 2, 0.1, 0.1]},
        }[kind]
        where = {"_id": sample._id}
        changes = {f"ntt.detections.0.{key}": content for key, content in value.items()}
        dataset._sample_collection.update_one(where, {"$set": changes})
        dataset.reload()
        return str(sample.ntt.detections[0].id)
    return path


@pytest.mark.parametrize("format", LOAD)
@pytest.mark.parametrize(
    "kind",
    [
        "missing", "no image", "cut short", "a pipe", "damaged mask", "mask file gone", "box of text",
        "box not a number", "box outside",
    ],
)  # fmt: skip
def test_one_bad_item_costs_one_item(dataset, tmp_path, kind, format):
    """One bad item is one line in the report, which names it; the rest is written."""
    fill(dataset, [picture(tmp_path / "in" / f"{i}.png", seed=i) for i in range(5)])
    culprit = spoil(dataset, kind)
    report = export_labels(dataset, tmp_path / "out", format=format)
    (line,) = report.left_out
    assert culprit in line and culprit in str(report)
    assert (report.images, report.labels) == (4, 4)
    assert len(load(tmp_path / "out", format)[0]) == 4


@pytest.mark.parametrize(
    ("code", "advice"), [(errno.ENOSPC, "disk.*full"), (errno.EACCES, "may write"), (errno.EIO, "that file")]
)
@pytest.mark.parametrize("format", ["coco", "yolo"])
def test_a_file_that_cannot_be_written_is_named(dataset, tmp_path, monkeypatch, format, code, advice):
    fill(dataset, [picture(tmp_path / "in" / f"{i}.png", seed=i) for i in range(2)])

    def fail(part, data, durable):
        raise OSError(code, os.strerror(code), str(part))

    monkeypatch.setattr("fiftyone_ntt.pixels.files._write", fail)
    with pytest.raises(InputError, match=rf"cannot write {tmp_path}/out/.*(png|yaml): .*; .*{advice}"):
        export_labels(dataset, tmp_path / "out", format=format)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_crowds_go_out_as_crowds(dataset, tmp_path):
    """COCO knows crowd regions, as run lengths; YOLO does not, and says so."""
    labels = [accepted(MASKS["ring"], iscrowd=1), accepted(MASKS["two parts"], iscrowd=False, difficult="1")]
    labels.append(accepted(MASKS["one pixel"]))
    dataset.add_sample(fo.Sample(picture(tmp_path / "in/a.png"), ntt=fo.Detections(detections=labels)))
    export_labels(dataset, tmp_path / "coco", masks="polygons")
    coco, annotations = coco_of(tmp_path / "coco")
    assert [(item["iscrowd"], item.get("ignore", 0)) for item in annotations] == [(1, 0), (0, 1), (0, 0)]
    assert [type(item["segmentation"]) for item in annotations] == [dict, list, list]
    assert (coco.annToMask(annotations[0]) == MASKS["ring"]).all()
    report = export_labels(dataset, tmp_path / "yolo", format="yolo")
    assert report.labels == 1 and any("1 crowd" in note for note in report.notes)


@pytest.mark.parametrize("name", ["a\nb: c", "tab\t, comma", "#no", "yes", "- 'q\" {", "ü 图", "![x](http://host)"])
def test_names_of_classes_are_text(dataset, tmp_path, name):
    fill(dataset, [picture(tmp_path / "in/a.png")]).map_labels("ntt", {"a": name}).save()
    export_labels(dataset, tmp_path / "yolo", format="yolo")
    assert yaml.safe_load((tmp_path / "yolo/dataset.yaml").read_text())["names"] == {0: name}
    export_labels(dataset, tmp_path / "coco")
    assert coco_of(tmp_path / "coco")[0].cats[1]["name"] == name
    assert load(tmp_path / "coco", "coco")[0] == [[name]]


def test_a_label_without_a_mask_is_its_box(dataset, tmp_path):
    label = fo.Detection(label="a", bounding_box=[0.25, 0.5, 0.5, 0.25], tags=["ntt:accepted"])
    dataset.add_sample(fo.Sample(picture(tmp_path / "in/a.png"), ntt=fo.Detections(detections=[label])))
    report = export_labels(dataset, tmp_path / "out")
    assert report.notes == ["1 label without a mask: the filled box stands in for it"]
    coco, (annotation,) = coco_of(tmp_path / "out")
    assert (coco.annToMask(annotation) == drawing((30, 20, 45, 60))).all()
