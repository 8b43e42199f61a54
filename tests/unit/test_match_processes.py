"""Processes that match: the same to the bit, started only where they pay, and none is missed when it dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.fake_models import fake_segmenter

from fiftyone_ntt.candidates.compact import compact
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.referring import ReferringMatcher
from fiftyone_ntt.runs import match_processes
from fiftyone_ntt.runs.match_processes import MatchProcesses, process_count

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return [compact(fake_segmenter().candidates(random.integers(0, 256, (60, 90, 3), np.uint8))) for _ in range(3)]


@pytest.fixture(scope="module")
def bank(images):
    vectors = images[0].vectors.astype(np.float32)
    vectors = vectors[np.isfinite(vectors).all(axis=1)][:4]
    return MemoryBank(("a", "b"), vectors, np.array([0, 0, 1, 1]), tuple("1234"), None)


@pytest.fixture
def eager(monkeypatch):
    """Two processes, from the first image on."""
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, "2")
    monkeypatch.setattr(match_processes, "_LOOK_AFTER", 1)


def up(processes, image):
    """What the processes find in an image, as soon as they are up."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = processes.match(image)
        if found is not None:
            return found
        time.sleep(0.05)
    pytest.fail("no process in five minutes")


def same(one, other):
    assert len(one) == len(other) and one.image_size == other.image_size
    for name in ("boxes", "scores", "labels", "predicted_iou", "similarity", "alternative", "masks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("referring", [False, True])
def test_labels_are_the_same_to_the_bit(referring, images, bank, eager):
    config = MatchConfig()
    here = ReferringMatcher(bank, config) if referring else Matcher(bank, config)
    processes = MatchProcesses(bank, config, referring=referring, images=1000)
    try:
        up(processes, images[0])
        for image in images:
            found = processes.match(image)
            assert found is not None and len(found)
            same(found, here.match(image))
    finally:
        processes.close()


def test_what_is_wrong_with_an_image_is_said_as_ever(images, bank, eager):
    """Of a bank of other models: the sentence is that of the matcher."""
    other = MemoryBank(bank.classes, bank.vectors[:, :-1], bank.class_index, bank.reference_ids, None)
    with pytest.raises(InputError) as here:
        Matcher(other, MatchConfig()).match(images[0])
    processes = MatchProcesses(other, MatchConfig(), referring=False, images=1000)
    try:
        with pytest.raises(InputError) as there:
            up(processes, images[0])
        assert str(there.value) == str(here.value)
    finally:
        processes.close()


def matching():
    """The processes that match now."""
    found = {child: " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)}
    return {child for child, command in found.items() if "loky" in command and "resource_tracker" not in command}


def test_a_killed_process_is_not_missed(images, bank, eager, caplog):
    before = matching()
    processes = MatchProcesses(bank, MatchConfig(), referring=False, images=1000)
    try:
        up(processes, images[0])
        mine = list(matching() - before)
        assert mine
        for child in mine:
            child.kill()
        psutil.wait_procs(mine, 30)
        assert processes.match(images[0]) is None, "the caller does it"
        assert [message for message in caplog.messages if "was ended" in message]
        assert processes.match(images[0]) is None
    finally:
        processes.close()


def test_no_process_is_left(images, bank, eager):
    before = matching()
    processes = MatchProcesses(bank, MatchConfig(), referring=False, images=1000)
    up(processes, images[0])
    mine = list(matching() - before)
    processes.close()
    assert mine and not psutil.wait_procs(mine, 30)[1]
    assert processes.match(images[0]) is None, "closed"


@pytest.mark.parametrize(
    ("count", "all_images", "seconds", "started"),
    [("2", 1000, 0.0, True), ("0", 1000, 0.0, False), ("2", 100, 0.0, False), ("2", 1000, 1.0, False)],
    ids=["many and fast", "none wanted", "few images", "slow models"],
)
def test_they_start_where_they_pay(count, all_images, seconds, started, images, bank, monkeypatch):
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, count)
    clock = iter(np.arange(1000) * seconds)
    monkeypatch.setattr(match_processes.time, "monotonic", lambda: next(clock) * 25)
    starts = []
    monkeypatch.setattr(MatchProcesses, "_start", lambda self: starts.append(self._seen))
    processes = MatchProcesses(bank, MatchConfig(), referring=False, images=all_images)
    assert all(processes.match(images[0]) is None for _ in range(60))
    assert starts == ([40] if started else [])
    assert processes.match("a tiled image") is None


def test_no_processes_is_no_error(images, bank, eager, monkeypatch):
    """As in a daemon, which may have no children."""

    def refuse(*given, **named):
        raise AssertionError("daemonic processes are not allowed to have children")

    monkeypatch.setattr("joblib.externals.loky.ProcessPoolExecutor", refuse)
    processes = MatchProcesses(bank, MatchConfig(), referring=False, images=1000)
    assert [processes.match(images[0]) for _ in range(3)] == [None] * 3


def test_they_know_no_fiftyone_and_leave_interrupts_alone(images, bank, eager):
    processes = MatchProcesses(bank, MatchConfig(), referring=False, images=1000)
    try:
        up(processes, images[0])
        assert not processes._pool.submit(lambda: {"fiftyone", "pymongo"} & set(sys.modules)).result()
        assert processes._pool.submit(lambda: signal.getsignal(signal.SIGINT)).result() == signal.SIG_IGN
    finally:
        processes.close()


def test_how_many(monkeypatch):
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, "7")
    assert process_count() == 7
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, "")
    assert process_count() <= 4


@pytest.mark.parametrize("asked", ["-1", "many", "1.5"])
def test_what_is_no_number_is_refused(asked, monkeypatch):
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, asked)
    with pytest.raises(InputError, match=f"expected FIFTYONE_NTT_MATCH_PROCESSES to be a whole .*got '{asked}'"):
        process_count()


SCRIPT = """
import os, sys, time
sys.path.insert(0, {tests!r})
import numpy as np
from support.fake_models import fake_segmenter
from fiftyone_ntt.runs import match_processes
from fiftyone_ntt.core import MatchConfig, MemoryBank, compact
print("begun")
match_processes._LOOK_AFTER = 1
image = compact(fake_segmenter().candidates(np.full((60, 90, 3), 200, np.uint8)))
bank = MemoryBank(("a",), image.vectors[:1].astype("f"), np.array([0]), ("1",), None)
processes = match_processes.MatchProcesses(bank, MatchConfig(), referring=False, images=1000)
while processes.match(image) is None and processes._count:
    time.sleep(0.05)
print("matched" if processes._count else "gave up")
if sys.argv[1:]:
    print(*processes._pool._processes, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_script_without_a_guard_runs_once(tmp_path, monkeypatch):
    """No ``if __name__ == "__main__"``, and no ``close``: as people write scripts, and as they end."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, "1")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=ROOT, env=None, check=False
    )
    assert done.stdout.split() == ["begun", "matched"], done.stderr[-2000:]


@pytest.mark.skipif(sys.platform == "win32", reason="there a process does not learn who its parent is now")
def test_they_end_when_the_run_is_killed(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    monkeypatch.setenv(match_processes.PROCESSES_VARIABLE, "1")
    with open(tmp_path / "said", "w+") as said:  # not a pipe, which they would hold open
        subprocess.run([sys.executable, str(script), "kill"], stdout=said, timeout=300, cwd=ROOT, check=False)
        said.seek(0)
        begun, matched, *numbers = said.read().split()
    assert (begun, matched) == ("begun", "matched") and numbers
    for _ in range(600):
        if not any(_lives(int(number)) for number in numbers):
            return
        time.sleep(0.1)
    pytest.fail("they are still there")


def _lives(number):
    """A process that nobody waited for is a zombie where no init does that."""
    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE
