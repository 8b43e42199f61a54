"""How deep pixels lie in a mask, which are its border, and of which pieces it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def depths(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How far each pixel of a mask is from what is outside it, in pixels.

    Args:
        mask: bool ``[h, w]``; all around it counts as outside.

    Returns:
        float32 ``[h, w]``, 0 outside the mask.
    """
    import cv2  # late: few callers need it

    padded = np.pad(np.asarray(mask, np.uint8), 1)
    distances = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distances[1:-1, 1:-1], np.float32)


def border_band(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The pixels of a mask ``[h, w]`` with something that is outside it at most ``reach`` rows and columns away.

    All around the array counts as outside.
    """
    import cv2  # late: few callers need it

    if not mask.any():  # OpenCV crashes on an array without pixels
        return np.array(mask, bool)
    square, flags = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8), np.asarray(mask, np.uint8)
    inside = cv2.erode(flags, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(flags > inside)


def without_specks(mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """A mask ``[h, w]`` without pieces, and without holes, that are smaller than a share of its area."""
    import cv2  # late: few callers need it

    least, cleaned = share * np.count_nonzero(mask), np.array(mask, bool)
    if not mask.any():  # OpenCV crashes on an array without pixels
        return cleaned
    for value, connectivity in ((True, 8), (False, 4)):
        flags = np.asarray(cleaned == value, np.uint8)
        _, numbers, statistics, _ = cv2.connectedComponentsWithStats(flags, connectivity=connectivity)
        small = statistics[:, cv2.CC_STAT_AREA] < least
        if not value:  # what touches the border of the array may go on outside
            edges = (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1])
            small[np.unique(np.concatenate(edges))] = False
        small[0] = False
        cleaned[small[numbers]] = not value
    return cleaned


def count_regions(mask: NDArray[np.bool_]) -> int:
    """In how many pieces a mask ``[h, w]`` is; pixels that only touch at a corner are of one piece."""
    import cv2  # late: few callers need it

    if not mask.any():  # OpenCV crashes on an array without pixels
        return 0
    return int(cv2.connectedComponents(np.asarray(mask, np.uint8), connectivity=8)[0]) - 1
