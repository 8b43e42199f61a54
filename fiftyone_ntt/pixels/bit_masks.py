"""Masks as packed bits of the whole mask frame, 64 pixels a word: what is quick on a CPU for any mask, however ragged.

The lowest bit of a word is its first pixel, so that a shift to the left moves a mask to the right.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.pixels.compiled import loops

WORD = 64
Bits = NDArray[np.uint64]
_ONE, _LAST = np.uint64(1), np.uint64(WORD - 1)


def packed(flags: NDArray[np.bool_]) -> Bits:
    """Bits of flags bool ``[..., w]``, uint64 ``[..., w / 64]``; w is a multiple of 64."""
    # packbits keeps Fortran's order, also of a single transposed mask.
    bits: Bits = np.ascontiguousarray(np.packbits(flags, axis=-1, bitorder="little")).view("<u8")
    return bits


def packed_and_areas(values: NDArray[np.float32], levels: tuple[float, ...]) -> tuple[Bits, NDArray[np.int64]]:
    """Where values are above 0, as bits, and how many are above each of some levels.

    Mask by mask: a mask's values come from memory once, and are still in a core's cache when they are looked at again.

    Args:
        values: float32 ``[n, h, w]``.
        levels: L of them.

    Returns:
        uint64 ``[n, h, w / 64]`` and int64 ``[L, n]``.
    """
    bits = np.empty((*values.shape[:2], values.shape[2] // WORD), np.uint64)
    compiled = loops()
    if compiled is not None and levels == (1.0, -1.0):  # bits alone are as quick without
        areas = np.empty((len(levels), len(values)), np.int64)
        compiled.bits.bits_and_areas(np.ascontiguousarray(values, np.float32), bits, areas)
        return bits, areas
    areas = np.empty((len(levels), len(values)), np.int64)
    flags = np.empty(values.shape[1:], bool)
    for k, mask in enumerate(values):
        bits[k] = packed(np.greater(mask, 0, out=flags))
        areas[:, k] = [np.count_nonzero(np.greater(mask, level, out=flags)) for level in levels]
    return bits, areas


def unpacked(bits: Bits) -> NDArray[np.uint8]:
    """The flags of bits uint64 ``[..., w]`` as 0 and 1: ``[..., 64 * w]``."""
    return np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), axis=-1, bitorder="little")


def places(bits: Bits) -> NDArray[np.int64]:
    """Where bits are set, counted over all words in their order: int64, ascending."""
    used, found = _set_bits(bits)
    places = used.take(found >> 3)
    places <<= 3  # in place, all of it: there are many
    found &= 7
    places |= found
    return places


def values_at(values: NDArray[np.float32], bits: Bits) -> NDArray[np.float32]:
    """The values ``[n, h, w]`` where bits ``[n, h, w / 64]`` are set, in the order of ``places``."""
    used, found = _set_bits(bits)
    return values.reshape(-1, 8).take(used, axis=0).reshape(-1).take(found)


def _set_bits(bits: Bits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which bytes are not empty, and which bits are set among those bytes' bits alone."""
    octets = bits.reshape(-1).view(np.uint8)
    used = np.flatnonzero(octets != 0)
    return used, np.flatnonzero(np.unpackbits(octets[used], bitorder="little").view(bool))


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


def run_lengths(changed: NDArray[np.int64], size: int) -> NDArray[np.uint16]:
    """The distance from the change before, of ``places(changes(...))`` of masks of ``size`` pixels, a power of two.

    A mask's first run is counted from its first pixel.
    """
    before = np.concatenate([[0], changed[:-1]])
    return np.asarray(changed - np.maximum(before, changed & -size), np.uint16)


def near_both(bits: Bits, radius: int, real: NDArray[np.bool_] | None = None) -> Bits:
    """Pixels that have one inside and one outside within ``radius`` (Chebyshev).

    Args:
        bits: ``[n, h, words]``.
        radius: in pixels.
        real: bool ``[h]``, rows that count, where not all do; the others are empty.
    """
    inside = _words_apart(bits)
    outside = ~inside
    if real is not None:
        outside[..., ~real] = 0
    for _ in range(radius):
        inside, outside = _grown(inside), _grown(outside)
    inside &= outside
    if real is not None:
        inside[..., ~real] = 0
    return np.ascontiguousarray(np.moveaxis(inside, 0, 2))


def _words_apart(bits: Bits) -> Bits:
    """``[n, h, words]`` as ``[words, n, h]``: what goes from word to word is then one long operation."""
    return np.ascontiguousarray(np.moveaxis(bits, 2, 0))


def _grown(bits: Bits) -> Bits:
    """The pixels of ``[words, n, h]`` and their eight neighbours."""
    wide: Bits = bits << _ONE
    wide |= bits
    wide |= bits >> _ONE
    wide[1:] |= bits[:-1] >> _LAST
    wide[:-1] |= bits[1:] << _LAST
    grown: Bits = wide.copy()
    grown[..., 1:] |= wide[..., :-1]
    grown[..., :-1] |= wide[..., 1:]
    return grown


def extents(bits: Bits) -> NDArray[np.float32]:
    """float32 ``[n, 4]`` xyxy of ``[n, h, words]``, x2 and y2 the last column and row; zeros for an empty mask."""
    apart = _words_apart(bits)
    rows: NDArray[np.bool_] = np.bitwise_or.reduce(apart, axis=0) != 0
    across = np.ascontiguousarray(np.bitwise_or.reduce(apart, axis=2).T)
    columns = np.unpackbits(across.view(np.uint8), axis=1, bitorder="little")
    boxes = np.stack([*_first_and_last(columns), *_first_and_last(rows)], axis=1)[:, [0, 2, 1, 3]]
    return np.asarray(boxes * rows.any(axis=1, keepdims=True), np.float32)


def _first_and_last(flags: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return flags.argmax(axis=1), flags.shape[1] - 1 - flags[:, ::-1].argmax(axis=1)
