"""Prototypes that lean towards what the image itself shows of a class (self-support, Fan et al., ECCV 2022). An option.

Objects of one image resemble each other more than they resemble references. Here candidates stand in for the pixels
that the publication averages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fiftyone_ntt.method.results import SimilarityStep, StageOneResult
from fiftyone_ntt.method.scoring import normalise, similarity

SUPPORTERS = 3
SHARE = 0.5
"""Of the new prototype, what comes from the image."""


def similarity_step(prototypes: Tensor, least: float) -> SimilarityStep:
    """Similarities to prototypes that lean towards the image, for ``Matcher``; see ``self_supported``."""

    def step(similarities: Tensor, features: Tensor, image: StageOneResult) -> Tensor:
        return self_supported(features, similarities, prototypes, least) if len(features) else similarities

    return step


def self_supported(features: Tensor, similarities: Tensor, prototypes: Tensor, least: float) -> Tensor:
    """Similarities to prototypes that are mixed with the image's own best candidates of each class.

    Args:
        features: float32 ``[N, C]``, l2-normalised; NaN for an empty mask.
        similarities: float32 ``[N, K]`` to the prototypes.
        prototypes: float32 ``[K, C]``, l2-normalised.
        least: only candidates above this similarity count, of those the best three; a class without any is left as
            it is.

    Returns:
        float32 ``[N, K]``.
    """
    best, rows = similarities.nan_to_num(nan=-1).topk(min(SUPPORTERS, len(similarities)), dim=0)  # [3, K] each
    counts = (best > least).float()
    own = torch.einsum("nk,nkc->kc", counts, features.nan_to_num()[rows])  # [K, C], what the image shows
    supported = counts.sum(dim=0) > 0  # [K]
    mixed = normalise((1 - SHARE) * prototypes + SHARE * normalise(own))
    return similarity(features, torch.where(supported[:, None], mixed, prototypes))
