"""Between FiftyOne's relative boxes with in-box masks and pixels of the image."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.errors import InputError


def box_in_pixels(detection: fo.Detection, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A detection's box as xyxy in image pixels, clipped to the image.

    Args:
        detection: its ``bounding_box`` is ``[x, y, width, height]``, relative 0..1.
        image_size: ``(height, width)`` of the image in pixels.

    Raises:
        InputError: if the box is not four finite numbers, or has no area inside the image.
    """
    box = np.asarray(detection.bounding_box if detection.bounding_box is not None else [], np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise InputError(f"expected a relative box [x, y, width, height], got {detection.bounding_box!r}")
    height, width = image_size
    x1, x2 = np.clip([box[0], box[0] + box[2]], 0, 1) * width
    y1, y2 = np.clip([box[1], box[1] + box[3]], 0, 1) * height
    if x2 - x1 <= 0 or y2 - y1 <= 0:
        raise InputError(
            f"the box {[float(value) for value in box]} has no area inside the image; boxes are relative (0..1), "
            "not in pixels"
        )
    return float(x1), float(y1), float(x2), float(y2)


def place_mask(detection: fo.Detection, image_size: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """Where a detection's in-box mask lies in the image.

    FiftyOne stretches a mask over its box. A mask that this package wrote has exactly the pixels of its box and comes
    back bit for bit; any other is resized (nearest) to the box rounded to pixels.

    Args:
        detection: has ``mask`` or ``mask_path``.
        image_size: ``(height, width)`` of the image in pixels.

    Returns:
        Left column, top row, and the bool ``[h, w]`` mask that starts there, wholly inside the image.

    Raises:
        InputError: if the box is unusable or the mask cannot be read.
    """
    x1, y1, x2, y2 = box_in_pixels(detection, image_size)
    left, top = round(x1), round(y1)
    width, height = max(1, round(x2) - left), max(1, round(y2) - top)
    mask = _read_mask(detection)
    if abs(mask.shape[0] - height) > 1 or abs(mask.shape[1] - width) > 1:
        resized = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        mask = np.asarray(resized).astype(bool)
    return left, top, mask[: max(0, image_size[0] - top), : max(0, image_size[1] - left)]


def full_mask(detection: fo.Detection, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The detection's mask at image size: bool ``[H, W]``."""
    left, top, crop = place_mask(detection, image_size)
    mask = np.zeros(image_size, bool)
    mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return mask


def _read_mask(detection: fo.Detection) -> NDArray[np.bool_]:
    try:
        mask = detection.get_mask()
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the mask file {detection.mask_path} cannot be read ({error})") from error
    if mask is None:
        raise InputError(f"expected a mask at {detection.mask_path or 'mask'}, got none")
    mask = np.asarray(mask)
    if mask.ndim == 3:
        mask = mask[..., 0]
    if mask.ndim != 2 or 0 in mask.shape:
        raise InputError(f"expected a two-dimensional mask, got shape {mask.shape}")
    return mask.astype(bool)
