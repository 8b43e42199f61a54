"""Patch tokens as a low-rank product: what a new class needs to know of the whole image, in a tenth of the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError

RANK = 64
"""Directions kept of an image's tokens, beside their mean. ``docs/performance.md`` says what that costs."""
_EXTRA, _ROUNDS = 8, 2
_MOST_TOKENS = 1 << 20
"""Of an image; a file of rank 0 could name any number."""


@dataclass(frozen=True, eq=False)
class CompactTokens:
    """Patch tokens: ``mean + (weights * scale) @ basis``.

    Attributes:
        grid: ``(rows, columns)`` of the tokens.
        mean: float16 ``[C]``, the mean token.
        basis: float16 ``[r, C]``, orthonormal up to rounding.
        scale: float32 ``[r]``, what one step of a weight is worth.
        weights: int8 ``[rows * columns, r]``.
    """

    grid: tuple[int, int]
    mean: NDArray[np.float16]
    basis: NDArray[np.float16]
    scale: NDArray[np.float32]
    weights: NDArray[np.int8]

    def full(self) -> NDArray[np.float32]:
        """The tokens: float32 ``[rows, columns, C]``."""
        tokens = (self.weights * self.scale) @ self.basis.astype(np.float32) + self.mean.astype(np.float32)
        return np.asarray(tokens.reshape(*self.grid, -1), np.float32)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, as ``from_arrays`` takes them."""
        return {
            "token_grid": np.array(self.grid, np.int64),
            "token_mean": self.mean,
            "token_basis": self.basis,
            "token_scale": self.scale,
            "token_weights": self.weights,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CompactTokens:
        """The tokens from their arrays.

        Raises:
            InputError: if these do not fit each other.
            KeyError: if one is missing.
        """
        rows, columns = (int(value) for value in arrays["token_grid"])
        mean, basis, scale, weights = (arrays[f"token_{name}"] for name in ("mean", "basis", "scale", "weights"))
        rank, channels = basis.shape
        if not (rows >= 1 and columns >= 1 and rows * columns <= _MOST_TOKENS):
            raise InputError(f"expected a grid of 1 to {_MOST_TOKENS} tokens, got {rows} x {columns}")
        expected: dict[str, tuple[NDArray[Any], Any, tuple[int, ...]]] = {
            "mean": (mean, np.float16, (channels,)),
            "basis": (basis, np.float16, (rank, channels)),
            "scale": (scale, np.float32, (rank,)),
            "weights": (weights, np.int8, (rows * columns, rank)),
        }
        for name, (array, kind, shape) in expected.items():
            if array.dtype != kind or array.shape != shape:
                raise InputError(
                    f"expected token_{name} of {np.dtype(kind).name} {list(shape)}, "
                    f"got {array.dtype} {list(array.shape)}"
                )
        return cls((rows, columns), mean, basis, scale, weights)


def compact_tokens(tokens: Tensor, rank: int = RANK) -> CompactTokens:
    """Keeps the ``rank`` strongest directions of an image's tokens.

    Found by a few rounds of subspace iteration from a fixed start, so that the same tokens always give the same result.

    Args:
        tokens: float ``[rows, columns, C]``.
        rank: directions kept at most.
    """
    rows, columns, channels = tokens.shape
    flat = tokens.reshape(-1, channels).float()
    mean = flat.mean(dim=0)
    centred = flat - mean
    basis = _strongest_directions(centred, min(rank, *centred.shape))
    weights = centred @ basis.T
    scale = weights.abs().amax(dim=0).clamp(min=1e-12) / 127
    return CompactTokens(
        (int(rows), int(columns)),
        mean.half().cpu().numpy(),
        basis.half().cpu().numpy(),
        scale.cpu().numpy(),
        (weights / scale).round().to(torch.int8).cpu().numpy(),
    )


def _strongest_directions(centred: Tensor, rank: int) -> Tensor:
    """Orthonormal float32 ``[rank, C]``: the leading right singular vectors of float32 ``[T, C]``, nearly."""
    width = min(rank + _EXTRA, *centred.shape)
    start = torch.linspace(0, len(centred) - 1, width, device=centred.device).round().long()
    directions = centred[start].T
    for _ in range(_ROUNDS):
        directions = torch.linalg.qr(directions)[0]
        directions = centred.T @ (centred @ directions)
    directions = torch.linalg.qr(directions)[0]
    _, vectors = torch.linalg.eigh((centred @ directions).T @ (centred @ directions))
    strongest: Tensor = directions @ vectors.flip(1)[:, :rank]
    return strongest.T.contiguous()
