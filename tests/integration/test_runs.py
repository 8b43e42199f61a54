"""Runs that are shared, cancelled, interrupted and resumed, with small random models and a real database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from fiftyone.operators.delegated import DelegatedOperationService
from support.app import PLUGIN, form, run
from support.pictures import Shape

import fiftyone_ntt as ntt
from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.dataset.labels import to_document
from fiftyone_ntt.errors import InputError, LeaseLostError, RunCancelledError
from fiftyone_ntt.models import PRESETS
from fiftyone_ntt.runs import states
from fiftyone_ntt.runs import workers as leases
from fiftyone_ntt.runs.workers import Origin, Worker, through

IMAGES = 9
pytestmark = pytest.mark.pictures(count=IMAGES, shapes=[Shape(step=8)])


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of about one sample, saved one by one, and leases of a second."""
    monkeypatch.setattr(states, "IN_A_CHUNK", 1)
    monkeypatch.setattr("fiftyone_ntt.runs.session._LARGEST_CHUNK", 1)
    monkeypatch.setenv(leases.LEASE_VARIABLE, "1")


def the_run(dataset):
    (run,) = ntt.list_runs(dataset)
    return run


def labels_of(dataset):
    """What every sample got, without ids."""
    return [
        [(label.label, label.bounding_box, label.confidence, label.mask.tobytes()) for label in found.detections]
        if found
        else None
        for found in dataset.values("found")
    ]


def stop_after(number, error=KeyboardInterrupt):
    def progress(done, total, message):
        if done >= number:
            raise error

    return progress


def test_a_run_tells_all_about_itself(pictures, bank, preset, tmp_path):
    pictures.add_sample(fo.Sample(str(tmp_path / "gone.png")))
    with through(Origin("cli", "someone")):
        report = ntt.segment(pictures, bank, "found", preset=preset, device="cpu")
    run = the_run(pictures)
    assert run["state"] == "completed"
    assert run["counts"] == {"ok": report.labelled, "empty": report.empty, "error": 1, "left": 0}
    assert run["throughput"] > 0 and run["eta_seconds"] is None and run["workers"] == 0
    assert (run["started_by"], run["door"], run["preset"]) == ("someone", "cli", preset.name)
    assert run["bank_hash"] == run["configuration"]["bank_hash"] == bank.content_hash
    assert run["options"]["device"] == "cpu" and run["configuration"]["points"] == "grid"


def test_two_workers_share_a_run(pictures, bank, preset, small_chunks):
    alone = ntt.segment(pictures, bank, "found", preset=preset)
    expected = labels_of(pictures)
    ntt.undo_run(pictures, alone.run_key)
    reports = []

    def work():
        reports.append(ntt.segment(fo.load_dataset(pictures.name), bank, "found", preset=preset, use_index=False))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(report.done for report in reports) == IMAGES - 1, "none twice"
    for report in reports:
        assert report.done + report.by_others + report.resumed == IMAGES - 1
    pictures.reload()
    assert labels_of(pictures) == expected
    assert the_run(pictures)["state"] == "completed"


def test_dataset_loaded_before_another_process_began_is_updated(pictures, bank, preset):
    first = ntt.segment(pictures.limit(4), bank, preset=preset)
    field = pictures.get_field("ntt")
    field._info = None  # as it was in the database before the other process noted what the field is
    second = ntt.segment(pictures, bank, preset=preset)
    assert (second.resumed, second.done) == (first.done, IMAGES - 1 - first.done)


def test_undo_leaves_no_state_lease_or_claim_behind(pictures, bank, preset):
    ntt.segment(pictures, bank, preset=preset)
    stores = [leases.run_store(pictures), leases._claims(pictures, "ntt_ntt")]
    assert all(store.list_keys() for store in stores)
    ntt.undo_run(pictures, "ntt_ntt")
    assert [store.list_keys() for store in stores] == [[], []]
    assert ntt.segment(pictures, bank, preset=preset).done == IMAGES - 1


def test_interrupted_and_resumed_from_what_is_kept_with_the_run(pictures, bank, preset):
    view = pictures.limit(6)
    with pytest.raises(KeyboardInterrupt):
        ntt.segment(view, bank, "found", preset=preset, progress=stop_after(2))
    run = the_run(pictures)
    assert (run["state"], run["counts"]["left"]) == ("interrupted", 3)
    report = ntt.resume_run(pictures, run["run_key"], preset=preset)
    assert (report.done, report.resumed) == (3, 2)
    run = the_run(pictures)
    assert (run["state"], run["counts"]["left"]) == ("completed", 0)
    again = ntt.segment(pictures, bank, "found", preset=preset)
    assert (again.done, again.resumed) == (3, 5), "a wider view"
    assert the_run(pictures)["counts"]["left"] == 0


def test_a_rerun_that_overwrites_goes_on_where_it_was(pictures, bank, preset):
    ntt.segment(pictures, bank, "found", preset=preset, points_per_side=3)
    arguments = {"preset": preset, "overwrite": True}
    with pytest.raises(KeyboardInterrupt):
        ntt.segment(pictures, bank, "found", progress=stop_after(3), **arguments)
    report = ntt.segment(pictures, bank, "found", **arguments)
    assert (report.done, report.resumed) == (IMAGES - 4, 3)
    assert ntt.segment(pictures, bank, "found", **arguments).done == IMAGES - 1, "once it is through, it starts anew"


def test_cancelling_stops_within_a_chunk(pictures, bank, preset, small_chunks):
    def cancel(done, total, message):
        if done == 2:
            assert ntt.cancel_run(fo.load_dataset(pictures.name), "ntt_found") == 1

    with pytest.raises(RunCancelledError, match="'ntt_found'.*cancelled.*resume_run"):
        ntt.segment(pictures, bank, "found", preset=preset, progress=cancel)
    run = the_run(pictures)
    assert run["state"] == "cancelled"
    assert run["counts"]["ok"] == 2, "nothing was written after that"
    assert ntt.resume_run(pictures, "ntt_found", preset=preset).done == IMAGES - 3
    assert the_run(pictures)["state"] == "completed"
    with pytest.raises(InputError, match="'ntt_found'.*completed"):
        ntt.cancel_run(pictures, "ntt_found")
    with pytest.raises(InputError, match="'other'.*'ntt_found'"):
        ntt.cancel_run(pictures, "other")


def test_a_run_whose_caller_gave_it_up_is_cancelled(pictures, bank, preset, small_chunks):
    given_up = threading.Event()

    def slowly(done, total, message):
        given_up.set()
        time.sleep(0.4)

    with through(Origin("delegated", "someone", "1234", given_up.is_set)), pytest.raises(RunCancelledError):
        ntt.segment(pictures, bank, "found", preset=preset, progress=slowly)
    assert the_run(pictures)["state"] == "cancelled"


def test_a_run_that_fails_says_why(pictures, bank, preset):
    with pytest.raises(ZeroDivisionError):
        ntt.segment(pictures, bank, "found", preset=preset, progress=stop_after(2, ZeroDivisionError("by nought")))
    run = the_run(pictures)
    assert (run["state"], run["error"], run["counts"]["ok"]) == ("failed", "by nought", 2)


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(pictures, small_chunks):
    first = Worker(pictures, "run", Origin())
    second = Worker(pictures, "run", Origin())
    assert first.claim("1") and not second.claim("1") and second.claim("2")
    first._over.set()  # as if the process had stopped: no more renewals
    first._thread.join()
    time.sleep(1.2)
    assert second.claim("1"), "its lease ran out"
    with pytest.raises(LeaseLostError, match="took over"):
        first.renew()
    with pytest.raises(LeaseLostError):
        first.claim("3")
    second.renew()
    second.end()
    assert not leases.live_workers(pictures, "run")


def test_worker_with_untaken_chunks_goes_on_after_a_long_sleep(pictures, small_chunks):
    worker = Worker(pictures, "run", Origin())
    worker._over.set()
    worker._thread.join()
    assert worker.claim("1")
    time.sleep(1.2)
    assert not leases.live_workers(pictures, "run")
    worker.renew()
    other = Worker(pictures, "run", Origin())
    assert not other.claim("1")
    for one in (worker, other):
        one.end()


CLAIM_AND_WAIT = """
import sys, time
import fiftyone as fo
from fiftyone_ntt.runs.workers import Worker
from fiftyone_ntt.runs.session import Origin
assert Worker(fo.load_dataset(sys.argv[1]), "run", Origin()).claim("1")
print("claimed", flush=True)
time.sleep(60)
"""


def test_nobody_waits_for_a_process_that_was_killed(pictures, database):
    command = [sys.executable, "-c", CLAIM_AND_WAIT, pictures.name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ, text=True)
    assert process.stdout is not None and process.stdout.readline() == "claimed\n"
    worker = Worker(pictures, "run", Origin())
    try:
        assert not worker.claim("1")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert worker.claim("1"), "long before its lease of a minute runs out"
    finally:
        process.kill()
        worker.end()


def refusal(name, dataset, params):
    return " ".join(form(name, dataset, params)[1].values())


@pytest.fixture
def named(pictures, preset, monkeypatch):
    """The pictures with a bank under a name, of a preset that operators find by its name."""
    monkeypatch.setitem(PRESETS, preset.name, preset)
    ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset, name="squares")
    return pictures


def test_the_apps_operators_cancel_resume_and_undo(named, preset):
    assert "labelling run" in refusal("cancel_run", named, {"run_key": "ntt_found"})
    with pytest.raises(KeyboardInterrupt):
        ntt.segment(named, "squares", "found", progress=stop_after(2))
    for name in ("cancel_run", "resume_run", "undo_run"):
        assert refusal(name, named, {"run_key": "ntt_found"}) == ""
    assert run("cancel_run", named, {"run_key": "ntt_found"})[0]["workers"] == 0
    assert the_run(named)["state"] == "cancelled"
    assert "there is" not in refusal("cancel_run", named, {"run_key": "ntt_found"})
    assert run("resume_run", named, {"run_key": "ntt_found"})[0]["resumed"] == 2
    assert (the_run(named)["state"], the_run(named)["counts"]["left"]) == ("completed", 0)
    assert run("undo_run", named, {"run_key": "ntt_found"})[0]["removed"] > 0
    assert ntt.list_runs(named) == []
    again, _ = run("segment", named, {"bank": "squares", "label_field": "found"})
    assert again["labelled"] == IMAGES - 1
    assert the_run(named)["door"] == "app"


def test_scheduled_run_stops_when_marked_as_failed_and_resumes(named, monkeypatch, small_chunks):
    monkeypatch.setattr(leases, "_LONGEST_BEAT", 0.05)
    service, started = DelegatedOperationService(), threading.Event()
    arguments = {"bank": "squares", "label_field": "found", "overwrite": True}
    queued = foo.execute_operator(f"{PLUGIN}/segment", {"dataset": named, "params": arguments}, request_delegation=True)
    operation = queued.result["id"]
    assert [(run["run_key"], run["state"]) for run in ntt.list_runs(named)] == [("ntt_found", "queued")]

    def slowly(*arguments):
        started.set()
        time.sleep(0.3)
        return to_document(*arguments)

    with monkeypatch.context() as slower:
        slower.setattr("fiftyone_ntt.runs.labeller.to_document", slowly)
        worker = threading.Thread(target=lambda: service.execute_operation(service.get(operation)))
        worker.start()
        assert started.wait(60)
        service.set_failed(operation)
        worker.join()
    named.reload()
    run = the_run(named)
    assert (run["state"], run["door"]) == ("cancelled", "delegated")
    done = run["counts"]["ok"]
    assert done < IMAGES - 1

    again = service.rerun_operation(operation)
    assert the_run(named)["state"] == "queued"
    service.execute_operation(again)
    result = service.get(again.id).result.result
    assert (result["resumed"], result["labelled"]) == (done, IMAGES - 1 - done)
    assert the_run(named)["state"] == "completed"


def test_the_command_line_lists_shows_resumes_cancels_and_undoes(named, capsys):
    def said(*arguments, code=0):
        assert cli.main(["runs", *arguments]) == code
        captured = capsys.readouterr()
        return " ".join((captured.out + captured.err).split())

    name = named.name
    assert "no labelling runs" in said("list", name)
    with pytest.raises(KeyboardInterrupt):
        ntt.segment(named, "squares", "found", progress=stop_after(2))
    assert "interr" in said("list", name)
    assert "0 workers told to stop" in said("cancel", name, "ntt_found")
    assert said("show", name, "ntt_found").startswith("run 'ntt_found' is cancelled: 2 ok, 0 empty, 0 error")
    assert '"state": "cancelled"' in said("show", name, "ntt_found", "--json")
    assert "2 done before" in said("resume", name, "ntt_found")
    shown = said("show", name, "ntt_found")
    assert "0 left in field 'found'" in shown and "`runs undo` takes back what labelling wrote on" in shown
    assert '"left": 0' in said("show", name, "ntt_found", "--json")
    assert "completed" in said("cancel", name, "ntt_found", code=2)
    assert "'ntt_found'" in said("show", name, "other", code=2)
    assert "took back what labelling wrote on" in (undone := said("undo", name, "ntt_found"))
    assert "Nothing of it is left." in undone and "undo_run" not in undone
    assert "FiftyOne dataset" in said("list", "no-such-dataset", code=2)
