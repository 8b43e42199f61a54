"""Points and scribbles as a person would draw them, made from masks."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

_NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
Pixel = tuple[int, int]


def deepest_point(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The centre (x, y) of the pixel farthest from the mask's outline and the image's border."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return np.array([x + 0.5, y + 0.5], np.float32)


def scribble_line(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The longest path along the skeleton of the mask's largest part: float32 ``[V, 2]`` (x, y) in pixels."""
    parts, count = ndimage.label(mask)
    largest = parts == 1 + int(np.argmax(ndimage.sum_labels(mask, parts, range(1, count + 1))))
    pixels = {(int(y), int(x)) for y, x in np.argwhere(skeletonize(largest))}
    if not pixels:
        return deepest_point(mask)[None]
    end = _walk(pixels, min(pixels))[-1]
    path = _walk(pixels, end)
    return np.array([[x + 0.5, y + 0.5] for y, x in path], np.float32)


def _walk(pixels: set[Pixel], start: Pixel) -> list[Pixel]:
    """The shortest path from a pixel to the one farthest from it."""
    before: dict[Pixel, Pixel] = {start: start}
    queue = deque([start])
    last = start
    while queue:
        last = queue.popleft()
        for dy, dx in _NEIGHBOURS:
            other = (last[0] + dy, last[1] + dx)
            if other in pixels and other not in before:
                before[other] = last
                queue.append(other)
    path = [last]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path
