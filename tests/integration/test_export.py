"""Exported labels are those that a person wants, they come back as they were, and nothing else is touched."""

from __future__ import annotations

import errno
import inspect
import json
import os
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from PIL import Image
from support.app import context, form
from support.exports import LOAD, SIZE, disc, load, picture

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.params.review import ExportParams
from fiftyone_ntt.review.export import NOTE, export_labels
from fiftyone_ntt.review.export_choice import count_chosen
from fiftyone_ntt.runs.record import RunRecord, register

URI = "@fiftyone-ntt/ntt/export_labels"


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


@pytest.mark.parametrize("format", LOAD)
def test_accepted_labels_come_back(reviewed, tmp_path, format):
    report = export_labels(reviewed, tmp_path / "out", format=format)
    labels, masks = load(tmp_path / "out", format)
    assert (report.images, report.labels, report.per_class) == (2, 4, {"a": 2, "b": 2})
    assert sorted(map(sorted, labels)) == [["a", "b"], ["a", "b"]], "an object with a hole is one object"
    assert report.notes == ["2 images also hold labels that nobody has decided on: not written"]
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


@pytest.mark.parametrize("format", ["coco", "yolo", "fiftyone"])
@pytest.mark.parametrize("mine", ["runs/best.pt", "notes.txt", "data/0.png.bak"])
@pytest.mark.parametrize("earlier_version", [False, True])
def test_files_that_no_export_wrote_are_not_replaced(reviewed, tmp_path, format, mine, earlier_version):
    out = tmp_path / "out"
    export_labels(reviewed, out, format=format)
    if earlier_version:  # which did not list its files
        facts = json.loads((out / NOTE).read_text())
        del facts["written"]
        (out / NOTE).write_text(json.dumps(facts))
    (out / "labels.cache").write_text("made by a trainer")
    export_labels(reviewed, out, format=format, overwrite=True)
    (out / mine).parent.mkdir(exist_ok=True)
    (out / mine).write_text("hours of work")
    with pytest.raises(InputError, match="also holds what no export wrote"):
        export_labels(reviewed, out, format=format, overwrite=True)
    assert (out / mine).read_text() == "hours of work"


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


@pytest.mark.parametrize("format", ["coco", "yolo", "fiftyone"])
@pytest.mark.parametrize("by_run", [True, False], ids=["of a run", "of no run"])
def test_images_never_labelled_are_no_background_unasked(reviewed, tmp_path, format, by_run):
    if by_run:
        register(reviewed, RunRecord("run", "ntt", ["a", "b"], "lite", "0" * 64, {}, {}, 4))
    before = export_labels(reviewed, tmp_path / "before", format=format, only="all")
    paths = [picture(tmp_path / f"new-{i}.png", seed=90 + i) for i in range(3)]
    reviewed.add_samples([fo.Sample(path) for path in paths])
    empty = reviewed.last()
    empty["ntt"] = fo.Detections()
    empty.save()
    for only in ("all", "accepted"):
        report = export_labels(reviewed, tmp_path / only, format=format, only=only)
        assert [note for note in report.notes if "labelled in 'ntt'" in note or "background" in note] == (
            [] if only == "accepted"
            else ["2 images that no run has labelled in 'ntt' left out" if by_run
                  else "2 images without labels written as background"]
        )  # fmt: skip
        if only == "all":
            assert report.images == before.images + (1 if by_run else 3)
            assert report.labels == before.labels
            assert count_chosen(reviewed, "ntt", only="all") == (before.labels, report.images)
    assert not [note for note in before.notes if "labelled in 'ntt'" in note or "background" in note]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "voc"}, InputError, "'voc'"),
        ({"only": "some"}, InputError, "'some'"),
        ({"export_dir": " "}, InputError, "name of a folder"),
        ({"classes": "a"}, InputError, "list.*class names"),
        ({"classes": ["c"]}, InputError, "no label of 'c' among them; there is: a, b"),
        ({"label_field": "nope"}, InputError, "field 'nope'"),
        ({"label_field": "filepath"}, WrongTypeError, "'filepath'"),
    ],
)
def test_what_cannot_be_exported_is_said(reviewed, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export_labels(reviewed, **{"export_dir": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder of somebody else's: nothing can be made, renamed or removed right in it. The tests may run as root."""
    folder = tmp_path / "theirs"
    (folder / "mine").mkdir(parents=True)

    def refusing(real):
        def refuse(path, *args, **options):
            if path.parent == folder:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *args, **options)

        return refuse

    for name in ("mkdir", "rename", "rmdir"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name)))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    return folder


def test_an_own_folder_in_somebody_elses_is_filled(reviewed, closed):
    for _ in range(2):
        report = export_labels(reviewed, closed / "mine", overwrite=True)
        assert report.labels == 4 and (closed / "mine" / NOTE).is_file()
    assert [path.name for path in closed.iterdir()] == ["mine"], "nothing was put beside it"
    assert not [path for path in (closed / "mine").iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_made_is_named(reviewed, closed):
    with pytest.raises(InputError, match=f"cannot write {closed}: Permission denied; "):
        export_labels(reviewed, closed / "new")
    assert not (closed / "new").exists()


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


def test_the_form_counts_the_chosen_classes(reviewed, tmp_path):
    params = {"export_dir": str(tmp_path / "out"), "only": "all", "classes": ["a"]}
    counted = form("export_labels", reviewed, params)[0]["_chosen"].view.label
    result = foo.get_operator(URI).execute(context("export_labels", reviewed, params))
    assert counted == f"{result['labels']} labels on {result['images']} images would be written"
    assert "other classes" in form("export_labels", reviewed, {"classes": ["z"]})[0]["_chosen"].view.label
