"""Pictures of labelled images: translucent masks with outlines, name and score chips, panels, and a contact sheet."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]

BACKGROUND: Colour = (18, 20, 26)
INK: Colour = (236, 238, 242)
FADED: Colour = (150, 156, 168)
_HUES = (0.115, 0.52, 0.92, 0.33, 0.75, 0.02)
_OVERSAMPLING = 2
_FILL_OPACITY = 0.38
_GAP = 24
_CAPTION_HEIGHT = 44


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


@dataclass(frozen=True)
class Panel:
    """An image with shapes and a caption.

    Attributes:
        pixels: uint8 ``[H, W, 3]`` RGB.
        shapes: what to draw.
        title: heading.
        remark: smaller text beside the heading.
    """

    pixels: NDArray[np.uint8]
    shapes: Sequence[Shape] = ()
    title: str = ""
    remark: str = ""


def draw_panel(panel: Panel, classes: Sequence[str], width: int, height: int | None = None) -> Image.Image:
    """Draws a panel: heading above, picture below.

    Args:
        panel: what to draw.
        classes: all classes, so that a class has the same colour in every panel.
        width: width in pixels; the picture fills it.
        height: the picture's height where it shall be cropped to fit (centred); its own proportions where ``None``.
    """
    picture = _picture(panel, classes, width)
    if height is not None:
        picture = _fitted(panel, classes, width, height)
    canvas = Image.new("RGB", (width, picture.height + _CAPTION_HEIGHT), BACKGROUND)
    canvas.paste(_rounded(picture), (0, _CAPTION_HEIGHT))
    draw = ImageDraw.Draw(canvas)
    title_font, remark_font = _font(22), _font(17)
    draw.text((2, 8), panel.title, INK, title_font)
    left = 2 + draw.textlength(panel.title, title_font) + 14
    draw.text((left, 12), panel.remark, FADED, remark_font)
    return canvas


def side_by_side(panels: Sequence[Panel], classes: Sequence[str], width: int = 760) -> Image.Image:
    """Panels of the same image in one row."""
    return stack([draw_panel(panel, classes, width) for panel in panels], horizontal=True, margin=_GAP)


def contact_sheet(
    title: str, remark: str, rows: Sequence[Sequence[Panel]], classes: Sequence[str], width: int = 1680
) -> Image.Image:
    """Rows of panels under a heading; the panels of a row have one height and fill the width together."""
    drawn = [heading(title, remark, width)]
    for row in rows:
        ratios = [panel.pixels.shape[1] / panel.pixels.shape[0] for panel in row]
        height = int((width - _GAP * (len(row) - 1)) / sum(ratios))
        sizes = [int(height * ratio) for ratio in ratios]
        panels = [draw_panel(panel, classes, size, height) for panel, size in zip(row, sizes, strict=True)]
        drawn.append(stack(panels, horizontal=True))
    return stack(drawn, horizontal=False, margin=_GAP + 8)


def heading(title: str, remark: str, width: int) -> Image.Image:
    """A large title with a line of smaller text below it."""
    canvas = Image.new("RGB", (width, 84), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 0), title, INK, _font(38))
    draw.text((2, 52), remark, FADED, _font(20))
    return canvas


def stack(images: Sequence[Image.Image], *, horizontal: bool, margin: int = 0) -> Image.Image:
    """Images in a row or a column, with gaps between them and a margin around."""
    widths, heights = [image.width for image in images], [image.height for image in images]
    along, across = (widths, heights) if horizontal else (heights, widths)
    size = (sum(along) + _GAP * (len(images) - 1) + 2 * margin, max(across) + 2 * margin)
    canvas = Image.new("RGB", size if horizontal else size[::-1], BACKGROUND)
    place = margin
    for image, length in zip(images, along, strict=True):
        canvas.paste(image, (place, margin) if horizontal else (margin, place))
        place += length + _GAP
    return canvas


def class_colour(label: str, classes: Sequence[str], number: int = 0) -> Colour:
    """The colour of a class; its instances differ a little in hue and brightness."""
    index = list(classes).index(label) if label in classes else len(classes)
    hue = (_HUES[index % len(_HUES)] + (0.0, 0.025, -0.025, 0.05)[number % 4]) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.7)[number % 2], (1.0, 0.96)[number // 2 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def _fitted(panel: Panel, classes: Sequence[str], width: int, height: int) -> Image.Image:
    rows, columns = panel.pixels.shape[:2]
    wide = max(width, round(height * columns / rows) + 1)
    picture = _picture(panel, classes, wide)
    left, top = (picture.width - width) // 2, max(0, (picture.height - height) // 2)
    return picture.crop((left, top, left + width, top + height))


def _picture(panel: Panel, classes: Sequence[str], width: int) -> Image.Image:
    rows, columns = panel.pixels.shape[:2]
    size = (width, round(width * rows / columns))
    picture = Image.fromarray(panel.pixels).resize(size, Image.Resampling.LANCZOS)
    shapes = sorted(panel.shapes, key=lambda shape: -int(shape.mask.sum()))  # small ones on top
    colours = [class_colour(shape.label, classes, number) for number, shape in enumerate(shapes)]
    best = max((shape.score for shape in shapes if shape.score is not None), default=1.0)
    for shape, colour in zip(shapes, colours, strict=True):
        _tint(picture, shape.mask, colour, 1.0 if shape.score is None else (shape.score / best) ** 2)
    taken: list[tuple[float, float, float, float]] = []
    for shape, colour in sorted(zip(shapes, colours, strict=True), key=lambda pair: -(pair[0].score or 1.0)):
        _chip(picture, shape, colour, taken)
    return picture


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
    text = shape.label if shape.score is None else f"{shape.label} {shape.score:.2f}"
    draw, font = ImageDraw.Draw(picture), _font(15)
    wide, high = draw.textlength(text, font) + 14, 22
    middle = scale * (columns[0] + columns[-1] + 1) / 2
    left = min(max(2.0, middle - wide / 2), max(2.0, picture.width - wide - 2))
    for top in (scale * rows[0] - high - 4, scale * rows[0] + 4, scale * rows.mean() - high / 2):
        box = (left, max(2.0, top), left + wide, max(2.0, top) + high)
        if not any(_overlap(box, other) for other in taken):
            taken.append(box)
            draw.rounded_rectangle(box, radius=6, fill=colour)
            draw.text((box[0] + 7, box[1] + 2), text, BACKGROUND, font)
            return


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _rounded(picture: Image.Image, radius: int = 10) -> Image.Image:
    shape = Image.new("L", picture.size, 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), radius, fill=255)
    return Image.composite(picture, Image.new("RGB", picture.size, BACKGROUND), shape)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
