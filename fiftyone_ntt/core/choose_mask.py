"""Which of the masks that a mask model offers for a prompt is meant.

SAM answers a point with three masks: a part, more of it, the whole, say. Its predicted IoU tells how clean each is and
nothing of what was meant. What the other references of the class look like does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.core.masks import PackedMask
from fiftyone_ntt.core.prompts import MaskOptions

_MOST_OF_IMAGE = 0.5
_ROUNDS = 5
_QUALITY = 2.0
"""Weight of the predicted IoU beside the agreement; chosen in ``docs/results.md``."""

Flags = NDArray[np.bool_]
Vectors = NDArray[np.float32]


def choose_masks(
    options: Sequence[MaskOptions],
    labels: Sequence[str],
    known: Mapping[str, Vectors] | None = None,
    center: Vectors | None = None,
) -> list[int | None]:
    """The mask that is meant by each prompt.

    Those that ``possible_masks`` leaves are compared with the class's references whose masks are known, or where there
    are none with the masks chosen for the other prompts of the class, beginning with the cleanest; again until nothing
    changes. Where there is nothing to compare with, the cleanest is taken. Several points are hardly ambiguous: the one
    mask that the model makes for such prompts is taken if it is possible.

    Args:
        options: what there is for each prompt.
        labels: their classes.
        known: class -> vectors float32 ``[n, C]`` of references with a true mask, pooled as the options' are.
        center: float32 ``[C]`` to subtract from every vector before comparing.

    Returns:
        An index into each one's masks; ``None`` where no mask is possible.
    """
    known = known or {}
    possible = [possible_masks(one) for one in options]
    chosen = [first_choice(one, flags) for one, flags in zip(options, possible, strict=True)]
    for _ in range(_ROUNDS):
        before = list(chosen)
        for i, (one, flags) in enumerate(zip(options, possible, strict=True)):
            if single_output(one, flags) is not None:
                continue
            others = known.get(labels[i])
            if others is None or not len(others):
                others = _chosen_vectors(options, labels, before, leave_out=i)
            if len(others) and flags.any():
                chosen[i] = most_alike(one, flags, others, center)
        if chosen == before:
            break
    return chosen


def possible_masks(one: MaskOptions) -> Flags:
    """bool ``[M]``: masks that fit the prompt.

    None that misses a point on the object or holds one beside it; of a scribble, none that misses half of it. None
    that covers most of the image if another one does not.
    """
    flags = np.array([mask.area > 0 for mask in one.masks], bool) & np.isfinite(one.vectors).all(axis=1)
    wanted = 0.5 if one.prompt.kind == "scribble" else 1.0
    if len(one.prompt.on_object):
        flags &= share_held(one.masks, one.prompt.on_object) >= wanted
    if len(one.prompt.beside_object):
        flags &= share_held(one.masks, one.prompt.beside_object) == 0
    small = flags & ~covers_most(one)
    return small if small.any() else flags


def share_held(masks: Sequence[PackedMask], points: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 ``[M]``, the share of points ``[P, 2]`` (x, y) in image pixels that each mask holds."""
    return np.array([np.mean([_holds(mask, x, y) for x, y in points.tolist()]) for mask in masks])


def _holds(mask: PackedMask, x: float, y: float) -> bool:
    x1, y1, x2, y2 = mask.extent
    column, row = int(np.floor(x)), int(np.floor(y))
    return x1 <= column < x2 and y1 <= row < y2 and bool(mask.crop()[row - y1, column - x1])


def covers_most(one: MaskOptions) -> Flags:
    """bool ``[M]``: masks of more than half of the image."""
    height, width = one.image_size
    return np.array([mask.area > _MOST_OF_IMAGE * height * width for mask in one.masks], bool)


def single_output(one: MaskOptions, flags: Flags) -> int | None:
    """Of several points, the mask that the model makes for unambiguous prompts, if it is possible."""
    return 0 if len(one.prompt.points) > 1 and one.single_first and flags[0] else None


def first_choice(one: MaskOptions, flags: Flags) -> int | None:
    """Where nothing is known of the class: the mask for unambiguous prompts, else the cleanest."""
    single = single_output(one, flags)
    return cleanest(one, flags) if single is None else single


def cleanest(one: MaskOptions, flags: Flags) -> int | None:
    """The possible mask of highest predicted IoU."""
    return int(np.argmax(np.where(flags, one.predicted_iou, -np.inf))) if flags.any() else None


def most_alike(one: MaskOptions, flags: Flags, others: Vectors, center: Vectors | None) -> int:
    """The possible mask of highest agreement with other references plus twice the predicted IoU.

    Args:
        one: what there is.
        flags: bool ``[M]``, which are possible; at least one.
        others: float32 ``[n, C]``, the other references.
        center: float32 ``[C]`` to subtract from all before comparing.
    """
    agreement = _unit(one.vectors - _or_zero(center)) @ _unit(others.mean(axis=0) - _or_zero(center))
    return int(np.argmax(np.where(flags, agreement + _QUALITY * one.predicted_iou, -np.inf)))


def _chosen_vectors(
    options: Sequence[MaskOptions], labels: Sequence[str], chosen: Sequence[int | None], leave_out: int
) -> Vectors:
    """What the other prompts of a class have chosen: float32 ``[n, C]``."""
    found = [
        one.vectors[index]
        for k, (one, index) in enumerate(zip(options, chosen, strict=True))
        if k != leave_out and labels[k] == labels[leave_out] and index is not None
    ]
    return np.stack(found) if found else np.zeros((0, 0), np.float32)


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), np.float32)


def _or_zero(center: Vectors | None) -> Vectors | float:
    return 0.0 if center is None else center
