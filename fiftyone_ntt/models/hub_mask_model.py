"""What mask models of ``transformers`` share: how they are loaded, and how points and boxes become prompts."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.devices import Precision
from fiftyone_ntt.models.hub_folders import find_folder, hash_of_model, kind_of, load_model
from fiftyone_ntt.pixels.frames import ImageFrame

logger = logging.getLogger(__name__)

_Embedding = TypeVar("_Embedding")
"""What the mask decoder needs of one image."""


class HubMaskModel(Generic[_Embedding]):
    """Base of the mask models: a subclass encodes images, and decodes embedded prompts.

    Args:
        path_or_repo: folder written by ``save_pretrained``, or a repository of the Hugging Face hub.
        classes: ``model_type`` of a folder's config.json -> class in transformers.
        device: where to run.
        name: name for provenance; by default the last part of ``path_or_repo``.
        precision: of the image encoder.

    Raises:
        MissingWeightsError: the weights or a package that the model needs are not to be had.
        WeightsMismatchError: the folder holds another kind of model, or not all of its weights.
    """

    def __init__(
        self,
        path_or_repo: str | Path,
        classes: Mapping[str, str],
        *,
        device: str | torch.device,
        name: str | None,
        precision: Precision,
    ) -> None:
        folder = find_folder(path_or_repo)
        self.model_type = kind_of(folder, classes)
        self.device = torch.device(device)
        self.precision = precision
        self.name = name or Path(path_or_repo).name
        self.weights_hash = hash_of_model(folder)
        self.model: Any = load_model(folder, classes[self.model_type])
        self.model.requires_grad_(False).to(self.device)
        self.side = _square(self.model.prompt_encoder.input_image_size)
        self.mask_side = 4 * self.model.prompt_encoder.image_embedding_size[0]
        self._position: Tensor = self.model.get_image_wide_positional_embeddings()
        logger.info("loaded %s on %s", self.name, self.device)
        logger.debug("%s is from %s", self.name, folder)

    @abstractmethod
    def encode_batch(self, pixels: Tensor, frames: Sequence[ImageFrame]) -> list[_Embedding]:
        """Runs the image encoder on float32 ``[B, 3, side, side]``, B images at once; see ``encode``."""

    @abstractmethod
    def _decode(self, embedding: _Embedding, sparse: Tensor, which: range) -> tuple[Tensor, Tensor]:
        """Outputs ``which`` (0 is the single mask) of P prompts: logits ``[P, m, 256, 256]`` and IoU ``[P, m]``."""

    @abstractmethod
    def _changed(self, embedding: _Embedding, added: Tensor) -> _Embedding:
        """The embedding with ``[1, C, h, w]`` added to its image."""

    def encode(self, pixels: Tensor, frame: ImageFrame) -> _Embedding:
        """Runs the image encoder on float32 ``[3, side, side]`` RGB in 0..1 in the model frame."""
        return self.encode_batch(pixels[None], [frame])[0]

    def decode_points(self, embedding: _Embedding, points: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ProposalModel.decode_points``. On the model's device."""
        return self._decode(embedding, self._points(points[:, None]), range(1, 4))

    def decode_prompts(self, embedding: _Embedding, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PromptDecoder``. On the model's device."""
        return self._decode(embedding, self._points(points, labels), range(4))

    @torch.no_grad()
    def decode_refined(
        self, embedding: _Embedding, boxes: Tensor, points: Tensor, labels: Tensor, masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``MaskPromptDecoder``. On the model's device."""
        sparse = self._prompt(
            input_points=points.to(self.device, torch.float32)[None],
            input_labels=labels.to(self.device, torch.int32)[None],
            input_boxes=boxes.to(self.device, torch.float32)[None],
        )
        encoder = self.model.prompt_encoder
        sides = (self.mask_side, self.mask_side)
        resized = F.interpolate(masks[:, None].to(self.device, torch.float32), sides, mode="bilinear")
        # What the decoder adds for "no mask" is taken off beforehand: one way through it serves all prompts.
        dense = encoder.mask_embed(resized) - encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        parts = [
            self._decode(self._changed(embedding, dense[i : i + 1]), sparse[i : i + 1], range(4))
            for i in range(len(boxes))
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _points(self, points: Tensor, labels: Tensor | None = None) -> Tensor:
        """Embeddings ``[P, n + 1, C]`` of P sets of n points ``[P, n, 2]`` in the model frame, all on the object."""
        points = points.to(self.device, torch.float32)
        kinds = torch.ones(points.shape[:2], device=self.device) if labels is None else labels
        return self._prompt(input_points=points[None], input_labels=kinds.to(self.device, torch.int32)[None])

    def _boxes(self, boxes: Tensor) -> Tensor:
        """Embeddings ``[P, 2, C]`` of boxes ``[P, 4]`` in the model frame."""
        return self._prompt(input_boxes=boxes.to(self.device, torch.float32)[None])

    @torch.no_grad()
    def _prompt(self, **given: Tensor) -> Tensor:
        nothing = dict.fromkeys(("input_points", "input_labels", "input_boxes", "input_masks"))
        sparse: Tensor = self.model.prompt_encoder(**{**nothing, **given})[0][0]
        return sparse


def _square(size: Any) -> int:
    """The side of a square that a config gives as a number or as two equal ones."""
    sides = {int(side) for side in size} if isinstance(size, (list, tuple)) else {int(size)}
    if len(sides) != 1:
        raise InputError(f"expected a model with a square input, got {size}")
    return sides.pop()
