"""A mask as polygons along the edges of its pixels: what draws them again gets exactly the mask back.

An outline through pixel corners has an area even where a mask is one pixel wide, and at least four corners always.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fiftyone_ntt.pixels.compiled import loops

Points = NDArray[np.float64]
IntArray = NDArray[np.int64]
_PAIRS = 100_000
"""Distances between corners that numpy works out at once."""
_MOST_RINGS, _MOST_STEPS = 1000, 5_000_000
"""A mask of very many parts and holes is noise: the smallest are left out, so that joining them stays quick."""


@dataclass(frozen=True, eq=False)
class Ring:
    """A closed line around a part of a mask, or around a hole in it.

    Attributes:
        points: float64 ``[P, 2]`` x, y in pixels, corners only; the mask lies to the right of the way they go.
        part: number of the part of the mask (pixels that share an edge) that it belongs to.
    """

    points: Points
    part: int

    @property
    def area(self) -> float:
        """Pixels inside; negative for a hole."""
        (x, y), (next_x, next_y) = self.points.T, np.roll(self.points, -1, axis=0).T
        return float((x * next_y - next_x * y).sum() / 2)


def rings_of(mask: NDArray[np.bool_], inset: float = 0.0) -> list[Ring]:
    """The lines around all parts and holes of a mask.

    Args:
        mask: bool ``[h, w]``.
        inset: how far each corner moves into the mask, in pixels. With 0 the lines run between pixels, which is how
            pycocotools draws; with something below half a pixel each corner lies in a pixel of the mask, which is what
            tools need that round corners to pixels and draw these (OpenCV).

    Returns:
        Parts and holes, the largest first.
    """
    corners, ends = _trace(np.pad(mask, 1))
    if not len(ends):
        return []
    x, y, dx, dy = corners.T  # [C] each; dx, dy: the directions of the two edges that meet here
    points = corners[:, :2] + inset * np.stack([-dy, dx], axis=1)  # [C, 2], diagonally into the mask
    first = np.concatenate([[0], ends[:-1]])
    # The pixel of the mask at the first corner of each line says which part that is of.
    row, column = (y[first] - (dx[first] < 0), x[first] - (dy[first] > 0))
    parts = ndimage.label(mask)[0][row, column] if len(ends) > 1 else [1]
    rings = [Ring(points[start:end], int(part)) for start, end, part in zip(first, ends, parts, strict=True)]
    return sorted(rings, key=lambda ring: -abs(ring.area))


def polygons_of(rings: list[Ring]) -> list[Points]:
    """One polygon a part, its holes joined to it; the smallest of very many rings are left out."""
    by_part: dict[int, list[Points]] = {}
    for ring in _largest(rings):  # a part is larger than its holes, so it comes first
        by_part.setdefault(ring.part, []).append(ring.points)
    return [joined(points) for points in by_part.values()]


def one_polygon(rings: list[Ring]) -> Points:
    """A single polygon of all parts and holes; the smallest of very many rings are left out."""
    return joined([ring.points for ring in _largest(rings)])


def _largest(rings: list[Ring]) -> list[Ring]:
    corners = sum(len(ring.points) for ring in rings)
    return rings[: max(min(_MOST_RINGS, _MOST_STEPS // max(corners, 1)), 1)]


def joined(rings: list[Points]) -> Points:
    """One closed line through several, over bridges between nearest corners that are walked both ways.

    A bridge encloses nothing, and a hole is walked against the part around it: whatever fills by the even-odd rule
    leaves the holes open. The bridges together are about as short as can be (a spanning tree over the rings).

    Args:
        rings: float64 ``[P, 2]`` each.

    Returns:
        float64 ``[Q, 2]``.
    """
    if len(rings) == 1:
        return rings[0]
    points = np.ascontiguousarray(np.concatenate(rings))
    first = np.cumsum([0, *map(len, rings)])
    walks = [list(range(start, stop)) for start, stop in zip(first[:-1], first[1:], strict=True)]
    owner = np.repeat(np.arange(len(rings)), np.diff(first))
    branches: dict[int, list[tuple[int, int]]] = {}  # corner -> rings that bridges lead to, and the corners there
    for origin, entry in _bridges(points, first).tolist():
        branches.setdefault(origin, []).append((int(owner[entry]), entry))
    order: list[int] = []
    todo = [(vertex, True) for vertex in reversed(walks[0])]
    while todo:  # no recursion: a chain of a thousand parts would be too deep
        vertex, is_new = todo.pop()
        order.append(vertex)
        for ring, entry in branches.pop(vertex, []) if is_new else []:
            turn = entry - first[ring]
            loop = [*walks[ring][turn:], *walks[ring][:turn]]
            todo.append((vertex, False))  # back over the bridge
            todo.extend((step, True) for step in reversed([*loop, entry]))
    line: Points = points[order]
    return line


def _bridges(points: Points, first: IntArray) -> IntArray:
    """Corners that bridges leave from, and where they arrive: int64 ``[rings - 1, 2]``.

    From what is joined already to the nearest ring, one after another. Of equally near ones the first in the order of
    their corners: so compiled loops and numpy build the same bridges.

    Args:
        points: float64 ``[P, 2]``, the corners of all rings.
        first: int64 ``[rings + 1]``, where each ring's corners begin, and where the last one's end.
    """
    ends = np.empty((len(first) - 2, 2), np.int64)
    if (compiled := loops()) is not None:
        compiled.rings.bridges(points, first, ends)
        return ends
    owner = np.repeat(np.arange(len(first) - 1), np.diff(first))
    waiting, near = np.ones(len(first) - 1, bool), np.full(len(first) - 1, np.inf)
    nearest = np.zeros_like(first[:-1], shape=(len(near), 2))
    ring = 0
    for k in range(len(ends)):
        waiting[ring] = False
        line = points[first[ring] : first[ring + 1]]
        # Squared distance from the box around the ring: what is further than what was nearest before is not looked at.
        outside = np.maximum(np.maximum(line.min(axis=0) - points, points - line.max(axis=0)), 0)
        rest = np.flatnonzero(waiting[owner] & ((outside**2).sum(axis=1) < near[owner]))
        for some in np.array_split(rest, len(rest) * len(line) // _PAIRS + 1):
            step = points[some, None] - line
            away = step[..., 0] * step[..., 0] + step[..., 1] * step[..., 1]  # [some, corners of the ring]
            corner = away.argmin(axis=1)
            least = away[np.arange(len(some)), corner]
            # Of each ring the nearest corner, and the first of equally near ones.
            order = np.lexsort((some, least, owner[some]))
            order = order[np.diff(owner[some[order]], prepend=-1) > 0]
            order = order[least[order] < near[owner[some[order]]]]
            others = owner[some[order]]
            near[others], nearest[others] = least[order], np.stack([first[ring] + corner[order], some[order]], axis=1)
        ring = int(np.where(waiting, near, np.inf).argmin())
        ends[k] = nearest[ring]
    return ends


def _trace(padded: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """The lines around parts and holes.

    Edges have the mask on their right. Horizontal and vertical ones alternate. Where two pixels touch in a corner only,
    turning right stays with the same pixel: parts are what shares an edge.

    Args:
        padded: bool ``[h + 2, w + 2]``, the mask with a pixel of background around it.

    Returns:
        Corners int64 ``[C, 4]`` (x, y, dx, dy): where, and the directions of the horizontal and the vertical edge
        there; and int64 ``[lines]``, where those of each line end.
    """
    if (compiled := loops()) is not None:
        corners = np.empty((compiled.rings.count_corners(padded), 4), np.int64)
        ends = np.empty(len(corners) // 4, np.int64)
        seen = np.zeros((len(padded) - 1, padded.shape[1] - 2), bool)
        return corners, ends[: compiled.rings.trace(padded, seen, corners, ends)]
    signs = padded.astype(np.int8)
    # Edges above and below pixels [h + 1, w], and left and right of them [w + 1, h]; 1 where the mask follows.
    flat = _edges(signs[1:, 1:-1] - signs[:-1, 1:-1])
    upright = _edges((signs[1:-1, 1:] - signs[1:-1, :-1]).T)
    leaving: dict[tuple[int, int, int], tuple[int, int, int]] = {}  # (x, y, dx) -> (x where it ends, y, dx)
    for y, start, stop, sign in flat:
        x, end = (start, stop) if sign > 0 else (stop, start)
        leaving[x, y, sign] = end, y, sign
    falling: dict[tuple[int, int, int], int] = {}  # (x, y, dy) -> y where it ends
    for x, start, stop, sign in upright:
        y, end = (stop, start) if sign > 0 else (start, stop)
        falling[x, y, -sign] = end
    starts, line, stops = frozenset(leaving), [], []
    while leaving:
        key = next(iter(leaving))
        while key in leaving:
            x, y, dx = leaving.pop(key)
            dy = dx if (x, y, dx) in falling else -dx
            line.append((x, y, dx, dy))
            y = falling.pop((x, y, dy))
            turned = -dy if (x, y, -dy) in starts else dy
            line.append((x, y, turned, dy))
            key = x, y, turned
        stops.append(len(line))
    return np.array(line, np.int64).reshape(-1, 4), np.array(stops, np.int64)


def _edges(change: NDArray[np.int8]) -> list[tuple[int, int, int, int]]:
    """Longest stretches of equal, non-zero ``change [n, m]``: line, start, stop (exclusive), value."""
    padded = np.pad(change, ((0, 0), (1, 1)))
    differs = padded[:, 1:] != padded[:, :-1]
    line, start = np.nonzero(differs & (padded[:, 1:] != 0))
    stop = np.nonzero(differs & (padded[:, :-1] != 0))[1]
    return list(zip(line.tolist(), start.tolist(), stop.tolist(), change[line, start].tolist(), strict=True))
