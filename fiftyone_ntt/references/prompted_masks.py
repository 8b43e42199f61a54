"""Masks of references that were shown by a box, points or a scribble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import BadReferenceError
from fiftyone_ntt.method.options.prompts import MaskOptions, choose_masks, mask_options
from fiftyone_ntt.method.pooling import pool_mask
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.pixels.frames import whole_pixels
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.references.label_kinds import LabelledObject
from fiftyone_ntt.references.reader import ReferenceReader, ReferenceSample

if TYPE_CHECKING:
    from fiftyone_ntt.params.base import Progress

Key = tuple[str, str]
"""Sample and label."""


@dataclass(frozen=True, eq=False)
class PromptedMask:
    """The mask that a prompt gave.

    Attributes:
        mask: at image size.
        predicted_iou: the mask model's own estimate of it; ``None`` where the mask is just the box.
    """

    mask: PackedMask
    predicted_iou: float | None


@dataclass(frozen=True, eq=False)
class _Prompted:
    key: Key
    item: LabelledObject
    options: MaskOptions


def make_masks(
    reader: ReferenceReader, segmenter: Segmenter, progress: Progress | None = None
) -> dict[Key, PromptedMask]:
    """The masks of all references that have none.

    Boxes have one answer. The three or more of a point or scribble are compared with the other references of the class,
    so all samples are looked at before any is chosen.

    Args:
        reader: the references.
        segmenter: its mask model is prompted.
        progress: called with (done, total, message) after each sample.

    Returns:
        Those whose points a mask holds; the reader notes the others among the ``unusable``.
    """
    prompted: list[_Prompted] = []
    with_mask: dict[str, list[NDArray[np.float32]]] = {}  # class -> vectors [C] of its references that have a mask
    means: list[NDArray[np.float32]] = []  # mean token [C] of each image
    for done, sample in enumerate(reader.samples(), start=1):
        if sample is not None and sample.objects:
            prompted += _ask(sample, segmenter, with_mask, means)
        if progress is not None:
            progress(done, len(reader), f"making masks of references ({done} of {len(reader)})")
    center = np.mean(means, axis=0) if segmenter.references.centre and means else None
    vectors = {name: np.stack(own) for name, own in with_mask.items()}
    labels = [_name(asked.item) for asked in prompted]
    chosen = choose_masks([asked.options for asked in prompted], labels, vectors, center)
    masks = {}
    for asked, index in zip(prompted, chosen, strict=True):
        try:
            masks[asked.key] = _mask_of(asked, index)
        except BadReferenceError as error:
            named = () if asked.item.negative else (asked.item.label,)
            reader.cannot_use("/".join(asked.key), str(error), named)
    return masks


def _ask(
    sample: ReferenceSample, segmenter: Segmenter, with_mask: dict[str, list[NDArray[np.float32]]],
    means: list[NDArray[np.float32]],
) -> list[_Prompted]:  # fmt: skip
    """What the mask model says to a sample's prompts; notes the features of those that have a mask."""
    encoded = segmenter.encode([segmenter.prepare(sample.image)])[0]
    means.append(np.asarray(encoded.tokens.float().cpu().mean(dim=(0, 1)).numpy(), np.float32))
    for item in sample.objects:
        if item.mask is not None and item.mask.any():
            with_mask.setdefault(_name(item), []).append(pool_mask(item.mask, encoded.tokens.cpu()))
    prompts = [(item, item.prompt) for item in sample.objects if item.prompt is not None]
    options = mask_options(segmenter, encoded, [prompt for _, prompt in prompts])
    return [
        _Prompted((sample.sample_id, item.label_id), item, offered)
        for (item, _), offered in zip(prompts, options, strict=True)
    ]


def _name(item: LabelledObject) -> str:
    """What an object is compared under: a negative is no example of its class."""
    return f"not {item.label or ''}" if item.negative else str(item.label)


def _mask_of(asked: _Prompted, index: int | None) -> PromptedMask:
    if index is not None:
        return PromptedMask(asked.options.masks[index], float(asked.options.predicted_iou[index]))
    sample_id, label_id = asked.key
    if asked.item.box is None:
        raise BadReferenceError(
            f"reference sample {sample_id}, label {label_id} ({asked.item.label}): no mask of the model holds all "
            "points on the object and none beside it; move the points well inside the object, or draw a box instead"
        )
    return PromptedMask(box_mask(asked.item.box, asked.options.image_size), None)


def box_mask(box: Sequence[float], size: tuple[int, int]) -> PackedMask:
    """The box itself, xyxy in pixels: what is left to take where the model finds nothing in it."""
    left, top, right, bottom = whole_pixels(box, size)
    return PackedMask.from_crop(np.ones((bottom - top, right - left), bool), top, left)
