"""Outlines of masks in few bytes: what is kept of the logits of a mask, and how that is read back.

The outline holds the logits that a resize to image size can see. Away from it all logits that meet in an output pixel
have the same sign, so only their sign matters. Along it sixteen magnitudes on a logarithmic scale place the outline to
a few hundredths of a mask pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.bit_masks import (
    Bits,
    changes,
    counts,
    extents,
    near_both,
    packed,
    places,
    run_lengths,
    values_at,
)
from fiftyone_ntt.pixels.compiled import loops
from fiftyone_ntt.pixels.frames import MASK_SIDE

Crop = tuple[int, int, NDArray[np.float32]]
"""A part of the mask frame: its first row, its first column, and logits float32 ``[h, w]``."""

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


def kept_masks(values: NDArray[np.float32], bits: Bits, radius: int) -> dict[str, NDArray[Any]]:
    """What is kept of masks: boxes, run lengths and codes of the outline, and how many of both each mask has.

    Args:
        values: float32 ``[n, 256, 256]``, logits.
        bits: uint64 ``[n, 256, 4]``, where they are above 0.
        radius: how wide the outlines are; at most ``WIDE``.
    """
    compiled = loops()
    if compiled is None:
        changed, near = changes(bits), near_both(bits, radius)
        return {
            "boxes": extents(bits),
            "runs": run_lengths(places(changed), MASK_SIDE * MASK_SIDE),
            "outline": codes_of(values_at(values, near)),
            "run_counts": counts(changed),
            "outline_counts": counts(near),
        }
    boxes = np.zeros((len(values), 4), np.float32)
    number = np.empty((2, len(values)), np.int64)
    runs, codes = np.empty(values.size, np.uint16), np.empty(values.size, np.uint8)  # room for whatever there may be
    compiled.bits.keep_masks(values, bits, radius, _code_table(), _BORDERS, boxes, *number, runs, codes)
    many_runs, many_codes = number.sum(axis=1)
    return {
        "boxes": boxes,
        "runs": runs[:many_runs].copy(),
        "outline": codes[:many_codes].copy(),
        "run_counts": number[0],
        "outline_counts": number[1],
    }


def read_masks(
    runs: Sequence[NDArray[np.uint16]], codes: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float32], radius: int
) -> Iterator[Crop]:
    """Reads masks that were kept; see ``Outlined``."""
    compiled = loops()
    if compiled is None or radius > WIDE:
        masks = Outlined(runs, codes, boxes, radius)
        yield from (masks.crop(k) for k in range(len(runs)))
        return
    for lengths, outline, (x1, y1, x2, y2) in zip(runs, codes, boxes.astype(int).tolist(), strict=True):
        top, left = max(y1 - radius, 0), max(x1 - radius, 0)
        bottom, right = min(y2 + 1 + radius, MASK_SIDE), min(x2 + 1 + radius, MASK_SIDE)
        values = np.empty((bottom - top, right - left), np.float32)
        if not compiled.bits.read_outlined(lengths, outline, LEVELS, top, left, radius, values):
            raise InputError(MISFIT)
        yield top, left, values


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
        runs: Sequence[NDArray[np.uint16]],
        codes: Sequence[NDArray[np.uint8]],
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
            raise InputError(MISFIT)
        canvas = inside * np.uint8(_FAR + 1)
        canvas += np.uint8(_FAR)
        canvas.reshape(-1)[spots] -= np.uint8(_FAR) - kept
        self.canvas = canvas

    def _inside(self, runs: Sequence[NDArray[np.uint16]], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The binary masks on the canvas: bool ``[total rows, 256]``."""
        lengths, flags = [], []
        for lengths_of_mask, top, height in zip(runs, self.tops, rows, strict=True):
            full = np.append(lengths_of_mask.astype(np.int64), 0)
            full[0] -= top * MASK_SIDE
            full[-1] += height * MASK_SIDE - full.sum()
            if full[0] < 0 or full[-1] < 0:
                raise InputError(MISFIT)
            lengths.append(full)
            flags.append(np.arange(len(full)) & 1)
        return np.repeat(np.concatenate(flags).astype(bool), np.concatenate(lengths)).reshape(-1, MASK_SIDE)

    def crop(self, k: int) -> Crop:
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


MISFIT = "expected runs, boxes and outlines of masks, got some that do not belong together; index the image again"
