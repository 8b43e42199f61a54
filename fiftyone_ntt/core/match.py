"""Stage two as a whole: candidates, vectors and prototypes in, labelled instances out. Needs no model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fiftyone_ntt.core.compact import CompactCandidates
from fiftyone_ntt.core.config import MatchConfig
from fiftyone_ntt.core.instances import Instances
from fiftyone_ntt.core.masks import ImageMasks, PackedMask
from fiftyone_ntt.core.matching import assign_labels, normalise, similarity
from fiftyone_ntt.core.merging import best_merged, decay, nms_per_label, semantic_overlap
from fiftyone_ntt.core.pooling import pool
from fiftyone_ntt.core.proposals import Candidates
from fiftyone_ntt.errors import InputError


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
    return match_vectors(candidates, pool(candidates, tokens), prototypes, config)


def match_vectors(
    candidates: Candidates | CompactCandidates,
    vectors: Tensor | NDArray[np.floating],
    prototypes: Tensor | NDArray[np.float32],
    config: MatchConfig | None = None,
) -> Instances:
    """Labels candidates whose vectors are already there (ntt-algorithm 3.4 to 3.7).

    Args:
        candidates: N mask proposals, as stage one made them or from the candidate index.
        vectors: float ``[N, C]``, one pooled vector a candidate; l2-normalised inside.
        prototypes: float ``[K, C]``, one a class; l2-normalised inside.
        config: defaults to ``MatchConfig()``.

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.

    Raises:
        InputError: if the shapes do not fit each other.
    """
    pooled, classes = _as_float(vectors), _as_float(prototypes)
    _check_shapes(candidates, pooled, classes)
    features = normalise(pooled)
    return match_similarities(candidates, features, similarity(features, normalise(classes)), config)


def match_similarities(
    candidates: Candidates | CompactCandidates,
    features: Tensor,
    similarities: Tensor,
    config: MatchConfig | None = None,
) -> Instances:
    """Labels candidates by their similarity to each class: labels, NMS, soft merge (ntt-algorithm 3.4 to 3.6).

    Args:
        candidates: N mask proposals, as stage one made them or from the candidate index.
        features: float32 ``[N, C]``, l2-normalised pooled vectors. NaN for an empty mask.
        similarities: float32 ``[N, K]``, not negative.
        config: defaults to ``MatchConfig()``.

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.
    """
    config = config or MatchConfig()
    predicted_iou = _as_float(candidates.predicted_iou).numpy()
    usable = _usable(predicted_iou, features, config)
    features = features[usable]
    scores, labels = (part.numpy() for part in assign_labels(similarities[usable]))
    kept = nms_per_label(candidates.boxes[usable], predicted_iou[usable], labels, config.nms_threshold)
    kept = kept[: config.premerge_factor * config.max_instances]
    kept = kept[scores[kept] > 0]
    return _merge(candidates, usable[kept], features.numpy()[kept], scores[kept], labels[kept], config)


def _as_float(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).float().cpu()


def _check_shapes(candidates: Candidates | CompactCandidates, vectors: Tensor, prototypes: Tensor) -> None:
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
    candidates: Candidates | CompactCandidates,
    index: NDArray[np.int64],
    features: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    config: MatchConfig,
) -> Instances:
    """Soft merge of the candidates at ``index``, which are in descending predicted IoU; the best become instances."""
    masks = ImageMasks(candidates, index)
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
    packed = tuple(masks[i] for i in order)
    return Instances(
        boxes=_boxes(packed, config.inclusive_boxes),
        scores=final[order],
        labels=labels[order],
        predicted_iou=_as_float(candidates.predicted_iou).numpy()[index[order]],
        packed=packed,
        image_size=candidates.frame.image_size,
    )


def _ranking(scores: NDArray[np.float32], eligible: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The best ``count`` of those eligible, descending. NaN comes first, as torch sorts it."""
    order = np.argsort(-np.where(np.isnan(scores), np.inf, scores), kind="stable")
    return order[eligible[order]][:count]


def _boxes(masks: tuple[PackedMask, ...], inclusive: bool) -> NDArray[np.float32]:
    boxes = np.array([mask.extent for mask in masks], np.float32).reshape(-1, 4)
    if inclusive:
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
    return boxes
