"""Prompts in parallel on the CPU: each on one thread from start to end, none waiting for another.

Torch splits every single operation among its threads instead, and they wait for each other after each. The decoder's
operations are too small for that: it gains less with two threads, nothing with many, and beside any other busy process
the waiting makes it several times slower.


Torch's number of threads, set for one thread alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The function's results, in order, from as many threads as torch uses; torch is single-threaded in each."""
    work = list(items)
    count = torch.get_num_threads()
    if count == 1 or len(work) < 2:
        return [function(item) for item in work]
    return list(_pool(count).map(function, work))


def _pool(count: int) -> ThreadPoolExecutor:
    """The pool of this process; a forked child has none of its parent's threads."""
    with _lock:
        key = (os.getpid(), count)
        if key not in _pools:
            _pools[key] = _single_threaded(count)
        return _pools[key]


def _single_threaded(count: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(count, thread_name_prefix="ntt-decoder")
    together = threading.Barrier(count)

    def prepare() -> None:
        use_torch_threads(1)  # in effect for this thread alone ...
        together.wait()

    for future in [pool.submit(prepare) for _ in range(count)]:
        future.result()
    use_torch_threads(count)  # also for threads that start later
    return pool


def use_torch_threads(count: int) -> None:
    """Torch operators called from this thread use ``count`` threads; other threads that have begun keep theirs.

    Threads that begin later take over the number set last, by whichever thread: put it right when all have begun.
    """
    torch.get_num_threads()  # a thread's first question makes it take over the process's number; then ours stays
    torch.set_num_threads(count)
