"""Stage one, and the models with the settings that belong to them: image to candidates, references to memory bank.

Stage two needs no model: ``Matcher.match`` has both in the order of the paper.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.method.backends import BatchEncoder, BatchSize, CropEncoder, FeatureModel, ProposalModel, in_batches
from fiftyone_ntt.method.config import MatchConfig, ProposalConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.granularity import AMONG, ReferenceGranularity
from fiftyone_ntt.method.options.guided_points import GUIDED_FRACTION, guided_index
from fiftyone_ntt.method.options.second_look import CROPS_PER_BATCH, ReferenceCrops, look_at
from fiftyone_ntt.method.options.second_look import facts as second_look_facts
from fiftyone_ntt.method.options.text_vote import check_text, with_names
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.proposals import Candidates, grid_points, propose
from fiftyone_ntt.method.references import (
    BankBuilder,
    ReferenceEncoder,
    ReferenceItem,
    ReferenceObserver,
    ReferenceSettings,
)
from fiftyone_ntt.method.results import IndexedImage, Instances, StageOneResult
from fiftyone_ntt.pixels.frames import ImageFrame, check_image, feature_input, resample_bicubic
from fiftyone_ntt.pixels.packed_masks import masks_at_image_size

logger = logging.getLogger(__name__)

_warming = threading.Lock()
_warm: set[tuple[object, ...]] = set()
"""Models that were warmed up, by their addresses, with the sizes of batches: a mistake would only cost time."""
_FACTS_IMAGE = (480, 640)
"""Height and width of the image whose frame tells, in ``Segmenter.facts``, how images go into the mask model."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image ready for both models. Making it needs no model, so other threads can do it ahead.

    Attributes:
        frame: how image pixels map to the mask model's frame.
        pixels: float32 ``[3, side, side]``, the mask model's input (``frame.render``).
        view: float32 ``[3, input_size, input_size]``, the feature model's input.
        image: the image itself, uint8 ``[H, W, 3]``, where a second look will be taken.
    """

    frame: ImageFrame
    pixels: Tensor
    view: Tensor
    image: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image after both encoders.

    Attributes:
        frame: how image pixels map to the mask model's frame.
        embedding: what the mask model's decoder takes.
        tokens: float32 ``[rows, columns, C]`` patch tokens.
        image: the image itself, where a second look will be taken.
    """

    frame: ImageFrame
    embedding: Any
    tokens: Tensor
    image: NDArray[np.uint8] | None = None


class Segmenter:
    """A mask model and a feature model with the settings that belong to them.

    Args:
        proposal_model: promptable mask model.
        feature_model: image encoder.
        references: how references are shown to the feature model.
        proposals: point grid and predicted-IoU filter.
        target_via: targets are squashed to this many pixels before the feature model's own size (docs/method.md 3.1,
            3.2); ``None`` goes there directly.
        images_per_batch: images whose encoders run together in ``stream``. Only speed and memory depend on it.
        static_shapes: fill up the last batch of images or points, for models that are compiled for one shape.
        second_look: encode groups of candidates once more, cropped; see ``options.second_look``.
        preset: name of the preset that these models belong to, which its memory banks carry.

    Raises:
        InputError: if a second look is wanted of a feature model that offers none.
    """

    def __init__(
        self,
        proposal_model: ProposalModel,
        feature_model: FeatureModel,
        *,
        references: ReferenceSettings | None = None,
        proposals: ProposalConfig | None = None,
        target_via: int | None = 1024,
        images_per_batch: int = 1,
        static_shapes: bool = False,
        second_look: bool = False,
        preset: str = "",
    ) -> None:
        if second_look and not isinstance(feature_model, CropEncoder):
            raise InputError(
                f"expected a feature model that can encode crops for the second look, got {feature_model.name!r}; "
                "leave second_look out"
            )
        self.proposal_model = proposal_model
        self.feature_model = feature_model
        self.references = references or ReferenceSettings()
        self.proposals = proposals or ProposalConfig()
        self.target_via = target_via
        self.images_per_batch = images_per_batch
        self.static_shapes = static_shapes
        self.second_look = second_look
        self.preset = preset
        self._points_at_once = BatchSize(self.proposals.points_per_batch)
        self._crops_at_once = BatchSize(CROPS_PER_BATCH)

    @property
    def weights(self) -> dict[str, str]:
        """Model name -> sha256 of its weights."""
        return {model.name: model.weights_hash for model in (self.proposal_model, self.feature_model)}

    def facts(self) -> dict[str, object]:
        """Everything besides the image that decides what ``candidates`` returns, as JSON can hold it.

        Two segmenters with equal facts find the same; what only changes speed or memory is not among them.
        """
        return {
            "weights": self.weights,
            "points_per_side": self.proposals.points_per_side,
            "grid": self.proposals.grid,
            "points": self._points_facts(),
            "predicted_iou_threshold": self.proposals.predicted_iou_threshold,
            "frame": _listed(asdict(self.proposal_model.frame(_FACTS_IMAGE))),
            "target_via": self.target_via,
            "input_size": self.feature_model.input_size,
            "feature_grid": list(self.feature_model.grid),
            "precision": [getattr(model, "precision", "fp32") for model in (self.proposal_model, self.feature_model)],
            **self._option_facts(),
        }

    def _option_facts(self) -> dict[str, object]:
        """Facts of what is off by default, so that an index made before they existed is still one."""
        facts: dict[str, object] = {}
        if self.proposals.granularity != "best":
            facts["outputs"] = self.proposals.granularity
        if self.second_look and isinstance(self.feature_model, CropEncoder):
            facts["second_look"] = {**second_look_facts(), "crop_size": self.feature_model.crop_size}
        return facts

    def _points_facts(self) -> object:
        # "bank": indexes of before have it, from when the classes of a bank could guide as well.
        return "grid" if self.proposals.points == "grid" else {"guided": GUIDED_FRACTION, "bank": None}

    def warm_up(self) -> None:
        """Runs a made-up image through both models, once for these models in a process.

        On a GPU the first image pays for loading kernels, and where models are compiled, for that: minutes. A worker
        does it before it takes images, so that it is nobody's time. Plain models on a CPU have nothing to warm up.
        """
        models = (self.proposal_model, self.feature_model)
        if not self.static_shapes and all(_device_of(model).type == "cpu" for model in models):
            return
        key = (*map(id, models), self.images_per_batch, self._points_at_once.size, self.static_shapes)
        # Squares of many colours: a mask model is sure of them, so that every step has work to do.
        squares = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(80, axis=0).repeat(80, axis=1)
        with _warming:  # of several devices one after the other: compiling takes all cores
            started = time.perf_counter()
            if key in _warm:
                return
            _warm.add(key)
            try:
                for count in sorted({self.images_per_batch, 1}, reverse=True):
                    encoded = self.encode([self.prepare(squares)] * count)
                self.decode(encoded[0]).vectors.cpu()  # asking for values waits until all is done
            except Exception as error:  # an image that fails for the same reason says so itself
                logger.warning("the models could not be warmed up: %s: %s", type(error).__name__, error)
        seconds = time.perf_counter() - started
        logger.info("%s were warmed up in %.1f s", " and ".join(model.name for model in models), seconds)

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """Resizes an image, uint8 ``[H, W, 3]`` RGB, for both models (3.1). Runs neither; safe in any thread."""
        frame = self.proposal_model.frame(_size(image))
        pixels = frame.render(image)
        view = self._feature_input(image, pixels, frame)
        pinned = _pinned(pixels, self.proposal_model), _pinned(view, self.feature_model)
        return Prepared(frame, *pinned, image if self.second_look else None)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> list[Encoded]:
        """Runs both encoders (3.2) on ``images_per_batch`` images at once; on fewer from now on if memory runs out."""
        size = BatchSize(self.images_per_batch)
        groups = in_batches(
            lambda group, count: self._encode_together([prepared[i] for i in group.tolist()])[:count],
            torch.arange(len(prepared)),
            size,
            pad=self.static_shapes and len(prepared) > 1,  # a single image needs a shape of its own elsewhere too
            what="images",
        )
        self.images_per_batch = size.size
        return [encoded for group in groups for encoded in group]

    def _encode_together(self, group: Sequence[Prepared]) -> list[Encoded]:
        # [B, rows, columns, C]
        tokens = self.feature_model.encode(_stacked([item.view for item in group], self.feature_model))
        model, frames = self.proposal_model, [item.frame for item in group]
        if isinstance(model, BatchEncoder):
            embeddings = model.encode_batch(_stacked([item.pixels for item in group], model), frames)
        else:
            embeddings = [model.encode(item.pixels, item.frame) for item in group]
        return [Encoded(item.frame, embeddings[i], tokens[i], item.image) for i, item in enumerate(group)]

    @torch.inference_mode()
    def decode(self, encoded: Encoded) -> IndexedImage:
        """The candidates of an encoded image and a vector for each (3.3, and the first half of 3.4)."""
        # ---- 3.3  One mask for each point of the grid, if its predicted IoU is high enough ----
        points = grid_points(encoded.frame, self.proposals)  # [P, 2]
        if self.proposals.points == "guided":
            points = points[guided_index(points, encoded.tokens, encoded.frame)]
        candidates = propose(
            self.proposal_model,
            encoded.embedding,
            encoded.frame,
            self.proposals,
            points=points,
            among=AMONG[self.proposals.granularity],
            size=self._points_at_once,
            pad=self.static_shapes,
        )
        # ---- 3.4  The mean of the patch tokens under each mask ----
        vectors = pool(candidates, encoded.tokens)  # [N, C]
        looks = None
        if encoded.image is not None and isinstance(self.feature_model, CropEncoder):  # past the paper: second look
            looks = look_at(self.feature_model, encoded.image, candidates, self._crops_at_once)
        return IndexedImage(candidates, vectors, encoded.tokens, looks)

    def candidates(self, image: NDArray[np.uint8]) -> IndexedImage:
        """Stage one: masks and one vector each. Heavy, and independent of any reference.

        Args:
            image: uint8 ``[H, W, 3]`` RGB.
        """
        return self.decode(self.encode([self.prepare(image)])[0])

    @staticmethod
    def match(indexed: StageOneResult, bank: MemoryBank, config: MatchConfig | None = None) -> Instances:
        """Stage two: labels the candidates. Light, needs no model; for many images a ``Matcher`` is quicker."""
        return Matcher(bank, config).match(indexed)

    def segment(self, image: NDArray[np.uint8], bank: MemoryBank, config: MatchConfig | None = None) -> Instances:
        """Both stages for one image."""
        return Matcher(bank, config, segmenter=self).match(image)

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
        masks = Candidates(*self.proposal_model.decode_boxes(embedding, prompts), frame)
        return [mask.full(frame.image_size) for mask in masks_at_image_size(masks, range(len(masks)))]

    def bank_builder(
        self,
        classes: Sequence[str] | None = None,
        *,
        preset: str | None = None,
        ask_granularity: bool = False,
        crops: bool = True,
    ) -> BankBuilder:
        """Takes references one by one for a memory bank.

        Args:
            classes: class names in the order of their label indices; those of the references, sorted, where ``None``.
            preset: name of the preset these models belong to; that of the segmenter where ``None``.
            ask_granularity: also find out which of the mask model's masks fit the references; see
                ``options.granularity``.
            crops: also encode the references' crops, without which the bank knows no second look.
        """
        observers: list[ReferenceObserver] = []
        if crops:
            observers.append(ReferenceCrops(self.feature_model, self.references.centre))
        if ask_granularity:
            observers.append(ReferenceGranularity(self.proposal_model, self.proposals))
        model = self.feature_model
        name = self.preset if preset is None else preset
        preprocessing = {**asdict(self.references), "input_size": model.input_size, "target_via": self.target_via}
        return BankBuilder(
            ReferenceEncoder(model, self.references, self.target_via),
            classes,
            {"preset": name, "weights": self.weights, "preprocessing": preprocessing},
            centre=self.references.centre,
            observers=observers,
        )

    def build_bank(
        self,
        items: Iterable[ReferenceItem],
        classes: Sequence[str] | None = None,
        *,
        preset: str | None = None,
        ask_granularity: bool = False,
        crops: bool = True,
        text_weight: float = 0.0,
    ) -> MemoryBank:
        """Encodes references into a memory bank; arguments as of ``bank_builder``.

        Args:
            items: reference instances; items of one image should follow each other.
            classes: class names in the order of their label indices; those of the references, sorted, where ``None``.
            preset: name of the preset these models belong to; that of the segmenter where ``None``.
            ask_granularity: also find out which of the mask model's masks fit the references.
            crops: also encode the references' crops, without which the bank knows no second look.
            text_weight: how much the names of the classes count beside their references, 0..1, for feature models that
                can read; see ``options.text_vote``.

        Raises:
            InputError: if names are to count and the feature model cannot read them.
            BadReferenceError: if a class has no reference, or an item a label that is not among ``classes``.
            WrongTypeError: if the items are no references, or the classes no list of texts.
        """
        if isinstance(items, ReferenceItem) or not isinstance(items, Iterable):
            raise WrongTypeError(
                f"expected a list of ReferenceItem, got {type(items).__name__}; put a single one into a list"
            )
        check_text(self.feature_model, text_weight)
        builder = self.bank_builder(classes, preset=preset, ask_granularity=ask_granularity, crops=crops)
        for item in items:
            builder.add(item)
        return with_names(builder.bank(), self.feature_model, text_weight)

    def reference_vectors(self, items: Iterable[ReferenceItem]) -> NDArray[np.float32]:
        """float32 ``[M, C]``, what ``build_bank`` takes from references: also for such as show what is not wanted."""
        encoder = ReferenceEncoder(self.feature_model, self.references, self.target_via)
        return np.stack([encoder.encode(item) for item in items])

    @torch.inference_mode()
    def image_tokens(self, image: NDArray[np.uint8]) -> Tensor:
        """Patch tokens float32 ``[rows, columns, C]`` of an image, as of a target; only the feature model runs."""
        check_image(image)
        pixels = feature_input(image, self.feature_model.input_size, self.target_via)
        return self.feature_model.encode(_stacked([pixels], self.feature_model))[0].float().cpu()

    def _feature_input(self, image: NDArray[np.uint8], pixels: Tensor, frame: ImageFrame) -> Tensor:
        """Reuses the mask model's pixels where they are the very squash the feature model starts from."""
        if self.target_via == frame.side and frame == ImageFrame.squash(frame.image_size, frame.side):
            return resample_bicubic(pixels, self.feature_model.input_size)
        return feature_input(image, self.feature_model.input_size, self.target_via)


def _listed(value: Any) -> Any:
    """Tuples as lists, as they come back from JSON."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def _device_of(model: object) -> torch.device:
    return torch.device(getattr(model, "device", "cpu"))


def _pinned(pixels: Tensor, model: object) -> Tensor:
    """In memory that a GPU can read while the program goes on; as it is where there is no GPU."""
    return pixels.pin_memory() if _device_of(model).type == "cuda" else pixels


def _stacked(pixels: Sequence[Tensor], model: object) -> Tensor:
    """Some ``[3, side, side]`` as one ``[B, 3, side, side]`` on the model's device, without waiting for the copies."""
    return torch.stack([image.to(_device_of(model), non_blocking=True) for image in pixels])


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    check_image(image)
    return int(image.shape[0]), int(image.shape[1])
