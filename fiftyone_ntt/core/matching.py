"""Stage two, first half: which class each candidate looks like, and how much (ntt-algorithm 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
