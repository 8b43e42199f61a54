"""Records and states of runs that somebody edited: each costs its run, in a sentence, and no other."""

from __future__ import annotations

import pytest
from support.app import PanelSession
from support.labelled import IMAGES, KEY, PICTURES

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.runs.workers import run_store

pytestmark = pytest.mark.pictures(**PICTURES)

# voxel51/fiftyone#8176: one malformed record of a run would have ended the query of the dataset


def without(key):
    return lambda record: {name: value for name, value in record.items() if name != key}


def put(**changes):
    return lambda record: {**record, **changes}


NOTES = {
    "a text": lambda _record: "text",
    "a list": lambda _record: [1],
    "a key only": lambda record: {"run_key": record["run_key"]},
    "a number as key": put(run_key=5),
    "no classes": without("classes"),
    "a text as classes": put(classes="disc"),
    "numbers as classes": put(classes=[1, 2]),
    "too few thresholds": put(thresholds=[0.1]),
    "texts as thresholds": put(thresholds=["a", "b"]),
    "a number as suggestion": put(suggested=0.5),
    "no settings of the match": put(match=None),
}


def note(dataset, value):
    """What a field says of its labels."""
    field = dataset.get_field("found")
    field.info = {**field.info, "ntt": value}
    field.save()
    dataset.reload()


def answers(calls):
    """What each call says: nothing but our own errors may come out."""
    said = {}
    for name, call in calls.items():
        try:
            said[name] = call()
        except NttError as error:
            said[name] = str(error)
    return said


@pytest.mark.parametrize("kind", NOTES)
def test_a_damaged_note_of_a_field_costs_that_field(named, preset, kind):
    dataset, bank_name = named
    note(dataset, NOTES[kind](dict(dataset.get_field("found").info["ntt"])))
    said = answers({
        "accept": lambda: ntt.accept_labels(dataset, "found"),
        "learn": lambda: ntt.learn(dataset, "found", preset=preset),
        "evaluate": lambda: ntt.evaluate(dataset, "found", "truth").images,
        "fit": lambda: ntt.fit_thresholds(dataset, KEY),
        "doubtful": lambda: len(ntt.doubtful(dataset, "found")),
        "segment": lambda: ntt.segment(dataset, bank_name, "found", preset=preset),
    })  # fmt: skip
    assert said["accept"] and said["evaluate"]
    assert "no run of this plugin wrote" in said["learn"] and "no run of this plugin wrote" in said["segment"]
    for tab in ("runs", "review", "evaluate"):
        assert PanelSession(dataset, tab).drawn
    assert ntt.segment(dataset, bank_name, "other", preset=preset).labelled == IMAGES
    assert {run["run_key"]: run["state"] for run in ntt.list_runs(dataset)} == {
        KEY: "completed", "ntt_other": "completed"
    }  # fmt: skip


def change_record(dataset, change):
    config = dataset.get_run_info(KEY).config
    config.record = change(dict(config.record))
    dataset.update_run_config(KEY, config)


@pytest.mark.parametrize("change", [without("started"), put(started=None), put(started=5)])
def test_a_run_that_does_not_say_when_is_listed(named, preset, capsys, change):
    dataset, bank_name = named
    ntt.segment(dataset, bank_name, "other", preset=preset)
    change_record(dataset, change)
    assert {run["state"] for run in ntt.list_runs(dataset)} == {"completed"}
    assert main(["runs", "list", dataset.name]) == 0 and KEY in capsys.readouterr().out
    panel = PanelSession(dataset, "runs")
    assert KEY in panel.drawn + str(panel.state) + str(panel.data)
    assert ntt.resume_run(dataset, KEY).resumed == IMAGES


RECORDS = {
    **{f"without {key}": without(key) for key in ("classes", "match", "bank_hash", "points_per_side", "preset")},
    "a text as match": put(match="text"),
    "a text as points": put(points_per_side="many"),
    "too few thresholds": put(thresholds=[0.1]),
    "too many suggestions": put(suggested=[0.1] * 9),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_damaged_record_costs_its_run(named, preset, kind):
    dataset, bank_name = named
    ntt.segment(dataset, bank_name, "other", preset=preset)
    change_record(dataset, RECORDS[kind])
    listed = {run["run_key"]: run for run in ntt.list_runs(dataset)}
    assert {key: run["state"] for key, run in listed.items()} == {KEY: "failed", "ntt_other": "completed"}
    assert "damaged" in listed[KEY]["error"]
    for call in (
        lambda: ntt.resume_run(dataset, KEY, preset=preset),
        lambda: ntt.learn(dataset, "found", preset=preset),
        lambda: ntt.fit_thresholds(dataset, KEY),
        lambda: ntt.load_thresholds(dataset, KEY),
        lambda: ntt.lower_threshold(dataset, KEY),
        lambda: ntt.judge_presence(dataset, "found"),
        lambda: ntt.cancel_run(dataset, KEY),
    ):
        with pytest.raises(InputError, match="damaged one of 'ntt_found' without usable"):
            call()
    assert ntt.accept_labels(dataset, "found") and ntt.doubtful(dataset, "found") is not None
    assert PanelSession(dataset, "review").drawn
    assert ntt.undo_run(dataset, KEY, keep_edited=False)
    assert [run["run_key"] for run in ntt.list_runs(dataset)] == ["ntt_other"]


STATES = {
    "a text": lambda _state: "x",
    "a list": lambda _state: [1],
    "its state alone": lambda _state: {"state": "running"},
    "no samples": without("samples"),
    "no options": without("options"),
    "a text as options": put(options="x"),
    "a number as state": put(state=3),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_damaged_state_is_made_anew_by_the_same_call(named, preset, kind):
    dataset, bank_name = named
    states = run_store(dataset)
    states.set(KEY, STATES[kind](states.get(KEY)))
    (listed,) = ntt.list_runs(dataset)
    assert listed["state"] == "failed" and "damaged" in listed["error"]
    for call in (ntt.resume_run, ntt.lower_threshold, ntt.cancel_run):
        with pytest.raises(InputError, match="state of run 'ntt_found' is damaged; call segment as before"):
            call(dataset, KEY)
    with pytest.raises(InputError, match="damaged"):
        ntt.learn(dataset, "found", preset=preset)
    assert PanelSession(dataset, "runs").drawn
    assert ntt.segment(dataset, bank_name, "other", preset=preset).labelled == IMAGES
    assert ntt.segment(dataset, bank_name, "found", preset=preset).resumed == IMAGES
    assert {run["state"] for run in ntt.list_runs(dataset)} == {"completed"}
    assert ntt.resume_run(dataset, KEY).resumed == IMAGES


@pytest.mark.parametrize("kind", STATES)
def test_a_run_with_a_damaged_state_is_undone(named, kind):
    dataset, _ = named
    states = run_store(dataset)
    states.set(KEY, STATES[kind](states.get(KEY)))
    assert ntt.undo_run(dataset, KEY) and not dataset.has_field("found")
    assert states.get(KEY) is None


@pytest.mark.parametrize("samples", ["x", {"but": False}, {"but": False, "ids": "x"}, {"but": False, "ids": b"x"}])
def test_damaged_samples_of_a_run_are_those_that_it_labelled(named, preset, samples):
    dataset, bank_name = named
    states = run_store(dataset)
    states.set(KEY, {**states.get(KEY), "samples": samples})
    assert [run["state"] for run in ntt.list_runs(dataset)] == ["completed"]
    with pytest.raises(InputError, match="call segment as before"):
        ntt.resume_run(dataset, KEY)
    assert ntt.segment(dataset, bank_name, "found", preset=preset).resumed == IMAGES
    assert ntt.resume_run(dataset, KEY).resumed == IMAGES
