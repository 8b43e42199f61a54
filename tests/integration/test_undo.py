"""What a run wrote goes, what it replaced comes back, what people decided stays; with real documents in MongoDB."""

from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId

import fiftyone_ntt as ntt
from fiftyone_ntt.core import Instances
from fiftyone_ntt.dataset.labels import to_document
from fiftyone_ntt.dataset.storage import store
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.review.decisions import last_decision, undo_last_decision
from fiftyone_ntt.runs import undo
from fiftyone_ntt.runs.history import begin_pass, last_pass
from fiftyone_ntt.runs.mending import DECIDED_STORE
from fiftyone_ntt.runs.record import RunRecord, register
from fiftyone_ntt.runs.session import LabelWriter


def detection(name, left=0, **attributes):
    mask = np.ones((4, 5), bool)
    return fo.Detection(label=name, bounding_box=[left, 0, 0.5, 0.5], mask=mask, **attributes)


ONE = Instances(
    np.array([[0, 0, 5, 4]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), np.ones(1, np.float32),
    (PackedMask.from_crop(np.ones((4, 5), bool), 0, 0),), (8, 10),
)  # fmt: skip


def run(targets, key, name="cat", overwrite=False, field="found", samples=None):
    """One call of ``segment``, as far as the database is concerned: every sample gets a label, the last one none."""
    record = RunRecord(key, field, [name], "lite", "0" * 64, {"model.v1": "1"}, {}, 4)
    begin_pass(targets, record, overwrite)
    dataset = targets._dataset
    if not dataset.has_run(key) or overwrite:
        register(dataset, record)
        dataset.save_run_results(key, dataset.init_run_results(key, bank=f"a bank of {name}s"))
    writer = LabelWriter(targets._dataset, field, key)
    ids = targets.values("id")
    for i, sample_id in enumerate(ids[:samples]):
        found = [detection(name, predicted_iou=0.9, confidence=0.5)] if i + 1 < len(ids) else []
        writer.add(sample_id, fo.Detections(detections=found).to_dict(), None, 0.1)
    writer.save()


def contents(dataset):
    """Everything that a run may touch, except when."""
    fields = [name for name in dataset.get_field_schema(flat=True) if not name.endswith("last_modified_at")]
    info = {name: dataset.get_field(name).info for name in dataset.get_field_schema()}
    top = [name for name in dataset.get_field_schema() if name.startswith(("found", "truth"))]
    values = {name: dataset.values(name, _raw=True) for name in top}
    runs = [{key: value for key, value in one.items() if key != "states"} for one in ntt.list_runs(dataset)]
    banks = [dataset.load_run_results(one["run_key"], cache=False).bank for one in runs]
    stores = fo.core.odm.get_db_conn().execution_store.distinct(
        "store_name", {"dataset_id": dataset._doc.id, "store_name": {"$regex": "^ntt_replaced"}}
    )
    return sorted(fields), info, values, runs, banks, sorted(stores)


@pytest.fixture
def five(dataset):
    dataset.add_samples([fo.Sample(f"/picture-{i}.png") for i in range(5)])
    return dataset


def a_persons_labels(dataset):
    for i, sample in enumerate(dataset.limit(4)):
        labels = [detection("drawn"), detection("checked", 0.5, tags=["ntt:accepted"])][: i + 1]
        sample["found"] = fo.Detections(detections=labels)
        sample.save()


BEFORE = {
    "nothing": lambda dataset: None,
    "an empty field": lambda dataset: dataset.add_sample_field(
        "found", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections
    ),
    "a person's labels": a_persons_labels,
    "another run": lambda dataset: run(dataset, "first", "dog"),
    "another run on some": lambda dataset: run(dataset.skip(2), "first", "dog"),
    "an interrupted run": lambda dataset: run(dataset, "first", "dog", samples=2),
    "the same key": lambda dataset: run(dataset, "again", "dog"),
    "the same key on more": lambda dataset: run(dataset, "again", "dog"),
}


@pytest.mark.parametrize("before", BEFORE)
def test_undo_gives_back_what_was_there(five, before):
    BEFORE[before](five)
    expected = contents(five)
    targets = five.limit(3) if before.endswith("more") else five
    run(targets, "again", overwrite=before not in ("nothing", "an empty field"))
    assert contents(five) != expected
    assert five.count_values("found.detections.label")["cat"] == (2 if before.endswith("more") else 4)
    assert ntt.undo_run(five, "again") == (2 if before.endswith("more") else 4)
    assert contents(five) == expected


def test_passes_of_one_run_are_undone_one_by_one(five):
    states = [contents(five)]
    for name in ("dog", "cat", "cow"):
        run(five, "again", name, overwrite=True)
        states.append(contents(five))
    for state in reversed(states[:-1]):
        ntt.undo_run(five, "again")
        assert contents(five) == state


def test_what_cannot_be_read_of_one_sample_costs_that_one(five):
    """Its labels stay, and so does the run, so that it can be tried again; all others are as before."""
    a_persons_labels(five)
    run(five, "again", overwrite=True)
    one, this = five.skip(1).first().id, last_pass(five, "again")
    (part,) = (key for key in this._store.list_keys() if f"sample:{one}:" in key)
    torn = this._store.get(part)
    this._store.set(part, torn[:9])
    with pytest.raises(NttError, match=f"undone but for 1 sample .*sample {one}: what was replaced .* cannot be read"):
        ntt.undo_run(five, "again")
    labels = {sample.id: [label.label for label in sample.found.detections] for sample in five.limit(3)}
    assert labels.pop(one) == ["cat", "checked"]
    assert sorted(labels.values()) == [["drawn"], ["drawn", "checked"]]
    this._store.set(part, torn)
    ntt.undo_run(five, "again")
    assert [label.label for label in five[one].found.detections] == ["drawn", "checked"]


def decide(dataset, tag):
    sample = dataset.first()
    label = sample.found.detections[0]
    label.tags, label.label = [tag], "corrected"
    sample.found.detections.append(detection("drawn since"))
    sample.save()


@pytest.mark.parametrize("tag", ["ntt:accepted", "ntt:edited"])
@pytest.mark.parametrize("keep_edited", [True, False])
@pytest.mark.parametrize("overwritten", [True, False])
def test_what_a_person_decided_stays_unless_told_otherwise(five, tag, keep_edited, overwritten):
    if overwritten:
        run(five, "first", "dog")
    run(five, "again", overwrite=overwritten)
    decide(five, tag)
    assert ntt.undo_run(five, "again", keep_edited=keep_edited) == 4 - keep_edited
    labels = five.first().found.detections
    expected = ["dog"] * overwritten + ["corrected"] * keep_edited + ["drawn since"]
    assert [label.label for label in labels] == expected
    assert five.has_field("found_status") == overwritten


def test_accepted_label_keeps_later_changes_through_undo(five):
    run(five, "first", "dog")
    decide(five, "ntt:accepted")
    kept = five.first().found.detections[0].id
    run(five, "again", overwrite=True)
    sample = five.first()
    next(label for label in sample.found.detections if label.id == kept).label = "corrected again"
    sample.save()
    ntt.undo_run(five, "again")
    labels = {label.id: label.label for label in five.first().found.detections}
    assert labels[kept] == "corrected again"
    assert sorted(labels.values()) == ["corrected again", "drawn since"]


def relabelled(sample, label):
    """What a person does in the App: no tag says so."""
    found = to_document(ONE, ["cat"])["detections"][0]
    label.label, label["written"] = "corrected", found["written"]


def rejected(sample, label):
    label.tags = ["ntt:rejected"]


def rejected_after_all(sample, label):
    relabelled(sample, label)
    rejected(sample, label)


@pytest.mark.parametrize(("act", "stays"), [(relabelled, True), (rejected, False), (rejected_after_all, False)])
@pytest.mark.parametrize("keep_edited", [True, False])
def test_undo_keeps_edited_labels_and_removes_rejected_ones(five, act, stays, keep_edited):
    run(five, "again")
    sample = five.first()
    act(sample, sample.found.detections[0])
    sample.save()
    stays = stays and keep_edited
    assert ntt.undo_run(five, "again", keep_edited=keep_edited) == 4 - stays
    assert five.has_field("found") == stays
    assert not stays or five.values("found.detections.label", unwind=True) == ["corrected"]


def test_rejection_survives_one_undo_but_not_the_next(five):
    run(five, "first", "dog")
    sample = five.first()
    rejected(sample, sample.found.detections[0])
    sample.save()
    for _ in range(2):
        run(five, "first", "cat", overwrite=True)
    sample = five.first()
    assert sorted(label.label for label in sample.found.detections) == ["cat", "dog"]
    next(label for label in sample.found.detections if label.label == "dog").tags = ["ntt:rejected", "seen"]
    sample.save()
    for _ in range(2):
        ntt.undo_run(five, "first")
    assert [(label.label, label.tags) for label in five.first().found.detections] == [("dog", ["ntt:rejected", "seen"])]
    ntt.undo_run(five, "first")
    assert not five.has_field("found")


def test_labels_drawn_while_a_run_is_under_way_stay(five):
    run(five, "again", samples=2)
    sample = five.skip(3).first()
    sample["found"] = fo.Detections(detections=[detection("drawn")])
    sample.save()
    run(five, "again")
    assert five.count_values("found.detections.label") == {"cat": 4, "drawn": 1}
    ntt.undo_run(five, "again")
    assert five.values("found.detections.label", unwind=True) == ["drawn"]


def test_labels_of_a_worker_killed_before_the_statuses_go_too(five):
    run(five, "again")
    five.limit(2).clear_sample_field("found_status")
    ntt.undo_run(five, "again")
    assert not five.has_field("found")


STEPS = ["_restore_samples", "_restore_provenance", "_remove_fields", "remove_masks"]


@pytest.mark.parametrize("step", [*STEPS, "second chunk", "before the record goes"])
@pytest.mark.parametrize("key", ["first", "again"])
def test_an_interrupted_undo_can_be_called_again(five, monkeypatch, step, key):
    run(five, key, "dog")
    expected = contents(five)
    run(five, "again", overwrite=True)

    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(undo, "_CHUNK", 2)
        if step in STEPS:
            patch.setattr(undo, step, interrupt)
        elif step == "second chunk":
            calls, real = [], undo._set
            patch.setattr(undo, "_set", lambda *a: interrupt() if calls.append(a) or len(calls) > 3 else real(*a))
        else:
            patch.setattr(undo.Pass, "delete", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ntt.undo_run(five, "again")
    ntt.undo_run(five, "again")
    assert contents(five) == expected


def test_the_last_run_on_a_field_goes_first(five):
    run(five, "first", "dog")
    run(five, "second", overwrite=True)
    with pytest.raises(InputError, match="'second'.*'first'"):
        ntt.undo_run(five, "first")
    ntt.undo_run(five, "second")
    ntt.undo_run(five, "first")
    assert not five.has_field("found")


def test_other_fields_and_runs_are_left_alone(five):
    run(five, "first", "dog", field="truth")
    expected = contents(five)
    run(five, "again")
    ntt.undo_run(five, "again")
    assert contents(five) == expected


def test_mask_files_go_with_their_run_and_stay_with_their_label(five, tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_NTT_MASKS", str(tmp_path / "masks"))
    monkeypatch.setattr("fiftyone_ntt.runs.session.COMFORTABLE_DOCUMENT", 0)
    run(five, "again")
    paths = [Path(path) for path in five.values("found.detections.mask_path", unwind=True)]
    assert len(paths) == 4
    assert all(path.is_relative_to(tmp_path / "masks") and path.is_file() for path in paths)
    run(five, "again", overwrite=True)
    assert all(path.is_file() for path in paths), "they come back with their labels"
    ntt.undo_run(five, "again")
    assert [Path(path) for path in five.values("found.detections.mask_path", unwind=True)] == paths
    decide(five, "ntt:accepted")
    ntt.undo_run(five, "again")
    assert five.first().found.detections[0].get_mask().any()
    assert [path for path in (tmp_path / "masks").rglob("*") if path.is_file()] == paths[:1]


def test_what_was_replaced_goes_with_the_dataset(five):
    run(five, "first", "dog")
    run(five, "second", overwrite=True)
    found = {"dataset_id": ObjectId(five._doc.id)}
    stores = fo.core.odm.get_db_conn().execution_store
    assert stores.count_documents(found) > 0
    five.delete()
    assert stores.count_documents(found) == 0


def test_the_last_decision_goes_with_its_labels(five):
    """Otherwise the panel offers to take back what was decided on labels that are no longer there."""
    a_persons_labels(five)
    run(five, "again", overwrite=True)
    assert ntt.reject_labels(five, "found", below=0.5) == 4
    assert str(last_decision(five, "found")) == "4 labels rejected"
    ntt.undo_run(five, "again")
    assert last_decision(five, "found") is None and undo_last_decision(five, "found") == 0
    assert store(five, DECIDED_STORE).list_keys() == []


def test_the_last_decision_follows_a_renamed_field(five):
    run(five, "again")
    ntt.reject_labels(five, "found")
    five.rename_sample_field("found", "other")
    ntt.list_runs(five)
    assert last_decision(five, "found") is None and undo_last_decision(five, "other") == 4
