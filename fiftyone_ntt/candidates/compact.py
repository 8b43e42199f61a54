"""What stage two needs of an image, small enough to keep on disk: the content of the candidate cache.

A mask is kept as the run lengths of its binary mask and, along its outline only, the logits' magnitudes in sixteen
levels. That is all a later resize to image size can see: away from the outline every logit that meets in an output
pixel has the same sign, so its value does not matter. Vectors are float16. Patch tokens are kept as a low-rank
product: what a new class needs to know of the whole image, in a tenth of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.proposals import SURE_POSSIBLE, Candidates, stability_of, stability_of_areas
from fiftyone_ntt.method.results import IndexedImage
from fiftyone_ntt.models.devices import fetched
from fiftyone_ntt.pixels import bit_masks
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame, outline_radius
from fiftyone_ntt.pixels.mask_codes import Runs, are_lengths, runs_of_lengths
from fiftyone_ntt.pixels.outlines import LEVELS, MISFIT, WIDE, Crop, kept_masks, near_outline, read_masks, to_codes
from fiftyone_ntt.pixels.packed_masks import boxes_of

_CHUNK, _AT_ONCE, _ON_DEVICE = 64, 16, 256
"""Masks read at once; compacted at once on the CPU, in whose cache they stay; and on a device, 64 MB of logits."""


@dataclass(frozen=True, eq=False)
class CompactCandidates:
    """N class-agnostic mask proposals of one image, as ``Candidates`` but about a hundred times smaller.

    Attributes:
        frame: how image pixels map to the model frame.
        predicted_iou: float32 ``[N]``, the mask model's own estimate of each mask's quality.
        stability: float32 ``[N]``, area above logit 1 over area above logit -1 (1 where that is empty).
        boxes: float32 ``[N, 4]`` xyxy in the mask frame, x2 and y2 the last column and row; zeros for an empty mask.
        runs: uint16, run lengths of every mask in row-major order, background first; the last run is left out.
        run_ends: int64 ``[N]``, where each mask's runs end in ``runs``.
        outline: uint8, magnitudes of the logits along every mask's outline in row-major order, as indices of
            ``LEVELS``; the runs know their signs.
        outline_ends: int64 ``[N]``, where each mask's values end in ``outline``.
    """

    frame: ImageFrame
    predicted_iou: NDArray[np.float32]
    stability: NDArray[np.float32]
    boxes: NDArray[np.float32]
    runs: NDArray[np.uint16]
    run_ends: NDArray[np.int64]
    outline: NDArray[np.uint8]
    outline_ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.predicted_iou)

    @cached_property
    def mask_runs(self) -> Runs:
        """The masks as runs of pixels of the mask frame."""
        return runs_of_lengths(self.runs, self.run_ends, MASK_SIDE)

    def crops(self, index: Sequence[int]) -> Iterator[Crop]:
        """The masks at ``index`` and all around them that a resize can see, in that order; see ``MaskSource``.

        Signs are exact; values are right along the outline and +-1 elsewhere.

        Raises:
            InputError: if runs, boxes and outlines do not belong together.
        """
        for start in range(0, len(index), _CHUNK):
            chunk = [int(i) for i in index[start : start + _CHUNK]]
            runs = [self.runs[self.run_ends[i - 1] if i else 0 : self.run_ends[i]] for i in chunk]
            outlines = [self.outline[self.outline_ends[i - 1] if i else 0 : self.outline_ends[i]] for i in chunk]
            yield from read_masks(runs, outlines, self.boxes[chunk], outline_radius(self.frame))


@dataclass(frozen=True, eq=False)
class CompactImage:
    """All that stage two needs of an image; nothing in it depends on the references.

    Attributes:
        candidates: N mask proposals.
        vectors: float16 ``[N, C]`` pooled means, not normalised. NaN for an empty mask.
        tokens: patch tokens ``[rows, columns, C]``, of low rank.
        crop_vectors: float16 ``[G, C]``, one a group of candidates looked at again, not normalised; see ``Looks``.
        group: int16 ``[N]``, each candidate's group, -1 for none. Both are ``None`` without a second look.
    """

    candidates: CompactCandidates
    vectors: NDArray[np.float16]
    tokens: CompactTokens
    crop_vectors: NDArray[np.float16] | None = None
    group: NDArray[np.int16] | None = None

    @property
    def token_array(self) -> NDArray[np.float32]:
        """float32 ``[rows, columns, C]`` patch tokens."""
        return self.tokens.full()

    @property
    def look_arrays(self) -> tuple[NDArray[np.float32], NDArray[np.integer]] | None:
        """Crop vectors float32 ``[G, C]`` and each candidate's group int ``[N]``, where there was a second look."""
        if self.crop_vectors is None or self.group is None:
            return None
        return self.crop_vectors.astype(np.float32), self.group

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, as ``from_arrays`` takes them."""
        candidates, frame = self.candidates, self.candidates.frame
        looks: dict[str, Any] = {} if self.group is None else {"crop_vectors": self.crop_vectors, "group": self.group}
        return {
            "image_size": np.array(frame.image_size, np.int64),
            "frame": np.array([frame.side, *frame.content], np.float64),
            "predicted_iou": candidates.predicted_iou,
            "stability": candidates.stability,
            "boxes": candidates.boxes.astype(np.uint8),
            "runs": candidates.runs,
            "run_ends": candidates.run_ends,
            "outline": candidates.outline,
            "outline_ends": candidates.outline_ends,
            "vectors": self.vectors,
            **self.tokens.to_arrays(),
            **looks,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CompactImage:
        """The image from its arrays, possibly a stranger's.

        Raises:
            InputError: if they are not what ``to_arrays`` gives.
        """
        try:
            side, height, width = (float(value) for value in arrays["frame"])
            rows, columns = (int(value) for value in arrays["image_size"])
            candidates = CompactCandidates(
                ImageFrame((rows, columns), int(side), (height, width)),
                arrays["predicted_iou"],
                arrays["stability"],
                arrays["boxes"].astype(np.float32),
                *(arrays[name] for name in ("runs", "run_ends", "outline", "outline_ends")),
            )
            looks = (arrays["crop_vectors"], arrays["group"]) if "crop_vectors" in arrays else (None, None)
            image = cls(candidates, arrays["vectors"], CompactTokens.from_arrays(arrays), *looks)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"expected the arrays of a CompactImage, got something else: {error!r}") from error
        _check(image)
        return image


@torch.inference_mode()
def compact(indexed: IndexedImage) -> CompactImage:
    """Reduces what stage one found, on any device, to what has to be kept of it."""
    candidates, looks = indexed.candidates, indexed.looks
    tensors = {
        "predicted_iou": candidates.predicted_iou.float(),
        "vectors": _half(indexed.vectors),
        **({} if looks is None else {"crop_vectors": _half(looks.vectors), "group": looks.group.to(torch.int16)}),
        **reduced_tokens(indexed.tokens),
        **_compact_masks(candidates),
    }
    arrays = fetched(tensors)
    return CompactImage(
        CompactCandidates(
            candidates.frame,
            arrays["predicted_iou"],
            arrays["stability"],
            arrays["boxes"],
            arrays["runs"].view(np.uint16),
            np.cumsum(arrays["run_counts"], dtype=np.int64),
            arrays["outline"],
            np.cumsum(arrays["outline_counts"], dtype=np.int64),
        ),
        arrays["vectors"],
        CompactTokens.from_arrays(arrays),
        arrays.get("crop_vectors"),
        arrays.get("group"),
    )


def _compact_masks(candidates: Candidates) -> dict[str, Tensor]:
    """Run lengths, outline values, boxes and stability of all masks, on the device that they are on."""
    radius = outline_radius(candidates.frame)
    # Packed bits are quickest, but torch has none, and what is on a device stays there until it is small.
    on_cpu = candidates.mask_logits.device.type == "cpu" and radius <= WIDE
    reduce, at_once = (_compact_bits, _AT_ONCE) if on_cpu else (_compact_on_device, _ON_DEVICE)
    parts = [reduce(chunk.float(), radius) for chunk in torch.split(candidates.mask_logits, at_once)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _half(vectors: Tensor) -> Tensor:
    return vectors.clamp(-65504, 65504).half()  # the largest number that it has


def _compact_bits(logits: Tensor, radius: int) -> dict[str, Tensor]:
    """``_compact_masks`` of masks float32 ``[n, 256, 256]`` in the CPU's memory; runs as int16, as torch has it."""
    values = np.ascontiguousarray(logits.numpy())
    bits, areas = bit_masks.packed_and_areas(values, SURE_POSSIBLE)  # [n, 256, 4], [2, n]
    kept = {"stability": stability_of_areas(areas), **kept_masks(values, bits, radius)}
    kept["runs"] = kept["runs"].view(np.int16)
    return {name: torch.from_numpy(array) for name, array in kept.items()}


def _compact_on_device(logits: Tensor, radius: int) -> dict[str, Tensor]:
    """The same, to the bit, with torch alone: nothing leaves the device."""
    inside = logits > 0
    flat = inside.flatten(1)  # [n, 65536]
    changed = flat.clone()
    changed[:, 1:] ^= flat[:, :-1]
    mask, position = changed.nonzero(as_tuple=True)
    # The distance from the change before; a mask's first run is counted from its first pixel.
    runs = position.clone()
    runs[1:] -= torch.where(mask[1:] == mask[:-1], position[:-1], torch.zeros_like(position[:-1]))
    # Where a resize can see a value and not only a sign: flat places in [n * 256 * 256].
    near = near_outline(inside, ~inside, radius).flatten().nonzero()[:, 0]
    return {
        "stability": stability_of(logits),
        "boxes": boxes_of(inside),
        "runs": runs.int().view(torch.int16)[::2],  # the lower halves: the bits of uint16
        "outline": to_codes(logits.flatten()[near]),
        "run_counts": torch.bincount(mask, minlength=len(logits)),
        "outline_counts": torch.bincount(near // flat.shape[1], minlength=len(logits)),
    }


def _check(image: CompactImage) -> None:
    """Refuses arrays that do not fit each other; what passes can be read without running out of bounds."""
    candidates = image.candidates
    n = len(candidates)
    types: _Expected = {
        "predicted_iou": (candidates.predicted_iou, np.float32, (n,)),
        "stability": (candidates.stability, np.float32, (n,)),
        "boxes": (candidates.boxes, np.float32, (n, 4)),
        "runs": (candidates.runs, np.uint16, (candidates.runs.size,)),
        "run_ends": (candidates.run_ends, np.int64, (n,)),
        "outline": (candidates.outline, np.uint8, (candidates.outline.size,)),
        "outline_ends": (candidates.outline_ends, np.int64, (n,)),
        "vectors": (image.vectors, np.float16, (n, image.tokens.basis.shape[1])),
    }
    if image.crop_vectors is not None and image.group is not None:
        looked = (len(image.crop_vectors), image.tokens.basis.shape[1])
        types |= {"crop_vectors": (image.crop_vectors, np.float16, looked), "group": (image.group, np.int16, (n,))}
    _check_arrays(types)
    if (candidates.boxes[:, :2] > candidates.boxes[:, 2:]).any() or (candidates.outline >= len(LEVELS)).any():
        raise InputError("expected boxes and outlines of masks, got boxes that are inverted or unknown codes")
    if image.group is not None and image.crop_vectors is not None:
        groups = np.append(image.group, -1)
        if groups.min() < -1 or groups.max() >= len(image.crop_vectors):
            raise InputError(f"expected groups within -1..{len(image.crop_vectors) - 1}, got others")
    _check_masks(candidates)


def _check_masks(candidates: CompactCandidates) -> None:
    """Refuses runs that are not those of masks, and boxes that are not those of the runs: loops trust both."""
    for name, ends, total in (
        ("run_ends", candidates.run_ends, candidates.runs.size),
        ("outline_ends", candidates.outline_ends, candidates.outline.size),
    ):
        # Within the array first: the difference of two numbers at either end of int64 has the wrong sign.
        within = ends.min(initial=0) >= 0 and ends.max(initial=0) <= total
        if not within or (np.diff(ends, prepend=0) < 0).any() or (int(ends[-1]) if len(ends) else 0) != total:
            raise InputError(f"expected {name} to rise to {total}, got something else")
    if not are_lengths(candidates.runs, candidates.run_ends, MASK_SIDE) or not np.array_equal(
        candidates.mask_runs.boxes(len(candidates)), candidates.boxes
    ):
        raise InputError(MISFIT)


_Expected = dict[str, tuple[NDArray[Any], Any, tuple[int, ...]]]
"""Arrays by name, each with the type and the shape that it is to have."""


def _check_arrays(expected: _Expected) -> None:
    for name, (array, kind, shape) in expected.items():
        if array.dtype != kind or array.shape != shape:
            wanted = f"{np.dtype(kind).name} {list(shape)}"
            raise InputError(f"expected {name} of {wanted}, got {array.dtype} {list(array.shape)}")


# ---- Patch tokens of low rank ----

RANK = 64
"""Directions kept of an image's tokens, beside their mean. ``docs/experiments/speed.md`` says what that costs."""
_EXTRA, _ROUNDS = 8, 2
_MOST_TOKENS = 1 << 20
"""Of an image; a file of rank 0 could name any number."""
_MOST_NUMBERS = 1 << 28
"""Of all tokens of an image together, for the same reason."""


@dataclass(frozen=True, eq=False)
class CompactTokens:
    """Patch tokens: ``mean + (weights * scale) @ basis``.

    Attributes:
        grid: ``(rows, columns)`` of the tokens.
        mean: float16 ``[C]``, the mean token.
        basis: float16 ``[r, C]``, orthonormal up to rounding.
        scale: float32 ``[r]``, what one step of a weight is worth.
        weights: int8 ``[rows * columns, r]``.
    """

    grid: tuple[int, int]
    mean: NDArray[np.float16]
    basis: NDArray[np.float16]
    scale: NDArray[np.float32]
    weights: NDArray[np.int8]

    def full(self) -> NDArray[np.float32]:
        """The tokens: float32 ``[rows, columns, C]``."""
        tokens = (self.weights * self.scale) @ self.basis.astype(np.float32) + self.mean.astype(np.float32)
        return np.asarray(tokens.reshape(*self.grid, -1), np.float32)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, as ``from_arrays`` takes them."""
        return {
            "token_grid": np.array(self.grid, np.int64),
            "token_mean": self.mean,
            "token_basis": self.basis,
            "token_scale": self.scale,
            "token_weights": self.weights,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CompactTokens:
        """The tokens from their arrays.

        Raises:
            InputError: if these do not fit each other.
            KeyError: if one is missing.
        """
        rows, columns = (int(value) for value in arrays["token_grid"])
        mean, basis, scale, weights = (arrays[f"token_{name}"] for name in ("mean", "basis", "scale", "weights"))
        rank, channels = basis.shape
        if not (rows >= 1 and columns >= 1 and rows * columns <= _MOST_TOKENS):
            raise InputError(f"expected a grid of 1 to {_MOST_TOKENS} tokens, got {rows} x {columns}")
        if rows * columns * channels > _MOST_NUMBERS:
            raise InputError(f"expected tokens of at most {_MOST_NUMBERS} numbers in all, got more")
        expected: _Expected = {
            "token_mean": (mean, np.float16, (channels,)),
            "token_basis": (basis, np.float16, (rank, channels)),
            "token_scale": (scale, np.float32, (rank,)),
            "token_weights": (weights, np.int8, (rows * columns, rank)),
        }
        _check_arrays(expected)
        return cls((rows, columns), mean, basis, scale, weights)


def reduced_tokens(tokens: Tensor, rank: int = RANK) -> dict[str, Tensor]:
    """The ``rank`` strongest directions of an image's tokens: the arrays of ``CompactTokens``, where the tokens are.

    Found by a few rounds of subspace iteration from a fixed start, so that the same tokens always give the same result.

    Args:
        tokens: float ``[rows, columns, C]``.
        rank: directions kept at most.
    """
    rows, columns, channels = tokens.shape
    flat = tokens.reshape(-1, channels).float()
    mean = flat.mean(dim=0)
    centred = flat - mean
    basis = _strongest_directions(centred, min(rank, *centred.shape))
    weights = centred @ basis.T
    scale = weights.abs().amax(dim=0).clamp(min=1e-12) / 127
    return {
        "token_grid": torch.tensor([rows, columns]),
        "token_mean": mean.half(),
        "token_basis": basis.half(),
        "token_scale": scale,
        "token_weights": (weights / scale).round().to(torch.int8),
    }


def _strongest_directions(centred: Tensor, rank: int) -> Tensor:
    """Orthonormal float32 ``[rank, C]``: the leading right singular vectors of float32 ``[T, C]``, nearly."""
    width = min(rank + _EXTRA, *centred.shape)
    start = torch.linspace(0, len(centred) - 1, width, device=centred.device).round().long()
    directions = centred[start].T
    for _ in range(_ROUNDS):
        directions = torch.linalg.qr(directions)[0]
        directions = centred.T @ (centred @ directions)
    directions = torch.linalg.qr(directions)[0]
    along = centred @ directions
    _, vectors = torch.linalg.eigh(along.T @ along)
    strongest: Tensor = directions @ vectors.flip(1)[:, :rank]
    return strongest.T.contiguous()
