"""References, names, views and folders that cannot be used are refused with a clear sentence.

Everything goes through the services that App, worker and SDK use; only the models are small ones without weights.
"""

import errno
import os
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from support.hostile import detection, picture, reference, small_models

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import file_format as files
from fiftyone_ntt.candidates.store import IndexStorageError
from fiftyone_ntt.errors import BadReferenceError, InputError, NttError, WrongTypeError
from fiftyone_ntt.references.banks import notes_of


@pytest.fixture(autouse=True, scope="module")
def models():
    with small_models():
        yield


@pytest.fixture
def build(dataset, tmp_path):
    """Builds a bank from labels on one image."""

    def build(*labels, **arguments):
        dataset.add_sample(reference(tmp_path / "reference.png", *labels))
        return ntt.build_memory_bank(dataset.match_tags("ntt:reference"), **arguments)

    return build


def damaged_mask(folder):
    (folder / "mask.png").write_bytes(b"no mask")
    return {"mask": None, "mask_path": str(folder / "mask.png")}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bounding_box": [200, 20, 40, 40]}, "boxes.*relative"),
        ({"bounding_box": [0, 0, 40, 40]}, "boxes.*relative"),
        ({"bounding_box": [0.5, 0.5, -0.2, 0.2]}, "no area"),
        ({"bounding_box": [float("nan"), 0, 1, 1]}, "relative box"),
        ({"bounding_box": [0, 0, 1, float("inf")]}, "relative box"),
        ({"bounding_box": [0.1, 0.1]}, "relative box"),
        ({"bounding_box": None}, "relative box"),
        ({"mask": np.zeros((30, 40), bool)}, "mask.*empty"),
        ({"mask": np.zeros((0, 0), bool)}, "two-dimensional mask"),
        ({"mask": np.ones(5, bool)}, "two-dimensional mask"),
        (damaged_mask, "cannot be read"),
        ({"mask": None, "mask_path": "/nowhere/mask.png"}, "cannot be read"),
    ],
)
def test_references_that_cannot_be_used_are_named(dataset, build, tmp_path, changes, text):
    label = detection(**(changes(tmp_path) if callable(changes) else changes))
    with pytest.raises(BadReferenceError, match=text) as caught:
        build(detection("date"), label, classes=["date", "fig"])
    assert label.id in str(caught.value)
    bank = build(detection(), label)
    assert bank.shots["fig"] == 1 and label.id in " ".join(notes_of(bank)), "it costs itself where there is another"


@pytest.mark.parametrize(
    "mask",
    [np.ones((3, 200), bool), np.ones((60, 80), bool), np.full((30, 40), 255, np.uint8), np.ones((30, 40, 3), bool)],
    ids=["flat", "image", "255", "colours"],
)
def test_masks_of_another_size_than_their_box_are_stretched(build, mask):
    as_given, plain = build(detection(mask=mask), detection()).vectors
    assert np.array_equal(as_given, plain)


def test_labels_without_a_class_are_passed_over(build):
    assert build(detection(), detection(None), detection(""), detection(" ")).classes == ("fig",)


@pytest.mark.parametrize("label", [None, "", " "])
def test_labels_without_any_class_are_refused(build, label):
    with pytest.raises(BadReferenceError, match="labels.*class name"):
        build(detection(label))


@pytest.mark.parametrize("classes", [["fig", ""], ["fig", "fig"], [1], [None], "fig"])
def test_impossible_classes_are_refused(build, classes):
    with pytest.raises(InputError, match="list.*class names"):
        build(detection(), classes=classes)


CLASSES = {
    "one": ["fig"],
    "odd": ["a.b", "$set", "$x.y", "a/b", "../..", "x" * 300, "Fig", "fig", " fig", "ünï 图", "%s {0}", "<b>"],
    "1203": [f"class {k}" for k in range(1203)],
}


@pytest.mark.parametrize("names", CLASSES.values(), ids=CLASSES)
def test_classes_of_any_name_and_number(dataset, build, tmp_path, names):
    boxes = np.random.default_rng(0).uniform(0, 0.5, (len(names), 2))
    labels = [
        detection(name, (x, y, 0.5, 0.5), mask=np.ones((2, 2), bool)) for name, (x, y) in zip(names, boxes, strict=True)
    ]
    bank = build(*labels, name="many")
    assert sorted(bank.classes) == sorted(names)
    assert ntt.load_bank(dataset, "many").content_hash == bank.content_hash
    picture().save(tmp_path / "target.png")
    dataset.add_sample(fo.Sample(str(tmp_path / "target.png")))
    report = ntt.segment(dataset, "many", index_dir=tmp_path / "index")
    assert (report.labelled, report.failed) == (1, 0)
    dataset.reload()
    assert set(dataset.distinct("ntt.detections.label")) <= set(names)
    assert ntt.list_runs(dataset)[0]["classes"] == list(bank.classes)
    assert ntt.undo_run(dataset, report.run_key) == report.instances


# What is refused as a whole


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "a.b", "$a", "", "x" * 101, "a\0", "1a", "a b"])
def test_names_never_become_paths(dataset, build, tmp_path, name):
    bank = build(detection(), name="sound")
    for call in (
        lambda: ntt.build_memory_bank(dataset, name=name),
        lambda: ntt.load_bank(dataset, name),
        lambda: ntt.segment(dataset, bank, run_key=name or "..", index_dir=tmp_path / "index"),
        lambda: ntt.segment(dataset, bank, label_field=name, index_dir=tmp_path / "index"),
    ):
        with pytest.raises(NttError, match="expected|no memory bank"):
            call()
    assert ntt.list_runs(dataset) == [] and ntt.list_banks(dataset) == ["sound"]


@pytest.mark.parametrize("field", ["id", "filepath", "tags", "metadata", "_private", "created_at", 3])
def test_fields_of_fiftyone_are_not_written(dataset, build, tmp_path, field):
    bank = build(detection())
    with pytest.raises(NttError, match="label_field"):
        ntt.segment(dataset, bank, label_field=field, index_dir=tmp_path / "index")
    assert ntt.list_runs(dataset) == []


def groups(dataset):
    group = fo.Group()
    dataset.add_group_field("group", default="video")
    names = {"image": "a.png", "video": "a.mp4", "scene": "a.pcd"}
    dataset.add_samples([fo.Sample(path, group=group.element(name)) for name, path in names.items()])
    return dataset


@pytest.mark.parametrize(
    "make",
    [
        lambda dataset: dataset.add_sample(fo.Sample("a.mp4")),
        lambda dataset: dataset.add_sample(fo.Sample("a.pcd")),
        lambda dataset: dataset.add_sample(fo.Sample("a.fo3d")),
        lambda dataset: dataset.add_sample(fo.Sample("a.txt")),
        groups,
        lambda dataset: groups(dataset).select_group_slices(["image", "video"], _allow_mixed=True),
    ],
    ids=["video", "points", "scene", "unknown", "groups", "mixed"],
)
def test_what_is_no_image_is_refused(dataset, make, tmp_path):
    made = make(dataset)
    view = made if isinstance(made, fo.core.collections.SampleCollection) else dataset
    for call in (ntt.index, lambda view: ntt.segment(view, "bank"), ntt.build_memory_bank):
        with pytest.raises(WrongTypeError, match="expected images"):
            call(view)


def test_a_full_disk_stops_indexing_but_not_labelling(dataset, build, tmp_path, monkeypatch):
    bank = build(detection())
    for name in ("a.png", "b.png"):
        picture().save(tmp_path / name)
        dataset.add_sample(fo.Sample(str(tmp_path / name)))
    folder = tmp_path / "index"
    with monkeypatch.context() as patch:

        def no_room(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(files.os, "fsync", no_room)
        with pytest.raises(IndexStorageError, match="No space left.*room"):
            ntt.index(dataset, index_dir=folder)
        assert not [path for path in folder.rglob("*") if path.is_file()]
        report = ntt.segment(dataset, bank, index_dir=folder)
    assert (report.labelled, report.indexed) == (2, 0) and "No space left" in str(report)
    assert ntt.index(dataset, index_dir=folder).failed == 0


def sparse(path):
    """A terabyte of nothing."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, sparse])
def test_what_lies_in_the_index_may_be_anything(dataset, build, tmp_path, make):
    bank = build(detection())
    folder = tmp_path / "index"
    ntt.index(dataset, index_dir=folder)
    file = next(folder.rglob("*.ntt"))
    file.unlink()
    make(file)
    report = ntt.segment(dataset, bank, include_references=True, index_dir=folder)
    assert (report.labelled, report.from_index, report.failed) == (1, 0, 0)


def test_operators_declare_their_risk():
    import fiftyone.operators as foo
    from fiftyone.operators import types

    ours = [one for one in foo.list_operators() if one.uri.startswith("@fiftyone-ntt/")]
    assert len(ours) >= 4
    assert {one.config.risk_level for one in ours if one.__class__.__module__.find("panels") < 0} <= {
        types.RiskLevel.LOW, types.RiskLevel.MEDIUM, types.RiskLevel.HIGH,
    }  # fmt: skip


# Each was taken without a word, or ended in an error of Python's own.
WRONG_KINDS = [
    (ntt.segment, {"score_threshold": 2}, InputError, "score_threshold.*between 0 and 1"),
    (ntt.segment, {"score_threshold": -0.1}, InputError, "score_threshold.*between 0 and 1"),
    (ntt.segment, {"score_threshold": "0.5"}, WrongTypeError, "score_threshold.*number"),
    (ntt.segment, {"score_threshold": float("nan")}, WrongTypeError, "score_threshold.*number"),
    (ntt.segment, {"include_references": "no"}, WrongTypeError, "include_references.*true or false"),
    (ntt.segment, {"overwrite": "yes"}, WrongTypeError, "overwrite.*true or false"),
    (ntt.segment, {"resume": 1}, WrongTypeError, "resume.*true or false"),
    (ntt.segment, {"progress": 3}, WrongTypeError, "progress.*function"),
    (ntt.index, {"use_index": False}, InputError, "use_index"),
    (ntt.index, {"stage_one": ntt.StageOneSettings(use_index=False)}, InputError, "use_index"),
    (ntt.index, {"size_limit_gb": "1"}, WrongTypeError, "size_limit_gb.*number"),
    (ntt.index, {"size_limit_gb": -1}, InputError, "size_limit_gb.*at least 0"),
    (ntt.index, {"progress": "bar"}, WrongTypeError, "progress.*function"),
    (ntt.preview, {"images": "4"}, WrongTypeError, "images.*whole number"),
    (ntt.preview, {"images": 2.5}, WrongTypeError, "images.*whole number"),
    (ntt.preview, {"images": True}, WrongTypeError, "images.*whole number"),
    (ntt.preview, {"images": 0}, InputError, "at least 1 image"),
    (ntt.preview, {"score_threshold": 2}, InputError, "score_threshold.*between 0 and 1"),
    (ntt.build_memory_bank, {"ask_granularity": "no"}, WrongTypeError, "ask_granularity.*true or false"),
    (ntt.build_memory_bank, {"progress": 3}, WrongTypeError, "progress.*function"),
    (ntt.make_reference_masks, {"overwrite": "no"}, WrongTypeError, "overwrite.*true or false"),
    (ntt.evaluate, {"score_threshold": 2}, InputError, "score_threshold.*between 0 and 1"),
    (ntt.evaluate, {"include_references": "no"}, WrongTypeError, "include_references.*true or false"),
    (ntt.evaluate, {"progress": 3}, WrongTypeError, "progress.*function"),
    (ntt.export_labels, {"score_threshold": 2}, InputError, "score_threshold.*between 0 and 1"),
    (ntt.export_labels, {"overwrite": "no"}, WrongTypeError, "overwrite.*true or false"),
    (ntt.export_labels, {"export_media": "no"}, WrongTypeError, "export_media.*true or false"),
    (ntt.to_segmentation, {"score_threshold": 2}, InputError, "score_threshold.*between 0 and 1"),
    (ntt.to_segmentation, {"overwrite": "no"}, WrongTypeError, "overwrite.*true or false"),
    (ntt.learn, {"apply": "no"}, WrongTypeError, "apply.*true or false"),
    (ntt.learn, {"threshold": 2}, InputError, "threshold.*between 0 and 1"),
    (ntt.undo_run, {"keep_edited": "no"}, WrongTypeError, "keep_edited.*true or false"),
]


@pytest.mark.parametrize(("call", "arguments", "error", "text"), WRONG_KINDS)
def test_arguments_of_a_wrong_kind_are_refused(dataset, tmp_path, call, arguments, error, text):
    """Forms and commands refuse these by the same declarations."""
    needed = {ntt.segment: ["bank"], ntt.export_labels: [tmp_path / "out"], ntt.undo_run: ["run"]}.get(call, [])
    with pytest.raises(error, match=text):
        call(dataset, *needed, **arguments)
    assert ntt.list_runs(dataset) == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", [None, 5, b"abc", [1], ""])
def test_a_path_of_a_wrong_kind_is_refused(dataset, path):
    dataset.add_sample_field("ntt", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    text = path == ""
    for call in (lambda: ntt.MemoryBank.load(path), lambda: ntt.export_labels(dataset, path, only="all")):
        with pytest.raises(InputError if text else WrongTypeError, match=None if text else "expected a path"):
            call()
