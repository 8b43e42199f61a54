"""Where the candidates of an image come from: the index if it has them, else the models, for the index to keep."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_ntt import __version__
from fiftyone_ntt.candidates.compact import CompactImage, compact
from fiftyone_ntt.candidates.file_format import IndexSettings, index_root
from fiftyone_ntt.candidates.image_notes import ImageNotes
from fiftyone_ntt.candidates.store import IndexFileError, IndexStorageError, IndexStore, explain_missing, recalled
from fiftyone_ntt.candidates.stream import Outcome, stream
from fiftyone_ntt.candidates.tiles import Content, TiledItem, digests_of, tiles_of
from fiftyone_ntt.errors import InputError, NttError, counted
from fiftyone_ntt.method.config import Granularity
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.tiled import TiledImage
from fiftyone_ntt.method.results import IndexedImage
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.models import Preset, load_segmenters
from fiftyone_ntt.models.devices import AnyPrecision, Precision, choose_devices
from fiftyone_ntt.models.presets import precision_of, resolve_preset
from fiftyone_ntt.params.base import GRANULARITIES, StageOneSettings
from fiftyone_ntt.pixels.images import content_digest, decode_with_notes, read_bytes
from fiftyone_ntt.pixels.regions import file_digest

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Read = NDArray[np.uint8] | CompactImage | TiledItem
_Finish = Callable[[str, Any], T]
_WHOLE = "{} of the candidate cache went through the models again, as MatchConfig.paper() needs all that they give"


@dataclass(frozen=True)
class StageOne:
    """How candidates are made: what was asked for, and what that comes to here. Made by ``StageOne.of`` only.

    Attributes:
        settings: what was asked for; granularity and precision are never ``"auto"``, but what that came to.
        preset: the models.
    """

    settings: StageOneSettings
    preset: Preset

    @classmethod
    def of(cls, settings: StageOneSettings, bank: MemoryBank | None = None) -> StageOne:
        """What settings come to for a memory bank.

        Args:
            settings: what is asked for.
            bank: says which models, and what ``"auto"`` granularity is; without one the models are ``"lite"``.

        Raises:
            InputError: if there is no such preset, or the bank cannot be used this way.
            PresetMismatchError: if the bank was made with another preset.
        """
        wanted = settings.preset or (bank.preset if bank is not None else "lite")
        preset = resolve_preset(cast("str | Preset", wanted))
        if bank is not None:
            bank.check_preset(preset.name, bank.weights)
            if settings.second_look:
                check_second_look(bank)
        precision = precision_of(preset, cast(AnyPrecision, settings.precision), settings.device)
        return cls(settings.changed(granularity=outputs_for(settings.granularity, bank), precision=precision), preset)

    @property
    def points_per_side(self) -> int:
        """Prompt points along each side of an image."""
        return self.preset.proposals(self.settings.points_per_side).points_per_side

    def load(self) -> list[Segmenter]:
        """The models, one segmenter a device."""
        asked = self.settings
        return load_segmenters(
            self.preset,
            asked.device,
            asked.points_per_side,
            points=cast(Literal["grid", "guided"], asked.points),
            granularity=cast(Granularity, asked.granularity),
            second_look=asked.second_look,
            precision=cast(Precision, asked.precision),
            compile=asked.compile,
        )

    @property
    def recipe(self) -> str:
        """All that decides the candidates and is known before the models are loaded."""
        asked = self.settings
        options = [] if asked.granularity == "best" else [f"outputs {asked.granularity}"]
        options += ["second look"] if asked.second_look else []
        side = str(self.points_per_side)
        return " ".join([__version__, repr(self.preset), side, asked.points, asked.precision, *options])


class CandidateSource:
    """The candidates of the images of one run. Its methods may be called from several threads.

    Args:
        stage_one: how they are made, and whether and where the index is.
        bank: the memory bank of the run, whose weights the models must have; ``None`` takes any.
        size_limit: bytes that the index may reach; the default where ``None``.
        upright: apply EXIF rotation.

    Attributes:
        from_index: images whose candidates were in the index.
        indexed: images whose candidates were added to it.
        looks: at how many images the models looked; a tile of a large image is one here.
        bytes: size of what was added.
        ready_after: seconds that loading the models and warming them up took.
        storage_error: why the index took no more; ``None`` while it does.
        unstored: key -> why the index could not take this image, though it takes others.
        about: what a person should know of single images, e.g. that there is hardly any contrast in one.

    Raises:
        InputError: if the device is not there.
    """

    def __init__(
        self, stage_one: StageOne, *, bank: MemoryBank | None = None, size_limit: int | None = None,
        upright: bool = True,
    ) -> None:  # fmt: skip
        self._stage_one, self._bank, self._size_limit, self._upright = stage_one, bank, size_limit, upright
        choose_devices(stage_one.settings.device)  # an unknown one is refused also where no model will be needed
        self._root, self._use_index = index_root(stage_one.settings.index_dir), stage_one.settings.use_index
        self._store: IndexStore | None = None
        self._loaded: list[Segmenter] | None = None
        self._to_keep: dict[str, str] = {}
        self._lock = threading.Lock()
        self._explanation = ""
        self.from_index, self.indexed, self.looks, self.bytes = 0, 0, 0, 0
        self.ready_after = 0.0
        self.storage_error: IndexStorageError | None = None
        self.unstored: dict[str, str] = {}
        self.about = ImageNotes(stage_one.points_per_side)
        self._passed_over = 0

    def open(self) -> None:
        """Finds the part of the index to use.

        What decides its content is known once the models are loaded. If this very preset was used here before, with
        the weights that made the bank, it is known without.

        Raises:
            PresetMismatchError: if the weights on this machine are not those that made the bank.
            MissingWeightsError: if weights are needed and not there.
        """
        settings = self._recalled(self._bank) if self._use_index and self._bank is not None else None
        if settings is None:
            segmenters, started = self.segmenters(), time.perf_counter()
            for segmenter in segmenters:  # not where they load: what is compiled holds for a thread's number of threads
                segmenter.warm_up()
            self.ready_after += time.perf_counter() - started
            if not self._use_index:
                return
            settings = self._settings(segmenters[0])
        self._store = IndexStore(self._root, settings, self._size_limit)
        self._explanation = explain_missing(self._root, settings)
        if self._explanation:
            logger.debug("%s", self._explanation)  # for people it is among the notes of the report
        self._store.remember(self._stage_one.recipe)

    def recall(self) -> bool:
        """``open`` without any model.

        Returns:
            Whether it is known which part of the index to use; if not, ``cached`` finds nothing.
        """
        settings = self._recalled(self._bank) if self._use_index and self._bank is not None else None
        self._store = None if settings is None else IndexStore(self._root, settings, self._size_limit)
        return settings is not None

    def segmenters(self) -> list[Segmenter]:
        """The models, one segmenter a device; loaded by the first call.

        Raises:
            PresetMismatchError: if they are not those that made the bank.
            InputError: if they would not make what the index holds.
        """
        if self._loaded is None:
            started = time.perf_counter()
            loaded = self._stage_one.load()
            if self._bank is not None:
                self._bank.check_preset(self._stage_one.preset.name, loaded[0].weights)
            self._check_settings(self._settings(loaded[0]))
            self._loaded, self.ready_after = loaded, time.perf_counter() - started
        return self._loaded

    def item(self, key: str, filepath: str, whole: bool = False) -> tuple[str, Callable[[], _Read]]:
        """An image as ``stream`` takes it; always its pixels where it has to be ``whole``."""
        return key, partial(self._read, key, filepath, whole)

    def outcomes(
        self, samples: Iterable[tuple[str, str]], finish: _Finish[T], *, finishers: int = 1, whole: bool = False
    ) -> Generator[Outcome[T], None, None]:
        """Finds the candidates of images and stores those that are new, before ``finish`` sees them; see ``stream``.

        Args:
            samples: id and file path of each.
            finish: called in another thread with the id and the candidates, a ``CompactImage``; a ``TiledImage`` of a
                large image.
            finishers: how many threads call it.
            whole: ``finish`` gets all that the models gave, an ``IndexedImage``. The index does not stand in for that.

        Yields:
            One outcome an image, in no particular order.
        """

        def keep_and_finish(key: str, content: Content | IndexedImage) -> T:
            if not isinstance(content, TiledImage):  # each of its tiles is kept
                self._keep(key, content)
            return finish(key, content)

        items = (self.item(sample_id, path, whole=whole) for sample_id, path in samples)
        return stream(self.segmenters, items, keep_and_finish, finishers=finishers, whole=whole)

    def _keep(self, key: str, content: CompactImage | IndexedImage) -> None:
        """Adds what was found in image ``key`` to the index, unless it came from there.

        Raises nothing if the index takes no more: that costs the storing only, see ``storage_error``.
        """
        with self._lock:
            digest = self._to_keep.pop(key, None)
        if digest is not None and self._put(key, digest, content):
            with self._lock:
                self.indexed += 1

    def _put(self, key: str, digest: str, content: CompactImage | IndexedImage) -> bool:
        """Whether the index took what was found in image ``key``, or in a tile of it."""
        if self._store is None or self.storage_error is not None:
            return False
        try:
            size = self._store.put(digest, compact(content) if isinstance(content, IndexedImage) else content)
        except IndexFileError as error:
            with self._lock:
                self.unstored[key] = str(error)
            return False
        except IndexStorageError as error:
            with self._lock:
                first, self.storage_error = self.storage_error is None, error
            if first:
                logger.warning("going on without storing candidates; the report says why")
                logger.debug("%s", error)
            return False
        with self._lock:
            self.bytes += size
        return True

    def cached(self, key: str, filepath: str) -> Content | None:
        """What the index has of an image; ``None`` where it has not all of it.

        Raises:
            InputError: if the file cannot be read.
        """
        item = self._tiled(key, filepath)
        if item is not None:
            return item.cached()
        digest = file_digest(filepath, upright=self._upright)
        return None if self._store is None else self._store.get(digest)

    def _tiled(self, key: str, filepath: str) -> TiledItem | None:
        """A large image as it goes through the stream; ``None`` of one that goes as a whole."""
        tiles = tiles_of(filepath, self._stage_one.settings, upright=self._upright)
        if not tiles:
            return None
        image = "" if self._store is None else file_digest(filepath, upright=self._upright)
        digests = digests_of(image, tiles)

        def recall(digest: str) -> CompactImage | None:
            return None if self._store is None else self._store.get(digest)

        def keep(digest: str, content: CompactImage) -> None:
            with self._lock:
                self.looks += 1
            self._put(key, digest, content)

        def told(from_index: bool) -> None:
            with self._lock:
                self.from_index += from_index
                kept = self._store is not None and self.storage_error is None and key not in self.unstored
                self.indexed += not from_index and kept

        return TiledItem(filepath, tiles, digests, self._upright, recall, keep, partial(self.about.note, key), told)

    @property
    def notes(self) -> list[str]:
        """What a reader of the run's report should know of the index."""
        damaged = self._store.damaged if self._store is not None else []
        notes = [self._explanation] if self._explanation else []
        if damaged:
            notes.append(f"{counted(len(damaged), 'damaged file')} of the candidate cache not used, e.g. {damaged[0]}")
        notes += [_WHOLE.format(counted(self._passed_over, "image"))] if self._passed_over else []
        if self.storage_error is not None:
            notes.append(f"not all could be stored: {self.storage_error}")
        with self._lock:
            unstored = list(self.unstored.items())
        if unstored:
            notes.append(
                f"{counted(len(unstored), 'image')} could not be stored, e.g. sample {unstored[0][0]}: {unstored[0][1]}"
            )
        return notes + self.about.lines()

    def _read(self, key: str, filepath: str, whole: bool) -> _Read:
        item = None if whole else self._tiled(key, filepath)
        if item is not None:
            return item
        data = read_bytes(filepath)
        if self._store is not None:
            digest = content_digest(data, upright=self._upright)
            content = None if whole else self._store.get(digest)
            passed_over = whole and self._store.has(digest)
            with self._lock:
                self._passed_over += passed_over
                if content is not None:
                    self.from_index += 1
                    self.about.not_decoded(key, filepath)
                    return content
                if not passed_over:
                    self._to_keep[key] = digest
        image = decode_with_notes(data, filepath, upright=self._upright)
        self.about.note(key, image.notes)
        with self._lock:
            self.looks += 1
        return image.pixels

    def _settings(self, segmenter: Segmenter) -> IndexSettings:
        return IndexSettings(self._stage_one.preset.name, segmenter.facts())

    def _recalled(self, bank: MemoryBank) -> IndexSettings | None:
        """The settings that the recipe led to with the weights of a bank, if they are known for certain."""
        known, weights = recalled(self._root, self._stage_one.recipe), dict(bank.weights)
        fitting = [settings for settings in known if settings.facts.get("weights") == weights]
        return fitting[0] if len(fitting) == 1 else None

    def _check_settings(self, settings: IndexSettings) -> None:
        if self._store is None or self._store.settings.digest == settings.digest:
            return
        self._store.forget(self._stage_one.recipe)
        differences = "; ".join(self._store.settings.differences(settings))
        raise InputError(
            f"the candidate cache in {self._root} was made with other settings than they looked like before the "
            f"models were loaded ({differences}); call again, and the right ones are used"
        )


def outputs_for(granularity: str, bank: MemoryBank | None = None) -> str:
    """Which of a point's masks become candidates, as ``ProposalConfig`` names them.

    Args:
        granularity: ``"best"``, ``"whole"``, ``"part"``, or ``"auto"`` for what the references of the bank chose.
        bank: only asked for ``"auto"``.

    Raises:
        InputError: if it is something else, or the references were never asked.
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"expected granularity to be one of {', '.join(GRANULARITIES)}, got {granularity!r}")
    if granularity != "auto":
        return granularity
    if bank is None or bank.granularity is None:
        raise InputError(
            "granularity 'auto' needs references that were asked, and this memory bank's were not: build it again with "
            "ask_granularity=True, or choose 'best', 'whole' or 'part'"
        )
    return bank.granularity


def check_second_look(bank: MemoryBank) -> None:
    """Raises InputError if a bank cannot be used for a second look."""
    if bank.crops is None:
        raise InputError(
            "a second look compares cropped candidates with cropped references, and this memory bank has none of "
            "those: build it again with this version, or leave second_look out"
        )


def describe_error(sample_id: str, error: Exception) -> str:
    """What went wrong with a sample, for its report; the traceback of what nobody foresaw goes to the debug log."""
    if isinstance(error, NttError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
        return (
            "there was not enough memory for this image, not even for one prompt at a time; free some (other programs, "
            f"other workers on this device), make the image smaller, or use device='cpu' ({type(error).__name__})"
        )
    logger.error("sample %s failed with an unexpected %s", sample_id, type(error).__name__)
    logger.debug("sample %s failed", sample_id, exc_info=error)  # a traceback names this machine's folders
    return f"unexpected {type(error).__name__}: {error}; the log of level DEBUG tells where"
