"""Counts what a computation has to do: floating-point operations and bytes moved.

Torch operators are counted as they are dispatched. Operations come from torch's own counter (a multiply-add is two).
Bytes are each operator's distinct input and output tensors, attention counted as one fused operator: a model of eager
execution in which nothing stays in a cache from one operator to the next. Calls of ONNX Runtime are counted in the same
way, node by node of the graph after the runtime's fusions. Numpy is not counted.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_NO_TRAFFIC = {"aten::_unsafe_view", "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::detach"}
_NO_TRAFFIC_ONNX = {"Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}


def _attention_flops(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


_MISSING_FLOPS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""Torch's counter knows the attention of GPUs only."""


def _torch_counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_MISSING_FLOPS)


class WorkCounter:
    """Counts while ``counting``. ``flops`` and ``bytes`` only grow: a stage is the difference of two readings."""

    def __init__(self) -> None:
        self._torch_flops = _torch_counter()
        self._before = 0.0
        self._torch_bytes = _ByteCounter()
        self._onnx = _OnnxCounter()

    @property
    def flops(self) -> float:
        return self._before + self._torch_flops.get_total_flops() + self._onnx.flops

    @property
    def bytes(self) -> float:
        return self._torch_bytes.total + self._onnx.bytes

    @contextmanager
    def counting(self) -> Iterator[WorkCounter]:
        self._before += self._torch_flops.get_total_flops()  # torch's counter starts from zero each time
        self._torch_flops = _torch_counter()
        threads = torch.get_num_threads()
        with ExitStack() as stack:
            # Torch's modes see one thread only; with one, the decoder has no others.
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, threads)
            stack.enter_context(self._torch_bytes)
            stack.enter_context(self._torch_flops)
            stack.enter_context(self._onnx.listening())
            if hasattr(torch.compiler, "set_stance"):  # a compiled graph would hide its operators
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield self


class _ByteCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # In inference mode composite operators arrive whole; their parts are what moves bytes.
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if not _is_view(func):
            self.total += sum(_distinct([*tree_leaves((args, kwargs)), *tree_leaves(result)]).values())
        return result


def _is_view(func: Any) -> bool:
    views = any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns)
    return views or func._schema.name in _NO_TRAFFIC


def _distinct(values: list[Any]) -> dict[tuple[int, int], int]:
    """(address, bytes) -> bytes of each tensor; what is only expanded is not read more than once."""
    found = {}
    for value in values:
        if isinstance(value, Tensor) and value.layout == torch.strided:
            stored = math.prod(size for size, step in zip(value.shape, value.stride(), strict=True) if step)
            amount = stored * value.element_size() if value.numel() else 0
            found[value.data_ptr(), amount] = amount
    return found


class _OnnxCounter:
    """Listens to every session's ``run``; a graph is analysed once for each set of input shapes."""

    def __init__(self) -> None:
        self.flops = self.bytes = 0.0
        self._known: dict[Any, tuple[float, float]] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        try:
            import onnxruntime
        except ImportError:  # a machine for the torch presets need not have it
            yield
            return
        run = onnxruntime.InferenceSession.run

        def counted(session: Any, names: Any, feed: Mapping[str, Any], *rest: Any, **options: Any) -> Any:
            key = (id(session), *((name, value.shape) for name, value in feed.items()))
            if key not in self._known:
                self._known[key] = onnx_work(_model_of(session), feed, run)
            flops, moved = self._known[key]
            self.flops += flops
            self.bytes += moved
            return run(session, names, feed, *rest, **options)

        onnxruntime.InferenceSession.run = counted
        try:
            yield
        finally:
            onnxruntime.InferenceSession.run = run


def _model_of(session: Any) -> bytes:
    if session._model_bytes is not None:
        return bytes(session._model_bytes)
    with open(session._model_path, "rb") as stream:
        return stream.read()


def onnx_work(model: bytes, feed: Mapping[str, Any], run: Any) -> tuple[float, float]:
    """FLOP and bytes of one run of a graph, from the real sizes of all its tensors.

    Args:
        model: the serialised graph.
        feed: its inputs.
        run: ``InferenceSession.run``.
    """
    import onnx

    graph = _fused(model)
    tensors = {tensor.name: _sizes(onnx.numpy_helper.to_array(tensor)) for tensor in graph.graph.initializer}
    tensors.update({name: _sizes(value) for name, value in feed.items()})
    names = [name for node in graph.graph.node for name in node.output if name]
    del graph.graph.output[:]
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in some)
        values = run(_session(graph.SerializeToString(), "ORT_DISABLE_ALL"), some, feed)
        tensors.update(zip(some, map(_sizes, values), strict=True))
        del graph.graph.output[:]
    flops = moved = 0.0
    for node in graph.graph.node:
        flops += _node_flops(node, tensors)
        if node.op_type not in _NO_TRAFFIC_ONNX:
            moved += sum(tensors[name][1] for name in {*node.input, *node.output} if name in tensors)
    return flops, moved


_AT_ONCE = 64
"""Tensors whose sizes are looked at in one run: all of an image encoder's would take gigabytes."""


def _fused(model: bytes) -> Any:
    """The graph after the runtime's own fusions, but before those that only suit one processor."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.onnx"
        _session(model, "ORT_ENABLE_EXTENDED", str(path))
        return onnx.load(path)


def _session(model: bytes, level: str, save_to: str = "") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = save_to
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _sizes(array: Any) -> tuple[tuple[int, ...], int]:
    return tuple(array.shape), int(array.nbytes)


def _node_flops(node: Any, tensors: Mapping[str, tuple[tuple[int, ...], int]]) -> float:
    """Multiply-adds of the products and convolutions, times two; the rest is left out, as torch's counter does."""
    kind = node.op_type.removeprefix("Fused")
    if kind in ("Conv", "ConvTranspose"):
        # Each output (transposed: each input) element meets one kernel: weights [out, in / groups, h, w] or [in, ...].
        whole = tensors[node.output[0] if kind == "Conv" else node.input[0]][0]
        return 2.0 * math.prod(whole) * math.prod(tensors[node.input[1]][0][1:])
    if kind in ("MatMul", "Gemm"):
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        inner = tensors[node.input[0]][0][-2 if transposed else -1]
        return 2.0 * math.prod(tensors[node.output[0]][0]) * inner
    return 0.0
