"""From reference images and masks to vectors, and to a memory bank (docs/method.md 2.4 to 2.6)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import BadReferenceError, InputError, WrongTypeError
from fiftyone_ntt.method.backends import FeatureModel
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.pixels.frames import check_image, feature_input, to_tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceSettings:
    """How references are shown to the feature model. A property of the model, so each preset sets its own.

    Attributes:
        context: ``"crop"`` cuts a square around the object and squashes it to the model's input, as published;
            ``"image"`` shows the whole image, as targets are shown: better for a model that is not scale-invariant.
        context_ratio: the side of the crop is the longer side of the box times one plus this.
        weights: a patch's weight is the soft mask at its top-left ``"corner"``, as published, or the ``"area"``
            of the patch that the mask covers.
        centre: subtract the mean token of the reference images from every vector before comparing.
    """

    context: Literal["crop", "image"] = "crop"
    context_ratio: float = 0.2
    weights: Literal["corner", "area"] = "corner"
    centre: bool = False

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("context", self.context, ("crop", "image")),
            ("weights", self.weights, ("corner", "area")),
        ):
            if value not in choices:
                raise InputError(f"expected {name} to be one of {choices}, got {value!r}")
        if not self.context_ratio >= 0:
            raise InputError(f"expected context_ratio of at least 0, got {self.context_ratio}")


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceItem:
    """One reference instance. Items that share an image should follow each other and share the array.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        mask: bool ``[H, W]``.
        label: class name.
        reference_id: where it came from; shown in messages and kept in the bank.
        box: xyxy in image pixels as annotated; the mask's own extent where ``None``.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    label: str
    reference_id: str
    box: tuple[float, float, float, float] | None = None

    def __repr__(self) -> str:
        return f"ReferenceItem({self.label!r}, {self.reference_id!r}, image {self.image.shape})"

    def __post_init__(self) -> None:
        for name, text in (("label", self.label), ("reference_id", self.reference_id)):
            if not isinstance(text, str):
                raise WrongTypeError(f"expected the {name} of a reference to be a text, got {text!r}; give it as one")
        check_image(self.image, f"the image of reference {self.reference_id}")
        if not isinstance(self.mask, np.ndarray):
            raise WrongTypeError(
                f"reference {self.reference_id}: expected a mask as an array bool [H, W], got "
                f"{type(self.mask).__name__}; make one with numpy.asarray"
            )
        if self.box is not None and (np.shape(self.box) != (4,) or not np.isfinite(self.box).all()):
            raise BadReferenceError(
                f"reference {self.reference_id}: expected a box of four numbers (x1, y1, x2, y2) in pixels, got "
                f"{self.box}; leave it out to take the extent of the mask"
            )
        if self.mask.shape != self.image.shape[:2]:
            raise BadReferenceError(
                f"reference {self.reference_id}: expected a mask of the image's size "
                f"{self.image.shape[:2]}, got {self.mask.shape}"
            )
        if not self.mask.any():
            raise BadReferenceError(
                f"reference {self.reference_id} ({self.label}): the mask is empty; draw it again or "
                "remove the label from the references"
            )


class ReferenceEncoder:
    """Turns one reference after the other into a vector: its tokens, averaged under its mask (2.4 to 2.6).

    Args:
        model: the feature model.
        settings: crop or whole image, weights.
        target_via: see ``frames.feature_input``; used for whole images.
    """

    def __init__(self, model: FeatureModel, settings: ReferenceSettings, target_via: int | None = 1024) -> None:
        self._model, self._settings, self._target_via = model, settings, target_via
        self._last: tuple[NDArray[np.uint8] | None, Tensor] = (None, torch.empty(0))
        self._means: list[Tensor] = []

    @torch.inference_mode()
    def encode(self, item: ReferenceItem) -> NDArray[np.float32]:
        """float32 ``[C]``, not normalised. Items that share an image should follow each other."""
        model, settings = self._model, self._settings
        tokens, mask = self._shown(item)  # [rows, columns, C], [h, w]
        weights = patch_weights(mask, model.grid, settings.weights, model.input_size)  # [rows, columns]
        if not weights.any():
            weights = _fallback_weights(mask, model.grid, item)
        return np.asarray(weighted_mean(tokens, weights).numpy(), np.float32)

    @property
    def mean_token(self) -> NDArray[np.float32]:
        """float32 ``[C]``, mean token of all images, or crops, that were encoded."""
        return np.asarray(torch.stack(self._means).mean(dim=0).numpy(), np.float32)

    def _shown(self, item: ReferenceItem) -> tuple[Tensor, Tensor]:
        """The tokens of a reference as the settings want it shown, and its mask in the same frame."""
        model = self._model
        if self._settings.context == "crop":
            pixels, mask = crop_with_context(item, self._settings.context_ratio, model.input_size)
            tokens = model.encode(pixels[None])[0].float().cpu()
            self._means.append(tokens.mean(dim=(0, 1)))
            return tokens, mask
        if self._last[0] is not item.image:
            pixels = feature_input(item.image, model.input_size, self._target_via)
            self._last = (item.image, model.encode(pixels[None])[0].float().cpu())
            self._means.append(self._last[1].mean(dim=(0, 1)))
        return self._last[1], torch.from_numpy(item.mask).float()


class ReferenceObserver(Protocol):
    """An option that looks at each reference while a bank is built."""

    def add(self, item: ReferenceItem) -> None:
        """Looks at one reference."""
        ...

    def for_bank(self) -> dict[str, Any]:
        """Arguments of a ``MemoryBank`` that come of it; ``"preprocessing"`` is added to what is there."""
        ...


class BankBuilder:
    """Builds a memory bank of references that come one by one; see ``Segmenter.bank_builder``.

    Args:
        encoder: turns references into vectors.
        classes: class names in the order of their label indices; those of the references, sorted, where ``None``.
        facts: arguments of the ``MemoryBank`` that do not depend on the references: preset, weights, preprocessing.
        centre: subtract the mean token of the references from every vector before comparing.
        observers: options that look at each reference too.

    Example:
        >>> builder = segmenter.bank_builder(["coin"])  # doctest: +SKIP
        >>> builder.add(ReferenceItem(image, mask, "coin", "photo 1"))  # doctest: +SKIP
        >>> bank = builder.bank()  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: ReferenceEncoder,
        classes: Sequence[str] | None,
        facts: Mapping[str, Any],
        *,
        centre: bool = False,
        observers: Sequence[ReferenceObserver] = (),
    ) -> None:
        listed = classes is None or (
            isinstance(classes, Iterable)
            and not isinstance(classes, str)
            and all(isinstance(name, str) for name in classes)
        )
        if not listed:
            raise WrongTypeError(f"expected classes as a list of texts, got {classes!r}; put a single one into a list")
        self._encoder, self._classes, self._centre = encoder, classes, centre
        self._facts, self._observers = dict(facts), observers
        self._vectors: list[NDArray[np.float32]] = []
        self._labels: list[str] = []
        self._ids: list[str] = []

    def add(self, item: ReferenceItem) -> None:
        """Encodes a reference. Items of one image should follow each other.

        Raises:
            BadReferenceError: if its label is not among the classes.
            WrongTypeError: if it is no ``ReferenceItem``.
        """
        if not isinstance(item, ReferenceItem):
            raise WrongTypeError(
                f"expected a ReferenceItem, got {type(item).__name__}; make one of image, mask and label"
            )
        if self._classes is not None and item.label not in self._classes:
            raise BadReferenceError(
                f"reference {item.reference_id} is labelled {item.label!r}, which is not among the classes "
                f"{list(self._classes)}"
            )
        for observer in self._observers:
            observer.add(item)
        self._vectors.append(self._encoder.encode(item))
        self._labels.append(item.label)
        self._ids.append(item.reference_id)

    def bank(self, classes: Sequence[str] | None = None) -> MemoryBank:
        """The memory bank of all references so far.

        Args:
            classes: those of them that there are references of; all that the builder was made for where ``None``.

        Raises:
            InputError: if there are none.
            BadReferenceError: if a class has none.
        """
        if not self._vectors:
            raise InputError("expected at least one reference, got none; tag samples as references first")
        wanted = self._classes if classes is None else classes
        classes = sorted(set(self._labels)) if wanted is None else list(wanted)
        arguments = dict(self._facts)
        for observer in self._observers:
            given = observer.for_bank()
            preprocessing = {**arguments.get("preprocessing", {}), **given.pop("preprocessing", {})}
            arguments |= {**given, "preprocessing": preprocessing}
        return MemoryBank(
            classes,
            np.stack(self._vectors),
            [classes.index(label) for label in self._labels],
            self._ids,
            self._encoder.mean_token if self._centre else None,
            **arguments,
        )


def crop_bounds(
    box: tuple[float, float, float, float], image_size: tuple[int, int], context_ratio: float
) -> tuple[int, int, int, int]:
    """The square around a box, grown by the context ratio and clipped to the image (docs/method.md 2.4).

    Args:
        box: xyxy in image pixels.
        image_size: ``(height, width)``.
        context_ratio: side = longer side of the box times one plus this.

    Returns:
        ``(x1, y1, x2, y2)``, x2 and y2 exclusive, at least one pixel each way.
    """
    x1, y1, x2, y2 = (int(value) for value in box)
    half = max(x2 - x1, y2 - y1) * (1 + context_ratio) / 2  # of the side of the square
    height, width = image_size
    left, right = _clip_span((x1 + x2) / 2, half, width)
    top, bottom = _clip_span((y1 + y2) / 2, half, height)
    return left, top, right, bottom


def _clip_span(centre: float, half: float, size: int) -> tuple[int, int]:
    low = min(max(0, int(centre - half)), size - 1)
    return low, max(low + 1, min(size, int(centre + half)))


def crop_with_context(item: ReferenceItem, context_ratio: float, side: int) -> tuple[Tensor, Tensor]:
    """Crops the reference and squashes image and mask to the feature model's input.

    Returns:
        float32 ``[3, side, side]`` (bicubic, may overshoot 0..1) and the soft mask float32 ``[side, side]`` (bilinear).
    """
    box = item.box or mask_extent(item.mask)
    x1, y1, x2, y2 = crop_bounds(box, item.mask.shape, context_ratio)
    pixels = to_tensor(item.image[y1:y2, x1:x2])[None]
    mask = torch.from_numpy(item.mask[y1:y2, x1:x2].astype(np.float32))[None, None]
    size = (side, side)
    return (
        F.interpolate(pixels, size=size, mode="bicubic", align_corners=False)[0],
        F.interpolate(mask, size=size, mode="bilinear", align_corners=False)[0, 0],
    )


def mask_extent(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """xyxy of the mask's pixels, x2 and y2 exclusive; the mask must not be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def patch_weights(mask: Tensor, grid: tuple[int, int], mode: str, side: int) -> Tensor:
    """A weight in 0..1 for each patch.

    Args:
        mask: float32 ``[h, w]``, soft or binary.
        grid: ``(rows, columns)`` of patches.
        mode: ``"corner"`` samples the mask, at the model's input size, at the top-left pixel of each patch (2.5);
            ``"area"`` takes the mean over each patch.
        side: side of the feature model's input in pixels.

    Returns:
        float32 ``[rows, columns]``.
    """
    mask = mask[None, None]
    if mode == "area":
        return F.adaptive_avg_pool2d(mask, grid)[0, 0]
    if mask.shape[-2:] != (side, side):
        mask = F.interpolate(mask, size=(side, side), mode="bilinear", align_corners=False)
    # "nearest" downwards takes the first pixel of each patch: its top-left corner.
    return F.interpolate(mask, size=grid, mode="nearest")[0, 0]


def _fallback_weights(mask: Tensor, grid: tuple[int, int], item: ReferenceItem) -> Tensor:
    """For a mask that misses every sampled pixel: its area, and if even that vanishes its box (section 4)."""
    logger.warning(
        "reference %s (%s) is too thin or small for the patch grid; using the area it covers instead",
        item.reference_id,
        item.label,
    )
    weights = patch_weights(mask, grid, "area", 0)
    if weights.any():
        return weights
    # The crop's interpolation can lose a mask altogether; the object is in the middle of the crop by construction.
    weights = torch.zeros(grid)
    weights[grid[0] // 4 : -(grid[0] // 4) or None, grid[1] // 4 : -(grid[1] // 4) or None] = 1
    return weights


def weighted_mean(tokens: Tensor, weights: Tensor) -> Tensor:
    """``sum_t w_t F_t / sum_t w_t`` (docs/method.md 2.6): float32 ``[C]`` from ``[rows, columns, C]``."""
    return torch.einsum("hw,hwc->c", weights, tokens) / weights.sum()
