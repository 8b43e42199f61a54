"""Masks at image size, kept as packed bits of their own bounding box.

Nothing here ever holds a full-size stack of masks: a mask is up-sampled only inside the box it occupies, and stored
with one bit a pixel. A hundred masks of a 12-megapixel image take a few megabytes instead of gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_ntt.pixels.compiled import loops
from fiftyone_ntt.pixels.frames import ImageFrame, Resize, outline_radius, resize_axis
from fiftyone_ntt.pixels.mask_codes import Runs, components
from fiftyone_ntt.pixels.outlines import Crop

Words = NDArray[np.uint64]
WORD = 64
"""Pixels packed into one machine word; overlaps are counted a word at a time."""


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A binary mask at image size, as bits of the box it occupies.

    Attributes:
        top: first row of ``bits`` in the image.
        left: first column of ``bits`` in the image, a multiple of 64, so that words of two masks line up.
        bits: uint64 ``[rows, words]``, 64 columns a word, in the order of ``numpy.packbits``.
        extent: ``(x1, y1, x2, y2)`` of the true pixels, x2 and y2 exclusive; all zero for an empty mask.
        area: number of true pixels.
    """

    top: int
    left: int
    bits: NDArray[np.uint64]
    extent: tuple[int, int, int, int]
    area: int

    @classmethod
    def from_crop(cls, crop: NDArray[np.bool_], top: int, left: int) -> PackedMask:
        """Packs a bool ``[h, w]`` crop whose first pixel is at (``left``, ``top``) of the image."""
        before = left % WORD
        words = -(-(before + crop.shape[1]) // WORD)
        aligned = np.zeros((crop.shape[0], words * WORD), bool)
        aligned[:, before : before + crop.shape[1]] = crop
        bits = np.packbits(aligned, axis=1).view(np.uint64)
        area = int(np.bitwise_count(bits).sum())
        if area == 0:
            return cls.trimmed(bits, 0, 0, (0, 0, 0, 0), 0)
        # Looking for the extent among words is much faster than among pixels.
        rows = np.flatnonzero(bits.any(axis=1))
        columns = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(bits, axis=0).view(np.uint8)))
        within = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        return cls.trimmed(bits, top, left - before, within, area)

    @classmethod
    def trimmed(cls, bits: Words, top: int, left: int, within: Sequence[int], area: int) -> PackedMask:
        """The mask of ``bits`` whose first is at (``left``, ``top``): nothing of them is outside ``within``, xyxy."""
        if area == 0:
            return cls(0, 0, np.zeros((0, 0), np.uint64), (0, 0, 0, 0), 0)
        x1, y1, x2, y2 = within
        kept = np.ascontiguousarray(bits[y1:y2, x1 // WORD : -(-x2 // WORD)])
        return cls(top + y1, left + x1 // WORD * WORD, kept, (left + x1, top + y1, left + x2, top + y2), area)

    def crop(self) -> NDArray[np.bool_]:
        """The mask inside its own extent: bool ``[y2 - y1, x2 - x1]``."""
        x1, _, x2, _ = self.extent
        if self.area == 0:
            return np.zeros((0, 0), bool)
        return np.unpackbits(self.bits.view(np.uint8), axis=1)[:, x1 - self.left : x2 - self.left].astype(bool)

    def full(self, image_size: tuple[int, int]) -> NDArray[np.bool_]:
        """The whole mask: bool ``[H, W]``."""
        mask = np.zeros(image_size, bool)
        x1, y1, x2, y2 = self.extent
        mask[y1:y2, x1:x2] = self.crop()
        return mask

    def intersection(self, other: PackedMask) -> int:
        """Number of pixels that both masks hold."""
        top = max(self.top, other.top)
        bottom = min(self.top + self.bits.shape[0], other.top + other.bits.shape[0])
        left = max(self.left, other.left)
        right = min(self.left + WORD * self.bits.shape[1], other.left + WORD * other.bits.shape[1])
        if top >= bottom or left >= right:
            return 0
        return int(
            np.bitwise_count(self._window(top, bottom, left, right) & other._window(top, bottom, left, right)).sum()
        )

    def iou(self, other: PackedMask) -> float:
        """Intersection over union with another mask of the same image; 0 where both are empty."""
        shared = self.intersection(other)
        return float(intersection_over_union(shared, self.area, other.area)) if shared else 0.0

    def _window(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.uint64]:
        return self.bits[top - self.top : bottom - self.top, (left - self.left) // WORD : (right - self.left) // WORD]


def intersection_over_union(shared: Any, area: Any, other: Any) -> Any:
    """The one place where it is computed, from areas: of numbers, arrays or tensors that broadcast.

    Args:
        shared: what both cover.
        area: what one covers.
        other: what the other covers; one of both must not be empty.
    """
    return shared / (area + other - shared)


def boxes_of(binary: Tensor) -> Tensor:
    """Inclusive pixel extents of masks.

    Args:
        binary: bool ``[N, h, w]``.

    Returns:
        float32 ``[N, 4]`` xyxy; x2 and y2 are the last column and row that hold a pixel. Zeros for an empty mask.
    """
    # The largest byte: far faster than ``any`` on the CPU.
    rows, columns = (binary.view(torch.uint8).amax(dim=axis).bool() for axis in (2, 1))
    y1, y2 = _first_and_last(rows)
    x1, x2 = _first_and_last(columns)
    boxes = torch.stack([x1, y1, x2, y2], dim=1).float()
    return boxes * rows.any(dim=1, keepdim=True)


def _first_and_last(flags: Tensor) -> tuple[Tensor, Tensor]:
    size = flags.shape[1]
    marks = flags.to(torch.uint8)
    return marks.argmax(dim=1), size - 1 - marks.flip(1).argmax(dim=1)


class MaskSource(Protocol):
    """Masks in the mask frame that can be read one by one: ``Candidates`` and ``CompactCandidates``."""

    @property
    def frame(self) -> ImageFrame:
        """How image pixels map to the model frame."""
        ...

    @property
    def boxes(self) -> NDArray[np.float32]:
        """float32 ``[N, 4]`` xyxy in the mask frame, inclusive, zeros for an empty mask."""
        ...

    def crops(self, index: Sequence[int]) -> Iterable[Crop]:
        """The masks at ``index``, each with all around it that a resize to image size can see.

        That is ``outline_radius`` pixels in each direction, or to the border of the mask frame.
        """
        ...


def masks_at_image_size(source: MaskSource, index: Sequence[int]) -> list[PackedMask]:
    """Resizes mask logits to the image, bilinear with antialias, and keeps where they are > 0 (docs/method.md 3.6).

    Args:
        source: masks in the mask frame; the frame's padding, if any, is cut away.
        index: which of them.

    Returns:
        The masks at ``index``.
    """
    height, width = source.frame.mask_content
    resize_y = resize_axis(height, source.frame.image_size[0])
    resize_x = resize_axis(width, source.frame.image_size[1])
    boxes = source.boxes.astype(np.int64)
    return [
        _resize_one(crop, tuple(boxes[i].tolist()), resize_y, resize_x)
        for i, crop in zip(index, source.crops(index), strict=True)
    ]


class ImageMasks:
    """Some masks of a source at image size, each made when it is first needed.

    Args:
        source: masks in the mask frame.
        index: int64 ``[n]``, which of them; numbered from 0 here.
        made: what is made already, by its number in the source; extended.
    """

    def __init__(self, source: MaskSource, index: NDArray[np.int64], made: dict[int, PackedMask] | None = None) -> None:
        self._source, self._index = source, index
        self._made: dict[int, PackedMask] = {} if made is None else made
        self.reach = _reach(source, index)
        """float32 ``[n, 4]`` xyxy in image pixels, x2 and y2 exclusive: no mask has a pixel outside its reach."""

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> PackedMask:
        return self._made[int(self._index[i])]

    def make(self, wanted: Iterable[int]) -> None:
        """Makes those that are not there yet; many at a time is faster."""
        missing = sorted({int(self._index[i]) for i in wanted} - self._made.keys())
        masks = masks_at_image_size(self._source, missing)
        self._made.update(zip(missing, masks, strict=True))


def _reach(source: MaskSource, index: NDArray[np.int64]) -> NDArray[np.float32]:
    (height, width), (rows, columns) = source.frame.image_size, source.frame.mask_content
    margin = outline_radius(source.frame)
    # The boxes, grown by what a resize can see beyond them, in pixels of the image.
    corners = source.boxes[index] + np.array([-margin, -margin, 1 + margin, 1 + margin])
    scale = np.array([width / columns, height / rows] * 2)
    return np.asarray(np.clip(corners * scale, 0, [width, height] * 2), np.float32)


def _resize_one(crop: Crop, box: tuple[int, ...], resize_y: Resize, resize_x: Resize) -> PackedMask:
    x1, y1, x2, y2 = box
    # An empty mask has the box of the one pixel in the corner; that pixel is not positive, so it stays empty.
    top, bottom = resize_y.outputs(y1, y2)
    left, right = resize_x.outputs(x1, x2)
    if top >= bottom or left >= right:
        return PackedMask.from_crop(np.zeros((0, 0), bool), 0, 0)
    if (enlarged := _enlarged_by_loops(crop, (top, bottom, left, right), resize_y, resize_x)) is not None:
        return enlarged
    # Columns first, then rows: the order of torch's separable kernel, so that rounding agrees with it.
    in_y, in_x = resize_y.inputs(top, bottom), resize_x.inputs(left, right)
    first_y, first_x, logits = crop
    seen = logits[in_y.start - first_y : in_y.stop - first_y, in_x.start - first_x : in_x.stop - first_x]
    if (bottom - top) * (right - left) >= _WORTH_IT and resize_y.period and resize_x.period:
        inside = _enlarged(seen, resize_y, slice(top, bottom), resize_x, slice(left, right))
        if inside is not None:
            return PackedMask.from_crop(inside, top, left)
    widened = resize_x.apply(seen.T, left, right).T
    return PackedMask.from_crop(resize_y.apply(widened, top, bottom) > 0, top, left)


def _enlarged_by_loops(
    crop: Crop, outputs: tuple[int, int, int, int], resize_y: Resize, resize_x: Resize
) -> PackedMask | None:
    """The mask of ``_resize_one``, to the bit, where there are compiled loops and each output is between two inputs."""
    compiled, pair_y, pair_x = loops(), resize_y.pair, resize_x.pair
    if compiled is None or pair_y is None or pair_x is None:
        return None
    (top, bottom, left, right), (first_row, first_column, logits) = outputs, crop
    first_word = left // WORD
    bits = np.empty((bottom - top, -(-right // WORD) - first_word), np.uint64)
    extent = np.empty(4, np.int64)
    logits = np.ascontiguousarray(logits)
    area = compiled.bits.enlarge(logits, first_row, first_column, *outputs, *pair_y, *pair_x, bits, extent)
    return None if area < 0 else PackedMask.trimmed(bits, top, first_word * WORD, extent.tolist(), area)


_WORTH_IT = 1 << 15
"""Outputs from which on OpenCV is quicker than products of small matrices."""
_UNSURE = 1e-4
"""How far OpenCV's values may be off, as a share of the largest; it is some 1e-5."""


def _enlarged(
    seen: NDArray[np.float32], resize_y: Resize, rows: slice, resize_x: Resize, columns: slice
) -> NDArray[np.bool_] | None:
    """Where an enlarged mask is above 0, to the bit: by OpenCV, and where that is close to 0 as the products give it.

    Args:
        seen: logits of the inputs that the outputs need.
        resize_y: the resize from row to row.
        rows: the outputs.
        resize_x: the resize from column to column.
        columns: the outputs.

    Returns:
        bool of the outputs; ``None`` where the logits are too large to tell what is close to 0, or no numbers, or
        whole periods are far more than the outputs.
    """
    import cv2

    largest = max(float(seen.max()), -float(seen.min()))
    (above, below, first_row, height), (before, after, first_column, width) = (
        axis.padding(outputs) for axis, outputs in ((resize_y, rows), (resize_x, columns))
    )
    if not largest < 1e3 or height * width > 2 * (rows.stop - rows.start) * (columns.stop - columns.start):
        return None
    padded = cv2.copyMakeBorder(seen, above, below, before, after, cv2.BORDER_CONSTANT, value=-1.0)
    values = cv2.resize(padded, (width, height), interpolation=cv2.INTER_LINEAR)
    values = values[rows.start - first_row : rows.stop - first_row]
    values = values[:, columns.start - first_column : columns.stop - first_column]
    bound = _UNSURE * max(largest, 1.0)
    inside = values > bound
    y, x = np.divmod(np.flatnonzero(inside != (values > -bound)), values.shape[1])
    inside[y, x] = _at(seen, resize_y, rows, y, resize_x, columns, x) > 0
    return np.asarray(inside, bool)


def _at(
    seen: NDArray[np.float32],
    resize_y: Resize,
    rows: slice,
    y: NDArray[np.int64],
    resize_x: Resize,
    columns: slice,
    x: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Single outputs of ``_enlarged``, rounded where the two products round."""
    upper, lower, weight_up, weight_low = resize_y.taps(rows, y)
    left, right, weight_left, weight_right = resize_x.taps(columns, x)
    across = [
        _fused(weight_left, seen[row, left], weight_right, seen[row, right]).astype(np.float32)
        for row in (upper, lower)
    ]
    return _fused(weight_up, across[0], weight_low, across[1])


def _fused(
    weight: NDArray[np.float32], value: NDArray[np.float32], more: NDArray[np.float32], other: NDArray[np.float32]
) -> NDArray[np.float64]:
    """``weight * value``, rounded, and ``more * other`` added to it exactly: a fused multiply-add."""
    return np.asarray((weight * value).astype(np.float64) + more.astype(np.float64) * other, np.float64)


class WithoutSmallRegions:
    """Masks as those of ``source``, without small disconnected regions, which ruin the box of an otherwise good mask.

    Args:
        source: N masks.
        runs: the same masks as runs.
        share: connected regions smaller than this share of the largest one of their mask are left out.
    """

    def __init__(self, source: MaskSource, runs: Runs, share: float) -> None:
        count = len(source.boxes)
        self._source, self._runs = source, runs
        self._small, self._boxes = _small_regions(runs, share, count)
        # Where each mask's runs end.
        self._ends = np.searchsorted(runs.owner, np.arange(count, dtype=runs.owner.dtype), side="right")

    @property
    def frame(self) -> ImageFrame:
        """See ``MaskSource``."""
        return self._source.frame

    @property
    def boxes(self) -> NDArray[np.float32]:
        """See ``MaskSource``; of what is left."""
        return self._boxes

    def crops(self, index: Sequence[int]) -> Iterator[Crop]:
        """See ``MaskSource``; those regions have become background."""
        for i, (top, left, logits) in zip(index, self._source.crops(index), strict=True):
            part = slice(self._ends[i - 1] if i else 0, self._ends[i])
            small, runs = self._small[part], self._runs.select(part)
            if small.any():
                logits = logits.copy()
                if (compiled := loops()) is not None and runs.row.dtype == np.int32:
                    compiled.runs.flip_runs(runs.row, runs.start, runs.stop, small, top, left, logits)
                else:
                    logits.reshape(-1)[runs.select(small).pixels(top, left, logits.shape[1])] *= -1
            yield top, left, logits


def _small_regions(runs: Runs, share: float, count: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """``are_small_regions``, and the boxes of the ``count`` masks without these, as ``Runs.boxes`` has them."""
    compiled = loops()
    if compiled is None or runs.owner.dtype != np.int32:
        small = are_small_regions(runs, share)
        return small, runs.select(~small).boxes(count)
    small, boxes = np.empty(len(runs), bool), np.zeros((count, 4), np.float32)
    compiled.runs.small_regions(runs.owner, runs.row, runs.start, runs.stop, float(share), small, boxes)
    return small, boxes


def are_small_regions(runs: Runs, share: float) -> NDArray[np.bool_]:
    """bool ``[R]``: runs of components smaller than ``share`` times the largest one of their mask."""
    if not len(runs):
        return np.zeros(0, bool)
    component = components(runs)
    area = np.bincount(component, weights=runs.length, minlength=len(runs))  # at one run of each component
    first = np.flatnonzero(np.diff(runs.owner, prepend=-1))
    largest = np.maximum.reduceat(area, first)
    enough = np.repeat(share * largest, np.diff(first, append=len(runs)))
    return np.asarray((area < enough).take(component))
