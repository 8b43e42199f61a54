"""Stage two as a whole: candidates, vectors and prototypes in, labelled instances out. Needs no model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fiftyone_ntt.core.config import MatchConfig
from fiftyone_ntt.core.instances import Instances
from fiftyone_ntt.core.masks import PackedMask, boxes_of, masks_at_image_size
from fiftyone_ntt.core.matching import assign_labels, normalise, similarity
from fiftyone_ntt.core.merging import decay, nms_per_label, semantic_overlap
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
    candidates: Candidates,
    vectors: Tensor | NDArray[np.float32],
    prototypes: Tensor | NDArray[np.float32],
    config: MatchConfig | None = None,
) -> Instances:
    """Labels candidates whose vectors are already there (ntt-algorithm 3.4 to 3.7).

    Args:
        candidates: N mask proposals.
        vectors: float ``[N, C]``, one pooled vector a candidate; l2-normalised inside.
        prototypes: float ``[K, C]``, one a class; l2-normalised inside.
        config: defaults to ``MatchConfig()``.

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.

    Raises:
        InputError: if the shapes do not fit each other.
    """
    config = config or MatchConfig()
    pooled, classes = _as_float(vectors), _as_float(prototypes)
    _check_shapes(candidates, pooled, classes)
    candidates, pooled = _usable(candidates, pooled, config)
    features = normalise(pooled)
    scores, labels = assign_labels(similarity(features, normalise(classes)))
    keep = _suppress(candidates, scores, labels, config)
    return _merge(candidates, keep, features[keep].numpy(), scores[keep].numpy(), labels[keep].numpy(), config)


def _as_float(values: ArrayLike | Tensor) -> Tensor:
    return torch.as_tensor(values).float().cpu()


def _check_shapes(candidates: Candidates, vectors: Tensor, prototypes: Tensor) -> None:
    if prototypes.ndim != 2 or prototypes.shape[0] == 0:
        raise InputError(f"expected prototypes [K, C] with at least one class, got {list(prototypes.shape)}")
    if vectors.shape != (len(candidates), prototypes.shape[1]):
        raise InputError(
            f"expected one vector of {prototypes.shape[1]} channels for each of the {len(candidates)} "
            f"candidates, got {list(vectors.shape)}; were bank and candidates made with the same preset?"
        )


def _usable(candidates: Candidates, vectors: Tensor, config: MatchConfig) -> tuple[Candidates, Tensor]:
    """Candidates above the predicted-IoU threshold and, guarded, with at least one pixel."""
    usable = (candidates.predicted_iou > config.predicted_iou_threshold).cpu()
    if config.guard_degenerate:
        usable &= vectors.isfinite().all(dim=1)
    if bool(usable.all()):
        return candidates, vectors  # no copy of all masks for nothing
    return candidates.select(usable.to(candidates.mask_logits.device)), vectors[usable]


def _suppress(candidates: Candidates, scores: Tensor, labels: Tensor, config: MatchConfig) -> Tensor:
    """Indices that survive NMS and have a score, in descending predicted IoU."""
    boxes = boxes_of(candidates.mask_logits > 0).cpu().numpy()
    priority = candidates.predicted_iou.float().cpu().numpy()
    keep = nms_per_label(boxes, priority, labels.numpy(), config.nms_threshold)
    keep = keep[: config.premerge_factor * config.max_instances]
    return torch.from_numpy(keep[scores.numpy()[keep] > 0])


def _merge(
    candidates: Candidates,
    keep: Tensor,
    features: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    config: MatchConfig,
) -> Instances:
    packed = masks_at_image_size((candidates.mask_logits[i] for i in keep.tolist()), candidates.frame)
    overlap = semantic_overlap(packed, features, labels)
    if config.guard_degenerate:
        overlap = np.clip(np.nan_to_num(overlap), 0, 1)
    final = decay(scores, overlap, config.merge_exponent)
    order = _ranking(final, packed, config)
    masks = tuple(packed[i] for i in order)
    return Instances(
        boxes=_boxes(masks, config.inclusive_boxes),
        scores=final[order],
        labels=labels[order],
        predicted_iou=candidates.predicted_iou.float().cpu().numpy()[keep.numpy()][order],
        packed=masks,
        image_size=candidates.frame.image_size,
    )


def _ranking(scores: NDArray[np.float32], packed: list[PackedMask], config: MatchConfig) -> NDArray[np.int64]:
    """The best ``max_instances``, descending. Unguarded, NaN comes first, as torch sorts it."""
    eligible = np.ones(len(scores), bool)
    if config.guard_degenerate:
        eligible = np.array([mask.area > 0 for mask in packed], bool)
    if config.score_threshold > 0:
        eligible &= scores > config.score_threshold
    order = np.argsort(-np.where(np.isnan(scores), np.inf, scores), kind="stable")
    return order[eligible[order]][: config.max_instances]


def _boxes(masks: tuple[PackedMask, ...], inclusive: bool) -> NDArray[np.float32]:
    boxes = np.array([mask.extent for mask in masks], np.float32).reshape(-1, 4)
    if inclusive:
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
    return boxes
