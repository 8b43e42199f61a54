"""Overlaps resolved over the whole graph of masks, in place of the soft merge (FSOD-VFM, arXiv 2602.03137)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.merging import FloatArray, IntArray, decay
from fiftyone_ntt.pixels.packed_masks import ImageMasks, PackedMask

PASSED_ON = 0.3
"""How much of a mask's redundancy comes from that of the masks which cover it."""


def best_diffused(masks: ImageMasks, scores: FloatArray, labels: IntArray, config: MatchConfig) -> FloatArray:
    """Scores lowered by how redundant each mask is, of the best ``config.max_instances`` by score.

    Args:
        masks: N masks at image size, in descending priority; those of the best are made.
        scores: float32 ``[N]`` before the merge.
        labels: int64 ``[N]``.
        config: exponent and number of instances.

    Returns:
        float32 ``[N]``; -1 for a candidate that is not among the best, or has no pixel at image size.
    """
    best = np.sort(np.argsort(-scores, kind="stable")[: config.max_instances])
    masks.make(best)
    best = best[[masks[i].area > 0 for i in best]]
    final = np.full(len(masks), -1, np.float32)
    final[best] = decay(scores[best], redundancy([masks[i] for i in best], labels[best]), config.merge_exponent)
    return final


def redundancy(masks: Sequence[PackedMask], labels: IntArray) -> FloatArray:
    """How much of each mask better masks of its class cover, and those that cover them in turn.

    ``r = (1 - a) w + a P r``: ``w`` is the largest intersection over self with a better mask, ``P`` those of all better
    masks, each row summing to one, ``a`` is ``PASSED_ON``. A mask depends on better ones only, so one pass solves it.

    Args:
        masks: N masks at image size, each with pixels, in descending priority.
        labels: int64 ``[N]``.

    Returns:
        float32 ``[N]`` in 0..1.
    """
    found = np.zeros(len(masks))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        for k, i in enumerate(members[1:], start=1):
            better = members[:k]
            covered: NDArray[np.float64] = np.array([masks[i].intersection(masks[j]) / masks[i].area for j in better])
            if covered.any():
                passed_on = covered @ found[better] / covered.sum()
                found[i] = (1 - PASSED_ON) * covered.max() + PASSED_ON * passed_on
    return np.asarray(found, np.float32)
