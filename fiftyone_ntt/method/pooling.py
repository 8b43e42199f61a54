"""Stage one, second half: one feature vector for each candidate mask (docs/method.md 3.4).

The published code up-samples the patch tokens to 256 x 256 and averages them under each mask. The average is linear in
the tokens, so the same numbers come from carrying each *mask* down to the token grid with the adjoint of the
up-sampling and averaging there: no ``[65536, C]`` feature map exists.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.proposals import Candidates
from fiftyone_ntt.pixels.bit_masks import WORD, Bits, counts, packed, unpacked
from fiftyone_ntt.pixels.frames import MASK_SIDE

_CHUNK = 64
"""Masks turned into float32 at once: 16 MB."""


def pool(candidates: Candidates, tokens: Tensor) -> Tensor:
    """Averages the bilinearly up-sampled tokens under each mask.

    Args:
        candidates: N masks in the mask frame.
        tokens: float ``[rows, columns, C]``; the token grid covers exactly the image, whatever the frame.

    Returns:
        float32 ``[N, C]`` mean vectors, *not* normalised. An empty mask gives NaN.
    """
    tokens = torch.as_tensor(tokens)
    if tokens.ndim != 3:
        raise InputError(f"expected tokens [rows, columns, channels], got {list(tokens.shape)}")
    rows, columns, channels = tokens.shape
    logits = candidates.mask_logits
    height, width = candidates.frame.mask_content
    # The two factors of the up-sampling, [h, rows] and [w, columns]: their transposes carry masks down.
    up_y = bilinear_matrix(height, rows).to(logits.device)
    up_x = bilinear_matrix(width, columns).to(logits.device)
    flat = tokens.reshape(-1, channels).to(logits.device, torch.float32)
    if logits.device.type == "cpu":  # one by one, only where each mask is
        weights = torch.zeros(len(candidates), rows, columns)
        for k, (box, bits) in enumerate(zip(candidates.boxes.astype(int).tolist(), candidates.bits, strict=True)):
            _carry_down(bits, box, up_y, up_x, weights[k])
        area = torch.from_numpy(_areas(candidates.bits[:, : len(up_y)], len(up_x)))
        return weights.flatten(1) @ flat / area[:, None]
    vectors = [_pool_chunk(chunk, up_y, up_x, flat) for chunk in torch.split(logits, _CHUNK)]
    return torch.cat(vectors) if vectors else flat.new_zeros(0, channels)


def _carry_down(bits: Bits, box: list[int], up_y: Tensor, up_x: Tensor, out: Tensor) -> None:
    """What each token counts in a mask of packed bits ``[256, 4]`` that lies within ``box``, without the padding."""
    y1, y2, x1, x2 = box[1], min(box[3] + 1, len(up_y)), box[0] // WORD, min(box[2] + 1, len(up_x))
    if y1 < y2 and x1 * WORD < x2:
        columns = slice(x1 * WORD, x2)
        inside = unpacked(bits[y1:y2, x1 : -(-x2 // WORD)])[:, : x2 - x1 * WORD]
        across = torch.from_numpy(inside.astype(np.float32)) @ up_x[columns]
        torch.mm(up_y[y1:y2].T, across, out=out)


def _areas(bits: Bits, width: int) -> NDArray[np.float32]:
    """Pixels of each mask of ``[n, h, 4]`` in its first ``width`` columns; 0 of an empty one gives NaN above."""
    kept = packed(np.arange(MASK_SIDE) < width)
    return counts(bits & kept).astype(np.float32)


def _pool_chunk(logits: Tensor, up_y: Tensor, up_x: Tensor, tokens: Tensor) -> Tensor:
    inside = (logits[:, : len(up_y), : len(up_x)] > 0).float()  # [n, h, w] without the frame's padding
    weights = up_y.T @ (inside @ up_x)  # [n, rows, columns], what each token counts in a mask
    area = inside.sum(dim=(1, 2))  # [n]; 0 of an empty mask gives NaN below
    return weights.flatten(1) @ tokens / area[:, None]


def pool_mask(mask: NDArray[np.bool_], tokens: Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    """Averages the up-sampled tokens under a mask at image size, as ``pool`` does under a candidate.

    Args:
        mask: bool ``[H, W]`` with at least one true pixel.
        tokens: float ``[rows, columns, C]``; the token grid covers exactly the image.

    Returns:
        float32 ``[C]``, not normalised.
    """
    if mask.ndim != 2 or not mask.any():
        raise InputError(f"expected a mask with at least one pixel, got an empty one of shape {list(mask.shape)}")
    grid = torch.as_tensor(tokens).float()
    size = min(mask.shape[0], MASK_SIDE), min(mask.shape[1], MASK_SIDE)
    inside = F.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], size)[0]
    up_y, up_x = (bilinear_matrix(extent, cells) for extent, cells in zip(size, grid.shape[:2], strict=True))
    weights = up_y.T @ (inside @ up_x)  # [rows, columns]
    vector: NDArray[np.float32] = (weights.flatten() @ grid.flatten(0, 1) / inside.sum()).numpy()
    return vector


def bilinear_matrix(extent: float, cells: int) -> Tensor:
    """The bilinear up-sampling (``align_corners=False``) from ``cells`` grid cells to mask pixels, as a matrix.

    Args:
        extent: how many mask pixels the cells cover; need not be whole (letterbox).
        cells: number of grid cells.

    Returns:
        float32 ``[ceil(extent), cells]``; each row sums to one.
    """
    pixels = min(MASK_SIDE, int(-(-extent // 1)))
    position = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * (cells / extent) - 0.5).clamp(0, cells - 1)
    lower = position.floor().long().clamp(max=max(cells - 2, 0))
    upper = (lower + 1).clamp(max=cells - 1)
    fraction = position - lower
    matrix = torch.zeros(pixels, cells, dtype=torch.float64)
    row = torch.arange(pixels)
    matrix[row, lower] += 1 - fraction
    matrix[row, upper] += fraction
    return matrix.float()
