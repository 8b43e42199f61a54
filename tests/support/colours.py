"""A data folder in which objects differ by colour, and models that see colours: in place of the networks."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw

from fiftyone_ntt.core import ImageFrame, ProposalConfig, ReferenceSettings, Segmenter
from fiftyone_ntt.models.presets import Preset

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 210)}
NAMES = list(COLOURS)
SIZE = (120, 160)


class SameColour:
    """A mask model: the object at a point is all that has the point's colour; nothing on the grey background."""

    name, weights_hash = "same-colour", "0" * 64

    def __init__(self):
        self.encoded = 0

    def frame(self, image_size):
        return ImageFrame.squash(image_size, 256)

    def encode(self, pixels, frame):
        self.encoded += 1
        return pixels

    def decode_points(self, embedding, points):
        x, y = points.long().clamp(0, 255).unbind(1)
        colour = embedding[:, y, x].T[:, :, None, None]
        logits = 50 * (0.1 - (embedding[None] - colour).abs().sum(1))  # steep, as those of real models
        saturated = (colour.amax(1) - colour.amin(1))[:, 0, 0] > 0.4
        # The larger the surer: a point on a blurred edge finds only the edge, and must not win against the object.
        ious = torch.where(saturated, 0.5 + (logits > 0).float().mean((1, 2)), 0.1)[:, None].repeat(1, 3)
        return logits[:, None].repeat(1, 3, 1, 1), ious

    def decode_boxes(self, embedding, boxes):
        masks, ious = self.decode_points(embedding, (boxes[:, :2] + boxes[:, 2:]) / 2)
        return masks[:, 0], ious[:, 0]


class MeanColour:
    """A feature model: a patch's vector is its mean colour against grey."""

    name, weights_hash, input_size, grid, dim = "mean-colour", "1" * 64, 256, (64, 64), 3

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images - 0.5, 4).permute(0, 2, 3, 1)


def colour_segmenter() -> Segmenter:
    return Segmenter(
        SameColour(), MeanColour(), references=ReferenceSettings(context="image", weights="area"),
        proposals=ProposalConfig(points_per_side=12, grid="centre"), target_via=None,
    )  # fmt: skip


@dataclass(frozen=True)
class ColourSpec:
    """A spec of a preset: loads one of the two models above."""

    model: type
    cpu_only: bool = True

    def load(self, device, *, preset="", precision="fp32", compile=False):
        return self.model()


COLOUR_PRESET = Preset(
    "colours", ColourSpec(SameColour), ColourSpec(MeanColour), ReferenceSettings(context="image", weights="area"),
    points_per_side=12, grid="centre", target_via=None,
)  # fmt: skip


def picture(path, objects):
    """Draws rectangles (label, xyxy with x2, y2 exclusive) on grey."""
    image = Image.new("RGB", SIZE[::-1], (128, 128, 128))
    draw = ImageDraw.Draw(image)
    for label, (x1, y1, x2, y2) in objects:
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=COLOURS[label])
    image.save(path)


def content(images, start=1):
    """COCO json of pictures: name -> objects. Category ids have gaps and are not in order."""
    ids = {"red": 7, "green": 9, "blue": 4}
    entries, annotations = [], []
    for i, (name, objects) in enumerate(images.items(), start=start):
        entries.append({"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for label, (x1, y1, x2, y2) in objects:
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": ids[label], "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            })  # fmt: skip
    categories = [{"id": ids[name], "name": name} for name in NAMES]
    return {"images": entries, "annotations": annotations, "categories": categories}


def colour_folder(path):
    """Six targets (two empty, one with two objects) and two draws of one shot a class."""
    targets = {
        "a.png": [("red", (20, 30, 60, 80)), ("green", (90, 20, 140, 70))],
        "b.png": [("blue", (30, 30, 80, 90))],
        "c.png": [],
        "d.png": [("green", (60, 40, 120, 100))],
        "e.png": [],
        "f.png": [("red", (10, 10, 70, 60))],
    }
    references = {f"{name}.png": [(name, (40, 30, 110, 90))] for name in NAMES}
    for part in ("images", "annotations", "refs"):
        (path / part).mkdir()
    for name, objects in {**targets, **references}.items():
        picture(path / "images" / name, objects)
    (path / "annotations" / "test.json").write_text(json.dumps(content(targets, start=10)))
    for seed in (1, 2):
        (path / "refs" / f"all_1shot_seed{seed}.json").write_text(json.dumps(content(references)))
    return path
