"""The pictures of docs/references.md, from the demo's photographs: ``python -m tools.reference_pictures FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.prompts_made import deepest_point, scribble_line
from fiftyone_ntt.core import IndexedImage, MemoryBank, ReferenceItem, Segmenter
from fiftyone_ntt.demo.data import DemoImage, load_images
from fiftyone_ntt.method.options.negatives import with_negatives
from fiftyone_ntt.method.options.prompts import Prompt, choose_masks, mask_options
from fiftyone_ntt.method.references import mask_extent
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.pixels.drawing import Shape, draw_shapes

INK = (255, 40, 90)
HEIGHT, GAP = 190, 6
PAIRS = {"coin": ("coins_1", "coins_2"), "motorcycle": ("motorcycle_left", "motorcycle_right")}
KINDS = {"mask": "coin", "box": "motorcycle", "point": "coin", "scribble": "motorcycle", "map": "coin"}
"""Kind -> what its picture shows."""
FRONT_WHEEL, REAR_WHEEL = (0.68, 0.54, 0.93, 0.91), (0.15, 0.46, 0.43, 0.82)
"""Boxes xyxy in ``motorcycle_left``, as shares of its size."""


def shown(image: DemoImage, kind: str) -> tuple[list[NDArray[np.bool_]], list[Prompt]]:
    """The true masks, and the prompts that take the place of the first of them."""
    masks = [one.mask for one in image.objects]
    if kind == "map":
        return masks, []
    if kind == "box":
        return masks[:1], [Prompt.box(mask_extent(masks[0]))]
    if kind == "point":
        return masks[:1], [Prompt(deepest_point(masks[0])[None], np.ones(1, bool))]
    return masks[:1], [Prompt.scribble(scribble_line(masks[0]))] if kind == "scribble" else []


def made(segmenter: Segmenter, image: DemoImage, prompts: list[Prompt]) -> list[NDArray[np.bool_]]:
    """The masks made from prompts."""
    encoded = segmenter.encode([segmenter.prepare(image.pixels)])[0]
    options = mask_options(segmenter, encoded, prompts)
    chosen = choose_masks(options, ["one"] * len(prompts))
    return [one.masks[k].full(one.image_size) for one, k in zip(options, chosen, strict=True) if k is not None]


def drawn_reference(image: DemoImage, kind: str, masks: list[NDArray[np.bool_]], prompts: list[Prompt]) -> Image.Image:
    """The image as a person marks it."""
    width = round(HEIGHT * image.pixels.shape[1] / image.pixels.shape[0])
    shapes = [Shape("reference", mask) for mask in masks] if not prompts else []
    picture = draw_shapes(image.pixels, shapes, ["reference"], width, chips=False)
    draw, scale = ImageDraw.Draw(picture), HEIGHT / image.pixels.shape[0]
    for prompt in prompts:
        if kind == "box":
            draw.rectangle([float(value) * scale for value in prompt.points.ravel()], outline=INK, width=3)
        elif kind == "scribble":
            line = [(float(x) * scale, float(y) * scale) for x, y in scribble_line(masks[0])]
            draw.line(line, fill=INK, width=4, joint="curve")
        else:
            for x, y in prompt.points * scale:
                draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=INK, outline=(255, 255, 255))
    return picture


def with_masks(pixels: NDArray[np.uint8], shapes: list[Shape]) -> Image.Image:
    """An image with masks, as high as the others."""
    width = round(HEIGHT * pixels.shape[1] / pixels.shape[0])
    return draw_shapes(pixels, shapes, [shapes[0].label] if shapes else [], width, chips=False)


def found(segmenter: Segmenter, candidates: IndexedImage, bank: MemoryBank, share: float = 0.5) -> list[Shape]:
    """What a run finds, without the labels whose score is below a share of the best one's."""
    instances = segmenter.match(candidates, bank)
    best = float(instances.scores.max()) if len(instances) else 0.0
    return [
        Shape(bank.classes[0], instances.masks[i], float(instances.scores[i]))
        for i in range(len(instances))
        if instances.scores[i] > share * best
    ]


def negative_sheet(reference: DemoImage, target: DemoImage) -> list[Image.Image]:
    """A front wheel as reference and the rear one as negative; what is found without the negative, and with it."""
    segmenter, label = load_preset("lite").segmenter(points_per_side=16, outputs="part"), "front wheel"
    rows, columns = reference.pixels.shape[:2]
    boxes = [np.array(box) * (columns, rows, columns, rows) for box in (FRONT_WHEEL, REAR_WHEEL)]
    wheels = made(segmenter, reference, [Prompt.box(box.tolist()) for box in boxes])
    items = [ReferenceItem(reference.pixels, mask, label, str(i)) for i, mask in enumerate(wheels)]
    bank, vectors = segmenter.build_bank(items[:1], [label]), segmenter.reference_vectors(items[1:])
    width, classes = round(HEIGHT * columns / rows), [label, "negative"]
    shown = [Shape(name, mask) for name, mask in zip(classes, wheels, strict=True)]
    parts = [draw_shapes(reference.pixels, shown, classes, width)]
    candidates = segmenter.candidates(target.pixels)
    for one in (bank, with_negatives(bank, np.asarray(vectors, np.float32), [label], ["rear"])):
        shapes = found(segmenter, candidates, one, share=0.4)
        parts.append(draw_shapes(target.pixels, shapes, classes, width))
    return parts


def save(parts: list[Image.Image], path: Path) -> None:
    """Pictures side by side."""
    sheet = Image.new("RGB", (sum(part.width for part in parts) + 2 * GAP, HEIGHT), (255, 255, 255))
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + GAP
    sheet.save(path, quality=82, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.reference_pictures", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    images = {image.name: image for image in load_images()}
    segmenter = load_preset("lite").segmenter(points_per_side=12)
    for kind, label in KINDS.items():
        reference, target = (images[name] for name in PAIRS[label])
        masks, prompts = shown(reference, kind)
        taken = made(segmenter, reference, prompts) if prompts else masks
        items = [ReferenceItem(reference.pixels, mask, label, f"{kind}/{i}") for i, mask in enumerate(taken)]
        bank = segmenter.build_bank(items, [label])
        parts = [
            drawn_reference(reference, kind, masks, prompts),
            with_masks(reference.pixels, [Shape(label, mask) for mask in taken]),
            with_masks(target.pixels, found(segmenter, segmenter.candidates(target.pixels), bank)),
        ]
        save(parts, folder / f"{kind}.jpg")
    save(negative_sheet(images["motorcycle_left"], images["motorcycle_right"]), folder / "negative.jpg")


if __name__ == "__main__":
    main()
