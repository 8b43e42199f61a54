"""What becomes of similarities before they are read: nearest references, a second look, negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.core.compact import CompactImage, IndexedImage
from fiftyone_ntt.core.config import MatchConfig
from fiftyone_ntt.core.matching import less_negatives, normalise
from fiftyone_ntt.core.memory import MemoryBank
from fiftyone_ntt.core.nearest import nearest_similarity
from fiftyone_ntt.core.second_look import blended

Adjust: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Similarities ``[N, K]`` and features ``[N, C]`` to other similarities."""


def adjustment(indexed: IndexedImage | CompactImage, bank: MemoryBank, config: MatchConfig) -> Adjust | None:
    """What becomes of similarities before they are read: a second look blended in, negatives held against them."""
    steps = (_nearest(bank, config.nearest), _looked(indexed, bank, config.second_look), _without_negatives(bank))
    chosen = [step for step in steps if step is not None]

    def adjust(similarities: Tensor, features: Tensor) -> Tensor:
        for step in chosen:
            similarities = step(similarities, features)
        return similarities

    return adjust if chosen else None


def in_space_of(
    bank: MemoryBank, indexed: IndexedImage | CompactImage, config: MatchConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, Adjust | None]:
    """What stage two takes of an image, moved to where a bank's prototypes are.

    Returns:
        Vectors float32 ``[N, C]``, patch tokens float32 ``[rows, columns, C]`` (``None`` where not needed), and what
        becomes of similarities.
    """
    vectors = bank.project(torch.as_tensor(indexed.vectors).float().cpu().numpy())
    tokens = bank.project(_tokens_of(indexed)) if config.coverage else None
    return vectors, tokens, adjustment(indexed, bank, config)


def _tokens_of(indexed: IndexedImage | CompactImage) -> NDArray[np.float32]:
    """The image's patch tokens float32 ``[rows, columns, C]``."""
    return indexed.tokens.full() if isinstance(indexed, CompactImage) else indexed.tokens.float().cpu().numpy()


def _without_negatives(bank: MemoryBank) -> Adjust | None:
    """What a bank's negatives do to similarities; nothing where there are none."""
    if bank.negatives is None or bank.negative_class is None:
        return None
    positives = normalise(torch.from_numpy(bank.project(bank.vectors))), torch.from_numpy(bank.class_index)
    negatives = normalise(torch.from_numpy(bank.project(bank.negatives))), torch.from_numpy(bank.negative_class)
    return lambda similarities, features: less_negatives(similarities, features, positives, negatives)


def _nearest(bank: MemoryBank, count: int) -> Adjust | None:
    if not count:
        return None
    references, owner = normalise(torch.from_numpy(bank.project(bank.vectors))), torch.from_numpy(bank.class_index)
    return lambda _, features: nearest_similarity(features, references, owner, len(bank.classes), count)


def _looked(indexed: IndexedImage | CompactImage, bank: MemoryBank, weight: float) -> Adjust | None:
    looks = _looks_of(indexed)
    if not weight or looks is None or bank.crop_prototypes is None:
        return None
    seen, prototypes = (bank.project_crops(looks[0]), looks[1]), torch.from_numpy(bank.crop_prototypes)
    return lambda similarities, _: blended(similarities, seen, prototypes, weight)


def _looks_of(indexed: IndexedImage | CompactImage) -> tuple[NDArray[np.float32], NDArray[np.integer]] | None:
    """Vectors of the second look float32 ``[G, C]`` and each candidate's group, where there was one."""
    if isinstance(indexed, IndexedImage):
        looks = indexed.looks
        return None if looks is None else (looks.vectors.float().numpy(), looks.group.numpy())
    if indexed.crop_vectors is None or indexed.group is None:
        return None
    return indexed.crop_vectors.astype(np.float32), indexed.group
