"""Binary masks as runs of pixels, and their outlines in few bytes: what is kept of masks, and read back.

A row-major sweep over a mask meets alternately background and mask. What is slow pixel by pixel is quick run by run: a
mask of 65,536 pixels has about a hundred.

The outline holds the logits that a resize to image size can see. Away from it all logits that meet in an output pixel
have the same sign, so only their sign matters. Along it sixteen magnitudes on a logarithmic scale place the outline to
a few hundredths of a mask pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.bit_masks import near_both, packed, places
from fiftyone_ntt.pixels.frames import MASK_SIDE

IntArray = NDArray[np.int64]
Rle = dict[str, Any]
"""Compressed run lengths as COCO has them: ``{"size": [height, width], "counts": ...}``."""


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
    counts = np.diff(ends, prepend=0)
    size = width * width
    # All masks end to end: where each begins there, less what the lengths before it add up to.
    kind = _kind(len(ends) * size)
    total: NDArray[Any] = np.zeros(len(lengths) + 1, kind)
    np.cumsum(lengths, out=total[1:])
    shift = (np.arange(len(ends)) * size).astype(kind) - total[ends - counts]
    edges = total[1:] + np.repeat(shift, counts)
    return runs_of_changes(edges, counts, width)


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
    from pycocotools import mask as mask_utils

    height, width = image_size
    rows, columns = crop.shape
    if left < 0 or top < 0 or left + columns > width or top + rows > height:
        raise InputError(
            f"expected a mask inside the image of {image_size} (height, width), got {crop.shape} at "
            f"row {top}, column {left}"
        )
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
    rle: Rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return rle


# ---- Outlines ----

LEVELS = np.geomspace(0.1, 25.0, 16).astype(np.float32)
"""Magnitudes of logits that can be told apart. Beyond both ends the place of the outline hardly changes."""
_BORDERS = np.array(
    [
        0.120207444, 0.17369768, 0.25099015, 0.3626764, 0.52406114, 0.7572593, 1.0942266, 1.5811385,
        2.2847183, 3.301377, 4.770435, 6.893195, 9.960547, 14.3928175, 20.797382,
    ],
    np.float32,
)  # fmt: skip
"""The magnitude from which on the next level is the nearer one, on their scale. Written out: logarithms are rounded
in another way on another machine or device, and what is kept must not be."""
_FAR = len(LEVELS)
WIDE = 8
"""Above this radius, which only images of a few pixels have, growing pixel by pixel takes too long."""
_VALUES = np.concatenate([-LEVELS, [-1.0], LEVELS, [1.0]]).astype(np.float32)
"""Logits by code; codes of the inside follow those of the outside, and away from the outline only the sign counts."""


def near_outline(inside: Tensor, outside: Tensor, radius: int) -> Tensor:
    """Which pixels have one of either kind within ``radius`` (Chebyshev).

    Rows are laid end to end with ``radius`` empty pixels around each, so that a step sideways or down is a step in one
    contiguous array.

    Args:
        inside: bool ``[n, h, w]``.
        outside: bool ``[n, h, w]``; a pixel may be neither.
        radius: in pixels, at least 1.

    Returns:
        bool ``[n, h, w]``.
    """
    n, height, width = inside.shape
    padded = width + 2 * radius
    near = torch.ones((), dtype=torch.uint8, device=inside.device)
    for flags in (inside, outside):
        grown = F.pad(flags.view(torch.uint8), (radius, radius, radius, radius)).flatten()
        for step in (step * axis for step in _steps(radius) for axis in (1, padded)):
            spread = grown.clone()
            spread[step:] |= grown[:-step]
            spread[:-step] |= grown[step:]
            grown = spread
        near = near & grown
    return near.view(n, height + 2 * radius, padded)[:, radius:-radius, radius:-radius].bool()


def _steps(radius: int) -> list[int]:
    """Steps that reach every distance up to ``radius``: each shifts both ways what the ones before have covered."""
    steps, reach = [], 0
    while reach < radius:
        steps.append(min(2 * reach + 1, radius - reach))
        reach += steps[-1]
    return steps


def to_codes(logits: Tensor) -> Tensor:
    """uint8: which of ``LEVELS`` is nearest, on their scale, to each value's magnitude."""
    borders = torch.from_numpy(_BORDERS).to(logits.device)
    return torch.bucketize(logits.abs().nan_to_num(0.0), borders, right=True, out_int32=True).to(torch.uint8)


def codes_of(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``to_codes`` of values in the CPU's memory: a table knows all but those near to a border."""
    codes = _code_table().take(values.view(np.uint16)[1::2])  # the upper halves of their four bytes
    unsure = np.flatnonzero(codes == _UNSURE)
    codes[unsure] = to_codes(torch.from_numpy(values[unsure])).numpy()
    return codes


_UNSURE = 255


@lru_cache(maxsize=1)
def _code_table() -> NDArray[np.uint8]:
    """uint8 ``[65536]``: the code of all float32 whose upper half this is, where they have the same."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    ends = [to_codes(torch.from_numpy(end.view(np.float32))).numpy() for end in (bits, bits | 0xFFFF)]
    return np.where(ends[0] == ends[1], ends[0], np.uint8(_UNSURE))


class Outlined:
    """Reads masks that were kept as run lengths and outline codes.

    Args:
        runs: for each mask, uint16 run lengths in row-major order, background first, the last left out.
        codes: for each mask, uint8 codes of its outline in row-major order.
        boxes: float32 ``[n, 4]`` xyxy in the mask frame, inclusive.
        radius: how wide the outlines are.

    Raises:
        InputError: if they do not belong together.
    """

    def __init__(
        self,
        runs: list[NDArray[np.uint16]],
        codes: list[NDArray[np.uint8]],
        boxes: NDArray[np.float32],
        radius: int,
    ) -> None:
        x1, y1, x2, y2 = boxes.astype(np.int64).T
        self.tops = np.maximum(y1 - radius, 0)
        self.heights = np.minimum(y2 + 1 + radius, MASK_SIDE) - self.tops
        self.lefts, self.rights = np.maximum(x1 - radius, 0), np.minimum(x2 + 1 + radius, MASK_SIDE)
        # All masks stand below each other on one canvas, with rows between them that belong to none.
        ends = np.cumsum(self.heights + radius)
        self.starts = ends - self.heights - radius
        owned = np.zeros(int(ends[-1]), bool)
        for start, height in zip(self.starts, self.heights, strict=True):
            owned[start : start + height] = True
        inside = self._inside(runs, self.heights + radius) & owned[:, None]
        spots, kept = _near_packed(inside, owned, radius), np.concatenate(codes)
        if len(spots) != len(kept):
            raise InputError(_MISFIT)
        canvas = inside * np.uint8(_FAR + 1)
        canvas += np.uint8(_FAR)
        canvas.reshape(-1)[spots] -= np.uint8(_FAR) - kept
        self.canvas = canvas

    def _inside(self, runs: list[NDArray[np.uint16]], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The binary masks on the canvas: bool ``[total rows, 256]``."""
        lengths, flags = [], []
        for lengths_of_mask, top, height in zip(runs, self.tops, rows, strict=True):
            full = np.append(lengths_of_mask.astype(np.int64), 0)
            full[0] -= top * MASK_SIDE
            full[-1] += height * MASK_SIDE - full.sum()
            if full[0] < 0 or full[-1] < 0:
                raise InputError(_MISFIT)
            lengths.append(full)
            flags.append(np.arange(len(full)) & 1)
        return np.repeat(np.concatenate(flags).astype(bool), np.concatenate(lengths)).reshape(-1, MASK_SIDE)

    def crop(self, k: int) -> tuple[int, int, NDArray[np.float32]]:
        """Top, left and logits float32 ``[h, w]`` of the part of the mask frame that holds mask ``k`` and its outline.

        Signs are exact; values are right along the outline and +-1 elsewhere.
        """
        rows = self.canvas[self.starts[k] : self.starts[k] + self.heights[k]]
        return int(self.tops[k]), int(self.lefts[k]), _VALUES[rows[:, self.lefts[k] : self.rights[k]]]


def _near_packed(inside: NDArray[np.bool_], owned: NDArray[np.bool_], radius: int) -> NDArray[np.int64]:
    """``near_outline`` for masks below each other, as packed bits: where in the flat canvas.

    Args:
        inside: bool ``[rows, 256]``.
        owned: bool ``[rows]``, rows that belong to a mask; at least ``radius`` that do not lie between two masks.
        radius: in pixels.
    """
    if radius > WIDE:
        background = torch.from_numpy(~inside & owned[:, None])
        near = near_outline(torch.from_numpy(inside)[None], background[None], radius)[0].numpy()
        return np.flatnonzero(near & owned[:, None])
    return places(near_both(packed(inside)[None], radius, owned))


_MISFIT = "expected runs, boxes and outlines of masks, got some that do not belong together; index the image again"
