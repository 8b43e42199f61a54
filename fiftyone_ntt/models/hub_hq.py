"""SAM-HQ as a mask model, through ``transformers``: SAM with one more output token that sharpens every mask.

The package's ``forward`` sorts the three masks by predicted IoU, and gives either those or the single one. Here the
same modules are called once for all four, in the decoder's own order, which says how large a part a mask means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fiftyone_ntt.method.proposals import kept_of
from fiftyone_ntt.models.compiling import Compiled
from fiftyone_ntt.models.devices import Precision, autocast, matmul
from fiftyone_ntt.models.hub_mask_model import HubMaskModel
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame, check_rendered, imagenet_normalize, to_mask_frame

KINDS = {"sam_hq": "SamHQModel"}
"""``model_type`` of a folder's config.json -> class in transformers."""
_PROMPTS_AT_ONCE = 8
"""Prompts decoded at once; each takes about 60 MB in the decoder, computed from its shapes."""


@dataclass(frozen=True, eq=False)
class HqEmbedding:
    """What the mask decoder needs of one image; all float32 on the model's device.

    Attributes:
        image: ``[1, C, h, w]``.
        fine: ``[1, C / 8, 4h, 4w]``, the features that only the high-quality mask sees.
    """

    image: Tensor
    fine: Tensor


class HubSamHq(HubMaskModel[HqEmbedding]):
    """A ``ProposalModel``: the longest side fills the model's square, prompted with points or boxes.

    Args:
        path_or_repo: folder written by ``save_pretrained``, or a repository of the Hugging Face hub, e.g.
            ``"syscv-community/sam-hq-vit-base"``.
        device: where to run.
        name: name for provenance; by default the last part of ``path_or_repo``.
        precision: of the image encoder; the decoder's is float32, with TF32 products on CUDA unless this is too.
        compile: run the image encoder through ``torch.compile``.

    Raises:
        MissingWeightsError: the weights or a package that the model needs are not to be had.
        WeightsMismatchError: the folder holds another kind of model, or not all of its weights.
    """

    def __init__(
        self,
        path_or_repo: str | Path,
        *,
        device: str | torch.device = "cpu",
        name: str | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        super().__init__(path_or_repo, KINDS, device=device, name=name, precision=precision)
        self._forward = Compiled(self._features, self.name) if compile else self._features

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        """The longest side of the image of ``(height, width)`` pixels fills the square."""
        return ImageFrame.letterbox(image_size, self.side)

    @torch.no_grad()
    def encode_batch(self, pixels: Tensor, frames: Sequence[ImageFrame]) -> list[HqEmbedding]:
        """Runs the image encoder on float32 ``[B, 3, side, side]``, B images at once; see ``encode``."""
        check_rendered(tuple(pixels.shape), frames, self.side)
        batch = imagenet_normalize(pixels.to(self.device, torch.float32, non_blocking=True))
        for image, frame in zip(batch, frames, strict=True):  # padding is zero after the normalisation, not before
            image[:, int(frame.content[0]) :] = 0
            image[:, :, int(frame.content[1]) :] = 0
        with autocast(self.device, self.precision):
            image, early = self._forward(batch)
        with matmul(self.device, self.precision):
            fine = self._fine(image.float(), early.float())
        return [HqEmbedding(image[i : i + 1].float(), fine[i : i + 1]) for i in range(len(frames))]

    def _features(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Image embedding ``[B, C, h, w]``, and what the first global block made ``[B, h, w, D]``."""
        image, early = self.model.vision_encoder(pixel_values=batch)[:2]
        return image, early[0]

    def _fine(self, image: Tensor, early: Tensor) -> Tensor:
        """Features ``[B, C / 8, 4h, 4w]`` for the high-quality mask; the prompts do not matter to them."""
        decoder = self.model.mask_decoder
        late = decoder.encoder_conv2(decoder.activation(decoder.encoder_norm(decoder.encoder_conv1(image))))
        first = decoder.compress_vit_conv1(early.permute(0, 3, 1, 2).contiguous())
        compressed = decoder.compress_vit_conv2(decoder.activation(decoder.compress_vit_norm(first)))
        fine: Tensor = compressed + late
        return fine

    def _changed(self, embedding: HqEmbedding, added: Tensor) -> HqEmbedding:
        return replace(embedding, image=embedding.image + added)

    def decode_among(
        self, embedding: HqEmbedding, points: Tensor, threshold: float, among: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``AmongDecoder``; here it only saves memory. On the model's device."""
        parts = [
            (start, *kept_of(*self.decode_points(embedding, part), threshold, among))
            for start, part in zip(
                range(0, max(len(points), 1), _PROMPTS_AT_ONCE), torch.split(points, _PROMPTS_AT_ONCE), strict=True
            )
        ]
        kept = torch.cat([start + part for start, part, _, _ in parts])
        return kept, torch.cat([part[2] for part in parts]), torch.cat([part[3] for part in parts])

    def decode_boxes(self, embedding: HqEmbedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ProposalModel.decode_boxes``. On the model's device."""
        masks, ious = self._decode(embedding, self._boxes(boxes), range(1))
        return masks[:, 0], ious[:, 0]

    @torch.no_grad()
    def _decode(self, embedding: HqEmbedding, sparse: Tensor, which: range) -> tuple[Tensor, Tensor]:
        """Outputs ``which`` (0 is the single mask) of P prompts: logits ``[P, m, 256, 256]`` and IoU ``[P, m]``."""
        if len(sparse) == 0:
            nothing = sparse.new_zeros(0, len(which))
            return nothing[:, :, None, None].expand(-1, -1, MASK_SIDE, MASK_SIDE), nothing
        with matmul(self.device, self.precision):
            parts = [
                self._decode_part(embedding, part, slice(which.start, which.stop))
                for part in torch.split(sparse, _PROMPTS_AT_ONCE)
            ]
        masks, ious = (torch.cat([part[side] for part in parts]) for side in (0, 1))
        return to_mask_frame(masks), ious

    def _decode_part(self, embedding: HqEmbedding, sparse: Tensor, which: slice) -> tuple[Tensor, Tensor]:
        decoder: Any = self.model.mask_decoder
        count, (_, channels, height, width) = len(sparse), embedding.image.shape
        start = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight])
        tokens = torch.cat([start.expand(count, -1, -1), sparse], dim=1)  # [P, T, C]: IoU, four masks, HQ, prompts
        no_mask = self.model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        shared = (embedding.image + no_mask, self._position)
        image, position = (part.expand(count, -1, -1, -1) for part in shared)
        tokens, image = decoder.transformer(
            point_embeddings=tokens[None],
            image_embeddings=image,
            image_positional_embeddings=position,
            attention_similarity=None,
            target_embedding=None,
        )
        tokens = tokens[0]
        image = image.transpose(2, 3).reshape(count, channels, height, width)
        coarse = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(image)))
        coarse = decoder.activation(decoder.upscale_conv2(coarse))  # [P, C / 8, 4h, 4w]
        sharp = decoder.mask_conv2(decoder.activation(decoder.mask_norm(decoder.mask_conv1(coarse)))) + embedding.fine
        hyper = [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)][which]
        masks = torch.einsum("pmc,pcyx->pmyx", torch.stack(hyper, dim=1), coarse)
        masks = masks + torch.einsum("pc,pcyx->pyx", decoder.hq_mask_mlp(tokens[:, 5]), sharp)[:, None]
        return masks, decoder.iou_prediction_head(tokens[:, 0])[:, which]
