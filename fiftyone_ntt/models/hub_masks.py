"""Mask models of the SAM2 family through ``transformers``: SAM2 and SAM2.1, EdgeTAM, and SAM3's tracker.

They share one interface there, and one mask decoder, so one class serves them all. It differs from the model's own
``forward`` on purpose: ``no_memory_embedding`` is left out of the image embedding (docs/method.md 3.3), all four masks
are taken as the decoder makes them, none replaced for lack of stability, and logits are not clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fiftyone_ntt.method.proposals import kept_of
from fiftyone_ntt.models.compiling import Compiled
from fiftyone_ntt.models.devices import Precision, autocast, matmul
from fiftyone_ntt.models.hub_mask_model import HubMaskModel
from fiftyone_ntt.models.mask_decoder import MaskDecoder
from fiftyone_ntt.models.sam2 import BOXES_PER_BATCH, CompiledPoints, Sam2Embedding, decoder_that_agrees
from fiftyone_ntt.pixels.frames import ImageFrame, check_rendered, normalize, to_mask_frame

_PROMPTS_AT_ONCE = 16
"""Prompts that the package's own decoder decodes at once; each drags all image tokens through it."""


@dataclass(frozen=True)
class _Kind:
    """Class in transformers, and how the model wants its pixels."""

    class_name: str
    normalisation: str = "imagenet"


_SAM2, _EDGETAM, _SAM3 = _Kind("Sam2Model"), _Kind("EdgeTamModel"), _Kind("Sam3TrackerModel", "half")
# Repositories on the hub hold the model for videos, of which the model for images is a part.
KINDS = {
    "sam2": _SAM2,
    "sam2_video": _SAM2,
    "edgetam": _EDGETAM,
    "edgetam_video": _EDGETAM,
    "sam3_tracker": _SAM3,
    "sam3_video": _SAM3,
}
"""``model_type`` of a folder's config.json -> the model."""


class HubSam2(HubMaskModel[Sam2Embedding]):
    """A ``ProposalModel``: one image squashed to the model's square, prompted with points or boxes.

    Args:
        path_or_repo: folder written by ``save_pretrained``, or a repository of the Hugging Face hub, e.g.
            ``"facebook/sam2.1-hiera-tiny"``.
        device: where to run.
        add_no_mem_embed: add the learnt "no memory" vector to the image embedding, as the package does.
        name: name for provenance; by default the last part of ``path_or_repo``.
        precision: of the image encoder; the decoder's is float32, with TF32 products on CUDA unless this is too.
        compile: run the image encoder through ``torch.compile``, and our decoder of point prompts where it is not on
            the CPU.

    Raises:
        MissingWeightsError: the weights or a package that the model needs are not to be had.
        WeightsMismatchError: the folder holds another kind of model, or not all of its weights.
    """

    def __init__(
        self,
        path_or_repo: str | Path,
        *,
        device: str | torch.device = "cpu",
        add_no_mem_embed: bool = False,
        name: str | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        classes = {name: kind.class_name for name, kind in KINDS.items()}
        super().__init__(path_or_repo, classes, device=device, name=name, precision=precision)
        self.name += "+no_mem_embed" if add_no_mem_embed else ""
        self.add_no_mem_embed = add_no_mem_embed
        self.normalisation = KINDS[self.model_type].normalisation
        # A single mask is to be the single mask, not the best of the others where it is not stable.
        self.model.mask_decoder.dynamic_multimask_via_stability = False
        self.decoder = self._fast_decoder()
        self._forward = Compiled(self._features, self.name) if compile else self._features
        if compile and self.decoder is not None and self.device.type != "cpu":  # where it gains nothing
            self.decoder.compiled = CompiledPoints(self.decoder, self.name)

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        """The image of ``(height, width)`` pixels is squashed to a square; its aspect ratio is lost."""
        return ImageFrame.squash(image_size, self.side)

    @torch.no_grad()
    def encode_batch(self, pixels: Tensor, frames: Sequence[ImageFrame]) -> list[Sam2Embedding]:
        """Runs the image encoder on float32 ``[B, 3, side, side]``, B images at once; see ``encode``."""
        check_rendered(tuple(pixels.shape), frames, self.side)
        batch = normalize(pixels.to(self.device, torch.float32, non_blocking=True), self.normalisation)
        with autocast(self.device, self.precision):
            levels = self._forward(batch)
        low, middle, image = (level.float() for level in levels)
        if self.add_no_mem_embed:
            image = image + self.model.no_memory_embedding.reshape(1, -1, 1, 1)
        return [self._embedding(image[i : i + 1], (low[i : i + 1], middle[i : i + 1])) for i in range(len(frames))]

    def _features(self, batch: Tensor) -> list[Tensor]:
        """``[B, C/8, 4h, 4w]``, ``[B, C/4, 2h, 2w]`` and ``[B, C, h, w]`` features of normalised images."""
        levels = self.model.get_image_features(batch, return_dict=True).fpn_hidden_states  # [h w, B, C] each
        sizes = self.model.backbone_feature_sizes  # three; SAM3's neck makes a fourth level that nobody reads
        return [
            level.permute(1, 2, 0).reshape(len(batch), -1, *size) for level, size in zip(levels, sizes, strict=False)
        ]

    def _embedding(self, image: Tensor, high_res: tuple[Tensor, Tensor]) -> Sam2Embedding:
        prepared = None
        if self.decoder is not None:
            no_mask = self.model.prompt_encoder.no_mask_embed.weight
            with matmul(self.device, self.precision):
                prepared = self.decoder.prepare(image, self._position, no_mask, high_res)
        return Sam2Embedding(image, self._position, high_res, prepared)

    def _changed(self, embedding: Sam2Embedding, added: Tensor) -> Sam2Embedding:
        return self._embedding(embedding.image + added, embedding.high_res)

    @torch.no_grad()
    def decode_among(
        self, embedding: Sam2Embedding, points: Tensor, threshold: float, among: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``AmongDecoder``: only the masks that are kept are up-scaled. On the model's device."""
        if embedding.prepared is None or self.decoder is None:
            return kept_of(*self.decode_points(embedding, points), threshold, among)
        with matmul(self.device, self.precision):
            sparse = self._points(points[:, None])
            kept, logits, ious = self.decoder.best(embedding.prepared, sparse, threshold, among)
        return kept, to_mask_frame(logits), ious

    def decode_boxes(self, embedding: Sam2Embedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ProposalModel.decode_boxes``. On the model's device."""
        parts = [self._decode(embedding, self._boxes(chunk), range(1)) for chunk in torch.split(boxes, BOXES_PER_BATCH)]
        masks, ious = (torch.cat([part[side][:, 0] for part in parts]) for side in (0, 1))
        return masks, ious

    @torch.no_grad()
    def _decode(self, embedding: Sam2Embedding, sparse: Tensor, which: range) -> tuple[Tensor, Tensor]:
        """Outputs ``which`` (0 is the single mask) of P prompts: logits ``[P, m, 256, 256]`` and IoU ``[P, m]``."""
        if embedding.prepared is not None and self.decoder is not None:
            with matmul(self.device, self.precision):
                masks, ious = self.decoder.outputs(embedding.prepared, sparse, which)
            return to_mask_frame(masks), ious
        masks, ious = self._stock(embedding, sparse)
        return to_mask_frame(masks[:, which.start : which.stop]), ious[:, which.start : which.stop]

    def _stock(self, embedding: Sam2Embedding, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """The package's own decoder: logits ``[P, 4, side, side]`` and IoU ``[P, 4]``; the single mask comes first."""
        parts = [self._stock_part(embedding, part) for part in torch.split(sparse, _PROMPTS_AT_ONCE) if len(part)]
        if not parts:
            return sparse.new_zeros(0, 4, self.mask_side, self.mask_side), sparse.new_zeros(0, 4)
        masks, ious = (torch.cat([part[side] for part in parts]) for side in (0, 1))
        return masks, ious

    def _stock_part(self, embedding: Sam2Embedding, sparse: Tensor) -> tuple[Tensor, Tensor]:
        dense = self.model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(embedding.image)
        outputs = [
            self.model.mask_decoder(
                image_embeddings=embedding.image,
                image_positional_embeddings=embedding.position,
                sparse_prompt_embeddings=sparse[None],
                dense_prompt_embeddings=dense,
                multimask_output=several,
                high_resolution_features=list(embedding.high_res),
            )
            for several in (False, True)
        ]
        masks, ious = (torch.cat([output[side][0] for output in outputs], dim=1) for side in (0, 1))
        return masks, ious

    @torch.no_grad()
    def _fast_decoder(self) -> MaskDecoder | None:
        """Our decoder on the model's weights, where it gives the same."""
        decoder = self.model.mask_decoder

        def make() -> MaskDecoder:
            heads = decoder.transformer.layers[0].self_attn.num_attention_heads
            sigmoid = decoder.iou_prediction_head.sigmoid_output
            return MaskDecoder(sam_names(decoder.state_dict()), heads=heads, sigmoid_iou=sigmoid)

        no_mask = self.model.prompt_encoder.no_mask_embed.weight
        two_points = torch.full((2, 1, 2), 100.0, device=self.device)
        return decoder_that_agrees(make, self._stock, self._position, no_mask, self._points(two_points))


_RENAMED = (
    (".o_proj.", ".out_proj."),
    (".layer_norm", ".norm"),
    ("upscale_conv1.", "output_upscaling.0."),
    ("upscale_layer_norm.", "output_upscaling.1."),
    ("upscale_conv2.", "output_upscaling.3."),
)


def sam_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A mask decoder's parameters by the names that SAM gives them, from those that ``transformers`` does."""
    named = {}
    for name, value in state.items():
        for theirs, sams in _RENAMED:
            name = name.replace(theirs, sams)
        named[name] = value
    # Of a perceptron the first and the last layer have names of their own there.
    for head in [name.removesuffix(".proj_in.weight") for name in named if name.endswith(".proj_in.weight")]:
        inner = sum(name.startswith(f"{head}.layers.") and name.endswith(".weight") for name in named)
        order = ["proj_in", *(f"layers.{i}" for i in range(inner)), "proj_out"]
        layers = [{kind: named.pop(f"{head}.{part}.{kind}") for kind in ("weight", "bias")} for part in order]
        for i, layer in enumerate(layers):
            named |= {f"{head}.layers.{i}.{kind}": value for kind, value in layer.items()}
    return named
