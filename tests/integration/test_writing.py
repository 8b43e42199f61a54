"""Saving labels when samples are too large, when the database is away, and when a worker may no longer write."""

import random
from pathlib import Path

import bson
import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

import fiftyone_ntt as ntt
from fiftyone_ntt.core import Instances
from fiftyone_ntt.dataset import storage as patience
from fiftyone_ntt.dataset.labels import to_document
from fiftyone_ntt.dataset.storage import COMFORTABLE_DOCUMENT, masks_folder, patiently
from fiftyone_ntt.errors import DatabaseGoneError, InputError, LeaseLostError, NttError
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.runs.history import begin_pass
from fiftyone_ntt.runs.record import RunRecord, register
from fiftyone_ntt.runs.session import LabelWriter

RECORD = RunRecord("run", "found", ["cat"], "lite", "0" * 64, {}, {}, 4)


@pytest.fixture
def four(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_NTT_MASKS", str(tmp_path / "masks"))
    dataset.add_samples([fo.Sample(f"/picture-{i}.png") for i in range(4)])
    return dataset


def writer_of(dataset, overwrite=False, **options):
    begin_pass(dataset, RECORD, overwrite)
    register(dataset, RECORD)
    return LabelWriter(dataset, "found", "run", **options)


def document(*masks, label="cat"):
    labels = [
        fo.Detection(label=label, bounding_box=[0, 0, 1, 1], mask=mask, predicted_iou=0.9, confidence=0.5)
        for mask in masks
    ]
    return fo.Detections(detections=labels).to_dict()


def noise(megabytes, seed):
    """A mask that zlib cannot make smaller than an eighth of its pixels."""
    return np.random.default_rng(seed).random((1024, int(megabytes * 8 * 1024))) > 0.5


@pytest.fixture(scope="module")
def masks():
    """Five masks that take about 4 MB each: together, more than a sample may hold."""
    return [noise(2.8, seed) for seed in range(5)]


SMALL = np.ones((4, 4), bool)


def test_sample_above_16_mb_has_its_largest_masks_in_files(four, masks):
    ids = four.values("id")
    writer = writer_of(four)
    labels = document(SMALL, *masks)
    assert len(bson.encode(labels)) > 16 * 2**20
    writer.add(ids[0], document(SMALL), None, 0.1)
    writer.add(ids[1], labels, None, 0.1)
    writer.add(ids[2], document(SMALL), None, 0.1)
    writer.save()
    assert writer.refused == {}
    assert four.values("found_status.state") == ["ok", "ok", "ok", None]
    sample = four[ids[1]]
    for label, mask in zip(sample.found.detections, [SMALL, *masks], strict=True):
        np.testing.assert_array_equal(label.get_mask() > 0, mask)
    in_files = [Path(label.mask_path) for label in sample.found.detections if label.mask_path]
    assert 1 <= len(in_files) < 5, "no more than it takes"
    folder = masks_folder(four, "run", 0)
    assert all(path.parent == folder and ObjectId.is_valid(path.stem) for path in in_files)
    sizes = four.values(fo.ViewExpression({"$bsonSize": "$$ROOT"}), _raw=True)
    assert max(sizes) <= COMFORTABLE_DOCUMENT
    assert ntt.undo_run(four, "run") == 8
    assert not folder.parents[1].exists()


def fill_up(dataset, tmp_path):
    sample = dataset.first()
    sample["large"] = "x" * (16 * 2**20 - 2**17 - 500)
    sample.save()


def file_in_the_way(dataset, tmp_path):
    (tmp_path / "masks").write_text("not a folder")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [(fill_up, "limit of 16 MB"), (file_in_the_way, "cannot be put in files")],
)
def test_what_cannot_be_saved_costs_one_sample(four, masks, tmp_path, spoil, text):
    spoil(four, tmp_path)
    ids = four.values("id")
    writer = writer_of(four)
    labels = document(*[SMALL] * 500) if spoil is fill_up else document(*masks)
    for i in ids:
        writer.add(i, labels if i == ids[0] else document(SMALL), None, 0.1)
    writer.save()
    assert four.values("found_status.state") == ["error", "ok", "ok", "ok"]
    assert text in writer.refused[ids[0]] == four.first()["found_status"]["error"]
    assert ntt.undo_run(four, "run") == 3


def test_a_sample_deleted_meanwhile_costs_nothing(four):
    ids = four.values("id")
    writer = writer_of(four)
    for i in ids:
        writer.add(i, document(SMALL), None, 0.1)
    four.delete_samples(ids[1])
    assert writer.unsaved == 4
    writer.save()
    assert writer.unsaved == 0
    assert four.values("found_status.state") == ["ok"] * 3


@pytest.mark.parametrize("key", ["../run", "a/b", "", "a.b", "x" * 101, "/etc"])
def test_no_run_key_leads_out_of_the_masks_folder(four, key):
    with pytest.raises(InputError, match="letters.*underscores"):
        masks_folder(four, key, 0)


@pytest.mark.parametrize("key", ["run", "läufe_" * 16])
def test_mask_folders_have_names_a_file_system_takes(four, tmp_path, key):
    folder = masks_folder(four, key, 3)
    folder.mkdir(parents=True)
    assert folder.parents[2] == tmp_path / "masks"


def test_a_worker_that_lost_its_lease_writes_nothing_more(four):
    allowed = 3  # what is replaced, twice; then the labels of the chunk

    def guard():
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise LeaseLostError("somebody else has these samples")

    four.set_values("found", [fo.Detections(detections=[fo.Detection(label="drawn")]) for _ in range(4)])
    writer = writer_of(four, overwrite=True, guard=guard)
    ids = four.values("id")
    for i in ids[:2]:
        writer.add(i, document(SMALL), None, 0.1)
    with pytest.raises(LeaseLostError):
        writer.save()
    assert four.count_values("found.detections.label") == {"cat": 2, "drawn": 2}
    assert four.values("found_status.state") == [None] * 4, "labels first"
    ntt.undo_run(four, "run")
    assert four.count_values("found.detections.label") == {"drawn": 4}


METHODS = ["find_one", "find", "aggregate", "bulk_write", "update_one", "update_many", "insert_one", "delete_many"]


class Outage:
    """Makes operations of pymongo fail as they do when a server goes: not done, or done and the answer lost."""

    def __init__(self, monkeypatch) -> None:
        self.lasts = False
        self.failures = 0
        self._random = random.Random(1)
        self.share = 0.0
        for name in METHODS:
            monkeypatch.setattr(Collection, name, self._failing(getattr(Collection, name)))

    def _failing(self, operation):
        def call(*arguments, **keywords):
            if self.lasts or self._random.random() < self.share:
                self.failures += 1
                if not self.lasts and self.failures % 2:
                    operation(*arguments, **keywords)
                raise AutoReconnect("connection closed")
            return operation(*arguments, **keywords)

        return call


@pytest.fixture
def outage(four, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(patience, "_LONGEST_WAIT", 0.05)
    outage = Outage(monkeypatch)
    yield outage
    outage.lasts, outage.share = False, 0.0


def drawn_before(dataset):
    """Labels of a person on all samples; one of them is accepted."""
    dataset.set_values("found", [fo.Detections(detections=[fo.Detection(label="drawn")]) for _ in range(4)])
    sample = dataset.first()
    sample.found.detections[0].tags = ["ntt:accepted"]
    sample.save()


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_an_unsteady_database_loses_and_doubles_nothing(four, outage, share):
    drawn_before(four)
    before, ids = four.values("found", _raw=True), four.values("id")
    writer = writer_of(four, overwrite=True)
    outage.share = share
    for i in ids:
        writer.add(i, document(SMALL, SMALL), None, 0.1)
    writer.save()
    outage.share = 0.0
    assert outage.failures > 3
    assert four.values("found.detections.label") == [["cat", "cat", "drawn"], *[["cat", "cat"]] * 3]
    ntt.undo_run(four, "run")
    assert four.values("found", _raw=True) == before


def test_database_gone_for_good_leaves_the_chunk_to_be_saved(four, outage, monkeypatch):
    drawn_before(four)
    before, ids = four.values("found", _raw=True), four.values("id")
    monkeypatch.setenv(patience.PATIENCE_VARIABLE, "0.1")
    writer = writer_of(four, overwrite=True)
    for i in ids:
        writer.add(i, document(SMALL), None, 0.1)
    outage.lasts = True
    with pytest.raises(DatabaseGoneError, match="0.1 seconds.*same run"):
        writer.save()
    with pytest.raises(DatabaseGoneError):
        ntt.undo_run(four, "run")
    outage.lasts = False
    assert writer.unsaved == 4
    writer.save()
    assert four.values("found.detections.label") == [["cat", "drawn"], *[["cat"]] * 3]
    ntt.undo_run(four, "run")
    assert four.values("found", _raw=True) == before


def test_only_a_lost_connection_is_tried_again():
    calls = []

    def broken():
        calls.append(1)
        raise ValueError("no such field")

    with pytest.raises(ValueError, match="no such field"):
        patiently(broken)
    assert len(calls) == 1


def test_patience_must_be_a_number(monkeypatch):
    monkeypatch.setenv(patience.PATIENCE_VARIABLE, "long")

    def gone():
        raise AutoReconnect("gone")

    with pytest.raises(InputError, match="'long'"):
        patiently(gone)


def test_a_database_that_saves_nothing_stops_the_run(four, monkeypatch):
    ids = four.values("id")
    writer = writer_of(four)
    for i in ids:
        writer.add(i, document(SMALL), None, 0.1)

    def full(*arguments, **keywords):
        raise ValueError("No space left on device")

    monkeypatch.setattr("fiftyone_ntt.runs.session.set_documents", full)
    with pytest.raises(NttError, match="No space left on device.*database"):
        writer.save()


def square(top, left, side=40, **attributes):
    """An instance as a run writes it: a square in an image of 100 x 200 pixels."""
    mask = PackedMask.from_crop(np.ones((side, side), bool), top, left)
    boxes, one = np.array([mask.extent], np.float32), np.array([0.9], np.float32)
    found = to_document(Instances(boxes, one, np.array([0]), one, (mask,), (100, 200)), ["cat"])["detections"][0]
    return {**found, **attributes}


def half(label):
    """A mask cut down to its upper half, as with an eraser."""
    smaller = fo.Detection.from_dict(label)
    smaller.mask[20:] = False
    return smaller.to_dict()


@pytest.mark.parametrize(
    ("old", "stays", "new", "written"),
    [
        (square(0, 0), False, square(0, 0), True),
        (square(0, 0, tags=["ntt:accepted"]), True, square(0, 0), False),
        (square(0, 0, tags=["ntt:accepted"]), True, square(0, 0, label="dog"), False),
        (square(0, 0, tags=["ntt:accepted"]), True, square(0, 30), True),
        (square(0, 0, tags=["ntt:accepted"]), True, square(0, 0, side=80), True),
        (square(0, 0, tags=["ntt:edited"]), True, square(5, 5), False),
        (square(0, 0, tags=["ntt:rejected"]), True, square(5, 5), False),
        (square(0, 0, tags=["ntt:rejected"]), True, square(5, 5, label="dog"), True),
        (square(0, 0, label="dog"), True, square(0, 0), False),
        (half(square(0, 0)), True, square(0, 0, side=20), True),
        (half(square(0, 0)), True, square(0, 0, side=30), False),
        (square(0, 0, label="dog", tags=["ntt:rejected"]), True, square(0, 0), True),
        (fo.Detection(label="cat", bounding_box=[0, 0, 0.2, 0.4]).to_dict(), True, square(0, 0), False),
        (
            fo.Detection(label="cat", bounding_box=[0, 0, 0.2, 0.4], tags=["ntt:accepted"]).to_dict(),
            True,
            square(0, 0),
            False,
        ),
    ],
)
def test_decisions_outlive_an_overwrite(four, old, stays, new, written):
    ids = four.values("id")
    writer_of(four)
    four.set_values("found", {ids[0]: fo.Detections.from_dict({"detections": [old]})}, key_field="id")
    before = four.first().found.detections[0].to_dict()
    writer = writer_of(four, overwrite=True)
    writer.add(ids[0], {**document(), "detections": [new]}, None, 0.1)
    writer.save()
    labels = {label.id: label.to_dict() for label in four.first().found.detections}
    assert (str(new["_id"]) in labels, str(old["_id"]) in labels) == (written, stays)
    assert not stays or labels[str(old["_id"])] == before
