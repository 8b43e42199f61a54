"""Stage two as a whole: candidates, vectors and prototypes in, labelled instances out. Needs no model.

What becomes of similarities before they are read: a second look, negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.merging import best_merged, decay, nms_per_label, semantic_overlap
from fiftyone_ntt.method.options.second_look import blended
from fiftyone_ntt.method.options.self_support import self_supported
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.proposals import Candidates, CandidateSet
from fiftyone_ntt.method.results import Instances, StageOneResult
from fiftyone_ntt.method.scoring import assign_labels, coverage, less_negatives, normalise, second_best, similarity
from fiftyone_ntt.pixels.packed_masks import ImageMasks, MaskSource, PackedMask, WithoutIslands


def match(
    candidates: Candidates, tokens: Tensor, prototypes: Tensor | NDArray[np.float32], config: MatchConfig | None = None
) -> Instances:
    """Labels the candidates of one image: pooling, then ``match_vectors``.

    Args:
        candidates: N mask proposals.
        tokens: float ``[rows, columns, C]`` patch tokens of the image.
        prototypes: float ``[K, C]``, one a class; l2-normalised inside.
        config: defaults to ``MatchConfig()``.

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.
    """
    return match_vectors(candidates, pool(candidates, tokens), prototypes, config, tokens=tokens)


def match_vectors(
    candidates: CandidateSet,
    vectors: Tensor | NDArray[np.floating],
    prototypes: Tensor | NDArray[np.float32],
    config: MatchConfig | None = None,
    *,
    adjust: Callable[[Tensor, Tensor], Tensor] | None = None,
    tokens: Tensor | NDArray[np.floating] | None = None,
) -> Instances:
    """Labels candidates whose vectors are already there (ntt-algorithm 3.4 to 3.7).

    Args:
        candidates: N mask proposals, as stage one made them or from the candidate index.
        vectors: float ``[N, C]``, one pooled vector a candidate; l2-normalised inside.
        prototypes: float ``[K, C]``, one a class; l2-normalised inside.
        config: defaults to ``MatchConfig()``.
        adjust: called with similarities ``[N, K]`` and normalised vectors ``[N, C]``, returns other similarities.
        tokens: float ``[rows, columns, C]``, the image's patch tokens in the space of the prototypes; without them
            the score does not know how much of an object a mask is (``config.coverage``).

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.

    Raises:
        InputError: if the shapes do not fit each other.
    """
    config = config or MatchConfig()
    features, similarities, explained = compare(candidates, vectors, prototypes, config, adjust=adjust, tokens=tokens)
    return match_similarities(candidates, features, similarities, config, explained=explained)


def compare(
    candidates: CandidateSet,
    vectors: Tensor | NDArray[np.floating],
    prototypes: Tensor | NDArray[np.float32],
    config: MatchConfig,
    *,
    adjust: Callable[[Tensor, Tensor], Tensor] | None = None,
    tokens: Tensor | NDArray[np.floating] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """How much each candidate looks like each prototype, each prototype on its own. Arguments as ``match_vectors``.

    Returns:
        What ``match_similarities`` takes: normalised vectors ``[N, C]``, similarities ``[N, K]``, and how much of the
        evidence each mask explains, ``[N, K]`` or ``None``.

    Raises:
        InputError: if the shapes do not fit each other.
    """
    pooled, classes = _as_float(vectors), _as_float(prototypes)
    _check_shapes(candidates, pooled, classes)
    features, classes = normalise(pooled), normalise(classes)
    similarities = similarity(features, classes)
    if config.self_support and len(features):
        similarities = self_supported(features, similarities, classes, config.self_support)
    if adjust is not None:
        similarities = adjust(similarities, features)
    explained = None
    if config.coverage and tokens is not None:
        explained = coverage(candidates, normalise(_as_float(tokens)), classes)
    return features, similarities, explained


@dataclass(frozen=True, eq=False)
class SharedMasks:
    """The masks of one image's candidates, made once for several matches.

    Attributes:
        source: the masks in the mask frame.
        made: those at image size that were needed so far, by candidate.
    """

    source: MaskSource
    made: dict[int, PackedMask] = field(default_factory=dict)

    @classmethod
    def of(cls, candidates: CandidateSet, config: MatchConfig) -> SharedMasks:
        """Masks as the settings want them."""
        share = config.island_share
        return cls(WithoutIslands(candidates, candidates.mask_runs, share) if share else candidates)


def match_similarities(
    candidates: CandidateSet,
    features: Tensor,
    similarities: Tensor,
    config: MatchConfig | None = None,
    *,
    explained: Tensor | None = None,
    shared: SharedMasks | None = None,
) -> Instances:
    """Labels candidates by their similarity to each class: labels, NMS, soft merge (ntt-algorithm 3.4 to 3.6).

    Args:
        candidates: N mask proposals, as stage one made them or from the candidate index.
        features: float32 ``[N, C]``, l2-normalised pooled vectors. NaN for an empty mask.
        similarities: float32 ``[N, K]``, not negative.
        config: defaults to ``MatchConfig()``.
        explained: float32 ``[N, K]`` in 0..1, see ``coverage``; all 1 where ``None``.
        shared: the masks of these candidates, where they are matched several times.

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.
    """
    config = config or MatchConfig()
    predicted_iou = _as_float(candidates.predicted_iou).numpy()
    usable = _usable(predicted_iou, features, config)
    features, similarities = features[usable], similarities[usable]
    weighted = similarities if explained is None else similarities * explained[usable] ** config.coverage
    scores, labels = (part.numpy() for part in assign_labels(weighted))
    shared = shared or SharedMasks.of(candidates, config)
    masks = shared.source
    priority = _priority(candidates, predicted_iou, usable, scores, config)
    kept = nms_per_label(masks.boxes[usable], priority, labels, config.nms_threshold)
    kept = kept[: config.premerge_factor * config.max_instances]
    kept = kept[scores[kept] > 0]
    index, labels = usable[kept], labels[kept]
    scores = _with_quality(scores[kept], predicted_iou[index], config)
    order, final, packed = _merge(shared, index, features.numpy()[kept], scores, labels, config)
    plain, labels = similarities.numpy()[kept[order]], labels[order]
    runner_up, its_similarity = second_best(plain, labels)
    return Instances(
        boxes=_boxes(packed, config.inclusive_boxes),
        scores=final,
        labels=labels,
        predicted_iou=predicted_iou[index[order]],
        packed=packed,
        image_size=candidates.frame.image_size,
        similarity=plain[np.arange(len(labels)), labels],
        alternative=runner_up,
        alternative_similarity=its_similarity,
    )


def _with_quality(
    scores: NDArray[np.float32], predicted_iou: NDArray[np.float32], config: MatchConfig
) -> NDArray[np.float32]:
    if not config.quality_exponent:
        return scores
    return np.asarray(scores * np.clip(predicted_iou, 0, 1) ** config.quality_exponent, np.float32)


def _priority(
    candidates: CandidateSet,
    predicted_iou: NDArray[np.float32],
    usable: NDArray[np.int64],
    scores: NDArray[np.float32],
    config: MatchConfig,
) -> NDArray[np.float32]:
    """float32 ``[n]`` of the usable candidates: who suppresses whom."""
    if config.order == "predicted_iou":
        return predicted_iou[usable]
    combined: NDArray[np.float32] = scores * predicted_iou[usable] * candidates.stability[usable]
    return combined


def _as_float(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).float().cpu()


def _check_shapes(candidates: CandidateSet, vectors: Tensor, prototypes: Tensor) -> None:
    if prototypes.ndim != 2 or prototypes.shape[0] == 0:
        raise InputError(f"expected prototypes [K, C] with at least one class, got {list(prototypes.shape)}")
    if vectors.shape != (len(candidates), prototypes.shape[1]):
        raise InputError(
            f"expected one vector of {prototypes.shape[1]} channels for each of the {len(candidates)} "
            f"candidates, got {list(vectors.shape)}; were bank and candidates made with the same preset?"
        )


def _usable(predicted_iou: NDArray[np.float32], vectors: Tensor, config: MatchConfig) -> NDArray[np.int64]:
    """Indices of the candidates above the predicted-IoU threshold and, guarded, with at least one pixel."""
    usable = predicted_iou > config.predicted_iou_threshold
    if config.guard_degenerate:
        usable &= vectors.isfinite().all(dim=1).numpy()
    return np.flatnonzero(usable)


def _merge(
    shared: SharedMasks,
    index: NDArray[np.int64],
    features: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    config: MatchConfig,
) -> tuple[NDArray[np.int64], NDArray[np.float32], tuple[PackedMask, ...]]:
    """Merge of the candidates at ``index``, which are in descending priority.

    Returns:
        Of the best ones, in descending merged score: their places in ``index``, merged scores, and masks.
    """
    masks = ImageMasks(shared.source, index, shared.made)
    if config.guard_degenerate:
        final = best_merged(masks, features, scores, labels, config)
        eligible = final >= 0
    else:
        masks.make(range(len(masks)))
        overlap = semantic_overlap([masks[i] for i in range(len(masks))], features, labels)
        final = decay(scores, overlap, config.merge_exponent)
        eligible = np.ones(len(final), bool)
    if config.score_threshold > 0:
        eligible &= final > config.score_threshold
    order = _ranking(final, eligible, config.max_instances)
    return order, final[order], tuple(masks[i] for i in order)


def _ranking(scores: NDArray[np.float32], eligible: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The best ``count`` of those eligible, descending. NaN comes first, as torch sorts it."""
    order = np.argsort(-np.where(np.isnan(scores), np.inf, scores), kind="stable")
    return order[eligible[order]][:count]


def _boxes(masks: tuple[PackedMask, ...], inclusive: bool) -> NDArray[np.float32]:
    boxes = np.array([mask.extent for mask in masks], np.float32).reshape(-1, 4)
    if inclusive:
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
    return boxes


Adjust: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Similarities ``[N, K]`` and features ``[N, C]`` to other similarities."""


def adjustment(indexed: StageOneResult, bank: MemoryBank, config: MatchConfig) -> Adjust | None:
    """What becomes of similarities before they are read: a second look blended in, negatives held against them."""
    steps = (_looked(indexed, bank, config.second_look), _without_negatives(bank))
    chosen = [step for step in steps if step is not None]

    def adjust(similarities: Tensor, features: Tensor) -> Tensor:
        for step in chosen:
            similarities = step(similarities, features)
        return similarities

    return adjust if chosen else None


def in_space_of(
    bank: MemoryBank, indexed: StageOneResult, config: MatchConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, Adjust | None]:
    """What stage two takes of an image, moved to where a bank's prototypes are.

    Returns:
        Vectors float32 ``[N, C]``, patch tokens float32 ``[rows, columns, C]`` (``None`` where not needed), and what
        becomes of similarities.
    """
    vectors = bank.project(torch.as_tensor(indexed.vectors).float().cpu().numpy())
    tokens = bank.project(indexed.token_array) if config.coverage else None
    return vectors, tokens, adjustment(indexed, bank, config)


def _without_negatives(bank: MemoryBank) -> Adjust | None:
    """What a bank's negatives do to similarities; nothing where there are none."""
    if bank.negatives is None or bank.negative_class is None:
        return None
    positives = normalise(torch.from_numpy(bank.project(bank.vectors))), torch.from_numpy(bank.class_index)
    negatives = normalise(torch.from_numpy(bank.project(bank.negatives))), torch.from_numpy(bank.negative_class)
    return lambda similarities, features: less_negatives(similarities, features, positives, negatives)


def _looked(indexed: StageOneResult, bank: MemoryBank, weight: float) -> Adjust | None:
    looks = indexed.look_arrays
    if not weight or looks is None or bank.crop_prototypes is None:
        return None
    seen, prototypes = (bank.project_crops(looks[0]), looks[1]), torch.from_numpy(bank.crop_prototypes)
    return lambda similarities, _: blended(similarities, seen, prototypes, weight)
