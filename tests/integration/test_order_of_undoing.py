"""Runs that wrote over each other are undone the last one first, whatever the clock said when they were made."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from support.labelled import PICTURES, labels_of

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.runs import history

pytestmark = pytest.mark.pictures(**PICTURES)

CLOCKS = {
    "right": (0, 10, 20, 30),
    "set back": (0, -3600, -7200, -9000),
    "ahead once": (0, 3600, 10, 20),
    "behind once": (0, -3600, 10, 20),
    "stopped": (0, 0, 0, 0),
}
ORDERS = ["ab", "aba", "abc", "aab", "abba"]
"""Which run writes over what was there, one after the other."""


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_last_run_is_undone_first(pictures, bank, preset, monkeypatch, order, clock):
    real, states = time.time(), []
    for key, seconds in zip(order, CLOCKS[clock], strict=False):
        states.append(said(pictures))
        monkeypatch.setattr(history, "time", SimpleNamespace(time=lambda now=real + seconds: now))
        ntt.segment(pictures, bank, "found", run_key=f"run_{key}", preset=preset, overwrite=True)
    for i in reversed(range(len(order))):
        top = order[i]
        for other in set(order[:i]) - {top}:
            with pytest.raises(InputError, match=f"has overwritten labels of run 'run_{other}'"):
                ntt.undo_run(pictures, f"run_{other}")
        ntt.undo_run(pictures, f"run_{top}")
        assert said(pictures) == states[i]
    assert ntt.list_runs(pictures) == []


def said(dataset):
    """The labels, whose they are, and the runs that are there."""
    if not dataset.has_field("found"):
        return None
    return labels_of(dataset, "found"), dataset.get_field("found").info["ntt"]["run_key"], sorted(dataset.list_runs())


def test_a_run_that_is_half_undone_comes_first(pictures, bank, preset, monkeypatch):
    """Its field says already what it said before; its pass is still there."""
    from fiftyone_ntt.runs import undo

    ntt.segment(pictures, bank, "found", run_key="run_a", preset=preset)
    ntt.segment(pictures, bank, "found", run_key="run_b", preset=preset, overwrite=True)

    def die(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(undo, "_forget", die)
        with pytest.raises(KeyboardInterrupt):
            ntt.undo_run(pictures, "run_b")
    with pytest.raises(InputError, match="undo 'run_b' first"):
        ntt.undo_run(pictures, "run_a")
    ntt.undo_run(pictures, "run_b")
    ntt.undo_run(pictures, "run_a")
    assert ntt.list_runs(pictures) == []
