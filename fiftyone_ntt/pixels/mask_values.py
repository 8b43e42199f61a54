"""What the numbers of a stored mask mean: binary, shares of 0 to 1, greys, colours, transparency.

Masks of other tools come in all these forms. What can be meant in one way only is read that way; anything else is
refused with what was seen, as taking any value for "on the object" would quietly make a whole box of it, or nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import InputError, counted

_NEARLY = 24
"""Of 255: colours that differ by no more are the same one, more or less bright (JPEG, smooth edges)."""
_FAINT = 31
"""Of 255: values up to this may be numbers of classes or objects; between them and white there are only greys."""
_ADVICE = "save it as 0 and 255 (or true and false)"


def flags_of(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels of a stored mask lie on the object: bool ``[h, w]``.

    Args:
        mask: ``[h, w]`` or ``[h, w, channels]``: two values, of which 0 is not the object; shares of 0 to 1 and greys
            of 8 or 16 bits, of which half and more is the object; one colour on black; or what is not transparent.

    Raises:
        InputError: if it can be meant in more than one way, or is no mask.
    """
    if mask.ndim not in (2, 3) or 0 in mask.shape or mask.dtype.kind not in "biuf":
        raise InputError(f"expected a two-dimensional mask of numbers, got shape {mask.shape} of {mask.dtype}")
    values = _one_channel(mask)
    if values.dtype == bool:
        return values
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0)
    low, top = values.min(), values.max()
    if low >= 0 and np.logical_or(values == 0, values == top).all():
        return np.asarray(values > 0)
    if low >= 0 and values.dtype.kind == "f" and top <= 1:
        return np.asarray(values >= 0.5)
    levels = np.unique(values)
    full = 255 if top <= 255 else 65535
    greys = int(((levels > full * _FAINT / 255) & (levels < full)).sum())
    if low >= 0 and full / 2 <= top <= full and greys >= 2 and not _are_numbers(levels):
        return np.asarray(values >= full / 2)
    some = ", ".join(f"{value:g}" for value in levels[:6].tolist()) + (", ..." if len(levels) > 6 else "")
    raise InputError(
        f"expected a mask of two values, shares of 0 to 1, or greys, got {counted(len(levels), 'value')}: {some}; "
        f"{_ADVICE}"
    )


def _are_numbers(levels: NDArray[Any]) -> bool:
    """Whether values look like numbers of classes or objects: 0, 1, 2, ... without a gap, and not up to white."""
    return bool(levels[-1] < 255 and np.array_equal(levels, np.arange(len(levels))))


def _one_channel(mask: NDArray[Any]) -> NDArray[Any]:
    if mask.ndim == 2:
        return mask
    if mask.shape[2] > 4:
        raise InputError(f"expected a mask of at most four channels, got {mask.shape[2]}; {_ADVICE}")
    colours, alpha = mask, None
    if mask.shape[2] in (2, 4):
        colours, alpha = mask[..., :-1], mask[..., -1]
    if alpha is None or alpha.min() == alpha.max() > 0:
        return _brightness(colours)
    visible = colours[alpha > 0]  # [n, channels]
    if not len(visible):
        raise InputError(f"expected a mask, got a picture that is wholly transparent; {_ADVICE}")
    if (visible == visible[0]).all() or np.array_equal(colours.any(axis=2), alpha > 0):
        return alpha
    raise InputError(f"expected a mask, got colours and transparency that say different things; {_ADVICE}")


def _brightness(colours: NDArray[Any]) -> NDArray[Any]:
    """The brightest channel of each pixel, where all are of one colour and differ only in how bright they are."""
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    bright: NDArray[Any] = colours.max(axis=2)
    peak = int(bright.argmax())
    colour, most = colours.reshape(-1, colours.shape[2])[peak].astype(np.float32), float(bright.flat[peak])
    scale = 1.0 if colours.dtype.kind == "f" and most <= 1 else 255.0 if most <= 255 else 65535.0
    expected = bright[..., None].astype(np.float32) * (colour / most)
    if np.abs(expected - colours).max() > scale * _NEARLY / 255:
        count = len(np.unique(colours.reshape(-1, colours.shape[2]), axis=0))
        raise InputError(f"expected a mask of one colour, got {counted(count, 'colour')}; {_ADVICE}")
    return bright


def numbers_of(values: NDArray[Any], *, is_file: bool = False) -> NDArray[np.integer[Any]] | None:
    """The values of a stored semantic segmentation mask: integers ``[h, w]``; ``None`` where it is one of colours.

    Args:
        values: ``[h, w]`` or ``[h, w, channels]``.
        is_file: whether they were read from an image file: many a program saves a grey picture in colour. An array
            that has three channels was meant to.

    Raises:
        InputError: if they are no whole numbers.
    """
    if is_file and values.ndim == 3 and values.shape[2] in (2, 4) and (values[..., -1] == values.flat[-1]).all():
        values = values[..., :-1]  # opaque
    if values.ndim == 3 and (is_file or values.shape[2] == 1) and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "biuf":
        return None
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise InputError(
            f"expected a segmentation mask of whole numbers, one a class, got values from {np.nanmin(values):g} to "
            f"{np.nanmax(values):g}; shares of 0 to 1 have to be turned into classes first"
        )
    if values.dtype == bool:
        return values.view(np.uint8)
    return values if values.dtype.kind in "ui" else values.astype(np.int64)
