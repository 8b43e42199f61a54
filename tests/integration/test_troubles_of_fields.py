"""What is noted about runs follows the labels: fields that were deleted, renamed, cleared.

Small random models, a real database, and FiftyOne's own tools in a person's hands.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.app import PanelSession, form, run
from support.field_troubles import TROUBLES
from support.labelled import IMAGES, KEY, PICTURES, fields_of_run, labels_of, set_to_none

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.review.decisions import last_decision

pytestmark = pytest.mark.pictures(**PICTURES)


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
# Public report: what FiftyOne keeps by a field's name did not follow it (voxel51/fiftyone#5594).


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


RENAMED = {
    # what somebody did before anyone looked at the runs on "found" and "fruit": where their labels are then
    "chain": ({"found": "old", "fruit": "found"}, {"found": "old", "fruit": "found"}),
    "swap": ({"found": "third", "fruit": "found", "third": "fruit"}, {"found": "fruit", "fruit": "found"}),
    "swap of labels and statuses": (
        {"found": "third", "found_status": "third_status", "fruit": "found", "fruit_status": "found_status",
         "third": "fruit", "third_status": "fruit_status"}, {"found": "fruit", "fruit": "found"}),
    "a copy takes the name": ({"found": "old", "truth": "found"}, {"found": "old", "fruit": "fruit"}),
}  # fmt: skip


@pytest.mark.parametrize("what", RENAMED)
def test_fields_of_two_runs_change_names(named, other_bank, preset, what):
    dataset, _ = named
    fields = {*dataset.get_field_schema()} - {*fields_of_run(dataset)}
    ntt.segment(dataset, other_bank, "fruit", preset=preset)
    ntt.accept_labels(dataset, "found")
    for field in ("found", "fruit"):
        ntt.fit_thresholds(dataset, f"ntt_{field}")
        ntt.judge_presence(dataset, field)
    before, last = _runs(dataset), last_decision(dataset, "found")
    steps, names = RENAMED[what]
    for old, new in steps.items():
        dataset.rename_sample_field(old, new)
    after = _runs(dataset)
    assert {key: name for key, (name, *_) in after.items()} == {f"ntt_{old}": new for old, new in names.items()}
    assert {key: what for key, (_, *what) in after.items()} == {key: what for key, (_, *what) in before.items()}
    assert not [name for name in dataset.get_field_schema() if "waiting" in name]
    assert replace(last, label_field=names["found"]) == last_decision(dataset, names["found"])
    for key, (name, *_) in after.items():
        labels = dataset.count(f"{name}.detections")
        assert ntt.undo_run(dataset, key, keep_edited=False) == labels
    assert ntt.list_runs(dataset) == []
    assert {*dataset.get_field_schema()} == {steps.get(name, name) for name in fields}


def _runs(dataset):
    """Key of each run -> its field, and what lies in that and beside it."""
    facts = {}
    for listed in ntt.list_runs(dataset):
        name = listed["label_field"]
        keys = dataset.distinct(f"{name}_status.run_key")
        presence = dataset.values([f"{name}_{which}.classifications.confidence" for which in ("present", "absent")])
        facts[listed["run_key"]] = name, listed["state"], listed["counts"], labels_of(dataset, name), keys, presence
    return facts


def test_a_run_below_another_follows_the_field(labelled, other_bank, preset):
    dataset, expected = labelled
    ntt.segment(dataset, other_bank, "found", run_key="another", preset=preset, overwrite=True)
    dataset.rename_sample_field("found", "fruit")
    assert {run["label_field"] for run in ntt.list_runs(dataset)} == {"fruit"}
    with pytest.raises(InputError, match="undo 'another' first"):
        ntt.undo_run(dataset, KEY)
    ntt.undo_run(dataset, "another")
    assert labels_of(dataset, "fruit") == expected
    ntt.undo_run(dataset, KEY)
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


# voxel51/fiftyone#1167: cloning failed where a field of a run was left out
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
