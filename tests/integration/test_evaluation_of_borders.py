"""Boundary AP of ``evaluate``, from datasets to the operator, the command and the panel."""

from __future__ import annotations

import json

import pytest
from support.app import PanelSession, run
from support.scenes import Scene

import fiftyone_ntt as ntt
from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.evaluation import objects


@pytest.fixture
def scene(dataset, tmp_path) -> Scene:
    return Scene(dataset, tmp_path)


def strip_masks(dataset, name):
    for sample in dataset.iter_samples(autosave=True):
        for label in sample[name].detections:
            label.mask = None


def test_it_is_that_of_the_full_masks(scene, monkeypatch):
    results = ntt.evaluate(scene.dataset, boundary=True)
    expected = scene.scores(boundary=True)[0]
    assert results.boundary == expected.boundary and 0.01 < results.boundary.ap < results.mask.ap
    assert [row.boundary for row in results.per_class] == list(expected.boundary_per_class.values())
    monkeypatch.setattr(objects, "IMAGES_AT_ONCE", 2)
    assert ntt.evaluate(scene.dataset, boundary=True) == results, "some images at a time"


def test_unless_asked_for_nothing_of_it_is_there(scene):
    results = ntt.evaluate(scene.dataset)
    assert results.boundary is None and results.to_dict()["boundary"] is None
    assert not any("boundary" in key for row in results.table() for key in row) and "boundary" not in str(results)


def test_every_form_of_the_results_has_it(scene):
    results = ntt.evaluate(scene.dataset, boundary=True)
    value = results.boundary.ap
    assert json.loads(json.dumps(results.to_dict()))["boundary"]["ap"] == value
    rows = results.table()
    assert [row["boundary_ap"] for row in rows] == [value, *(row.boundary.ap for row in results.per_class)]
    keys = list(rows[0])
    assert keys.index("boundary_ap") == keys.index("mask_ap50") + 1
    header, first = str(results).splitlines()[:2]
    assert "boundary AP" in header and f"{value:.3f}" in first and f"boundary AP {value:.3f} (AP50" in str(results)


@pytest.mark.parametrize(("field", "side"), [("ground_truth", "ground truth has"), ("ntt", "predictions have")])
def test_without_masks_it_says_why_there_is_none(scene, field, side):
    strip_masks(scene.dataset, field)
    results = ntt.evaluate(scene.dataset, boundary=True)
    assert results.boundary.ap is None and results.table()[1]["boundary_ap"] is None
    assert f"no mask or boundary scores: the {side} boxes only" in results.notes


def test_segmentation_masks_have_none(scene):
    ntt.to_segmentation(scene.dataset, "ground_truth", "maps", only="all")
    results = ntt.evaluate(scene.dataset, "ntt", "maps", boundary=True)
    assert results.semantic is not None and results.boundary is None
    assert any(note.startswith("no boundary scores") for note in results.notes)


def test_operator_and_panel_show_it(scene):
    result, _ = run("evaluate", scene.dataset, {"boundary": True})
    value = result["boundary"]["ap"]
    assert result["table"][0]["boundary_ap"] == round(value, 3) and f"boundary AP {value:.3g}" in result["summary"]
    panel = PanelSession(scene.dataset, "evaluate")
    assert panel.data["evaluate_table"][0]["boundary_ap"] == f"{value:.3f}"
    assert "boundary AP" in [column.label for column in panel.shown["evaluate_table"].view.columns]
    assert "*Boundary AP*" in panel.texts
    run("evaluate", scene.dataset)
    panel.send("on_evaluate_refresh")
    assert "boundary AP" not in [column.label for column in panel.shown["evaluate_table"].view.columns]
    assert "*Boundary AP*" not in panel.texts


def test_the_command_prints_it(scene, capsys):
    assert cli.main(["evaluate", scene.dataset.name, "--boundary"]) == 0
    text, value = capsys.readouterr().out, ntt.evaluate(scene.dataset, boundary=True).boundary.ap
    assert "edge" in text and f"boundary AP {value:.3f} (AP50" in text and f"{value:.3f}".lstrip("0") in text
