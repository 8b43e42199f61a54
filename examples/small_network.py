"""Mask2Former for ``small_model.py``: loading it, its square input, and what it says as labels of FiftyOne.

An image is scaled to fit into the upper left corner of a square; masks go the same way, and come back from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.dataset.labels import fingerprint
from fiftyone_ntt.errors import MissingWeightsError, WeightsMismatchError, as_text, listing
from fiftyone_ntt.models.hub_folders import find_folder, kind_of
from fiftyone_ntt.pixels.frames import imagenet_normalize, resize_pil, to_tensor

TINY = "tiny"
"""In place of a model's name: a tiny network with random weights, to try the script where there are no others."""
STRIDE = 32
"""Sides of the input are multiples of it: what the deepest level shrinks an image by."""


# ---- The network ----


def load_network(source: Path | None, classes: Sequence[str]) -> Any:
    """Mask2Former with a new last layer for these classes; tiny and random where there is no folder to load."""
    maker: Any = transformers.Mask2FormerForUniversalSegmentation
    numbers = {name: number for number, name in enumerate(classes)}
    names: dict[str, Any] = {"id2label": dict(enumerate(classes)), "label2id": numbers}
    if source is None:
        return maker(tiny_config(names))
    try:
        network, report = maker.from_pretrained(
            source, **names, ignore_mismatched_sizes=True, use_safetensors=True, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # whatever safetensors and transformers raise
        raise WeightsMismatchError(f"cannot load the model in {source} ({as_text(error)}); fetch it again") from error
    if missing := set(report["missing_keys"]) & {name for name, _ in network.named_parameters()}:
        raise WeightsMismatchError(f"{source} lacks weights of its model: {listing(sorted(missing))}; fetch it again")
    return network


def tiny_config(names: dict[str, Any]) -> transformers.Mask2FormerConfig:
    """A tenth of a million weights: learns little, in seconds."""
    levels = [f"stage{k}" for k in (1, 2, 3, 4)]
    kind: Any = transformers.SwinConfig
    swin = kind(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_features=levels)
    return transformers.Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=10,
        train_num_points=256, **names,
    )  # fmt: skip


def weights_of(model: str) -> Path | None:
    """The folder of a model: one that is named, or the hub's cache, or fetched from the hub; ``None`` for ``TINY``."""
    if model == TINY:
        return None
    try:
        folder = find_folder(model)
        kind_of(folder, {"mask2former": None})
    except MissingWeightsError as error:
        raise MissingWeightsError(
            f"the weights {model!r} are in no folder of that name and not in the cache of the Hugging Face hub, and "
            f"could not be fetched; run `hf download {model}` once where there is a network, or name a folder that "
            "holds config.json and model.safetensors with --model"
        ) from error
    return folder


# ---- Into the frame of its input, and back ----


def fitted(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of an image that is scaled to fit into the upper left of the network's square input."""
    height, width = (max(1, round(length * side / max(image_size))) for length in image_size)
    return height, width


def network_input(image: NDArray[np.uint8], side: int) -> Tensor:
    """uint8 ``[H, W, 3]`` -> float32 ``[3, side, side]``, with zeros where the image does not reach."""
    height, width = fitted(image.shape[:2], side)
    pixels = imagenet_normalize(to_tensor(resize_pil(image, (height, width)))[None])[0]
    return F.pad(pixels, (0, side - width, 0, side - height))


def target_mask(mask: NDArray[np.bool_], side: int) -> Tensor:
    """bool ``[H, W]`` -> float32 ``[side, side]`` in the same frame."""
    height, width = fitted(mask.shape, side)
    whole = torch.from_numpy(np.array(mask, np.float32))[None, None]
    share = F.interpolate(whole, size=(height, width), mode="bilinear", antialias=True)[0, 0]  # of each pixel
    # Half of it, or of the fullest one: an object thinner than a pixel must not become background.
    return F.pad((share >= share.max().clamp(max=1.0) / 2).float(), (0, side - width, 0, side - height))


def mask_in_image(logits: Tensor, image_size: tuple[int, int], side: int) -> Tensor:
    """Mask logits ``[h, w]`` of the network's square -> ``[H, W]`` of the image, without the empty margin."""
    height, width = fitted(image_size, side)
    square = F.interpolate(logits[None, None], size=(side, side), mode="bilinear")
    return F.interpolate(square[..., :height, :width], size=image_size, mode="bilinear")[0, 0]


def detections_of(
    class_logits: Tensor, mask_logits: Tensor, image_size: tuple[int, int], side: int, classes: Sequence[str],
    least: float,
) -> fo.Detections:  # fmt: skip
    """The objects of one image, the best first.

    Args:
        class_logits: float32 ``[Q, C + 1]``; the last one says that a query found nothing.
        mask_logits: float32 ``[Q, h, w]`` in the frame of the network's input.
        image_size: height and width.
        side: of the network's input.
        classes: their names.
        least: labels below this score are left out.
    """
    chances = class_logits.softmax(-1)[:, :-1]  # [Q, C]
    best = chances.flatten().topk(min(len(chances), chances.numel()))  # as many pairs as there are queries
    found = []
    for chance, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if chance < least:  # the score is no higher
            break
        query, label = divmod(place, len(classes))
        logits = mask_in_image(mask_logits[query], image_size, side)
        mask = logits > 0
        if not mask.any():
            continue
        score = chance * float(logits[mask].sigmoid().mean())  # how sure of the class, and of the mask
        if score >= least:
            one = fo.Detection.from_mask(mask.cpu().numpy(), label=classes[label], confidence=score)
            one["written"] = fingerprint(one.label, one.bounding_box, one.mask)  # tells what a person changes
            found.append(one)
    return fo.Detections(detections=sorted(found, key=lambda one: -one.confidence))
