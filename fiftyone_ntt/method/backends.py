"""What a backend must offer, and how many prompts or images go through it at once.

The method needs nothing else from a network than a promptable mask model and a feature model. Any pair that fulfils
these two protocols can stand behind a preset (see ``fiftyone_ntt.models``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from fiftyone_ntt.pixels.frames import ImageFrame

logger = logging.getLogger(__name__)

R = TypeVar("R")


# ---- What every backend offers ----


@runtime_checkable
class ProposalModel(Protocol):
    """A promptable mask model of the SAM family.

    Attributes:
        name: Short name that ends up in provenance, e.g. ``"sam2_hiera_large"``.
        weights_hash: sha256 of the weights file(s), hex.
    """

    name: str
    weights_hash: str

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        """Returns how an image of ``(height, width)`` pixels maps to the model frame."""
        ...

    def encode(self, pixels: Tensor, frame: ImageFrame) -> Any:
        """Runs the image encoder.

        Args:
            pixels: float32 ``[3, side, side]`` RGB in 0..1 in the model frame (``frame.render``);
                not yet normalised, zeros outside the frame's content.
            frame: the frame ``pixels`` was rendered with.

        Returns:
            An embedding that only this model's ``decode_*`` methods understand.
        """
        ...

    def decode_points(self, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts with single foreground points, each point on its own.

        Args:
            embedding: what ``encode`` returned.
            points: float32 ``[P, 2]`` (x, y) in pixels of the model frame.

        Returns:
            Mask logits float32 ``[P, 3, 256, 256]`` in the model frame, and predicted IoU float32
            ``[P, 3]``: the three multi-mask outputs, in the model's order. A model with masks of another side
            resamples them (``pixels.frames.to_mask_frame``).
        """
        ...

    def decode_boxes(self, embedding: Any, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts with boxes, each box on its own.

        Args:
            embedding: what ``encode`` returned.
            boxes: float32 ``[B, 4]`` xyxy in pixels of the model frame.

        Returns:
            Mask logits float32 ``[B, 256, 256]`` and predicted IoU float32 ``[B]``: the model's
            single-mask output, the one meant for unambiguous prompts.
        """
        ...


@runtime_checkable
class PromptDecoder(Protocol):
    """What a ``ProposalModel`` may offer besides: prompts of several points, some of them outside the object."""

    def decode_prompts(self, embedding: Any, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts with sets of points, each set on its own.

        Args:
            embedding: what ``encode`` returned.
            points: float32 ``[B, P, 2]`` (x, y) in pixels of the model frame.
            labels: int64 ``[B, P]``: 1 for a point on the object, 0 for one that is not.

        Returns:
            Mask logits float32 ``[B, 4, 256, 256]`` in the model frame, and predicted IoU float32 ``[B, 4]``: the
            single-mask output, then the three multi-mask outputs, in the model's order.
        """
        ...


@runtime_checkable
class MaskPromptDecoder(Protocol):
    """What a ``ProposalModel`` may offer besides: prompts of a box, points and a mask that is there already."""

    def decode_refined(
        self, embedding: Any, boxes: Tensor, points: Tensor, labels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Prompts with objects whose masks are known roughly, each on its own.

        Args:
            embedding: what ``encode`` returned.
            boxes: float32 ``[B, 4]`` xyxy in pixels of the model frame.
            points: float32 ``[B, P, 2]`` (x, y) in pixels of the model frame.
            labels: int64 ``[B, P]``: 1 for a point on the object, 0 for one that is not.
            masks: float32 ``[B, 256, 256]`` logits of the masks, in the mask frame.

        Returns:
            Mask logits float32 ``[B, 4, 256, 256]`` in the model frame, and predicted IoU float32 ``[B, 4]``: the
            single-mask output, then the three multi-mask outputs, in the model's order.
        """
        ...


@runtime_checkable
class AmongDecoder(Protocol):
    """What a ``ProposalModel`` may offer besides: the best mask of each prompt without making the others."""

    def decode_among(
        self, embedding: Any, points: Tensor, threshold: float, among: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts with single foreground points and keeps of each the multi-mask output of highest predicted IoU.

        Args:
            embedding: what ``encode`` returned.
            points: float32 ``[P, 2]`` (x, y) in pixels of the model frame.
            threshold: prompts whose best predicted IoU is at or below this give nothing.
            among: which of the multi-mask outputs 0, 1 and 2 to choose from.

        Returns:
            int64 ``[n]`` which prompts, in rising order; their logits float32 ``[n, 256, 256]`` and predicted IoU
            float32 ``[n]``, the same as ``decode_points`` gives.
        """
        ...


@runtime_checkable
class FeatureModel(Protocol):
    """An image encoder that gives one feature vector per patch.

    Attributes:
        name: Short name that ends up in provenance, e.g. ``"dinov2_large"``.
        weights_hash: sha256 of the weights file(s), hex.
        input_size: side of the square input in pixels.
        grid: ``(rows, columns)`` of the patch tokens.
        dim: number of channels of a token.
    """

    name: str
    weights_hash: str
    input_size: int
    grid: tuple[int, int]
    dim: int

    def encode(self, images: Tensor) -> Tensor:
        """Encodes a batch.

        Args:
            images: float32 ``[B, 3, input_size, input_size]`` RGB in 0..1 (bicubic resampling may
                overshoot slightly), not yet normalised.

        Returns:
            Patch tokens float32 ``[B, rows, columns, dim]``, row-major, not l2-normalised, on the CPU or
            the model's device.
        """
        ...


@runtime_checkable
class CropEncoder(Protocol):
    """What a ``FeatureModel`` may offer besides: encoding crops at a smaller input, for the second look.

    Attributes:
        crop_size: side of that input in pixels.
        dim: number of channels of a token, the same as of ``FeatureModel.encode``.
    """

    crop_size: int
    dim: int

    def encode_crops(self, images: Tensor) -> Tensor:
        """As ``FeatureModel.encode``, for float32 ``[B, 3, crop_size, crop_size]``; fewer rows and columns."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """What a ``FeatureModel`` may offer besides: names as vectors in the space of its patch tokens, for the text vote.

    Attributes:
        dim: number of channels, the same as of ``FeatureModel.encode``.
    """

    dim: int

    def encode_text(self, names: Sequence[str]) -> Tensor:
        """Embeds K class names: float32 ``[K, dim]``, not l2-normalised."""
        ...


# ---- Batches ----


@runtime_checkable
class BatchEncoder(Protocol):
    """What a ``ProposalModel`` may offer besides: several images through its encoder at once."""

    def encode_batch(self, pixels: Tensor, frames: Sequence[ImageFrame]) -> list[Any]:
        """Runs the image encoder.

        Args:
            pixels: float32 ``[B, 3, side, side]``, each as ``ProposalModel.encode`` takes it.
            frames: B frames, those the pixels were rendered with.

        Returns:
            B embeddings, each as ``ProposalModel.encode`` returns it.
        """
        ...


class BatchSize:
    """How many go through a model at once. Halves when memory runs out, and stays so for what follows."""

    def __init__(self, size: int) -> None:
        self.size = size

    def halve(self) -> bool:
        """Whether that was possible: a batch of one is the smallest."""
        if self.size <= 1:
            return False
        self.size //= 2
        return True


def in_batches(
    function: Callable[[Tensor, int], R],
    points: Tensor,
    size: BatchSize | int,
    *,
    pad: bool = False,
    what: str = "prompts",
) -> list[R]:
    """Calls a function batch by batch; on out-of-memory with half as many, down to one.

    Args:
        function: takes ``points[i:j]`` and how many of them count; what it returns must not hold what only padding
            gave.
        points: ``[P, ...]`` of any kind.
        size: the largest batch. A ``BatchSize`` remembers where it had to shrink.
        pad: repeat the last point until the last batch is full, so that all shapes are equal.
        what: what they are, for the log.

    Returns:
        What the calls returned, in order; nothing where there are no points.

    Raises:
        torch.OutOfMemoryError: if not even one point fits.
    """
    size = BatchSize(size) if isinstance(size, int) else size
    results: list[R] = []
    start = 0
    while start < len(points):
        batch = points[start : start + size.size]
        count = len(batch)
        if pad and count < size.size:
            batch = torch.cat([batch, batch[-1:].expand(size.size - count, *batch.shape[1:])])
        try:
            results.append(function(batch, count))
            start += count
            continue
        except torch.OutOfMemoryError:
            if not size.halve():
                raise
        # Not inside the except clause: until that ends, the error keeps the tensors of the failed batch alive.
        torch.cuda.empty_cache()
        logger.warning("out of memory with %d %s at once, going on with %d", len(batch), what, size.size)
    return results
