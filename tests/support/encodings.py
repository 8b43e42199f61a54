"""What encoders give for one small image, and how far results are from each other."""

from __future__ import annotations

import numpy as np
import torch

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def encoded(segmenter):
    return segmenter.encode([segmenter.prepare(IMAGE)])[0]


def relative(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given - wanted).norm() / wanted.norm())
