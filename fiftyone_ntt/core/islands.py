"""Masks without their islands: a few stray pixels far away ruin the box of an otherwise good mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.core.frames import ImageFrame
from fiftyone_ntt.core.masks import Crop, MaskSource
from fiftyone_ntt.core.runs import Runs, are_islands


class WithoutIslands:
    """Masks as those of ``source``, but for components much smaller than the largest one of their mask.

    Args:
        source: N masks.
        runs: the same masks as runs.
        share: components smaller than this share of the largest are left out.
    """

    def __init__(self, source: MaskSource, runs: Runs, share: float) -> None:
        self._source = source
        islands = are_islands(runs, share)
        self._kept, self._islands = runs.select(~islands), runs.select(islands)

    @property
    def frame(self) -> ImageFrame:
        """See ``MaskSource``."""
        return self._source.frame

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """See ``MaskSource``; of what is left."""
        return self._kept.boxes(len(self._source.boxes))

    def crops(self, index: Sequence[int]) -> Iterator[Crop]:
        """See ``MaskSource``; islands have become background."""
        for i, (top, left, logits) in zip(index, self._source.crops(index), strict=True):
            low, high = np.searchsorted(self._islands.owner, [int(i), int(i) + 1])
            if low < high:
                logits = logits.copy()
                mine = self._islands.select(np.arange(low, high))
                for row, start, stop in zip(mine.row - top, mine.start - left, mine.stop - left, strict=True):
                    logits[row, start:stop] *= -1
            yield top, left, logits
