"""Between FiftyOne's labels and pixels of the image: relative boxes and points, in-box masks, segmentation masks."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import mask_of, relative_box, shortened
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.pixels.deep_images import has_palette
from fiftyone_ntt.pixels.mask_values import flags_of, numbers_of

FAR_OUTSIDE = 4.0
"""Relative coordinates beyond this were meant as pixels; annotation tools let boxes stick out a little."""


def box_in_pixels(detection: fo.Detection, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A detection's box as xyxy in image pixels, clipped to the image.

    Args:
        detection: its ``bounding_box`` is ``[x, y, width, height]``, relative 0..1.
        image_size: ``(height, width)`` of the image in pixels.

    Raises:
        InputError: if the box is not four finite numbers, or has no area inside the image.
    """
    x, y, w, h = box = relative_box(detection.bounding_box).tolist()
    if min(w, h) <= 0:
        raise InputError(
            f"the box {box} has no area, as its width or its height is not above 0; boxes are [x, y, width, height], "
            "not two corners"
        )
    if max(map(abs, box)) > FAR_OUTSIDE:
        raise InputError(
            f"the box {box} reaches far outside the image; boxes are relative (0..1), not in pixels: divide x and "
            "width by the image's width, y and height by its height"
        )
    height, width = image_size
    x1, x2 = (min(max(edge, 0.0), 1.0) * width for edge in (x, x + w))
    y1, y2 = (min(max(edge, 0.0), 1.0) * height for edge in (y, y + h))
    if x2 - x1 <= 0 or y2 - y1 <= 0:
        raise InputError(f"the box {box} has no area inside the image; boxes are relative (0..1), not in pixels")
    return x1, y1, x2, y2


def points_in_pixels(points: Any, image_size: tuple[int, int]) -> NDArray[np.float32]:
    """Relative points as float32 ``[P, 2]`` (x, y) in image pixels; NaN, which marks a missing point, stays.

    As boxes do, they may lie outside the image.

    Raises:
        InputError: if they are no points, or so far away that pixels were meant.
    """
    height, width = image_size
    try:
        relative = np.asarray(points if points is not None else [], np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"expected points [x, y], got {shortened(points)}") from error
    placed = relative[np.isfinite(relative).all(axis=1)]
    if np.abs(placed).max(initial=0.0) > FAR_OUTSIDE:
        raise InputError(
            f"the points {shortened(placed.round(3).tolist())} reach far outside the image; points are relative "
            "(0..1), not in pixels: divide x by the image's width, y by its height"
        )
    return np.asarray(relative * [width, height], np.float32)


def near_image(points: NDArray[np.floating], image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool ``[P]``, which points ``[P, 2]`` lie in the image, or beside it by no more than a slip of the hand."""
    outside = np.maximum(-points, points - np.array(image_size[::-1])).max(axis=1)
    return np.asarray(outside <= 0.01 * max(image_size))


def line_inside(line: NDArray[np.floating], image_size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """The pieces of a line ``[V, 2]`` (x, y) in pixels that lie in the image; itself where all of it does."""
    size = np.array(image_size[::-1], np.float64)
    if ((line >= 0) & (line <= size)).all():
        return [np.asarray(line, np.float32)]
    pieces: list[list[NDArray[np.float64]]] = []
    for start, stop in zip(line[:-1].astype(np.float64), line[1:].astype(np.float64), strict=True):
        way = stop - start
        with np.errstate(divide="ignore", invalid="ignore"):
            borders = np.stack([-start / way, (size - start) / way])  # [2, 2] shares of the way to the four borders
        still = (way == 0) & (start >= 0) & (start <= size)
        enters = max(np.where(way == 0, np.where(still, 0.0, 2.0), borders.min(axis=0)).max(), 0.0)
        leaves = min(np.where(way == 0, np.where(still, 1.0, -1.0), borders.max(axis=0)).min(), 1.0)
        if enters > leaves:
            continue
        if not pieces or enters > 0:
            pieces.append([start + enters * way])
        pieces[-1].append(start + leaves * way)
    return [np.array(piece, np.float32) for piece in pieces]


def place_mask(detection: fo.Detection, image_size: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """Where a detection's in-box mask lies in the image.

    FiftyOne stretches a mask over its box. A mask that this package wrote has exactly the pixels of its box and comes
    back bit for bit; any other is resized (nearest) to the box rounded to pixels. What sticks out of the image is cut.

    Args:
        detection: has ``mask`` or ``mask_path``.
        image_size: ``(height, width)`` of the image in pixels.

    Returns:
        Left column, top row, and the bool ``[h, w]`` mask that starts there, wholly inside the image.

    Raises:
        InputError: if the box is unusable or the mask cannot be read.
    """
    box_in_pixels(detection, image_size)
    height, width = image_size
    x, y, w, h = (float(value) for value in detection.bounding_box)
    mask = _read_mask(detection)
    edges = (round(x * width), round((x + w) * width)), (round(y * height), round((y + h) * height))
    (left, right), (top, bottom) = edges
    if mask.shape == (bottom - top, right - left) and left >= 0 and top >= 0 and right <= width and bottom <= height:
        return left, top, mask  # as this package writes them
    columns, left = _stretch(mask.shape[1], *edges[0], width)
    rows, top = _stretch(mask.shape[0], *edges[1], height)
    return left, top, mask[np.ix_(rows, columns)]


def _stretch(cells: int, start: int, stop: int, size: int) -> tuple[NDArray[np.int64], int]:
    """The mask cell at each pixel of an axis from ``start`` to ``stop``, within 0..``size``; and the first pixel.

    A mask that is as long as its box to a pixel keeps its own pixels: rounding must not stretch it.
    """
    if abs(cells - (stop - start)) <= 1:
        stop = start + cells
    pixels = np.arange(max(start, 0), min(max(stop, start + 1), size))
    if not len(pixels):  # a box thinner than a pixel at the border
        pixels = np.array([min(max(start, 0), size - 1)])
    return np.clip((pixels - start) * cells // max(stop - start, 1), 0, cells - 1), int(pixels[0])


def full_mask(detection: fo.Detection, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The detection's mask at image size: bool ``[H, W]``."""
    left, top, crop = place_mask(detection, image_size)
    mask = np.zeros(image_size, bool)
    mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return mask


def _read_mask(detection: fo.Detection) -> NDArray[np.bool_]:
    mask = mask_of(detection)
    if mask is None:
        raise InputError("expected a mask, got none")
    return flags_of(mask)


def read_map(label: fo.Segmentation) -> NDArray[np.integer[Any]]:
    """The values of a semantic segmentation mask: integers ``[h, w]``.

    Raises:
        InputError: if there is none, or it cannot be read.
        WrongTypeError: if it is one of colours.
    """
    return read_map_as_stored(label)[0]


def read_map_as_stored(label: fo.Segmentation) -> tuple[NDArray[np.integer[Any]], bool]:
    """The same, and whether it is stored without channels: one with channels is one of colours to FiftyOne."""
    values = mask_of(label)
    if values is None:
        raise InputError("expected a segmentation mask, got none")
    numbers = numbers_of(values, is_file=label.mask is None)
    if numbers is None:
        raise WrongTypeError(
            f"expected a segmentation mask of one number a pixel, got shape {values.shape}; colours are not read"
            + ("; it is a PNG with a palette: save its indices as grey values" if _has_palette(label) else "")
        )
    return numbers, values.ndim == 2


def _has_palette(label: fo.Segmentation) -> bool:
    return label.mask is None and label.mask_path is not None and has_palette(label.mask_path)


def stretched(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A map ``[h, w]`` at another size ``(height, width)``, nearest value."""
    if values.shape == size:
        return values
    rows, columns = (np.arange(new) * old // new for old, new in zip(values.shape, size, strict=True))
    return values[np.ix_(rows, columns)]
