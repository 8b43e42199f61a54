"""Second look (crop re-encoding): candidates are cropped and encoded alone, where they fill the feature model's input.

In a view of the whole image a small object is a few tokens that have seen their surroundings. An option: it costs an
encoder pass, at a smaller input, for every group of candidates that are nearly the same mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.method.backends import BatchSize, CropEncoder, in_batches
from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.proposals import Candidates
from fiftyone_ntt.method.references import ReferenceItem, crop_bounds, crop_with_context, patch_weights, weighted_mean
from fiftyone_ntt.method.results import SimilarityStep, StageOneResult
from fiftyone_ntt.method.scoring import normalise, similarity
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame, to_tensor
from fiftyone_ntt.pixels.packed_masks import intersection_over_union

WEIGHT = 0.3
"""``MatchConfig.second_look`` where a second look is asked for; chosen in ``docs/experiments/second-look.md``."""
CONTEXT = 0.2
"""A crop's side is the longer side of the mask's box times one plus this."""
ALIKE = 0.7
"""Candidates whose masks overlap by more than this IoU are looked at together."""
MOST_GROUPS = 80
CROPS_PER_BATCH = 16
_GROUPING_SIDE = 128


@dataclass(frozen=True, eq=False)
class Looks:
    """What the second look at an image saw.

    Attributes:
        vectors: float32 ``[G, C]``, one a group, not normalised.
        group: int64 ``[N]``, the group of each candidate; -1 for those that were not looked at.
    """

    vectors: Tensor
    group: Tensor


def facts() -> dict[str, object]:
    """What decides ``look_at`` besides the models, as JSON can hold it."""
    return {"context": CONTEXT, "alike": ALIKE, "most_groups": MOST_GROUPS}


def group_masks(candidates: Candidates, most: int = MOST_GROUPS) -> tuple[Tensor, Tensor]:
    """Groups of candidates whose masks are nearly the same: the best one and all that overlap it enough.

    Args:
        candidates: N masks.
        most: groups at most; those of highest predicted IoU x stability are made first.

    Returns:
        int64 ``[G]``, the best candidate of each group, and int64 ``[N]``, each candidate's group (-1: none).
    """
    logits = candidates.mask_logits
    device, count = logits.device, len(candidates)
    step = MASK_SIDE // _GROUPING_SIDE
    flat = torch.cat([F.avg_pool2d((part > 0).float()[:, None], step).flatten(1) for part in torch.split(logits, 64)] or
                     [logits.new_zeros(0, _GROUPING_SIDE**2)])  # fmt: skip
    area = flat.square().sum(dim=1)
    quality = candidates.predicted_iou.float().to(device) * torch.from_numpy(candidates.stability).to(device)
    group = torch.full((count,), -1, dtype=torch.int64, device=device)
    best: list[int] = []
    # Best first: whoever has no group yet founds one and takes in all that are alike and still free.
    for i in torch.argsort(quality, descending=True, stable=True).tolist():
        if len(best) == most:
            break
        if group[i] >= 0 or area[i] == 0:
            continue
        shared = flat @ flat[i]
        alike = intersection_over_union(shared, area, area[i]) > ALIKE  # [N]
        group[alike & (group < 0)] = len(best)
        best.append(i)
    return torch.tensor(best, dtype=torch.int64), group.cpu()


def look_at(
    model: CropEncoder, image: NDArray[np.uint8], candidates: Candidates, size: BatchSize | None = None
) -> Looks:
    """Encodes the crop of each group of candidates and averages its tokens under the mask of the group's best.

    Args:
        model: a feature model that can encode crops.
        image: uint8 ``[H, W, 3]`` RGB, at its own size: small objects are seen with all the pixels they have.
        candidates: N masks.
        size: how many crops are encoded at once, where that outlives an image.
    """
    best, group = group_masks(candidates)
    size = size or BatchSize(CROPS_PER_BATCH)

    def encode(index: Tensor, count: int) -> Tensor:
        crops = [_crop(image, candidates, int(i), model.crop_size) for i in index]
        tokens = model.encode_crops(torch.stack([pixels for pixels, _ in crops])).float().cpu()  # [B, rows, columns, C]
        pooled = [_pooled(grid, mask) for grid, (_, mask) in zip(tokens, crops, strict=True)]
        return torch.stack(pooled)[:count]  # [B, C]

    vectors = in_batches(encode, best, size, pad=False, what="crops") if len(best) else []
    return Looks(torch.cat(vectors) if vectors else torch.zeros(0, model.dim), group)


def _crop(image: NDArray[np.uint8], candidates: Candidates, i: int, side: int) -> tuple[Tensor, Tensor]:
    """A candidate's square, float32 ``[3, side, side]``, and its soft mask, float32 ``[side, side]``."""
    frame = candidates.frame
    x1, y1, x2, y2 = candidates.boxes[i] * (frame.side / MASK_SIDE)
    step = frame.side / MASK_SIDE
    (left, top), (right, bottom) = frame.to_image(np.array([[x1, y1], [x2 + step, y2 + step]]))
    height, width = frame.image_size
    box = (float(left), float(top), min(float(right), width), min(float(bottom), height))
    bounds = crop_bounds(box, frame.image_size, CONTEXT)
    pixels = to_tensor(image[bounds[1] : bounds[3], bounds[0] : bounds[2]])[None]
    shrinks = max(pixels.shape[-2:]) > side
    resized = F.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False, antialias=shrinks)[0]
    return resized, _mask_in(candidates.mask_logits[i], frame, bounds, side)


def _mask_in(logits: Tensor, frame: ImageFrame, bounds: tuple[int, int, int, int], side: int) -> Tensor:
    """The mask within a crop: float32 ``[side, side]`` in 0..1."""
    corners = frame.to_model(np.array([bounds[:2], bounds[2:]], np.float64)) / frame.side
    (x1, y1), (x2, y2) = 2 * corners - 1
    share = (torch.arange(side) + 0.5) / side
    x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None].float()
    inside = (logits > 0).float().cpu()[None, None]
    return F.grid_sample(inside, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0]


def _pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """float32 ``[C]``: the mean of tokens ``[rows, columns, C]`` under a mask; of all where the mask vanishes."""
    weights = patch_weights(mask, (tokens.shape[0], tokens.shape[1]), "area", mask.shape[0])
    return weighted_mean(tokens, weights if weights.any() else torch.ones_like(weights))


class ReferenceCrops:
    """Collects the second set of vectors of a memory bank, one reference after the other. A ``ReferenceObserver``.

    Args:
        model: the feature model; nothing is collected if it cannot encode crops.
        centre: whether the mean token of the crops is to be subtracted.
    """

    def __init__(self, model: object, centre: bool) -> None:
        self._model, self._centre = model if isinstance(model, CropEncoder) else None, centre
        self._vectors: list[Tensor] = []
        self._means: list[Tensor] = []
        self._labels: list[str] = []

    @torch.inference_mode()
    def add(self, item: ReferenceItem) -> None:
        """Encodes a reference's crop, as candidates' are."""
        if self._model is None:
            return
        pixels, mask = crop_with_context(item, CONTEXT, self._model.crop_size)
        tokens = self._model.encode_crops(pixels[None])[0].float().cpu()
        self._vectors.append(_pooled(tokens, mask))
        self._means.append(tokens.mean(dim=(0, 1)))
        self._labels.append(item.label)

    def for_bank(self) -> dict[str, Any]:
        """See ``ReferenceObserver``."""
        if not self._vectors:
            return {}
        center = torch.stack(self._means).mean(dim=0).numpy() if self._centre else None
        return {"crops": VectorSet(torch.stack(self._vectors).numpy(), tuple(self._labels)), "crop_center": center}


def similarity_step(bank: MemoryBank, weight: float) -> SimilarityStep:
    """Similarities with those of crops blended in, for ``Matcher``; see ``blended``. The bank has crops."""
    prototypes = torch.from_numpy(bank.crop_prototypes)  # [K, C]

    def step(similarities: Tensor, features: Tensor, image: StageOneResult) -> Tensor:
        if image.look_arrays is None:
            return similarities
        vectors, group = image.look_arrays  # [G, C], [N]
        return blended(similarities, (bank.project_crops(vectors), group), prototypes, weight)

    return step


def blended(
    similarities: Tensor, looks: tuple[NDArray[np.floating], NDArray[np.integer]], prototypes: Tensor, weight: float
) -> Tensor:
    """Similarities of candidates to classes with those of their crops mixed in: ``(1 - w) s + w s_crop``.

    Args:
        similarities: float32 ``[N, K]``.
        looks: crop vectors float ``[G, C]`` in the space of ``prototypes``, and each candidate's group int ``[N]``;
            -1 keeps its similarities.
        prototypes: float32 ``[K, C]`` of the references' crops, l2-normalised; NaN for a class without.
        weight: how much crops count.

    Raises:
        InputError: if the shapes do not fit each other.
    """
    vectors, group = torch.as_tensor(np.asarray(looks[0], np.float32)), torch.as_tensor(np.asarray(looks[1], np.int64))
    if not len(vectors):
        return similarities
    if group.shape != similarities.shape[:1] or vectors.shape[1] != prototypes.shape[1]:
        raise InputError(
            f"expected a group for each of {counted(len(similarities), 'candidate')} and crop vectors of "
            f"{prototypes.shape[1]} channels, got {list(group.shape)} and {list(vectors.shape)}"
        )
    seen = similarity(normalise(vectors), prototypes)[group.clamp(min=0)]
    counts = (group >= 0)[:, None] & seen.isfinite()
    return torch.where(counts, (1 - weight) * similarities + weight * seen, similarities)
