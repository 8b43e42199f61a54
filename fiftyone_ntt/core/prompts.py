"""From points, scribbles and boxes on an image to the masks that the mask model offers for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.core.backends import PromptDecoder, ProposalModel
from fiftyone_ntt.core.frames import ImageFrame
from fiftyone_ntt.core.masks import PackedMask, masks_at_image_size
from fiftyone_ntt.core.pooling import pool
from fiftyone_ntt.core.proposals import Candidates
from fiftyone_ntt.core.segmenter import Encoded, Segmenter
from fiftyone_ntt.errors import InputError

SCRIBBLE_POINTS = 5
"""Points taken along a scribble; chosen in ``docs/results.md``."""


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
    def scribble(cls, line: NDArray[np.floating], count: int = SCRIBBLE_POINTS) -> Prompt:
        """A line of vertices ``[V, 2]`` (x, y) in image pixels, drawn over the object."""
        return cls(points_along(line, count), np.ones(count, bool), "scribble")

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
