"""Granularity: the references decide which of the mask model's three masks of a point becomes a candidate. An option.

A point is ambiguous: it may mean a wheel, the car, or the row of cars. SAM answers with three masks, the smaller ones
first as a rule. Which of them is right is a property of what is looked for, not of the image. So the same points that
targets are prompted with are prompted in the reference images; the masks of those that lie within a reference tell how
near each choice comes to what the person drew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.method.backends import ProposalModel
from fiftyone_ntt.method.config import Granularity, ProposalConfig
from fiftyone_ntt.method.proposals import grid_points
from fiftyone_ntt.method.references import ReferenceItem
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame
from fiftyone_ntt.pixels.packed_masks import intersection_over_union

AMONG: dict[Granularity, tuple[int, ...]] = {"best": (0, 1, 2), "part": (0, 1), "whole": (1, 2)}
"""Among which of a point's three masks the one of highest predicted IoU is taken. The first choice wins ties."""
LEAD = 0.03
"""By how much the mean IoU with the references must rise before another choice than the published one is taken."""
_POINTS = 32
"""Points prompted within a reference at most."""


class ReferenceGranularity:
    """Asks one reference after the other which masks fit it. A ``ReferenceObserver``.

    Args:
        model: the mask model.
        proposals: whose grid is prompted.
    """

    def __init__(self, model: ProposalModel, proposals: ProposalConfig) -> None:
        self._model, self._proposals = model, proposals
        self._image: NDArray[np.uint8] | None = None
        self._embedding: tuple[Any, ImageFrame] | None = None
        self.fits: list[Fit] = []

    @torch.inference_mode()
    def add(self, item: ReferenceItem) -> None:
        """Prompts the grid's points within a reference. Items of one image should follow each other."""
        if self._embedding is None or self._image is not item.image:
            frame = self._model.frame((item.image.shape[0], item.image.shape[1]))
            self._image, self._embedding = item.image, (self._model.encode(frame.render(item.image), frame), frame)
        embedding, frame = self._embedding
        points = points_within(grid_points(frame, self._proposals), item.mask, frame)
        logits, ious = self._model.decode_points(embedding, points)
        self.fits.append(fit_of(item.label, logits, ious, mask_in_frame(item.mask, frame)))

    def for_bank(self) -> dict[str, Any]:
        """See ``ReferenceObserver``: what they chose."""
        if not self.fits:
            return {}
        choice, means = chosen_by(self.fits)
        answer = {"choice": choice, "iou": {name: round(mean, 4) for name, mean in means.items()}}
        return {"preprocessing": {"granularity": answer}}


@dataclass(frozen=True)
class Fit:
    """How well the masks of some points within one reference fit its own mask.

    Attributes:
        label: the reference's class.
        by_choice: mean IoU of what each key of ``AMONG`` keeps.
    """

    label: str
    by_choice: dict[str, float]


def points_within(points: Tensor, mask: NDArray[np.bool_], frame: ImageFrame) -> Tensor:
    """Those of the points ``[P, 2]`` of the model frame that lie in a mask of the image, evenly thinned to 32.

    The mask's pixel nearest to its middle stands in where none does.
    """
    share = mask_in_frame(mask, frame)
    small = share > min(0.5, share.max() / 2)
    scale = MASK_SIDE / frame.side
    columns, rows = ((points * scale).long().clamp(0, MASK_SIDE - 1)).T
    inside = points[torch.from_numpy(small)[rows, columns]]
    if not len(inside):
        pixels = torch.from_numpy(np.argwhere(small)).float()
        middle = pixels[(pixels - pixels.mean(dim=0)).square().sum(dim=1).argmin()]
        return (middle.flip(0)[None] + 0.5) / scale
    keep = torch.linspace(0, len(inside) - 1, min(len(inside), _POINTS)).round().long()
    return inside[keep]


def mask_in_frame(mask: NDArray[np.bool_], frame: ImageFrame) -> NDArray[np.float32]:
    """A mask of the image as shares of the mask frame's pixels: float32 ``[256, 256]``, 0 outside the image."""
    height, width = (max(1, round(extent)) for extent in frame.mask_content)
    content = F.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None, None], (height, width))[0, 0]
    whole = np.zeros((MASK_SIDE, MASK_SIDE), np.float32)
    whole[:height, :width] = content.numpy()
    return whole


def fit_of(label: str, logits: Tensor, predicted_iou: Tensor, mask: NDArray[np.float32]) -> Fit:
    """Compares the three masks of some points with the reference that the points lie in.

    Args:
        label: the reference's class.
        logits: ``[P, 3, 256, 256]``.
        predicted_iou: ``[P, 3]``.
        mask: the reference in the mask frame, see ``mask_in_frame``.
    """
    true = torch.from_numpy(mask > 0.5).to(logits.device)
    inside = logits > 0  # [P, 3, 256, 256]
    shared, area = (inside & true).sum(dim=(2, 3)), inside.sum(dim=(2, 3))  # [P, 3]
    ious = intersection_over_union(shared.float(), area.float(), true.sum().float()).nan_to_num()
    by_choice: dict[str, float] = {}
    for choice, outputs in AMONG.items():
        among = torch.tensor(outputs, device=ious.device)
        best = predicted_iou[:, among].argmax(dim=1)
        by_choice[choice] = float(ious.gather(1, among[best][:, None]).mean())
    return Fit(label, by_choice)


def chosen_by(fits: Iterable[Fit]) -> tuple[Granularity, dict[str, float]]:
    """What the references choose: of ``AMONG`` the one whose masks fit them best, each class having one voice.

    Returns:
        The choice, ``"best"`` unless another leads by more than ``LEAD``, and the mean IoU of each.
    """
    by_class: dict[str, list[Fit]] = {}
    for fit in fits:
        by_class.setdefault(fit.label, []).append(fit)
    means: dict[str, float] = {
        choice: float(np.mean([np.mean([fit.by_choice[choice] for fit in own]) for own in by_class.values()]))
        for choice in AMONG
    }
    leader = max(AMONG, key=lambda choice: means[choice])
    return (leader if means[leader] > means["best"] + LEAD else "best"), means
