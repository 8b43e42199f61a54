"""Stage two, first half: which class each candidate looks like, and how much (docs/method.md 3.4).

The published score is a cosine only and knows nothing of whether a mask is a whole object: a wheel looks as much like
the car as the car does. Scoring, not labelling, is where that loses most (``docs/results.md``). So the default also
asks how much of the evidence for a class around a mask the mask explains: a part of an object scores low.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.proposals import CandidateSet
from fiftyone_ntt.method.results import Labelled
from fiftyone_ntt.pixels.compiled import loops
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
        usable &= np.isfinite(features.numpy()).all(axis=1)  # torch takes four times longer
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
    weights = token_weights(candidates.mask_runs, len(candidates), candidates.frame, (rows, columns))
    # [N, rows, columns]: each mask, and each grown by two tokens in every direction.
    inside, around = (torch.from_numpy(tokens_of) for tokens_of in (weights, grown(weights, REACH)))
    explained = (inside.flatten(1) @ evidence + _FLOOR) / (around.flatten(1) @ evidence + _FLOOR)
    return explained.clamp(max=1)


def token_weights(runs: Runs, count: int, frame: ImageFrame, grid: tuple[int, int]) -> NDArray[np.float32]:
    """How much of each token's patch a mask covers: float32 ``[count, rows, columns]`` in 0..1.

    Along a row of tokens a run is what lies right of its start, less what lies right of its stop: two edges. So each
    run is a handful of numbers in the right places, whatever the masks look like, and one sum along the rows.
    """
    weights = np.zeros((count, *grid), np.float32)
    tables = list(_edge_tables(frame, grid))
    compiled = loops()
    if compiled is not None and runs.owner.dtype == np.int32:
        used, row, height = (np.stack([getattr(table, name) for table in tables]) for name in ("rows", "row", "height"))
        columns = tables[0].cell, tables[0].right  # the same in all
        compiled.runs.token_weights(runs.owner, runs.row, runs.start, runs.stop, used, row, height, *columns, weights)
        return weights
    bounds = np.searchsorted(runs.owner, np.arange(0, count + _AT_ONCE, _AT_ONCE, dtype=runs.owner.dtype))
    for k, (low, high) in enumerate(pairwise(bounds.tolist())):
        some = weights[k * _AT_ONCE : (k + 1) * _AT_ONCE]
        some[:] = _some_weights(runs.select(slice(low, high)), k * _AT_ONCE, some.shape, tables)
    return weights


_AT_ONCE = 64
"""Masks carried to the token grid at once: all that takes stays in a core's cache."""


def _some_weights(runs: Runs, first: int, shape: tuple[int, ...], tables: Sequence[_EdgeTable]) -> NDArray[np.floating]:
    """``token_weights`` of the masks from ``first`` on."""
    rows, columns = shape[1], shape[2] + 1  # edges right of all cells fall into a column of their own
    size = shape[0] * rows * columns
    whole, part = np.zeros(size), np.zeros(size)
    for table in tables:
        used = runs if table.rows.all() else runs.select(np.flatnonzero(table.rows.take(runs.row)))
        row = (used.owner - first).astype(np.intp)
        row *= rows * columns
        row += table.row.take(used.row)
        height = table.height.take(used.row)
        for edge, add in ((used.start, np.add), (used.stop, np.subtract)):
            place = table.cell.take(edge)
            place += row
            share = table.right.take(edge)
            share *= height
            add(whole, np.bincount(place, height, size), out=whole)
            add(part, np.bincount(place, share, size), out=part)
    # Of the cell that an edge is in a part counts, of all cells right of it the whole.
    wholes, parts = whole.reshape(shape[0], rows, columns), part.reshape(shape[0], rows, columns)
    parts[:, :, 1:] += wholes[:, :, :-1] - parts[:, :, :-1]
    return np.cumsum(parts, axis=2)[:, :, :-1].clip(0, 1)


@dataclass(frozen=True, eq=False)
class _EdgeTable:
    """What an edge of a run counts, by its row and by its column in the mask frame.

    Attributes:
        rows: bool ``[256]``, which rows of pixels this is about.
        row: int64 ``[256]``, the first token of the row of tokens, in rows that are one longer than the grid's.
        height: float64 ``[256]``, the share of a token's height that the row of pixels takes.
        cell: int64 ``[257]``, the token of that row that an edge is in.
        right: float64 ``[257]``, the share of this token's width right of the edge.
    """

    rows: NDArray[np.bool_]
    row: NDArray[np.int64]
    height: NDArray[np.float64]
    cell: NDArray[np.int64]
    right: NDArray[np.float64]


def _edge_tables(frame: ImageFrame, grid: tuple[int, int]) -> Iterator[_EdgeTable]:
    """A table for the first row of tokens that each row of pixels lies in, one for the second, and so on."""
    (rows, columns), (height, width) = grid, frame.mask_content
    position = np.minimum(np.arange(MASK_SIDE + 1) * (columns / width), columns)
    cell = position.astype(np.int64)
    edge = np.minimum(np.arange(MASK_SIDE + 1) * (rows / height), rows)
    for step in range(math.ceil(rows / height) + 1):
        row = edge[:-1].astype(np.int64) + step
        weight = np.minimum(edge[1:], row + 1) - np.maximum(edge[:-1], row)
        used = (row < rows) & (weight > 0)
        place = np.where(used, row, 0) * (columns + 1)
        yield _EdgeTable(used, place, np.where(used, weight, 0), cell, cell + 1 - position)


def grown(weights: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """The largest of the weights within ``reach`` of each token in both directions: float32 as ``weights``.

    All rows lie end to end with empty tokens between them, so that each step is one over a contiguous array.
    """
    count, rows, columns = weights.shape
    if (compiled := loops()) is not None:
        largest = np.zeros_like(weights)
        compiled.runs.grown(weights, reach, largest)
        return largest
    padded = np.zeros((count, rows + 2 * reach, columns + 2 * reach), np.float32)
    padded[:, reach:-reach, reach:-reach] = weights
    flat = padded.reshape(-1)
    for stride in (1, columns + 2 * reach):
        covered = 1  # flat[i] is the largest of so many from there on
        while covered <= 2 * reach:
            step = min(covered, 2 * reach + 1 - covered)
            flat = np.maximum(flat[: -step * stride], flat[step * stride :])
            covered += step
    largest = np.zeros(padded.size, np.float32)
    largest[: flat.size] = flat
    return np.asarray(largest.reshape(padded.shape)[:, :rows, :columns])
