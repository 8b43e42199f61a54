"""What is seen of a picture with transparent parts: what lies on a background, not what is hidden under it.

A drawing may be in its opacity alone, and editors leave anything in the colours of what they made transparent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.pixels.contrast import contrast_note

MOST_OF_TIFF = 1 << 26
"""Pixels of a TIFF from which on it is read in parts, each of which knows nothing of the opacity of the others."""
TRANSPARENT = "of the image is transparent"
MULTIPLIED, OPACITIES = 1, ((1,), (2,))
"""What TIFF calls a channel of opacity that the colours were multiplied by, or were not; others hold anything."""
_EXTRA_CHANNELS = 338
_WITH_OPACITY = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_WITH_A_TRANSPARENT_COLOUR = frozenset({"1", "L", "P", "RGB", "I;16"})
_ROWS = 256


def opacity_of(image: Image.Image) -> NDArray[np.uint8] | None:
    """Opacity of each pixel, uint8 ``[H, W]``; ``None`` where all pixels have the same, which then means nothing.

    Decodes the picture only where its header says that there may be transparent parts.
    """
    if not _says_so(image):
        return None
    if image.mode in _WITH_OPACITY:
        opacity = np.asarray(image.getchannel(len(image.getbands()) - 1))
    elif image.mode == "I;16":
        opacity = np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8)
    else:
        opacity = np.asarray(image.convert("RGBA").getchannel("A"))
    return None if opacity.min() == opacity.max() else opacity


def visible(pixels: NDArray[np.uint8], opacity: NDArray[np.uint8] | None, notes: list[str]) -> NDArray[np.uint8]:
    """A picture on white, or on black where nothing could be told apart on white.

    Args:
        pixels: grey values or colours, uint8 ``[H, W]`` or ``[H, W, 3]``.
        opacity: uint8 ``[H, W]``; ``None`` leaves the picture as it is.
        notes: gets a line that says so.
    """
    if opacity is None:
        return pixels
    colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    shown, name = _laid_on(colours, opacity, 255), "white"
    if contrast_note(shown):
        on_black = _laid_on(colours, opacity, 0)
        if not contrast_note(on_black):
            shown, name = on_black, "black"
    share = 100 * (1 - float(opacity.mean()) / 255)
    notes.append(f"{f'{share:.0f} %' if share >= 1 else 'less than 1 %'} {TRANSPARENT}: shown on {name}")
    return shown


def visible_only(values: NDArray[Any], opacity: NDArray[np.uint8]) -> NDArray[Any]:
    """Colours ``[H, W, C]`` in which hidden pixels have the median of the others: they decide on no window."""
    hidden = opacity == 0
    if not hidden.any():
        return values
    result: NDArray[Any] = values.copy()
    result[hidden] = np.median(values[~hidden], axis=0).astype(values.dtype)
    return result


def _says_so(image: Image.Image) -> bool:
    """Whether the header of a file speaks of transparency."""
    if image.format == "TIFF":
        extra = getattr(image, "tag_v2", {}).get(_EXTRA_CHANNELS, ())
        small = image.width * image.height <= MOST_OF_TIFF
        return small and image.mode in _WITH_OPACITY and tuple(extra) in OPACITIES
    if image.mode in _WITH_OPACITY:
        return True
    colour = image.info.get("transparency")
    if colour is None or image.mode not in _WITH_A_TRANSPARENT_COLOUR:
        return False
    # Of 16 bits a value, of which Pillow keeps 8: which colour it is cannot be told any more.
    return not (isinstance(colour, tuple) and max(colour) > 255)


def _laid_on(pixels: NDArray[np.uint8], opacity: NDArray[np.uint8], background: int) -> NDArray[np.uint8]:
    shown = np.empty_like(pixels)
    for top in range(0, len(pixels), _ROWS):  # a few rows at a time: 16 bits take twice the room
        share = opacity[top : top + _ROWS, :, None].astype(np.uint16)
        mixed = pixels[top : top + _ROWS] * share + (255 - share) * np.uint16(background)  # at most 255 * 255
        shown[top : top + _ROWS] = (mixed + 127) // 255
    return shown
