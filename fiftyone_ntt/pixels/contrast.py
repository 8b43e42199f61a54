"""Whether anything can be told apart in a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_CONTRAST = "hardly any contrast"
_LEAST_SPREAD, _LEAST_DEVIATION = 3, 1.0
_GLANCE, _LOOK = 1 << 14, 1 << 20


def contrast_note(pixels: NDArray[np.uint8]) -> str | None:
    """A warning if nothing can be told apart in a picture, uint8 ``[H, W, 3]``."""
    # A glance at the green of some pixels settles nearly every image, in a fraction of a millisecond.
    if not _is_flat(_some(pixels, _GLANCE)[..., 1:2]):
        return None
    some = _some(pixels, _LOOK)
    if not _is_flat(some):
        return None
    deviation = max(float(some[..., channel].std()) for channel in range(3))
    return (
        f"the image has {NO_CONTRAST} (values {some.min()} to {some.max()}, standard deviation "
        f"{deviation:.1f}): nothing can be found in it; look at the file"
    )


def _some(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """About ``count`` of the pixels, evenly spread."""
    step = max(1, int((pixels.shape[0] * pixels.shape[1] / count) ** 0.5))
    return pixels[::step, ::step]


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    """Whether no channel has a spread that anything could be seen by."""
    channels = [pixels[..., channel] for channel in range(pixels.shape[2])]
    spread = max(int(values.max()) - int(values.min()) for values in channels)
    return spread < _LEAST_SPREAD or max(float(values.std()) for values in channels) < _LEAST_DEVIATION
