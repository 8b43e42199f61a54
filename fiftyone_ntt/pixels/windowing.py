"""Values of any range as grey levels that a person can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_USED_RANGE = 1 << 14
"""Levels out of 65536 from which on a 16-bit picture is shown as it is, as every viewer does."""
_SAMPLE = 1 << 20
_ROWS = 256
_NO_DATA = -9999


@dataclass(frozen=True)
class Window:
    """Which values become black and which white.

    Attributes:
        low: becomes black, as does all below.
        high: becomes white.
        crowded: the end at which most of the content is: 1 the low one, -1 the high one, 0 neither.
        nodata: a value that stands for "no data".
    """

    low: float
    high: float
    crowded: int
    nodata: float | None = None


def windowed(values: NDArray[Any], nodata: float | None = None, together: bool = True) -> NDArray[np.uint8]:
    """Brings values of any range to 0..255, so that what is there can be seen.

    The window is the range of the content, whatever its sign, and not that of a few hot pixels or of what stands for
    "no data". 16-bit values that use their range are shown as they are.

    Args:
        values: whole or real numbers, ``[H, W]`` or ``[H, W, C]``; NaN and infinity become black.
        nodata: a value that stands for "no data", besides the usual ones.
        together: one window for all channels, which keeps colours, instead of one each.

    Returns:
        uint8 of the same shape. Values that are uint8 already come back as they are.
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if values.dtype == np.bool_:
        black_and_white: NDArray[np.uint8] = values.astype(np.uint8) * np.uint8(255)
        return black_and_white
    if values.ndim == 3 and not together:
        channels = [windowed(values[..., channel], nodata) for channel in range(values.shape[2])]
        return np.stack(channels, axis=2)
    return in_window(values, window_of(values, nodata))


def in_window(values: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Values in a window that is known, such as that of the whole image for a part of it: uint8 of the same shape."""
    low, high, crowded, nodata = window.low, window.high, window.crowded, window.nodata
    if values.dtype == np.uint16 and high - low >= _USED_RANGE and not crowded:
        return (values >> 8).astype(np.uint8)
    result = np.zeros(values.shape, np.uint8)
    if high <= low:
        return result
    for top in range(0, len(values), _ROWS):  # a few rows at a time, as real numbers take up to eight times the room
        rows = values[top : top + _ROWS]
        share = np.where(is_data(rows, nodata), rows, low).astype(np.float64).clip(low, high)
        share = (share - low) / (high - low)
        if crowded:  # steep where most of the content is
            share = np.cbrt(share) if crowded > 0 else 1.0 - np.cbrt(1.0 - share)
        result[top : top + _ROWS] = np.rint(share * 255.0)
    return result


def window_of(values: NDArray[Any], nodata: float | None = None) -> Window:
    """The window of the content of values ``[H, W]`` or ``[H, W, C]``."""
    step = max(1, int(np.ceil(np.sqrt(values.shape[0] * values.shape[1] / _SAMPLE))))
    data = is_data(values, nodata)
    sampled = data[::step, ::step]
    if not sampled.any():
        return Window(0.0, 0.0, 0, nodata)
    plain = values if data.all() else np.where(data, values, np.median(values[::step, ::step][sampled]))
    calm = _without_specks(plain, step)[sampled]
    # "higher" and "lower", so that in a small image, too, the ends themselves stay out
    low, dark = (float(value) for value in np.percentile(calm, (0.01, 1.0), method="higher"))
    bright, high = (float(value) for value in np.percentile(calm, (99.0, 99.99), method="lower"))
    if high <= low:  # flat, but for something very small
        low, high = float(calm.min()), float(calm.max())
    # A few bright things among dark ones must not take all grey levels: 98 of 100 values on a 16th of the window.
    if (bright - dark) * 16 >= high - low:
        return Window(low, high, 0, nodata)
    return Window(low, high, 1 if dark + bright < low + high else -1, nodata)


def _without_specks(values: NDArray[Any], step: int) -> NDArray[Any]:
    """Every ``step``-th value, where no higher than the second highest of its eight neighbours, and no lower likewise.

    That takes out hot and dead pixels, alone or in pairs. Lines of one pixel's width and small objects stay.
    """
    height, width = values.shape[:2]
    centre = values[::step, ::step]
    if min(height, width) < 3:
        return centre
    padded = np.pad(values, ((1, 1), (1, 1), *[(0, 0)] * (values.ndim - 2)), "reflect")
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    around = [padded[y : y + height : step, x : x + width : step] for y, x in shifts]
    highest, lowest = np.maximum(around[0], around[1]), np.minimum(around[0], around[1])
    second_highest, second_lowest = lowest, highest
    for neighbour in around[2:]:
        second_highest = np.maximum(second_highest, np.minimum(highest, neighbour))
        second_lowest = np.minimum(second_lowest, np.maximum(lowest, neighbour))
        highest, lowest = np.maximum(highest, neighbour), np.minimum(lowest, neighbour)
    limited: NDArray[Any] = np.minimum(np.maximum(centre, second_lowest), second_highest)
    return limited


def is_data(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where there are numbers, and not what programs write in place of one."""
    is_data = np.ones(values.shape, bool)
    if values.dtype.kind == "f":
        is_data = np.isfinite(values) & (values != _NO_DATA)
        if values.dtype.itemsize > 2:  # the lowest float32 is a common stand-in
            is_data &= np.abs(values) < 1e30
    elif values.dtype.kind == "i":
        is_data = values != np.iinfo(values.dtype).min
        if values.dtype.itemsize > 1:
            is_data &= values != _NO_DATA
    if nodata is not None:
        is_data &= values != nodata
    return is_data
