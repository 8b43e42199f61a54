"""The pieces of ``mask_decoder``: parameters, attention, and image tokens that are never written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.devices import autocast

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

NORM_EPS = 1e-5


def centred(values: Tensor) -> Tensor:
    return values - values.mean(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Linear:
    """``x @ weight + bias``: weight ``[in, out]``."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


class Weights:
    """The decoder's parameters by the names that SAM gives them."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def tensor(self, name: str) -> Tensor:
        if name not in self.state:
            raise InputError(f"expected a SAM mask decoder, got one without {name!r}")
        return self.state[name].detach().float()

    def linear(self, name: str) -> Linear:
        return Linear(self.tensor(f"{name}.weight").T.contiguous(), self.tensor(f"{name}.bias"))

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        return self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")

    def mlp(self, name: str) -> list[Linear]:
        count = sum(key.startswith(f"{name}.layers.") and key.endswith(".weight") for key in self.state)
        return [self.linear(f"{name}.layers.{i}") for i in range(count)]


class Attention:
    """The four projections of one attention, split into heads."""

    def __init__(self, weights: Weights, name: str, heads: int) -> None:
        self.q, self.k, self.v, self.out = (weights.linear(f"{name}.{part}_proj") for part in ("q", "k", "v", "out"))
        self.heads = heads
        self.scale = (self.q.weight.shape[1] // heads) ** -0.5

    def split(self, x: Tensor) -> Tensor:
        """``[P, T, heads * d]`` -> ``[P, heads, T, d]``."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """``[P, heads, T, d]`` -> what the output projection makes of it, ``[P, T, D]``."""
        return self.out(x.transpose(1, 2).flatten(2))

    def among_tokens(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of tokens ``[P, T, D]``: what the output projection makes of it, ``[P, T, D]``."""
        q, k, v = self.split(self.q(q)), self.split(self.k(k)), self.split(self.v(v))
        return self.join(F.scaled_dot_product_attention(q, k, v))

    def image_side(self, projected: Tensor) -> Tensor:
        """Projected image tokens ``[N, heads * d]`` as ``[heads, d, N]``."""
        return torch.unflatten(projected.T, 0, (self.heads, -1)).contiguous()

    def projected(self, scaled: Tensor, projection: Linear, fixed: Tensor) -> Projected:
        """One projection of image tokens ``scale * scaled + ... + fixed``; ``[N, D]``, or ``[D]`` without positions."""
        rest = projection(fixed)
        return Projected(self.image_side(scaled @ projection.weight), self.image_side(rest) if rest.ndim > 1 else rest)

    def basis_of(self, values: Tensor, out: Tensor) -> Tensor:
        """What values ``[P, heads, T, d]`` add to a pixel through ``out`` ``[heads * d, D]``: ``[P, heads T, D]``."""
        return (values @ torch.unflatten(out, 0, (self.heads, -1))).flatten(1, 2)

    def basis_side(self, basis: Tensor, projection: Linear) -> Tensor:
        """A projection of basis vectors ``[P, K, D]``, without bias: ``[P, heads, K, d]``."""
        return self.split(basis @ projection.weight)

    def scores(self, q: Tensor, keys: Projected, tokens: ImageTokens, projection: Linear) -> Tensor:
        """Queries ``[P, heads, T, d]`` times what a projection makes of the image tokens: ``[P, heads T, N]``."""
        scores = shared(q, keys.scaled).flatten(1, 2)
        for coefficients, basis in zip(tokens.coefficients, tokens.basis, strict=True):
            scores.baddbmm_((q @ self.basis_side(basis, projection).transpose(2, 3)).flatten(1, 2), coefficients)
        return torch.addcmul(shared(q, keys.fixed).flatten(1, 2), scores, tokens.scale)

    def look(self, q: Tensor, keys: Projected, values: Projected, tokens: ImageTokens) -> Tensor:
        """Tokens' queries attend to the image tokens: what the output projection makes of it, ``[P, T, D]``."""
        attention = self.scores(q, keys, tokens, self.k).softmax(dim=-1).mul_(tokens.scale)
        seen = shared_values(torch.unflatten(attention, 1, q.shape[1:3]), values.scaled)
        for coefficients, basis in zip(tokens.coefficients, tokens.basis, strict=True):
            mixed = torch.unflatten(attention @ coefficients.transpose(1, 2), 1, q.shape[1:3])
            seen = seen + mixed @ self.basis_side(basis, self.v)
        return self.join(seen + self.split(values.fixed[None, None]))


@dataclass(frozen=True, eq=False)
class Projected:
    """One projection of the image tokens as far as all prompts share it.

    Attributes:
        scaled: ``[heads, d, N]``, to be multiplied by each prompt's ``scale``.
        fixed: the rest: ``[heads, d, N]`` where a position counts, ``[heads * d]`` where it does not.
    """

    scaled: Tensor
    fixed: Tensor


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The image tokens of P prompts: ``scale * (shared + coefficients.T @ basis) + constant``; see ``mask_decoder``.

    Attributes:
        scale: ``[P, 1, N]``.
        coefficients: one ``[P, K, N]`` a layer; K is heads times tokens.
        basis: one ``[P, K, D]`` a layer.
    """

    scale: Tensor
    coefficients: tuple[Tensor, ...]
    basis: tuple[Tensor, ...]

    def select(self, prompts: Tensor) -> ImageTokens:
        """Those of some prompts, int64 ``[k]``."""
        coefficients, basis = (tuple(part[prompts] for part in parts) for parts in (self.coefficients, self.basis))
        return ImageTokens(self.scale[prompts], coefficients, basis)


def in_float32(method: MethodT) -> MethodT:
    """A method of ``MaskDecoder`` that its caller's autocast leaves alone: masks near their threshold would differ."""

    @wraps(method)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        with autocast(self.constant.device, "fp32"):
            return method(self, *given, **named)

    return cast(MethodT, call)


def shared(x: Tensor, image: Tensor) -> Tensor:
    """Head by head, tokens ``[P, h, T, d]`` times the image's ``[h, d, N]`` that all share: ``[P, h, T, N]``."""
    prompts, heads, tokens, channels = x.shape
    if x.device.type == "cpu":  # prompt by prompt each product lands where it belongs, and nothing is moved afterwards
        product = x.new_empty(prompts, heads, tokens, image.shape[2])
        for one, out in zip(x, product, strict=True):
            torch.bmm(one, image, out=out)
        return product
    product = torch.bmm(x.transpose(0, 1).reshape(heads, prompts * tokens, channels), image)
    return product.view(heads, prompts, tokens, image.shape[2]).transpose(0, 1)


def shared_values(attention: Tensor, values: Tensor) -> Tensor:
    """Head by head, ``[P, h, T, N]`` times ``[h, d, N]`` of the image that all prompts share: ``[P, h, T, d]``."""
    prompts, heads, tokens, pixels = attention.shape
    product = torch.bmm(attention.transpose(0, 1).reshape(heads, prompts * tokens, pixels), values.transpose(1, 2))
    return product.view(heads, prompts, tokens, values.shape[1]).transpose(0, 1)


def variance(square: Tensor, cross: list[Tensor], coefficients: tuple[Tensor, ...], basis: list[Tensor]) -> Tensor:
    """The variance of ``shared + coefficients.T @ basis`` over its D centred channels.

    Args:
        square: ``[..., N]``, the sum of squares of the shared part.
        cross: ``[P, K, N]`` a layer, products of each basis vector with the shared part; overwritten.
        coefficients: ``[P, K, N]`` a layer.
        basis: ``[P, K, D]`` a layer.

    Returns:
        ``[P, 1, N]``.
    """
    total = square
    for i, (inner, ours) in enumerate(zip(cross, coefficients, strict=True)):
        # The products are symmetric: those of two layers are made once and count twice.
        inner.baddbmm_(basis[i] @ basis[i].transpose(1, 2), ours, beta=2)
        for other, theirs in zip(basis[i + 1 :], coefficients[i + 1 :], strict=True):
            inner.baddbmm_(basis[i] @ other.transpose(1, 2), theirs, alpha=2)
        total = inner.mul_(ours).sum(dim=1, keepdim=True) + total
    return (total / basis[0].shape[-1]).clamp_(min=0)  # a sum of squares, but for its rounding


def mlp(layers: list[Linear], x: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x = F.relu(layer(x))
    return layers[-1](x)
