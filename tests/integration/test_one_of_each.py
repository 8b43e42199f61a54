"""One image, one label, one class: nothing that a person reads says "1 labels", and nothing counts to none."""

from __future__ import annotations

import json

import pytest
from support.amounts import wrong_amounts
from support.app import PanelSession, context, form, operator

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.runs.listing import last_layer

pytestmark = pytest.mark.pictures(count=2, references=1)
FORMS = {
    "segment": {},
    "preview": {},
    "index_candidates": {},
    "evaluate": {"label_field": "found", "gt_field": "truth", "include_references": True},
    "learn": {"label_field": "found"},
    "fit_thresholds": {"run_key": "ntt_found"},
    "judge_presence": {"label_field": "found"},
    "refine_labels": {"label_field": "found"},
    "undo_refinement": {"label_field": "found"},
    "undo_run": {"run_key": "ntt_found"},
    "lower_threshold": {"run_key": "ntt_found"},
    "export_labels": {"label_field": "found", "export_dir": "/a/folder"},
    "to_segmentation": {"label_field": "found"},
    "make_previews": {},
    "remove_previews": {},
    "build_memory_bank": {"label_field": "truth"},
    "make_reference_masks": {"label_field": "truth"},
    "advise_references": {"label_field": "truth", "reviewed": "found"},
    "accept_labels": {"label_field": "found"},
    "reject_labels": {"label_field": "found", "above": 0.0, "undecided": True, "_in_grid": True},
}
"""Operator -> what its form holds."""


@pytest.fixture
def one(pictures, preset, index_dir, monkeypatch):
    """One picture with one label of one class, which is accepted, and one reference."""
    monkeypatch.setattr("fiftyone_ntt.candidates.source.resolve_preset", lambda name: preset)
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset, name="shapes")
    ntt.segment(pictures, bank, "found", preset=preset, index_dir=index_dir, max_instances=1)
    assert ntt.accept_labels(pictures, "found") == 1
    return pictures


@pytest.mark.parametrize("name", FORMS)
def test_forms_speak_of_one(one, name):
    ctx = context(name, one, {"_advanced": True, **FORMS[name]})
    said = operator(name).resolve_input(ctx)
    assert said is not None and wrong_amounts(json.dumps(said.to_json())) == []


@pytest.mark.parametrize("name", FORMS)
def test_forms_show_three_advanced_settings_at_most(one, name):
    plain, _ = form(name, one, FORMS[name])
    opened, _ = form(name, one, {**FORMS[name], "_advanced": True})
    settings = [key for key in opened if not key.startswith("_") and key != "view_target"]
    more = [key for key in settings if key not in plain]
    assert len(more) <= 3, "the rest lies in groups"
    switches = [key for key in opened if key.startswith("_advanced_")]
    everything, errors = form(name, one, {**FORMS[name], "_advanced": True, **dict.fromkeys(switches, True)})
    asked = {info.name for info in operator(name).PARAMS.infos()} - {"label_ids"}
    if "_in_grid" not in FORMS[name]:  # that one only asks whether to go on
        assert asked <= set(everything) | set(FORMS[name]), "nothing is out of reach"
    assert json.dumps([item.to_json() for item in everything.values()]).lower().count("schedul") <= 1
    assert errors == {}


@pytest.mark.parametrize("tab", ["references", "runs", "review", "evaluate"])
def test_tabs_speak_of_one(one, tab):
    session = PanelSession(one, tab)
    session.send(f"on_{tab}_refresh")
    assert wrong_amounts(session.drawn + json.dumps(session.data, default=str)) == []


def refusal(service, *arguments, **options):
    """The sentence with which a service refuses: here all that is left has been learned from."""
    with pytest.raises(InputError) as refused:
        service(*arguments, **options)
    return str(refused.value)


def test_reports_speak_of_one(one, preset, index_dir, tmp_path):
    references = one.match_tags("ntt:reference")
    found = one.exclude(references.values("id"))
    lesson = ntt.learn(one, "found", preset=preset, apply=True)
    reports = [
        lesson,
        last_layer(one, "ntt_found"),
        ntt.index(one, preset=preset, index_dir=index_dir),
        ntt.segment(one, "shapes", "again", preset=preset, index_dir=index_dir, max_instances=1),
        *ntt.preview(one, "shapes", images=1, preset=preset, index_dir=index_dir, max_instances=1),
        ntt.evaluate(one, "found", gt_field="truth", include_references=True),
        refusal(ntt.evaluate, found, "found", gt_field="truth"),
        ntt.fit_thresholds(one, "ntt_found"),
        ntt.judge_presence(one, "found"),
        ntt.to_segmentation(one, "found"),
        ntt.make_previews(one.limit(1), folder=tmp_path / "previews", larger_than=1),
        ntt.export_labels(one, tmp_path / "coco", label_field="found"),
        ntt.export_labels(one, tmp_path / "yolo", label_field="found", format="yolo", masks="polygons"),
        ntt.advise_references(one, "shapes", label_field="truth", reviewed="found"),
        ntt.describe_references(one, "truth"),
        *(run["note"] for run in ntt.list_runs(one)),
        ntt.remove_references(references, label_field="truth"),
    ]
    assert [wrong for report in reports for wrong in wrong_amounts(str(report))] == []


COMMANDS = (
    "accept --field found",
    "reject --field found",
    "clear --field found",
    "accept --field found --undecided",
    "learn --field found",
    "fit-thresholds ntt_found",
    "judge-presence --field found",
    "to-segmentation --field found",
    "previews make --larger-than 1",
    "previews remove",
    "evaluate --field found --gt-field truth --include-references",
    "runs list",
    "runs undo ntt_found",
)


def test_commands_speak_of_one(one, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in COMMANDS:
        words = command.split()
        at = 2 if words[0] in ("runs", "previews") else 1
        status = main([*words[:at], one.name, *words[at:]])
        out = capsys.readouterr()
        assert status == 0, (command, out.err)
        assert wrong_amounts(out.out + out.err) == [], command
