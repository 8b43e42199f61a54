"""DINOv2, with and without registers, as a feature model, through ``transformers``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.compiling import Compiled
from fiftyone_ntt.models.devices import Precision, autocast
from fiftyone_ntt.models.hub_folders import find_folder, hash_of_folder, kind_of, load_model
from fiftyone_ntt.pixels.frames import imagenet_normalize

logger = logging.getLogger(__name__)

INPUT_SIZE = 518
CROP_SIZE = 256
"""About the side of the input that crops are encoded at; the patch grid decides it."""
CLASSES = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}
"""``model_type`` of a folder's config.json -> class in transformers."""


class Dinov2:
    """A ``FeatureModel``: the patch tokens of a DINOv2 vision transformer after its final LayerNorm.

    Args:
        path_or_repo: folder written by ``save_pretrained``, or a repository of the Hugging Face hub, e.g.
            ``"facebook/dinov2-large"``; only ``config.json`` and safetensors files are used.
        device: where to run.
        input_size: side of the square input in pixels; a multiple of the patch size.
        name: name for provenance; by default the last part of ``path_or_repo``.
        precision: in which the transformer runs; tokens are float32 in any case.
        compile: run it through ``torch.compile``.

    Raises:
        MissingWeightsError: neither a folder, nor in the hub's cache, nor to be had from the hub.
        WeightsMismatchError: the folder holds another kind of model, or not all of its weights.
        InputError: ``input_size`` does not suit the model.
    """

    def __init__(
        self,
        path_or_repo: str | Path,
        *,
        device: str | torch.device = "cpu",
        input_size: int = INPUT_SIZE,
        name: str | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        folder = find_folder(path_or_repo)
        self.device = torch.device(device)
        self.precision = precision
        self.name = name or Path(path_or_repo).name
        self.weights_hash = hash_of_folder(folder)
        self.model = load_model(folder, CLASSES[kind_of(folder, CLASSES)])
        self.model.requires_grad_(False).to(self.device)
        self.input_size = input_size
        self.grid = token_grid(input_size, self.model.config.patch_size)
        self.crop_size = min(
            input_size, max(1, CROP_SIZE // self.model.config.patch_size) * self.model.config.patch_size
        )
        self.dim: int = self.model.config.hidden_size
        # the class token and the registers come before the patches
        self._skip = 1 + int(getattr(self.model.config, "num_register_tokens", 0))
        self._forward = Compiled(self._hidden_state, self.name) if compile else self._hidden_state
        logger.info("loaded %s on %s", self.name, self.device)
        logger.debug("%s is from %s", self.name, folder)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encodes float32 ``[B, 3, input_size, input_size]`` RGB in 0..1.

        Returns:
            Patch tokens float32 ``[B, rows, columns, dim]``, row-major, not l2-normalised, on the model's device.
        """
        side = self.input_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise InputError(f"expected images [B, 3, {side}, {side}], got {list(images.shape)}")
        return self._tokens(images, self._forward)

    @torch.no_grad()
    def encode_crops(self, images: Tensor) -> Tensor:
        """See ``CropEncoder.encode_crops``; position embeddings are interpolated, and nothing is compiled."""
        side = self.crop_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise InputError(f"expected crops [B, 3, {side}, {side}], got {list(images.shape)}")
        return self._tokens(images, self._hidden_state)

    def _tokens(self, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        pixels = imagenet_normalize(images.to(self.device, torch.float32, non_blocking=True))
        with autocast(self.device, self.precision):
            tokens: Tensor = forward(pixels)[:, self._skip :].float()
        rows, columns = token_grid(images.shape[-1], self.model.config.patch_size)
        return tokens.reshape(len(images), rows, columns, self.dim)

    def _hidden_state(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden


def token_grid(input_size: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of the tokens of a square input; refuses one that patches do not fill."""
    if input_size < patch_size or input_size % patch_size:
        raise InputError(f"expected an input size that is a multiple of the patch size {patch_size}, got {input_size}")
    return input_size // patch_size, input_size // patch_size
