"""Splits a run into stages: what each took in time, and in any other quantity that only grows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

REST = "rest"
STAGES = ("mask encoder", "mask decoder", "features", "pooling", "compacting", "matching + merging", REST)
"""In the order of the table. ``rest`` is what belongs to none: resizing the image, moving tensors, glue."""
ENCODE, DECODE, FEATURES, POOL, COMPACT, MATCH, _ = STAGES
_FUNCTIONS = {"propose": DECODE, "pool": POOL, "compact": COMPACT}
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


def timer(device: torch.device) -> Clock:
    """A clock of seconds; waits for a CUDA device before every reading."""
    return Clock({"seconds": time.perf_counter}, lambda: settle(device))


def settle(device: torch.device) -> None:
    """Waits until a CUDA device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StagedModel:
    """A model whose ``encode...`` and ``decode...`` calls are stages; everything else is the model's own."""

    def __init__(self, model: Any, clock: Clock, encode: str) -> None:
        self._model, self._clock, self._encode = model, clock, encode

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        stage = {"encode": self._encode, "decode": DECODE}.get(name.partition("_")[0])
        if stage is None or not callable(value):
            return value

        def staged(*args: Any, **kwargs: Any) -> Any:
            with self._clock.stage(stage):
                return value(*args, **kwargs)

        return staged


@contextmanager
def staged(segmenter: Any, clock: Clock) -> Iterator[None]:
    """Within, the segmenter's models and the functions it calls are stages of ``clock``. One thread only."""
    import fiftyone_ntt.core.segmenter as module

    models = segmenter.proposal_model, segmenter.feature_model
    with ExitStack() as stack:
        segmenter.proposal_model = StagedModel(models[0], clock, ENCODE)
        segmenter.feature_model = StagedModel(models[1], clock, FEATURES)
        for name, stage in _FUNCTIONS.items():
            stack.enter_context(_staged_function(module, name, clock, stage))
        stack.enter_context(clock.stage(REST))
        try:
            yield
        finally:
            segmenter.proposal_model, segmenter.feature_model = models


@contextmanager
def _staged_function(module: Any, name: str, clock: Clock, stage: str) -> Iterator[None]:
    """A missing function is an error: its stage would silently become part of the rest."""
    original = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        with clock.stage(stage):
            return original(*args, **kwargs)

    setattr(module, name, call)
    try:
        yield
    finally:
        setattr(module, name, original)
