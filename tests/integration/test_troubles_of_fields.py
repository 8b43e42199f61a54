"""What is noted about runs follows the labels: fields that were deleted, renamed, cleared.

Small random models, a real database, and FiftyOne's own tools in a person's hands.
"""

from __future__ import annotations

import fiftyone as fo
import pytest
from support.app import PanelSession, form, run
from support.labelled import IMAGES, KEY, PICTURES, fields_of_run, labels_of, second, set_to_none

import fiftyone_ntt as ntt

pytestmark = pytest.mark.pictures(**PICTURES)


def deleted_and_added(dataset, *fields):
    sample = second(dataset)
    copy = fo.Sample(sample.filepath, **{name: sample[name].copy() for name in ("truth", *fields)})
    dataset.delete_samples([sample.id])
    dataset.add_sample(copy)


def delete_first_label(dataset):
    dataset.delete_labels(ids=[second(dataset).found.detections[0].id], fields="found")


def delete_all_labels(dataset):
    dataset.delete_labels(ids=[label.id for label in second(dataset).found.detections], fields="found")


def then_without_statuses(act):
    def both(dataset):
        act(dataset)
        dataset.delete_sample_field("found_status")

    return both


def delete_both(dataset):
    dataset.delete_sample_fields(["found", "found_status"])


def make_again(dataset):
    dataset.delete_sample_field("found")
    dataset.add_sample_field("found", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)


def rename_both(dataset):
    dataset.rename_sample_fields({"found": "fruit", "found_status": "fruit_status"})


def copy_and_delete(dataset):
    dataset.clone_sample_field("found", "fruit")
    dataset.delete_sample_field("found")


TROUBLES = {
    # what happened: (act, name of the field now, images done again, whether a person deleted something)
    "nothing": (lambda dataset: None, "found", 0, False),
    "label field deleted": (lambda dataset: dataset.delete_sample_field("found"), "found", 3, False),
    "labels and statuses deleted": (delete_both, "found", 3, False),
    "label field deleted and made again": (make_again, "found", 3, False),
    "labels cleared": (lambda dataset: dataset.clear_sample_field("found"), "found", 3, False),
    "labels of an image set to None": (set_to_none, "found", 1, False),
    "statuses deleted": (lambda dataset: dataset.delete_sample_field("found_status"), "found", 0, False),
    "statuses renamed": (lambda dataset: dataset.rename_sample_field("found_status", "notes"), "found", 0, False),
    "statuses cleared": (lambda dataset: dataset.clear_sample_field("found_status"), "found", 3, False),
    "image deleted and added": (deleted_and_added, "found", 1, False),
    "image added with all": (lambda dataset: deleted_and_added(dataset, "found", "found_status"), "found", 0, False),
    "image added with its status": (lambda dataset: deleted_and_added(dataset, "found_status"), "found", 1, False),
    "label field renamed": (lambda dataset: dataset.rename_sample_field("found", "fruit"), "fruit", 0, False),
    "both fields renamed": (rename_both, "fruit", 0, False),
    "copied under a name, then deleted": (copy_and_delete, "fruit", 0, False),
    "a label deleted": (delete_first_label, "found", 0, True),
    "all labels of an image deleted": (delete_all_labels, "found", 0, True),
    "a label, then the statuses deleted": (then_without_statuses(delete_first_label), "found", 0, True),
    "all of an image, then the statuses": (then_without_statuses(delete_all_labels), "found", 0, True),
}  # fmt: skip


@pytest.mark.parametrize("what", TROUBLES)
def test_the_same_call_writes_what_is_missing(labelled, bank, preset, what):
    dataset, expected = labelled
    act, field, again, is_decision = TROUBLES[what]
    act(dataset)
    before = labels_of(dataset, field)
    report = ntt.segment(dataset, bank, field, run_key=KEY, preset=preset)
    assert (report.done, report.resumed) == (again, IMAGES - again)
    assert labels_of(dataset, field) == (before if is_decision else expected)
    (listed,) = ntt.list_runs(dataset)
    assert (listed["state"], listed["note"], listed["counts"]["left"]) == ("completed", None, 0)
    assert (listed["label_field"], sum(listed["counts"].values())) == (field, IMAGES)
    ntt.undo_run(dataset, KEY)
    assert fields_of_run(dataset) == [] and ntt.list_runs(dataset) == []


WHOLE = ["label field deleted", "labels cleared", "statuses renamed", "label field renamed", "a label deleted"]


@pytest.mark.parametrize("what", WHOLE)
def test_overwriting_writes_everything(labelled, bank, preset, what):
    dataset, expected = labelled
    act, field, _, _ = TROUBLES[what]
    act(dataset)
    report = ntt.segment(dataset, bank, field, run_key=KEY, preset=preset, overwrite=True)
    assert (report.done, report.resumed) == (IMAGES, 0)
    assert labels_of(dataset, field) == expected
    while ntt.list_runs(dataset):
        ntt.undo_run(dataset, KEY)
    assert fields_of_run(dataset) == []


@pytest.mark.parametrize("what", [*WHOLE, "labels and statuses deleted", "copied under a name, then deleted"])
def test_undo_leaves_nothing_and_the_app_goes_on(named, what):
    dataset, bank_name = named
    act, field, _, _ = TROUBLES[what]
    act(dataset)
    ntt.undo_run(dataset, KEY)
    assert fields_of_run(dataset) == [] and ntt.list_runs(dataset) == []
    form("segment", dataset, {"bank": bank_name, "label_field": "found"})
    result, _ = run("segment", dataset, {"bank": bank_name, "label_field": "found"})
    assert (result["labelled"], result["resumed"], result["run_key"]) == (IMAGES, 0, KEY)


# A run whose field has another name


def test_everything_about_a_run_goes_by_the_new_name(named, bank, preset):
    dataset, bank_name = named
    ntt.accept_labels(dataset, "found", classes=["square"])
    ntt.reject_labels(dataset, "found", classes=["disc"])
    fitted = ntt.fit_thresholds(dataset, KEY)
    dataset.rename_sample_field("found", "fruit")
    assert ntt.load_thresholds(dataset, KEY).label_field == "fruit"
    assert fields_of_run(dataset) == ["fruit", "fruit_status", "fruit_present", "fruit_absent"]
    assert ntt.fit_thresholds(dataset, KEY).overall == fitted.overall
    assert ntt.judge_presence(dataset, "fruit").images == IMAGES
    assert ntt.resume_run(dataset, KEY).resumed == IMAGES
    assert run("learn", dataset, {"label_field": "fruit"})[0]["summary"]
    assert form("fit_thresholds", dataset, {"run_key": KEY})[1] == {}
    for tab in ("runs", "review", "evaluate"):
        assert "fruit" in PanelSession(dataset, tab).drawn + str(PanelSession(dataset, tab).state)
    fresh = ntt.segment(dataset, bank, "found", preset=preset)
    assert (fresh.run_key, fresh.labelled) == ("ntt_found_2", IMAGES), "the old name is free for another run"
    assert ntt.segment(dataset, bank, "found", preset=preset).resumed == IMAGES
    ntt.undo_run(dataset, fresh.run_key)
    ntt.learn(dataset, "fruit", apply=True)
    ntt.undo_run(dataset, KEY)
    ntt.undo_run(dataset, KEY, keep_edited=False)
    assert fields_of_run(dataset) == [] and ntt.list_runs(dataset) == []


def test_what_was_replaced_comes_back_without_the_field(labelled, other_bank, preset):
    dataset, expected = labelled
    ntt.segment(dataset, other_bank, "found", run_key="another", preset=preset, overwrite=True)
    dataset.delete_sample_field("found")
    ntt.undo_run(dataset, "another")
    assert labels_of(dataset, "found") == expected
    (listed,) = ntt.list_runs(dataset)
    assert (listed["run_key"], listed["state"], listed["note"]) == (KEY, "completed", None)
    ntt.undo_run(dataset, KEY)
    assert fields_of_run(dataset) == []


def test_a_run_on_a_copy_of_its_dataset(labelled, bank, preset):
    dataset, expected = labelled
    copy = dataset.clone(persistent=True)
    try:
        set_to_none(copy)
        (listed,) = ntt.list_runs(copy)
        assert (listed["state"], listed["counts"]["left"]) == ("interrupted", 1)
        report = ntt.segment(copy, bank, "found", preset=preset)
        assert (report.done, report.resumed) == (1, IMAGES - 1) and labels_of(copy, "found") == expected
        ntt.undo_run(copy, KEY)
        assert fields_of_run(copy) == [] and ntt.list_runs(copy) == []
        assert labels_of(dataset, "found") == expected
    finally:
        copy.delete()


def test_runs_say_what_became_of_their_labels(labelled):
    dataset, _ = labelled
    set_to_none(dataset)
    (listed,) = ntt.list_runs(dataset)
    assert (listed["state"], listed["counts"]["left"], listed["counts"]["ok"]) == ("interrupted", 1, IMAGES - 1)
    assert listed["note"].startswith("1 image has lost its labels")
    dataset.delete_sample_field("found")
    (listed,) = ntt.list_runs(dataset)
    assert (listed["state"], listed["counts"]["left"], listed["counts"]["ok"]) == ("interrupted", IMAGES, 0)
    assert listed["note"].startswith("field 'found' was deleted")
    assert "was deleted" in PanelSession(dataset, "runs").texts
