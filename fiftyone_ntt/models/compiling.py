"""``torch.compile`` for the functions of models: once a shape, and only where it computes the same."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fiftyone_ntt.errors import counted
from fiftyone_ntt.models.devices import is_autocast

logger = logging.getLogger(__name__)

GRAPHS_VARIABLE = "FIFTYONE_NTT_CUDA_GRAPHS"
"""Environment variable: "1" lets what is compiled run as CUDA graphs, too."""
_MOST_SHAPES = 8
"""Shapes that one function is compiled for; each takes up to minutes."""
_OFF, _OFF_IN_HALF = 5e-3, 5e-2
"""How far results may be from plain ones, relative to their norm, in float32 (TF32 included) and in half precision."""


def cuda_graphs() -> bool:
    """Whether compiled functions are to run as CUDA graphs. Only tried so far where there is no such device."""
    return os.environ.get(GRAPHS_VARIABLE) == "1"


class Compiled:
    """A function of tensors through ``torch.compile``, once for each shape; plain where that does not work.

    Whatever a device, a driver or a version computes wrongly shows at the first call with a shape, whose result is
    compared with the plain one: then the function runs plainly, too.

    Args:
        function: what to compile. It takes tensors and gives tensors, which may be in lists, mappings, dataclasses.
        name: of the model, for the log.
        what: what its last argument holds several of, for the log.
        used_up: whether results are used up before the next call: then none is copied out of a CUDA graph.
    """

    def __init__(self, function: Callable[..., Any], name: str, what: str = "image", used_up: bool = False) -> None:
        self._plain, self._name, self._what, self._used_up = function, name, what, used_up
        self._graphs = cuda_graphs()
        _allow_many_shapes()
        mode = "reduce-overhead" if self._graphs else "default"
        self._compiled: Callable[..., Any] | None = torch.compile(function, dynamic=False, mode=mode)
        self._seen: set[tuple[torch.Size, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, *given: Any) -> Any:
        """The function's result. The first call with a shape compiles, which takes up to minutes."""
        shapes = tuple(tensor.shape for tensor in _tensors(given))
        if shapes not in self._seen and self._compiled is not None and len(self._seen) < _MOST_SHAPES:
            with self._lock:  # others wait: what they would do meanwhile is the same
                if shapes not in self._seen:
                    return self._first(shapes, given)
        compiled = self._compiled if shapes in self._seen else None
        return self._plain(*given) if compiled is None else self._owned(compiled(*given))

    def _first(self, shapes: tuple[torch.Size, ...], given: tuple[Any, ...]) -> Any:
        """The result of the first call with a shape; the plain one where there is no other, or another one."""
        compiled, started = self._compiled, time.perf_counter()
        if compiled is None:
            return self._plain(*given)
        try:
            for _ in range(3 if self._graphs else 1):  # the second call records a graph, the third one plays it
                result = self._owned(compiled(*given))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no C++ compiler, no Triton, an operator they do not know
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return self._given_up(f"which only costs speed: {reason}", given)
        seconds = time.perf_counter() - started
        plain = self._plain(*given)
        off = max(map(_distance, _tensors(result), _tensors(plain)), default=0.0)
        if not off <= (_OFF_IN_HALF if is_autocast(_tensors(given)[0].device) else _OFF):
            return self._given_up(f"which only costs speed: its results would be {100 * off:.1f} % off", given)
        self._seen.add(shapes)
        count = counted(len(_tensors(given)[-1]), self._what)
        logger.info("%s is compiled: the first %s took %.0f s", self._name, count, seconds)
        return result

    def _given_up(self, why: str, given: tuple[Any, ...]) -> Any:
        self._compiled = None
        logger.warning("%s is not compiled, %s", self._name, why)
        return self._plain(*given)

    def _owned(self, result: Any) -> Any:
        """A result that is the caller's: the next graph that is played writes over what the last one gave."""
        return _mapped(torch.Tensor.clone, result) if self._graphs and not self._used_up else result


def _allow_many_shapes() -> None:
    """Torch counts what it compiled by the function's code, which models and devices share, and gives up at eight."""
    import torch._dynamo  # what ``torch.compile`` would import

    for name in ("recompile_limit", "cache_size_limit"):  # the same, in newer and older versions
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, max(128, getattr(torch._dynamo.config, name)))


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(change, item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(change, item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: _mapped(change, getattr(value, item.name)) for item in fields(value)})
    return value


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in a value, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(keep, value)
    return found


def _distance(one: Tensor, other: Tensor) -> float:
    """How far one is from the other, relative to the other's norm."""
    return float((one - other).float().norm() / other.float().norm().clamp_min(1e-30))
