"""Two models that see bright blobs on black, as real ones see objects: a mask for each, whatever lies around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from fiftyone_ntt.core import ImageFrame, ProposalConfig, ReferenceItem, Segmenter
from fiftyone_ntt.models import Preset
from support.fake_models import FakeFeatures

SIDE = 256
RED, BLUE = (250, 20, 20), (20, 20, 250)


class BlobProposals:
    """The mask of a point is the connected bright region that it lies in; there is none on black."""

    name, weights_hash = "blobs", "c" * 64
    side = SIDE

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        return ImageFrame.squash(image_size, SIDE)

    def encode(self, pixels: Tensor, frame: ImageFrame) -> tuple[Tensor, np.ndarray]:
        brightness = pixels.amax(dim=0)
        return brightness, ndimage.label(brightness.numpy() > 0.5)[0]

    def decode_points(self, embedding: tuple[Tensor, np.ndarray], points: Tensor) -> tuple[Tensor, Tensor]:
        inside, masks, iou = self.decode_among(embedding, points, 0.4, (0, 1, 2))
        logits, every = torch.full((len(points), 3, SIDE, SIDE), -10.0), torch.zeros(len(points), 3)
        logits[inside, 1], every[inside, 1] = masks, iou
        return logits, every

    def decode_among(self, embedding, points: Tensor, threshold: float, among: tuple[int, ...]):
        brightness, regions = embedding
        x, y = (axis.long().clamp(0, SIDE - 1).numpy() for axis in points.T)
        inside = np.flatnonzero(regions[y, x])
        masks = {number: self._mask(brightness, regions, number) for number in np.unique(regions[y, x][inside])}
        logits = [masks[number] for number in regions[y, x][inside]]
        empty = torch.zeros(0, SIDE, SIDE)
        return torch.from_numpy(inside), torch.stack(logits) if logits else empty, torch.full((len(inside),), 0.9)

    def _mask(self, brightness: Tensor, regions: np.ndarray, number: int) -> Tensor:
        # What is half bright along the outline is half inside, so that the outline is finer than a pixel.
        near = torch.from_numpy(ndimage.binary_dilation(regions == number, iterations=2))
        return torch.where(near, 20 * (brightness - 0.5), -10.0)

    def decode_boxes(self, embedding: tuple[Tensor, np.ndarray], boxes: Tensor) -> tuple[Tensor, Tensor]:
        logits, iou = self.decode_points(embedding, boxes.reshape(-1, 2, 2).mean(dim=1))
        return logits[:, 1], iou[:, 1]


def blob_segmenter(points_per_side: int = 32) -> Segmenter:
    """A segmenter of both; each call makes new models."""
    proposals = ProposalConfig(points_per_side=points_per_side, points_per_batch=128)
    return Segmenter(BlobProposals(), FakeFeatures(), proposals=proposals, target_via=None)


def blobs(size, discs, colour=RED):
    """A picture uint8 ``[H, W, 3]`` of discs ``(x, y, radius)`` on black."""
    pixels = np.zeros((*size, 3), np.uint8)
    for x, y, radius in discs:
        top, left = max(int(y - radius) - 1, 0), max(int(x - radius) - 1, 0)
        part = pixels[top : int(y + radius) + 2, left : int(x + radius) + 2]
        rows, columns = np.mgrid[: part.shape[0], : part.shape[1]] + 0.5
        part[(rows + top - y) ** 2 + (columns + left - x) ** 2 < radius**2] = colour
    return pixels


def blob_bank(segmenter, colours=(("red", RED), ("blue", BLUE))):
    """A memory bank of a disc of each colour."""
    items = []
    for name, colour in colours:
        image = blobs((200, 200), [(100, 100, 60)], colour)
        items.append(ReferenceItem(image, image.max(axis=2) > 0, name, name))
    return segmenter.build_bank(items)


@dataclass(frozen=True)
class BlobSpec:
    """How a preset gets one of both; they need no weights."""

    kind: str
    cpu_only = True

    def load(self, device, *, preset="", precision="fp32", compile=False):
        return BlobProposals() if self.kind == "proposals" else FakeFeatures()


def blob_preset() -> Preset:
    """A preset of both."""
    return Preset("blobs", BlobSpec("proposals"), BlobSpec("features"), points_per_batch=128, target_via=None)
