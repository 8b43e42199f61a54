"""Crisp borders: a mask that is there is shown to the mask model once more, close up. An option, past the paper.

The mask model is prompted on a crop around the object, at its full resolution, with what the mask says itself: its box,
the point deepest inside, the point deepest outside, and the mask, softer towards its border (SAMRefiner, ICLR 2025).
What comes back is prompted again, with points where it disagrees most with the mask before, near the border (after
PA-SAM). A guard compares the last answer with the mask that was there, and keeps the old one where the new one is worse
by its own evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.backends import MaskPromptDecoder, ProposalModel
from fiftyone_ntt.method.pooling import pool_mask
from fiftyone_ntt.method.proposals import Candidates
from fiftyone_ntt.pixels.depths import count_regions, depths, without_specks
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame, check_image
from fiftyone_ntt.pixels.packed_masks import PackedMask, masks_at_image_size

_SURE = 30.0
"""Logit of a mask prompt at its deepest point, and of what is outside it."""
_FALL = 4.0
"""How fast the prompt falls from there to the border, in units of the mask's size."""
_HARD_POINTS, _APART, _DISAGREES = 4, 8, 0.2
"""Points of each kind where two answers differ: how many at most, mask pixels between them, least difference."""
_BAND = 12
"""Mask pixels on each side of a border that are uncertain."""
_SAME = 0.8
"""Overlap of two masks of one object."""
_SPECK = 0.01
"""Pieces and holes smaller than this share of a new mask are no part of it."""
Flags = NDArray[np.bool_]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class RefineSettings:
    """How masks are refined, and what a new mask must fulfil.

    Attributes:
        rounds: how often the mask model is prompted.
        margin: sides of the crop, in sides of the object's box.
        smallest_side: an object whose box is smaller on both sides, in pixels, stays as it is.
        least_iou: overlap of the new mask with the old one.
        area: bounds of the new area in old areas.
        iou_loss: by how much the predicted IoU may fall.
        similarity_loss: by how much the cosine with what the object should look like may fall.
    """

    rounds: int = 3
    margin: float = 1.5
    smallest_side: int = 8
    least_iou: float = 0.8
    area: tuple[float, float] = (0.7, 1.4)
    iou_loss: float = 0.02
    similarity_loss: float = 0.01


@dataclass(frozen=True, eq=False)
class Refined:
    """What became of a mask.

    Attributes:
        mask: the refined mask, or the one that was there.
        predicted_iou: the mask model's estimate of the refined mask; ``None`` where the old one stays.
        kept: why the old mask stays: ``"small"``, ``"blank"`` (it has no pixel), ``"empty"`` (nothing came back),
            ``"overlap"``, ``"area"``, ``"pieces"``, ``"quality"`` or ``"similarity"``; ``None`` where it was refined.
    """

    mask: PackedMask
    predicted_iou: float | None
    kept: str | None = None


@dataclass(frozen=True, eq=False)
class Looks:
    """What an object should look like.

    Attributes:
        tokens: float32 ``[rows, columns, C]`` patch tokens of the image.
        prototype: float32 ``[C]`` of its class, as ``MemoryBank.prototypes`` has it: without the centre.
        center: float32 ``[C]`` to subtract from what is under a mask; ``None`` for nothing.
    """

    tokens: Tensor
    prototype: NDArray[np.float32]
    center: NDArray[np.float32] | None = None

    def similarity(self, mask: PackedMask, image_size: tuple[int, int]) -> float:
        """Cosine of what is under a mask with the prototype."""
        vector = pool_mask(mask.full(image_size), self.tokens)
        vector = vector if self.center is None else vector - self.center
        lengths = float(np.linalg.norm(vector) * np.linalg.norm(self.prototype))
        return float(vector @ self.prototype / max(lengths, 1e-12))


@torch.inference_mode()
def refine(
    model: ProposalModel,
    image: NDArray[np.uint8],
    mask: PackedMask,
    *,
    predicted_iou: float | None = None,
    looks: Looks | None = None,
    settings: RefineSettings | None = None,
) -> Refined:
    """Refines one mask, or says why it stays as it is.

    Args:
        model: is prompted, on a crop of its own for each mask.
        image: uint8 ``[H, W, 3]`` RGB.
        mask: at image size.
        predicted_iou: the mask model's estimate of it, where there is one.
        looks: what the object should look like, where that is known.
        settings: see ``RefineSettings``.

    Raises:
        InputError: if the model takes no masks as prompts.
    """
    if not isinstance(model, MaskPromptDecoder):
        raise InputError(
            f"expected a mask model that can be prompted with masks, got {model.name!r}; use another preset"
        )
    check_image(image)
    settings = settings or RefineSettings()
    x1, y1, x2, y2 = mask.extent
    if mask.area == 0 or max(x2 - x1, y2 - y1) < settings.smallest_side:
        return Refined(mask, None, "small" if mask.area else "blank")
    # ---- Close up: the object and some of what is around it, at the model's full resolution ----
    image_size = (image.shape[0], image.shape[1])
    left, top, right, bottom = crop_box(mask.extent, image_size, settings.margin)
    frame = model.frame((bottom - top, right - left))
    old = np.zeros(frame.image_size, bool)
    old[y1 - top : y2 - top, x1 - left : x2 - left] = mask.crop()
    embedding = model.encode(frame.render(np.ascontiguousarray(image[top:bottom, left:right])), frame)
    logits, quality = prompted(model, embedding, frame, old, settings.rounds)
    # ---- Back into the image ----
    seen = masks_at_image_size(Candidates(logits[None], quality[None], frame), [0])[0]
    new = PackedMask.from_crop(without_specks(seen.crop(), _SPECK), seen.extent[1] + top, seen.extent[0] + left)
    # ---- The guard ----
    kept, sure = objection(mask, new, settings), float(quality)
    # What is no number is below any: a new mask has to show that it is good enough.
    if kept is None and not sure >= (-math.inf if predicted_iou is None else predicted_iou - settings.iou_loss):
        kept = "quality"
    if kept is None and looks is not None:
        change = looks.similarity(new, image_size) - looks.similarity(mask, image_size)
        kept = None if change >= -settings.similarity_loss else "similarity"
    return Refined(mask, None, kept) if kept else Refined(new, sure)


def crop_box(extent: Box, image_size: tuple[int, int], margin: float) -> Box:
    """The part of an image that a mask is refined on: xyxy in whole image pixels, x2 and y2 exclusive.

    Args:
        extent: of the mask, the same.
        image_size: ``(height, width)``.
        margin: sides of the part in sides of the extent. The shorter side gets as much around it as the longer one:
            a model that squashes its input sees thin objects as they are.
    """
    x1, y1, x2, y2 = extent
    around = (margin - 1) / 2 * max(x2 - x1, y2 - y1)
    left, top = (max(int(edge - around), 0) for edge in (x1, y1))
    right, bottom = (
        min(int(np.ceil(edge + around)), side) for edge, side in zip((x2, y2), image_size[::-1], strict=True)
    )
    return left, top, right, bottom


def prompted(
    model: MaskPromptDecoder, embedding: object, frame: ImageFrame, mask: Flags, rounds: int
) -> tuple[Tensor, Tensor]:
    """The mask model's answer to a mask, after some rounds.

    Args:
        model: is prompted.
        embedding: of the part of the image that ``frame`` is of.
        frame: how pixels of that part map to the model frame.
        mask: bool ``[h, w]`` in that part, not empty.
        rounds: how often.

    Returns:
        Logits float32 ``[256, 256]`` and predicted IoU, a number.
    """
    coarse = in_mask_frame(mask, frame)  # [256, 256]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corners = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    boxes = torch.from_numpy(frame.boxes_to_model(corners))
    points, labels = first_points(mask)
    prompt = soft_prompt(coarse)
    logits, quality = torch.zeros(MASK_SIDE, MASK_SIDE), torch.tensor(0.0)
    for _ in range(rounds):
        given = torch.from_numpy(frame.to_model(points))[None]
        masks, ious = model.decode_refined(embedding, boxes, given, torch.from_numpy(labels)[None], prompt[None])
        masks, ious = masks[0].float().cpu(), ious[0].float().cpu()
        best = chosen(masks, ious, coarse)
        logits, quality = masks[best], ious[best]
        prompt = logits.clamp(-_SURE, _SURE)
        hard, kinds = hard_points(logits, coarse)
        first, first_labels = first_points(mask)
        points = np.concatenate([first, frame.to_image((hard + 0.5) * (frame.side / MASK_SIDE))])
        labels = np.concatenate([first_labels, kinds])
    return logits, quality


def chosen(masks: Tensor, ious: Tensor, coarse: Tensor) -> int:
    """Which of the mask model's outputs is meant.

    That of highest predicted IoU, among those that are the same object as the mask before; the most alike where none
    is. The most alike of all would be the one that repeats the mask's faults.

    Args:
        masks: float32 ``[M, 256, 256]`` logits.
        ious: float32 ``[M]`` predicted.
        coarse: bool ``[256, 256]``.
    """
    overlaps = _overlaps(masks, coarse)
    same = overlaps >= _SAME
    return int(torch.argmax(torch.where(same, ious, -torch.inf) if same.any() else overlaps))


def in_mask_frame(mask: Flags, frame: ImageFrame) -> Tensor:
    """A mask bool ``[h, w]`` at image size in the mask frame: bool ``[256, 256]``, False in the padding."""
    height, width = (max(1, round(side)) for side in frame.mask_content)
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    small = F.interpolate(values, (height, width), mode="bilinear", antialias=True)[0, 0]
    inside = torch.zeros(MASK_SIDE, MASK_SIDE, dtype=torch.bool)
    # Of something thinner than a pixel there, the pixels that hold most.
    inside[:height, :width] = small > min(0.5, 0.9 * float(small.max()))
    return inside


def first_points(mask: Flags) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The point deepest in a mask, and that deepest outside it within its box: ``[2, 2]`` (x, y), and their labels.

    A mask that fills its box has none outside.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    inside = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    points, labels = [], []
    for part, label in ((inside, 1), (~inside, 0)):
        if part.any():
            y, x = np.unravel_index(int(depths(part).argmax()), part.shape)
            points.append((left + int(x) + 0.5, top + int(y) + 0.5))
            labels.append(label)
    return np.array(points, np.float32), np.array(labels, np.int64)


def soft_prompt(mask: Tensor) -> Tensor:
    """A mask bool ``[256, 256]`` as logits: sure at its deepest point, less so towards its border."""
    flags = mask.numpy()
    deep = depths(flags)
    weights = np.exp(-((deep - deep.max()) ** 2) * _FALL / max(int(flags.sum()), 1))
    return torch.from_numpy(np.where(flags, _SURE * weights, -_SURE).astype(np.float32))


def hard_points(logits: Tensor, coarse: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Where an answer differs most from the mask before, near the border.

    Args:
        logits: float32 ``[256, 256]`` of the answer.
        coarse: bool ``[256, 256]``, the mask before.

    Returns:
        float32 ``[P, 2]`` (x, y) of pixels of the mask frame, and int64 ``[P]``: 1 where the answer is the object and
        the mask is not, 0 the other way.
    """
    flags = coarse.numpy()
    band = (depths(flags) <= _BAND) & (depths(~flags) <= _BAND)
    change = (logits.sigmoid().numpy() - flags.astype(np.float32)) * band
    points: list[tuple[int, int]] = []
    labels: list[int] = []
    for sign, label in ((1.0, 1), (-1.0, 0)):
        left = sign * change
        for _ in range(_HARD_POINTS):
            y, x = (int(place) for place in np.unravel_index(int(left.argmax()), left.shape))
            if left[y, x] <= _DISAGREES:
                break
            points.append((x, y))
            labels.append(label)
            left[max(y - _APART, 0) : y + _APART + 1, max(x - _APART, 0) : x + _APART + 1] = 0
    return np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int64)


def objection(old: PackedMask, new: PackedMask, settings: RefineSettings) -> str | None:
    """What the shapes of two masks say against the new one; ``None`` for nothing."""
    if new.area == 0:
        return "empty"
    least, most = settings.area
    if not least <= new.area / old.area <= most:
        return "area"
    if old.iou(new) < settings.least_iou:
        return "overlap"
    return "pieces" if count_regions(new.crop()) > count_regions(old.crop()) else None


def _overlaps(logits: Tensor, mask: Tensor) -> Tensor:
    """float32 ``[M]``, IoU of each of the masks ``[M, 256, 256]`` with one bool ``[256, 256]``."""
    inside = logits > 0
    shared, whole = (inside & mask).sum(dim=(1, 2)), (inside | mask).sum(dim=(1, 2))
    return shared / whole.clamp(min=1)
