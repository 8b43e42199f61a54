"""Where the candidates of an image come from: the index if it has them, else the models, for the index to keep."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_ntt import __version__
from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.settings import IndexSettings, default_root
from fiftyone_ntt.candidates.store import IndexStorageError, IndexStore, explain_missing, recalled
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.method.config import Granularity
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.models import Preset, load_segmenters
from fiftyone_ntt.models.devices import Precision, choose_devices
from fiftyone_ntt.params.base import GRANULARITIES
from fiftyone_ntt.pixels.images import decode_image, read_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageOne:
    """How candidates are made; see ``load_segmenters``.

    Attributes:
        preset: the models.
        points_per_side: prompt points along each side; the preset's where ``None``.
        points: the whole ``"grid"``, or ``"guided"``: by the image alone, so that they stay free of references.
        precision: of the encoders.
        compile: whether encoders are compiled.
        device: where the models run.
        outputs: which of a point's three masks become candidates, see ``ProposalConfig``.
        second_look: whether groups of candidates are encoded again, cut out.
    """

    preset: Preset
    points_per_side: int | None = None
    points: str = "grid"
    precision: str = "fp32"
    compile: bool = False
    device: str | None = None
    outputs: str = "best"
    second_look: bool = False

    def load(self) -> list[Segmenter]:
        """The models, one segmenter a device."""
        return load_segmenters(
            self.preset,
            self.device,
            self.points_per_side,
            points=cast(Literal["grid", "guided"], self.points),
            granularity=cast(Granularity, self.outputs),
            second_look=self.second_look,
            precision=cast(Precision, self.precision),
            compile=self.compile,
        )

    @property
    def recipe(self) -> str:
        """All that decides the candidates and is known before the models are loaded."""
        side = self.preset.proposals(self.points_per_side).points_per_side
        options = [] if self.outputs == "best" else [f"outputs {self.outputs}"]
        options += ["second look"] if self.second_look else []
        return " ".join([__version__, repr(self.preset), str(side), self.points, self.precision, *options])


class CandidateSource:
    """The candidates of the images of one run. Its methods may be called from several threads.

    Args:
        stage_one: how they are made.
        bank: the memory bank of the run, whose weights the models must have; ``None`` takes any.
        use_index: whether to look anything up, and to keep anything.
        index_dir: folder of the index; the default one where ``None``.
        size_limit: bytes; the default where ``None``.

    Attributes:
        from_index: images whose candidates were in the index.
        indexed: images whose candidates were added to it.
        bytes: size of what was added.
        storage_error: why the index took no more; ``None`` while it does.

    Raises:
        InputError: if the device is not there.
    """

    def __init__(
        self,
        stage_one: StageOne,
        *,
        bank: MemoryBank | None = None,
        use_index: bool = True,
        index_dir: str | Path | None = None,
        size_limit: int | None = None,
    ) -> None:
        self._stage_one, self._bank = stage_one, bank
        choose_devices(stage_one.device)  # an unknown one is refused also where no model will be needed
        self._root = default_root() if index_dir is None else Path(index_dir).expanduser()
        self._use_index, self._size_limit = use_index, size_limit
        self._store: IndexStore | None = None
        self._loaded: list[Segmenter] | None = None
        self._to_keep: dict[str, str] = {}
        self._lock = threading.Lock()
        self._explanation = ""
        self.from_index, self.indexed, self.bytes = 0, 0, 0
        self.storage_error: IndexStorageError | None = None

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
            segmenter = self.segmenters()[0]
            if not self._use_index:
                return
            settings = self._settings(segmenter)
        self._store = IndexStore(self._root, settings, self._size_limit)
        self._explanation = explain_missing(self._root, settings)
        if self._explanation:
            logger.debug("%s", self._explanation)  # for people it is among the notes of the report
        self._store.remember(self._stage_one.recipe)

    def segmenters(self) -> list[Segmenter]:
        """The models, one segmenter a device; loaded by the first call.

        Raises:
            PresetMismatchError: if they are not those that made the bank.
            InputError: if they would not make what the index holds.
        """
        if self._loaded is None:
            loaded = self._stage_one.load()
            if self._bank is not None:
                self._bank.check_preset(self._stage_one.preset.name, loaded[0].weights)
            self._check_settings(self._settings(loaded[0]))
            self._loaded = loaded
        return self._loaded

    def item(self, key: str, filepath: str) -> tuple[str, Callable[[], NDArray[np.uint8] | CompactImage]]:
        """An image as ``stream`` takes it."""
        return key, partial(self._read, key, filepath)

    def keep(self, key: str, content: CompactImage) -> None:
        """Adds what was found in image ``key`` to the index, unless it came from there.

        Raises nothing if the index takes no more: that costs the storing only, see ``storage_error``.
        """
        with self._lock:
            digest = self._to_keep.pop(key, None)
        if self._store is None or digest is None or self.storage_error is not None:
            return
        try:
            size = self._store.put(digest, content)
        except IndexStorageError as error:
            with self._lock:
                first, self.storage_error = self.storage_error is None, error
            if first:
                logger.warning("going on without storing candidates; the report says why")
                logger.debug("%s", error)
            return
        with self._lock:
            self.indexed += 1
            self.bytes += size

    @property
    def notes(self) -> list[str]:
        """What a reader of the run's report should know of the index."""
        damaged = self._store.damaged if self._store is not None else []
        notes = [self._explanation] if self._explanation else []
        if damaged:
            notes.append(f"{len(damaged)} damaged files of the index were not used, e.g. {damaged[0]}")
        if self.storage_error is not None:
            notes.append(f"not all could be stored: {self.storage_error}")
        return notes

    def _read(self, key: str, filepath: str) -> NDArray[np.uint8] | CompactImage:
        data = read_bytes(filepath)
        if self._store is not None:
            digest = hashlib.sha256(data).hexdigest()
            content = self._store.get(digest)
            with self._lock:
                if content is None:
                    self._to_keep[key] = digest
                else:
                    self.from_index += 1
            if content is not None:
                return content
        return decode_image(data, filepath)

    def _settings(self, segmenter: Segmenter) -> IndexSettings:
        return IndexSettings(self._stage_one.preset.name, segmenter.facts())

    def _recalled(self, bank: MemoryBank) -> IndexSettings | None:
        """The settings that the recipe led to with the weights of a bank, if they are known for certain."""
        weights = dict(bank.weights)
        fitting = [
            known for known in recalled(self._root, self._stage_one.recipe) if known.facts.get("weights") == weights
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _check_settings(self, settings: IndexSettings) -> None:
        if self._store is None or self._store.settings.digest == settings.digest:
            return
        self._store.forget(self._stage_one.recipe)
        differences = "; ".join(self._store.settings.differences(settings))
        raise InputError(
            f"the candidate index in {self._root} was made with other settings than they looked like before the "
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
            "a second look compares cut-out candidates with cut-out references, and this memory bank has none of "
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
