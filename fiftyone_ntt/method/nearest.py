"""Similarity to a class by its nearest references in place of their mean. An option."""

from __future__ import annotations

import torch
from torch import Tensor

from fiftyone_ntt.method.scoring import similarity


def nearest_similarity(features: Tensor, references: Tensor, class_index: Tensor, classes: int, count: int) -> Tensor:
    """Mean similarity to the ``count`` nearest references of each class.

    Args:
        features: float32 ``[N, C]``, l2-normalised.
        references: float32 ``[M, C]``, l2-normalised.
        class_index: int64 ``[M]``, each reference's class.
        classes: how many classes there are, K; each has a reference.
        count: how many references count; all where a class has no more.

    Returns:
        float32 ``[N, K]``.
    """
    every = similarity(features, references)
    of_class = [every[:, class_index == k] for k in range(classes)]
    return torch.stack([one.topk(min(count, one.shape[1]), dim=1).values.mean(dim=1) for one in of_class], dim=1)
