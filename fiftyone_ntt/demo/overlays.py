"""Pictures for the demo: labelled images as panels with a caption, side by side, and on a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fiftyone_ntt.pixels.drawing import BACKGROUND, FADED, INK, draw_shapes, font
from fiftyone_ntt.pixels.drawing import Shape as Shape

_GAP = 24
_CAPTION_HEIGHT = 44


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
    picture = draw_shapes(panel.pixels, panel.shapes, classes, width)
    if height is not None:
        picture = _fitted(panel, classes, width, height)
    canvas = Image.new("RGB", (width, picture.height + _CAPTION_HEIGHT), BACKGROUND)
    canvas.paste(_rounded(picture), (0, _CAPTION_HEIGHT))
    draw = ImageDraw.Draw(canvas)
    title_font, remark_font = font(22), font(17)
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
    draw.text((0, 0), title, INK, font(38))
    draw.text((2, 52), remark, FADED, font(20))
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


def _fitted(panel: Panel, classes: Sequence[str], width: int, height: int) -> Image.Image:
    rows, columns = panel.pixels.shape[:2]
    wide = max(width, round(height * columns / rows) + 1)
    picture = draw_shapes(panel.pixels, panel.shapes, classes, wide)
    left, top = (picture.width - width) // 2, max(0, (picture.height - height) // 2)
    return picture.crop((left, top, left + width, top + height))


def _rounded(picture: Image.Image, radius: int = 10) -> Image.Image:
    shape = Image.new("L", picture.size, 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), radius, fill=255)
    return Image.composite(picture, Image.new("RGB", picture.size, BACKGROUND), shape)
