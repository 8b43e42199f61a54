"""Stage one, first half: prompt a grid of points and keep the best mask of each (docs/method.md 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.backends import AmongDecoder, BatchSize, ProposalModel, in_batches
from fiftyone_ntt.method.config import ProposalConfig
from fiftyone_ntt.pixels.bit_masks import Bits, changes, counts, extents, packed_and_areas, places, run_lengths
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame
from fiftyone_ntt.pixels.mask_codes import Runs, runs_of_lengths
from fiftyone_ntt.pixels.outlines import Crop

_CHUNK = 16
"""Masks looked at at once: 1 MB of flags, which stay in a core's cache."""


class CandidateSet(Protocol):
    """N class-agnostic mask proposals of one image, whatever form they are kept in.

    Attributes:
        frame: how image pixels map to the model frame.
        predicted_iou: ``[N]``, the mask model's own estimate of each mask's quality.
        stability: float32 ``[N]``, area above logit 1 over area above logit -1 (1 where that is empty).
        boxes: float32 ``[N, 4]`` xyxy in the mask frame, x2 and y2 the last column and row; zeros for an empty mask.
        mask_runs: the masks as runs of pixels of the mask frame.
    """

    @property
    def frame(self) -> ImageFrame: ...
    @property
    def predicted_iou(self) -> Any: ...
    @property
    def stability(self) -> NDArray[np.float32]: ...
    @property
    def boxes(self) -> NDArray[np.float32]: ...
    @property
    def mask_runs(self) -> Runs: ...

    def __len__(self) -> int: ...

    def crops(self, index: Sequence[int]) -> Iterator[Crop]:
        """The masks at ``index``, in that order; see ``MaskSource``."""
        ...


@dataclass(frozen=True, eq=False)
class Candidates:
    """Class-agnostic mask proposals of one image.

    Attributes:
        mask_logits: float ``[N, 256, 256]`` in the mask frame; a pixel belongs to the mask where the logit is > 0.
        predicted_iou: float ``[N]``, the mask model's own estimate of each mask's quality.
        frame: how image pixels map to the model frame.
    """

    mask_logits: Tensor
    predicted_iou: Tensor
    frame: ImageFrame

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask_logits", torch.as_tensor(self.mask_logits))
        object.__setattr__(self, "predicted_iou", torch.as_tensor(self.predicted_iou))
        shape, count = tuple(self.mask_logits.shape), tuple(self.predicted_iou.shape)
        if shape[1:] != (MASK_SIDE, MASK_SIDE) or count != shape[:1]:
            raise InputError(
                f"expected mask_logits [N, {MASK_SIDE}, {MASK_SIDE}] and predicted_iou [N], "
                f"got {list(shape)} and {list(count)}"
            )

    def __len__(self) -> int:
        return int(self.mask_logits.shape[0])

    def select(self, index: Tensor) -> Candidates:
        """The candidates at ``index`` (bool ``[N]`` or int64 ``[n]``), in that order."""
        return Candidates(self.mask_logits[index], self.predicted_iou[index], self.frame)

    @cached_property
    def bits(self) -> Bits:
        """The masks as packed bits uint64 ``[N, 256, 4]``, see ``pixels.bit_masks``."""
        parts = [packed_and_areas(chunk.float().cpu().numpy(), ())[0] for chunk in self._chunks()]
        return np.concatenate(parts)

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """float32 ``[N, 4]`` xyxy in the mask frame, x2 and y2 the last column and row; zeros for an empty mask."""
        return extents(self.bits)

    @cached_property
    def stability(self) -> NDArray[np.float32]:
        """float32 ``[N]``, area above logit 1 over area above logit -1 (1 where that is empty)."""
        return np.concatenate([stability_of(chunk.float()).cpu() for chunk in self._chunks()])

    def _chunks(self) -> Sequence[Tensor]:
        return torch.split(self.mask_logits, _CHUNK)

    @cached_property
    def mask_runs(self) -> Runs:
        """The masks as runs of pixels of the mask frame."""
        changed = changes(self.bits)
        lengths = run_lengths(places(changed), MASK_SIDE * MASK_SIDE)
        return runs_of_lengths(lengths, np.cumsum(counts(changed)), MASK_SIDE)

    def crops(self, index: Sequence[int]) -> Iterator[Crop]:
        """The masks at ``index``: here each is the whole mask frame; see ``MaskSource``."""
        for i in index:
            yield 0, 0, np.asarray(self.mask_logits[int(i)].float().cpu().numpy(), np.float32)


SURE_POSSIBLE = (1.0, -1.0)
"""Levels of logits above which a pixel is surely, and possibly, inside."""


def stability_of(logits: Tensor) -> Tensor:
    """Area above 1 over area above -1 of masks ``[n, 256, 256]``: float32 ``[n]`` on the same device."""
    if logits.device.type == "cpu":
        return torch.from_numpy(stability_of_areas(packed_and_areas(logits.numpy(), SURE_POSSIBLE)[1]))
    # As products with ones: much faster than sums of flags.
    ones = logits.new_ones(MASK_SIDE * MASK_SIDE)
    sure, possible = ((logits > level).flatten(1).float() @ ones for level in SURE_POSSIBLE)
    return torch.where(possible > 0, sure / possible, torch.ones_like(sure))


def stability_of_areas(areas: NDArray[Any]) -> NDArray[np.float32]:
    """float32 ``[n]`` of the areas ``[2, n]`` above either level; 1 where the second is empty."""
    sure, possible = areas.astype(np.float32)
    return np.asarray(np.divide(sure, possible, out=np.ones_like(sure), where=possible > 0), np.float32)


def grid_points(frame: ImageFrame, config: ProposalConfig) -> Tensor:
    """Prompt points float32 ``[n * n, 2]`` (x, y) in the model frame; x is the slow index, as published."""
    n = config.points_per_side
    height, width = frame.content
    return torch.cartesian_prod(_grid_axis(width, n, config.grid), _grid_axis(height, n, config.grid)).reshape(-1, 2)


def _grid_axis(extent: float, n: int, grid: str) -> Tensor:
    if grid == "edge":
        return torch.linspace(0, extent - 1, n) + 0.5
    return (torch.arange(n) + 0.5) * (extent / n)


def propose(
    model: ProposalModel,
    embedding: Any,
    frame: ImageFrame,
    config: ProposalConfig,
    *,
    points: Tensor | None = None,
    among: tuple[int, ...] = (0, 1, 2),
    size: BatchSize | None = None,
    pad: bool = False,
) -> Candidates:
    """Decodes points and keeps of each one's three masks that of the highest predicted IoU.

    Args:
        model: the mask model.
        embedding: what ``model.encode`` returned for the image.
        frame: the image's frame.
        config: grid, batch size and predicted-IoU threshold.
        points: float32 ``[P, 2]`` in the model frame, at least one; the whole grid where ``None``.
        among: which of a point's three masks there are to choose from; all, as published, see ``options.granularity``.
        size: how many points go through the decoder at once, where that outlives an image; else as in ``config``.
        pad: fill up the last batch, for a model that is compiled for one shape.

    Returns:
        The kept candidates in the order of the points. There may be none.
    """
    threshold = config.predicted_iou_threshold

    def decode(batch: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if isinstance(model, AmongDecoder):
            kept, logits, iou = model.decode_among(embedding, batch, threshold, among)
        else:
            kept, logits, iou = kept_of(*model.decode_points(embedding, batch), threshold, among)
        if count < len(batch):  # the last batch was filled up with copies of its last point
            logits, iou = logits[kept < count], iou[kept < count]
        return logits, iou

    points = grid_points(frame, config) if points is None else points
    parts = in_batches(decode, points, size or config.points_per_batch, pad=pad)
    return Candidates(torch.cat([logits for logits, _ in parts]), torch.cat([ious for _, ious in parts]), frame)


def kept_of(
    logits: Tensor, predicted_iou: Tensor, threshold: float, among: tuple[int, ...] = (0, 1, 2)
) -> tuple[Tensor, Tensor, Tensor]:
    """The mask of highest predicted IoU among some of each prompt's three, where that is above a threshold.

    Args:
        logits: ``[P, 3, 256, 256]``.
        predicted_iou: ``[P, 3]``.
        threshold: masks with a predicted IoU at or below it are not kept.
        among: which of the three.

    Returns:
        int64 ``[n]`` which prompts, rising, their logits ``[n, 256, 256]`` and predicted IoU ``[n]``.
    """
    outputs = torch.tensor(among, device=predicted_iou.device)
    iou, best = predicted_iou[:, outputs].max(dim=1)  # [P] each
    kept = (iou > threshold).nonzero()[:, 0]
    return kept, logits[kept, outputs[best[kept]]], iou[kept]
