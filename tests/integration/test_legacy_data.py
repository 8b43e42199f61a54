"""What an earlier version left in database and index is still of use: banks, runs, thresholds, labels, candidates."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import asdict
from pathlib import Path

import pytest
from support.legacy_dataset import facts_of, load_fixture

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError

FIXTURE = Path(__file__).resolve().parents[1] / "data" / "legacy"
OPTIONS = {"device": "cpu", "points_per_side": 5}
NOT_INDEXED = "cat"

pytestmark = pytest.mark.usefixtures("database", "lite")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of what that version wrote, its candidate index in use."""
    copied = Path(shutil.copytree(FIXTURE, tmp_path / "legacy"))
    monkeypatch.setenv("FIFTYONE_NTT_INDEX", str(copied / "index"))
    return copied


@pytest.fixture
def legacy(folder):
    """The dataset as that version left it."""
    dataset = load_fixture(folder, f"ntt-legacy-{uuid.uuid4().hex[:12]}")
    yield dataset
    dataset.delete()


@pytest.fixture
def facts(folder):
    """What that version said of it."""
    return facts_of(folder)


def run_of(dataset, run_key):
    return next(run for run in ntt.list_runs(dataset) if run["run_key"] == run_key)


def to_find(dataset):
    """The images that are no references and were indexed."""
    return dataset.load_saved_view("to_find").match_tags(NOT_INDEXED, bool=False)


def scores(view, label_field):
    return {
        sample.tags[0]: [label.confidence for label in sample[label_field].detections]
        for sample in view
        if sample[label_field] is not None
    }


def rounded(found):
    return {name: [round(one, 6) for one in values] for name, values in found.items()}


def ids_with(dataset, tag):
    labels = [label for one in dataset.values("ntt.detections") for label in one or []]
    return {label.id for label in labels if tag in label.tags}


def test_the_bank_is_the_one_that_was_built(legacy, facts):
    assert ntt.list_banks(legacy) == ["coins"]
    bank = ntt.load_bank(legacy, "coins")
    assert bank.content_hash == facts["bank_hash"]
    assert (list(bank.classes), list(bank.reference_ids)) == (facts["classes"], facts["reference_ids"])


def test_both_runs_are_listed_as_they_were(legacy, facts):
    runs = {run["run_key"]: run for run in ntt.list_runs(legacy)}
    assert {key: run["state"] for key, run in runs.items()} == {"ntt_ntt": "completed", "ntt_later": "interrupted"}
    for key, run in runs.items():
        assert {name: run[name] for name in ("state", "counts", "thresholds")} == facts["runs"][key]
        assert (run["bank_hash"], run["workers"]) == (facts["bank_hash"], 0)


def test_its_labels_and_decisions_are_there(legacy, facts):
    assert legacy.count("ntt.detections") == facts["labels"]
    assert rounded(scores(to_find(legacy), "ntt")) == facts["scores"]
    assert len(ids_with(legacy, "ntt:accepted")) == facts["accepted"] > 0
    assert len(ids_with(legacy, "ntt:rejected")) == facts["rejected"] > 0


def test_the_same_call_finds_its_run_done(legacy, facts):
    report = ntt.segment(to_find(legacy), "coins", "ntt", **OPTIONS)
    assert (report.resumed, report.done) == (len(to_find(legacy)), 0)
    assert legacy.count("ntt.detections") == facts["labels"]


def test_old_index_gives_the_same_labels_without_a_model(legacy, facts):
    report = ntt.segment(to_find(legacy), "coins", "again", **OPTIONS)
    assert (report.from_index, report.indexed, report.failed) == (len(to_find(legacy)), 0, 0)
    assert report.notes == []
    found = scores(to_find(legacy), "again")
    assert {name: pytest.approx(values, abs=1e-5) for name, values in facts["scores"].items()} == found
    indexed = ntt.index(to_find(legacy), "lite", **OPTIONS)
    assert (indexed.found, indexed.computed) == (facts["indexed"], 0)


def test_old_run_resumes_with_models_for_what_is_not_indexed(legacy, facts):
    before = facts["runs"]["ntt_later"]["counts"]
    done, left = before["ok"] + before["empty"], before["left"]
    report = ntt.resume_run(legacy, "ntt_later")
    assert (report.resumed, report.done, report.failed) == (done, left, 0)
    assert (report.from_index, report.indexed) == (left - 1, 1)
    after = run_of(legacy, "ntt_later")
    assert (after["state"], after["counts"]["left"]) == ("completed", 0)
    assert after["thresholds"] == facts["runs"]["ntt_later"]["thresholds"]
    least = facts["thresholds"]["coin"]["threshold"]
    expected = {name: [one for one in values if one > least] for name, values in facts["scores"].items()}
    assert {name: pytest.approx(values, abs=1e-5) for name, values in expected.items()} == scores(
        to_find(legacy), "later"
    )


def test_the_fitted_thresholds_are_known_and_applied(legacy, facts):
    fitted = ntt.load_thresholds(legacy, "ntt_ntt")
    assert fitted is not None
    assert {name: asdict(one) for name, one in fitted.classes.items()} == facts["thresholds"]
    assert asdict(fitted.overall) == facts["overall"]
    ntt.segment(to_find(legacy), "coins", "sure", thresholds="fitted", **OPTIONS)
    assert run_of(legacy, "ntt_sure")["thresholds"] == [facts["thresholds"]["coin"]["threshold"]]
    kept = [one for values in scores(to_find(legacy), "sure").values() for one in values]
    assert 0 < len(kept) < facts["labels"] and min(kept) > facts["thresholds"]["coin"]["threshold"]


def test_thresholds_fitted_anew_are_the_same(legacy, facts):
    again = ntt.fit_thresholds(legacy, "ntt_ntt")
    for name, one in facts["thresholds"].items():
        assert again.classes[name].threshold == pytest.approx(one["threshold"], abs=1e-6)
        assert (again.classes[name].right, again.classes[name].wrong) == (one["right"], one["wrong"])


def test_its_decisions_can_be_learned_from(legacy, facts):
    accepted = ids_with(legacy, "ntt:accepted")
    report = ntt.learn(legacy, "ntt", apply=True)
    assert report.decisions["coin"] == {"accepted": facts["accepted"], "edited": 0, "rejected": facts["rejected"]}
    assert report.errors == {} and report.applied is not None
    assert report.applied.from_index == report.applied.done == len(to_find(legacy))
    assert ntt.load_bank(legacy, "ntt_learned").content_hash == report.bank.content_hash != facts["bank_hash"]
    assert ids_with(legacy, "ntt:accepted") == accepted
    assert run_of(legacy, "ntt_ntt")["bank_hash"] == report.bank.content_hash
    ntt.undo_run(legacy, "ntt_ntt")  # the pass that learning added
    assert run_of(legacy, "ntt_ntt")["bank_hash"] == facts["bank_hash"]
    assert legacy.count("ntt.detections") == facts["labels"]


def test_undo_takes_its_labels_back_and_leaves_the_accepted_ones(legacy, facts):
    accepted = ids_with(legacy, "ntt:accepted")
    assert ntt.undo_run(legacy, "ntt_ntt") == facts["labels"] - facts["accepted"]
    assert {label.id for one in legacy.values("ntt.detections") for label in one or []} == accepted
    ntt.undo_run(legacy, "ntt_later")
    assert ntt.list_runs(legacy) == [] and not legacy.has_field("later")
    with pytest.raises(InputError, match="'ntt_ntt'"):
        ntt.load_thresholds(legacy, "ntt_ntt")
    assert ntt.load_bank(legacy, "coins").content_hash == facts["bank_hash"]
