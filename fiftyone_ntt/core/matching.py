"""Stage two, first half: which class each candidate looks like, and how much (ntt-algorithm 3.4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NEGATIVE_SCALE = 0.8
"""By how much nearer a negative than all references must be to cost a factor e; chosen in ``docs/results.md``."""


def normalise(vectors: Tensor) -> Tensor:
    """l2-normalises the last dimension; a zero or NaN vector stays what it is."""
    return F.normalize(vectors.float(), dim=-1)


def similarity(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine similarity, negative values cut to zero.

    Args:
        vectors: float32 ``[N, C]``, l2-normalised.
        prototypes: float32 ``[K, C]``, l2-normalised.

    Returns:
        float32 ``[N, K]`` in 0..1 (NaN where a vector is).
    """
    return (vectors @ prototypes.T).clamp(min=0)


def less_negatives(
    similarities: Tensor, features: Tensor, positives: tuple[Tensor, Tensor], negatives: tuple[Tensor, Tensor]
) -> Tensor:
    """Similarities of candidates to classes, lowered where a candidate looks more like what the class is not.

    A negative only counts where it is nearer than the class's prototype and each of its references: a class is not
    pushed away from what it is known to be.

    Args:
        similarities: float32 ``[N, K]``.
        features: float32 ``[N, C]``, l2-normalised.
        positives: references float32 ``[M, C]``, l2-normalised, and their classes int64 ``[M]``.
        negatives: what is not wanted, float32 ``[M-, C]``, l2-normalised, and the classes that they are not, int64
            ``[M-]``; -1 for all.

    Returns:
        float32 ``[N, K]``: ``s * exp(-max(0, nearest negative - max(s, nearest reference)) / 0.8)``.
    """
    near, far = similarity(features, positives[0]), similarity(features, negatives[0])
    lowered = similarities.clone()
    for k in range(similarities.shape[1]):
        against = (negatives[1] == k) | (negatives[1] == -1)
        if against.any():
            own = torch.maximum(similarities[:, k], near[:, positives[1] == k].amax(dim=1))
            excess = (far[:, against].amax(dim=1) - own).clamp(min=0)
            lowered[:, k] = similarities[:, k] * torch.exp(-excess / NEGATIVE_SCALE)
    return lowered


def assign_labels(similarities: Tensor) -> tuple[Tensor, Tensor]:
    """The best class of each candidate.

    Args:
        similarities: float32 ``[N, K]``.

    Returns:
        Scores float32 ``[N]`` (the highest similarity) and labels int64 ``[N]``.
    """
    if similarities.shape[0] == 0:
        return similarities.new_zeros(0), torch.zeros(0, dtype=torch.int64)
    scores, labels = similarities.max(dim=1)
    return scores, labels


def second_best(
    similarities: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best class of each candidate apart from its own.

    Args:
        similarities: float32 ``[n, K]``.
        labels: int64 ``[n]``, the candidates' own classes.

    Returns:
        Classes int64 ``[n]`` and the similarities to them, float32 ``[n]``; -1 and 0 where there is one class only.
    """
    rows = np.arange(len(labels))
    if similarities.shape[1] < 2:
        return np.full(len(labels), -1, np.int64), np.zeros(len(labels), np.float32)
    others = similarities.copy()
    others[rows, labels] = -np.inf
    best = others.argmax(axis=1)
    return best, similarities[rows, best]
