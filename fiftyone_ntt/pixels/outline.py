"""The outline of a mask: which logits a resize to image size can see, and their few bytes.

Away from the outline all logits that meet in an output pixel have the same sign, so only their sign matters. Along it
sixteen magnitudes on a logarithmic scale place the outline to a few hundredths of a mask pixel.
"""

from __future__ import annotations

from math import log

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.frames import MASK_SIDE

LEVELS = np.geomspace(0.1, 25.0, 16).astype(np.float32)
"""Magnitudes of logits that can be told apart. Beyond both ends the place of the outline hardly changes."""
_FAR = len(LEVELS)
_WIDE = 8
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
    low, high = LEVELS[[0, -1]].tolist()
    steps = (logits.abs().nan_to_num(0.0).clamp(low, high) / low).log() / log(float(LEVELS[1]) / low)
    rounded: Tensor = steps.round()
    return rounded.to(torch.uint8)


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
        for mine, top, height in zip(runs, self.tops, rows, strict=True):
            full = np.append(mine.astype(np.int64), 0)
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
    """``near_outline`` for masks below each other, eight pixels a byte: where in the flat canvas.

    Args:
        inside: bool ``[rows, 256]``.
        owned: bool ``[rows]``, rows that belong to a mask; at least ``radius`` that do not lie between two masks.
        radius: in pixels.
    """
    if radius > _WIDE:
        background = torch.from_numpy(~inside & owned[:, None])
        near = near_outline(torch.from_numpy(inside)[None], background[None], radius)[0].numpy()
        return np.flatnonzero(near & owned[:, None])
    bits = np.packbits(inside, axis=1)
    real = np.where(owned, np.uint8(255), np.uint8(0))[:, None]
    positive, negative = bits, ~bits & real
    for _ in range(radius):
        positive, negative = _grown(positive), _grown(negative)
    return np.flatnonzero(np.unpackbits(positive & negative & real).view(bool))


def _grown(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels and their eight neighbours; a byte's highest bit is its first pixel."""
    wide: NDArray[np.uint8] = bits | bits << np.uint8(1) | bits >> np.uint8(1)
    wide[:, :-1] |= bits[:, 1:] >> np.uint8(7)
    wide[:, 1:] |= bits[:, :-1] << np.uint8(7)
    grown: NDArray[np.uint8] = wide.copy()
    grown[1:] |= wide[:-1]
    grown[:-1] |= wide[1:]
    return grown


_MISFIT = "expected runs, boxes and outlines of masks, got some that do not belong together; index the image again"
