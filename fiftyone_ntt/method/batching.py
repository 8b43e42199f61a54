"""Several at once through a model: batches that shrink when memory runs out, and batches of images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from fiftyone_ntt.pixels.frames import ImageFrame

logger = logging.getLogger(__name__)

R = TypeVar("R")


@runtime_checkable
class BatchEncoder(Protocol):
    """What a ``ProposalModel`` may offer besides: several images through its encoder at once."""

    def encode_batch(self, pixels: Tensor, frames: Sequence[ImageFrame]) -> list[Any]:
        """Runs the image encoder.

        Args:
            pixels: float32 ``[B, 3, side, side]``, each as ``ProposalModel.encode`` takes it.
            frames: B frames, those the pixels were rendered with.

        Returns:
            B embeddings, each as ``ProposalModel.encode`` returns it.
        """
        ...


class BatchSize:
    """How many go through a model at once. Halves when memory runs out, and stays so for what follows."""

    def __init__(self, size: int) -> None:
        self.size = size

    def halve(self) -> bool:
        """Whether that was possible: a batch of one is the smallest."""
        if self.size <= 1:
            return False
        self.size //= 2
        return True


def in_batches(
    function: Callable[[Tensor, int], R],
    points: Tensor,
    size: BatchSize | int,
    *,
    pad: bool = False,
    what: str = "prompts",
) -> list[R]:
    """Calls a function batch by batch; on out-of-memory with half as many, down to one.

    Args:
        function: takes ``points[i:j]`` and how many of them count; what it returns must not hold what only padding
            gave.
        points: ``[P, ...]`` of any kind.
        size: the largest batch. A ``BatchSize`` remembers where it had to shrink.
        pad: repeat the last point until the last batch is full, so that all shapes are equal.
        what: what they are, for the log.

    Returns:
        What the calls returned, in order; nothing where there are no points.

    Raises:
        torch.OutOfMemoryError: if not even one point fits.
    """
    size = BatchSize(size) if isinstance(size, int) else size
    results: list[R] = []
    start = 0
    while start < len(points):
        batch = points[start : start + size.size]
        count = len(batch)
        if pad and count < size.size:
            batch = torch.cat([batch, batch[-1:].expand(size.size - count, *batch.shape[1:])])
        try:
            results.append(function(batch, count))
            start += count
            continue
        except torch.OutOfMemoryError:
            if not size.halve():
                raise
        # Not inside the except clause: until that ends, the error keeps the tensors of the failed batch alive.
        torch.cuda.empty_cache()
        logger.warning("out of memory with %d %s at once, going on with %d", len(batch), what, size.size)
    return results
