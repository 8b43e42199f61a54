"""From what the labels of a sample show to references with masks, as a memory bank takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.candidates.tiles import window_of
from fiftyone_ntt.method.references import ReferenceItem
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.pixels.packed_masks import PackedMask
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
        name = f"{sample.sample_id}/{item.label_id}"
        if item.mask is not None:
            mask = PackedMask.from_crop(item.mask, 0, 0)
        elif masks is not None:
            mask = masks[sample.sample_id, item.label_id].mask
        else:
            mask = next(from_boxes)
            if item.box is not None and not mask.area:  # the model finds nothing in the box: the box itself
                mask = box_mask(item.box, sample.size)
        if tiled:
            items.append(_in_window(sample.image, mask, item.label or "", name, item.box))
        else:
            full = mask.full(sample.size) if item.mask is None else item.mask
            items.append(ReferenceItem(sample.image, full, item.label or "", name, item.box))
    return items


def _box_masks(
    sample: ReferenceSample, segmenter: Segmenter, boxes: Sequence[Box], tiled: bool
) -> Iterator[PackedMask]:
    """What the mask model finds in boxes, each at image size; in a window around each box where ``tiled``."""
    if boxes and not tiled:
        for mask in segmenter.box_masks(sample.image, np.array(boxes)):
            yield PackedMask.from_crop(mask, 0, 0)
        return
    for box in boxes:
        left, top, right, bottom = window_of(box, sample.size)
        window, moved = sample.image[top:bottom, left:right], np.array([box]) - [left, top, left, top]
        yield PackedMask.from_crop(segmenter.box_masks(window, moved)[0], top, left)


def _in_window(image: NDArray[np.uint8], mask: PackedMask, label: str, name: str, box: Box | None) -> ReferenceItem:
    """A reference in a large image, and no more of that than a tile would show; nothing of it holds the large one."""
    left, top, right, bottom = window_of(mask.extent, (image.shape[0], image.shape[1]))
    x1, y1, x2, y2 = mask.extent
    inside = np.zeros((bottom - top, right - left), bool)
    inside[y1 - top : y2 - top, x1 - left : x2 - left] = mask.crop()
    moved = None if box is None else (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    window = image[top:bottom, left:right]
    # A view would keep the whole image in memory, with every reference of a bank.
    return ReferenceItem(window if window.shape == image.shape else window.copy(), inside, label, name, moved)
