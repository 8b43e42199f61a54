"""Workers that are killed, interrupted or frozen in the middle of a run; ``benchmarks.faults`` does it for longer."""

from __future__ import annotations

import signal

import pytest

from benchmarks.faults_rounds import Faults

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults(database, tmp_path_factory):
    faults = Faults(tmp_path_factory.mktemp("faults"), images=12, seed=1)
    yield faults
    faults.close()


def test_the_undisturbed_run_is_worth_comparing_with(faults):
    states = [state.split(":")[0] for state in faults.reference.states.values() if state is not None]
    assert states.count("error") == 1 and states.count("ok") >= 8
    assert faults.labels > 20


@pytest.mark.parametrize(
    ("at", "workers", "number"),
    [
        ("time", 1, signal.SIGKILL),
        ("write", 1, signal.SIGKILL),
        ("write", 2, signal.SIGKILL),
        ("time", 1, signal.SIGTERM),
    ],
)
def test_resumed_run_has_the_labels_of_an_undisturbed_one(faults, at, workers, number):
    result = faults.round(at, workers, number)
    assert result.survived, str(result)


def test_an_interrupted_worker_keeps_what_it_has_computed(faults):
    result = faults.round("image", number=signal.SIGINT)
    assert result.survived, str(result)
    assert result.done_before > 0


def test_worker_that_slept_past_its_lease_writes_nothing_more(faults):
    result = faults.round("image", number=signal.SIGSTOP)
    assert result.survived, str(result)
