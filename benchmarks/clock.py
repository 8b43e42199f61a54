"""Splits a run into stages: what each took in time, and in any other quantity that only grows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import torch

REST = "rest"
STAGES = ("mask encoder", "mask decoder", "features", "pooling", "compacting", "matching + merging", REST)
"""In the order of the table. ``rest`` is what belongs to none: resizing the image, moving tensors, glue."""
ENCODE, DECODE, FEATURES, POOL, COMPACT, MATCH, _ = STAGES
_FUNCTIONS = {"propose": DECODE, "pool": POOL}
"""Functions that the segmenter calls by name -> stage."""


class Clock:
    """Adds up meters by stage. What an inner stage uses is not counted for the outer one.

    Args:
        meters: name -> reading of something that only grows.
        settle: called before each reading (waits for the device).
    """

    def __init__(self, meters: Mapping[str, Callable[[], float]], settle: Callable[[], None] = lambda: None) -> None:
        self.meters = meters
        self.settle = settle
        self.used: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(meters, 0.0))
        self._open: list[str] = []
        self._last: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Whatever the meters moved since the last reading belongs to the innermost open stage."""
        self.settle()
        now = {name: read() for name, read in self.meters.items()}
        if self._open:
            for name, value in now.items():
                self.used[self._open[-1]][name] += value - self._last[name]
        self._last = now


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """How long a piece of work takes, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def timer(device: torch.device) -> Clock:
    """A clock of seconds; waits for a CUDA device before every reading."""
    return Clock({"seconds": time.perf_counter}, lambda: settle(device))


def settle(device: torch.device) -> None:
    """Waits until a CUDA device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def staged(segmenter: Any, clock: Clock) -> Iterator[None]:
    """Within, the segmenter's models and the functions it calls are stages of ``clock``. One thread only."""
    import fiftyone_ntt.method.segmenter as module

    with ExitStack() as stack:
        stack.enter_context(staged_model(segmenter.proposal_model, clock, ENCODE))
        stack.enter_context(staged_model(segmenter.feature_model, clock, FEATURES))
        for name, stage in _FUNCTIONS.items():
            stack.enter_context(_replaced(module, name, clock, stage))
        stack.enter_context(clock.stage(REST))
        yield


@contextmanager
def staged_model(model: Any, clock: Clock, encode: str) -> Iterator[None]:
    """Within, the ``encode...`` methods of a model are the stage ``encode``, its ``decode...`` methods the decoder's.

    What a decoder of ours prepares once an image, while encoding, is the decoder's too.
    """
    with ExitStack() as stack:
        for name in dir(model):
            if name.startswith(("encode", "decode_")):
                stack.enter_context(_replaced(model, name, clock, DECODE if name.startswith("decode_") else encode))
        for name in ("decoder", "_decoder"):  # SAM2's is None where our decoder does not fit
            if hasattr(getattr(model, name, None), "prepare"):
                stack.enter_context(_replaced(getattr(model, name), "prepare", clock, DECODE))
        yield


@contextmanager
def _replaced(owner: Any, name: str, clock: Clock, stage: str) -> Iterator[None]:
    """A missing function is an error: its stage would silently become part of the rest."""
    original, own = getattr(owner, name), name in vars(owner)

    def call(*args: Any, **kwargs: Any) -> Any:
        with clock.stage(stage):
            return original(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
