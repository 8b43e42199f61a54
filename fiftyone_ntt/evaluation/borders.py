"""How well the borders of masks agree: the overlap of boundary AP, from boundary IoU (Cheng et al., CVPR 2021).

Of a large object the inside decides mask IoU, however its border is drawn. Boundary IoU compares the masks in a band
along their borders only. What overlaps by a pair's boundary IoU must overlap by its mask IoU, too: the lesser counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from fiftyone_ntt.pixels.depths import border_band
from fiftyone_ntt.pixels.mask_codes import Rle, encode_crop

RATIO = 0.02
"""Width of the band along a border, in diagonals of the image: that of COCO's boundary AP."""


def with_borders(
    ious: NDArray[np.float64], found: Sequence[Rle], objects: Sequence[Rle], crowd: Sequence[int], least: float
) -> NDArray[np.float64]:
    """The lesser of mask IoU and boundary IoU, as far as it can matter.

    A border takes a hundred times longer than a mask IoU, so borders are drawn only of what overlaps enough as a mask.

    Args:
        ious: float64 ``[predictions, objects]``, overlaps of the masks.
        found: masks of the predictions.
        objects: masks of the objects.
        crowd: of each object whether it is a crowd: their overlaps stay, as a crowd's border means nothing.
        least: overlaps below this are left as they are: they pair nothing.

    Returns:
        float64 ``[predictions, objects]``.
    """
    near = (ious >= least) & ~np.asarray(crowd, bool)
    rows, columns = np.flatnonzero(near.any(axis=1)).tolist(), np.flatnonzero(near.any(axis=0)).tolist()
    if not rows:
        return ious
    bands = _borders(found[i] for i in rows), _borders(objects[j] for j in columns)
    borders = np.asarray(mask_utils.iou(*bands, [0] * len(columns)), np.float64)
    place = np.ix_(rows, columns)
    lesser: NDArray[np.float64] = ious.copy()
    lesser[place] = np.minimum(ious[place], borders)
    return lesser


def _borders(masks: Iterable[Rle]) -> list[Rle]:
    return [border_of(rle) for rle in masks]


def border_of(rle: Rle) -> Rle:
    """What of a mask lies within a band along its border; the edge of the image is a border.

    As in the published code: the band is as many pixels wide as ``RATIO`` diagonals are, rounded half to even, and at
    least one; what a square of that reach leaves of the mask is its inside. faster-coco-eval 1.8 rounds otherwise, and
    mistakes one column for the next in strips that are 25 times as wide as high.

    Args:
        rle: a mask at image size.
    """
    size = (int(rle["size"][0]), int(rle["size"][1]))
    left, top, width, height = (int(value) for value in mask_utils.toBbox(rle))
    mask = mask_utils.decode(rle)[top : top + height, left : left + width].astype(bool)  # all the rest is empty
    reach = max(1, round(RATIO * math.hypot(*size)))
    return encode_crop(border_band(mask, reach), left, top, size)
