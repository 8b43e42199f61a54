"""A run that is executed in the App goes on in a process of its own, and can be followed and cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from bson import ObjectId
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState
from support.app import PanelSession, operator, requests_of, uri_of
from support.app import context as request_context

import fiftyone_ntt as ntt
from fiftyone_ntt.runs import background
from fiftyone_ntt.runs.listing import scheduled_work
from fiftyone_ntt.runs.workers import process_facts

PARAMS = {"bank": "squares", "points_per_side": 4, "device": "cpu"}
MOST_SECONDS = 300
"""Until a test gives up; nothing is judged by it."""


@pytest.fixture
def squares(pictures, lite):
    """Pictures with a memory bank of their first one."""
    ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", name="squares", device="cpu")
    return pictures


def executed_in_app(name, dataset, params):
    """What pressing *Execute* in a form does: the result, and what the App is asked to do."""
    ctx = request_context(name, dataset, params, operator_uri=uri_of(name))
    result = operator(name).execute(ctx)
    ctx.request_params["results"] = result
    return result, requests_of(ctx), operator(name).resolve_output(ctx)


def until(what, wanted):
    """Asks until the answer is what is wanted; returns it."""
    deadline = time.monotonic() + MOST_SECONDS
    while not wanted(answer := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"it still says {answer!r}")
        time.sleep(0.1)
    return answer


def states(dataset):
    return [run["state"] for run in ntt.list_runs(dataset)]


def process_of(dataset, operation):
    return background._workers(dataset).get(operation)["owner"]["pid"]


@pytest.mark.slow
def test_execute_returns_at_once_and_the_run_shows(squares):
    result, asked, outputs = executed_in_app("segment", squares, PARAMS)
    assert outputs is None, "nothing to look at: the form closes"
    assert any(name == "notify" and "background" in params["message"] for name, params in asked)
    assert states(squares) == ["starting"], "it is in the list as soon as the form closes"

    panel, seen = PanelSession(squares, "runs"), set()

    def look():
        panel.send("on_runs_refresh")
        assert len(panel.data["runs_table"]) == 1, "the row is there all the time"
        (now,) = states(squares)
        seen.add(now)
        return now

    assert "runs_timer" in panel.shown
    until(look, lambda now: now == "completed")
    assert {"starting", "completed"} <= seen <= {"starting", "running", "completed"}
    until(
        lambda: DelegatedOperationService().get(ObjectId(result["started"])).run_state, lambda now: now == "completed"
    )
    panel.send("on_runs_refresh")
    assert "runs_timer" not in panel.shown
    squares.reload()
    assert squares.count("ntt_status") == len(squares) - 1
    assert not scheduled_work(squares)


def test_an_error_in_the_background_is_told_in_a_sentence(squares):
    executed_in_app("segment", squares, {**PARAMS, "bank": "circles"})
    failed = until(lambda: [work for work in scheduled_work(squares) if work["state"] == "failed"], bool)
    assert "circles" in failed[0]["error"] and "Traceback" not in failed[0]["error"]
    assert states(squares) == []
    assert "circles" in PanelSession(squares, "runs").texts


def test_a_process_that_dies_is_noticed(squares):
    result, *_others = executed_in_app("segment", squares, PARAMS)
    number = process_of(squares, result["started"])
    os.kill(number, signal.SIGKILL)
    until(lambda: psutil.pid_exists(number), lambda there: not there)
    assert states(squares) in ([], ["interrupted"])
    (work,) = scheduled_work(squares)
    assert work["state"] == "failed" and work["error"]


def test_what_is_starting_can_be_cancelled_and_did_not_fail(squares):
    result, *_others = executed_in_app("segment", squares, PARAMS)
    number = process_of(squares, result["started"])
    panel = PanelSession(squares, "runs")
    panel.send("on_runs_cancel", row=0)
    assert any("cancelled" in message for message in panel.messages)
    until(lambda: psutil.pid_exists(number), lambda there: not there)
    assert scheduled_work(squares) == [], "what was cancelled has not failed"
    assert set(states(squares)) <= {"cancelled"}
    panel.send("on_runs_refresh")
    assert "runs_timer" not in panel.shown and "failed:" not in panel.texts


def test_work_whose_process_has_just_ended_can_be_cancelled(dataset, monkeypatch):
    """It ended between the question whether it is there, and the order to stop."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    request = {"dataset_name": dataset.name, "params": {}, "delegated": True}
    service = DelegatedOperationService()
    operation = str(service.queue_operation(operator=uri_of("segment"), context={"request_params": request}).id)
    facts = {"owner": {**process_facts(), "pid": gone.pid}, "log": ""}
    background._workers(dataset).set(operation, facts)
    monkeypatch.setattr(background, "has_died", lambda owner: False)
    assert background.cancel(dataset, operation)
    assert service.get(ObjectId(operation)).run_state == ExecutionRunState.FAILED
    assert not background.is_in_background(dataset, operation)


@pytest.mark.slow
def test_a_cancelled_run_that_is_resumed_says_so_at_once(squares):
    ntt.segment(squares.limit(3), "squares", "ntt", points_per_side=4, device="cpu")
    from fiftyone_ntt.runs.states import change_state

    change_state(squares, "ntt_ntt", lambda state: {**state, "state": "cancelled"})
    executed_in_app("resume_run", squares, {"run_key": "ntt_ntt"})
    assert states(squares) == ["starting"]
    until(lambda: (states(squares), scheduled_work(squares)), lambda now: now == (["completed"], []))


def test_other_long_work_has_a_row_too(squares):
    result, *_others = executed_in_app("index_candidates", squares, {"preset": "lite", "points_per_side": 4})
    panel = PanelSession(squares, "runs")
    (row,) = panel.data["runs_table"]
    assert row["run"] == "Precomputing candidates" and row["state"].startswith(("starting", "running"))
    panel.send("on_runs_undo", row=0)
    assert "only a labelling run" in panel.messages[-1]
    panel.send("on_runs_cancel", row=0)
    assert DelegatedOperationService().get(ObjectId(result["started"])).run_state == ExecutionRunState.FAILED
    assert panel.data["runs_table"] == [] and "failed:" not in panel.texts


def test_a_call_from_python_waits_for_its_result(squares):
    ctx = request_context("segment", squares, PARAMS)
    assert operator("segment").execute(ctx)["labelled"] + operator("segment").execute(ctx)["resumed"] > 0
    assert states(squares) == ["completed"]
