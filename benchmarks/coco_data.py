"""Folders of COCO json with images and ready reference sets, as ``benchmarks.accuracy`` reads them.

DIR/refs/{classes}_{n}shot_seed{S}.json    the references: images, one annotation an instance
DIR/annotations/...                        the targets: instances_val2017[_voc20].json, or test.json
DIR/{train2017,val2017} or DIR/images      the image files

All of it is the protocol ``folder``: ``fiftyone-ntt protocol run folder`` reads and measures the
same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fiftyone_ntt.core import ReferenceItem
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.coco_files import TargetImage, Targets, choose_images, encode_segmentation
from fiftyone_ntt.evaluation.protocols.folder import (
    default_classes,
    known_classes,
    ready_references,
    reference_path,
    target_file,
)
from fiftyone_ntt.evaluation.protocols.shelf import read_items, read_sized

__all__ = [
    "SHARED",
    "TargetImage",
    "Targets",
    "choose_images",
    "default_classes",
    "encode_segmentation",
    "known_classes",
    "read_references",
    "read_target_image",
    "read_targets",
]

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Where the sets lie by default: in a folder beside the checkout."""


def read_targets(root: Path, classes: str, count: int | None = None) -> Targets:
    """Reads the target images and their objects.

    Args:
        root: the data folder.
        classes: name of the class list.
        count: take only so many images, chosen by ``choose_images``; all where ``None``.
    """
    return target_file(root, classes).targets().limited(count)


def read_references(root: Path, classes: str, shots: int, seed: int, names: Sequence[str]) -> Iterator[ReferenceItem]:
    """Yields the reference instances of one draw, those of one image after each other."""
    found, references = ready_references(root, classes, shots, seed)
    if list(found) != list(names):
        path = reference_path(root, classes, shots, seed)
        raise InputError(f"the classes of {path.name} differ from those of the targets: {found} and {tuple(names)}")
    yield from read_items(references)


def read_target_image(image: TargetImage) -> np.ndarray:
    """The pixels, uint8 ``[H, W, 3]``; refuses a file whose size is not that of the json."""
    return read_sized(image.path, image.size)
