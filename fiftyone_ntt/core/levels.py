"""Which of the mask model's three masks of a point become candidates.

A point is ambiguous: it may mean a wheel, the car, or the row of cars. SAM answers with three masks, the smaller ones
first as a rule. Which of them is right is a property of what is looked for, not of the image; ``reference_levels``
asks the references.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Outputs: TypeAlias = Literal["best", "part", "whole", "1", "2", "3", "all"]
AMONG: dict[str, tuple[int, ...]] = {
    "best": (0, 1, 2),
    "part": (0, 1),
    "whole": (1, 2),
    "1": (0,),
    "2": (1,),
    "3": (2,),
    "all": (0, 1, 2),
}
"""Among which of the three masks the one of highest predicted IoU is taken; ``"all"`` takes each of them."""


def kept_of(logits: Tensor, predicted_iou: Tensor, threshold: float, outputs: str) -> tuple[Tensor, Tensor, Tensor]:
    """The masks that become candidates, of each prompt's three.

    Args:
        logits: ``[P, 3, 256, 256]``.
        predicted_iou: ``[P, 3]``.
        threshold: masks with a predicted IoU at or below it are not kept.
        outputs: a key of ``AMONG``.

    Returns:
        int64 ``[n]`` which prompts, rising, their logits ``[n, 256, 256]`` and predicted IoU ``[n]``.
    """
    if outputs == "all":
        prompt, output = (predicted_iou > threshold).nonzero(as_tuple=True)
        return prompt, logits[prompt, output], predicted_iou[prompt, output]
    among = torch.tensor(AMONG[outputs], device=predicted_iou.device)
    iou, best = predicted_iou[:, among].max(dim=1)
    kept = (iou > threshold).nonzero()[:, 0]
    return kept, logits[kept, among[best[kept]]], iou[kept]
