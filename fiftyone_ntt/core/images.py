"""Reading an image file the way every other module expects it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fiftyone_ntt.errors import InputError


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
        InputError: if the file is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"image file not found: {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"not a readable image: {path} ({error})") from error


def decode_image(data: bytes, path: str | Path) -> NDArray[np.uint8]:
    """The image in the content of a file, as ``read_image`` gives it; ``path`` is for the error."""
    try:
        with Image.open(BytesIO(data)) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError as error:
        raise InputError(f"not a readable image: {path} (its format is not known)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"not a readable image: {path} ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16- or 32-bit greyscale: PIL would clip instead of scaling
        values = np.asarray(image, np.float64)
        image = Image.fromarray((values * (255.0 / max(values.max(), 1.0))).astype(np.uint8))
    return image.convert("RGB")
