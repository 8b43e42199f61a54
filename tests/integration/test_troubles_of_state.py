"""What is noted about runs follows the labels: fields that were deleted, renamed, cleared; views; renamed classes.

Small random models, a real database, and FiftyOne's own tools in a person's hands.
"""

from __future__ import annotations

import threading

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from support.app import PanelSession, form, run
from support.pictures import Shape

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import refresh
from fiftyone_ntt.errors import InputError

KEY = "ntt_found"
IMAGES = 3
"""Besides the reference."""
SHAPES = [Shape(), Shape("disc", left=80, top=65, width=30, height=20, step=0, colour=(30, 220, 60))]
pytestmark = pytest.mark.pictures(count=IMAGES + 1, shapes=SHAPES, every_label=True)


@pytest.fixture
def labelled(pictures, bank, preset):
    """Three images that a run has labelled (random models find discs only), and what it wrote."""
    assert ntt.segment(pictures, bank, "found", preset=preset).labelled == IMAGES
    return pictures, labels_of(pictures, "found")


def labels_of(dataset, field):
    """File -> every label in it, without ids; ``None`` where an image has no list of labels."""
    if not dataset.has_field(field):
        return {}
    return {
        path: None if labels is None else [_content(label) for label in labels.detections]
        for path, labels in zip(*dataset.values(["filepath", field]), strict=True)
    }


def _content(label):
    return label.label, tuple(np.round(label.bounding_box, 9)), round(label.confidence, 6), label.mask.tobytes()


def fields_of_run(dataset):
    return [name for name in dataset.get_field_schema() if name.startswith(("found", "fruit"))]


def second(dataset):
    return dataset.skip(1).first()


def set_to_none(dataset):
    sample = second(dataset)
    sample["found"] = None
    sample.save()


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


@pytest.fixture
def named(labelled, bank, preset, monkeypatch):
    """The same, with its memory bank kept with the dataset, and its models found by name."""
    from fiftyone_ntt.models import PRESETS
    from fiftyone_ntt.references.banks import save_bank

    monkeypatch.setitem(PRESETS, preset.name, preset)
    save_bank(labelled[0], "shapes", bank)
    return labelled[0], "shapes"


# A view says which samples, never which fields there are


def saved(dataset):
    dataset.save_view("chosen", dataset.select_fields("truth").skip(1), overwrite=True)
    return dataset.load_saved_view("chosen")


VIEWS = {
    "chosen fields": lambda dataset: dataset.select_fields("truth"),
    "chosen fields of some": lambda dataset: dataset.limit(3).select_fields("truth").skip(1),
    "no fields": lambda dataset: dataset.select_fields().sort_by("filepath", reverse=True),
    "hidden labels": lambda dataset: dataset.exclude_fields(fields_of_run(dataset) or "truth"),
    "saved view": saved,
    "filtered labels": lambda dataset: dataset.filter_labels("truth", F("label") == "square").select_fields("truth"),
    "mapped labels": lambda dataset: dataset.select_fields("truth").map_labels("truth", {"lamp": "disc"}),
    "shuffled": lambda dataset: dataset.exclude_fields("truth").shuffle(),
    "random ones": lambda dataset: dataset.take(3).select_fields("truth"),
}


@pytest.mark.parametrize("what", VIEWS)
def test_a_view_says_which_images_are_labelled(pictures, bank, preset, what):
    ntt.segment(pictures.limit(2), bank, "found", preset=preset)
    view = VIEWS[what](pictures)
    wanted = {*view.values("id"), second(pictures).id} - {pictures.first().id}
    report = ntt.segment(view, bank, "found", preset=preset)
    assert report.resumed + report.done == len({*view.values("id")} - {pictures.first().id}) and not report.failed
    assert set(pictures.exists("found").values("id")) == set(pictures.exists("found_status").values("id")) == wanted
    assert [listed["state"] for listed in ntt.list_runs(pictures)] == ["completed"]
    assert ntt.resume_run(pictures, KEY, preset=preset).done == 0


@pytest.mark.parametrize("what", VIEWS)
def test_every_service_reads_what_a_view_does_not_show(named, preset, tmp_path, what):
    dataset, bank_name = named
    view = VIEWS[what](dataset)
    same = dataset.select(view.values("id"))
    assert len(ntt.doubtful(view, "found")) == len(ntt.doubtful(same, "found"))
    assert ntt.to_segmentation(view, "found").maps == len(view.exclude(dataset.first().id))
    assert ntt.judge_presence(view, "found").images == len(view.exclude(dataset.first().id))
    assert ntt.accept_labels(view, "found") == same.count("found.detections")
    assert ntt.evaluate(view, "found", "truth").images == len(view.exclude(dataset.first().id))
    assert ntt.export_labels(view, tmp_path / "export", "found").labels == same.count("found.detections")
    assert sum(ntt.learn(view, "found").decisions["disc"].values()) > 0
    assert ntt.preview(view, bank_name).count == len(view.exclude(dataset.first().id))
    assert ntt.index(view, preset=preset).failed == 0
    references = dataset.select(dataset.first().id)
    shown = VIEWS[what](references) if what not in ("saved view", "chosen fields of some") else references
    assert len(ntt.describe_references(shown, "truth")) == (1 if what == "filtered labels" else 2)
    assert ntt.build_memory_bank(shown, "truth", preset=preset).shots["square"] == 1


@pytest.mark.parametrize("what", ["chosen fields", "hidden labels", "saved view"])
def test_the_app_reads_what_a_view_does_not_show(named, tmp_path, what):
    dataset, bank_name = named
    view = VIEWS[what](dataset)
    folder = {"export_dir": str(tmp_path / "export")}
    for name, params in (
        ("segment", {"bank": bank_name, "label_field": "found"}),
        ("preview", {"bank": bank_name}),
        ("index_candidates", {}),
        ("evaluate", {"label_field": "found", "gt_field": "truth"}),
        ("accept_labels", {"label_field": "found"}),
        ("export_labels", {"label_field": "found", **folder}),
        ("to_segmentation", {"label_field": "found"}),
        ("judge_presence", {"label_field": "found"}),
        ("learn", {"label_field": "found"}),
        ("build_memory_bank", {"label_field": "truth", "reference_tag": ""}),
        ("advise_references", {"bank": bank_name, "label_field": "truth", "reviewed": "found"}),
    ):
        assert form(name, view, params)[1] == {}, name
        if name not in ("preview", "index_candidates", "build_memory_bank"):
            assert run(name, view, params)[0]["summary"], name
    for tab in ("references", "runs", "review", "evaluate"):
        session = PanelSession(dataset, tab)
        session.view = view
        session.send(f"on_{tab}_refresh")
        assert session.shown, tab
    session.view, session.state["tab"] = view, "review"
    session.send("on_review_refresh").send("on_review_threshold", value=0.01)
    assert len(session.view) == len(view) and not session.messages


# A class that is renamed is no word on a mask


def rename_with_a_view(dataset):
    dataset.map_labels("found", {"disc": "lamp", "square": "tile"}).save("found")


def rename_with_values(dataset):
    dataset.set_values("found.detections.label", [
        None if names is None else ["lamp" for _ in names] for names in dataset.values("found.detections.label")
    ])  # fmt: skip


def rename_one(dataset):
    """As the App's editor does it."""
    sample = second(dataset)
    sample.found.detections[0].label = "lamp"
    sample.save()


@pytest.mark.parametrize("rename", [rename_with_a_view, rename_with_values, rename_one])
def test_renamed_labels_are_protected_and_undecided(named, bank, preset, tmp_path, rename):
    dataset, _ = named
    rename(dataset)
    renamed = {label.id for label in all_labels(dataset) if label.label not in ("square", "disc")}
    content = {label.id: _content(label) for label in all_labels(dataset) if label.id in renamed}
    assert renamed
    assert sum(scores.decided for scores in ntt_scores(dataset)) == 0
    assert ntt.fit_thresholds(dataset, KEY).guessed
    with pytest.raises(InputError, match="decided"):
        ntt.learn(dataset, "found")
    with pytest.raises(InputError, match="has been accepted"):
        ntt.export_labels(dataset, tmp_path / "export", "found")
    assert ntt.export_labels(dataset, tmp_path / "all", "found", only="all").labels == dataset.count("found.detections")
    assert ntt.to_segmentation(dataset, "found", only="accepted").maps == 0
    assert len(ntt.doubtful(dataset, "found").values("found.detections.id", unwind=True)) == len(all_labels(dataset))
    ntt.segment(dataset, bank, "found", preset=preset, overwrite=True)
    there = {label.id: _content(label) for label in all_labels(dataset)}
    assert {key: there.get(key) for key in renamed} == content, "protected"
    ntt.undo_run(dataset, KEY)
    ntt.undo_run(dataset, KEY)
    assert {label.id for label in all_labels(dataset)} == renamed, "and kept by undo unless told otherwise"


def test_a_renamed_label_counts_once_accepted_or_edited(named, tmp_path):
    dataset, _ = named
    rename_with_values(dataset)
    accepted, edited, rejected = all_labels(dataset)[:3]
    ntt.accept_labels(dataset, "found", label_ids=[accepted.id])
    ntt.reject_labels(dataset, "found", label_ids=[rejected.id])
    for sample in dataset.match_labels(ids=[edited.id]):
        label = next(label for label in sample.found.detections if label.id == edited.id)
        label.mask = np.eye(*label.mask.shape, dtype=bool)
        sample.save()
    (lamp,) = ntt_scores(dataset)
    assert (lamp.accepted, lamp.rejected, lamp.edited) == (1, 1, 1)
    fit = ntt.fit_thresholds(dataset, KEY)
    assert (fit.overall.right, fit.overall.wrong) == (2, 1)
    assert ntt.learn(dataset, "found").decisions["lamp"] == {"accepted": 1, "edited": 1, "rejected": 1}
    assert ntt.export_labels(dataset, tmp_path / "export", "found").labels == 2


def all_labels(dataset):
    return [label for labels in dataset.values("found") if labels for label in labels.detections]


def ntt_scores(dataset):
    from fiftyone_ntt.review.label_table import summarise_scores

    return summarise_scores(dataset, "found")


# Two runs on a field, and processes that loaded the dataset before


@pytest.fixture
def other_bank(pictures, preset):
    return ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", classes=["square"], preset=preset)


@pytest.fixture
def loaded(monkeypatch):
    """Loads a dataset as another process does: an object of its own, which hears of nothing."""

    def load(dataset):
        monkeypatch.setattr(fo.config, "singleton_cache", False)
        copy = fo.load_dataset(dataset.name)
        monkeypatch.setattr(fo.config, "singleton_cache", True)
        assert copy is not dataset
        return copy

    return load


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
    assert listed["note"].startswith("1 images have lost their labels")
    dataset.delete_sample_field("found")
    (listed,) = ntt.list_runs(dataset)
    assert (listed["state"], listed["counts"]["left"], listed["counts"]["ok"]) == ("interrupted", IMAGES, 0)
    assert listed["note"].startswith("field 'found' was deleted")
    assert "was deleted" in PanelSession(dataset, "runs").texts
