"""What is not wanted, as vectors of the memory bank. It acts on similarities only (``matching.less_negatives``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_ntt.method.memory_bank import MemoryBank

CENTRES = 8
"""Vectors that stand for a whole image without the classes; more hardly change anything."""
_ROUNDS = 20


def image_centres(tokens: torch.Tensor, count: int = CENTRES) -> NDArray[np.float32]:
    """What there is to see in an image: centres of its patch tokens by k-means.

    Begins with the token nearest to the mean, then always with the one farthest from all so far: the same every time.

    Args:
        tokens: float ``[rows, columns, C]``.
        count: how many centres; fewer where the image has fewer different tokens.

    Returns:
        float32 ``[k, C]``, not normalised.
    """
    flat = torch.as_tensor(tokens).float().cpu().flatten(0, 1)
    centres = flat[(flat - flat.mean(dim=0)).norm(dim=1).argmin()][None]
    while len(centres) < min(count, len(flat)):
        far = torch.cdist(flat, centres).amin(dim=1)
        if far.max() <= 1e-6:
            break
        centres = torch.cat([centres, flat[far.argmax()][None]])
    for _ in range(_ROUNDS):
        nearest = torch.cdist(flat, centres).argmin(dim=1)
        # The first one among equals: a centre never loses its last token, as it was one itself.
        moved = torch.stack([flat[nearest == k].mean(dim=0) if (nearest == k).any() else centres[k]
                             for k in range(len(centres))])  # fmt: skip
        if torch.allclose(moved, centres):
            break
        centres = moved
    return np.asarray(centres.numpy(), np.float32)


def with_negatives(
    bank: MemoryBank, vectors: NDArray[np.float32], labels: Sequence[str | None], ids: Sequence[str]
) -> MemoryBank:
    """The bank with more negatives.

    Args:
        bank: a memory bank.
        vectors: float32 ``[n, C]``, not normalised.
        labels: the class that each of them is not; ``None``, or a class that the bank does not have, for none of them.
        ids: where they came from.
    """
    if not len(ids):
        return bank
    channels = bank.vectors.shape[1]
    before = np.zeros((0, channels), np.float32) if bank.negatives is None else bank.negatives
    known = np.zeros(0, np.int64) if bank.negative_class is None else bank.negative_class
    index = [bank.classes.index(label) if label in bank.classes else -1 for label in labels]
    return replace(
        bank,
        negatives=np.concatenate([before, np.asarray(vectors, np.float32).reshape(-1, channels)]),
        negative_class=np.concatenate([known, np.array(index, np.int64)]),
        negative_ids=(*bank.negative_ids, *ids),
    )
