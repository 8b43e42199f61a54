"""Stage two, second half: overlapping candidates are suppressed or decayed (ntt-algorithm 3.5 and 3.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.core.masks import PackedMask

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def nms_per_label(boxes: FloatArray, priority: FloatArray, labels: IntArray, threshold: float) -> IntArray:
    """Greedy non-maximum suppression on boxes, each label on its own.

    Args:
        boxes: float32 ``[N, 4]`` xyxy in any one frame; the area is ``(x2 - x1) * (y2 - y1)``.
        priority: float32 ``[N]``; a box is suppressed only by one of higher priority (published: predicted IoU).
        labels: int64 ``[N]``.
        threshold: an IoU above this suppresses.

    Returns:
        int64 ``[n]`` indices of the kept boxes, in descending priority; ties keep their input order.
    """
    order = np.argsort(-priority, kind="stable")
    kept = np.zeros(len(order), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        kept[members[_greedy(boxes[members], threshold)]] = True
    return order[kept[order]]


def _greedy(boxes: FloatArray, threshold: float) -> NDArray[np.bool_]:
    """Which of the boxes survive, the first having the highest priority."""
    overlaps = _box_iou(boxes) > threshold
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~overlaps[i, i + 1 :]
    return alive


def _box_iou(boxes: FloatArray) -> FloatArray:
    """float32 ``[N, N]``; NaN (never above a threshold) between two boxes without area."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    intersection = _box_intersection(boxes[:, None], boxes[None])
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = intersection / (area[:, None] + area[None] - intersection)
    return iou.astype(np.float32)


def _box_intersection(a: FloatArray, b: FloatArray) -> FloatArray:
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    product: FloatArray = np.maximum(width, 0) * np.maximum(height, 0)
    return product


def semantic_overlap(masks: Sequence[PackedMask], vectors: FloatArray, labels: IntArray) -> FloatArray:
    """How much of each mask is covered by a better mask of its own class that looks the same.

    ``d[i] = max over j < i of the same label of |Mi n Mj| / |Mi| * max(0, f_i . f_j)``: intersection over self times
    feature similarity. One-sided: a part inside a better whole is decayed, a whole around a better part hardly.

    Args:
        masks: N masks at image size, in descending priority.
        vectors: float32 ``[N, C]``, l2-normalised.
        labels: int64 ``[N]``.

    Returns:
        float32 ``[N]``; rounding may lift a value just above 1. NaN for an empty mask that has a predecessor.
    """
    overlap = np.zeros(len(masks), np.float32)
    extents = np.array([mask.extent for mask in masks], np.float32).reshape(-1, 4)
    areas = np.array([mask.area for mask in masks], np.float32)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        similar = np.maximum(vectors[members] @ vectors[members].T, 0)
        for k in range(1, len(members)):
            i, before = members[k], members[:k]
            if areas[i] == 0:
                overlap[i] = np.nan
                continue
            # The share of the mask that each predecessor could cover at most: most pairs never need their pixels.
            bound = np.minimum(_box_intersection(extents[i], extents[before]), areas[before]) / areas[i]
            overlap[i] = _largest_overlap(masks, i, before, np.minimum(bound, 1) * similar[k, :k], similar[k, :k])
    return overlap


def _largest_overlap(
    masks: Sequence[PackedMask], i: int, before: IntArray, bound: FloatArray, similar: FloatArray
) -> float:
    best = 0.0
    for j in np.argsort(-bound):
        if bound[j] <= best:
            break
        best = max(best, masks[i].intersection(masks[before[j]]) / masks[i].area * float(similar[j]))
    return best


def decay(scores: FloatArray, overlap: FloatArray, exponent: float) -> FloatArray:
    """The soft merge: ``score * (1 - overlap) ** exponent``."""
    with np.errstate(invalid="ignore"):
        decayed: FloatArray = (scores * (1 - overlap) ** np.float32(exponent)).astype(np.float32)
    return decayed
