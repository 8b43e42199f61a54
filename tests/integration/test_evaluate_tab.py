"""The tab "Evaluate" through real panel events."""

from __future__ import annotations

import fiftyone as fo
import pytest
from PIL import Image
from support.app import PanelSession
from support.runs import begin_run

import fiftyone_ntt as ntt


def label(name, left, score=None):
    return fo.Detection(label=name, bounding_box=[left, 0.1, 0.2, 0.4], confidence=score)


@pytest.fixture
def judged(dataset, tmp_path):
    """Per image a found fig, a fig that is missed, and a nut that is none; the labels come from a run."""
    for i in range(2):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (80, 60)).save(path)
        truth = fo.Detections(detections=[label("fig", 0.1), label("fig", 0.7)])
        dataset.add_sample(fo.Sample(str(path), truth=truth))
    begin_run(dataset, "found", done=2, failed=0, state="completed")
    found = fo.Detections(detections=[label("fig", 0.1, 0.9), label("nut", 0.4, 0.8)])
    dataset.set_values("found", [found.copy() for _ in range(2)])
    return dataset


def opened(dataset):
    return PanelSession(dataset, "evaluate")


def test_without_ground_truth_it_says_so(dataset):
    dataset.add_sample(fo.Sample("/data/a.png"))
    assert "Nothing to compare with yet" in opened(dataset).texts


def test_it_proposes_the_runs_labels_and_what_is_not_a_runs(judged):
    panel = opened(judged)
    assert (panel.state["evaluate_label_field"], panel.state["evaluate_gt_field"]) == ("found", "truth")
    assert "Not evaluated yet" in panel.texts
    panel.send("on_evaluate_run")
    (prompt,) = panel.asked("prompt_user_for_operation")
    expected = {"label_field": "found", "gt_field": "truth", "eval_key": "found_eval", "view_target": "DATASET"}
    assert {key: prompt["params"][key] for key in expected} == expected


def test_it_never_proposes_to_judge_the_truth_by_itself(judged):
    judged.rename_sample_field("truth", "ground_truth")
    panel = opened(judged)
    assert panel.state["evaluate_label_field"] == "found"
    panel.state["evaluate_label_field"] = "ground_truth"  # as before the first run, when there was nothing else
    panel.send("on_evaluate_refresh")
    assert (panel.state["evaluate_label_field"], panel.state["evaluate_gt_field"]) == ("found", "ground_truth")


def test_results_are_there_after_a_reload(judged):
    ntt.evaluate(judged, "found", "truth", eval_key="found_eval", classes=["fig", "nut"])
    panel = opened(judged)
    table = panel.data["evaluate_table"]
    assert [row["class"] for row in table] == ["all", "fig", "nut"]
    assert (table[1]["objects"], table[1]["predictions"], table[1]["mask_ap"]) == (4, 2, "-")
    assert panel.data["evaluate_plot"][0]["x"] == ["fig", "nut"]
    assert "**found** against **truth**, 2 images" in panel.texts
    columns = [column.label for column in panel.shown["evaluate_table"].view.columns]
    assert "box AP" in columns and "mask AP" not in columns, "there are no masks to speak of"
    names = list(panel.shown)
    assert names.index("evaluate_table") < names.index("evaluate_plot"), "a plot pushes down what follows it"


@pytest.mark.parametrize(
    ("event", "field", "row", "labels"),
    [
        ("on_evaluate_show_tp", "found", None, ["fig", "fig"]),
        ("on_evaluate_show_fp", "found", None, ["nut", "nut"]),
        ("on_evaluate_show_fp", "found", 1, []),
        ("on_evaluate_show_fn", "truth", 1, ["fig", "fig"]),
        ("on_evaluate_show_fn", "truth", 0, ["fig", "fig"]),
    ],
)
def test_right_and_wrong_labels_in_the_grid(judged, event, field, row, labels):
    ntt.evaluate(judged, "found", "truth", eval_key="found_eval", classes=["fig", "nut"])
    panel = opened(judged).send(event, **({} if row is None else {"row": row}))
    assert panel.grid.values(f"{field}.detections.label", unwind=True) == labels
    assert panel.view.values(f"{field}.detections") == judged.values(f"{field}.detections"), "all are there to edit"
    panel.send("on_evaluate_everything")
    assert panel.filters == {}


def test_matches_that_are_gone(judged):
    ntt.evaluate(judged, "found", "truth", eval_key="found_eval")
    judged.delete_evaluation("found_eval")
    panel = opened(judged).send("on_evaluate_show_tp")
    assert not panel.asked("set_filters") and "Evaluate again" in panel.asked("notify")[0]["message"]


def test_fiftyones_own_panel_is_a_click_away(judged):
    ntt.evaluate(judged, "found", "truth", eval_key="found_eval")
    panel = opened(judged).send("on_evaluate_panel")
    assert panel.asked("open_panel")[0]["name"] == "model_evaluation_panel_builtin"


def test_a_grid_of_patches_is_left_alone(judged):
    """Filters on labels of images change nothing of patches: better to say so."""
    ntt.evaluate(judged, "found", "truth", eval_key="found_eval")
    panel = opened(judged)
    panel.view = judged.to_patches("found")
    panel.send("on_evaluate_show_tp")
    assert not panel.asked("set_filters") and "patches" in panel.asked("notify")[0]["message"]
