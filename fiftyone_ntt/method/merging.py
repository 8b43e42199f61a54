"""Stage two, second half: overlapping candidates are suppressed or decayed (docs/method.md 3.5 and 3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.proposals import CandidateSet
from fiftyone_ntt.method.results import Labelled
from fiftyone_ntt.pixels.packed_masks import (
    ImageMasks,
    MaskSource,
    PackedMask,
    WithoutSmallRegions,
    intersection_over_union,
)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CandidateMasks:
    """The masks of one image's candidates; those at image size are made once, whoever needs them.

    Attributes:
        candidates: the N candidates.
        source: their masks in the mask frame, as the settings want them.
        made: those at image size that were needed so far, by candidate.
    """

    candidates: CandidateSet
    source: MaskSource
    made: dict[int, PackedMask] = field(default_factory=dict)

    @classmethod
    def of(cls, candidates: CandidateSet, config: MatchConfig) -> CandidateMasks:
        """Masks without the disconnected regions that the settings leave out."""
        share = config.island_share
        return cls(candidates, WithoutSmallRegions(candidates, candidates.mask_runs, share) if share else candidates)


# ---- 3.5  Non-maximum suppression ----


def suppress(labelled: Labelled, masks: CandidateMasks, config: MatchConfig) -> Labelled:
    """Non-maximum suppression of candidates, each label on its own (3.5).

    Args:
        labelled: n candidates.
        masks: the masks of all N candidates.
        config: IoU threshold, what decides which of two overlapping ones stays, how many go on.

    Returns:
        Those that are left, in descending priority.
    """
    priority = labelled.predicted_iou
    if config.order == "combined":
        priority = labelled.scores * labelled.predicted_iou * masks.candidates.stability[labelled.index]
    boxes = masks.source.boxes[labelled.index]  # [n, 4] in the mask frame
    kept = nms_per_label(boxes, priority, labelled.labels, config.nms_threshold)
    kept = kept[: config.premerge_factor * config.max_instances]
    return labelled.select(kept[labelled.scores[kept] > 0])


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
    for label in np.unique(labels):  # one label never suppresses another
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
        iou = intersection_over_union(intersection, area[:, None], area[None])  # [N, N]
    return np.asarray(iou, np.float32)


def _box_intersection(a: FloatArray, b: FloatArray) -> FloatArray:
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    product: FloatArray = np.maximum(width, 0) * np.maximum(height, 0)
    return product


# ---- 3.6  Full-size masks and soft merge ----


def soft_merge(labelled: Labelled, masks: CandidateMasks, config: MatchConfig) -> Labelled:
    """Lowers scores by how much better masks of the same label cover of each mask (3.6), and keeps the best (3.7).

    Args:
        labelled: n candidates in descending priority.
        masks: the masks of all N candidates; those of the best are made at image size.
        config: exponents of the merge and of each mask's quality, score threshold, number of instances.

    Returns:
        The best ones with their merged scores, in descending score.
    """
    scores, features = _with_quality(labelled, masks.candidates, config), labelled.features.numpy()
    image_masks = ImageMasks(masks.source, labelled.index, masks.made)
    if config.guard_degenerate:
        merged = best_merged(image_masks, features, scores, labelled.labels, config)
        eligible = merged >= 0
    else:  # as published: every mask is made, and NaN is a score
        image_masks.make(range(len(image_masks)))
        overlap = semantic_overlap([image_masks[i] for i in range(len(image_masks))], features, labelled.labels)
        merged = decay(scores, overlap, config.merge_exponent)
        eligible = np.ones(len(merged), bool)
    if config.score_threshold > 0:
        eligible &= merged > config.score_threshold
    best = _ranking(merged, eligible, config.max_instances)
    return labelled.select(best, merged[best])


def _with_quality(labelled: Labelled, candidates: CandidateSet, config: MatchConfig) -> FloatArray:
    """float32 ``[n]``: scores times powers of predicted IoU and stability, which the published score does not know."""
    scores = labelled.scores
    if config.quality_exponent:
        quality = np.clip(labelled.predicted_iou, 0, 1) ** config.quality_exponent
        scores = np.asarray(scores * quality, np.float32)
    if config.stability_exponent:
        stability = np.maximum(candidates.stability[labelled.index], _LEAST_STABILITY) ** config.stability_exponent
        scores = np.asarray(scores * stability, np.float32)
    return scores


_LEAST_STABILITY = 0.1
"""Less than that tells nothing more: a mask whose logits are all small is doubtful, but no score is to vanish."""


def _ranking(scores: FloatArray, eligible: NDArray[np.bool_], count: int) -> IntArray:
    """The best ``count`` of those eligible, descending. NaN comes first, as torch sorts it."""
    order = np.argsort(-np.where(np.isnan(scores), np.inf, scores), kind="stable")
    return order[eligible[order]][:count]


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
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        similar = np.maximum(vectors[members] @ vectors[members].T, 0)  # [m, m]
        for k in range(1, len(members)):
            overlap[members[k]] = _overlap(masks[members[k]], [masks[j] for j in members[:k]], similar[k, :k])
    return overlap


def _overlap(mask: PackedMask, others: Sequence[PackedMask], similar: FloatArray) -> float:
    """Largest ``|M n O| / |M| * similarity`` of a mask with others; NaN for an empty mask and at least one other."""
    if not others:
        return 0.0
    if mask.area == 0:
        return float("nan")
    # The share of the mask that each other could cover at most: most pairs never need their pixels.
    extents = np.array([other.extent for other in others], np.float32)
    meeting = _box_intersection(np.array(mask.extent, np.float32), extents)
    areas = np.array([other.area for other in others], np.float32)
    bound = np.minimum(np.minimum(meeting, areas) / mask.area, 1) * similar
    best = 0.0
    for j in np.argsort(-bound):
        if bound[j] <= best:
            break
        best = max(best, mask.intersection(others[j]) / mask.area * float(similar[j]))
    return best


def best_merged(
    masks: ImageMasks, vectors: FloatArray, scores: FloatArray, labels: IntArray, config: MatchConfig
) -> FloatArray:
    """The soft merge, only as far as the best ``config.max_instances`` need it.

    A score can only fall. So candidates are taken by their score before the merge, and once there are enough whose
    merged score is above that of all that are left, those need no masks. The rest is as in the whole merge.

    Args:
        masks: N masks at image size, in descending priority; those of the best are made.
        vectors: float32 ``[N, C]``, l2-normalised.
        scores: float32 ``[N]`` before the merge.
        labels: int64 ``[N]``.
        config: exponent, number of instances and score threshold.

    Returns:
        float32 ``[N]`` merged scores; -1 for a candidate that is not among the best, or has no pixel at image size.
    """
    final = np.full(len(masks), -1, np.float32)
    order = np.argsort(-scores, kind="stable")
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    enough = config.max_instances
    at_once = min(_ROUND, max(enough, _LEAST_ROUND))
    for start in range(0, len(order), at_once):
        batch = order[start : start + at_once]
        # The score that one must have to be among those wanted, as far as is known by now.
        reached = np.partition(final, -enough)[-enough] if start >= enough else -1
        if scores[batch[0]] < reached or scores[batch[0]] <= config.score_threshold:
            break
        # Of each of them, those of its label that are better and near enough to cover some of it.
        rivals = [_rivals(int(i), masks.reach, members[labels[i]]) for i in batch]
        masks.make(np.concatenate([batch, *rivals]))
        for i, others in zip(batch, rivals, strict=True):
            if masks[i].area:
                # Not a matrix product: numpy's would bring threads of its own for so little.
                similar = np.maximum(np.einsum("jc,c->j", vectors[others], vectors[i]), 0)
                overlap = min(_overlap(masks[i], [masks[j] for j in others], similar), 1.0)
                final[i] = decay(scores[[i]], np.array([overlap], np.float32), config.merge_exponent)[0]
    return final


_ROUND = 64
"""Candidates merged before looking whether there are enough: as many masks are made at once."""
_LEAST_ROUND = 4
"""The same where hardly any are wanted."""


def _rivals(i: int, reach: FloatArray, same: IntArray) -> IntArray:
    """Those of the same label, ``same``, that have a higher priority than candidate ``i`` and may touch it."""
    before = same[: np.searchsorted(same, i)]
    return before[_box_intersection(reach[i], reach[before]) > 0]


def decay(scores: FloatArray, overlap: FloatArray, exponent: float) -> FloatArray:
    """The soft merge: ``score * (1 - overlap) ** exponent``."""
    with np.errstate(invalid="ignore"):
        decayed: FloatArray = (scores * (1 - overlap) ** np.float32(exponent)).astype(np.float32)
    return decayed
