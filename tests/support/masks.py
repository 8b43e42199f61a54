"""Candidates that are made of shapes, and the picture that they lie in."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from fiftyone_ntt.core import Candidates, ImageFrame


def blobs(count, seed=0):
    """Smooth random mask logits, some large, some small: [count, 256, 256]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 9, 9, generator=generator) - torch.linspace(-0.5, 1.2, count)[:, None, None, None]
    return F.interpolate(coarse, size=(256, 256), mode="bicubic")[:, 0]


def square(left, top, side):
    logits = torch.full((256, 256), -4.0)
    logits[top : top + side, left : left + side] = 4.0
    return logits


def three_shapes(size=(256, 256), frame=ImageFrame.squash):
    """Two of nearly the same mask, one elsewhere, one empty; the second is the best."""
    logits = torch.stack([square(20, 20, 60), square(20, 20, 62), square(150, 150, 40), torch.full((256, 256), -4.0)])
    return Candidates(logits, torch.tensor([0.8, 0.9, 0.7, 0.95]), frame(size))


def picture_of_shapes(size=(256, 256)):
    """Red where the first masks are, blue at the third, grey elsewhere."""
    image = np.full((*size, 3), 128, np.uint8)
    y, x = size[0] / 256, size[1] / 256
    image[int(20 * y) : int(82 * y), int(20 * x) : int(82 * x)] = (255, 0, 0)
    image[int(150 * y) : int(190 * y), int(150 * x) : int(190 * x)] = (0, 0, 255)
    return image
