"""References of a protocol as vectors: each is read and encoded once, for any number of memory banks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_ntt import __version__
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.coco_files import decode_segmentation
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.references import ReferenceEncoder, ReferenceItem
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.pixels.files import read_file, write_file
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.pixels.mask_codes import encode_crop

_MOST_BYTES = 1 << 30
Box = tuple[float, float, float, float]


class Referable(Protocol):
    """An object that can be shown as a reference: ``Reference``, or a class of a map of class numbers."""

    @property
    def path(self) -> Path: ...
    @property
    def label(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def size(self) -> tuple[int, int] | None: ...
    @property
    def box(self) -> Box | None: ...
    def read_mask(self) -> NDArray[np.bool_] | None: ...


class BoxMasks:
    """Masks of boxes by the mask model of a preset, each made once and kept in a file.

    The published tables have them from SAM ViT-H; ours are of the models that run.

    Args:
        folder: where the file goes; nothing is kept where ``None``.
        segmenter: makes them; what decides its masks names the file.
    """

    def __init__(self, folder: Path | None, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        decisive = {"code": __version__, **segmenter.facts()}
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
        self.path = None if folder is None else folder / f"box_masks_{digest}.json"
        self._kept: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.is_file():
            self._kept = _kept_masks(self.path)
        self._new = 0

    def __len__(self) -> int:
        return len(self._kept)

    def masks(self, pixels: NDArray[np.uint8], boxed: Sequence[Referable]) -> list[NDArray[np.bool_]]:
        """A mask bool ``[H, W]`` for each; one that comes out empty is the box itself."""
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        content = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[:16]  # an image may be replaced
        keys = [f"{one.identity} {content}" for one in boxed]
        missing = {key: one for key, one in zip(keys, boxed, strict=True) if key not in self._kept}
        if missing:
            boxes = np.array([one.box for one in missing.values()], np.float32)
            masks = self._segmenter.box_masks(pixels, boxes)
            for (key, one), mask in zip(missing.items(), masks, strict=True):
                filled = mask if mask.any() else _filled_box(one.box, size)
                rle = encode_crop(filled, 0, 0, size)
                self._kept[key] = {"size": list(size), "counts": rle["counts"].decode("ascii")}
            self._new += len(missing)
        return [decode_segmentation(self._kept[key], size) for key in keys]

    def save(self) -> None:
        """Writes what is new."""
        if self.path is not None and self._new:
            write_file(self.path, json.dumps(self._kept))
            self._new = 0


def _kept_masks(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(read_file(path, _MOST_BYTES))
        if isinstance(content, dict):
            return content
    except ValueError as error:
        raise InputError(f"expected masks of boxes in {path}, got something else ({error}); delete it") from error
    raise InputError(f"expected masks of boxes in {path}, got something else; delete it, and they are made again")


def _filled_box(box: Box | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    x1, y1, x2, y2 = box or (0, 0, size[1], size[0])
    left, top = min(max(int(x1), 0), size[1] - 1), min(max(int(y1), 0), size[0] - 1)
    mask[top : max(top + 1, round(y2)), left : max(left + 1, round(x2))] = True
    return mask


def read_items(references: Iterable[Referable], masks: BoxMasks | None = None) -> Iterator[ReferenceItem]:
    """References with pixels and masks, in their order; those of one image that follow each other share the array.

    Args:
        references: what to read.
        masks: makes masks where there are only boxes.

    Raises:
        InputError: if an image is not of the size that its json says, or a mask is needed and nothing makes it.
    """
    for path, group in groupby(references, key=lambda one: one.path):
        together = list(group)
        pixels = read_sized(path, together[0].size)
        found = [one.read_mask() for one in together]
        boxed = [one for one, mask in zip(together, found, strict=True) if mask is None]
        if boxed and masks is None:
            raise InputError(f"expected masks of the references in {path.name}, got boxes; give a preset to make them")
        made = iter(masks.masks(pixels, boxed) if boxed and masks is not None else ())
        for one, mask in zip(together, found, strict=True):
            yield ReferenceItem(pixels, next(made) if mask is None else mask, one.label, one.key, one.box)


def read_sized(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The pixels of an image as they are stored, uint8 ``[H, W, 3]``; refuses another size than the json's."""
    pixels = read_image(path, upright=False)
    found = (int(pixels.shape[0]), int(pixels.shape[1]))
    if size is not None and found != size:
        raise InputError(f"{path.name} is {found}, its json says {size}; get the image again")
    return pixels


class Shelf:
    """Vectors of references.

    Args:
        segmenter: encodes them.
        preset: name of the preset, for the banks.
        masks: makes masks where there are only boxes.
    """

    def __init__(self, segmenter: Segmenter, preset: str, masks: BoxMasks) -> None:
        self._segmenter, self._preset, self.masks = segmenter, preset, masks
        self._made: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}  # vector, mean token

    def __len__(self) -> int:
        return len(self._made)

    def add(self, references: Sequence[Referable]) -> None:
        """Encodes those that were not yet."""
        missing = list({one.identity: one for one in references if one.identity not in self._made}.values())
        model, settings, via = self._segmenter.feature_model, self._segmenter.references, self._segmenter.target_via
        encoder, last = ReferenceEncoder(model, settings, via), None
        try:
            for one, item in zip(missing, read_items(missing, self.masks), strict=True):
                if settings.context == "crop" or item.image is not last:  # one mean a crop, or an image
                    encoder, last = ReferenceEncoder(model, settings, via), item.image
                self._made[one.identity] = encoder.encode(item), encoder.mean_token
        finally:
            self.masks.save()  # what was made before an image failed is not made again

    def bank(self, references: Sequence[Referable], classes: Sequence[str]) -> MemoryBank:
        """The memory bank of some references, the same as ``Segmenter.build_bank`` makes of them."""
        self.add(references)
        made, model = [self._made[one.identity] for one in references], self._segmenter.feature_model
        settings = self._segmenter.references
        shown = [
            i for i, one in enumerate(references)
            if settings.context == "crop" or i == 0 or one.path != references[i - 1].path
        ]  # fmt: skip
        means = torch.from_numpy(np.stack([made[i][1] for i in shown]))  # [images or crops, C]
        centre = np.asarray(means.mean(dim=0), np.float32) if settings.centre else None
        places = {name: place for place, name in enumerate(classes)}
        return MemoryBank(
            classes,
            np.stack([vector for vector, _ in made]),
            [places[one.label] for one in references],
            [one.key for one in references],
            centre,
            preset=self._preset,
            weights=self._segmenter.weights,
            preprocessing={
                **asdict(settings), "input_size": model.input_size, "target_via": self._segmenter.target_via,
            },
        )  # fmt: skip
