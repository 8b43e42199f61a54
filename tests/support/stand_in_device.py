"""Another device without one, for checks of where tensors lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def elsewhere() -> Iterator[None]:
    """Torch's device "meta" as a stand-in for an accelerator: tensors there have no values, and mix with none here.

    ``FakeTensorMode`` refuses to mix; it overlooks convolutions and look-ups in tables, which ``_OneDevice`` does not.
    A fake device "cuda" would be better, but a torch that was built for the CPU cannot even slice a tensor there.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()), _OneDevice():
        yield


class _OneDevice(torch.overrides.TorchFunctionMode):
    """Refuses what ``FakeTensorMode`` lets through."""

    NAMES = frozenset({"conv2d", "conv_transpose2d", "embedding"})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.NAMES:
            parts = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
            devices = {part.device.type for part in parts}
            assert len(devices) == 1, f"{func.__name__} mixes {devices}"
        return func(*args, **kwargs)
