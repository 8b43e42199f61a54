"""Guided points: prompt only where an object is likely. An option; the published method prompts the whole grid.

Decoding takes most of the time of stage one, and every point costs the same. The patch tokens tell beforehand where
the classes of a memory bank may be; without a bank they tell at least what looks like the image's background.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.scoring import normalise
from fiftyone_ntt.pixels.frames import ImageFrame


def guided_index(
    points: Tensor, tokens: Tensor, frame: ImageFrame, fraction: float, bank: MemoryBank | None = None
) -> Tensor:
    """Which points to keep: the share with the highest ``token_scores``.

    Args:
        points: float32 ``[P, 2]`` (x, y) in the model frame.
        tokens: float ``[rows, columns, C]``; the token grid covers exactly the image.
        frame: the image's frame.
        fraction: how much of the points to keep, in 0..1; at least one point stays.
        bank: whose classes are looked for; ``None`` avoids the background instead.

    Returns:
        int64 ``[ceil(fraction * P)]``, ascending, on the points' device. Of equal scores the first points stay.

    Raises:
        InputError: if tokens and bank have not the same channels.
    """
    count = max(1, math.ceil(round(fraction * len(points), 6)))
    scores = at_points(token_scores(tokens, bank), points, frame)
    best = torch.argsort(scores, descending=True, stable=True)[:count]
    return best.sort().values.to(points.device)


def token_scores(tokens: Tensor, bank: MemoryBank | None = None) -> Tensor:
    """How worthwhile a prompt at each token is.

    With a bank it is the cosine similarity to the most similar prototype, as of candidates. Without, it is how little
    the token resembles the border of the image: one minus the cosine to the median, channel by channel, of the
    outermost tokens. The median, since objects that leave the image are to be found as well.

    Args:
        tokens: float ``[rows, columns, C]``.
        bank: whose prototypes count.

    Returns:
        float32 ``[rows, columns]``; the lowest value there is where a token is not finite.
    """
    flat = tokens.flatten(0, 1).float()
    if bank is None:
        background = _ring(tokens.float()).median(dim=0).values
        scores = 1 - normalise(flat) @ normalise(background)
    else:
        prototypes = torch.from_numpy(bank.prototypes).to(flat.device)
        if prototypes.shape[1] != flat.shape[1]:
            raise InputError(
                f"expected tokens of {prototypes.shape[1]} channels as the memory bank has, got {flat.shape[1]}; "
                "was it made with the same preset?"
            )
        projected = flat if bank.center is None else flat - torch.from_numpy(bank.center).to(flat.device)
        scores = (normalise(projected) @ prototypes.T).amax(dim=1)
    return scores.nan_to_num(nan=-1.0).reshape(tokens.shape[:2])


def at_points(scores: Tensor, points: Tensor, frame: ImageFrame) -> Tensor:
    """Samples a map that covers the image, float32 ``[rows, columns]``, at points ``[P, 2]`` of the model frame.

    Bilinear between the centres of the map's cells, constant beyond the outer ones. Returns float32 ``[P]``.
    """
    height, width = frame.content
    relative = points.to(scores.device) / points.new_tensor([width, height]).to(scores.device)
    grid = (2 * relative - 1)[None, None]
    sampled = F.grid_sample(scores[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0, 0, 0]


def _ring(tokens: Tensor) -> Tensor:
    """The outermost tokens of ``[rows, columns, C]``: ``[n, C]``."""
    inner = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    inner[1:-1, 1:-1] = True
    return tokens[~inner]
