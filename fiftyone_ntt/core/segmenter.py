"""The method end to end: references to memory bank, image to candidates, candidates to instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.core.backends import FeatureModel, ProposalModel
from fiftyone_ntt.core.config import MatchConfig, ProposalConfig
from fiftyone_ntt.core.frames import ImageFrame, feature_input, resample_bicubic
from fiftyone_ntt.core.instances import Instances
from fiftyone_ntt.core.masks import masks_at_image_size
from fiftyone_ntt.core.match import match_vectors
from fiftyone_ntt.core.memory import MemoryBank
from fiftyone_ntt.core.pooling import pool
from fiftyone_ntt.core.proposals import Candidates, propose
from fiftyone_ntt.core.references import ReferenceItem, ReferenceSettings, encode_references
from fiftyone_ntt.errors import BadReferenceError


@dataclass(frozen=True, eq=False)
class IndexedImage:
    """All that stage two needs of an image; nothing in it depends on the references.

    Attributes:
        candidates: N mask proposals.
        vectors: float32 ``[N, C]`` pooled means, not normalised.
        tokens: float32 ``[rows, columns, C]`` patch tokens.
    """

    candidates: Candidates
    vectors: Tensor
    tokens: Tensor


class Segmenter:
    """A mask model and a feature model with the settings that belong to them.

    Args:
        proposal_model: promptable mask model.
        feature_model: image encoder.
        references: how references are shown to the feature model.
        proposals: point grid and predicted-IoU filter.
        target_via: targets are squashed to this many pixels before the feature model's own size (ntt-algorithm 3.1,
            3.2); ``None`` goes there directly.
    """

    def __init__(
        self,
        proposal_model: ProposalModel,
        feature_model: FeatureModel,
        *,
        references: ReferenceSettings | None = None,
        proposals: ProposalConfig | None = None,
        target_via: int | None = 1024,
    ) -> None:
        self.proposal_model = proposal_model
        self.feature_model = feature_model
        self.references = references or ReferenceSettings()
        self.proposals = proposals or ProposalConfig()
        self.target_via = target_via

    @property
    def weights(self) -> dict[str, str]:
        """Model name -> sha256 of its weights."""
        return {model.name: model.weights_hash for model in (self.proposal_model, self.feature_model)}

    @torch.inference_mode()
    def candidates(self, image: NDArray[np.uint8]) -> IndexedImage:
        """Stage one: masks and one vector each. Heavy, and independent of any reference.

        Args:
            image: uint8 ``[H, W, 3]`` RGB.
        """
        frame = self.proposal_model.frame(_size(image))
        pixels = frame.render(image)
        embedding = self.proposal_model.encode(pixels, frame)
        candidates = propose(self.proposal_model, embedding, frame, self.proposals)
        tokens = self.feature_model.encode(self._feature_input(image, pixels, frame)[None])[0]
        return IndexedImage(candidates, pool(candidates, tokens), tokens)

    def match(self, indexed: IndexedImage, bank: MemoryBank, config: MatchConfig | None = None) -> Instances:
        """Stage two: labels the candidates. Light, needs no model."""
        vectors = bank.project(indexed.vectors.float().cpu().numpy())
        return match_vectors(indexed.candidates, vectors, bank.prototypes, config)

    def segment(self, image: NDArray[np.uint8], bank: MemoryBank, config: MatchConfig | None = None) -> Instances:
        """Both stages for one image."""
        return self.match(self.candidates(image), bank, config)

    @torch.inference_mode()
    def box_masks(self, image: NDArray[np.uint8], boxes: NDArray[np.floating]) -> list[NDArray[np.bool_]]:
        """Masks of the objects in boxes, by prompting the mask model with each.

        Args:
            image: uint8 ``[H, W, 3]`` RGB.
            boxes: ``[B, 4]`` xyxy in image pixels.

        Returns:
            B masks, bool ``[H, W]``; one may be empty.
        """
        frame = self.proposal_model.frame(_size(image))
        embedding = self.proposal_model.encode(frame.render(image), frame)
        prompts = torch.from_numpy(frame.boxes_to_model(boxes))
        logits, _ = self.proposal_model.decode_boxes(embedding, prompts)
        return [mask.full(frame.image_size) for mask in masks_at_image_size(logits, frame)]

    @torch.inference_mode()
    def build_bank(self, items: Iterable[ReferenceItem], classes: Sequence[str], *, preset: str = "") -> MemoryBank:
        """Encodes references into a memory bank.

        Args:
            items: reference instances; items of one image should follow each other.
            classes: class names in the order of their label indices.
            preset: name of the preset these models belong to.

        Raises:
            BadReferenceError: if a class has no reference, or an item a label that is not among ``classes``.
        """
        labels: list[str] = []
        ids: list[str] = []

        def noted() -> Iterable[ReferenceItem]:
            for item in items:
                if item.label not in classes:
                    raise BadReferenceError(
                        f"reference {item.reference_id} is labelled {item.label!r}, which is not "
                        f"among the classes {list(classes)}"
                    )
                labels.append(item.label)
                ids.append(item.reference_id)
                yield item

        encoded = encode_references(self.feature_model, noted(), self.references, self.target_via)
        return MemoryBank(
            classes=tuple(classes),
            vectors=encoded.vectors.numpy(),
            class_index=np.array([classes.index(label) for label in labels], np.int64),
            reference_ids=tuple(ids),
            center=encoded.mean_token.numpy() if self.references.centre else None,
            preset=preset,
            weights=self.weights,
            preprocessing=self._preprocessing(),
        )

    def _preprocessing(self) -> Mapping[str, object]:
        return {**asdict(self.references), "input_size": self.feature_model.input_size, "target_via": self.target_via}

    def _feature_input(self, image: NDArray[np.uint8], pixels: Tensor, frame: ImageFrame) -> Tensor:
        """Reuses the mask model's pixels where they are the very squash the feature model starts from."""
        if self.target_via == frame.side and frame == ImageFrame.squash(frame.image_size, frame.side):
            return resample_bicubic(pixels, self.feature_model.input_size)
        return feature_input(image, self.feature_model.input_size, self.target_via)


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])
