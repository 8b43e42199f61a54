"""What a run will cost: images, how many of them are in the candidate cache, and the time for the rest.

It is shown in forms, which ask again at every keystroke: no model is loaded, and no more files are read than fit into
a fraction of a second. What was read is remembered. How long an image takes on this machine, as measured, is kept with
the dataset, in FiftyOne's execution store.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.file_format import index_root
from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.candidates.store import IndexStore, recalled
from fiftyone_ntt.candidates.tiles import digests_of, is_tiled, tiles_of_size
from fiftyone_ntt.dataset.fields import image_samples, root_dataset_of
from fiftyone_ntt.dataset.storage import store
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.models.devices import choose_devices
from fiftyone_ntt.params.base import StageOneFields, StageOneSettings, stage_one_of
from fiftyone_ntt.pixels.images import image_size
from fiftyone_ntt.pixels.regions import file_digest

if TYPE_CHECKING:
    from typing_extensions import Unpack

_STORE = "ntt_speed"
_LOOKED_AT = 100
"""Images whose files are compared with the cache: all of them where there are no more."""
_SECONDS = 0.1
_SECONDS_INDEXED = 0.05
"""What labelling an image from the index takes, about, until it has been measured."""
_KEPT = 20_000


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        images: to do.
        looked_at: how many of them were compared with the cache.
        found: how many of those are in it.
        seconds_each: measured on this machine, for a look of the models at an image that is not in the candidate cache;
            ``None`` while unknown.
        looks: how many an image takes that is not in it, on average: one, or one for each tile of a large image.
    """

    images: int
    looked_at: int
    found: int
    seconds_each: float | None
    looks: float = 1.0

    @property
    def exact(self) -> bool:
        """Whether every image was looked up."""
        return self.looked_at == self.images

    @property
    def indexed(self) -> int:
        """Images that are in the index; from a part of them where not ``exact``."""
        return round(self.images * self.found / self.looked_at) if self.looked_at else 0

    @property
    def seconds(self) -> float | None:
        """How long it will take, about; ``None`` while unknown."""
        to_compute = self.images - self.indexed
        if to_compute and self.seconds_each is None:
            return None
        return to_compute * self.looks * (self.seconds_each or 0.0) + self.indexed * _SECONDS_INDEXED

    def __str__(self) -> str:
        if not self.images:
            return "No images to do."
        return f"{counted(self.images, 'image')} to do, {self._in_index}. {self._time}"

    @property
    def _in_index(self) -> str:
        if not self.found:
            return (
                "none of them in the candidate cache yet"
                if self.looked_at
                else "not known how many are in the candidate cache"
            )
        if self.exact:
            return f"{'all' if self.found == self.images else self.found} of them in the candidate cache"
        return f"about {self.indexed} of them in the candidate cache (judging by {self.looked_at} of them)"

    @property
    def _time(self) -> str:
        seconds = self.seconds
        if seconds is None:
            return "How long that takes on this machine is not known yet: run a preview, and it will be."
        what = "an image" if self.looks == 1 else f"a tile, of which an image has {self.looks:.2g}"
        measured = f", at {self.seconds_each:.2g} s {what} as measured" if self.indexed < self.images else ""
        return f"Takes about {in_words(seconds)} on this machine{measured}."


def estimate(
    view: SampleCollection,
    stage_one: StageOneSettings | None = None,
    *,
    most_seconds: float = _SECONDS,
    **stage_one_fields: Unpack[StageOneFields],
) -> Estimate:
    """What it costs to find the candidates of every image of a view.

    Args:
        view: the images to do.
        stage_one: how candidates are made. What ``"auto"`` granularity comes to is in the bank: nearly always the
            default, which it counts as here.
        most_seconds: how long files may be read.
        **stage_one_fields: fields of ``StageOneSettings``, in place of those of ``stage_one``.

    Returns:
        The estimate; from as many images as there was time for.

    Example:
        >>> print(estimate(dataset, preset="lite", points_per_side=16))  # doctest: +SKIP
        10 images to do, 4 of them in the candidate cache. Takes about 9 seconds on this machine, at 1.5 s an ...
    """
    asked = stage_one_of(stage_one, stage_one_fields)
    made_how = StageOne.of(asked.changed(granularity="best") if asked.granularity == "auto" else asked)
    flat = image_samples(view)
    images = len(flat)
    speed = seconds_per_look(root_dataset_of(flat), made_how)
    stores = _stores(index_root(asked.index_dir), made_how) if asked.use_index else []
    until = time.monotonic() + most_seconds
    paths = _some_paths(flat, images) if images else []
    if not stores or not images:
        return Estimate(images, images, 0, speed, _mean(_looks_at(paths, asked, until)))
    looked_at, indexed, looks = 0, 0, []
    for path in paths:
        known = _known(path, time.monotonic() < until)
        if known is not None:
            looked_at += 1
            digests = _in_cache(*known, asked)
            is_there = bool(digests) and any(all(map(store.has, digests)) for store in stores)
            indexed += is_there
            looks += [] if is_there else [max(len(digests), 1)]
    return Estimate(images, looked_at, indexed, speed, _mean(looks))


def _looks_at(paths: Sequence[str], asked: StageOneSettings, until: float) -> list[int]:
    """How many looks each of some images takes; of those for whose headers there is time."""
    looks = []
    for path in paths if asked.large_images != "off" else ():
        if time.monotonic() >= until:
            break
        size = image_size(path, upright=False)  # on its side it has as many tiles
        looks.append(1 if size is None else max(len(tiles_of_size(size, asked)), 1))
    return looks


def _mean(looks: Sequence[int]) -> float:
    return sum(looks) / len(looks) if looks else 1.0


def _stores(root: Path, stage_one: StageOne) -> list[IndexStore]:
    """The parts of the index that hold candidates made this way; usually one, or none."""
    return [IndexStore(root, settings, 0) for settings in recalled(root, stage_one.recipe)]


def _some_paths(view: SampleCollection, images: int) -> Sequence[str]:
    """All paths of a small view, else those of some samples, always the same ones."""
    if images <= _LOOKED_AT:
        paths: list[str] = view.values("filepath")
        return paths
    chosen: list[str] = view.take(_LOOKED_AT, seed=51).values("filepath")
    return chosen


_File = tuple[str, int, int]
_Known = tuple[_File, str, tuple[int, int] | None]
_digests: OrderedDict[_File, tuple[str, tuple[int, int] | None]] = OrderedDict()


def _known(path: str, may_read: bool) -> _Known | None:
    """A file, its sha256 and its size as stored; ``None`` if it cannot be read, or would have to be and must not."""
    key = path, 0, 0
    try:
        facts = Path(path).stat()
        key = path, facts.st_mtime_ns, facts.st_size
        if key not in _digests:
            if not may_read:
                return None
            _digests[key] = file_digest(path), image_size(path, upright=False)
            while len(_digests) > _KEPT:
                _digests.popitem(last=False)
        return key, *_digests[key]
    except (OSError, ValueError, InputError):  # an image that is not there is not indexed either
        return (key, "", None) if may_read else None


@lru_cache(_KEPT)
def _upright_size(file: _File) -> tuple[int, int] | None:
    return image_size(file[0])


def _in_cache(file: _File, image: str, size: tuple[int, int] | None, asked: StageOneSettings) -> list[str]:
    """What the cache knows an image by: its own digest, or those of its tiles; nothing of one that cannot be read."""
    if size is not None and is_tiled(size, asked.large_images):
        size = _upright_size(file)  # of these alone, as a PNG is decoded for it
    tiles = [] if size is None else tiles_of_size(size, asked)
    return digests_of(image, tiles) if tiles else [image] if image else []


def in_words(seconds: float) -> str:
    """A length of time as people say it: ``"40 seconds"``, ``"25 minutes"``, ``"3.5 hours"``."""
    if seconds < 90:
        return counted(max(1, round(seconds)), "second")
    if seconds < 90 * 60:
        return counted(round(seconds / 60), "minute")
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else counted(round(hours / 24), "day")


def remember_speed(dataset: fo.Dataset, stage_one: StageOne, seconds: float, looks: int) -> None:
    """Keeps with a dataset how long looks took at what was not in the candidate cache; ``seconds_per_look`` tells it.

    Args:
        dataset: the dataset.
        stage_one: how candidates were made.
        seconds: for all of them.
        looks: how many they were, each at an image or at a tile of a large one; nothing is kept of none.
    """
    if looks > 0 and seconds > 0:
        store(dataset, _STORE).set(_key(stage_one), {"seconds": seconds, "images": looks})


def seconds_per_look(dataset: fo.Dataset, stage_one: StageOne) -> float | None:
    """How long an image, or a tile, takes here that is not in the candidate cache; ``None`` while never measured."""
    measured = store(dataset, _STORE).get(_key(stage_one))
    return measured["seconds"] / measured["images"] if measured else None


def _key(stage_one: StageOne) -> str:
    devices = ",".join(str(device) for device in choose_devices(stage_one.settings.device))
    return hashlib.sha256(f"{platform.node()} {devices} {stage_one.recipe}".encode()).hexdigest()
