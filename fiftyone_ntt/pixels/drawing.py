"""Drawing labels on images: translucent masks with outlines, and chips with name and score."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from fiftyone_ntt.errors import as_text

Colour = tuple[int, int, int]

BACKGROUND: Colour = (18, 20, 26)
INK: Colour = (236, 238, 242)
FADED: Colour = (150, 156, 168)
_HUES = (0.115, 0.52, 0.92, 0.33, 0.75, 0.02)
_OVERSAMPLING = 2
_FILL_OPACITY = 0.38
_LONGEST_NAME = 40


def fill_polygon(rings: Sequence[NDArray[np.floating]], image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside closed lines by the even-odd rule: a ring inside another one is a hole.

    What is too thin to hold a centre (a point, a line, a sliver) has the pixels that its line runs through. Lines may
    leave the image: what lies inside is kept.

    Args:
        rings: lines ``[V, 2]`` (x, y) in pixels, of any number of corners.
        image_size: ``(height, width)`` in pixels.

    Returns:
        bool ``[H, W]``; without a pixel only where all of it lies outside the image.
    """
    lines = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    mask = np.zeros(image_size, bool)
    parts = [_filled(line, image_size) for line in lines]
    for top, left, inside in parts:
        mask[top : top + inside.shape[0], left : left + inside.shape[1]] ^= inside
    if not mask.any():  # of a line that is there twice nothing would be left
        for top, left, inside in parts:
            mask[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside
    for line, (_, _, inside) in zip(lines, parts, strict=True):
        if not inside.any():
            columns, rows = _along(line, image_size)
            mask[rows, columns] = True
    return mask


def _filled(ring: NDArray[np.float64], image_size: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """First row and column, and bool ``[h, w]`` from there on: the pixels whose centres a ring encloses."""
    height, width = image_size
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
    # Rows whose centres an edge crosses, the lower end aside: a corner at a centre counts once.
    first, stop = (
        np.clip(np.ceil(side(y, next_y) - 0.5), 0, height).astype(np.int64) for side in (np.minimum, np.maximum)
    )
    counts = stop - first  # [V]
    if not counts.sum():
        return 0, 0, np.zeros((0, 0), bool)
    edge = np.repeat(np.arange(len(ring)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    share = (rows + 0.5 - y[edge]) / (next_y[edge] - y[edge])
    columns = np.clip(np.ceil(x[edge] + share * (next_x[edge] - x[edge]) - 0.5), 0, width).astype(np.int64)
    top, left = int(rows.min()), int(columns.min())
    crossed = np.zeros((int(rows.max()) + 1 - top, int(columns.max()) + 1 - left), bool)
    np.logical_xor.at(crossed, (rows - top, columns - left), True)  # from the first centre right of a crossing on
    return top, left, np.logical_xor.accumulate(crossed, axis=1)[:, :-1]


def _along(ring: NDArray[np.float64], image_size: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns and rows of the pixels of the image that a closed line runs through."""
    following = np.roll(ring, -1, axis=0)
    steps = np.maximum(np.ceil(np.abs(following - ring).max(axis=1) * 2), 1).astype(np.int64)  # [V], half a pixel each
    edge = np.repeat(np.arange(len(ring)), steps)
    share = (np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)) / steps[edge]
    points = ring[edge] + share[:, None] * (following - ring)[edge]
    size = np.array(image_size[::-1])
    points = points[((points >= 0) & (points <= size)).all(axis=1)]
    columns, rows = np.minimum(np.floor(points), size - 1).astype(np.int64).T
    return columns, rows


def encode_png(values: NDArray[np.bool_] | NDArray[np.uint8]) -> bytes:
    """A mask (``True`` becomes 255) or uint8 picture as a PNG file."""
    data = io.BytesIO()
    Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == bool else values).save(data, "PNG")
    return data.getvalue()


@dataclass(frozen=True)
class Shape:
    """Something to draw on an image.

    Attributes:
        label: its class.
        mask: bool ``[H, W]`` in pixels of the image.
        score: its score in 0..1, or ``None`` for ground truth.
    """

    label: str
    mask: NDArray[np.bool_]
    score: float | None = None


def draw_shapes(
    pixels: NDArray[np.uint8], shapes: Sequence[Shape], classes: Sequence[str], width: int, *, chips: bool = True
) -> Image.Image:
    """An image with shapes on it; the weaker a label, the fainter.

    Args:
        pixels: uint8 ``[H, W, 3]`` RGB.
        shapes: what to draw.
        classes: all classes, so that a class has the same colour in every picture.
        width: of the picture, in pixels; the height follows.
        chips: write class and score on every shape.
    """
    rows, columns = pixels.shape[:2]
    size = (width, max(1, round(width * rows / columns)))
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    shapes = sorted(shapes, key=lambda shape: -int(shape.mask.sum()))  # small ones on top
    colours = [class_colour(shape.label, classes, number) for number, shape in enumerate(shapes)]
    best = max((shape.score for shape in shapes if shape.score is not None), default=1.0)
    for shape, colour in zip(shapes, colours, strict=True):
        _tint(picture, shape.mask, colour, 1.0 if shape.score is None else (shape.score / best) ** 2)
    taken: list[tuple[float, float, float, float]] = []
    for shape, colour in sorted(zip(shapes, colours, strict=True), key=lambda pair: -(pair[0].score or 1.0)):
        if not chips:
            break
        _chip(picture, shape, colour, taken)
    return picture


def class_colour(label: str, classes: Sequence[str], number: int = 0) -> Colour:
    """The colour of a class; its instances differ a little in hue and brightness."""
    index = list(classes).index(label) if label in classes else len(classes)
    hue = (_HUES[index % len(_HUES)] + (0.0, 0.025, -0.025, 0.05)[number % 4]) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.7)[number % 2], (1.0, 0.96)[number // 2 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def hex_colour(label: str, classes: Sequence[str]) -> str:
    """The colour of a class as the App and its plots take it, such as ``"#FF9C26"``."""
    return "#{:02X}{:02X}{:02X}".format(*class_colour(label, classes))


def _tint(picture: Image.Image, mask: NDArray[np.bool_], colour: Colour, strength: float) -> None:
    """Fills a mask and draws its outline, both with smooth edges; the weaker the label, the fainter both are."""
    if not mask.any():
        return
    scale = picture.width / mask.shape[1]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * scale + (-8, -8, 8, 8)
    left, top, right, bottom = np.clip(corners, 0, [*picture.size, *picture.size]).round().astype(int).tolist()
    size = ((right - left) * _OVERSAMPLING, (bottom - top) * _OVERSAMPLING)
    window = (left / scale, top / scale, min(right / scale, mask.shape[1]), min(bottom / scale, mask.shape[0]))
    grown = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC, box=window)
    shape = grown.filter(ImageFilter.GaussianBlur(2 * _OVERSAMPLING)).point(lambda value: 255 if value > 127 else 0)
    ring = ImageChops.subtract(shape.filter(ImageFilter.MaxFilter(5)), shape.filter(ImageFilter.MinFilter(3)))
    for layer, opacity in ((shape, _FILL_OPACITY * strength), (ring, 0.3 + 0.7 * strength)):
        small = layer.resize((right - left, bottom - top), Image.Resampling.BOX)
        picture.paste(colour, (left, top), small.point([int(value * opacity) for value in range(256)]))


def _chip(picture: Image.Image, shape: Shape, colour: Colour, taken: list[tuple[float, float, float, float]]) -> None:
    """Writes name and score above a shape, unless another chip is there already."""
    if not shape.mask.any():
        return
    rows, columns = np.flatnonzero(shape.mask.any(1)), np.flatnonzero(shape.mask.any(0))
    scale = picture.width / shape.mask.shape[1]
    name = as_text(shape.label, _LONGEST_NAME)  # of a name with a line break Pillow cannot measure the length
    text = name if shape.score is None else f"{name} {shape.score:.2f}"
    draw, face = ImageDraw.Draw(picture), font(15)
    wide, high = draw.textlength(text, face) + 14, 22
    middle = scale * (columns[0] + columns[-1] + 1) / 2
    left = min(max(2.0, middle - wide / 2), max(2.0, picture.width - wide - 2))
    for top in (scale * rows[0] - high - 4, scale * rows[0] + 4, scale * rows.mean() - high / 2):
        box = (left, max(2.0, top), left + wide, max(2.0, top) + high)
        if not any(_overlap(box, other) for other in taken):
            taken.append(box)
            draw.rounded_rectangle(box, radius=6, fill=colour)
            draw.text((box[0] + 7, box[1] + 2), text, BACKGROUND, face)
            return


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all texts in pictures."""
    return ImageFont.load_default(size)
