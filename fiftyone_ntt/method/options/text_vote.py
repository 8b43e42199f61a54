"""The class's name as one more witness: similarities blended with those to the name's embedding. An option.

It needs a feature model that puts names into the space of its patches. The names are embedded once, when the bank is
built, and kept in the bank: matching needs no model.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fiftyone_ntt.errors import InputError, listing
from fiftyone_ntt.method.backends import FeatureModel, TextEncoder
from fiftyone_ntt.method.bank_parts import TextVote, VectorSet
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.results import SimilarityStep, StageOneResult
from fiftyone_ntt.method.scoring import normalise, similarity
from fiftyone_ntt.method.starting_threshold import expected_similarity

LEAST_ALIKE = 0.01
"""Mean cosine of a class's references with its name, at or below which the model does not find the one in the other.
A guard, not a measured bound: with less, the scale that is made of it would turn noise into similarities of 1."""


def similarity_step(bank: MemoryBank, vote: TextVote) -> SimilarityStep:
    """Similarities blended with those to the names, for ``Matcher``; see ``blended``."""
    index = vote.names.index_in(bank.classes)
    text = normalise(torch.from_numpy(vote.names.vectors[index >= 0]))  # [n, C]
    places = torch.from_numpy(index[index >= 0])  # [n]

    def step(similarities: Tensor, features: Tensor, image: StageOneResult) -> Tensor:
        # Not ``features``: a name knows nothing of the centre that is subtracted from images.
        vectors = normalise(torch.as_tensor(image.vectors).float().cpu())  # [N, C]
        return blended(similarities, similarity(vectors, text), places, vote)

    return step


def blended(similarities: Tensor, named: Tensor, places: Tensor, vote: TextVote) -> Tensor:
    """Similarities to prototypes and to names in one, on the scale of the prototypes'.

    Args:
        similarities: float32 ``[N, K]`` to the prototypes, in 0..1.
        named: float32 ``[N, n]`` to the names, in 0..1.
        places: int64 ``[n]``, the class of each name; classes without one keep their similarities.
        vote: says how much a name counts.

    Returns:
        float32 ``[N, K]`` in 0..1.
    """
    mixed = similarities.clone()
    mixed[:, places] = (1 - vote.weight) * similarities[:, places] + vote.weight * (vote.gain * named).clamp(max=1)
    return mixed


def check_text(model: FeatureModel, weight: float) -> None:
    """Raises InputError where names are to count and the feature model cannot read."""
    if not 0 <= weight <= 1:
        raise InputError(f"expected text_weight between 0 and 1, got {weight}")
    if weight and not isinstance(model, TextEncoder):
        raise InputError(
            f"expected a feature model that can read class names for text_weight={weight:g}, got {model.name!r}, which "
            "sees images only; leave text_weight at 0, or use the preset 'tips'"
        )


def with_names(bank: MemoryBank, model: FeatureModel, weight: float) -> MemoryBank:
    """The bank with the embeddings of its class names; as it is where they do not count.

    What a name says is brought to the scale of the prototypes, so that score thresholds keep their meaning: cosines of
    images with texts are lower than those of images with images.

    Args:
        bank: a memory bank of this model's.
        model: the feature model.
        weight: how much a name counts, 0..1.

    Raises:
        InputError: if the model cannot read, or finds the name of a class in none of its references.
    """
    check_text(model, weight)
    if not weight or not isinstance(model, TextEncoder):
        return bank
    vectors = np.asarray(torch.as_tensor(model.encode_text(bank.classes)).float().cpu().numpy(), np.float32)  # [K, C]
    names = VectorSet(vectors, bank.classes)
    images, texts = (normalise(torch.from_numpy(part)) for part in (bank.vectors, vectors))
    cosines = (images * texts[torch.from_numpy(bank.class_index)]).sum(dim=1).numpy()  # [M], of each with its own name
    own = np.array([cosines[bank.class_index == k].mean() for k in range(len(bank.classes))])  # [K]
    if lost := [name for name, cosine in zip(bank.classes, own, strict=True) if not cosine > LEAST_ALIKE]:
        raise InputError(
            f"expected class names that the feature model finds in their references, got {listing(lost)}, which it "
            "does not find there; name these classes by words for what they are, or leave text_weight at 0"
        )
    scale = float(expected_similarity(bank).mean() / np.clip(cosines, 0, None).mean())
    # Rounded: the last digits differ between processors.
    return bank.changed(text=TextVote(names, float(weight), round(scale, 4)))
