"""Exported labels are those that a person wants, they come back as they were, and nothing else is touched."""

from __future__ import annotations

import errno
import inspect
import json
import os

import cv2
import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO
from support.app import context, form

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.geometry import full_mask
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.params.review import ExportParams
from fiftyone_ntt.review.export import NOTE, export_labels
from fiftyone_ntt.review.export_formats import Names

URI = "@fiftyone-ntt/ntt/export_labels"
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


@pytest.fixture
def reviewed(dataset, tmp_path):
    """Three images in two folders with one file name: accepted, rejected, undecided and drawn labels."""
    tags = [["ntt:accepted"], ["ntt:rejected"], [], ["ntt:edited"]]
    for i in range(3):
        path = tmp_path / f"folder {i % 2}" / f"{i // 2}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
        found = [
            fo.Detection.from_mask(
                disc(15 + 15 * k, 30, hole=3 * (k == 3)), label="ab"[k % 2], confidence=0.2 * k + 0.1,
                predicted_iou=0.9, tags=tags[k] if i < 2 else [],
            )
            for k in range(4)
        ]  # fmt: skip
        dataset.add_sample(fo.Sample(str(path), ntt=fo.Detections(detections=found)))
    dataset.add_sample_field("ntt.detections.predicted_iou", fo.FloatField)
    return dataset


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


@pytest.mark.parametrize("format", LOAD)
def test_accepted_labels_come_back(reviewed, tmp_path, format):
    report = export_labels(reviewed, tmp_path / "out", format=format)
    labels, masks = load(tmp_path / "out", format)
    assert (report.images, report.labels, report.per_class) == (2, 4, {"a": 2, "b": 2})
    assert sorted(map(sorted, labels)) == [["a", "b"], ["a", "b"]], "an object with a hole is one object"
    assert report.notes == ["2 of the images also hold labels that nobody has decided on: not written"]
    for name, mask in zip(labels[0], masks[0], strict=True):
        expected = disc(15, 30) if name == "a" else disc(60, 30, hole=3 if format == "fiftyone" else 0)
        assert (mask & expected).sum() / (mask | expected).sum() > 0.8
    scope: dict = {}
    exec(report.how_to_load, scope)  # noqa: S102 what people are told to type
    assert len(scope["dataset"]) == 2
    scope["dataset"].delete()
    assert json.loads((tmp_path / "out" / NOTE).read_text())["labels"] == 4


@pytest.mark.parametrize(
    ("options", "images", "labels"),
    [
        ({"only": "all"}, 3, 10),
        ({"only": "all", "score_threshold": 0.4}, 3, 8),
        ({"only": "all", "classes": ["b"]}, 3, 4),
        ({"classes": ["b", "new"]}, 2, 2),
    ],
)
def test_what_is_chosen(reviewed, tmp_path, options, images, labels):
    report = export_labels(reviewed, tmp_path / "out", export_media=False, **options)
    assert (report.images, report.labels) == (images, labels)


def test_numbers_of_classes_follow_the_order_asked_for(reviewed, tmp_path):
    export_labels(reviewed, tmp_path / "out", classes=["b", "a"], format="yolo")
    assert "0: b" in (tmp_path / "out" / "dataset.yaml").read_text()
    categories = [{"id": 1, "name": "b", "supercategory": None}, {"id": 2, "name": "a", "supercategory": None}]
    export_labels(reviewed, tmp_path / "coco", classes=["b", "a"])
    assert json.loads((tmp_path / "coco" / "labels.json").read_text())["categories"] == categories


def test_a_folder_with_something_in_it_is_left_alone(reviewed, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty.*earlier export"):
            export_labels(reviewed, mine, overwrite=overwrite)
    with pytest.raises(InputError, match="is a file"):
        export_labels(reviewed, mine / "thesis.txt")
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_earlier_export_is_replaced_only_when_asked(reviewed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_labels(reviewed, out, export_media=False)
    with pytest.raises(InputError, match="earlier export.*overwrite"):
        export_labels(reviewed, out)
    monkeypatch.setattr("fiftyone_ntt.review.export._export", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(InputError, match="write.*disk full"):
        export_labels(reviewed, out, overwrite=True)
    assert json.loads((out / NOTE).read_text())["labels"] == 4, "the old one is still there"
    monkeypatch.undo()
    export_labels(reviewed, out, only="all", overwrite=True)
    assert json.loads((out / NOTE).read_text())["labels"] == 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "voc"}, InputError, "'voc'"),
        ({"only": "some"}, InputError, "'some'"),
        ({"export_dir": " "}, InputError, "name of a folder"),
        ({"classes": "a"}, InputError, "list.*class names"),
        ({"classes": ["c"]}, InputError, r"\['c'\].*\['a', 'b'\]"),
        ({"label_field": "nope"}, InputError, "field 'nope'"),
        ({"label_field": "filepath"}, WrongTypeError, "'filepath'"),
    ],
)
def test_what_cannot_be_exported_is_said(reviewed, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export_labels(reviewed, **{"export_dir": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_nothing_accepted_yet(reviewed, tmp_path):
    reviewed.untag_labels(["ntt:accepted", "ntt:edited"], "ntt")
    with pytest.raises(InputError, match="'ntt'"):
        export_labels(reviewed, tmp_path / "out")


def test_names_never_become_paths(reviewed, tmp_path):
    """A class may be called anything; only the folder that was asked for is written."""
    reviewed.map_labels("ntt", {"a": "../../evil", "b": "/etc/passwd"}).save()
    out = tmp_path / "deep" / "out"
    for format in LOAD:
        export_labels(reviewed, out, format=format, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "folder 0", "folder 1"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_form_counts_and_the_operator_tells_how_to_load(reviewed, tmp_path):
    params = {"export_dir": str(tmp_path / "out"), "format": "yolo"}
    properties, errors = form("export_labels", reviewed, params)
    assert not errors
    assert properties["_chosen"].view.label == "4 labels on 2 images would be written"
    shown = {key for key in properties if not key.startswith("_")}
    assert shown == {"view_target", *(info.name for info in ExportParams.infos())}
    result = foo.get_operator(URI).execute(context("export_labels", reviewed, params))
    assert result["labels"] == 4 and "YOLOv5Dataset" in result["summary"]
    assert (tmp_path / "out" / "dataset.yaml").is_file()


def test_the_form_refuses_what_the_operator_would(reviewed):
    assert "full path" in form("export_labels", reviewed, {"export_dir": "out"})[1]["export_dir"]
    assert "Required property" in form("export_labels", reviewed, {})[1]["export_dir"]
    with pytest.raises(InputError, match="'out'"):
        foo.get_operator(URI).execute(context("export_labels", reviewed, {"export_dir": "out"}))
    reviewed.untag_labels(["ntt:accepted", "ntt:edited"], "ntt")
    assert "accept labels" in form("export_labels", reviewed, {})[0]["_chosen"].view.label


def test_the_service_takes_what_the_form_asks(database):
    arguments = {
        name: parameter.default
        for name, parameter in inspect.signature(ntt.export_labels).parameters.items()
        if name not in ("view", "progress")
    }
    assert list(arguments) == [info.name for info in ExportParams.infos()]
    assert all(arguments[info.name] == info.default for info in ExportParams.infos() if not info.required)


# Kinds of trouble that people of comparable tools reported; one row an input.


def drawing(*boxes, size=SIZE, holes=()):
    mask = np.zeros(size, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    for top, left, bottom, right in holes:
        mask[top:bottom, left:right] = False
    return mask


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


def picture(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return str(path)


def accepted(mask, label="a", **attributes):
    return fo.Detection.from_mask(mask, label=label, tags=["ntt:accepted"], **attributes)


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
    assert all("1 of 1 labels" in note for note in report.notes)


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
        assert len({name.casefold() for name in names}) == len(paths)
        assert not media or all((out / "data" / name).is_file() for name in names)
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

    def fail(path, content):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(InputError, match=rf"cannot write {tmp_path}/out/.*(png|yaml): .*; .*{advice}"):
        export_labels(dataset, tmp_path / "out", format=format)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_crowds_go_out_as_crowds(dataset, tmp_path):
    """COCO knows crowd regions, as run lengths; YOLO does not, and says so."""
    labels = [accepted(MASKS["ring"], iscrowd=1), accepted(MASKS["two parts"], iscrowd=False, difficult="1")]
    dataset.add_sample(fo.Sample(picture(tmp_path / "in/a.png"), ntt=fo.Detections(detections=labels)))
    export_labels(dataset, tmp_path / "coco", masks="polygons")
    coco, annotations = coco_of(tmp_path / "coco")
    assert [(item["iscrowd"], item.get("ignore", 0)) for item in annotations] == [(1, 0), (0, 1)]
    assert [type(item["segmentation"]) for item in annotations] == [dict, list]
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
    assert report.notes == ["1 labels have no mask; their filled box stands in for it"]
    coco, (annotation,) = coco_of(tmp_path / "out")
    assert (coco.annToMask(annotation) == drawing((30, 20, 45, 60))).all()
