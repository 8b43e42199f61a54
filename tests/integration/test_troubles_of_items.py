"""One bad item costs that item: one line in the report, with its name, and the rest is done.

Public reports of the kind: one corrupted image throws a whole batch away (cosanlab/py-feat#96), a dataset is not
made because of one image (Abe404/root_painter#38), an export stops at one missing image
(open-edge-platform/datumaro#2049).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from support.hostile import detection, picture, reference, small_models
from support.runs import begin_run

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates.maintenance import prune, verify
from fiftyone_ntt.errors import BadReferenceError, InputError, NttError
from fiftyone_ntt.references.banks import bank_summaries, notes_of


@pytest.fixture(autouse=True, scope="module")
def models():
    with small_models():
        yield


@pytest.fixture
def shelf(dataset, tmp_path):
    """Three references and four other images, all with a label in ``ground_truth``."""
    for i in range(7):
        path = tmp_path / "in" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        sample = reference(path, *[detection() for _ in range(i + 1)][:1])
        picture(60 + i).save(path)
        sample.tags = ["ntt:reference"] if i < 3 else []
        dataset.add_sample(sample)
    return dataset


def missing(path):
    path.unlink()


def no_image(path):
    path.write_bytes(b"no image")


def empty(path):
    path.write_bytes(b"")


def folder(path):
    path.unlink()
    path.mkdir()


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


def link_in_a_circle(path):
    path.unlink()
    path.symlink_to(path)


# Public reports: missing open-mmlab/mmdetection#6779, Urban-M4/streetscapes#26; no image
# Megvii-BaseDetection/YOLOX#1142; cut short eg4000/SKU110K_CVPR19#23; folder duanzhiihao/RAPiD#36; which one it is
# pytorch/vision#485. The rest by trial.
IMAGES = [missing, no_image, empty, folder, cut_short, link_in_a_circle]


@pytest.fixture
def forbidden(monkeypatch):
    """Files of a name that may not be read; tests often run as a user who may read everything."""
    names, read = set(), Path.read_bytes

    def read_bytes(path):
        if path.name in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return names


@pytest.mark.parametrize("spoil", [*IMAGES, "forbidden"], ids=lambda kind: getattr(kind, "__name__", kind))
def test_one_bad_image_costs_one_image(shelf, tmp_path, forbidden, spoil):
    """On the whole way: cache, preview, labels, scores, maps, export, learning, undo."""
    culprit, path = shelf.skip(4).first().id, tmp_path / "in" / "4.png"
    shelf.compute_metadata()
    forbidden.add("4.png") if spoil == "forbidden" else spoil(path)
    options = {"index_dir": tmp_path / "index", "device": "cpu"}
    indexed = ntt.index(shelf, **options)
    assert (indexed.computed, indexed.failed) == (6, 1)
    assert list(indexed.errors) == [culprit] and str(path) in indexed.errors[culprit]
    bank = ntt.build_memory_bank(shelf.match_tags("ntt:reference"))
    looked = {image.sample_id: image for image in ntt.preview(shelf, bank, images=4, **options)}
    assert len(looked) == 4 and [key for key, image in looked.items() if image.error] == [culprit]
    report = ntt.segment(shelf, bank, **options)
    assert (report.labelled, report.failed) == (3, 1) and str(path) in report.errors[culprit]
    assert shelf[culprit].ntt_status.state == "error" and str(path) in shelf[culprit].ntt_status.error
    assert ntt.evaluate(shelf).images == 4, "its size is known, and its object is missed"
    maps = ntt.to_segmentation(shelf)
    assert (maps.maps, maps.unlabelled) == (3, 4)
    exported = ntt.export_labels(shelf, tmp_path / "out", "ground_truth", only="all")
    (line,) = exported.left_out
    assert exported.images == 6 and str(path) in line
    assert ntt.accept_labels(shelf) == report.instances
    learned = ntt.learn(shelf, index_dir=tmp_path / "index")
    assert list(learned.errors) == [culprit] and learned.decisions["fig"]["accepted"] == report.instances
    assert ntt.undo_run(shelf, "ntt_ntt", keep_edited=False) == report.instances


@pytest.mark.parametrize("spoil", [kind for kind in IMAGES if kind is not cut_short])  # its first bytes tell the size
def test_images_of_unknown_size_are_named(shelf, tmp_path, spoil):
    """What needs sizes cannot use an image that nobody can read, and says which."""
    spoil(tmp_path / "in" / "4.png")
    culprit = shelf.skip(4).first().id
    shelf.clone_sample_field("ground_truth", "ntt")
    results = ntt.evaluate(shelf)
    assert results.images == 3 and any(culprit in note and "4.png" in note for note in results.notes)
    maps = ntt.to_segmentation(shelf)
    assert maps.maps == 6 and any(culprit in note and "4.png" in note for note in maps.notes)


@pytest.mark.parametrize("spoil", [*IMAGES, "forbidden"], ids=lambda kind: getattr(kind, "__name__", kind))
def test_one_bad_reference_image_costs_one_reference(shelf, tmp_path, forbidden, spoil):
    culprit, path = shelf.skip(1).first().id, tmp_path / "in" / "1.png"
    forbidden.add("1.png") if spoil == "forbidden" else spoil(path)
    references = shelf.match_tags("ntt:reference")
    bank = ntt.build_memory_bank(references, name="figs")
    assert bank.shots == {"fig": 2}
    (note,) = notes_of(bank)
    assert culprit in note and str(path) in note
    assert notes_of(ntt.load_bank(shelf, "figs")) == [note], "whoever uses the bank later is told, too"
    cards = ntt.describe_references(shelf)
    assert [card.sample_id for card in cards if "cannot be used" in " ".join(card.warnings)] == [culprit]
    made = ntt.make_reference_masks(references)
    assert made.samples == 2 and culprit in str(made)
    for sample in references:
        if Path(sample.filepath).is_file():
            os.remove(sample.filepath)
    if spoil is missing:
        with pytest.raises(BadReferenceError, match=f"'fig'.*{references.first().id}.*not found"):
            ntt.build_memory_bank(references)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        # nilearn/nilearn#822
        ({"mask": np.zeros((30, 40), bool)}, "mask.*empty"),
        ({"mask": None, "mask_path": "/nowhere/mask.png"}, "/nowhere/mask.png"),
        # jolibrain/deepdetect#1113
        ({"bounding_box": [float("nan"), 0, 1, 1]}, "relative box"),
        # voxel51/fiftyone#1381
        ({"bounding_box": [0, 0, 40, 40]}, "relative"),
    ],
)
def test_one_bad_label_costs_one_reference(dataset, tmp_path, change, text):
    bad = detection(**change)
    dataset.add_sample(reference(tmp_path / "a.png", detection(), bad, detection("date")))
    bank = ntt.build_memory_bank(dataset)
    assert bank.shots == {"date": 1, "fig": 1}
    (note,) = notes_of(bank)
    assert bad.id in note
    with pytest.raises(BadReferenceError, match=text):
        ntt.build_memory_bank(dataset.select_labels(ids=[bad.id], fields="ground_truth"))
    made = ntt.make_reference_masks(dataset)
    assert made.kinds == {"mask": 2} and bad.id in str(made)


# Of the kind of voxel51/fiftyone#8176, where one malformed record of a run would have ended the query of the dataset;
# the rows, and the states and banks below, by trial.
RECORDS = {
    "no record": {"config.record": None},
    "a word": {"config.record": "gone"},
    "without its field": {"config.record.label_field": None},
    "a number as field": {"config.record.label_field": 3},
}


@pytest.mark.parametrize("kind", RECORDS)
def test_one_damaged_record_costs_one_run(shelf, kind):
    """Listing, the panel's table, forms and undo of the others go on."""
    begin_run(shelf, "first", state="completed")
    begin_run(shelf, "second", state="completed")
    runs = fo.core.odm.get_db_conn()["runs"]
    changed = runs.update_one({"_dataset_id": shelf._doc.id, "key": "ntt_first"}, {"$set": RECORDS[kind]})
    assert changed.modified_count == 1
    shelf.reload()
    listed = {run["run_key"]: run for run in ntt.list_runs(shelf)}
    assert {key: run["state"] for key, run in listed.items()} == {"ntt_first": "failed", "ntt_second": "completed"}
    assert "damaged" in listed["ntt_first"]["error"]
    for call in (ntt.undo_run, ntt.resume_run, ntt.cancel_run):
        with pytest.raises(InputError, match="damaged"):
            call(shelf, "ntt_first")
    assert ntt.undo_run(shelf, "ntt_second") == 0


@pytest.mark.parametrize("state", [{"state": "running"}, {"state": 3, "views": 7}, {"views": [["no stage"]]}])
def test_one_damaged_state_costs_one_run(shelf, state):
    from fiftyone_ntt.runs.workers import run_store

    begin_run(shelf, "first", state="completed")
    begin_run(shelf, "second", state="completed")
    run_store(shelf).set("ntt_first", state)
    listed = {run["run_key"]: run for run in ntt.list_runs(shelf)}
    assert listed["ntt_second"]["state"] == "completed" and "damaged" in listed["ntt_first"]["error"]
    assert ntt.undo_run(shelf, "ntt_second") == 0


def test_one_damaged_bank_costs_one_bank(shelf):
    references = shelf.match_tags("ntt:reference")
    for name in ("first", "second"):
        bank = ntt.build_memory_bank(references, name=name)
    ntt.segment(shelf, bank, device="cpu", use_index=False)
    runs = fo.core.odm.get_db_conn()["runs"]
    runs.update_one({"_dataset_id": shelf._doc.id, "key": "first"}, {"$unset": {"config.content_hash": 1}})
    shelf.reload()
    assert list(bank_summaries(shelf)) == ["second"]
    assert ntt.evaluate(shelf).images == 4


def test_files_of_the_cache_that_cannot_be_removed_are_named(shelf, tmp_path):
    """A folder under the name of an image's file: the others are verified and removed."""
    root = tmp_path / "index"
    ntt.index(shelf, index_dir=root, device="cpu")
    stuck, damaged, *_ = sorted(root.rglob("*.ntt"))
    stuck.unlink()
    stuck.mkdir()
    damaged.write_bytes(b"damaged")
    told = verify(root, remove=True)
    assert set(told) == {stuck, damaged} and "cannot be removed" in told[stuck]
    assert not damaged.exists()
    report = prune(root, older_than=0)
    assert list(report.stuck) == [stuck] and str(stuck) in str(report)
    assert report.kept == 1 and list(root.rglob("*.ntt")) == [stuck]


# danielplohmann/mcrit#42, #175: one document over MongoDB's limit loses the batch, and nothing says which one it is;
# contao/contao#7083: an undo that fails half-way
def test_a_sample_that_cannot_be_taken_back_costs_itself(shelf):
    """Undo puts the others back, says which one is left, and goes on once it has room."""
    large = np.random.default_rng(0).random((1200, 1200)) > 0.5
    for sample in shelf.limit(3):
        sample["ntt"] = fo.Detections(detections=[detection(mask=large)])
        sample.save()
    bank = ntt.build_memory_bank(shelf.match_tags("ntt:reference"))
    ntt.segment(shelf, bank, overwrite=True, include_references=True, device="cpu", use_index=False)
    culprit = shelf.first()
    culprit["large"] = "x" * (16 * 2**20 - 2**17)
    culprit.save()
    with pytest.raises(NttError, match=f"1 sample.*{culprit.id}"):
        ntt.undo_run(shelf, "ntt_ntt")
    restored = shelf.exclude(culprit.id).limit(2).values("ntt.detections.label")
    assert restored == [["fig"], ["fig"]]
    shelf.clear_sample_field("large")
    ntt.undo_run(shelf, "ntt_ntt")
    assert shelf.first().ntt.detections[0].mask.shape == large.shape
    assert ntt.list_runs(shelf) == []
