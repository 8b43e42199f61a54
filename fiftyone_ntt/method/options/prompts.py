"""Prompts: from points, scribbles and boxes on an image to the masks that are meant. An option.

SAM answers a point with three masks: a part, more of it, the whole, say. Its predicted IoU tells how clean each is and
nothing of what was meant. What the other references of the class look like does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.backends import PromptDecoder, ProposalModel
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.proposals import Candidates
from fiftyone_ntt.method.segmenter import Encoded, Segmenter
from fiftyone_ntt.pixels.frames import ImageFrame
from fiftyone_ntt.pixels.packed_masks import PackedMask, masks_at_image_size

SCRIBBLE_POINTS = 5
"""Points taken along a scribble; chosen in ``docs/experiments/references.md``."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """Points, or a box, that one object is shown with.

    Attributes:
        points: float32 ``[P, 2]`` (x, y) in image pixels; a box is its two corners.
        positive: bool ``[P]``, whether a point is on the object or beside it.
        kind: ``"point"``, ``"scribble"`` or ``"box"``.
    """

    points: NDArray[np.float32]
    positive: NDArray[np.bool_]
    kind: str = "point"

    def __post_init__(self) -> None:
        points = np.asarray(self.points, np.float32)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) != len(self.positive):
            raise InputError(f"expected points [P, 2] with P marks, got {points.shape} and {len(self.positive)}")
        if not np.isfinite(points).all() or not np.any(self.positive):
            raise InputError("expected finite points, at least one of them on the object")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "positive", np.asarray(self.positive, bool))

    @classmethod
    def box(cls, corners: Sequence[float]) -> Prompt:
        """A box xyxy in image pixels."""
        return cls(np.array(corners, np.float32).reshape(2, 2), np.ones(2, bool), "box")

    @classmethod
    def scribble(cls, *lines: NDArray[np.floating], count: int = SCRIBBLE_POINTS) -> Prompt:
        """Lines of vertices ``[V, 2]`` (x, y) in image pixels, drawn over the object; they share ``count`` points."""
        counts = [count]
        if len(lines) > 1:  # each by its length, at least one
            lengths = np.array([np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines])
            shares = count * lengths / max(float(lengths.sum()), 1e-6)
            counts = [max(1, round(float(share))) for share in shares]
        points = np.concatenate([points_along(line, share) for line, share in zip(lines, counts, strict=True)])
        return cls(points, np.ones(len(points), bool), "scribble")

    @property
    def on_object(self) -> NDArray[np.float32]:
        """float32 ``[n, 2]``, the points that a mask must hold: none of a box."""
        return self.points[:0] if self.kind == "box" else self.points[self.positive]

    @property
    def beside_object(self) -> NDArray[np.float32]:
        """float32 ``[n, 2]``, the points that a mask must not hold."""
        return self.points[~self.positive]


@dataclass(frozen=True, eq=False)
class MaskOptions:
    """What the mask model offers for one prompt, and what is under each mask.

    Attributes:
        prompt: the prompt.
        masks: M masks at image size.
        predicted_iou: float32 ``[M]``.
        vectors: float32 ``[M, C]`` mean features, not normalised; NaN of an empty mask.
        image_size: ``(height, width)`` in pixels.
        single_first: whether the first mask is the model's single-mask output.
    """

    prompt: Prompt
    masks: tuple[PackedMask, ...]
    predicted_iou: NDArray[np.float32]
    vectors: NDArray[np.float32]
    image_size: tuple[int, int]
    single_first: bool = False


def points_along(line: NDArray[np.floating], count: int) -> NDArray[np.float32]:
    """Points at even distances along a line, half a step from its ends.

    Args:
        line: ``[V, 2]`` vertices, at least one.
        count: how many points.

    Returns:
        float32 ``[count, 2]``.
    """
    vertices = np.asarray(line, np.float64).reshape(-1, 2)
    if not len(vertices) or not np.isfinite(vertices).all():
        raise InputError(f"expected a line of finite points, got {vertices.tolist()}")
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(vertices, axis=0), axis=1))])
    at = (np.arange(count) + 0.5) / count * lengths[-1]
    return np.stack([np.interp(at, lengths, vertices[:, axis]) for axis in (0, 1)], axis=1).astype(np.float32)


@torch.inference_mode()
def mask_options(segmenter: Segmenter, encoded: Encoded, prompts: Sequence[Prompt]) -> list[MaskOptions]:
    """The masks there are for each prompt on an image.

    Args:
        segmenter: its mask model is prompted.
        encoded: the image (``Segmenter.encode``).
        prompts: what objects are shown with.
    """
    return [_options(segmenter.proposal_model, encoded, prompt) for prompt in prompts]


def _options(model: ProposalModel, encoded: Encoded, prompt: Prompt) -> MaskOptions:
    logits, predicted_iou = decode(model, encoded.embedding, encoded.frame, prompt)
    offered = Candidates(logits, predicted_iou, encoded.frame)
    return MaskOptions(
        prompt=prompt,
        masks=tuple(masks_at_image_size(offered, range(len(offered)))),
        predicted_iou=predicted_iou.float().cpu().numpy(),
        vectors=pool(offered, encoded.tokens).cpu().numpy(),
        image_size=encoded.frame.image_size,
        single_first=prompt.kind == "box" or (len(prompt.points) > 1 and isinstance(model, PromptDecoder)),
    )


def decode(model: ProposalModel, embedding: Any, frame: ImageFrame, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Prompts the mask model.

    A box has one mask, a point three. Several points go in together, which gives four masks (the one for unambiguous
    prompts first); a model that takes single points only is asked for each point on the object.

    Returns:
        Logits float32 ``[M, 256, 256]`` and predicted IoU float32 ``[M]``.
    """
    points = torch.from_numpy(frame.to_model(prompt.points))
    if prompt.kind == "box":
        return model.decode_boxes(embedding, points.reshape(1, 4))
    if len(points) > 1 and isinstance(model, PromptDecoder):
        labels = torch.from_numpy(prompt.positive.astype(np.int64))
        logits, predicted_iou = model.decode_prompts(embedding, points[None], labels[None])
        return logits[0], predicted_iou[0]
    logits, predicted_iou = model.decode_points(embedding, points[torch.from_numpy(prompt.positive)])
    return logits.flatten(0, 1), predicted_iou.flatten(0, 1)


_MOST_OF_IMAGE = 0.5
_ROUNDS = 5
_QUALITY = 2.0
"""Weight of the predicted IoU beside the agreement; chosen in ``docs/experiments/references.md``."""

Flags = NDArray[np.bool_]
Vectors = NDArray[np.float32]


def choose_masks(
    options: Sequence[MaskOptions],
    labels: Sequence[str],
    reference_vectors: Mapping[str, Vectors] | None = None,
    center: Vectors | None = None,
) -> list[int | None]:
    """The mask that is meant by each prompt.

    Those that ``possible_masks`` leaves are compared with the class's references whose masks are known, or where there
    are none with the masks chosen for the other prompts of the class, beginning with the cleanest; again until nothing
    changes. Where there is nothing to compare with, the cleanest is taken. Several points are hardly ambiguous: the one
    mask that the model makes for such prompts is taken if it is possible.

    Args:
        options: what there is for each prompt.
        labels: their classes.
        reference_vectors: class -> float32 ``[n, C]`` of references with a true mask, pooled as the options' are.
        center: float32 ``[C]`` to subtract from every vector before comparing.

    Returns:
        An index into each one's masks; ``None`` where no mask is possible.
    """
    reference_vectors = reference_vectors or {}
    possible = [possible_masks(offer) for offer in options]
    chosen = [first_choice(offer, flags) for offer, flags in zip(options, possible, strict=True)]
    for _ in range(_ROUNDS):
        before = list(chosen)
        for i, (offer, flags) in enumerate(zip(options, possible, strict=True)):
            if single_output(offer, flags) is not None:
                continue
            others = reference_vectors.get(labels[i])
            if others is None or not len(others):
                others = _chosen_vectors(options, labels, before, leave_out=i)
            if len(others) and flags.any():
                chosen[i] = most_alike(offer, flags, others, center)
        if chosen == before:
            break
    return chosen


def possible_masks(offer: MaskOptions) -> Flags:
    """bool ``[M]``: masks that fit the prompt.

    None that misses a point on the object or holds one beside it; of a scribble, none that misses half of it. None
    that covers most of the image if another one does not.
    """
    flags = np.array([mask.area > 0 for mask in offer.masks], bool) & np.isfinite(offer.vectors).all(axis=1)
    wanted = 0.5 if offer.prompt.kind == "scribble" else 1.0
    if len(offer.prompt.on_object):
        flags &= share_held(offer.masks, offer.prompt.on_object) >= wanted
    if len(offer.prompt.beside_object):
        flags &= share_held(offer.masks, offer.prompt.beside_object) == 0
    small = flags & ~covers_most(offer)
    return small if small.any() else flags


def share_held(masks: Sequence[PackedMask], points: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 ``[M]``, the share of points ``[P, 2]`` (x, y) in image pixels that each mask holds."""
    return np.array([np.mean([_holds(mask, x, y) for x, y in points.tolist()]) for mask in masks])


def _holds(mask: PackedMask, x: float, y: float) -> bool:
    x1, y1, x2, y2 = mask.extent
    column, row = int(np.floor(x)), int(np.floor(y))
    return x1 <= column < x2 and y1 <= row < y2 and bool(mask.crop()[row - y1, column - x1])


def covers_most(offer: MaskOptions) -> Flags:
    """bool ``[M]``: masks of more than half of the image."""
    height, width = offer.image_size
    return np.array([mask.area > _MOST_OF_IMAGE * height * width for mask in offer.masks], bool)


def single_output(offer: MaskOptions, flags: Flags) -> int | None:
    """Of several points, the mask that the model makes for unambiguous prompts, if it is possible."""
    return 0 if len(offer.prompt.points) > 1 and offer.single_first and flags[0] else None


def first_choice(offer: MaskOptions, flags: Flags) -> int | None:
    """Where nothing is known of the class: the mask for unambiguous prompts, else the cleanest."""
    single = single_output(offer, flags)
    return cleanest(offer, flags) if single is None else single


def cleanest(offer: MaskOptions, flags: Flags) -> int | None:
    """The possible mask of highest predicted IoU."""
    return int(np.argmax(np.where(flags, offer.predicted_iou, -np.inf))) if flags.any() else None


def most_alike(offer: MaskOptions, flags: Flags, others: Vectors, center: Vectors | None) -> int:
    """The possible mask of highest agreement with other references plus twice the predicted IoU.

    Args:
        offer: what there is.
        flags: bool ``[M]``, which are possible; at least offer.
        others: float32 ``[n, C]``, the other references.
        center: float32 ``[C]`` to subtract from all before comparing.
    """
    agreement = _unit(offer.vectors - _or_zero(center)) @ _unit(others.mean(axis=0) - _or_zero(center))
    return int(np.argmax(np.where(flags, agreement + _QUALITY * offer.predicted_iou, -np.inf)))


def _chosen_vectors(
    options: Sequence[MaskOptions], labels: Sequence[str], chosen: Sequence[int | None], leave_out: int
) -> Vectors:
    """What the other prompts of a class have chosen: float32 ``[n, C]``."""
    chosen_vectors = [
        offer.vectors[index]
        for k, (offer, index) in enumerate(zip(options, chosen, strict=True))
        if k != leave_out and labels[k] == labels[leave_out] and index is not None
    ]
    return np.stack(chosen_vectors) if chosen_vectors else np.zeros((0, 0), np.float32)


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), np.float32)


def _or_zero(center: Vectors | None) -> Vectors | float:
    return 0.0 if center is None else center
