"""Binary masks as runs of pixels: reading kept run lengths, and which runs hang together.

A row-major sweep over a mask meets alternately background and mask. What is slow pixel by pixel is quick run by run: a
mask of 65,536 pixels has about a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """Horizontal runs of mask pixels, of one or more masks of equal width, in row-major order mask by mask.

    Attributes:
        owner: int64 ``[R]``, which mask; ascending.
        row: int64 ``[R]``.
        start: int64 ``[R]``, first column.
        stop: int64 ``[R]``, the column after the last.
    """

    owner: IntArray
    row: IntArray
    start: IntArray
    stop: IntArray

    def __len__(self) -> int:
        return len(self.owner)

    def select(self, index: NDArray[np.bool_] | IntArray) -> Runs:
        """The runs at ``index``."""
        return Runs(self.owner[index], self.row[index], self.start[index], self.stop[index])

    @property
    def length(self) -> IntArray:
        """int64 ``[R]``, pixels of each run."""
        return self.stop - self.start

    def boxes(self, count: int) -> NDArray[np.float32]:
        """float32 ``[count, 4]`` xyxy of ``count`` masks, x2 and y2 the last column and row; zeros for an empty one."""
        boxes = np.zeros((count, 4), np.float32)
        if not len(self):
            return boxes
        first = np.flatnonzero(np.diff(self.owner, prepend=-1))
        boxes[self.owner[first]] = np.stack(
            [
                np.minimum.reduceat(self.start, first),
                np.minimum.reduceat(self.row, first),
                np.maximum.reduceat(self.stop, first) - 1,
                np.maximum.reduceat(self.row, first),
            ],
            axis=1,
        )
        return boxes


def runs_of_lengths(lengths: NDArray[np.uint16], ends: IntArray, width: int) -> Runs:
    """Runs from kept run lengths.

    Args:
        lengths: for each mask the lengths of its runs in row-major order, background first, the last left out.
        ends: int64 ``[N]``, where each mask's lengths end.
        width: columns of a mask.
    """
    counts = np.diff(ends, prepend=0)
    owner = np.repeat(np.arange(len(ends)), counts)
    first = np.repeat(ends - counts, counts)
    edges = np.cumsum(lengths, dtype=np.int64)
    edges -= np.where(first > 0, edges[first - 1], 0)
    place = np.arange(len(lengths)) - first
    opens = np.flatnonzero(place % 2 == 0)
    # A mask whose last pixel is set has no closing edge: its last run ends with the mask.
    has_close = np.append(owner[1:] == owner[:-1], False)[opens] if len(opens) else np.zeros(0, bool)
    closes = np.where(has_close, edges[np.minimum(opens + 1, len(edges) - 1)], width * width)
    return _split_at_rows(owner[opens], edges[opens], closes, width)


def runs_of_masks(masks: NDArray[np.bool_]) -> Runs:
    """Runs of masks bool ``[N, h, w]``."""
    padded = np.zeros((*masks.shape[:2], masks.shape[2] + 2), np.int8)
    padded[:, :, 1:-1] = masks
    change = np.diff(padded, axis=2)
    owner, row, start = np.nonzero(change > 0)
    stop = np.nonzero(change < 0)[2]
    return Runs(owner, row, start, stop)


def _split_at_rows(owner: IntArray, start: IntArray, stop: IntArray, width: int) -> Runs:
    """Runs of a flat sweep, cut where a row ends."""
    first, last = start // width, (stop - 1) // width
    rows = last - first + 1
    piece = np.arange(int(rows.sum())) - np.repeat(np.cumsum(rows) - rows, rows)
    row = np.repeat(first, rows) + piece
    low = np.maximum(np.repeat(start, rows) - row * width, 0)
    high = np.minimum(np.repeat(stop, rows) - row * width, width)
    return Runs(np.repeat(owner, rows), row, low, high)


def components(runs: Runs) -> IntArray:
    """Which runs hang together, corners included (8-connectivity).

    Returns:
        int64 ``[R]``: the number of each run's component, the lowest index among its runs.
    """
    a, b = _touching(runs)
    root = np.arange(len(runs))
    while True:
        low = np.minimum(root[a], root[b])
        np.minimum.at(root, root[a], low)
        np.minimum.at(root, root[b], low)
        while not np.array_equal(shorter := root[root], root):
            root = shorter
        if np.array_equal(root[a], root[b]):
            return root


def _touching(runs: Runs) -> tuple[IntArray, IntArray]:
    """Pairs of runs in neighbouring rows of one mask that touch."""
    if not len(runs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    width = int(runs.stop.max()) + 2
    tall = int(runs.row.max()) + 3
    line = (runs.owner * tall + runs.row) * width
    first, last = line + runs.start, line + runs.stop  # ascending: rows do not overlap on this line
    below_from = np.searchsorted(last, first + width, side="left")
    below_to = np.searchsorted(first, last + width, side="right")
    counts = np.maximum(below_to - below_from, 0)
    upper = np.repeat(np.arange(len(runs)), counts)
    offset = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(below_from, counts) + offset


def are_islands(runs: Runs, share: float) -> NDArray[np.bool_]:
    """bool ``[R]``: runs of components smaller than ``share`` times the largest one of their mask."""
    if not len(runs):
        return np.zeros(0, bool)
    component = components(runs)
    area = np.bincount(component, weights=runs.length, minlength=len(runs))
    largest = np.zeros(int(runs.owner.max()) + 1)
    np.maximum.at(largest, runs.owner, area[component])
    islands: NDArray[np.bool_] = area[component] < share * largest[runs.owner]
    return islands
