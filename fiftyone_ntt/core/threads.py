"""Torch's number of threads, set for one thread alone."""

from __future__ import annotations

import torch


def use_torch_threads(count: int) -> None:
    """Torch operators called from this thread use ``count`` threads; other threads that have begun keep theirs.

    Threads that begin later take over the number set last, by whichever thread: put it right when all have begun.
    """
    torch.get_num_threads()  # a thread's first question makes it take over the process's number; then ours stays
    torch.set_num_threads(count)
