"""Binary masks as runs of pixels.

A row-major sweep over a mask meets alternately background and mask. What is slow pixel by pixel is quick run by run: a
mask of 65,536 pixels has about a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.compiled import loops

IntArray = NDArray[np.int64]
Rle = dict[str, Any]
"""Compressed run lengths as COCO has them: ``{"size": [height, width], "counts": ...}``."""
_FEW_PLACES = 1024
"""Places where runs end, as most masks have at most: fresh memory for all that a mask may have is slow to come by."""


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

    def select(self, index: NDArray[np.bool_] | IntArray | slice) -> Runs:
        """The runs at ``index``."""
        return Runs(self.owner[index], self.row[index], self.start[index], self.stop[index])

    def pixels(self, top: int, left: int, width: int) -> IntArray:
        """The flat places of all runs' pixels in an array whose first pixel is (``left``, ``top``), ``width`` wide."""
        first, length = (self.row - top) * width + (self.start - left), self.length
        return np.asarray(np.arange(int(length.sum())) + np.repeat(first - (np.cumsum(length) - length), length))

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
    size, compiled = width * width, loops()
    if compiled is not None and _kind(len(ends) * size) == np.int32:
        # Half of a mask's lengths are of runs, and each row that one enters adds one.
        room = (len(lengths) + len(ends)) // 2 + len(ends) * width
        parts: list[Any] = [np.empty(room, np.int32) for _ in range(4)]
        found = compiled.runs.split_runs(np.ascontiguousarray(lengths), ends, width, *parts)
        return Runs(*(part[:found] for part in parts))
    counts = np.diff(ends, prepend=0)
    # All masks end to end: where each begins there, less what the lengths before it add up to.
    kind = _kind(len(ends) * size)
    total: NDArray[Any] = np.zeros(len(lengths) + 1, kind)
    np.cumsum(lengths, out=total[1:])
    shift = (np.arange(len(ends)) * size).astype(kind) - total[ends - counts]
    edges = total[1:] + np.repeat(shift, counts)
    return runs_of_changes(edges, counts, width)


def are_lengths(lengths: NDArray[np.uint16], ends: IntArray, width: int) -> bool:
    """Whether kept run lengths are those of masks: none but a mask's first is 0, and none leads out of the mask.

    Args:
        lengths: see ``runs_of_lengths``, as the next two.
        ends: rises to the number of lengths.
        width: columns and rows of a mask.
    """
    first = np.concatenate([[0], ends])[:-1]
    total = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return bool(np.isin(np.flatnonzero(lengths == 0), first).all() and (total[ends] - total[first] < width**2).all())


def _kind(pixels: int) -> Any:
    """The smaller one, where it holds four times so many pixels: what is done with their places needs that."""
    return np.int32 if pixels < 1 << 29 else np.int64


def runs_of_changes(edges: NDArray[np.signedinteger[Any]], counts: IntArray, width: int) -> Runs:
    """Runs from where a row-major sweep over each mask meets another kind of pixel; it begins outside.

    Args:
        edges: places in all masks end to end, ascending.
        counts: int64 ``[N]``, how many there are of each mask.
        width: columns of a mask.
    """
    edges = edges.astype(_kind(len(counts) * width * width), copy=False)
    # A mask whose last pixel is set has no closing edge: its last run ends with the mask.
    open_ended = np.flatnonzero(counts % 2)
    if len(open_ended):
        edges = np.insert(edges, np.cumsum(counts)[open_ended], (open_ended + 1).astype(edges.dtype) * (width * width))
    return _split_at_rows(edges[::2], edges[1::2], width)


def _split_at_rows(start: IntArray, stop: IntArray, width: int) -> Runs:
    """Runs of a sweep over masks end to end, cut where a row ends."""
    first = start // width
    rows = (stop - 1) // width - first + 1
    if (rows > 1).any():
        before = np.cumsum(rows, dtype=first.dtype) - rows
        first = np.arange(int(rows.sum()), dtype=first.dtype) + np.repeat(first - before, rows)
        start = np.maximum(np.repeat(start, rows), first * width)
        stop = np.minimum(np.repeat(stop, rows), (first + 1) * width)
    left = first * width
    owner = first // width
    return Runs(owner, first - owner * width, start - left, stop - left)


def components(runs: Runs) -> IntArray:
    """Which runs hang together, corners included (8-connectivity).

    Every run that touches one above it hangs on that one, so all hang on runs that touch none. Of these, far fewer,
    some are joined further down.

    Returns:
        int64 ``[R]``: for each run the number of one run of its component.
    """
    upper, lower = _touching(runs)
    root = np.arange(len(runs))
    root[lower] = upper
    extra = root[lower] != upper  # those hang on another one already
    while not np.array_equal(further := root.take(root), root):
        root = further
    return _joined(root, root[upper[extra]], root[lower[extra]]) if extra.any() else root


def _joined(root: IntArray, a: IntArray, b: IntArray) -> IntArray:
    """What each run hangs on, ``root``, where the roots ``a`` hang together with the roots ``b``."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    met = np.zeros(len(root), bool)
    met[a] = met[b] = True
    nodes = np.flatnonzero(met)
    place = np.cumsum(met) - 1
    links = (np.ones(len(a), np.int8), (place[a], place[b]))
    part = connected_components(csr_array(links, (len(nodes), len(nodes))), directed=False)[1]
    one_of = np.zeros(len(nodes), np.int64)
    one_of[part] = nodes
    joined = np.arange(len(root))
    joined[nodes] = one_of[part]
    return joined.take(root)


def _touching(runs: Runs) -> tuple[IntArray, IntArray]:
    """All pairs of runs that touch in neighbouring rows: the upper ones and the lower ones.

    Of two runs that touch, one begins further right, or at the same column. It knows the other as the last one of that
    row that begins before it does; so all pairs come from one merge of all beginnings with those of the row below.
    """
    width = int(runs.stop.max(initial=0)) + 2
    tall = int(runs.row.max(initial=0)) + 3
    line = (runs.owner * tall + runs.row) * width
    start, stop = line + runs.start, line + runs.stop  # ascending: rows do not overlap on this line
    merged = np.concatenate([2 * (start + width), 2 * start + 1])  # odd is the run as the lower one
    merged.sort(kind="stable")  # two ascending parts: no more than merging them
    is_lower = (merged & 1).astype(bool)
    pairs = []
    for shift, mine in ((0, is_lower), (width, ~is_lower)):
        number = np.arange(len(runs))
        other = (np.flatnonzero(mine) - number - 1).clip(0)
        place = start + shift
        touches = (start.take(other) + (width - shift) <= place) & (place <= stop.take(other) + (width - shift))
        pairs.append((number[touches], other[touches]))
    (low, above), (high, below) = pairs
    return np.concatenate([high, above]), np.concatenate([below, low])


# ---- COCO's run lengths ----


def encode_crop(crop: NDArray[np.bool_], left: int, top: int, image_size: tuple[int, int]) -> Rle:
    """Compressed RLE at image size of a mask that is known in a window only; no full-size mask is made.

    Args:
        crop: bool ``[h, w]``.
        left: image column of the window's first column.
        top: image row of the window's first row.
        image_size: ``(height, width)`` of the image in pixels.

    Raises:
        InputError: if the window leaves the image.
    """
    height, width = image_size
    rows, columns = crop.shape
    if left < 0 or top < 0 or left + columns > width or top + rows > height:
        raise InputError(
            f"expected a mask inside the image of {image_size} (height, width), got {crop.shape} at "
            f"row {top}, column {left}"
        )
    if (compiled := loops()) is not None:
        pixels = np.ascontiguousarray(crop).view(np.uint8)
        letters, places = -1, _FEW_PLACES
        while letters < 0:
            border, text = np.empty(places, np.int64), np.empty(7 * places, np.uint8)
            letters = compiled.runs.coco_text(pixels, left, top, height, width, border, text)
            places *= 8
        return {"size": [int(height), int(width)], "counts": text[:letters].tobytes()}
    # Column by column, with a row of background under each (and one pixel before the first): a border is where two
    # neighbours in memory differ.
    flat = np.zeros(columns * (rows + 1) + 1, bool)
    flat[1:].reshape(columns, rows + 1)[:, :rows] = crop.T
    at = np.flatnonzero(flat[1:] != flat[:-1])
    borders = at + (at // (rows + 1)) * (height - rows - 1) + (left * height + top)
    if rows == height:  # a run may end at the bottom of a column and go on atop the next
        joins = np.flatnonzero(borders[1:] == borders[:-1])
        borders = np.delete(borders, np.concatenate([joins, joins + 1]))
    counts = np.diff(borders, prepend=0, append=height * width)
    if borders.size and counts[-1] == 0:
        counts = counts[:-1]
    from pycocotools import mask as mask_utils

    rle: Rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return rle
