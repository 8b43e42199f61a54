"""Two models that need no weights: fast, deterministic, and different for every image."""

from __future__ import annotations

import torch
from torch import Tensor

from fiftyone_ntt.core import ImageFrame, ProposalConfig, Segmenter


class FakeProposals:
    """Masks are discs around the prompt; their size and predicted IoU follow the image's brightness there."""

    name, weights_hash = "fake-sam", "a" * 64
    side = 256

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        return ImageFrame.squash(image_size, self.side)

    def encode(self, pixels: Tensor, frame: ImageFrame) -> Tensor:
        return pixels.mean(dim=0)

    def decode_points(self, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        x, y = points.T
        brightness = embedding[y.long().clamp(0, self.side - 1), x.long().clamp(0, self.side - 1)]
        axis = torch.arange(256) + 0.5
        distance = ((axis[None, None] - x[:, None, None]) ** 2 + (axis[None, :, None] - y[:, None, None]) ** 2).sqrt()
        radius = (10 + 40 * brightness)[:, None] * torch.tensor([0.5, 1.0, 1.5])
        ious = 0.3 + 0.6 * brightness[:, None] * torch.tensor([0.9, 1.0, 0.8])
        return (radius[:, :, None, None] - distance[:, None]), ious

    def decode_among(self, embedding: Tensor, points: Tensor, threshold: float, among: tuple[int, ...]):
        masks, ious = self.decode_points(embedding, points)
        best_iou, best = ious[:, list(among)].max(dim=1)
        kept = (best_iou > threshold).nonzero()[:, 0]
        return kept, masks[kept, torch.tensor(among)[best[kept]]], best_iou[kept]

    def decode_boxes(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class FakeFeatures:
    """A token is the mean colour of its patch."""

    name, weights_hash = "fake-features", "b" * 64
    input_size, grid, dim = 64, (8, 8), 3

    def encode(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, self.grid).permute(0, 2, 3, 1)


def fake_segmenter(points_per_side: int = 4, **settings) -> Segmenter:
    """A segmenter of both; each call makes new models."""
    proposals = ProposalConfig(points_per_side=points_per_side, **settings)
    return Segmenter(FakeProposals(), FakeFeatures(), proposals=proposals, target_via=None)
