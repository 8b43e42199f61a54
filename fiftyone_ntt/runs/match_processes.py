"""Stage two in processes of its own, for runs that go faster than one process can match.

Matching is many short steps, and Python takes them one at a time, in however many threads: two threads on two cores
did 1.4 times what one did, two processes twice as much (``docs/experiments/speed.md``). Images come from the candidate
cache, or from a card, so fast that this is what a run waits for. The processes are joblib's, which need no
``if __name__ == "__main__"`` in the script that labels; they know the method only, neither FiftyOne nor its database.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.referring import ReferringMatcher
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.models.devices import use_torch_threads

logger = logging.getLogger(__name__)

PROCESSES_VARIABLE = "FIFTYONE_NTT_MATCH_PROCESSES"
"""Environment variable: how many processes match, 0 for none."""
_MOST_PROCESSES = 4  # what is left in the caller's process, documents and their writing, keeps no more than these busy
_LOOK_AFTER = 40
"""Images that are matched by the caller before it is decided whether processes pay: they take seconds to start."""
_WITHIN = 20.0
"""Seconds: where those took longer, the models are what the run waits for."""
_LEFT = 120
"""Images that must be left."""
_PARENT_EVERY = 5.0
"""Seconds after which a process looks again whether the one that labels is still there."""


def process_count() -> int:
    """How many processes match: a core each, at most four; or as the environment says. 0 on one core.

    Raises:
        InputError: if the environment says something that is no number.
    """
    if asked := os.environ.get(PROCESSES_VARIABLE):
        if not asked.isdecimal():
            raise InputError(f"expected {PROCESSES_VARIABLE} to be a whole number, 0 for none, got {asked!r}")
        return int(asked)
    return 0 if cores() == 1 else min(cores(), _MOST_PROCESSES)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MatchProcesses:
    """Processes that match images with one memory bank. Safe in any thread; starts them when they pay, or never.

    Args:
        bank: the memory bank.
        config: settings of the match.
        referring: whether each reference is looked for on its own.
        images: how many images there are.
    """

    def __init__(self, bank: MemoryBank, config: MatchConfig, *, referring: bool, images: int) -> None:
        self._given = (bank, config, referring, os.getpid())
        self._images = images
        self._count = process_count()
        self._seen, self._since = 0, time.monotonic()
        self._pool: Any = None
        self._up: Future[None] | None = None
        self._lock = threading.Lock()

    def match(self, image: object) -> Instances | None:
        """Labels an image in one of the processes; ``None`` where the caller is to do it.

        Raises:
            InputError: as ``Matcher.match`` does.
        """
        pool = self._ready() if isinstance(image, CompactImage) else None
        if pool is None:
            return None
        try:
            result: Instances = pool.submit(_match, image).result()
        except (BrokenExecutor, OSError) as error:  # killed, for want of memory mostly
            self._give_up(error)
            return None
        return result

    def close(self) -> None:
        """Ends the processes."""
        with self._lock:
            pool, self._pool, self._count = self._pool, None, 0
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=True)

    def _ready(self) -> Any:
        """The processes, once they are up; starts them when so many images came so fast that they pay."""
        with self._lock:
            self._seen += 1
            if not self._count:
                return None
            if self._pool is None and self._seen == _LOOK_AFTER:
                fast = time.monotonic() - self._since < _WITHIN
                if fast and self._images - self._seen >= _LEFT:
                    self._start()
            up = self._up is not None and self._up.done()
        if not up:
            return None
        return self._pool

    def _start(self) -> None:
        try:
            from joblib.externals.loky import ProcessPoolExecutor

            self._pool = ProcessPoolExecutor(
                self._count, timeout=60, initializer=_prepare, initargs=self._given, env={"OMP_NUM_THREADS": "1"}
            )
            self._up = self._pool.submit(_is_up)
        except Exception as error:  # a daemon may have no children, a container no semaphores: threads do it then
            logger.debug("no processes to match in: %s", error)
            self._pool, self._up, self._count = None, None, 0

    def _give_up(self, error: BaseException) -> None:
        with self._lock:
            first, self._count = self._count > 0, 0
            pool, self._pool, self._up = self._pool, None, None
        if first:
            logger.warning("a process that matched images was ended (%s); going on without", type(error).__name__)
        if pool is not None:
            pool.shutdown(wait=False, kill_workers=True)


_matcher: Matcher | ReferringMatcher  # of this process, where it is one of them; ``_prepare`` sets it


def _prepare(bank: MemoryBank, config: MatchConfig, referring: bool, parent: int) -> None:
    """What each process does first."""
    global _matcher
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that labels, which ends this one
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    use_torch_threads(1)
    _matcher = ReferringMatcher(bank, config) if referring else Matcher(bank, config)


def _end_with(parent: int) -> None:
    """Ends this process when the one that labels is gone, killed say; nobody would tell it."""
    while os.getppid() == parent:
        time.sleep(_PARENT_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_up() -> None:
    """The first task: it is done when a process is ready."""


def _match(image: CompactImage) -> Instances:
    return _matcher.match(image)
