"""What a fleet is to do, as a worker anywhere can be told it: a few paths and settings, no model and no array."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from fiftyone_ntt.candidates.file_format import FORMAT_VERSION
from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.errors import InputError, listing
from fiftyone_ntt.fleet.bucket import Bucket, FleetError
from fiftyone_ntt.fleet.label_parts import LabelFolder, label_key
from fiftyone_ntt.fleet.manifest import Manifest, Roots, UnitFacts, check_rows, manifests_of
from fiftyone_ntt.fleet.receipts import IndexFolder
from fiftyone_ntt.fleet.stages import FleetModels, index_unit, match_unit
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.models.devices import choose_devices
from fiftyone_ntt.params.base import StageOneSettings

BANKS = "banks"
_BANK_FILES = ("bank.safetensors", "bank.json")

Done = Mapping[str, Any]
"""What became of a unit: ``images`` and ``failed`` at least."""


@dataclass(frozen=True)
class Place:
    """Where a unit stands: in which manifest of the store, and as which of its units.

    Attributes:
        manifest: name of the manifest's file.
        number: of the unit.
        unit: its name.
        rows: how many images it has.
    """

    manifest: str
    number: int
    unit: str
    rows: int


class Job(Protocol):
    """What runners run. A job can be pickled; what it loads stays with the worker that did."""

    @property
    def title(self) -> str: ...

    def check(self) -> None:
        """Raises FleetError where every worker would fail."""
        ...

    def missing(self) -> list[Place]:
        """The units that are not done yet; of several manifests, each unit once."""
        ...

    def start(self) -> Callable[[Place], Done]:
        """Loads what is needed; returns what does one unit."""
        ...


@dataclass(frozen=True)
class IndexJob:
    """Finding the candidates of all images of a store's manifests.

    Attributes:
        store: path or URL of the store.
        stage_one: how candidates are made.
        roots: how paths begin in the manifests, and here.
        missing_ok: make errors of images that cannot be reached, however many they are.
        manifests: names of the manifests to work at; all of the store where empty.
    """

    store: str
    stage_one: StageOneSettings = field(default_factory=StageOneSettings)
    roots: Roots = ()
    missing_ok: bool = False
    manifests: tuple[str, ...] = ()
    title: ClassVar[str] = "index"

    @property
    def folder(self) -> IndexFolder:
        """Where the shards go."""
        return IndexFolder(Bucket(self.store), self.key)

    @property
    def key(self) -> str:
        """What candidates made this way are called in a store; no model is loaded for it."""
        return index_key(fleet_stage_one(self.stage_one))

    def models(self) -> FleetModels:
        """Loads the models."""
        stage_one = fleet_stage_one(self.stage_one)
        preset = stage_one.preset
        only_cpu = preset.proposal.cpu_only and preset.features.cpu_only
        device = "cpu" if only_cpu else choose_devices(self.stage_one.device)[0].type
        return FleetModels.of(stage_one.load(), preset.name, device)

    def check(self) -> None:
        """Looks whether the images are where they should be."""
        check_large_images(self.stage_one)
        if not self.missing_ok:
            wanted = {place.manifest for place in self.missing()}  # what an older one says of units may be outdated
            check_rows((manifest for manifest in self._manifests() if manifest.name in wanted), self.roots)

    def missing(self) -> list[Place]:
        """Units without a receipt."""
        done, key = self.folder.done(), self.key
        return [place for place in _places(self._manifests(), key) if place.unit not in done]

    def _manifests(self) -> list[Manifest]:
        bucket = Bucket(self.store)
        return [Manifest(bucket, name) for name in self.manifests] or manifests_of(bucket)

    def start(self) -> Callable[[Place], Done]:
        """Looks whether this machine, too, has the images where they should be; then loads the models."""
        self.check()
        bucket, folder, models = Bucket(self.store), self.folder, self.models()
        large_images = self.stage_one.large_images
        manifests: dict[str, Manifest] = {}

        def index(place: Place) -> Done:
            if place.manifest not in manifests:
                manifests[place.manifest] = Manifest(bucket, place.manifest)
            manifest = manifests[place.manifest]
            unit = manifest.unit(place.number, folder.key, self.roots)
            missing_ok = self.missing_ok or manifest.attempt > 0  # those have failed before: some may well be gone
            return index_unit(unit, models, folder, large_images=large_images, missing_ok=missing_ok).summary

        return index


@dataclass(frozen=True)
class MatchJob:
    """Matching what is indexed with a memory bank.

    Attributes:
        store: path or URL of the store.
        bank: name of the memory bank in the store, see ``put_bank``.
        stage_one: how the candidates were made.
        config: settings of the match.
    """

    store: str
    bank: str
    stage_one: StageOneSettings = field(default_factory=StageOneSettings)
    config: MatchConfig = field(default_factory=MatchConfig)
    title: ClassVar[str] = "match"

    def check(self) -> None:
        """Sees that bank and candidates fit each other."""
        self._parts()

    def missing(self) -> list[Place]:
        """Units that have a receipt and no labels."""
        folder, labels, _ = self._parts()
        todo = folder.done() - labels.done()
        return [place for place in places(Bucket(self.store), folder.key) if place.unit in todo]

    def start(self) -> Callable[[Place], Done]:
        """Reads the memory bank."""
        folder, labels, bank = self._parts()
        labels.describe(bank, self.config, folder.key)
        matcher = Matcher(bank, self.config)

        def match(place: Place) -> Done:
            return match_unit(folder.receipt(place.unit), matcher, folder, labels)

        return match

    def _parts(self) -> tuple[IndexFolder, LabelFolder, MemoryBank]:
        bucket = Bucket(self.store)
        bank = get_bank(bucket, self.bank)
        return fleet_parts(bucket, bank, self.stage_one, self.config)


def fleet_parts(
    bucket: Bucket, bank: MemoryBank, stage_one: StageOneSettings, config: MatchConfig
) -> tuple[IndexFolder, LabelFolder, MemoryBank]:
    """Where in a store the candidates and the labels of a memory bank are.

    Raises:
        FleetError: if the store has no candidates made this way.
        PresetMismatchError: if they were made with other weights than the bank.
        InputError: if labels of this kind cannot be made from candidates in a store.
    """
    if config.to_the_bit:
        raise InputError(
            "MatchConfig.paper() needs all that the models give, and shards hold the compact form; use "
            "MatchConfig.published()"
        )
    folder = IndexFolder(bucket, index_key(fleet_stage_one(stage_one, bank)))
    settings = folder.settings
    bank.check_preset(settings.preset, settings.facts.get("weights", {}))
    return folder, LabelFolder(bucket, label_key(bank, config, folder.key)), bank


def fleet_stage_one(settings: StageOneSettings, bank: MemoryBank | None = None) -> StageOne:
    """``StageOne.of`` for many machines, which must come to the same.

    Raises:
        InputError: where each machine would choose for itself, and as ``StageOne.of`` does.
    """
    if settings.precision == "auto":
        raise InputError(
            "expected precision='fp32', 'bf16' or 'fp16', got 'auto': each machine of a fleet would choose for itself; "
            "name the one that all of them have"
        )
    return StageOne.of(settings, bank)


def check_large_images(stage_one: StageOneSettings) -> None:
    """Raises InputError where tiles are asked for: a fleet takes each image in one part."""
    if stage_one.large_images == "on":
        raise InputError(
            "expected large_images='auto' or 'off', got 'on': a fleet knows no tiles; label large images with `segment`"
        )


def index_key(stage_one: StageOne) -> str:
    """What candidates made this way are called in a store, 32 hex digits."""
    return hashlib.sha256(f"{FORMAT_VERSION} {stage_one.recipe}".encode()).hexdigest()[:32]


def places(bucket: Bucket, key: str) -> list[Place]:
    """Every unit of a store's manifests once, under settings of a key, as the newest manifest that holds it says."""
    return _places(manifests_of(bucket), key)


def _places(manifests: Iterable[Manifest], key: str) -> list[Place]:
    every: dict[str, Place] = {}
    for manifest in manifests:
        for unit in manifest.units:
            place = _place(manifest, unit, key)
            every[place.unit] = place  # files that were moved are where the newest says
    return list(every.values())


def places_of(bucket: Bucket, key: str, images: Collection[str]) -> list[Place]:
    """The same without the units that hold none of some images. Reads the ids of all manifests."""
    wanted = set(images)
    held = {
        unit.name(key)
        for manifest in manifests_of(bucket)
        for unit, ids in manifest.ids()
        if not wanted.isdisjoint(ids)
    }
    return [place for place in places(bucket, key) if place.unit in held]


def _place(manifest: Manifest, unit: UnitFacts, key: str) -> Place:
    return Place(manifest.name, unit.number, unit.name(key), unit.rows)


def put_bank(bucket: Bucket, name: str, bank: MemoryBank) -> None:
    """Writes a memory bank into a store, for workers that cannot reach the dataset it is kept with."""
    if not name or "/" in name or name.startswith("."):
        raise InputError(f"expected a plain name for the memory bank, got {name!r}")
    with tempfile.TemporaryDirectory() as folder:
        bank.save(folder)
        for file in _BANK_FILES:
            bucket.write(f"{BANKS}/{name}/{file}", Path(folder, file).read_bytes())


def preset_of_banks(bucket: Bucket) -> str | None:
    """The preset of the memory banks in a store; ``None`` where it holds none.

    Raises:
        InputError: if they have several: whoever finds candidates has to say for which.
    """
    presets = sorted({get_bank(bucket, name).preset for name in bucket.folders(BANKS)})
    if len(presets) > 1:
        raise InputError(
            f"expected the models that are to find candidates: the memory banks in {bucket.url} are of "
            f"{', '.join(presets)}; give --preset"
        )
    return presets[0] if presets else None


def get_bank(bucket: Bucket, name: str) -> MemoryBank:
    """A memory bank of a store.

    Raises:
        FleetError: if there is none of that name.
        InputError: if it is damaged.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            for file in _BANK_FILES:
                Path(folder, file).write_bytes(bucket.read(f"{BANKS}/{name}/{file}"))
        except FileNotFoundError as error:
            there = listing(bucket.folders(BANKS), like=name)
            raise FleetError(
                f"expected the name of a memory bank in {bucket.url}, got {name!r}; there is: {there}; `fiftyone-ntt "
                "fleet manifest ... --bank NAME` puts one there"
            ) from error
        return MemoryBank.load(folder)
