"""The check of a preset in the App: the same service as on the command line, and what a person reads of it."""

from __future__ import annotations

import json

import pytest
from support.app import context, form, operator, run, uri_of

from fiftyone_ntt.demo import selfcheck
from fiftyone_ntt.models import PRESETS
from fiftyone_ntt.params import preset_names as names


def shown(result, dataset):
    """What the App draws of a result, as text."""
    ctx = context("selfcheck", dataset, results=result)
    return json.dumps(operator("selfcheck").resolve_type(ctx, "outputs").to_json())


@pytest.mark.slow
def test_a_preset_that_works_is_sound(dataset, lite):
    pytest.importorskip("skimage", reason="its photographs are looked at")
    result, asked = run("selfcheck", dataset, {"device": "cpu"})
    assert result["sound"] and result["summary"].startswith("sound: preset lite on cpu: 8 of 8 checks")
    assert [row["ok"] for row in result["steps"]] == ["yes"] * 8
    assert {row["value"] for row in result["facts"]} >= set(lite.weights.values())
    assert "reload_dataset" not in asked, "the dataset is as it was"
    assert "What was asked" in shown(result, dataset)


def test_what_does_not_hold_is_in_the_summary(dataset):
    result, _ = run("selfcheck", dataset, {"preset": "tiny", "device": "cpu"})
    assert not result["sound"] and [row["ok"] for row in result["steps"]] == ["no"]
    verdict, empty, reason = result["summary"].split("\n")
    assert verdict.startswith("not sound: preset tiny on no device: 0 of 1 checks") and empty == ""
    assert reason.startswith("- the models load: ") and "missing" in reason


def test_it_is_asked_where_the_work_is_done(dataset, monkeypatch):
    """At once, or scheduled; its progress is told there."""
    config = operator("selfcheck").config
    assert config.allow_delegated_execution and config.allow_immediate_execution
    told = []

    def check(preset, device, *, precision, progress):
        progress(4, 4, "done")
        return selfcheck.SelfCheck(preset, [selfcheck.Step("all", True, "so")], {"device": f"{device} {precision}"})

    monkeypatch.setattr(selfcheck, "run_selfcheck", check)
    ctx = context("selfcheck", dataset, {"device": "cpu", "precision": "bf16"}, delegated=True)
    ctx.set_progress = lambda progress, label: told.append((progress, label))
    assert operator("selfcheck").execute(ctx)["facts"] == [{"what": "device", "value": "cpu bf16"}]
    assert told == [(1.0, "done")]


def test_its_form_asks_for_the_preset(dataset, monkeypatch, tmp_path):
    path = tmp_path / "presets.yaml"
    path.write_text("mine: {like: lite}")
    monkeypatch.setenv(names.FILE_VARIABLE, str(path))
    properties, errors = form("selfcheck", dataset, {"preset": "mine"})
    assert errors == {} and list(properties["preset"].type.values) == [*PRESETS, "mine"]
    assert {"device", "precision"} <= set(properties)
    refused = run("selfcheck", dataset, {"device": "no"}, operator_uri=uri_of("selfcheck"))
    assert "a device such as" in refused[0]["refused"]
