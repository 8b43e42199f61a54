"""Pictures of plain shapes on noise, with labels of their outlines: what the integration tests label."""

from __future__ import annotations

from dataclasses import dataclass

import fiftyone as fo
import numpy as np
from PIL import Image

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
