"""A mask as polygons along the edges of its pixels: what draws them again gets exactly the mask back.

An outline through pixel corners has an area even where a mask is one pixel wide, and at least four corners always.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Points = NDArray[np.float64]
_MOST_RINGS, _MOST_STEPS = 1000, 5_000_000
"""A mask of very many parts and holes is noise: the smallest are left out, so that joining them stays quick."""
_Vertex = tuple[int, int, int, int]


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
    outlines = _trace(mask)
    if not outlines:
        return []
    parts = ndimage.label(mask)[0] if len(outlines) > 1 else mask.astype(np.int64)
    rings = []
    for outline in outlines:
        x, y, dx, dy = np.array(outline).T  # [P] each; dx, dy: the directions of the two edges that meet here
        inwards = np.stack([-dy, dx], axis=1)  # [P, 2], diagonally into the mask
        column, row = np.floor([x[0] - dy[0] / 2, y[0] + dx[0] / 2]).astype(int)  # the pixel of the mask at a corner
        rings.append(Ring(np.stack([x, y], axis=1) + inset * inwards, int(parts[row, column])))
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
    points = np.concatenate(rings)
    first = np.cumsum([0, *map(len, rings)])
    loops = [list(range(start, stop)) for start, stop in zip(first[:-1], first[1:], strict=True)]
    branches = _bridges(points, first)
    order: list[int] = []
    todo = [(vertex, True) for vertex in reversed(loops[0])]
    while todo:  # no recursion: a chain of a thousand parts would be too deep
        vertex, is_new = todo.pop()
        order.append(vertex)
        for ring, entry in branches.pop(vertex, []) if is_new else []:
            turn = entry - first[ring]
            loop = [*loops[ring][turn:], *loops[ring][:turn]]
            todo.append((vertex, False))  # back over the bridge
            todo.extend((step, True) for step in reversed([*loop, entry]))
    line: Points = points[order]
    return line


def _bridges(points: Points, first: NDArray[np.int64]) -> dict[int, list[tuple[int, int]]]:
    """Corner that a bridge leaves from -> the rings that bridges lead to, and the corners where they arrive."""
    owner = np.repeat(np.arange(len(first) - 1), np.diff(first))
    distance, origin = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    waiting = owner > 0
    ring = 0
    branches: dict[int, list[tuple[int, int]]] = {}
    while waiting.any():
        rest = np.flatnonzero(waiting)
        # Only the ring that came last can be nearer than what was nearest before.
        away, corner = cKDTree(points[first[ring] : first[ring + 1]]).query(points[rest])
        nearer = away < distance[rest]
        distance[rest[nearer]], origin[rest[nearer]] = away[nearer], first[ring] + corner[nearer]
        entry = int(rest[np.argmin(distance[rest])])
        ring = int(owner[entry])
        branches.setdefault(int(origin[entry]), []).append((ring, entry))
        waiting[first[ring] : first[ring + 1]] = False
    return branches


def _trace(mask: NDArray[np.bool_]) -> list[list[_Vertex]]:
    """Rings as corners (x, y, dx, dy): where, and the directions of the horizontal and the vertical edge there.

    Edges have the mask on their right. Horizontal and vertical ones alternate. Where two pixels touch in a corner only,
    turning right stays with the same pixel: parts are what shares an edge.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    # Edges above and below pixels [h + 1, w], and left and right of them [w + 1, h]; 1 where the mask follows.
    flat = _edges(padded[1:, 1:-1] - padded[:-1, 1:-1])
    upright = _edges((padded[1:-1, 1:] - padded[1:-1, :-1]).T)
    leaving: dict[tuple[int, int, int], tuple[int, int, int]] = {}  # (x, y, dx) -> (x where it ends, y, dx)
    for y, start, stop, sign in flat:
        x, end = (start, stop) if sign > 0 else (stop, start)
        leaving[x, y, sign] = end, y, sign
    falling: dict[tuple[int, int, int], int] = {}  # (x, y, dy) -> y where it ends
    for x, start, stop, sign in upright:
        y, end = (stop, start) if sign > 0 else (start, stop)
        falling[x, y, -sign] = end
    starts, rings = frozenset(leaving), []
    while leaving:
        key = next(iter(leaving))
        ring: list[_Vertex] = []
        while key in leaving:
            x, y, dx = leaving.pop(key)
            dy = dx if (x, y, dx) in falling else -dx
            ring.append((x, y, dx, dy))
            y = falling.pop((x, y, dy))
            turned = -dy if (x, y, -dy) in starts else dy
            ring.append((x, y, turned, dy))
            key = x, y, turned
        rings.append(ring)
    return rings


def _edges(change: NDArray[np.int8]) -> list[tuple[int, int, int, int]]:
    """Longest stretches of equal, non-zero ``change [n, m]``: line, start, stop (exclusive), value."""
    padded = np.pad(change, ((0, 0), (1, 1)))
    differs = padded[:, 1:] != padded[:, :-1]
    line, start = np.nonzero(differs & (padded[:, 1:] != 0))
    stop = np.nonzero(differs & (padded[:, :-1] != 0))[1]
    return list(zip(line.tolist(), start.tolist(), stop.tolist(), change[line, start].tolist(), strict=True))
