"""What a person's decisions have taught of the classes: a linear classifier over candidates' vectors. An option.

A prototype is the mean of its references, whatever else looks like it. Decisions also say what does *not* belong to a
class, and that a class looks different in different places. The head is trained on them (``review.head_fit``), starting
from the prototypes, and blended into the similarities; merging and thresholds are the usual ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.method.bank_parts import Head
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.negatives import less_negatives
from fiftyone_ntt.method.results import SimilarityStep, StageOneResult
from fiftyone_ntt.method.scoring import normalise, similarity


def similarity_step(head: Head) -> SimilarityStep:
    """Similarities blended with a head's answers, for ``Matcher``; see ``blended``."""

    def step(similarities: Tensor, features: Tensor, image: StageOneResult) -> Tensor:
        return blended(similarities, probabilities(head, features)[:, :-1], head)

    return step


def probabilities(head: Head, features: Tensor) -> Tensor:
    """How likely each candidate is of each class, and of none.

    Args:
        head: of K classes.
        features: float32 ``[N, C]``, l2-normalised; NaN for an empty mask.

    Returns:
        float32 ``[N, K + 1]``, each row sums to one; NaN for an empty mask.
    """
    logits = features @ torch.from_numpy(head.weights).T + torch.from_numpy(head.bias)  # [N, K + 1]
    return (logits / head.temperature).softmax(dim=1)


def blended(similarities: Tensor, likely: Tensor, head: Head) -> Tensor:
    """Similarities and the head's probabilities in one, on the scale of the similarities.

    Args:
        similarities: float32 ``[N, K]`` in 0..1.
        likely: float32 ``[N, K]`` in 0..1, what the head says of the classes.
        head: says how much each counts.

    Returns:
        float32 ``[N, K]`` in 0..1.
    """
    return ((1 - head.share) * similarities + head.share * head.gain * likely).clamp(max=1)


def similarities_of(bank: MemoryBank, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a bank makes of vectors alone, without a head: what one is compared with.

    Args:
        bank: its negatives count; a second look and self-support take whole images, and do not.
        features: float32 ``[n, C]``, l2-normalised, in the space of the prototypes.

    Returns:
        float64 ``[n, K]`` in 0..1.
    """
    inputs = torch.from_numpy(features)
    similarities = similarity(inputs, torch.from_numpy(bank.prototypes))
    if bank.negatives is not None:
        positives, unwanted = (
            (normalise(torch.from_numpy(bank.project(part.vectors))), torch.from_numpy(part.index_in(bank.classes)))
            for part in (bank.references, bank.negatives)
        )
        similarities = less_negatives(similarities, inputs, positives, unwanted)
    return np.asarray(similarities.numpy(), np.float64)


def scores_of(bank: MemoryBank, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same with the head of the bank: arguments as ``similarities_of``."""
    similarities = similarities_of(bank, features)
    if bank.head is None:
        return similarities
    likely = probabilities(bank.head, torch.from_numpy(features))[:, :-1]
    return np.asarray(blended(torch.from_numpy(similarities), likely, bank.head).numpy(), np.float64)
