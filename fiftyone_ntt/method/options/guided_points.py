"""Guided points: prompt only where an object is likely. An option; the published method prompts the whole grid.

Decoding takes most of the time of stage one, and every point costs the same. The patch tokens tell beforehand what
looks like the image's background. The references have no say: candidates stay free of them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fiftyone_ntt.method.scoring import normalise
from fiftyone_ntt.pixels.frames import ImageFrame

GUIDED_FRACTION = 0.5
"""How much of the grid is prompted; chosen in ``docs/experiments/speed.md``."""


def guided_index(points: Tensor, tokens: Tensor, frame: ImageFrame, fraction: float = GUIDED_FRACTION) -> Tensor:
    """Which points to keep: the share with the highest ``token_scores``.

    Args:
        points: float32 ``[P, 2]`` (x, y) in the model frame.
        tokens: float ``[rows, columns, C]``; the token grid covers exactly the image.
        frame: the image's frame.
        fraction: how much of the points to keep, in 0..1; at least one point stays.

    Returns:
        int64 ``[ceil(fraction * P)]``, ascending, on the points' device. Of equal scores the first points stay.
    """
    count = max(1, math.ceil(round(fraction * len(points), 6)))
    scores = at_points(token_scores(tokens), points, frame)  # [P]
    best = torch.argsort(scores, descending=True, stable=True)[:count]
    return best.sort().values.to(points.device)


def token_scores(tokens: Tensor) -> Tensor:
    """How worthwhile a prompt at each token is: how little the token resembles the border of the image.

    One minus the cosine to the median, channel by channel, of the outermost tokens. The median, since objects that
    leave the image are to be found as well.

    Args:
        tokens: float ``[rows, columns, C]``.

    Returns:
        float32 ``[rows, columns]``; the lowest value there is where a token is not finite.
    """
    background = _ring(tokens.float()).median(dim=0).values  # [C]
    scores = 1 - normalise(tokens.flatten(0, 1).float()) @ normalise(background)  # [rows * columns]
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
