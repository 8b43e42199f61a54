"""Loops along the edges of masks, compiled by numba: the lines around parts and holes, and bridges between these.

Imported late, and only by ``compiled.loops``, as ``run_loops`` is. Each gives what numpy gives in ``polygons``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fiftyone_ntt.pixels.compiled import compiled

Float = NDArray[np.float64]
Int = NDArray[np.int64]
_PIECE = 16
"""Corners of a ring that follow each other lie close together: so many share a box."""


@compiled("i8(b1[:])")
def count_corners(padded: NDArray[np.bool_]) -> int:
    """How many corners the lines around a mask have; of two pixels that touch in a corner only, both have it.

    Args:
        padded: bool ``[h + 2, w + 2]``, the mask with a pixel of background around it.
    """
    count = 0
    for y in range(len(padded) - 1):
        above, below = padded[y], padded[y + 1]
        for x in range(len(above) - 1):
            # A line bends where one pixel of four, or three of them, or two that lie diagonally belong to the mask.
            if above[x] != above[x + 1]:
                count += below[x] == below[x + 1] or 2 * (above[x] != below[x])
            else:
                count += below[x] != below[x + 1]
    return count


@compiled("i8(b1[:], b1[:]!, i8[:]!, i8[]!)")
def trace(padded: NDArray[np.bool_], seen: NDArray[np.bool_], corners: Int, ends: Int) -> int:
    """The lines around parts and holes; see ``polygons._trace``.

    Args:
        padded: bool ``[h + 2, w + 2]``, the mask with a pixel of background around it.
        seen: bool ``[h + 1, w]``, zeros at first: where edges that have been walked begin, on their left.
        corners: int64 ``[C, 4]``, written: x, y, and the directions of the horizontal and the vertical edge there.
        ends: int64, written: where the corners of each line end; a line has at least four.

    Returns:
        How many lines there are.
    """
    rings, count = 0, 0
    rows, columns = len(padded) - 1, padded.shape[1] - 2
    for line in range(rows):
        for column in range(columns):
            # An edge below or above the pixel, and none of its kind left of it.
            under, over = padded[line + 1, column + 1], padded[line, column + 1]
            if under == over or seen[line, column]:
                continue
            if padded[line + 1, column] == under and padded[line, column] == over:
                continue
            x, y, dx = column, line, 1
            if over:  # walked to the left: from its other end
                dx = -1
                while padded[y, x + 1] and not padded[y + 1, x + 1]:
                    x += 1
            first = count
            while True:
                if dx > 0:
                    if seen[y, x]:
                        break
                    seen[y, x] = True
                    while padded[y + 1, x + 1] and not padded[y, x + 1]:
                        x += 1
                else:
                    while padded[y, x] and not padded[y + 1, x]:
                        x -= 1
                    if seen[y, x]:
                        break
                    seen[y, x] = True
                # To the right where an edge leads there: down after one to the right, and up after one to the left.
                dy = dx
                if dx > 0:
                    if not padded[y + 1, x] or padded[y + 1, x + 1]:
                        dy = -1
                elif padded[y, x] or not padded[y, x + 1]:
                    dy = 1
                corners[count, 0], corners[count, 1], corners[count, 2], corners[count, 3] = x, y, dx, dy
                if dy > 0:
                    while padded[y + 1, x] and not padded[y + 1, x + 1]:
                        y += 1
                    dx = -1 if padded[y, x] and not padded[y + 1, x] else 1
                else:
                    while padded[y, x + 1] and not padded[y, x]:
                        y -= 1
                    dx = 1 if padded[y + 1, x + 1] and not padded[y, x + 1] else -1
                count += 1
                corners[count, 0], corners[count, 1], corners[count, 2], corners[count, 3] = x, y, dx, dy
                count += 1
            if count > first:
                ends[rings] = count
                rings += 1
    return rings


def _boxes(points: Any, first: Any, boxes: Any) -> None:
    """The box of the points from each number to the next: x and y at least, x and y at most."""
    for k in range(len(boxes)):
        boxes[k, 0] = boxes[k, 1] = np.inf
        boxes[k, 2] = boxes[k, 3] = -np.inf
        for i in range(first[k], first[k + 1]):
            boxes[k, 0], boxes[k, 1] = min(boxes[k, 0], points[i, 0]), min(boxes[k, 1], points[i, 1])
            boxes[k, 2], boxes[k, 3] = max(boxes[k, 2], points[i, 0]), max(boxes[k, 3], points[i, 1])


def _apart(box: Any, x1: float, y1: float, x2: float, y2: float) -> Any:
    """Squared distance of two boxes: of no point in one to any in the other it is smaller, rounding included."""
    dx, dy = max(box[0] - x2, x1 - box[2], 0.0), max(box[1] - y2, y1 - box[3], 0.0)
    return dx * dx + dy * dy


_boxes = njit(nogil=True, inline="always")(_boxes)
_apart = njit(nogil=True, inline="always")(_apart)


@compiled("void(f8[:], i8[], i8[:]!)")
def bridges(points: Float, first: Int, ends: Int) -> None:
    """A spanning tree over rings; see ``polygons._bridges``.

    Args:
        points: float64 ``[P, 2]``, the corners of all rings.
        first: int64 ``[rings + 1]``, where each ring's corners begin, and where the last one's end.
        ends: int64 ``[rings - 1, 2]``, written: the corners that a bridge leaves from and arrives at.
    """
    rings = len(first) - 1
    pieces = np.zeros(rings + 1, np.int64)  # the first of each ring
    for ring in range(rings):
        pieces[ring + 1] = pieces[ring] + (first[ring + 1] - first[ring] + _PIECE - 1) // _PIECE
    starts = np.empty(pieces[rings] + 1, np.int64)
    for ring in range(rings):
        for piece in range(pieces[ring], pieces[ring + 1]):
            starts[piece] = first[ring] + _PIECE * (piece - pieces[ring])
    starts[pieces[rings]] = first[rings]
    boxes, parts = np.empty((rings, 4), np.float64), np.empty((pieces[rings], 4), np.float64)
    _boxes(points, first, boxes)
    _boxes(points, starts, parts)
    near, waiting = np.full(rings, np.inf), np.ones(rings, np.bool_)
    nearest = np.zeros((rings, 2), np.int64)
    ring = 0
    for k in range(rings - 1):
        waiting[ring] = False
        box, following = boxes[ring], -1
        for other in range(rings):
            if not waiting[other]:
                continue
            least = near[other]
            if _apart(box, boxes[other, 0], boxes[other, 1], boxes[other, 2], boxes[other, 3]) < least:
                for i in range(first[other], first[other + 1]):
                    x, y = points[i, 0], points[i, 1]
                    if _apart(box, x, y, x, y) >= least:
                        continue
                    for piece in range(pieces[ring], pieces[ring + 1]):
                        if _apart(parts[piece], x, y, x, y) >= least:
                            continue
                        for j in range(starts[piece], starts[piece + 1]):
                            dx, dy = x - points[j, 0], y - points[j, 1]
                            away = dx * dx + dy * dy
                            if away < least:
                                least, nearest[other, 0], nearest[other, 1] = away, j, i
                near[other] = least
            if following < 0 or least < near[following]:
                following = other
        ends[k] = nearest[following]
        ring = following
