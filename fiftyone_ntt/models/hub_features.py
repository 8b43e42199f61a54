"""Feature models through ``transformers`` beside DINOv2: DINOv3, C-RADIO, TIPSv2, and SigLIP.

How a model wants its pixels, and which of its tokens are patches, stands in one table. What a user changes of it is
part of the model's name, and so of every bank and of the candidate cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.compiling import Compiled
from fiftyone_ntt.models.devices import Precision, autocast
from fiftyone_ntt.models.dinov2 import CROP_SIZE, token_grid
from fiftyone_ntt.models.hub_folders import find_folder, hash_of_model, kind_of, load_model
from fiftyone_ntt.pixels.frames import NORMALISATIONS, normalize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    """One kind of model.

    Attributes:
        class_name: in transformers.
        input_size: side of the square input that it takes where no other is asked for.
        normalisation: one of ``NORMALISATIONS``.
        before: how many tokens come before those of the patches, given its config.
        part: which part of its config a folder of the whole model keeps it in.
        call: from the model and normalised images ``[B, 3, H, W]`` to its tokens ``[B, N, C]``.
    """

    class_name: str
    input_size: int
    normalisation: str
    before: Callable[[Any], int]
    part: str | None = None
    call: Callable[[Any, Tensor], Tensor] = lambda model, images: model(pixel_values=images).last_hidden_state


def _patchified(model: Any, images: Tensor) -> Tensor:
    """SigLIP2 takes patches ``[B, N, P * P * 3]`` in rows, and the shape that they had."""
    patch = model.config.patch_size
    count, _, height, width = images.shape
    rows, columns = height // patch, width // patch
    cells = images.reshape(count, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    shapes = torch.tensor([[rows, columns]], device=images.device).expand(count, -1)
    everything = torch.ones(count, rows * columns, dtype=torch.long, device=images.device)
    tokens: Tensor = model(
        pixel_values=cells.reshape(count, rows * columns, -1), pixel_attention_mask=everything, spatial_shapes=shapes
    ).last_hidden_state
    return tokens


def _resampled(model: Any, images: Tensor) -> Tensor:
    tokens: Tensor = model(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state
    return tokens


def _class_and_registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


def _kinds() -> dict[str, _Kind]:
    tips = _Kind("Tipsv2VisionModel", 518, "none", _class_and_registers)
    siglip = _Kind("SiglipVisionModel", 512, "half", lambda config: 0, call=_resampled)
    siglip2 = _Kind("Siglip2VisionModel", 512, "half", lambda config: 0, call=_patchified)
    return {
        "dinov3_vit": _Kind("DINOv3ViTModel", 592, "imagenet", _class_and_registers),
        "dinov3_convnext": _Kind("DINOv3ConvNextModel", 768, "imagenet", lambda config: 1),
        # C-RADIO normalises by itself, and gives its patches apart from its other tokens.
        "radio": _Kind(
            "RadioModel", 592, "none", lambda config: 0, call=lambda model, images: model(pixel_values=images).features
        ),
        "tipsv2_vision_model": tips,
        "tipsv2": _inside(tips),
        "siglip_vision_model": siglip,
        "siglip": _inside(siglip),
        "siglip2_vision_model": siglip2,
        "siglip2": _inside(siglip2),
    }


def _inside(kind: _Kind) -> _Kind:
    """The same model inside one that reads text, too."""
    return _Kind(kind.class_name, kind.input_size, kind.normalisation, kind.before, "vision_config", kind.call)


KINDS = _kinds()
"""``model_type`` of a folder's config.json -> the model."""


class HubFeatures:
    """A ``FeatureModel``: the patch tokens of an image encoder, after its final normalisation if it has one.

    Args:
        path_or_repo: folder written by ``save_pretrained``, or a repository of the Hugging Face hub, e.g.
            ``"facebook/dinov3-vits16-pretrain-lvd1689m"``.
        device: where to run.
        input_size: side of the square input in pixels, a multiple of the patch size; that of the kind where ``None``.
        normalisation: one of ``NORMALISATIONS``, for weights that want another than their kind (DINOv3's for
            satellites: ``"satellite"``).
        positions_removed: how many directions of feature space to project out that tell where a patch is, not what it
            shows: those of a black image. INSID3 (arXiv 2603.28480) removes 500 of DINOv3 large; 0 removes none.
        name: name for provenance; by default the last part of ``path_or_repo``.
        precision: in which the network runs; tokens are float32 in any case.
        compile: run it through ``torch.compile``.

    Raises:
        MissingWeightsError: the weights or a package that the model needs are not to be had.
        WeightsMismatchError: the folder holds another kind of model, or not all of its weights.
        InputError: a setting does not suit the model.
    """

    def __init__(
        self,
        path_or_repo: str | Path,
        *,
        device: str | torch.device = "cpu",
        input_size: int | None = None,
        normalisation: str | None = None,
        positions_removed: int = 0,
        name: str | None = None,
        precision: Precision = "fp32",
        compile: bool = False,
    ) -> None:
        folder = self.folder = find_folder(path_or_repo)
        self.kind_name = kind_of(folder, KINDS)
        self.kind = KINDS[self.kind_name]
        self.device = torch.device(device)
        self.precision = precision
        self.normalisation = normalisation or self.kind.normalisation
        if self.normalisation not in NORMALISATIONS:
            raise InputError(f"expected a normalisation of {', '.join(NORMALISATIONS)}, got {normalisation!r}")
        self.name = _named(name or Path(path_or_repo).name, normalisation, self.kind, positions_removed)
        self.weights_hash = hash_of_model(folder)
        self.model = load_model(folder, self.kind.class_name, self.kind.part)
        self.model.requires_grad_(False).to(self.device)
        config = self.model.config
        self.patch = int(getattr(config, "patch_size", 32))  # a ConvNeXt has strides instead, 32 in all
        self.dim: int = config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size
        self.input_size = self.kind.input_size // self.patch * self.patch if input_size is None else input_size
        self.grid = token_grid(self.input_size, self.patch)
        self.crop_size = min(self.input_size, max(1, CROP_SIZE // self.patch) * self.patch)
        self._removed: Tensor | None = None
        self._forward = Compiled(self._hidden_state, self.name) if compile else self._hidden_state
        if positions_removed:
            self._removed = self._positions(positions_removed)
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
        """See ``CropEncoder.encode_crops``; nothing is compiled."""
        side = self.crop_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise InputError(f"expected crops [B, 3, {side}, {side}], got {list(images.shape)}")
        return self._tokens(images, self._hidden_state)

    def _tokens(self, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        pixels = normalize(images.to(self.device, torch.float32, non_blocking=True), self.normalisation)
        with autocast(self.device, self.precision):
            tokens: Tensor = forward(pixels)[:, self.kind.before(self.model.config) :].float()
        rows, columns = token_grid(images.shape[-1], self.patch)
        tokens = tokens.reshape(len(images), rows, columns, self.dim)
        if self._removed is None:
            return tokens
        projected: Tensor = tokens - (tokens @ self._removed) @ self._removed.T
        return projected

    def _hidden_state(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.kind.call(self.model, pixels)
        return hidden

    @torch.no_grad()
    def _positions(self, count: int) -> Tensor:
        """The ``count`` directions ``[C, count]`` in which the tokens of a black image differ most, of unit length."""
        most = min(self.dim, self.grid[0] * self.grid[1] - 1)
        if not 0 < count < most:
            raise InputError(f"expected positions_removed between 0 and {most - 1} for {self.name}, got {count}")
        black = torch.zeros(1, 3, self.input_size, self.input_size)
        tokens = F.normalize(self._tokens(black, self._hidden_state).flatten(0, 2), dim=-1)  # [N, C]
        directions: Tensor = torch.linalg.svd((tokens - tokens.mean(dim=0)).T, full_matrices=False)[0]
        first: Tensor = directions[:, :count].contiguous()
        return first


def _named(name: str, normalisation: str | None, kind: _Kind, positions_removed: int) -> str:
    """The name with every setting that changes what the model gives."""
    if normalisation not in (None, kind.normalisation):
        name += f"+{normalisation}"
    return f"{name}+{positions_removed}_positions_removed" if positions_removed else name
