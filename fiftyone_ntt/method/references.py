"""From a reference image and mask to one feature vector (ntt-algorithm 2.4 to 2.6)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import BadReferenceError, InputError
from fiftyone_ntt.method.backends import FeatureModel
from fiftyone_ntt.pixels.frames import feature_input, to_tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceSettings:
    """How references are shown to the feature model. A property of the model, so each preset sets its own.

    Attributes:
        context: ``"crop"`` cuts a square around the object and squashes it to the model's input, as published;
            ``"image"`` shows the whole image, as targets are shown: better for a model that is not scale-invariant.
        context_ratio: the side of the crop is the longer side of the box times one plus this.
        weights: a patch's weight is the soft mask at its top-left ``"corner"``, as published, or the ``"area"``
            of the patch that the mask covers.
        centre: subtract the mean token of the reference images from every vector before comparing.
    """

    context: Literal["crop", "image"] = "crop"
    context_ratio: float = 0.2
    weights: Literal["corner", "area"] = "corner"
    centre: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("context", self.context, ("crop", "image")),
            ("weights", self.weights, ("corner", "area")),
        ):
            if value not in known:
                raise InputError(f"expected {name} to be one of {known}, got {value!r}")
        if not self.context_ratio >= 0:
            raise InputError(f"expected context_ratio of at least 0, got {self.context_ratio}")


@dataclass(frozen=True, eq=False)
class ReferenceItem:
    """One reference instance. Items that share an image should follow each other and share the array.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        mask: bool ``[H, W]``.
        label: class name.
        reference_id: where it came from; shown in messages and kept in the bank.
        box: xyxy in image pixels as annotated; the mask's own extent where ``None``.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    label: str
    reference_id: str
    box: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != self.image.shape[:2]:
            raise BadReferenceError(
                f"reference {self.reference_id}: expected a mask of the image's size "
                f"{self.image.shape[:2]}, got {self.mask.shape}"
            )
        if not self.mask.any():
            raise BadReferenceError(
                f"reference {self.reference_id} ({self.label}): the mask is empty; draw it again or "
                "remove the label from the references"
            )


@dataclass(frozen=True, eq=False)
class EncodedReferences:
    """Attributes:
    vectors: float32 ``[M, C]``, one a reference instance, not normalised.
    mean_token: float32 ``[C]``, mean token of the encoded reference images.
    """

    vectors: Tensor
    mean_token: Tensor


def encode_references(
    model: FeatureModel, items: Iterable[ReferenceItem], settings: ReferenceSettings, target_via: int | None = 1024
) -> EncodedReferences:
    """Encodes each reference and averages its tokens under the mask.

    Args:
        model: the feature model.
        items: reference instances; consumed one at a time.
        settings: crop or whole image, weights.
        target_via: see ``frames.feature_input``; used for whole images.

    Raises:
        InputError: if there are no items.
    """
    vectors, means = [], []
    seen: tuple[NDArray[np.uint8] | None, Tensor] = (None, torch.empty(0))
    for item in items:
        if settings.context == "crop":
            pixels, mask = crop_with_context(item, settings.context_ratio, model.input_size)
            tokens = model.encode(pixels[None])[0].float().cpu()
            means.append(tokens.mean(dim=(0, 1)))
        else:
            mask = torch.from_numpy(item.mask).float()
            if seen[0] is not item.image:
                pixels = feature_input(item.image, model.input_size, target_via)
                seen = (item.image, model.encode(pixels[None])[0].float().cpu())
                means.append(seen[1].mean(dim=(0, 1)))
            tokens = seen[1]
        weights = patch_weights(mask, model.grid, settings.weights, model.input_size)
        if not weights.any():
            weights = _fallback_weights(mask, model.grid, item)
        vectors.append(weighted_mean(tokens, weights))
    if not vectors:
        raise InputError("expected at least one reference, got none; tag samples as references first")
    return EncodedReferences(torch.stack(vectors), torch.stack(means).mean(dim=0))


def crop_bounds(
    box: tuple[float, float, float, float], image_size: tuple[int, int], context_ratio: float
) -> tuple[int, int, int, int]:
    """The square around a box, grown by the context ratio and clipped to the image (ntt-algorithm 2.4).

    Args:
        box: xyxy in image pixels.
        image_size: ``(height, width)``.
        context_ratio: side = longer side of the box times one plus this.

    Returns:
        ``(x1, y1, x2, y2)``, x2 and y2 exclusive, at least one pixel each way.
    """
    x1, y1, x2, y2 = (int(value) for value in box)
    half = max(x2 - x1, y2 - y1) * (1 + context_ratio) / 2
    height, width = image_size
    left, right = _clip_span((x1 + x2) / 2, half, width)
    top, bottom = _clip_span((y1 + y2) / 2, half, height)
    return left, top, right, bottom


def _clip_span(centre: float, half: float, size: int) -> tuple[int, int]:
    low = min(max(0, int(centre - half)), size - 1)
    return low, max(low + 1, min(size, int(centre + half)))


def crop_with_context(item: ReferenceItem, context_ratio: float, side: int) -> tuple[Tensor, Tensor]:
    """Crops the reference and squashes image and mask to the feature model's input.

    Returns:
        float32 ``[3, side, side]`` (bicubic, may overshoot 0..1) and the soft mask float32 ``[side, side]`` (bilinear).
    """
    box = item.box or mask_extent(item.mask)
    x1, y1, x2, y2 = crop_bounds(box, item.mask.shape, context_ratio)
    pixels = to_tensor(item.image[y1:y2, x1:x2])[None]
    mask = torch.from_numpy(item.mask[y1:y2, x1:x2].astype(np.float32))[None, None]
    size = (side, side)
    return (
        F.interpolate(pixels, size=size, mode="bicubic", align_corners=False)[0],
        F.interpolate(mask, size=size, mode="bilinear", align_corners=False)[0, 0],
    )


def mask_extent(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """xyxy of the mask's pixels, x2 and y2 exclusive; the mask must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def patch_weights(mask: Tensor, grid: tuple[int, int], mode: str, side: int) -> Tensor:
    """A weight in 0..1 for each patch.

    Args:
        mask: float32 ``[h, w]``, soft or binary.
        grid: ``(rows, columns)`` of patches.
        mode: ``"corner"`` samples the mask, at the model's input size, at the top-left pixel of each patch (2.5);
            ``"area"`` takes the mean over each patch.
        side: side of the feature model's input in pixels.

    Returns:
        float32 ``[rows, columns]``.
    """
    mask = mask[None, None]
    if mode == "area":
        return F.adaptive_avg_pool2d(mask, grid)[0, 0]
    if mask.shape[-2:] != (side, side):
        mask = F.interpolate(mask, size=(side, side), mode="bilinear", align_corners=False)
    return F.interpolate(mask, size=grid, mode="nearest")[0, 0]


def _fallback_weights(mask: Tensor, grid: tuple[int, int], item: ReferenceItem) -> Tensor:
    """For a mask that misses every sampled pixel: its area, and if even that vanishes its box (section 4)."""
    logger.warning(
        "reference %s (%s) is too thin or small for the patch grid; using the area it covers instead",
        item.reference_id,
        item.label,
    )
    weights = patch_weights(mask, grid, "area", 0)
    if weights.any():
        return weights
    # The crop's interpolation can lose a mask altogether; the object is in the middle of the crop by construction.
    weights = torch.zeros(grid)
    weights[grid[0] // 4 : -(grid[0] // 4) or None, grid[1] // 4 : -(grid[1] // 4) or None] = 1
    return weights


def weighted_mean(tokens: Tensor, weights: Tensor) -> Tensor:
    """``sum_t w_t F_t / sum_t w_t`` (ntt-algorithm 2.6): float32 ``[C]`` from ``[rows, columns, C]``."""
    return torch.einsum("hw,hwc->c", weights, tokens) / weights.sum()
