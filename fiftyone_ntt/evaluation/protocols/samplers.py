"""Which objects are the references: the published draws, to the object. Pure Python.

The published sampler walks the annotations in the order of the file and groups them by category; categories come in
order of first appearance and share one stream of random numbers. The shuffle does not depend on the number of shots, so
the draw of k shots is the first k of every class of a larger one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from fiftyone_ntt.errors import InputError, counted, listing
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, Reference, digest_of

LEAST_SIDE, LEAST_GAP = 32, 10
"""Pixels: a reference's box has at least this width and height, and this distance to each border of the image."""
PADDING_SEED = 42
"""With which the published converter of CD-FSOD's files fills up classes that have too few objects."""

Draw = dict[str, list[dict[str, Any]]]
"""Class -> its reference annotations in the order of the draw; classes in order of first appearance."""


def is_single(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is one object, and nobody calls it difficult or to be ignored: only such are references."""
    return not any(annotation.get(mark) for mark in ("iscrowd", "difficult", "ignore"))


def is_clear(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether the published sampler takes an annotation: no crowd, large enough, and away from the border.

    What VOC calls difficult is a crowd to the published converter.
    """
    x, y, w, h = annotation["bbox"]
    right, bottom = image["width"] - (x + w), image["height"] - (y + h)
    return (
        is_single(annotation) and min(w, h) >= LEAST_SIDE and min(x, y) >= LEAST_GAP and min(right, bottom) >= LEAST_GAP
    )


def draw(
    file: CocoFile, classes: Sequence[str], shots: int, seed: int, *, fill: bool = False, unclear: bool = False
) -> Draw:
    """Draws references as published: one object an image, ``shots`` a class.

    Args:
        file: the json of the training images.
        classes: names; their order does not matter.
        shots: references a class.
        seed: of the stream that all classes share.
        fill: LVIS's rule for poor classes: objects that are not clear where none is, and what there is over again.
        unclear: objects that are small or at the border too, after the clear ones, where a class has too few of these.

    Raises:
        InputError: if a class has too few; names the class and how many were found.
    """
    ids, stream = file.ids_of(classes), random.Random(seed)
    groups: dict[int, list[dict[str, Any]]] = {}
    for annotation in file.content["annotations"]:
        if annotation["category_id"] in ids:
            groups.setdefault(annotation["category_id"], []).append(annotation)
    missing = [name for k, name in ids.items() if k not in groups]
    if missing and not fill:
        raise InputError(f"expected objects of every class in {file.path.name}, got none of {listing(missing)}")
    drawn: Draw = {}
    for k, group in groups.items():
        stream.shuffle(group)
        chosen, others = _chosen(group, file, shots)
        if unclear:
            chosen = (chosen + _one_an_image(others, chosen))[:shots]
        drawn[ids[k]] = _filled(chosen or others[:shots], shots) if fill else chosen
        if len(drawn[ids[k]]) < shots:
            clear = "" if unclear else f"at least {LEAST_SIDE} pixels wide and high, {LEAST_GAP} from the border, and "
            raise InputError(
                f"expected {counted(shots, 'reference')} of {ids[k]!r} in {file.path.name}, got {len(chosen)} that are "
                f"{clear}in images of their own; choose fewer shots"
            )
    return drawn


def _chosen(group: list[dict[str, Any]], file: CocoFile, shots: int) -> tuple[list[Any], list[Any]]:
    """The first clear ones, one an image, and those that were passed over as not clear."""
    chosen, unclear, seen = [], [], set()
    for annotation in group:
        if not is_clear(annotation, file.images[annotation["image_id"]]):
            unclear += [annotation] if is_single(annotation) else []
        elif annotation["image_id"] not in seen:
            seen.add(annotation["image_id"])
            chosen.append(annotation)
            if len(chosen) >= shots:
                break
    return chosen, unclear


def _one_an_image(others: list[Any], chosen: list[Any]) -> list[Any]:
    """The first of each image that has none among the chosen."""
    taken = {annotation["image_id"] for annotation in chosen}
    first: dict[int, Any] = {}
    for annotation in others:
        if annotation["image_id"] not in taken:
            first.setdefault(annotation["image_id"], annotation)
    return list(first.values())


def _filled(annotations: list[Any], shots: int) -> list[Any]:
    return [annotations[i % len(annotations)] for i in range(shots)] if annotations else []


def as_given(file: CocoFile, classes: Sequence[str], shots: int, *, paper: bool = False) -> Draw:
    """The references of a shot file (CD-FSOD): every box of it.

    Args:
        file: the shot file.
        classes: names; their order does not matter.
        shots: what the file is called; with ``paper`` every class has exactly so many.
        paper: what the published code makes of the file: an image and class with several boxes counts as often as it
            has boxes, each time with the first of them; classes with too few are filled up by drawing again.
    """
    ids = file.ids_of(classes)
    groups: dict[int, dict[int, list[Any]]] = {}
    for annotation in file.content["annotations"]:
        if annotation["category_id"] in ids and is_single(annotation):
            boxes = groups.setdefault(annotation["category_id"], {})
            boxes.setdefault(annotation["image_id"], []).append(annotation)
    missing = [name for k, name in ids.items() if k not in groups]
    if missing:
        raise InputError(f"expected objects of every class in {file.path.name}, got none of {listing(missing)}")
    if not paper:
        return {ids[k]: [one for boxes in images.values() for one in boxes] for k, images in groups.items()}
    stream = random.Random(PADDING_SEED)
    drawn: Draw = {}
    for k, images in groups.items():
        first = [boxes[0] for boxes in images.values() for _ in boxes]
        drawn[ids[k]] = first + stream.choices(first, k=max(0, shots - len(first)))
    return drawn


def references_of(file: CocoFile, drawn: Draw) -> list[Reference]:
    """The objects of a draw, class by class, in its order."""
    return [file.reference(annotation) for group in drawn.values() for annotation in group]


def list_digest(references: Sequence[Reference]) -> str:
    """What tells a list of references apart from others: sha256 of class, image, box and mask of each, in order."""
    masks = ("box" if one.segmentation is None else json.dumps(one.segmentation, default=str) for one in references)
    lines = (f"{one.label} {one.path.name} {' '.join(f'{v:.2f}' for v in one.box)}" for one in references)
    return digest_of(f"{line} {mask}" for line, mask in zip(lines, masks, strict=True))
