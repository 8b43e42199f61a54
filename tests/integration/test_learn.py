"""Decisions become part of the memory bank, everything is matched again, and what a person said stays."""

import inspect
from collections import Counter

import fiftyone.operators as foo
import numpy as np
import pytest
from support.app import PanelSession, context, operator, run
from support.pictures import Shape

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.params.review import LearnParams
from fiftyone_ntt.references.banks import bank_of_run
from fiftyone_ntt.review.learn import ALL_DECIDED, last_outcome, learn
from fiftyone_ntt.review.lessons import ClassChange, Lesson, changes_of, taught
from fiftyone_ntt.runs.listing import last_layer
from fiftyone_ntt.runs.undo import undo_last_layer

LEARN = "@fiftyone-ntt/ntt/learn"
SHAPES = [Shape(), Shape("disc", left=80, top=65, width=30, height=20, step=0, colour=(30, 220, 60))]
pytestmark = pytest.mark.pictures(count=4, shapes=SHAPES)
KINDS = ("accepted", "edited", "rejected")


@pytest.fixture
def reviewed(pictures, preset, tmp_path):
    """Four images, labelled from the references "square" and "disc"."""
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset)
    ntt.segment(pictures, bank, "found", preset=preset, index_dir=tmp_path / "index")
    return pictures


def decide(dataset):
    """The first label of each image: accepted, rejected, renamed and its mask edited in the App."""
    ids = []
    for sample, tag in zip(dataset.skip(1), ("ntt:accepted", "ntt:rejected", None), strict=True):
        label = sample.found.detections[0]
        if tag is None:
            label.label, label.mask = "lamp", np.eye(*label.mask.shape, dtype=bool)
        else:
            label.tags = [tag]
        sample.save()
        ids.append(label.id)
    return ids


@pytest.mark.parametrize("other", ["ntt:accepted", "ntt:edited"])
def test_rejected_is_rejected_whatever_else_it_is_tagged(reviewed, preset, other):
    sample = reviewed.skip(1).first()
    label = sample.found.detections[0]
    label.tags = [other, "ntt:rejected"]
    sample.save()
    report = learn(reviewed, "found", preset=preset)
    assert report.decisions == {label.label: {"accepted": 0, "edited": 0, "rejected": 1}}
    ntt.undo_run(reviewed, "ntt_found")
    assert not reviewed.has_field("found"), "what was rejected goes, and nothing else was decided"


def everything(dataset):
    return dataset.values("found", _raw=True), dataset.list_runs(), bank_of_run(dataset, "ntt_found").content_hash


def test_a_dry_run_writes_nothing_and_says_what_would_change(reviewed, preset, monkeypatch):
    decide(reviewed)
    before = everything(reviewed)
    monkeypatch.setattr(candidates, "load_segmenters", None)  # all candidates are in the index
    report = learn(reviewed, "found", preset=preset, threshold=0.0)
    assert everything(reviewed) == before
    assert (report.applied, report.from_index, report.kept, report.errors) == (None, 6, 3, {})
    assert sum((Counter(row) for row in report.decisions.values()), Counter()) == dict.fromkeys(KINDS, 1)
    assert report.bank.classes == ("disc", "square", "lamp")
    assert report.changes["lamp"].gained + report.changes["lamp"].relabelled > 0
    assert set(report.changed) <= set(reviewed.skip(1).values("id")) and report.changed
    assert "Would change" in str(report)


def test_applied_learning_is_a_pass_that_undo_takes_back(reviewed, preset):
    kept = decide(reviewed)
    decided = {label.id: label.to_dict() for one in reviewed.values("found.detections") for label in one or []}
    before = reviewed.values("found", _raw=True)
    expected = learn(reviewed, "found", preset=preset, threshold=0.0)
    report = learn(reviewed, "found", preset=preset, threshold=0.0, apply=True)
    assert report.changes == expected.changes and report.bank_name == "found_learned"
    assert bank_of_run(reviewed, "ntt_found").content_hash == report.bank.content_hash
    assert ntt.load_bank(reviewed, "found_learned").content_hash == report.bank.content_hash
    labels = {label.id: label.to_dict() for one in reviewed.values("found.detections") for label in one or []}
    for label_id in kept:
        tags = ["ntt:edited"] if label_id == kept[2] else decided[label_id]["tags"]
        assert {**labels[label_id], "tags": None} == {**decided[label_id], "tags": None}
        assert labels[label_id]["tags"] == tags
    counted = Counter(label["label"] for key, label in labels.items() if key not in kept)
    sums = {name: one.gained + one.relabelled + one.unchanged for name, one in report.changes.items()}
    assert counted == Counter({name: count for name, count in sums.items() if count}), "what was announced is there"
    (run,) = ntt.list_runs(reviewed)
    assert [layer["what"] for layer in run["layers"]] == ["labelling", "learning"]
    assert last_layer(reviewed, "ntt_found").startswith("what learning wrote on 2")
    rows = PanelSession(reviewed, "runs").data["runs_table"]
    assert [row["run"].split(",")[0] for row in rows] == ["ntt_found", "↳ learning"]
    again = learn(reviewed, "found", preset=preset, threshold=0.0)
    assert again.changed == [] and again.bank.content_hash == report.bank.content_hash
    result = operator("undo_run").execute(context("undo_run", reviewed, {"run_key": "ntt_found"}))
    said = result["summary"].replace("\\", "")
    assert "took back what learning wrote" in said and report.what_changes in said
    assert "Left of it is what labelling wrote on" in said and "'NTT: Undo run' would take that back next" in said
    assert "memory bank 'found_learned', which only that had made, went with it" in said
    assert ntt.list_banks(reviewed) == []
    assert report.what_changes in str(report) and last_layer(reviewed, "ntt_found").startswith("what labelling")
    after = reviewed.values("found", _raw=True)
    assert [strip(one) for one in after] == [strip(one) for one in before]
    assert bank_of_run(reviewed, "ntt_found").content_hash != report.bank.content_hash


def test_a_learned_bank_stays_where_another_run_uses_it(reviewed, preset, index_dir):
    decide(reviewed)
    learn(reviewed, "found", preset=preset, threshold=0.0, apply=True)
    other = ntt.segment(reviewed, "found_learned", "again", preset=preset, index_dir=index_dir)
    assert "'found_learned' stays: another run uses it" in str(undo_last_layer(reviewed, "ntt_found"))
    assert ntt.load_bank(reviewed, "found_learned").classes == ("disc", "square", "lamp")
    assert "Nothing of it is left" in str(undo_last_layer(reviewed, other.run_key))


def test_each_lesson_that_is_taken_back_has_its_own_bank(reviewed, preset):
    """And one that was there before anybody learned is none of its business."""
    decide(reviewed)
    first = learn(reviewed, "found", preset=preset, threshold=0.0, apply=True)
    ntt.reject_labels(reviewed.skip(1).limit(1), "found", above=0.0)
    second = learn(reviewed, "found", preset=preset, threshold=0.0, apply=True)
    assert first.bank.content_hash != second.bank.content_hash
    assert "'found_learned' is that of before again" in str(undo_last_layer(reviewed, "ntt_found"))
    assert ntt.load_bank(reviewed, "found_learned").content_hash == first.bank.content_hash
    ntt.save_bank(reviewed, "mine", first.bank)
    learn(reviewed, "found", preset=preset, threshold=0.0, apply=True, bank_name="mine")
    assert "bank" not in str(undo_last_layer(reviewed, "ntt_found"))
    assert "mine" in ntt.list_banks(reviewed)


def strip(labels):
    found = (labels or {}).get("detections", [])
    return [{key: value for key, value in label.items() if key != "tags"} for label in found]


def test_it_says_when_everything_is_decided_already(reviewed, preset):
    ntt.accept_labels(reviewed.skip(1).limit(1), "found")
    assert ALL_DECIDED not in str(learn(reviewed, "found", preset=preset))
    ntt.reject_labels(reviewed, "found", above=0.0)
    assert ALL_DECIDED in str(learn(reviewed, "found", preset=preset))
    assert ALL_DECIDED in str(form(reviewed, label_field="found"))


def test_images_that_are_not_in_the_index_are_computed(reviewed, preset, tmp_path):
    decide(reviewed)
    report = learn(reviewed, "found", preset=preset, threshold=0.0, index_dir=tmp_path / "another")
    assert report.from_index == 3, "the decided ones are computed once, and matched from the index"
    assert report.changes == learn(reviewed, "found", preset=preset, threshold=0.0).changes


def test_a_broken_image_costs_its_own_labels_only(reviewed, preset, tmp_path):
    decide(reviewed)
    path = reviewed.skip(1).first().filepath
    with open(path, "wb") as file:
        file.write(b"no image")
    report = learn(reviewed, "found", preset=preset, threshold=0.0)
    assert list(report.errors) == [reviewed.skip(1).first().id]
    assert "readable image" in next(iter(report.errors.values()))


def test_without_a_decision_or_a_run_it_says_what_to_do(reviewed, preset):
    with pytest.raises(InputError, match="accept.*reject"):
        learn(reviewed, "found", preset=preset)
    with pytest.raises(InputError, match="'truth'"):
        learn(reviewed, "truth", preset=preset)
    decide(reviewed)
    with pytest.raises(InputError, match="another run"):
        learn(reviewed, "found", preset=preset, bank_name="ntt_found", apply=True)


def form(dataset, **params):
    """The operator's form as the App would show it: plain data."""
    return operator("learn").resolve_input(context("learn", dataset, params)).to_json()


def test_learn_form_counts_decisions_or_says_what_to_do(reviewed):
    fields = form(reviewed, label_field="found")["type"]["properties"]
    assert "have not decided" in fields["label_field"]["error_message"] and fields["label_field"]["invalid"]
    decide(reviewed)
    shown = [part["view"]["label"] for name, part in form(reviewed, label_field="found")["type"]["properties"].items()
             if name.startswith("_decided")]  # fmt: skip
    assert sum("1 accepted" in text for text in shown) == sum("1 rejected" in text for text in shown) == 1
    refused = form(reviewed, label_field="truth")["type"]["properties"]["label_field"]["error_message"]
    assert "labels in 'truth'" in refused


def test_learn_operator_writes_when_told_and_keeps_the_outcome(reviewed, preset, monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.candidates.source.resolve_preset", lambda name: preset)
    decide(reviewed)
    before = everything(reviewed)
    shown = foo.execute_operator(LEARN, {"dataset": reviewed}, params={"label_field": "found", "threshold": 0.0})
    assert everything(reviewed) == before and "Nothing has been written yet" in shown.result["summary"]
    outcome = last_outcome(reviewed, "found")
    assert (outcome["applied"], outcome["rows"], len(outcome["changed"])) == (
        False, shown.result["rows"], shown.result["changed"],
    )  # fmt: skip
    params = {"label_field": "found", "threshold": 0.0, "apply": True}
    done = foo.execute_operator(LEARN, {"dataset": reviewed}, params=params)
    assert everything(reviewed) != before and "NTT: Undo run" in done.result["summary"]
    assert done.result["rows"] == shown.result["rows"] and last_outcome(reviewed, "found")["applied"]


def test_the_app_shows_what_learning_wrote(reviewed, preset, monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.candidates.source.resolve_preset", lambda name: preset)
    decide(reviewed)
    params = {"label_field": "found", "threshold": 0.0}
    assert "set_active_fields" not in run("learn", reviewed, params)[1], "nothing was written"
    shown = run("learn", reviewed, {**params, "apply": True}, active_fields=["truth"])[1]["set_active_fields"]
    assert shown == {"fields": ["truth", "found"]}, "what the person has ticked stays"
    entry = next(one for one in reviewed.app_config.color_scheme.fields if one["path"] == "found")
    assert entry["colorByAttribute"] == "label" and "lamp" in {one["value"] for one in entry["valueColors"]}
    assert run("undo_run", reviewed, {"run_key": "ntt_found"})[1]["set_active_fields"] == {"fields": ["found"]}
    assert "set_active_fields" not in run("undo_run", reviewed, {"run_key": "ntt_found", "keep_edited": False})[1]


def test_undo_forgets_the_outcome_of_learning(reviewed, preset):
    decide(reviewed)
    learn(reviewed, "found", preset=preset, threshold=0.0)
    assert last_outcome(reviewed, "found") is not None
    ntt.undo_run(reviewed, "ntt_found")
    assert last_outcome(reviewed, "found") is None


def test_each_image_is_matched_once_and_reported_as_announced(reviewed, preset, monkeypatch):
    decide(reviewed)
    announced = learn(reviewed, "found", preset=preset, threshold=0.0)
    matched, match = [], Matcher.match
    monkeypatch.setattr(Matcher, "match", lambda self, content: matched.append(content) or match(self, content))
    report = learn(reviewed, "found", preset=preset, threshold=0.0, apply=True)
    assert len(matched) == 3, "as many as there are images to label"
    assert (report.changes, report.kept, sorted(report.changed), report.from_index) == (
        announced.changes, announced.kept, sorted(announced.changed), announced.from_index,
    )  # fmt: skip


def test_one_that_was_stopped_goes_on_and_reports_the_whole(reviewed, preset):
    decide(reviewed)
    announced = learn(reviewed, "found", preset=preset, threshold=0.0)

    def stop(done, total, message):
        if message.startswith("labelled 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(reviewed, "found", preset=preset, threshold=0.0, apply=True, progress=stop)
    report = learn(reviewed, "found", preset=preset, threshold=0.0, apply=True)
    assert report.applied.resumed > 0 and report.kept == announced.kept
    labels = [label for labels in reviewed.values("found.detections") for label in labels or []]
    assert sum(one.gained + one.relabelled + one.unchanged for one in report.changes.values()) == len(labels) - 3


def lesson(key, label, kind, value=1.0):
    return Lesson(key, label, kind, np.full(3, value, np.float32))


def test_bank_learns_and_keeps_its_references():
    bank = MemoryBank(("fig", "date"), np.eye(3, dtype=np.float32)[:2], np.array([0, 1]), ("s1/a", "s2/b"))
    first = [lesson("s3/c", "fig", "accepted"), lesson("s3/d", "nut", "edited"), lesson("s4/e", "date", "rejected")]
    once = taught(bank, [*first, lesson("s4/f", "unheard of", "rejected")], {"s3", "s4"})
    assert once.classes == ("fig", "date", "nut") and once.shots == {"fig": 2, "date": 1, "nut": 1}
    assert once.reference_ids == ("s1/a", "s2/b", "learned/s3/c", "learned/s3/d")
    assert (once.negative_ids, once.negatives.labels) == (("learned/s4/e",), ("date",))
    assert taught(once, first, {"s3", "s4"}).content_hash == once.content_hash
    elsewhere = taught(once, [lesson("s5/g", "fig", "rejected")], {"s5"})
    assert elsewhere.negative_ids == ("learned/s4/e", "learned/s5/g") and elsewhere.shots == once.shots
    assert taught(once, [], {"s3", "s4"}).content_hash == bank.content_hash, "no class is left without a reference"


def at(place, name, confidence=0.9):
    return {"bounding_box": [place / 10, 0, 0.1, 0.1], "label": name, "confidence": confidence}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([at(1, "a")], [at(1, "a", 0.6)], {"a": ClassChange(unchanged=1)}),
        ([at(1, "a")], [], {"a": ClassChange(lost=1)}),
        ([at(1, "a")], [at(1, "a", 0.5)], {"a": ClassChange(lost=1)}),
        ([at(1, "a", 0.4)], [at(1, "a")], {"a": ClassChange(gained=1)}),
        ([at(1, "a")], [at(1, "b")], {"b": ClassChange(relabelled=1)}),
        ([at(1, "a")], [at(2, "a")], {"a": ClassChange(gained=1, lost=1)}),
        ([at(1, "a", None)], [at(1, "a", 0.1)], {}),
    ],
)
def test_changes_are_counted_by_place_and_class(old, new, expected):
    changes = {}
    assert changes_of(old, new, 0.5, changes) == any(one != ClassChange(unchanged=1) for one in expected.values())
    assert changes == expected


def test_the_form_has_the_arguments_and_defaults_of_the_call():
    signature = list(inspect.signature(ntt.learn).parameters.values())[1:]
    sdk = {one.name: one.default for one in signature if one.name not in ("preset", "progress")}
    assert {info.name: info.default for info in LearnParams.infos()} == sdk
