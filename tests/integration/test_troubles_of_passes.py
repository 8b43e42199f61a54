"""Passes that replace labels: on part of a run's images, in views that change on the way, one over the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import fiftyone as fo
import pytest
from fiftyone import ViewField as F
from support.labelled import IMAGES, KEY, PICTURES, all_labels

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.references import banks
from fiftyone_ntt.references.banks import save_bank
from fiftyone_ntt.runs import restored, session
from fiftyone_ntt.runs.control import StoredRun
from fiftyone_ntt.runs.history import Pass
from fiftyone_ntt.runs.mending import default_run_key
from fiftyone_ntt.runs.states import state_of

pytestmark = pytest.mark.pictures(**PICTURES)


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    """One thread reads the images, so that a run which is stopped has not come to the last of them."""
    monkeypatch.setattr(source, "stream", partial(source.stream, readers=1))


def classes_of(dataset, field="found"):
    """The classes of the labels of each target."""
    return [sorted({label.label for label in sample[field].detections}) for sample in targets_of(dataset)]


def targets_of(dataset):
    return dataset.match_tags("ntt:reference", bool=False)


@pytest.fixture
def written(pictures, bank, preset):
    """The pictures with labels of ``bank``, which are discs."""
    ntt.segment(pictures, bank, "found", preset=preset)
    return pictures


# voxel51/fiftyone-brain#164: the next call on another part deleted what was there of the first
def test_part_of_a_run_labelled_otherwise_leaves_the_rest_undone(written, other_bank, preset):
    part = targets_of(written).limit(1)
    ntt.segment(part, other_bank, "found", preset=preset, overwrite=True)
    assert classes_of(written) == [["square"], ["disc"], ["disc"]]
    (listed,) = ntt.list_runs(written)
    assert (listed["state"], listed["counts"]["left"]) == ("interrupted", IMAGES - 1)
    assert set(StoredRun.load(written, KEY).targets.values("id")) >= set(targets_of(written).values("id"))
    report = ntt.segment(written, other_bank, "found", preset=preset)
    assert (report.done, report.resumed) == (IMAGES - 1, 1)
    assert classes_of(written) == [["square"]] * IMAGES
    ntt.undo_run(written, KEY)
    assert classes_of(written) == [["disc"]] * IMAGES, "what both calls replaced comes back"


def test_the_same_settings_again_leave_the_rest_done(written, bank, preset):
    report = ntt.segment(targets_of(written).limit(1), bank, "found", preset=preset, overwrite=True)
    assert report.done == 1
    (listed,) = ntt.list_runs(written)
    assert (listed["state"], listed["counts"]["left"]) == ("completed", 0)


# RUC-NLPIR/FlashRAG#248: items are skipped, as what is gone through changes on the way
@pytest.mark.parametrize(
    "condition",
    [
        F("found_status.state") == "ok",
        F("found_status.run_key") == KEY,
        F("found.detections").length() > 0,
        F("found_status").exists(),
    ],
)
def test_a_view_of_what_a_run_did_holds_while_it_is_done_again(written, other_bank, preset, condition):
    view = written.match(condition)
    count = len(view)
    report = ntt.segment(view, other_bank, "found", preset=preset, overwrite=True)
    assert report.done == count == IMAGES
    assert classes_of(written) == [["square"]] * IMAGES
    (listed,) = ntt.list_runs(written)
    assert (listed["state"], listed["counts"]["ok"]) == ("completed", IMAGES)


# runvendo/vendo#995: undoing an older change takes back the later one instead
def test_runs_that_wrote_over_each_other_are_undone_last_first(written, bank, other_bank, preset):
    before = all_labels(written)
    ntt.segment(written, other_bank, "found", run_key="b", preset=preset, overwrite=True)
    between = all_labels(written)
    ntt.segment(written, bank, "found", run_key=KEY, preset=preset, overwrite=True, max_instances=1)
    with pytest.raises(InputError, match=f"run '{KEY}' has overwritten labels of run 'b'"):
        ntt.undo_run(written, "b")
    ntt.undo_run(written, KEY)
    assert all_labels(written) == between
    with pytest.raises(InputError, match=f"run 'b' has overwritten labels of run '{KEY}'"):
        ntt.undo_run(written, KEY)
    ntt.undo_run(written, "b")
    assert all_labels(written) == before
    ntt.undo_run(written, KEY)
    assert ntt.list_runs(written) == []


# open-compass/opencompass#2168, thunil/TecoGAN#88: what was interrupted begins anew.
def interrupted(dataset, bank, preset, **options):
    """A run that wrote one image and was stopped."""

    def progress(done, total, message):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ntt.segment(dataset, bank, "found", preset=preset, progress=progress, **options)


def test_who_asks_to_overwrite_gets_it_from_a_run_that_stopped(pictures, bank, other_bank, preset, monkeypatch):
    monkeypatch.setattr(session, "_LARGEST_CHUNK", 1)
    interrupted(pictures, bank, preset)
    report = ntt.segment(pictures, bank, "found", preset=preset, overwrite=True)
    assert (report.done, report.resumed) == (IMAGES, 0), "what it wrote itself is there to be replaced as well"


def test_a_stopped_run_takes_a_field_back_that_another_took(pictures, bank, other_bank, preset, monkeypatch):
    monkeypatch.setattr(session, "_LARGEST_CHUNK", 1)
    interrupted(pictures, bank, preset)
    ntt.segment(pictures, other_bank, "found", run_key="b", preset=preset, overwrite=True)
    assert ntt.segment(pictures, bank, "found", preset=preset, overwrite=True).done == IMAGES
    assert classes_of(pictures) == [["disc"]] * IMAGES


def test_an_overwriting_run_that_stopped_goes_on(written, other_bank, preset, monkeypatch):
    monkeypatch.setattr(session, "_LARGEST_CHUNK", 1)
    interrupted(written, other_bank, preset, overwrite=True)
    report = ntt.segment(written, other_bank, "found", preset=preset, overwrite=True)
    assert report.resumed >= 1 and report.done == IMAGES - report.resumed
    ntt.undo_run(written, KEY)
    assert classes_of(written) == [["disc"]] * IMAGES


def draw(sample, name):
    there = sample["found"].detections if sample.has_field("found") and sample["found"] else []
    box = [0.1, 0.1, 0.2, 0.2]
    sample["found"] = fo.Detections(detections=[*there, fo.Detection(label=name, bounding_box=box)])
    sample.save()


def drawn(dataset):
    """The labels in each image that a person drew."""
    return [
        sorted(label.label for label in labels.detections if getattr(label, "predicted_iou", None) is None)
        if labels
        else []
        for labels in targets_of(dataset).values("found")
    ]


def first_failed(dataset, segment):
    path = Path(targets_of(dataset).first().filepath)
    path.rename(path.with_suffix(".away"))
    assert segment(dataset, overwrite=True).failed
    path.with_suffix(".away").rename(path)
    draw(targets_of(dataset).first(), "late")


def added_later(dataset, segment):
    segment(dataset, overwrite=True)
    sample = fo.Sample(targets_of(dataset).first().filepath)
    dataset.add_sample(sample)
    draw(sample, "late")


def only_a_part(dataset, segment):
    segment(targets_of(dataset).limit(1), overwrite=True)


def stopped(dataset, segment, after=1):
    def progress(done, total, message):
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(dataset, overwrite=True, progress=progress)
    draw(targets_of(dataset).last(), "late")


def statuses_cleared(dataset, segment):
    segment(dataset, overwrite=True)
    draw(targets_of(dataset).first(), "late")
    dataset.clear_sample_field("found_status")


STRANGER, LATE = ["stranger"], ["late", "stranger"]
DRAWN = {
    # what happened after overwrite=True over a stranger's field: the drawings that stay, and those after undo
    first_failed: ([["late"], [], []], [LATE, STRANGER, STRANGER]),
    added_later: ([[], [], [], ["late"]], [STRANGER, STRANGER, STRANGER, ["late"]]),
    only_a_part: ([[], STRANGER, STRANGER], [STRANGER] * IMAGES),
    stopped: ([[], [], LATE], [STRANGER, STRANGER, LATE]),
    statuses_cleared: ([["late"], [], []], [LATE, STRANGER, STRANGER]),
}


@pytest.mark.parametrize("act", DRAWN, ids=lambda act: act.__name__)
def test_later_calls_replace_no_drawing_unasked(pictures, bank, preset, monkeypatch, act):
    monkeypatch.setattr(session, "_LARGEST_CHUNK", 1)
    for sample in targets_of(pictures):
        draw(sample, "stranger")
    act(pictures, lambda view, **options: ntt.segment(view, bank, "found", preset=preset, **options))
    stay, back = DRAWN[act]
    for again in range(2):
        assert ntt.segment(pictures, bank, "found", preset=preset).failed == 0
        assert drawn(pictures) == stay
        if not again:
            pictures.clear_sample_field("found_status")
    labels = targets_of(pictures).values("found.detections.predicted_iou")
    assert all(any(found) for found in labels), "beside those of the run"
    ntt.undo_run(pictures, KEY)
    assert drawn(pictures) == back and ntt.list_runs(pictures) == []


def test_what_is_replaced_twice_comes_back_whole(pictures, bank, preset, monkeypatch):
    """An image fails, the run is stopped, somebody draws there, and asks again for labels to be replaced."""
    monkeypatch.setattr(session, "_LARGEST_CHUNK", 1)
    for sample in targets_of(pictures):
        draw(sample, "stranger")
    # The last one is not there either: what is ready when a run is stopped is still written, and that may be all.
    paths = [Path(sample.filepath) for sample in (targets_of(pictures).first(), targets_of(pictures).last())]
    for path in paths:
        path.rename(path.with_suffix(".away"))
    stopped(pictures, lambda view, **options: ntt.segment(view, bank, "found", preset=preset, **options), after=2)
    for path in paths:
        path.with_suffix(".away").rename(path)
    draw(targets_of(pictures).first(), "late")
    assert ntt.segment(pictures, bank, "found", preset=preset, overwrite=True).failed == 0
    assert drawn(pictures) == [[]] * IMAGES
    ntt.undo_run(pictures, KEY)
    assert drawn(pictures) == [LATE, STRANGER, LATE] and ntt.list_runs(pictures) == []


# cloud-annotations/cloud-annotations#55: who saves last takes away what another did meanwhile
def test_a_decision_while_labels_are_saved_stays(written, other_bank, preset, monkeypatch):
    """Between the moment that a chunk is read and the one that it is written."""
    keep, decided = Pass.keep, []

    def meanwhile(self, sample_id, *facts):
        keep(self, sample_id, *facts)
        if not decided:
            decided.append(ntt.accept_labels(written, "found"))

    monkeypatch.setattr(Pass, "keep", meanwhile)
    accepted = {label.id for sample in targets_of(written) for label in sample.found.detections}
    ntt.segment(written, other_bank, "found", preset=preset, overwrite=True)
    assert decided == [len(accepted)]
    after = {label.id: label.tags for sample in targets_of(written) for label in sample.found.detections}
    assert accepted <= set(after) and all(after[key] == ["ntt:accepted"] for key in accepted)


# ducks/claux#12: undo overwrites what a person edits between its look and its writing
def test_a_decision_while_labels_are_taken_back_stays(written, monkeypatch):
    """Between the moment that a chunk is read and the one that it is restored."""
    as_it_is, decided = restored._restored, []

    def meanwhile(*facts):
        result = as_it_is(*facts)
        if not decided:
            decided.append(ntt.accept_labels(written, "found"))
        return result

    monkeypatch.setattr(restored, "_restored", meanwhile)
    accepted = {label.id for label in all_labels(written)}
    assert ntt.undo_run(written, KEY) == 0
    assert decided == [len(accepted)] and {label.id for label in all_labels(written)} == accepted


# voxel51/fiftyone#986: what another process changed is not seen
def test_a_bank_that_another_process_built_anew_is_taken(pictures, bank, other_bank, loaded):
    save_bank(pictures, "mine", bank)
    assert ntt.load_bank(pictures, "mine").classes == bank.classes
    save_bank(loaded(pictures), "mine", other_bank)
    assert ntt.load_bank(pictures, "mine").content_hash == other_bank.content_hash
    save_bank(loaded(pictures), "new", bank)
    assert ntt.load_bank(pictures, "new").content_hash == bank.content_hash


def test_a_bank_too_large_to_be_kept_is_refused_first(pictures, bank, preset, monkeypatch):
    monkeypatch.setattr(banks, "_MOST_BYTES", 10)
    with pytest.raises(InputError, match="expected a memory bank of at most 10 bytes"):
        ntt.segment(pictures, bank, "found", preset=preset)
    assert not pictures.has_field("found") and ntt.list_runs(pictures) == []


# danielplohmann/mcrit#42: a document that outgrows MongoDB's limit
def test_many_samples_do_not_outgrow_a_document(pictures, bank, preset, monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.runs.run_samples._MOST_IDS", IMAGES - 1)
    ids = targets_of(pictures).values("id")
    for i in range(IMAGES):
        ntt.segment(pictures.select(ids[i : i + 1]), bank, "found", preset=preset)
    assert state_of(pictures, KEY)["samples"] is None
    with pytest.raises(InputError, match="call segment as before, it resumes"):
        ntt.resume_run(pictures, KEY)
    assert ntt.segment(pictures, bank, "found", preset=preset).resumed == IMAGES


def test_the_form_knows_a_renamed_field(written, bank, preset):
    written.rename_sample_field("found", "pets")
    assert default_run_key(written, "found") == "ntt_found_2"
    from support.app import form

    _, errors = form("segment", written, {"label_field": "found"})
    assert not errors


def test_mask_files_of_a_copied_field_outlive_the_run(pictures, bank, preset, monkeypatch):
    monkeypatch.setattr(session, "COMFORTABLE_DOCUMENT", 0)
    ntt.segment(pictures, bank, "found", preset=preset)
    pictures.clone_sample_field("found", "best")
    ntt.undo_run(pictures, KEY)
    paths = pictures.values("best.detections.mask_path", unwind=True)
    assert paths and all(Path(path).is_file() for path in paths)
