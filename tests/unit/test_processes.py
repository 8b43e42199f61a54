"""A process is the one that it was, whatever the clock says; and no other that has its number."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from fiftyone_ntt.runs import processes
from fiftyone_ntt.runs.processes import has_died, process_facts


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the time of day is all there is")
@pytest.mark.parametrize("seconds", [-3600, -5, 5, 3600])
def test_a_clock_that_is_set_ends_no_process(monkeypatch, seconds):
    """psutil adds the time at which the machine started, which moves along."""
    facts = process_facts()
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + seconds)
    assert not has_died(facts)


@pytest.mark.parametrize(
    ("change", "died"),
    [
        ({}, False),
        ({"ticks": 1}, True),
        ({"ticks": None}, False),
        ({"ticks": None, "born": 1.0}, True),
        ({"machine": "another one", "ticks": 1}, False),
    ],
    ids=["itself", "another of its number", "by the time of day", "another by the time of day", "elsewhere"],
)
def test_which_process_is_meant(change, died):
    assert has_died({**process_facts(), **change}) == died


def test_facts_of_an_earlier_version_are_read():
    facts = process_facts()
    del facts["ticks"]
    assert not has_died(facts)


def test_without_the_ticks_the_time_of_day_decides(monkeypatch):
    facts = process_facts()
    monkeypatch.setattr(processes, "_ticks_at_start", lambda _pid: None)
    assert not has_died(facts) and has_died({**facts, "born": facts["born"] + 5})


def test_a_process_that_has_ended_is_dead():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        facts = process_facts(child.pid)
        assert not has_died(facts)
        child.kill()
    assert has_died(facts)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are given in another way elsewhere")
def test_a_name_with_blanks_and_brackets_hides_nothing(tmp_path):
    name = tmp_path / "a ) b ("
    name.symlink_to("/bin/sleep")
    with subprocess.Popen([name, "60"]) as child:
        facts = process_facts(child.pid)
        assert isinstance(facts["ticks"], int) and facts["ticks"] > 0 and not has_died(facts)
        child.kill()
