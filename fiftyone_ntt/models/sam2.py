"""SAM2 and SAM2.1 as a proposal model, through Meta's modules in the package ``sam2``.

Only the image half of the model is used: image encoder, prompt encoder, mask decoder. The package's image
predictor is not, because it adds ``no_mem_embed``, clamps the logits and imports torchvision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fiftyone_ntt.errors import InputError, WeightsMismatchError
from fiftyone_ntt.method.proposals import kept_of
from fiftyone_ntt.models.compiling import Compiled
from fiftyone_ntt.models.devices import Precision, autocast, matmul
from fiftyone_ntt.models.mask_decoder import MaskDecoder, Predicted, PreparedImage
from fiftyone_ntt.models.specs import sha256_of
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame, check_rendered, imagenet_normalize

logger = logging.getLogger(__name__)

BOXES_PER_BATCH = 32
"""Boxes decoded at once; each costs about 30 MB in the decoder."""
_UPSCALED_IN, _UPSCALED_TOGETHER = 4, 16
"""Parts in which compiled code up-scales the masks of a batch, and how many masks are too few to be parted."""


@dataclass(frozen=True)
class Sam2Embedding:
    """What the mask decoder needs of one image; all float32 on the model's device.

    Attributes:
        image: ``[1, C, 64, 64]`` (C = 256 in every published model), named E in the method's notes.
        position: ``[1, C, 64, 64]`` positional encoding of the same grid; the same for every image.
        high_res: ``[1, C/8, 256, 256]`` and ``[1, C/4, 128, 128]``.
        prepared: the same as our mask decoder wants it; ``None`` where the package's own is used.
    """

    image: Tensor
    position: Tensor
    high_res: tuple[Tensor, Tensor]
    prepared: PreparedImage | None = None


class Sam2:
    """A ``ProposalModel``: one image squashed to 1024 x 1024, prompted with points or boxes.

    Args:
        checkpoint: file in Meta's format, ``{"model": state_dict}``.
        config: YAML inside the package ``sam2``, e.g. ``"configs/sam2.1/sam2.1_hiera_l.yaml"``.
        device: where to run.
        add_no_mem_embed: add the learnt "no memory" vector to the image embedding, as the package's image
            predictor does. The published method does not (docs/method.md 3.3).
        overrides: changes to the config, ``"model.a.b=value"``.
        name: name for provenance; by default the config's.
        precision: of the image encoder; the decoder's is float32, with TF32 products on CUDA unless this is too.
        compile: run the image encoder through ``torch.compile``, and the decoder of point prompts where it is not on
            the CPU.

    Raises:
        InputError: unknown config, or an architecture without 256 x 256 masks.
        WeightsMismatchError: the checkpoint does not belong to the config.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        config: str,
        *,
        device: str | torch.device = "cpu",
        add_no_mem_embed: bool = False,
        overrides: tuple[str, ...] = (),
        name: str | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.precision = precision
        self.add_no_mem_embed = add_no_mem_embed
        self.name = (name or Path(config).stem) + ("+no_mem_embed" if add_no_mem_embed else "")
        self.weights_hash = sha256_of(Path(checkpoint))
        self.model = build_sam2(config, overrides)
        load_checkpoint(self.model, Path(checkpoint), config)
        self.model.eval().requires_grad_(False).to(self.device)
        self.decoder = fast_decoder(self.model)
        self._forward_image = Compiled(self.model.forward_image, self.name) if compile else self.model.forward_image
        if compile and self.decoder is not None and self.device.type != "cpu":  # where it gains nothing
            self.decoder.compiled = CompiledPoints(self.decoder, self.name)
        logger.info("loaded %s on %s", self.name, self.device)
        logger.debug("%s is from %s", self.name, checkpoint)

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        """The image of ``(height, width)`` pixels is squashed to a square; its aspect ratio is lost."""
        return ImageFrame.squash(image_size, self.model.image_size)

    def encode(self, pixels: Tensor, frame: ImageFrame) -> Sam2Embedding:
        """Runs the image encoder on float32 ``[3, 1024, 1024]`` RGB in 0..1 in the model frame."""
        return self.encode_batch(pixels[None], [frame])[0]

    @torch.no_grad()
    def encode_batch(self, pixels: Tensor, frames: Sequence[ImageFrame]) -> list[Sam2Embedding]:
        """Runs the image encoder on float32 ``[B, 3, 1024, 1024]``, B images at once; see ``encode``."""
        check_rendered(tuple(pixels.shape), frames, self.model.image_size)
        batch = imagenet_normalize(pixels.to(self.device, torch.float32, non_blocking=True))
        with autocast(self.device, self.precision):
            levels = self._forward_image(batch)["backbone_fpn"]
        low, middle, image = (level.float() for level in levels)
        if self.add_no_mem_embed:
            image = image + self.model.no_mem_embed.reshape(1, -1, 1, 1)
        position = self.model.sam_prompt_encoder.get_dense_pe()
        return [
            self._embedding(image[i : i + 1], position, (low[i : i + 1], middle[i : i + 1])) for i in range(len(frames))
        ]

    def _embedding(self, image: Tensor, position: Tensor, high_res: tuple[Tensor, Tensor]) -> Sam2Embedding:
        prepared = None
        if self.decoder is not None:
            dense = self.model.sam_prompt_encoder.no_mask_embed.weight
            with matmul(self.device, self.precision):
                prepared = self.decoder.prepare(image, position, dense, high_res)
        return Sam2Embedding(image, position, high_res, prepared)

    @torch.no_grad()
    def decode_among(
        self, embedding: Sam2Embedding, points: Tensor, threshold: float, among: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``AmongDecoder``: only the masks that are kept are up-scaled. On the model's device."""
        if embedding.prepared is None or self.decoder is None:
            return kept_of(*self.decode_points(embedding, points), threshold, among)
        with matmul(self.device, self.precision):
            return self.decoder.best(embedding.prepared, self._point_prompts(points)[0], threshold, among)

    @torch.no_grad()
    def decode_points(self, embedding: Sam2Embedding, points: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts with foreground points, each on its own.

        Args:
            embedding: what ``encode`` returned.
            points: float32 ``[P, 2]`` (x, y) in pixels of the model frame.

        Returns:
            Raw mask logits float32 ``[P, 3, 256, 256]`` and predicted IoU float32 ``[P, 3]`` of the three
            multi-mask tokens, on the model's device.
        """
        return self._decode(embedding, *self._point_prompts(points), range(1, 4))

    @torch.no_grad()
    def decode_boxes(self, embedding: Sam2Embedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts with boxes, each on its own.

        Args:
            embedding: what ``encode`` returned.
            boxes: float32 ``[B, 4]`` xyxy in pixels of the model frame.

        Returns:
            Raw mask logits float32 ``[B, 256, 256]`` and predicted IoU float32 ``[B]`` of the single-mask token,
            on the model's device.
        """
        corner_labels = torch.tensor([[2, 3]], dtype=torch.int32, device=self.device)
        parts = [
            self._decode(embedding, *self._prompts(chunk.reshape(-1, 2, 2), corner_labels), range(1))
            for chunk in torch.split(boxes, BOXES_PER_BATCH)
        ]
        masks, ious = (torch.cat([part[side][:, 0] for part in parts]) for side in (0, 1))
        return masks, ious

    @torch.no_grad()
    def decode_prompts(self, embedding: Sam2Embedding, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PromptDecoder``. On the model's device."""
        prompts = self._prompts(points, labels.to(self.device, torch.int32))
        return self._decode(embedding, *prompts, range(4))

    @torch.no_grad()
    def decode_refined(
        self, embedding: Sam2Embedding, boxes: Tensor, points: Tensor, labels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``MaskPromptDecoder``. On the model's device."""
        corners = torch.tensor([[2, 3]], dtype=torch.int32, device=self.device).expand(len(boxes), -1)
        kinds = torch.cat([corners, labels.to(self.device, torch.int32)], dim=1)
        coords = torch.cat([boxes.reshape(-1, 2, 2), points], dim=1)
        sparse, no_mask = self._prompts(coords, kinds)
        encoder = self.model.sam_prompt_encoder
        _, dense = encoder(points=None, boxes=None, masks=masks[:, None].to(self.device, torch.float32))
        parts = [
            # What the decoder adds for "no mask" is taken off beforehand: one way through it serves all prompts.
            self._decode(
                self._embedding(embedding.image + (dense - no_mask)[i : i + 1], embedding.position, embedding.high_res),
                sparse[i : i + 1], no_mask[i : i + 1], range(4),
            )
            for i in range(len(boxes))
        ]  # fmt: skip
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _point_prompts(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self._prompts(points.reshape(-1, 1, 2), torch.ones(1, 1, dtype=torch.int32, device=self.device))

    def _prompts(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Sparse and dense embeddings: P prompts of n points, ``[P, n, 2]`` in the model frame, labels ``[..., n]``."""
        # The prompt encoder moves points by half a pixel and adds the padding point itself.
        sparse, dense = self.model.sam_prompt_encoder(
            points=(coords.to(self.device, torch.float32), labels.expand(len(coords), -1)), boxes=None, masks=None
        )
        return sparse, dense

    def _decode(self, embedding: Sam2Embedding, sparse: Tensor, dense: Tensor, which: range) -> tuple[Tensor, Tensor]:
        """Outputs ``which`` (0 is the single mask) of P prompts: logits ``[P, m, 256, 256]`` and IoU ``[P, m]``."""
        if embedding.prepared is not None and self.decoder is not None:
            with matmul(self.device, self.precision):
                return self.decoder.outputs(embedding.prepared, sparse, which)
        masks, ious = stock_decode(self.model, embedding, sparse, dense)
        return masks[:, which.start : which.stop], ious[:, which.start : which.stop]


def stock_decode(model: Any, embedding: Sam2Embedding, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """The package's own mask decoder: logits ``[P, 4, 256, 256]`` and predicted IoU ``[P, 4]`` of all mask tokens."""
    if len(sparse) == 0:
        nothing = sparse.new_zeros(0, 4)
        return nothing[:, :, None, None].expand(0, 4, MASK_SIDE, MASK_SIDE), nothing
    # predict_masks gives all tokens; forward would choose among them, by stability if so configured.
    masks, ious, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=embedding.image,
        image_pe=embedding.position,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=True,
        high_res_features=list(embedding.high_res),
    )
    return masks, ious


@torch.no_grad()
def fast_decoder(model: Any) -> MaskDecoder | None:
    """Our arrangement of a model's mask decoder, on its own weights; ``None`` where it does not give the same."""
    encoder, device = model.sam_prompt_encoder, next(model.parameters()).device
    point = torch.full((2, 1, 2), 100.0, device=device)
    sparse, dense = encoder(points=(point, torch.ones(2, 1, device=device)), boxes=None, masks=None)

    def make() -> MaskDecoder:
        heads = model.sam_mask_decoder.transformer.layers[0].self_attn.num_heads
        sigmoid = model.sam_mask_decoder.iou_prediction_head.sigmoid_output
        return MaskDecoder(model.sam_mask_decoder.state_dict(), heads=heads, sigmoid_iou=sigmoid)

    def stock(embedding: Sam2Embedding, sparse: Tensor) -> tuple[Tensor, Tensor]:
        return stock_decode(model, embedding, sparse, dense)

    return decoder_that_agrees(make, stock, encoder.get_dense_pe(), encoder.no_mask_embed.weight, sparse)


@torch.no_grad()
def decoder_that_agrees(
    make: Callable[[], MaskDecoder],
    stock: Callable[[Sam2Embedding, Tensor], tuple[Tensor, Tensor]],
    position: Tensor,
    no_mask: Tensor,
    sparse: Tensor,
) -> MaskDecoder | None:
    """Our decoder, if it gives what a model's own does; ``None`` otherwise.

    Tried once on noise: whatever another version of a package or another architecture does differently, shows there.

    Args:
        make: makes ours from the model's weights.
        stock: the model's own: logits and predicted IoU of all four outputs.
        position: ``[1, C, h, w]`` positional encoding of the image's tokens.
        no_mask: ``[1, C]`` the embedding for "no mask was given".
        sparse: ``[2, n, C]`` embeddings of two prompts.
    """
    noise = torch.Generator().manual_seed(0)
    _, channels, height, width = position.shape
    shapes = ((channels, height, width), (channels // 8, 4 * height, 4 * width), (channels // 4, 2 * height, 2 * width))
    image, low, middle = (torch.randn(1, *shape, generator=noise).to(position.device) for shape in shapes)
    try:
        decoder = make()
        masks, ious = decoder.outputs(decoder.prepare(image, position, no_mask, (low, middle)), sparse, range(4))
    except (InputError, AttributeError, RuntimeError, IndexError) as error:
        logger.warning("the mask decoder is not the known one, which only costs speed: %s", error)
        return None
    expected_masks, expected = stock(Sam2Embedding(image, position, (low, middle)), sparse)
    # Loose: CUDA may round convolutions to TF32. Another architecture gives something else altogether.
    off = ((masks - expected_masks).abs().max() / expected_masks.abs().max()).item()
    if off > 0.01 or not torch.allclose(ious, expected, atol=5e-3):
        logger.warning("the mask decoder does not compute what the known one does, which only costs speed")
        return None
    return decoder


class CompiledPoints:
    """The steps of ``MaskDecoder.best`` through ``torch.compile``, whose batches of points all have one size.

    How many masks of a batch are kept differs each time: they are up-scaled in parts of one size, the last one filled
    up. Other prompts (boxes, several points) come in any number, and run plainly.

    Args:
        decoder: whose steps.
        name: of the model, for the log.
    """

    def __init__(self, decoder: MaskDecoder, name: str) -> None:
        self._plain = decoder
        self._predict = Compiled(decoder.predict, f"the decoder of {name}", "prompt", used_up=True)
        self._upscale = Compiled(decoder.upscale, f"the up-scaling of {name}", "mask")

    def predict(self, image: PreparedImage, sparse: Tensor) -> Predicted:
        """See ``Steps``."""
        predicted: Predicted = self._predict(image, sparse)
        return predicted

    def upscale_some(self, image: PreparedImage, predicted: Predicted, prompts: Tensor, outputs: Tensor) -> Tensor:
        """See ``Steps``."""
        count, kept = len(predicted.iou), len(prompts)
        size = max(count // _UPSCALED_IN, min(count, _UPSCALED_TOGETHER))
        if not kept:
            return self._plain.upscale_some(image, predicted, prompts, outputs)
        if size == count:
            every = outputs.new_zeros(count, outputs.shape[1])
            every[prompts] = outputs
            logits: Tensor = self._upscale(image, predicted, every)
            return logits if kept == count else logits[prompts]
        filled = torch.arange(-(-kept // size) * size, device=prompts.device).clamp_max(kept - 1)
        parts = [self._upscale(image, predicted.select(prompts[i]), outputs[i]) for i in torch.split(filled, size)]
        return torch.cat(parts)[:kept]


def build_sam2(config: str, overrides: tuple[str, ...] = ()) -> Any:
    """Builds ``SAM2Base`` with untrained weights from a YAML of the package ``sam2``.

    The file is read with OmegaConf and not with ``hydra.compose``: compose needs Hydra's process-wide state,
    which importing sam2 sets unless another library has already claimed it. The state is left as sam2 leaves it,
    since other users of sam2 in the process (FiftyOne's model zoo) rely on it.
    """
    from hydra.errors import HydraException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    file = resources.files("sam2").joinpath(config)
    if not file.is_file():
        raise InputError(f"the installed package sam2 has no config {config!r}; see its folder 'configs'")
    try:
        settings = OmegaConf.merge(
            OmegaConf.create(file.read_text(encoding="utf-8")),
            OmegaConf.from_dotlist([override.lstrip("+") for override in overrides]),
        )
        OmegaConf.resolve(settings)
        model: Any = instantiate(settings.model, _recursive_=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"no SAM2 can be built from {config!r} with overrides {overrides}: {error}") from error
    if model.image_size != 4 * MASK_SIDE or not model.use_high_res_features_in_sam:
        raise InputError(
            f"expected a SAM2 with a 1024 pixel frame and high-resolution features, not {config!r} "
            f"with overrides {overrides}"
        )
    return model


def load_checkpoint(model: nn.Module, path: Path, config: str) -> None:
    """Loads Meta's ``{"model": state_dict}`` strictly; runs no code from the file."""
    expectation = f"expected a SAM2 checkpoint {{'model': weights}} that holds tensors only in {path}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything while it is read
        # torch's own text advises to allow code from the file; ours does not repeat it
        raise WeightsMismatchError(f"{expectation}, but it cannot be read as one; fetch the file again") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise WeightsMismatchError(f"{expectation}, found something else")
    try:
        model.load_state_dict(content["model"], strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = "\n".join(str(error).splitlines()[:6])
        raise WeightsMismatchError(
            f"the checkpoint {path} does not fit the architecture {config!r}; give the config the checkpoint was "
            f"trained with (sam2 and sam2.1 differ). {reason}"
        ) from error
