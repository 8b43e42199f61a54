"""Stage two, first half: which class each candidate looks like, and how much (docs/method.md 3.4).

The published score is a cosine only and knows nothing of whether a mask is a whole object: a wheel looks as much like
the car as the car does. Scoring, not labelling, is where that loses most (``docs/results.md``). So the default also
asks how much of the evidence for a class around a mask the mask explains: a part of an object scores low.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.proposals import CandidateSet
from fiftyone_ntt.method.results import Labelled
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame
from fiftyone_ntt.pixels.mask_codes import Runs


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


def label(
    candidates: CandidateSet, features: Tensor, similarities: Tensor, explained: Tensor | None, config: MatchConfig
) -> Labelled:
    """The most similar class of each candidate that can be used at all, and how similar it is: its score (3.4).

    Args:
        candidates: N mask proposals.
        features: float32 ``[N, C]``, l2-normalised pooled vectors. NaN for an empty mask.
        similarities: float32 ``[N, K]``, not negative.
        explained: float32 ``[N, K]`` in 0..1, see ``coverage``; all 1 where ``None``.
        config: predicted-IoU threshold, guard against empty masks, power of ``explained``.

    Returns:
        n candidates, in their order.
    """
    predicted_iou = torch.as_tensor(candidates.predicted_iou).float().cpu().numpy()  # [N]
    usable = predicted_iou > config.predicted_iou_threshold
    if config.guard_degenerate:
        usable &= features.isfinite().all(dim=1).numpy()
    index = np.flatnonzero(usable)
    features, similarities = features[index], similarities[index]  # [n, C], [n, K]
    weighted = similarities if explained is None else similarities * explained[index] ** config.coverage
    scores, labels = (part.numpy() for part in assign_labels(weighted))
    return Labelled(index, features, similarities, labels, scores, predicted_iou[index])


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


REACH = 2
"""How far "around a mask" goes, in tokens."""
_FLOOR = 1e-3
_CHUNK = 256
"""Masks carried to the token grid at once: 6 MB."""


def coverage(candidates: CandidateSet, tokens: Tensor, prototypes: Tensor) -> Tensor:
    """The share of each class's evidence in and around each mask that lies in it.

    A token is evidence for a class by how much more it looks like it than the image's median token does.

    Args:
        candidates: N masks.
        tokens: float32 ``[rows, columns, C]``, l2-normalised patch tokens, in the space of the prototypes.
        prototypes: float32 ``[K, C]``, l2-normalised.

    Returns:
        float32 ``[N, K]`` above 0, at most 1; 1 where there is no evidence at all.
    """
    rows, columns, channels = tokens.shape
    evidence = similarity(tokens.reshape(-1, channels), prototypes)  # [rows * columns, K]
    evidence = (evidence - evidence.median(dim=0).values).clamp(min=0)  # what half of the image has counts for nothing
    inside = torch.from_numpy(token_weights(candidates.mask_runs, len(candidates), candidates.frame, (rows, columns)))
    # [N, 1, rows, columns]: each mask grown by two tokens in every direction.
    around = F.max_pool2d(inside[:, None], 2 * REACH + 1, stride=1, padding=REACH)
    explained = (inside.flatten(1) @ evidence + _FLOOR) / (around.flatten(1) @ evidence + _FLOOR)
    return explained.clamp(max=1)


def token_weights(runs: Runs, count: int, frame: ImageFrame, grid: tuple[int, int]) -> NDArray[np.float32]:
    """How much of each token's patch a mask covers: float32 ``[count, rows, columns]`` in 0..1."""
    height, width = frame.mask_content
    down, across = _cell_shares(height, grid[0]), _cumulative(_cell_shares(width, grid[1]))
    shares = torch.from_numpy(across[runs.stop] - across[runs.start])
    line = torch.from_numpy(runs.owner * MASK_SIDE + runs.row)
    weights = np.zeros((count, *grid), np.float32)
    # First along the rows of the mask frame, run by run, then down its columns: never a mask pixel by pixel.
    for first in range(0, count, _CHUNK):
        low, high = np.searchsorted(runs.owner, [first, first + _CHUNK])
        lines = torch.zeros(min(_CHUNK, count - first) * MASK_SIDE, grid[1])
        lines.index_add_(0, line[low:high] - first * MASK_SIDE, shares[low:high])
        weights[first : first + _CHUNK] = (torch.from_numpy(down.T) @ lines.view(-1, MASK_SIDE, grid[1])).numpy()
    return weights


def _cell_shares(extent: float, cells: int) -> NDArray[np.float32]:
    """float32 ``[256, cells]``: the share of each cell's length that each pixel of the mask frame takes."""
    pixels = np.arange(MASK_SIDE)[:, None]
    edges = np.arange(cells + 1) * (extent / cells)
    overlap = np.minimum(pixels + 1, edges[1:]) - np.maximum(pixels, edges[:-1])
    return np.asarray(np.maximum(overlap, 0) / (extent / cells), np.float32)


def _cumulative(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 ``[257, cells]``: what the first n pixels take."""
    return np.concatenate([np.zeros_like(shares[:1]), np.cumsum(shares, axis=0, dtype=np.float32)])
