"""Masks as packed bits of the whole mask frame, 64 pixels a word: what is quick on a CPU for any mask, however ragged.

The lowest bit of a word is its first pixel, so that a shift to the left moves a mask to the right.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = 64
Bits = NDArray[np.uint64]
_ONE, _LAST = np.uint64(1), np.uint64(WORD - 1)


def packed(flags: NDArray[np.bool_]) -> Bits:
    """Bits of flags bool ``[..., w]``, uint64 ``[..., w / 64]``; w is a multiple of 64."""
    # packbits keeps Fortran's order, also of a single transposed mask.
    bits: Bits = np.ascontiguousarray(np.packbits(flags, axis=-1, bitorder="little")).view("<u8")
    return bits


def unpacked(bits: Bits) -> NDArray[np.uint8]:
    """The flags of bits uint64 ``[..., w]`` as 0 and 1: ``[..., 64 * w]``."""
    return np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=-1, bitorder="little")


def places(bits: Bits) -> NDArray[np.int64]:
    """Where bits are set, counted over all words in their order: int64, ascending."""
    words = bits.reshape(-1)
    used = np.flatnonzero(words)
    flags = np.unpackbits(words[used].view(np.uint8), bitorder="little").view(bool)
    found = np.flatnonzero(flags)
    return np.asarray(used[found >> 6] * WORD + (found & (WORD - 1)), np.int64)


def counts(bits: Bits) -> NDArray[np.int64]:
    """How many bits are set in each mask of ``[n, ...]``: int64 ``[n]``."""
    return np.asarray(np.bitwise_count(_flat(bits)).sum(axis=1, dtype=np.int64))


def changes(bits: Bits) -> Bits:
    """Where a row-major sweep over each mask of ``[n, h, words]`` meets another kind of pixel; it begins outside."""
    flat = _flat(bits)
    before = flat << _ONE
    before[:, 1:] |= flat[:, :-1] >> _LAST
    return np.asarray(flat ^ before, np.uint64)


def _flat(bits: Bits) -> Bits:
    return bits.reshape(len(bits), math.prod(bits.shape[1:]))  # -1 would not do for no mask at all


def near_both(bits: Bits, radius: int) -> Bits:
    """Pixels of ``[n, h, words]`` that have one inside and one outside within ``radius`` (Chebyshev)."""
    inside, outside = bits, ~bits
    for _ in range(radius):
        inside, outside = _grown(inside), _grown(outside)
    return np.asarray(inside & outside, np.uint64)


def _grown(bits: Bits) -> Bits:
    """The pixels and their eight neighbours."""
    wide: Bits = bits | bits << _ONE | bits >> _ONE
    wide[..., 1:] |= bits[..., :-1] >> _LAST
    wide[..., :-1] |= bits[..., 1:] << _LAST
    grown: Bits = wide.copy()
    grown[:, 1:] |= wide[:, :-1]
    grown[:, :-1] |= wide[:, 1:]
    return grown


def extents(bits: Bits) -> NDArray[np.float32]:
    """float32 ``[n, 4]`` xyxy of ``[n, h, words]``, x2 and y2 the last column and row; zeros for an empty mask."""
    rows: NDArray[np.bool_] = (bits != 0).any(axis=2)
    across = np.bitwise_or.reduce(bits, axis=1)
    columns = np.unpackbits(across.view(np.uint8), axis=1, bitorder="little")
    boxes = np.stack([*_first_and_last(columns), *_first_and_last(rows)], axis=1)[:, [0, 2, 1, 3]]
    return np.asarray(boxes * rows.any(axis=1, keepdims=True), np.float32)


def _first_and_last(flags: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return flags.argmax(axis=1), flags.shape[1] - 1 - flags[:, ::-1].argmax(axis=1)
