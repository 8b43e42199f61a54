"""SAM's mask decoder, arranged for many prompts on one image: the same numbers up to rounding, a third of the work.

SAM, MobileSAM, SAM2 and SAM2.1 share this decoder: two layers in which a few tokens (T = 7 or 8) and N = 4096 image
tokens attend to each other, a last look of the tokens at the image, and two up-scaling convolutions. As written, each
prompt drags a tensor ``[N, 256]`` of image tokens through all of it. Here that tensor is never made, because it
always is

    image tokens = scale * (shared + coefficients.T @ basis) + constant

with ``shared`` ``[N, 256]`` the same for every prompt, ``scale`` one number a pixel (a layer norm's),
``coefficients`` ``[8 T, N]`` each pixel's attention to the tokens, and ``basis`` ``[8 T, 256]`` what those tokens
say. A projection of it is the projection of ``shared``, made once per image, plus a product of rank 8 T. A layer norm
needs only its variance, a quadratic form of the coefficients. The predicted IoU comes first; only the masks that are
wanted are up-scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fiftyone_ntt.models.decoder_parts import (
    NORM_EPS,
    Attention,
    ImageTokens,
    Linear,
    Projected,
    Weights,
    centred,
    in_float32,
    mlp,
    shared,
    shared_values,
    variance,
)
from fiftyone_ntt.models.devices import parallel_map

R = TypeVar("R")

_UPSCALE_EPS = 1e-6
_PIXELS_AT_ONCE = 256
"""Image tokens up-scaled at once on the CPU: their 4 MB of intermediate values stay in the cache."""
_PROMPTS_AT_ONCE = 4
"""Prompts decoded at once on the CPU, for the same reason."""


class _Layer:
    """One two-way layer's parameters."""

    def __init__(self, weights: Weights, name: str, heads: int) -> None:
        self.among = Attention(weights, f"{name}.self_attn", heads)
        self.to_image = Attention(weights, f"{name}.cross_attn_token_to_image", heads)
        self.from_image = Attention(weights, f"{name}.cross_attn_image_to_token", heads)
        self.mlp = weights.mlp(f"{name}.mlp")
        self.norms = [weights.norm(f"{name}.norm{i}") for i in (1, 2, 3)]
        self.gain, self.offset = weights.norm(f"{name}.norm4")

    def norm(self, i: int, tokens: Tensor) -> Tensor:
        """Layer norm ``i`` (1 to 3) of tokens."""
        return F.layer_norm(tokens, tokens.shape[-1:], *self.norms[i - 1], eps=NORM_EPS)

    def digest(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Tokens after they have looked at the image."""
        tokens = self.norm(2, tokens + seen)
        return self.norm(3, tokens + mlp(self.mlp, tokens))

    def offer(self, tokens: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (scaled) and values ``[P, heads, T, d]`` that tokens offer to the image."""
        back = self.from_image
        return back.split(back.k(tokens + start)) * back.scale, back.split(back.v(tokens))


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """The image's side of every product, made once per image. N pixels, 8 heads of d channels.

    Attributes:
        first_keys: layer 0, ``[8, d, N]``.
        first_values: layer 0, ``[8, d, N]``.
        first_queries: layer 0, ``[8, d, N]``.
        keys: layer 1.
        values: layer 1.
        queries: layer 1.
        last_keys: the tokens' last look.
        last_values: the same.
        squares: ``[N]`` each, sums of squares of the shared part before the layer norm of layer 0 and of layer 1.
        crosses: ``[8, d, N]`` each, the shared part paired with what tokens of layer 0 can add to it, at the norm of
            layer 0; likewise at that of layer 1; and with what tokens of layer 1 can add.
        cross_constant: ``[N]``, the shared part of layer 1 paired with the constant added there.
        upscaled: ``[N, 4 * 64]``, the shared part through the first up-scaling.
        high_res: SAM2's features ``[N, 4, 64]`` and ``[N, 4, 4, 32]``, in the order in which masks are up-scaled.
    """

    first_keys: Tensor
    first_values: Tensor
    first_queries: Tensor
    keys: Projected
    values: Projected
    queries: Projected
    last_keys: Projected
    last_values: Projected
    squares: tuple[Tensor, Tensor]
    crosses: tuple[Tensor, Tensor, Tensor]
    cross_constant: Tensor
    upscaled: Tensor
    high_res: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class Predicted:
    """What P prompts gave; their masks are not up-scaled yet.

    Attributes:
        iou: float32 ``[P, 4]`` predicted IoU of the single-mask output and of the three others.
        mask_tokens: ``[P, 4, D]``.
        image: the image tokens after the last layer.
    """

    iou: Tensor
    mask_tokens: Tensor
    image: ImageTokens

    def select(self, prompts: Tensor) -> Predicted:
        """Those of some prompts, int64 ``[k]``."""
        if len(prompts) == len(self.iou):
            return self  # all of them: no copy
        return Predicted(self.iou[prompts], self.mask_tokens[prompts], self.image.select(prompts))


class Steps(Protocol):
    """What ``MaskDecoder.best`` does with a batch of prompts; compiled, or as they are."""

    def predict(self, image: PreparedImage, sparse: Tensor) -> Predicted:
        """See ``MaskDecoder.predict``."""
        ...

    def upscale_some(self, image: PreparedImage, predicted: Predicted, prompts: Tensor, outputs: Tensor) -> Tensor:
        """``MaskDecoder.upscale`` of some of the prompts, int64 ``[k]``, with the masks ``[k, m]`` of each."""
        ...


class MaskDecoder:
    """The decoder of one SAM.

    Args:
        state: parameters by SAM's names (``transformer.layers.0.self_attn.q_proj.weight`` ...).
        heads: attention heads.
        sigmoid_iou: whether the predicted IoU goes through a sigmoid (SAM2) or not (SAM).

    Raises:
        InputError: if the parameters are not those of this architecture.
    """

    def __init__(self, state: Mapping[str, Tensor], *, heads: int = 8, sigmoid_iou: bool = False) -> None:
        weights = Weights(state)
        self.layers = [_Layer(weights, f"transformer.layers.{i}", heads) for i in (0, 1)]
        self.final = Attention(weights, "transformer.final_attn_token_to_image", heads)
        self.final_norm = weights.norm("transformer.norm_final_attn")
        self.iou_head = weights.mlp("iou_prediction_head")
        self.sigmoid_iou = sigmoid_iou
        names = ("obj_score_token", "iou_token", "mask_tokens")
        present = [name for name in names if f"{name}.weight" in state]
        self.start = torch.cat([weights.tensor(f"{name}.weight") for name in present])
        self.masks = len(weights.tensor("mask_tokens.weight"))
        self.hyper = [weights.mlp(f"output_hypernetworks_mlps.{i}") for i in range(self.masks)]
        self.up1, self.up2 = (_upscaling(weights, f"output_upscaling.{i}") for i in (0, 3))
        self.up_norm = weights.norm("output_upscaling.1")
        first, second = self.layers
        self.compiled: Steps | None = None
        # What the layer norms do to what tokens add: its mean goes, then each channel has its gain.
        self.added0 = centred(first.from_image.out.weight)
        self.added0_later = centred(self.added0 * first.gain)
        self.added1 = centred(second.from_image.out.weight)
        self.constant = centred(first.offset + second.from_image.out.bias)

    @in_float32
    @torch.no_grad()
    def prepare(
        self, image: Tensor, position: Tensor, dense: Tensor, high_res: tuple[Tensor, Tensor] | None = None
    ) -> PreparedImage:
        """Makes the image's side of all products.

        Args:
            image: float32 ``[1, D, h, w]`` image embedding.
            position: float32 ``[1, D, h, w]`` its positional encoding.
            dense: float32 ``[1, D]``, the embedding for "no mask was given".
            high_res: ``[1, 32, 4h, 4w]`` and ``[1, 64, 2h, 2w]`` features of SAM2; ``None`` for SAM.
        """
        first, second = self.layers
        look0, look1, last = first.to_image, second.to_image, self.final
        back0, back1 = first.from_image, second.from_image
        keys, where = (part.flatten(2)[0].T for part in (image, position))
        keys = keys + dense
        shared0 = centred(keys + back0.out.bias)
        after0 = shared0 * first.gain
        shared1 = centred(after0)
        after1 = shared1 * second.gain
        return PreparedImage(
            first_keys=look0.image_side(look0.k(keys + where)),
            first_values=look0.image_side(look0.v(keys)),
            first_queries=back0.image_side(back0.q(keys + where)),
            keys=look1.projected(after0, look1.k, first.offset + where),
            values=look1.projected(after0, look1.v, first.offset),
            queries=back1.projected(after0, back1.q, first.offset + where),
            last_keys=last.projected(after1, last.k, second.offset + where),
            last_values=last.projected(after1, last.v, second.offset),
            squares=(shared0.square().sum(dim=-1), shared1.square().sum(dim=-1)),
            crosses=(
                back0.image_side(shared0 @ self.added0.T),
                back0.image_side(shared1 @ self.added0_later.T),
                back1.image_side(shared1 @ self.added1.T),
            ),
            cross_constant=shared1 @ self.constant,
            upscaled=after1 @ self.up1.weight,
            high_res=None if high_res is None else _in_cells(*high_res),
        )

    @torch.no_grad()
    def predict(self, image: PreparedImage, sparse: Tensor) -> Predicted:
        """Runs the transformer for P prompts.

        Args:
            image: what ``prepare`` made.
            sparse: float32 ``[P, n, D]`` prompt embeddings, the padding point included.
        """
        start = torch.cat([self.start.expand(len(sparse), -1, -1), sparse], dim=1)  # [P, T, D] output and prompt tokens
        tokens, values, seen = self._first_layer(image, start)
        tokens, after = self._second_layer(image, start, tokens, values, seen)
        # The tokens' last look at the image.
        q = self.final.split(self.final.q(tokens + start)) * self.final.scale
        tokens = tokens + self.final.look(q, image.last_keys, image.last_values, after)
        tokens = F.layer_norm(tokens, tokens.shape[-1:], *self.final_norm, eps=NORM_EPS)
        masks_from = len(self.start) - self.masks
        iou = mlp(self.iou_head, tokens[:, masks_from - 1])  # [P, 4]
        iou = iou.sigmoid() if self.sigmoid_iou else iou
        return Predicted(iou, tokens[:, masks_from : len(self.start)], after)

    def _first_layer(self, image: PreparedImage, start: Tensor) -> tuple[Tensor, Tensor, ImageTokens]:
        """Tokens, the values they offered to the image, and the image tokens that come of it."""
        layer = self.layers[0]
        look, back = layer.to_image, layer.from_image
        tokens = layer.norm(1, layer.among.among_tokens(start, start, start))
        q = look.split(look.q(tokens + start)) * look.scale
        attention = shared(q, image.first_keys).softmax(dim=-1)  # [P, heads, T, N]
        tokens = layer.digest(tokens, look.join(shared_values(attention, image.first_values)))
        # The image looks back: each pixel takes up a mixture of what the tokens offer.
        keys, values = layer.offer(tokens, start)
        coefficients = shared(keys, image.first_queries).softmax(dim=2).flatten(1, 2)
        basis = back.basis_of(values, self.added0)
        cross = shared(values, image.crosses[0]).flatten(1, 2)
        spread = variance(image.squares[0], [cross], (coefficients,), [basis])
        return tokens, values, ImageTokens((spread + NORM_EPS).rsqrt_(), (coefficients,), (basis * layer.gain,))

    def _second_layer(
        self, image: PreparedImage, start: Tensor, tokens: Tensor, values0: Tensor, before: ImageTokens
    ) -> tuple[Tensor, ImageTokens]:
        """Tokens, and the image tokens after the last layer."""
        layer = self.layers[1]
        look, back = layer.to_image, layer.from_image
        tokens = layer.norm(1, tokens + layer.among.among_tokens(tokens + start, tokens + start, tokens))
        q = look.split(look.q(tokens + start)) * look.scale
        tokens = layer.digest(tokens, look.look(q, image.keys, image.values, before))
        keys, values = layer.offer(tokens, start)
        scores = back.scores(keys, image.queries, before, back.q)
        attention = torch.unflatten(scores, 1, keys.shape[1:3]).softmax(dim=2).flatten(1, 2)
        # Under one scale with what is there already.
        coefficients = (*before.coefficients, attention.div_(before.scale))
        basis = [back.basis_of(values0, self.added0_later), back.basis_of(values, self.added1)]
        sides = (values0, image.crosses[1]), (values, image.crosses[2])
        cross = [shared(offered, side).flatten(1, 2) for offered, side in sides]
        # Each pixel's attention to the tokens of one head sums to one: there the constant can ride along.
        riders = slice(0, tokens.shape[1])
        basis[1][:, riders] += self.constant
        cross[1][:, riders] += image.cross_constant
        spread = variance(image.squares[1], cross, coefficients, basis).mul_(before.scale.square())
        scale = (spread + NORM_EPS).rsqrt_().mul_(before.scale)
        return tokens, ImageTokens(scale, coefficients, tuple(part * layer.gain for part in basis))

    @in_float32
    def best(
        self, image: PreparedImage, sparse: Tensor, threshold: float, among: tuple[int, ...] = (0, 1, 2)
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The multi-mask output with the highest predicted IoU, of each prompt in which that is above a threshold.

        Args:
            image: what ``prepare`` made.
            sparse: float32 ``[P, n, D]`` prompt embeddings, the padding point included.
            threshold: of the predicted IoU.
            among: the multi-mask outputs to choose from.

        Returns:
            int64 ``[k]`` which prompts, logits float32 ``[k, 4h, 4w]`` and predicted IoU float32 ``[k]``.
        """
        steps, outputs = self.compiled or self, 1 + torch.tensor(among, device=sparse.device)

        def decode(part: tuple[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            first, prompts = part
            predicted = steps.predict(image, prompts)
            iou, place = predicted.iou[:, outputs].max(dim=1)
            above = (iou > threshold).nonzero()[:, 0]
            logits = steps.upscale_some(image, predicted, above, outputs[place[above], None])[:, 0]
            return above + first, logits, iou[above]

        kept, logits, ious = zip(*_mapped(decode, sparse), strict=True)
        return torch.cat(kept), torch.cat(logits), torch.cat(ious)

    @in_float32
    def outputs(self, image: PreparedImage, sparse: Tensor, which: range) -> tuple[Tensor, Tensor]:
        """The same masks of every prompt: logits float32 ``[P, m, 4h, 4w]`` and predicted IoU ``[P, m]``.

        Args:
            image: what ``prepare`` made.
            sparse: float32 ``[P, n, D]`` prompt embeddings, the padding point included if there is one.
            which: which of the four outputs; 0 is the single mask, 1 to 3 are the multi-mask outputs.
        """
        wanted = torch.tensor(list(which), device=sparse.device)

        def decode(part: tuple[int, Tensor]) -> tuple[Tensor, Tensor]:
            predicted = self.predict(image, part[1])
            return self.upscale(image, predicted, wanted.expand(len(part[1]), -1)), predicted.iou[:, wanted]

        logits, ious = zip(*_mapped(decode, sparse), strict=True)
        return torch.cat(logits), torch.cat(ious)

    def upscale_some(self, image: PreparedImage, predicted: Predicted, prompts: Tensor, outputs: Tensor) -> Tensor:
        """See ``Steps``."""
        return self.upscale(image, predicted.select(prompts), outputs)

    @torch.no_grad()
    def upscale(self, image: PreparedImage, predicted: Predicted, outputs: Tensor) -> Tensor:
        """Up-scales one or more masks of each prompt.

        Args:
            image: what ``prepare`` made.
            predicted: what ``predict`` gave for P prompts.
            outputs: int64 ``[P, m]``, which of the four masks.

        Returns:
            Logits float32 ``[P, m, 4h, 4w]``.
        """
        every = torch.stack([mlp(layers, predicted.mask_tokens[:, i]) for i, layers in enumerate(self.hyper)], dim=1)
        wanted = every.gather(1, outputs[:, :, None].expand(-1, -1, every.shape[-1]))
        tokens = predicted.image
        bias = self.layers[1].offset @ self.up1.weight + self.up1.bias
        bases = [basis @ self.up1.weight for basis in tokens.basis]
        pixels = image.upscaled.shape[0]
        block = _PIXELS_AT_ONCE if wanted.device.type == "cpu" else pixels
        parts = []
        for at in range(0, pixels, block):
            part = slice(at, at + block)
            wide = image.upscaled[part].expand(len(wanted), -1, -1)
            for coefficients, basis in zip(tokens.coefficients, bases, strict=True):
                wide = torch.baddbmm(wide, coefficients[:, :, part].transpose(1, 2), basis)
            wide = torch.addcmul(bias, wide, tokens.scale[:, 0, part, None])
            parts.append(self._paint(wide, wanted, image.high_res, part))
        side = int(pixels**0.5)
        # [P, m, y, x, two, two, four, four]: rows and columns of each up-scaling are woven together.
        woven = torch.cat(parts, dim=2).view(*outputs.shape, side, side, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return woven.reshape(*outputs.shape, 4 * side, 4 * side)

    def _paint(self, wide: Tensor, wanted: Tensor, high_res: tuple[Tensor, Tensor] | None, part: slice) -> Tensor:
        """Second half of the up-scaling: ``[P, n, 4 * 64]`` and ``[P, m, 32]`` to logits ``[P, m, n * 16]``."""
        cells = torch.unflatten(wide, -1, (4, -1))
        if high_res is not None:
            cells += high_res[0][part]
        cells = F.gelu(F.layer_norm(cells, cells.shape[-1:], *self.up_norm, eps=_UPSCALE_EPS))
        fine = torch.unflatten(self.up2(cells), -1, (4, -1))
        if high_res is not None:
            fine += high_res[1][part]
        return wanted @ F.gelu(fine).flatten(1, 3).transpose(1, 2)


def _upscaling(weights: Weights, name: str) -> Linear:
    """A 2 x 2 transposed convolution of stride 2 as a product ``[in, 4 * out]``: row, column, channel, slow to fast."""
    kernel = weights.tensor(f"{name}.weight").permute(0, 2, 3, 1)
    return Linear(kernel.flatten(1).contiguous(), weights.tensor(f"{name}.bias").repeat(4))


def _in_cells(fine: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """SAM2's features in the order of ``upscale``: ``[N, 4, 64]`` and ``[N, 4, 4, 32]``."""
    channels, height, width = middle.shape[1:]
    middle = middle.view(channels, height // 2, 2, width // 2, 2).permute(1, 3, 2, 4, 0)
    cells = fine.view(fine.shape[1], height // 2, 2, 2, width // 2, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
    pixels = height * width // 4
    return middle.reshape(pixels, 4, channels), cells.reshape(pixels, 4, 4, fine.shape[1])


def _mapped(decode: Callable[[tuple[int, Tensor]], R], sparse: Tensor) -> list[R]:
    """Calls ``decode`` with batches of prompts that suit the device, and the number of their first; at least once."""
    on_cpu = sparse.device.type == "cpu"
    size = _PROMPTS_AT_ONCE if on_cpu else max(len(sparse), 1)
    parts = [(start, sparse[start : start + size]) for start in range(0, max(len(sparse), 1), size)]
    return parallel_map(decode, parts) if on_cpu else [decode(part) for part in parts]
