"""Frames: how pixels of an image map to the square input of the mask model, and back.

Every coordinate in this package belongs to a named frame:

* *image pixels*: (x, y) in an image of ``(height, width)``; pixel (0, 0) covers ``[0, 1) x [0, 1)``;
* *model frame*: (x, y) in the mask model's square input of ``side`` pixels;
* *mask frame*: the model frame at the resolution of mask logits (256 x 256);
* *relative*: 0..1 in the image, as FiftyOne stores boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, gcd
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.pixels.files import MOST_PIXELS, MOST_SIDE

MASK_SIDE = 256
"""Side of the mask frame in pixels: of the logits of SAM, SAM2 and most of their family; see ``to_mask_frame``."""
_FINEST = 128
"""Points along a side from which on the masks, of 256 pixels a side, are what limits how small an object can be."""


@dataclass(frozen=True)
class ImageFrame:
    """The mapping between an image and the mask model's square input.

    Attributes:
        image_size: ``(height, width)`` of the image in pixels.
        side: side of the model frame in pixels.
        content: ``(height, width)`` in model-frame pixels that the image covers, from the top left; the rest
            is padding.
    """

    image_size: tuple[int, int]
    side: int
    content: tuple[float, float]

    def __post_init__(self) -> None:
        height, width = self.image_size
        if max(height, width) > MOST_SIDE or height * width > MOST_PIXELS:
            raise InputError(
                f"expected an image of at most {MOST_SIDE} pixels a side and {MOST_PIXELS} in all, got {width} x "
                f"{height}; cut it into tiles, or make it smaller"
            )
        parts_fit = all(1 <= part <= self.side for part in self.content)
        if not (min(self.image_size) >= 1 and 1 <= self.side <= MOST_SIDE and parts_fit):
            raise InputError(
                f"expected an image and a frame of at least 1 x 1 pixels, got image_size={self.image_size}, "
                f"side={self.side} and content={self.content}"
            )

    @classmethod
    def squash(cls, image_size: tuple[int, int], side: int = 1024) -> ImageFrame:
        """The image fills the whole square; its aspect ratio is lost (SAM2, published method)."""
        return cls((int(image_size[0]), int(image_size[1])), side, (float(side), float(side)))

    @classmethod
    def letterbox(cls, image_size: tuple[int, int], side: int = 1024) -> ImageFrame:
        """The longest side fills the square; the rest is padded right and bottom (SAM, MobileSAM)."""
        height, width = int(image_size[0]), int(image_size[1])
        scale = side / max(height, width, 1)
        content = (float(max(1, round(height * scale))), float(max(1, round(width * scale))))
        return cls((height, width), side, content)

    @property
    def mask_content(self) -> tuple[float, float]:
        """``(height, width)`` of the image's part of the mask frame, in mask pixels."""
        return self.content[0] * MASK_SIDE / self.side, self.content[1] * MASK_SIDE / self.side

    def to_model(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Maps image pixels ``[..., 2]`` (x, y) to the model frame."""
        return (np.asarray(points, np.float64) * self._scale_xy()).astype(np.float32)

    def to_image(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Maps model-frame points ``[..., 2]`` (x, y) to image pixels."""
        return (np.asarray(points, np.float64) / self._scale_xy()).astype(np.float32)

    def boxes_to_model(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Maps xyxy boxes ``[B, 4]`` in image pixels to the model frame."""
        return self.to_model(np.asarray(boxes).reshape(-1, 2, 2)).reshape(-1, 4)

    def render(self, image: NDArray[np.uint8]) -> Tensor:
        """Resizes an image into the model frame.

        Args:
            image: uint8 ``[H, W, 3]`` RGB.

        Returns:
            float32 ``[3, side, side]`` in 0..1, zeros outside the content. PIL's bicubic with antialias, rounded
            to uint8 as in the published loader (docs/method.md 3.1).
        """
        if image.shape[:2] != self.image_size:
            raise InputError(f"expected an image of {self.image_size} (height, width), got {image.shape[:2]}")
        height, width = int(self.content[0]), int(self.content[1])
        resized = to_tensor(resize_pil(image, (height, width)))
        if (height, width) == (self.side, self.side):
            return resized
        return F.pad(resized, (0, self.side - width, 0, self.side - height))

    def _scale_xy(self) -> NDArray[np.float64]:
        height, width = self.image_size
        return np.array([self.content[1] / width, self.content[0] / height])


def check_image(image: Any, what: str = "an image") -> None:
    """Raises unless these are the pixels of an image as every model takes them: uint8 ``[H, W, 3]``, RGB.

    Args:
        image: what a caller gave.
        what: what it is, for the message.

    Raises:
        WrongTypeError: if it is no such array.
        InputError: if it has another shape.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise WrongTypeError(
            f"expected {what} as an array uint8 [H, W, 3], RGB, got {got}; read_image makes one of a file"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"expected {what} as an array uint8 [H, W, 3], RGB, got {list(image.shape)}; read_image makes one of a file"
        )


def outline_radius(frame: ImageFrame) -> int:
    """How far from a change of sign, in mask pixels, logits can matter to a mask at image size.

    An enlarged image sees two neighbours in each direction; one that is shrunk sees its antialiasing filter's width.
    """
    shrink = max(frame.mask_content[axis] / frame.image_size[axis] for axis in (0, 1))
    return 1 if shrink <= 1 else min(ceil(2 * shrink), MASK_SIDE)


def smallest_object(size: tuple[int, int], points_per_side: int) -> int:
    """Side in pixels of the objects that a grid of points surely meets, in an image of ``(height, width)``."""
    return ceil(max(size) / min(points_per_side, _FINEST))


def whole_pixels(box: Sequence[float], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels of a box, of which some part lies in the image: at least one each way, none outside.

    Args:
        box: xyxy in image pixels.
        image_size: ``(height, width)`` in pixels.

    Returns:
        Left, top, right and bottom; the last two are the first pixels beyond.
    """
    (left, right), (top, bottom) = (
        (first := min(max(round(start), 0), size - 1), max(min(round(stop), size), first + 1))
        for start, stop, size in zip(box[:2], box[2:], reversed(image_size), strict=True)
    )
    return left, top, right, bottom


def resize_pil(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes uint8 ``[H, W, 3]`` to ``size`` = (height, width) with PIL's antialiased bicubic."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """uint8 ``[H, W, 3]`` -> float32 ``[3, H, W]`` in 0..1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255.0)


def resample_bicubic(image: Tensor, side: int) -> Tensor:
    """Bicubic resampling without antialias of ``[3, H, W]`` to ``[3, side, side]``; values may overshoot 0..1."""
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image[None], size=(side, side), mode="bicubic", align_corners=False)[0]


def feature_input(image: NDArray[np.uint8], side: int, via: int | None = 1024) -> Tensor:
    """The feature model's view of a target image.

    Args:
        image: uint8 ``[H, W, 3]`` RGB.
        side: side of the feature model's input.
        via: the published method squashes to 1024 with antialias first and resamples that without (3.1, 3.2);
            ``None`` squashes straight to ``side`` with antialias.

    Returns:
        float32 ``[3, side, side]``.
    """
    first = via or side
    return resample_bicubic(to_tensor(resize_pil(image, (first, first))), side)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_normalize(images: Tensor) -> Tensor:
    """Shifts and scales float32 ``[B, 3, H, W]`` RGB in 0..1 to zero mean and unit variance on ImageNet."""
    return normalize(images, "imagenet")


def to_mask_frame(logits: Tensor) -> Tensor:
    """Mask logits float32 ``[..., side, side]`` of a model with masks of another side, at that of the mask frame."""
    if logits.shape[-1] == MASK_SIDE:
        return logits
    flat = logits.reshape(-1, 1, *logits.shape[-2:])
    size = (MASK_SIDE, MASK_SIDE)
    if len(flat) == 0:
        return logits.new_zeros(*logits.shape[:-2], *size)
    resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized.reshape(*logits.shape[:-2], *size)


NORMALISATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "satellite": ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""How models want RGB in 0..1: mean and standard deviation of each channel."""


def normalize(images: Tensor, how: str) -> Tensor:
    """Shifts and scales float32 ``[B, 3, H, W]`` RGB in 0..1 by one of ``NORMALISATIONS``."""
    mean, std = (images.new_tensor(values).reshape(1, 3, 1, 1) for values in NORMALISATIONS[how])
    return (images - mean) / std


# ---- From the mask frame to image pixels ----

_BLOCK = 64
"""Outputs made at once: each block needs only a few inputs of the banded matrix."""


@dataclass(frozen=True, eq=False)
class Resize:
    """One axis of an antialiased bilinear resize, as a banded matrix.

    Attributes:
        matrix: float32 ``[out, 256]``, the weight of each mask pixel in each output.
        first: int64 ``[out]``, the first mask pixel with a weight.
        last: int64 ``[out]``, the last one.
        extent: how many mask pixels are resized.
    """

    matrix: NDArray[np.float32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    extent: float

    @cached_property
    def period(self) -> tuple[int, int] | None:
        """After how many inputs and outputs the weights repeat; ``None`` unless each output is between two inputs."""
        out = len(self.matrix)
        if self.extent % 1 or out < self.extent or (self.last - self.first).max() > 1:
            return None
        common = gcd(int(self.extent), out)
        return int(self.extent) // common, out // common

    @cached_property
    def pair(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]] | None:
        """Both inputs of all outputs and their weights, each ``[out]``; ``None`` where some have more than two."""
        if (self.last - self.first).max() > 1:
            return None
        every = np.arange(len(self.matrix))
        second = np.where(self.last > self.first, self.matrix[every, self.last], np.float32(0))
        return self.first, self.last, self.matrix[every, self.first], second

    def padding(self, outputs: slice) -> tuple[int, int, int, int]:
        """What brings the inputs of some outputs to whole periods, so that they can be enlarged by themselves.

        Returns:
            Inputs to add before and after, then the first output that all these make, and how many they make.
        """
        step, made = self.period or (1, 1)
        needed = self.inputs(outputs.start, outputs.stop)
        first, last = needed.start // step, -(-needed.stop // step)
        return needed.start - first * step, last * step - needed.stop, first * made, (last - first) * made

    def taps(
        self, outputs: slice, index: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Both inputs of each output at ``index`` of ``outputs``, counted from the first needed, and their weights."""
        at, start = outputs.start + index, self.inputs(outputs.start, outputs.stop).start
        first, last = self.first[at], self.last[at]
        weight = np.where(last > first, self.matrix[at, last], np.float32(0))
        return first - start, last - start, self.matrix[at, first], weight

    def outputs(self, low: int, high: int) -> tuple[int, int]:
        """The range of outputs that any of the inputs ``low..high`` (inclusive) reaches."""
        # Both rise with the output, so the outputs reached are neighbours.
        return int(np.searchsorted(self.last, low)), int(np.searchsorted(self.first, high, side="right"))

    def apply(self, values: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Outputs ``start..stop`` (exclusive) of ``values``, which are ``inputs(start, stop)`` along the first axis."""
        # Torch's product, not numpy's: its threads can be limited, and numpy's fight whatever else is running.
        matrix, given = torch.from_numpy(self.matrix), torch.from_numpy(values)
        inputs = self.inputs(start, stop)
        if stop - start <= 2 * _BLOCK:
            return torch.mm(matrix[start:stop, inputs], given).numpy()
        result = given.new_empty(stop - start, values.shape[1])
        for low in range(start, stop, _BLOCK):
            high = min(low + _BLOCK, stop)
            used = self.inputs(low, high)
            part = given[used.start - inputs.start : used.stop - inputs.start]
            torch.mm(matrix[low:high, used], part, out=result[low - start : high - start])
        return result.numpy()

    def inputs(self, start: int, stop: int) -> slice:
        """The inputs that the outputs ``start..stop`` (exclusive) need."""
        return slice(int(self.first[start]), int(self.last[stop - 1]) + 1) if start < stop else slice(0, 0)


@lru_cache(maxsize=64)
def resize_axis(extent: float, out: int) -> Resize:
    """Weights that resize the first ``extent`` mask pixels to ``out`` pixels, bilinear with antialias."""
    weights = _torch_weights(out) if extent == MASK_SIDE else _triangle_weights(extent, out)
    used = weights > 0
    return Resize(weights, used.argmax(axis=1), MASK_SIDE - 1 - used[:, ::-1].argmax(axis=1), extent)


def _torch_weights(out: int) -> NDArray[np.float32]:
    """Torch's own float32 weights, read off an identity: with them, and only them, mask bits agree with the oracle."""
    identity = torch.eye(MASK_SIDE)[None, None]
    resized = F.interpolate(identity, size=(out, MASK_SIDE), mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(resized[0, 0].numpy(), np.float32)


def _triangle_weights(extent: float, out: int) -> NDArray[np.float32]:
    """The same filter for a part of the mask frame that need not end on a whole pixel (letterbox)."""
    scale = extent / out
    centre = (np.arange(out) + 0.5) * scale
    pixels = np.arange(MASK_SIDE)[None]
    weights = np.maximum(0.0, 1.0 - np.abs(pixels + 0.5 - centre[:, None]) / max(scale, 1.0))
    weights *= pixels < int(np.ceil(extent))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def check_rendered(shape: tuple[int, ...], frames: Sequence[ImageFrame], side: int) -> None:
    """Raises InputError unless pixels of a shape are images of the frames, in squares of a side."""
    if shape != (len(frames), 3, side, side) or any(frame.side != side for frame in frames):
        raise InputError(
            f"expected pixels [3, {side}, {side}] of each image, got {list(shape)} for frames of "
            f"{sorted({frame.side for frame in frames})}; render the image with the frame this model gives"
        )
