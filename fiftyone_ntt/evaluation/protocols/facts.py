"""What a result says of the machine: models, versions, memory."""

from __future__ import annotations

import platform
import resource
import sys
from importlib import metadata
from typing import Any

import torch

from fiftyone_ntt import __version__
from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.method.segmenter import Segmenter

_PACKAGES = ("torch", "numpy", "pycocotools", "faster-coco-eval", "sam2", "transformers", "onnxruntime", "pillow")


def models_of(stage_one: StageOne, segmenter: Segmenter) -> dict[str, Any]:
    """Preset, weights and all that decides the candidates."""
    return {"preset": stage_one.preset.name, "weights": segmenter.weights, "stage_one": segmenter.facts()}


def versions() -> dict[str, str | None]:
    """Name -> version of what computes; ``None`` for what is not installed."""
    found: dict[str, str | None] = {"fiftyone-ntt": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def peak_memory() -> dict[str, int]:
    """Most bytes that this process held so far, in main memory and on each CUDA device."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peaks |= {f"cuda:{i}": torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())}
    return peaks
