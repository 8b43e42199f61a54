"""Reading an image file the way every other module expects it, and the input normalisation that networks share."""

from __future__ import annotations

import stat
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fiftyone_ntt.errors import InputError

_MOST_BYTES = 1 << 31
_REFUSED_FORMATS = frozenset({"EPS"})
"""Formats that PIL hands to another program, which would run what the file says."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image as RGB, upright.

    EXIF rotation is applied, because FiftyOne's App shows images (and draws labels on them) that way.

    Args:
        path: any file PIL can open.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        InputError: if the file is missing, unreadable or not an image.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """The content of an image file.

    Raises:
        InputError: if the file is missing, unreadable, or nothing that could be an image.
    """
    try:
        facts = Path(path).stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would wait for ever, a device never end
            raise InputError(f"not a readable image: {path} (it is no plain file, but a folder or a device)")
        if not 0 < facts.st_size <= _MOST_BYTES:
            raise InputError(
                f"not a readable image: {path} (expected 1 to {_MOST_BYTES} bytes, got {facts.st_size}); get it again"
            )
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"image file not found: {path}") from error
    except InputError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"not a readable image: {path} ({_reason(error)})") from error


def decode_image(data: bytes, path: str | Path) -> NDArray[np.uint8]:
    """The image in the content of a file, as ``read_image`` gives it; ``path`` is for the error."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.format in _REFUSED_FORMATS:
                raise InputError(f"not a readable image: {path} ({image.format} draws, export it as PNG)")
            return np.asarray(_to_rgb(_upright(image)))
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"not a readable image: {path} (its format is not known)") from error
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise InputError(f"not a readable image: {path} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the path is in the message already
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # what is wrong with the pixels costs the image, what is wrong with the EXIF data does not
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data; a browser shows such an image as it is
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    # 16- or 32-bit greyscale, or real numbers: PIL would clip instead of scaling.
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0).clip(min=0)
        image = Image.fromarray((values * (255.0 / (values.max() or 1.0))).astype(np.uint8))
    return image.convert("RGB")


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_normalize(images: Tensor) -> Tensor:
    """Shifts and scales float32 ``[B, 3, H, W]`` RGB in 0..1 to zero mean and unit variance on ImageNet."""
    mean = images.new_tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).reshape(1, 3, 1, 1)
    return (images - mean) / std
