"""Pictures of plain shapes on noise, with labels of their outlines: what the integration tests label."""

from __future__ import annotations

from dataclasses import dataclass

import fiftyone as fo
import numpy as np
from PIL import Image, ImageDraw

SIZE = (90, 120)
"""Height and width."""


@dataclass(frozen=True)
class Shape:
    """A rectangle that every picture shows, each a little further to the right."""

    label: str = "square"
    left: int = 10
    top: int = 20
    width: int = 40
    height: int = 40
    step: int = 10
    colour: tuple[int, int, int] = (200, 40, 0)

    def draw(self, pixels, number):
        """Draws it into the picture of this number; the higher the number, the bluer."""
        left, (red, green, blue) = self.left + self.step * number, self.colour
        pixels[self.top : self.top + self.height, left : left + self.width] = (red, green, min(255, blue + 25 * number))

    def detection(self, number, mask=True):
        """Its label in the picture of this number."""
        left = self.left + self.step * number
        box = [left / SIZE[1], self.top / SIZE[0], self.width / SIZE[1], self.height / SIZE[0]]
        filled = np.ones((self.height, self.width), bool) if mask else None
        return fo.Detection(label=self.label, bounding_box=box, mask=filled)


def add_pictures(
    dataset, folder, *, count=4, references=1, shapes=(Shape(),), field="truth", masks=1, every_label=False
):
    """Writes pictures and adds them to a dataset.

    Args:
        dataset: an empty dataset.
        folder: where the files go.
        count: how many pictures.
        references: how many of the first ones are tagged as references, and carry labels.
        shapes: what every picture shows.
        field: the field of the labels.
        masks: how many of the first ones have masks; the others have boxes only.
        every_label: whether those that are no references carry labels, too.
    """
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
        for shape in shapes:
            shape.draw(pixels, i)
        path = folder / f"picture {i} ü.png"
        Image.fromarray(pixels).save(path)
        sample = fo.Sample(str(path), tags=["ntt:reference"] if i < references else [])
        if i < references or every_label:
            sample[field] = fo.Detections(detections=[shape.detection(i, i < masks) for shape in shapes])
        dataset.add_sample(sample)
    return dataset


def add_discs_and_squares(dataset, folder):
    """Five pictures with ground truth (boxes); the first, a disc, and the second, a square, are references."""
    for i, (left, top, shape) in enumerate(
        [(20, 30, "disc"), (110, 60, "square"), (120, 80, "disc"), (40, 50, "square"), (75, 55, "disc")]
    ):
        path = folder / f"{i}.png"
        truth = fo.Detections(detections=[fo.Detection(label=shape, bounding_box=_bright(path, left, top, shape, i))])
        dataset.add_sample(fo.Sample(str(path), ground_truth=truth, tags=["ntt:reference"] if i < 2 else []))


def _bright(path, left, top, shape, seed):
    """Writes a grey picture with one bright shape of 90 pixels; returns its box."""
    height, width = 200, 240
    image = Image.fromarray(np.random.default_rng(seed).integers(90, 110, (height, width, 3), dtype=np.uint8))
    box, draw = [left, top, left + 90, top + 90], ImageDraw.Draw(image)
    draw.ellipse(box, fill=(230, 40, 30)) if shape == "disc" else draw.rectangle(box, fill=(30, 60, 230))
    image.save(path)
    return [left / width, top / height, 90 / width, 90 / height]
