"""Two runs on a field, and processes that loaded the dataset before."""

from __future__ import annotations

import threading
import time

import pytest
from support.labelled import IMAGES, KEY, PICTURES, all_labels, fields_of_run, labels_of

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import refresh
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.runs import undo
from fiftyone_ntt.runs.workers import live_workers

pytestmark = pytest.mark.pictures(**PICTURES)


# cvat-ai/cvat#191, cloud-annotations/cloud-annotations#55: of two that work on the same, one loses what it did
@pytest.mark.parametrize("key", [KEY, "another"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_field_that_is_being_written_is_refused(pictures, bank, other_bank, preset, loaded, key, overwrite):
    elsewhere, refused = loaded(pictures), []

    def progress(done, total, message):
        if done == 1:
            with pytest.raises(InputError, match=f"run {KEY!r} of .* is writing to field 'found' right now"):
                ntt.segment(elsewhere, other_bank, "found", run_key=key, overwrite=overwrite, preset=preset)
            refused.append(done)

    report = ntt.segment(pictures, bank, "found", preset=preset, progress=progress)
    assert refused == [1] and report.labelled == IMAGES
    assert pictures.distinct("found.detections.label") == ["disc"], "the other bank knows squares only"
    (listed,) = ntt.list_runs(pictures)
    assert (listed["run_key"], listed["state"], listed["bank_hash"]) == (KEY, "completed", bank.content_hash)


# voxel51/fiftyone#3185: two processes that add fields at once
def test_of_two_runs_that_start_together_one_writes(pictures, bank, other_bank, preset, loaded):
    banks = {"first": bank, "second": other_bank}
    copies = {key: loaded(pictures) for key in banks}
    for _ in range(3):
        outcomes, start = {}, threading.Barrier(2)

        def work(key, start=start, outcomes=outcomes):
            start.wait()
            try:
                outcomes[key] = ntt.segment(copies[key], banks[key], "found", run_key=key, preset=preset)
            except InputError as refusal:
                outcomes[key] = refusal

        threads = [threading.Thread(target=work, args=[key]) for key in banks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [key for key, outcome in outcomes.items() if not isinstance(outcome, InputError)]
        (error,) = [outcome for outcome in outcomes.values() if isinstance(outcome, InputError)]
        assert "run " + repr(winner) in str(error), "whose field it is"
        (listed,) = ntt.list_runs(pictures)
        assert listed["run_key"] == winner and outcomes[winner].labelled == IMAGES
        assert set(pictures.exists("found_status").distinct("found_status.run_key")) == {winner}
        assert pictures.distinct("found.detections.label") == ["disc" if winner == "first" else "square"]
        ntt.undo_run(pictures, winner)


# voxel51/fiftyone#986: a process does not see what another added
def test_a_process_that_knows_of_no_run_replaces_nothing(pictures, bank, other_bank, preset, loaded):
    elsewhere = loaded(pictures)
    ntt.segment(pictures, bank, "found", preset=preset)
    expected = labels_of(pictures, "found")
    for key in (None, "another"):
        with pytest.raises(InputError, match="field 'found' was written by run 'ntt_found'"):
            ntt.segment(elsewhere, other_bank, "found", run_key=key, preset=preset)
    assert labels_of(pictures, "found") == expected
    ntt.segment(elsewhere, other_bank, "found", run_key="another", preset=preset, overwrite=True)
    ntt.undo_run(pictures, "another")
    assert labels_of(pictures, "found") == expected, "what it replaced was kept"
    assert ntt.undo_run(elsewhere, KEY) and fields_of_run(loaded(pictures)) == []


def test_unsaved_changes_of_samples_outlive_a_refresh(pictures, bank, preset, loaded):
    elsewhere = loaded(pictures)
    sample = elsewhere.first()
    sample["truth"].detections[0].label = "typed and not saved yet"
    ntt.segment(pictures, bank, "found", preset=preset)
    assert [listed["run_key"] for listed in ntt.list_runs(elsewhere)] == [KEY]
    assert sample["truth"].detections[0].label == "typed and not saved yet"
    sample.save()
    assert "typed and not saved yet" in pictures.distinct("truth.detections.label")
    assert not refresh(elsewhere) and not refresh(pictures), "there is nothing new"


# cvat-ai/cvat#7099, voxel51/fiftyone#1832: a class or a field changes while somebody works with it
@pytest.mark.parametrize("act", [
    lambda dataset: dataset.delete_sample_field("found"),
    lambda dataset: dataset.rename_sample_field("found", "fruit"),
])  # fmt: skip
def test_a_field_that_goes_meanwhile_ends_the_run(pictures, bank, preset, monkeypatch, loaded, act):
    monkeypatch.setattr("fiftyone_ntt.runs.session._LARGEST_CHUNK", 1)
    elsewhere = loaded(pictures)

    def progress(done, total, message):
        if done == 1:
            elsewhere.reload()
            act(elsewhere)

    with pytest.raises(InputError, match="deleted or renamed while run 'ntt_found'"):
        ntt.segment(pictures, bank, "found", preset=preset, progress=progress)
    (listed,) = ntt.list_runs(pictures)
    assert listed["state"] == "failed"
    field = listed["label_field"]
    assert ntt.segment(pictures, bank, field, run_key=KEY, preset=preset).done == IMAGES - (field == "fruit")


# Undoing is writing too
# Public report: apache/hudi#18089, a rollback went ahead while what it takes back was still being written.


def learned(dataset, bank, preset):
    ntt.accept_labels(dataset, "found", label_ids=[all_labels(dataset)[0].id])
    ntt.learn(dataset, "found", preset=preset, apply=True)


LAYERS = {"labelling": lambda *arguments: None, "learning": learned}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("key", [KEY, "another"])
def test_undo_is_refused_while_its_field_is_written(labelled, bank, other_bank, preset, loaded, layer, key):
    dataset, _ = labelled
    LAYERS[layer](dataset, bank, preset)
    elsewhere, refused = loaded(dataset), []
    said = f"run {KEY!r} is at work" if key == KEY else "run 'another' of .* is writing to field 'found' right now"

    def progress(done, total, message):
        if done == 1:
            with pytest.raises(InputError, match=said):
                ntt.undo_run(elsewhere, KEY)
            refused.append(done)

    arguments = {"run_key": key, "overwrite": True, "preset": preset}
    assert ntt.segment(dataset, other_bank, "found", progress=progress, **arguments).done == IMAGES and refused == [1]
    assert [run["state"] for run in ntt.list_runs(dataset)] == ["completed"] * (1 if key == KEY else 2)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("key", [KEY, "another"])
def test_a_run_that_begins_meanwhile_waits_for_undo(labelled, bank, preset, loaded, monkeypatch, layer, key):
    dataset, _ = labelled
    LAYERS[layer](dataset, bank, preset)
    elsewhere, reports, real = loaded(dataset), [], undo._set

    def work():
        reports.append(ntt.segment(elsewhere, bank, "found", run_key=key, overwrite=True, preset=preset))

    thread = threading.Thread(target=work)

    def meanwhile(*arguments):
        if thread.ident is None:
            thread.start()
            while not live_workers(dataset, key):  # it has come as far as the field's lock
                time.sleep(0.01)
        assert not reports
        return real(*arguments)

    monkeypatch.setattr(undo, "_set", meanwhile)
    ntt.undo_run(dataset, KEY)
    thread.join()
    assert [report.labelled for report in reports] == [IMAGES]
    listed = {run["run_key"]: run["state"] for run in ntt.list_runs(dataset)}
    assert listed == dict.fromkeys({key, *([KEY] if layer == "learning" else [])}, "completed")
    assert set(dataset.exists("found_status").distinct("found_status.run_key")) == {key}
    assert len(dataset.exists("found")) == IMAGES


# open-mercato/open-mercato#2729: two that undo the same both passed the check, and both did it
def test_of_two_that_undo_a_run_one_does(labelled, loaded):
    dataset, expected = labelled
    copies, outcomes, start = [loaded(dataset), loaded(dataset)], [], threading.Barrier(2)

    def work(copy):
        start.wait()
        try:
            outcomes.append(ntt.undo_run(copy, KEY))
        except InputError as refusal:
            outcomes.append(str(refusal))

    threads = [threading.Thread(target=work, args=[copy]) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    removed, refusal = sorted(outcomes, key=str)
    assert removed == sum(len(labels or ()) for labels in expected.values()) and "no labelling run" in refusal
    assert fields_of_run(loaded(dataset)) == []
