"""Loops over pixels of masks and their packed bits, compiled by numba: to what is kept of them, and to image size.

Imported late, and only by ``compiled.loops``, as ``run_loops`` is. Bits of the mask frame lie as in ``bit_masks``:
the lowest bit of a word is its first pixel. Those at image size lie as in ``packed_masks``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fiftyone_ntt.pixels.compiled import compiled

Bits = NDArray[np.uint64]
Float = NDArray[np.float32]

# numba makes a float of a uint64 and a signed number: so all numbers that meet bits are of their kind.
_ZERO, _ONE, _LAST = np.uint64(0), np.uint64(1), np.uint64(63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_PAIRS, _FOURS, _EIGHTS = (np.uint64(n) for n in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
_SUM, _TOP = np.uint64(0x0101010101010101), np.uint64(56)
_TWO, _FOUR, _WORD = np.uint64(2), np.uint64(4), np.uint64(64)
_FIRST_LOW = np.uint64(0x0102040810204080)
"""Eight bytes of 0 or 1 times this are eight bits in the highest byte, the first byte's the lowest bit."""
_FIRST_HIGH = np.uint64(0x8040201008040201)
"""The same with the first byte's the highest bit, as ``numpy.packbits`` has it."""
_TINY = np.float32(1e-30)
"""Products of weights and anything above are above 0."""
_MOST = np.float32(1e3)
"""Logits beyond are left to matrix products, which may meet infinity or no number."""
_UNSURE = 255


def _ones(word: Any) -> Any:
    """How many bits of a word are set; compilers know this way of writing a single instruction."""
    word = word - ((word >> _ONE) & _PAIRS)
    word = (word & _FOURS) + ((word >> _TWO) & _FOURS)
    return np.int64((((word + (word >> _FOUR)) & _EIGHTS) * _SUM) >> _TOP)


def _first(word: Any) -> Any:
    """The place of the lowest bit set of a word that is not 0."""
    return _ones((word & (~word + _ONE)) - _ONE)


_ones = njit(nogil=True, inline="always")(_ones)
_first = njit(nogil=True, inline="always")(_first)


def _pack(flags: Any, bits: Any) -> None:
    """Words of flags uint64 ``[8 * words]``, eight bytes of 0 or 1 each."""
    for k in range(len(bits)):
        word = _ZERO
        for octet in range(8):
            word |= ((flags[8 * k + octet] * _FIRST_LOW) >> _TOP) << np.uint64(8 * octet)
        bits[k] = word


def _grow(bits: Any, outside: bool, radius: int, grown: Any) -> None:
    """Rows of bits, or of those not set, grown to the left and to the right."""
    words = bits.shape[1]
    for row in range(len(bits)):
        for k in range(words):
            grown[row, k] = ~bits[row, k] if outside else bits[row, k]
        for _ in range(radius):
            before = _ZERO
            for k in range(words):
                word = grown[row, k]
                after = grown[row, k + 1] << _LAST if k + 1 < words else _ZERO
                grown[row, k] = word | (word << _ONE) | (word >> _ONE) | before | after
                before = word >> _LAST


def _near(bits: Any, radius: int, inside: Any, outside: Any) -> None:
    """Pixels that have one inside and one outside within ``radius``; see ``bit_masks.near_both``.

    Args:
        bits: uint64 ``[h, words]``.
        radius: in pixels.
        inside: as bits, written: the answer.
        outside: as bits, written.
    """
    _grow(bits, False, radius, inside)
    _grow(bits, True, radius, outside)
    height, words = bits.shape
    behind = np.empty((radius + 1, words), np.uint64)
    for row in range(height):
        for k in range(words):
            one, other = _ZERO, outside[row, k]
            for near in range(row, min(row + radius, height - 1) + 1):
                one |= inside[near, k]
                other |= outside[near, k]
            for near in range(max(row - radius, 0), row):
                one |= behind[near % (radius + 1), k]
                other |= outside[near, k]
            behind[row % (radius + 1), k] = inside[row, k]
            inside[row, k] = one & other


_pack = njit(nogil=True)(_pack)
_grow = njit(nogil=True)(_grow)
_near = njit(nogil=True)(_near)


@compiled("void(f4[::], u8[::]!, i8[:]!)")
def bits_and_areas(values: Float, bits: Bits, areas: NDArray[np.int64]) -> None:
    """Where values are above 0, as bits, and how many are above 1 and above -1; see ``bit_masks.packed_and_areas``.

    Args:
        values: float32 ``[n, h, w]``.
        bits: uint64 ``[n, h, w / 64]``, written.
        areas: int64 ``[2, n]``, written.
    """
    _, height, width = values.shape
    flags = np.empty(width, np.uint8)
    eight = flags.view(np.uint64)
    for mask in range(len(values)):
        sure, possible = 0, 0
        for row in range(height):
            surely, possibly = np.int32(0), np.int32(0)
            for column in range(width):
                value = values[mask, row, column]
                flags[column] = value > np.float32(0)
                surely += np.int32(value > np.float32(1))
                possibly += np.int32(value > np.float32(-1))
            sure, possible = sure + surely, possible + possibly
            _pack(eight, bits[mask, row])
        areas[0, mask], areas[1, mask] = sure, possible


@compiled("void(f4[::], u8[::], i8, u1[], f4[], f4[:]!, i8[]!, i8[]!, u2[]!, u1[]!)")
def keep_masks(
    values: Float,
    bits: Bits,
    radius: int,
    table: NDArray[np.uint8],
    borders: Float,
    boxes: Float,
    run_counts: NDArray[np.int64],
    code_counts: NDArray[np.int64],
    runs: NDArray[np.uint16],
    codes: NDArray[np.uint8],
) -> None:
    """Boxes, run lengths and outline codes of masks; see ``candidates.compact``.

    Args:
        values: float32 ``[n, 256, 256]``.
        bits: uint64 ``[n, 256, 4]``, where they are above 0.
        radius: how wide outlines are.
        table: uint8 ``[65536]``, see ``mask_codes._code_table``.
        borders: float32, where one code ends and the next begins.
        boxes: float32 ``[n, 4]`` xyxy, zeros at first, written.
        run_counts: int64 ``[n]``, written.
        code_counts: int64 ``[n]``, written.
        runs: uint16 with room for all pixels, written.
        codes: uint8 with room for all pixels, written.
    """
    _, height, width = values.shape
    words = bits.shape[2]
    pattern = values.reshape(-1).view(np.uint32)
    near, scratch = np.empty((height, words), np.uint64), np.empty((height, words), np.uint64)
    run, code = 0, 0
    for mask in range(len(values)):
        run_before, code_before, last, carry = run, code, 0, _ZERO
        x1, y1, x2, y2 = width, height, -1, -1
        for row in range(height):
            for k in range(words):
                word = bits[mask, row, k]
                if word:
                    y1, y2 = min(y1, row), row
                    if 64 * k < x1:
                        x1 = min(x1, 64 * k + _first(word))
                    if 64 * k + 63 > x2:
                        for column in range(64 * k + 63, max(x2, 64 * k - 1), -1):
                            if (word >> np.uint64(column - 64 * k)) & _ONE:
                                x2 = column
                                break
                changed = word ^ ((word << _ONE) | carry)
                carry = word >> _LAST
                while changed:
                    place = row * width + 64 * k + _first(changed)
                    runs[run] = place - last
                    run, last = run + 1, place
                    changed &= changed - _ONE
        if x2 >= 0:
            boxes[mask, 0], boxes[mask, 1], boxes[mask, 2], boxes[mask, 3] = x1, y1, x2, y2
        _near(bits[mask], radius, near, scratch)
        for row in range(height):
            for k in range(words):
                word = near[row, k]
                while word:
                    place = (mask * height + row) * width + 64 * k + _first(word)
                    found = table[pattern[place] >> np.uint32(16)]
                    if found == _UNSURE:
                        found, magnitude = 0, abs(values[mask, row, 64 * k + _first(word)])
                        while found < len(borders) and borders[found] <= magnitude:
                            found += 1
                    codes[code] = found
                    code += 1
                    word &= word - _ONE
        run_counts[mask], code_counts[mask] = run - run_before, code - code_before


@compiled("b1(u2[], u1[], f4[], i8, i8, i8, f4[:]!)")
def read_outlined(
    lengths: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    levels: Float,
    top: int,
    left: int,
    radius: int,
    values: Float,
) -> bool:
    """A part of the mask frame with a kept mask and its outline; see ``mask_codes.Outlined``.

    Args:
        lengths: run lengths of the mask.
        codes: of its outline.
        levels: float32, the magnitude of each code.
        top: first row of the part.
        left: its first column.
        radius: how wide the outline is.
        values: float32 ``[h, w]``, the part; written.

    Returns:
        Whether all that belongs together; values are to be thrown away where not.
    """
    height, width = values.shape
    bits = np.zeros((height, 4), np.uint64)
    values[:] = -1
    place, end, inside = -256 * top, 256 * height, False
    for k in range(len(lengths) + 1):
        stop = min(place + np.int64(lengths[k]), end) if k < len(lengths) else end
        if inside:
            if place < 0 or (k < len(lengths) and place + np.int64(lengths[k]) > end):
                return False  # a mask that leaves its box
            if k == len(lengths) and top + height < 256 and place < end:
                return False  # one that goes on to the last row of all
            for row in range(place >> 8, ((stop - 1) >> 8) + 1):
                begin, border = max(place - 256 * row, 0) - left, min(stop - 256 * row, 256) - left
                if begin < 0 or border > width:
                    return False  # one that leaves it sideways: loops over runs would write there
                values[row, begin:border] = 1
            while place < stop:
                # As many pixels as lie in one word.
                step = min(stop - place, 64 - place % 64)
                ones = _ALL if step == 64 else (_ONE << np.uint64(step)) - _ONE
                bits[place >> 8, (place >> 6) & 3] |= ones << np.uint64(place % 64)
                place += step
        place, inside = stop, not inside
    near, scratch = np.empty((height, 4), np.uint64), np.empty((height, 4), np.uint64)
    _near(bits, radius, near, scratch)
    code = 0
    for row in range(height):
        for k in range(4):
            word = near[row, k]
            while word:
                if code == len(codes):
                    return False
                place = _first(word)
                column = 64 * k + place - left
                if codes[code] >= len(levels):
                    return False
                if 0 <= column < width:
                    level = levels[codes[code]]
                    values[row, column] = level if (bits[row, k] >> np.uint64(place)) & _ONE else -level
                code += 1
                word &= word - _ONE
    return code == len(codes)


@compiled("i8(f4[:], i8, i8, i8, i8, i8, i8, i8[], i8[], f4[], f4[], i8[], i8[], f4[], f4[], u8[:]!, i8[]!)")
def enlarge(
    values: Float,
    first_row: int,
    first_column: int,
    top: int,
    bottom: int,
    left: int,
    right: int,
    upper: NDArray[np.int64],
    lower: NDArray[np.int64],
    weight_up: Float,
    weight_low: Float,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    weight_left: Float,
    weight_right: Float,
    bits: Bits,
    extent: NDArray[np.int64],
) -> int:
    """Where a mask is above 0 in a part of an enlarged image; see ``packed_masks._resize_one``.

    Products are rounded and added as the fused multiply-adds of a matrix product do. Where all four inputs of all
    outputs in a word are of one sign, which is nearly everywhere, nothing has to be computed.

    Args:
        values: float32 ``[h, w]``, logits of all inputs that the outputs need, and maybe more.
        first_row: the input row that they begin at.
        first_column: the input column that they begin at.
        top: first output row.
        bottom: the one after the last.
        left: first output column.
        right: the one after the last.
        upper: of all output rows the first input; ``lower`` the second, ``weight_up`` and ``weight_low`` their weights.
        lower: see ``upper``.
        weight_up: see ``upper``.
        weight_low: see ``upper``.
        before: the same for columns.
        after: see ``before``.
        weight_left: see ``before``.
        weight_right: see ``before``.
        bits: uint64 ``[bottom - top, words]``, written; words begin at multiples of 64 columns of the image.
        extent: int64 ``[4]`` xyxy of what is above 0 in rows and columns of ``bits``, exclusive; written.

    Returns:
        The number of pixels above 0; -1 where a logit is too large, or no number.
    """
    words, origin = bits.shape[1], left - left % 64
    # Inputs and weights of all columns of all words; nothing is above 0 in those that are not asked for.
    lefts, rights = np.zeros(64 * words, np.uint32), np.zeros(64 * words, np.uint32)
    shares_left, shares_right = np.zeros(64 * words, np.float32), np.zeros(64 * words, np.float32)
    for x in range(left, right):
        lefts[x - origin], rights[x - origin] = before[x] - first_column, after[x] - first_column
        shares_left[x - origin], shares_right[x - origin] = weight_left[x], weight_right[x]
    sign = np.empty((len(values), words), np.int8)  # of all inputs of a word: 1 above 0, -1 not, 0 both
    for row in range(upper[top] - first_row, lower[bottom - 1] - first_row + 1):
        for k in range(words):
            low, high = max(origin + 64 * k, left), min(origin + 64 * k + 64, right)
            inputs = values[row, before[low] - first_column : after[high - 1] - first_column + 1]
            positive, above, sound = np.int32(0), np.int32(0), np.int32(0)
            for column in range(len(inputs)):
                sound += np.int32(abs(inputs[column]) < _MOST)
                positive += np.int32(inputs[column] > _TINY)
                above += np.int32(inputs[column] > np.float32(0))
            if sound < len(inputs):
                return -1
            sign[row, k] = 1 if positive == len(inputs) and high - low == 64 else -1 if above == 0 else 0
    across = np.empty((2, 64 * words), np.float32)
    made = np.full((2, words), -1, np.int64)  # which row of inputs each word of ``across`` is of
    flags = np.zeros(64, np.uint8)
    eight = flags.view(np.uint64)
    columns = np.zeros(words, np.uint64)
    area, y1, y2 = 0, bottom, -1
    for y in range(top, bottom):
        one, other = upper[y] - first_row, lower[y] - first_row
        up, low_share = weight_up[y], np.float64(weight_low[y])
        for k in range(words):
            word = _ZERO
            if sign[one, k] == sign[other, k] == 1:
                word = _ALL
            elif sign[one, k] != -1 or sign[other, k] != -1:
                start = np.uint64(64 * k)
                for row in (one, other):
                    if made[row & 1, k] != row:
                        made[row & 1, k] = row
                        line, target = values[row], across[row & 1]
                        for j in range(_WORD):
                            x = start + j
                            product = np.float64(shares_left[x] * line[lefts[x]])
                            more = np.float64(shares_right[x]) * np.float64(line[rights[x]])
                            target[x] = np.float32(product + more)
                above_line, below_line = across[one & 1], across[other & 1]
                for j in range(_WORD):
                    product = np.float64(up * above_line[start + j])
                    flags[j] = product + low_share * np.float64(below_line[start + j]) > 0
                for octet in range(8):
                    word |= ((eight[octet] * _FIRST_HIGH) >> _TOP) << np.uint64(8 * octet)
            bits[y - top, k] = word
            if word:
                area += _ones(word)
                columns[k] |= word
                y1, y2 = min(y1, y - top), y - top
    x1, x2 = -1, -1
    for column in range(64 * words):
        # Within each byte the highest bit is the first pixel.
        place = np.uint64((column & 56) + 7 - (column & 7))
        if (columns[column >> 6] >> place) & _ONE:
            x1, x2 = column if x1 < 0 else x1, column
    extent[0], extent[1], extent[2], extent[3] = x1, y1, x2 + 1, y2 + 1
    return area
