"""Masks of references that were shown by a box, points or a scribble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import BadReferenceError
from fiftyone_ntt.method.options.prompts import MaskOptions, choose_masks, mask_options
from fiftyone_ntt.method.pooling import pool_mask
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.references.label_kinds import Shown
from fiftyone_ntt.references.reader import ReadSample, ReferenceReader

Key = tuple[str, str]
"""Sample and label."""


@dataclass(frozen=True, eq=False)
class MadeMask:
    """A mask that was made from a prompt.

    Attributes:
        mask: at image size.
        predicted_iou: the mask model's own estimate of it; ``None`` where the mask is just the box.
    """

    mask: PackedMask
    predicted_iou: float | None


@dataclass(frozen=True, eq=False)
class _Asked:
    key: Key
    shown: Shown
    options: MaskOptions


def make_masks(reader: ReferenceReader, segmenter: Segmenter, progress: Progress | None = None) -> dict[Key, MadeMask]:
    """The masks of all references that have none.

    Boxes have one answer. The three or more of a point or scribble are compared with the other references of the class,
    so all samples are looked at before any is chosen.

    Args:
        reader: the references.
        segmenter: its mask model is prompted.
        progress: called with (done, total, message) after each sample.

    Raises:
        BadReferenceError: if no mask of a prompt holds its points.
    """
    asked: list[_Asked] = []
    known: dict[str, list[NDArray[np.float32]]] = {}
    means: list[NDArray[np.float32]] = []
    for done, sample in enumerate(reader.samples(), start=1):
        if sample is not None and (sample.shown or sample.negatives):
            asked += _ask(sample, segmenter, known, means)
        if progress is not None:
            progress(done, len(reader), f"making masks of references ({done} of {len(reader)})")
    center = np.mean(means, axis=0) if segmenter.references.centre and means else None
    vectors = {name: np.stack(found) for name, found in known.items()}
    labels = [_name(one.shown) for one in asked]
    chosen = choose_masks([one.options for one in asked], labels, vectors, center)
    return {one.key: _made(one, index) for one, index in zip(asked, chosen, strict=True)}


def _ask(
    sample: ReadSample, segmenter: Segmenter, known: dict[str, list[NDArray[np.float32]]],
    means: list[NDArray[np.float32]],
) -> list[_Asked]:  # fmt: skip
    """What the mask model says to a sample's prompts; notes the features of those that have a mask."""
    encoded = segmenter.encode([segmenter.prepare(sample.image)])[0]
    every = [*sample.shown, *sample.negatives]
    means.append(np.asarray(encoded.tokens.float().cpu().mean(dim=(0, 1)).numpy(), np.float32))
    for one in every:
        if one.mask is not None and one.mask.any():
            known.setdefault(_name(one), []).append(pool_mask(one.mask, encoded.tokens.cpu()))
    prompted = [one for one in every if one.prompt is not None]
    options = mask_options(segmenter, encoded, [one.prompt for one in prompted if one.prompt is not None])
    return [
        _Asked((sample.sample_id, one.label_id), one, offered) for one, offered in zip(prompted, options, strict=True)
    ]


def _name(shown: Shown) -> str:
    """What an instance is compared under: a negative is no example of its class."""
    return f"not {shown.label or ''}" if shown.negative else str(shown.label)


def _made(one: _Asked, index: int | None) -> MadeMask:
    if index is not None:
        return MadeMask(one.options.masks[index], float(one.options.predicted_iou[index]))
    sample_id, label_id = one.key
    if one.shown.box is None:
        raise BadReferenceError(
            f"reference sample {sample_id}, label {label_id} ({one.shown.label}): no mask of the model holds all "
            "points on the object and none beside it; move the points well inside the object, or draw a box instead"
        )
    return MadeMask(box_mask(one.shown.box, one.options.image_size), None)


def box_mask(box: Sequence[float], size: tuple[int, int]) -> PackedMask:
    """The box itself, xyxy in pixels: what is left to take where the model finds nothing in it."""
    x1, y1, x2, y2 = (round(value) for value in box)
    whole = np.ones((max(y2, y1 + 1) - y1, max(x2, x1 + 1) - x1), bool)[: size[0] - y1, : size[1] - x1]
    return PackedMask.from_crop(whole, y1, x1)
