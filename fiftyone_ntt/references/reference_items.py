"""From what the labels of a sample show to references with masks, as a memory bank takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.candidates.tiles import window_of
from fiftyone_ntt.method.references import ReferenceItem, mask_extent
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.references.prompted_masks import Key, PromptedMask, box_mask
from fiftyone_ntt.references.reader import ReferenceSample

Box = tuple[float, float, float, float]


def items_of(
    sample: ReferenceSample, segmenter: Segmenter, masks: Mapping[Key, PromptedMask] | None, tiled: bool
) -> list[ReferenceItem]:
    """A sample's positives, then its negatives, each with its mask; they share the image.

    Args:
        sample: the sample.
        segmenter: makes masks from boxes.
        masks: all masks that prompts gave; ``None`` where only boxes lack one.
        tiled: show each in a window of its own, as tiles show objects, and not in all of the image.
    """
    objects = sample.objects
    boxes = [item.box for item in objects if item.mask is None and item.box is not None]
    from_boxes = _box_masks(sample, segmenter, boxes, tiled) if masks is None else iter(())
    items = []
    for item in objects:
        mask = item.mask
        if mask is None and masks is not None:
            mask = masks[sample.sample_id, item.label_id].mask.full(sample.size)
        elif mask is None:
            mask = next(from_boxes)
            if item.box is not None and not mask.any():  # the model finds nothing in the box: the box itself
                mask = box_mask(item.box, sample.size).full(sample.size)
        name = f"{sample.sample_id}/{item.label_id}"
        reference = ReferenceItem(sample.image, mask, item.label or "", name, item.box)
        items.append(_in_window(reference) if tiled else reference)
    return items


def _box_masks(
    sample: ReferenceSample, segmenter: Segmenter, boxes: Sequence[Box], tiled: bool
) -> Iterator[NDArray[np.bool_]]:
    """What the mask model finds in boxes, bool ``[H, W]`` each; in a window around each box where ``tiled``."""
    if boxes and not tiled:
        yield from segmenter.box_masks(sample.image, np.array(boxes))
        return
    for box in boxes:
        left, top, right, bottom = window_of(box, sample.size)
        window, moved = sample.image[top:bottom, left:right], np.array([box]) - [left, top, left, top]
        mask = np.zeros(sample.size, bool)
        mask[top:bottom, left:right] = segmenter.box_masks(window, moved)[0]
        yield mask


def _in_window(item: ReferenceItem) -> ReferenceItem:
    """A reference in a large image, and no more of that than a tile would show."""
    size = (item.mask.shape[0], item.mask.shape[1])
    left, top, right, bottom = window_of(mask_extent(item.mask), size)
    box = None if item.box is None else (item.box[0] - left, item.box[1] - top, item.box[2] - left, item.box[3] - top)
    image, mask = item.image[top:bottom, left:right], item.mask[top:bottom, left:right]
    return ReferenceItem(image, mask, item.label, item.reference_id, box)
