"""What is not wanted, as vectors of the memory bank. An option; it acts on similarities only.

A false positive that a person rejects, or an image without the classes, lowers what looks more like it than like any
reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.results import SimilarityStep, StageOneResult
from fiftyone_ntt.method.scoring import normalise, similarity

NEGATIVE_SCALE = 0.8
"""By how much nearer a negative than all references must be to cost a factor e; chosen in ``docs/results.md``."""
CENTRES = 8
"""Vectors that stand for a whole image without the classes; more hardly change anything."""
_ROUNDS = 20


def similarity_step(bank: MemoryBank, unwanted: VectorSet) -> SimilarityStep:
    """What a bank's negatives do to similarities, for ``Matcher``; see ``less_negatives``."""
    positives, negatives = (
        (normalise(torch.from_numpy(bank.project(part.vectors))), torch.from_numpy(part.index_in(bank.classes)))
        for part in (bank.references, unwanted)
    )

    def step(similarities: Tensor, features: Tensor, image: StageOneResult) -> Tensor:
        return less_negatives(similarities, features, positives, negatives)

    return step


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
    near, far = similarity(features, positives[0]), similarity(features, negatives[0])  # [N, M], [N, M-]
    lowered = similarities.clone()
    for k in range(similarities.shape[1]):
        against = (negatives[1] == k) | (negatives[1] == -1)
        if against.any():
            own = torch.maximum(similarities[:, k], near[:, positives[1] == k].amax(dim=1))
            excess = (far[:, against].amax(dim=1) - own).clamp(min=0)
            lowered[:, k] = similarities[:, k] * torch.exp(-excess / NEGATIVE_SCALE)
    return lowered


def image_centres(tokens: Tensor, count: int = CENTRES) -> NDArray[np.float32]:
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
        labels: the class that each of them is not; ``None``, or a class that the bank does not have, for all of them.
        ids: where they came from.
    """
    if not len(ids):
        return bank
    against = tuple(label if label in bank.classes else None for label in labels)
    more = VectorSet(np.asarray(vectors, np.float32).reshape(-1, bank.vectors.shape[1]), against, tuple(ids))
    return bank.changed(negatives=more if bank.negatives is None else bank.negatives.joined(more))
