"""The tab "Runs" through real panel events: what it shows of runs in each state, and what its buttons ask for."""

from __future__ import annotations

import fiftyone as fo
import pytest
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionResult
from support.app import PanelSession, context
from support.runs import begin_run

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import RunCancelledError
from fiftyone_ntt.operators import OPERATORS
from fiftyone_ntt.operators.base import NttOperator
from fiftyone_ntt.panels.runs_tab import TITLES, WORDS
from fiftyone_ntt.runs.states import change_state
from fiftyone_ntt.runs.workers import Origin, Worker

SAMPLES = 10


@pytest.fixture
def samples(dataset):
    dataset.add_samples([fo.Sample(f"/data/{i}.png") for i in range(SAMPLES)])
    return dataset


def opened(dataset):
    return PanelSession(dataset, "runs")


def test_without_a_run_it_says_what_to_do(samples):
    panel = opened(samples)
    assert "No run yet" in panel.texts
    assert not {"runs_table", "runs_timer"} & set(panel.shown)


@pytest.mark.parametrize(
    ("state", "word"), [("completed", "done"), ("cancelled", "cancelled"), ("failed", "failed"), ("running", "stopped")]
)
def test_a_run_in_words(samples, state, word):
    begin_run(samples, state=state, error="no space left" if state == "failed" else None)
    panel = opened(samples)
    (row,) = panel.data["runs_table"]
    assert row["run"] == "ntt_found" and row["state"].startswith(word) and row["failed"] == 1
    assert row["images"] == ("4 of 4" if state == "completed" else "4 of 10")
    assert ("no space left" in panel.texts) == (state == "failed")
    assert "runs_timer" not in panel.shown, "nothing moves, so nothing is asked for again"


def test_a_run_at_work_moves(samples):
    begin_run(samples)
    worker = Worker(samples, "ntt_found", Origin("sdk"))
    panel = opened(samples)
    assert panel.data["runs_table"][0]["state"] == WORDS["running"]
    assert panel.data["runs_bar_0"] == pytest.approx(0.4)
    assert {"runs_bar_0", "runs_timer"} <= set(panel.shown)
    worker.end()
    panel.send("on_runs_refresh")
    assert "runs_timer" not in panel.shown
    assert panel.asked("reload_dataset"), "the grid shows what has been written"


def test_what_waits_says_how_to_start_a_worker(samples):
    params = {"bank": "fruits", "label_field": "later"}
    ctx = context("segment", samples, params, dataset_id=str(samples._doc.id))
    service = DelegatedOperationService()
    queued = service.queue_operation(operator="@fiftyone-ntt/ntt/segment", context=ctx)
    panel = opened(samples)
    assert [row["state"] for row in panel.data["runs_table"]] == ["waiting for a worker"]
    assert "fiftyone delegated launch" in panel.texts and "runs_timer" in panel.shown
    panel.send("on_runs_resume", row=0)
    assert not panel.asked("prompt_user_for_operation"), "it has to begin first"

    trace = "Traceback (most recent call last):\n  ...\nfiftyone_ntt.errors.InputError: no bank: build one"
    service.set_failed(queued.id, result=ExecutionResult(error=trace))
    panel.send("on_runs_refresh")
    assert "no bank: build one" in panel.texts and "Traceback" not in panel.texts
    service.delete_operation(queued.id)


@pytest.mark.parametrize(
    ("event", "state", "operator"),
    [
        ("on_runs_resume", "completed", "resume_run"),
        ("on_runs_undo", "completed", "undo_run"),
        ("on_runs_cancel", "completed", None),
    ],
)
def test_actions_of_a_row(samples, event, state, operator):
    begin_run(samples, "old", state="completed")
    begin_run(samples, "found", state=state)
    panel = opened(samples)
    row = [row["run"] for row in panel.data["runs_table"]].index("ntt_found")
    panel.send(event, row=row)
    prompts = panel.asked("prompt_user_for_operation")
    if operator is None:
        assert not prompts and "not at work" in panel.asked("notify")[0]["message"]
    else:
        assert prompts[0]["operator_uri"].endswith(f"/{operator}")
        assert prompts[0]["params"]["run_key"] == "ntt_found"


def test_cancel_asks_nothing(samples):
    begin_run(samples)
    worker = Worker(samples, "ntt_found", Origin("sdk"))
    panel = opened(samples).send("on_runs_cancel", row=0)
    assert not panel.asked("prompt_user_for_operation") and "is cancelled" in panel.messages[-1]
    with pytest.raises(RunCancelledError):
        worker.renew()
    worker.end()
    assert panel.data["runs_table"][0]["state"] == WORDS["cancelled"] and "failed:" not in panel.texts


def test_images_of_a_run(samples):
    begin_run(samples, state="completed")
    panel = opened(samples)
    panel.send("on_runs_show_errors", row=0)
    view = fo.DatasetView._build(samples, panel.asked("set_view")[0]["view"])
    assert view.values("id") == samples.skip(3).limit(1).values("id")
    panel.send("on_runs_show_labels", row=0)
    assert len(fo.DatasetView._build(samples, panel.asked("set_view")[0]["view"])) == 3


def test_a_run_without_failed_images_shows_none(samples):
    begin_run(samples, failed=0, state="completed")
    panel = opened(samples).send("on_runs_show_errors", row=0)
    assert not panel.asked("set_view") and "no failed images" in panel.asked("notify")[0]["message"]


def test_a_form_that_is_through_leads_back_to_its_tab(samples):
    begin_run(samples)
    panel = PanelSession(samples, "runs")
    panel.state = {}  # FiftyOne calls back without it
    panel.send("on_runs_refresh")
    assert panel.open_tab == "runs" and "runs_table" in panel.shown


def queue(dataset, operator, **params):
    ctx = context(operator, dataset, params, dataset_id=str(dataset._doc.id))
    return DelegatedOperationService().queue_operation(operator=f"@fiftyone-ntt/ntt/{operator}", context=ctx)


def test_a_run_whose_record_is_yet_to_come_has_its_row(samples):
    """Its state claims the work a moment before its record is there."""
    operation = queue(samples, "segment", label_field="found")
    assert [run["run_key"] for run in ntt.list_runs(samples)] == ["ntt_found"]
    begin_run(samples)
    change_state(samples, "ntt_found", lambda state: {**state, "operation": str(operation.id)})
    assert [run["state"] for run in ntt.list_runs(samples)] == ["interrupted"], "its own row, and no other"
    samples.delete_run("ntt_found")
    assert [run["run_key"] for run in ntt.list_runs(samples)] == ["ntt_found"]
    DelegatedOperationService().delete_operation(operation.id)


def test_a_job_is_not_announced_by_the_failure_of_another(samples):
    """Two exports of one name: the first failed long ago."""
    service, error = DelegatedOperationService(), "Traceback\nfiftyone_ntt.errors.InputError: no folder"
    failed = queue(samples, "export_labels")
    service.set_failed(failed.id, result=ExecutionResult(error=error))
    done = queue(samples, "export_labels")
    panel = opened(samples)
    assert panel.state["runs_active"] == [["Export", str(done.id)]]
    service.set_completed(done.id, result=ExecutionResult(result={}))
    assert panel.send("on_runs_refresh").messages == ["Export: done"]
    third = queue(samples, "export_labels")
    panel.send("on_runs_refresh")
    service.set_failed(third.id, result=ExecutionResult(error=error))
    assert panel.send("on_runs_refresh").messages[1:] == ["Export: failed"]
    for operation in (failed, done, third):
        service.delete_operation(operation.id)


def test_after_weaker_labels_came_back_the_review_goes_on(samples):
    """The job may be through before the panel has seen the run at work."""
    begin_run(samples, state="completed")
    job, panel = queue(samples, "lower_threshold"), PanelSession(samples, "review")
    panel.send("on_runs_lowering", original_params={"run_key": "ntt_found", "score_threshold": 0.1})
    assert panel.open_tab == "runs" and "Bringing weaker labels back" in panel.drawn
    DelegatedOperationService().set_completed(job.id, result=ExecutionResult(result={}))
    panel.send("on_runs_refresh")
    assert panel.open_tab == "review" and panel.state["review_field"] == "found"
    DelegatedOperationService().delete_operation(job.id)


def test_whatever_can_be_queued_has_a_title():
    queued = {one.NAME for one in OPERATORS if issubclass(one, NttOperator)
              and one.OPTIONS.get("allow_delegated_execution", True)}  # fmt: skip
    assert queued - {"segment", "resume_run"} <= set(TITLES)
