"""A slide that no browser can show: with a preview the App shows it, and its labels lie where they belong."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from app_page import eventually
from PIL import Image

SIDE = 6000
GREEN, PLACE = (40, 200, 60), (0.25, 0.5, 0.5, 0.25)
"""Colour and box of what is to be seen on the slide: x, y, width, height."""


def slide(path: Path) -> None:
    pixels = np.full((SIDE, SIDE, 3), 230, np.uint8)
    x, y, width, height = (int(value * SIDE) for value in PLACE)
    pixels[y : y + height, x : x + width] = GREEN
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(512, 512), compression="zlib", bigtiff=True)


def with_a_slide(dataset: Any, folder: Path) -> None:
    """The dataset holds nothing but a slide with a label, and its preview."""
    import fiftyone as fo

    import fiftyone_ntt as ntt

    slide(folder / "slide.tif")
    dataset.delete_samples(dataset)
    label = fo.Detection(label="coin", bounding_box=list(PLACE), mask=np.ones((1500, 3000), bool))
    dataset.add_sample(fo.Sample(str(folder / "slide.tif"), ground_truth=fo.Detections(detections=[label])))
    report = ntt.make_previews(dataset, folder=folder / "previews")
    assert report.made == 1, report


def parts(picture: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where a picture of the screen shows the slide, and its green part, with or without a label over it."""
    red, strong, blue = np.moveaxis(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int), 2, 0)
    green = (strong > red + 60) & (strong > blue + 25)
    return green | (np.minimum(np.minimum(red, strong), blue) > 215), green


def extent(mask: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of most of a mask."""
    ys, xs = np.nonzero(mask)
    return np.array([*np.percentile(xs, 0.5, keepdims=True), *np.percentile(ys, 0.5, keepdims=True),
                     *np.percentile(xs, 99.5, keepdims=True), *np.percentile(ys, 99.5, keepdims=True)])  # fmt: skip


def test_a_slide_is_shown_with_its_labels(start: Callable[..., Any], tmp_path: Path) -> None:
    app = start("plain")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(with_a_slide, app.dataset, tmp_path).result()
    app.open(app.dataset.name)
    app.expect_samples(1)
    app.open_sample(0)
    canvas = app.page.locator("[data-cy='modal-looker-container'] canvas").first
    whole, green = eventually(lambda: parts(canvas.screenshot()), lambda found: found[1].mean() > 0.04)
    app.picture("preview-of-a-slide")
    x1, y1, x2, y2 = extent(whole)
    place = (extent(green) - [x1, y1, x1, y1]) / [x2 - x1, y2 - y1, x2 - x1, y2 - y1]
    x, y, width, height = PLACE
    assert np.abs(place - [x, y, x + width, y + height]).max() < 0.02, "the slide, and the label on its green part"
