"""How far a fleet is, what failed, and the manifest of what is to be tried again; all of it from receipts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from fiftyone_ntt.candidates.file_format import index_root
from fiftyone_ntt.candidates.shards import add_table
from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.errors import counted
from fiftyone_ntt.fleet.bucket import Bucket
from fiftyone_ntt.fleet.jobs import fleet_stage_one, index_key, places
from fiftyone_ntt.fleet.label_parts import LabelFolder
from fiftyone_ntt.fleet.manifest import Manifest, Row, manifests_of, write_manifest
from fiftyone_ntt.fleet.receipts import OK, ImageStatus, IndexFolder
from fiftyone_ntt.params.base import StageOneSettings

UNREADABLE = "InputError"
"""Kind of failure of what was read, is what the manifest says, and is no image."""
_WINDOW = 600.0
"""Seconds of which the speed is told: before the last receipt, so that a fleet that was stopped has one too."""


@dataclass
class FleetStatus:
    """How far a fleet is with candidates made one way.

    Attributes:
        units: units of all manifests.
        done: those with a receipt.
        images: images of all units; one that was given to the fleet again counts again.
        indexed: images whose candidates are there.
        failed: images that failed.
        kinds: what went wrong -> how many images.
        bytes: size of the shards.
        matched: key of labels -> units that have them.
        match_failed: key of labels -> images that have candidates and could not be matched.
        images_per_second: of all machines, in the ten minutes before the last receipt; ``None`` where there is none.
        device_hours: kind of device -> hours spent so far.
        last: when the last receipt came, seconds since 1970.
    """

    units: int = 0
    done: int = 0
    images: int = 0
    indexed: int = 0
    failed: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    matched: dict[str, int] = field(default_factory=dict)
    match_failed: dict[str, int] = field(default_factory=dict)
    images_per_second: float | None = None
    device_hours: dict[str, float] = field(default_factory=dict)
    last: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at that speed; ``None`` where nobody knows."""
        left = self.images - self.indexed - self.failed
        return left / self.images_per_second if self.images_per_second else None

    def __str__(self) -> str:
        return "; ".join(
            [
                f"{self.done} of {counted(self.units, 'unit')} done: {self.indexed:,} of "
                f"{counted(self.images, 'image')} indexed, {self.failed:,} failed",
                f"{self.bytes / 1e9:.2f} GB",
            ]
        )


def fleet_status(bucket: Bucket, stage_one: StageOneSettings | None = None) -> FleetStatus:
    """How far a fleet is. Reads the footer of each receipt, and no row.

    Args:
        bucket: the store.
        stage_one: how candidates are made.

    Raises:
        FleetError: if there is no manifest, or a receipt is damaged.

    Example:
        >>> print(fleet_status(Bucket("s3://bucket/fleet")))  # doctest: +SKIP
        17 of 10,000 units done: 16,998 of 10,000,000 images indexed, 2 failed; 0.85 GB
    """
    key = index_key(fleet_stage_one(stage_one or StageOneSettings()))
    every, folder = places(bucket, key), IndexFolder(bucket, key)
    wanted, done = {place.unit for place in every}, folder.done()
    status = FleetStatus(len(every), images=sum(place.rows for place in every))
    kinds, ended = Counter[str](), list[tuple[float, float, int]]()
    for summary in folder.summaries(sorted(wanted & done)):
        status.done += 1
        status.failed += summary["failed"]
        status.indexed += summary["images"] - summary["failed"]
        status.bytes += summary["bytes"]
        kinds.update(summary["kinds"])
        hours = summary["seconds"] * summary["devices"] / 3600
        status.device_hours[summary["device"]] = status.device_hours.get(summary["device"], 0.0) + hours
        ended.append((summary["ended"], summary["seconds"], summary["images"]))
    status.kinds = dict(kinds.most_common())
    if ended:
        status.last = max(end for end, _, _ in ended)
        status.images_per_second = _speed(ended, status.last)
    for name in bucket.folders("labels"):
        labels = LabelFolder(bucket, name)
        status.matched[name] = len(labels.done() & wanted)
        troubled = sum(len(images) for unit, images in labels.failed().items() if unit in wanted)
        if troubled:
            status.match_failed[name] = troubled
    return status


def _speed(ended: list[tuple[float, float, int]], last: float) -> float:
    """Images a second: those that came in the window, over the time from when the first of these was begun."""
    recent = [(end, seconds, images) for end, seconds, images in ended if end > last - _WINDOW]
    begun = min(end - seconds for end, seconds, _ in recent)
    return sum(images for _, _, images in recent) / max(last - max(begun, last - _WINDOW), 1e-3)


def failed_images(bucket: Bucket, stage_one: StageOneSettings | None = None) -> Iterator[tuple[Row, ImageStatus]]:
    """The images that failed and did not succeed since, sorted by id; each with what is known of its last failure."""
    key = index_key(fleet_stage_one(stage_one or StageOneSettings()))
    folder = IndexFolder(bucket, key)
    every, done = places(bucket, key), folder.done()
    there = [place for place in every if place.unit in done]
    troubled = {
        place.unit
        for place, summary in zip(there, folder.summaries([place.unit for place in there]), strict=True)
        if summary["failed"]
    }
    manifests = {manifest.name: manifest for manifest in manifests_of(bucket)}
    failed: dict[str, tuple[Row, ImageStatus]] = {}
    last, before = "", set[str]()  # what had failed in older manifests, and not since
    for place in there:
        if place.manifest != last:
            last, before = place.manifest, set(failed)
        if place.unit not in troubled and not before:  # an image is in a manifest once: nothing to take back here
            continue
        receipt = folder.receipt(place.unit)
        for image in receipt.images:
            if image.status == OK:
                failed.pop(image.id, None)
        if place.unit in troubled:
            rows = manifests[place.manifest].unit(place.number, key).rows
            pairs = zip(rows, receipt.images, strict=True)
            failed.update((row.id, (row, image)) for row, image in pairs if image.status != OK)
    yield from (failed[image] for image in sorted(failed))


def failed_in(manifest: Manifest, stage_one: StageOneSettings | None = None, ready: bool = False) -> dict[str, str]:
    """The images of a manifest that failed and did not succeed since, and why.

    Args:
        manifest: in its store.
        stage_one: how candidates are made.
        ready: leave out those whose unit in this manifest is still to be done.
    """
    failed = {row.id: image.error or "" for row, image in failed_images(manifest.bucket, stage_one)}
    if not failed:
        return {}
    key = index_key(fleet_stage_one(stage_one or StageOneSettings()))
    done = IndexFolder(manifest.bucket, key).done() if ready else set[str]()
    units = (ids for unit, ids in manifest.ids() if not ready or unit.name(key) in done)
    return {image: failed[image] for ids in units for image in ids if image in failed}


def rerun_manifest(
    bucket: Bucket, stage_one: StageOneSettings | None = None, images: Collection[str] | None = None
) -> Manifest | None:
    """Writes a manifest of the images that failed: the next ``fleet index`` takes them up again.

    Args:
        bucket: the store.
        stage_one: how candidates are made.
        images: ids of those that are meant; all where ``None``.

    Returns:
        The manifest; ``None`` where nothing failed.
    """
    rows = [
        _as_repaired(row) if image.kind == UNREADABLE else row
        for row, image in failed_images(bucket, stage_one)
        if images is None or row.id in images
    ]
    if not rows:
        return None
    attempt = 1 + max(manifest.attempt for manifest in manifests_of(bucket))
    return write_manifest(bucket, rows, attempt=attempt)


def forget_failed_matches(bucket: Bucket, stage_one: StageOneSettings | None = None) -> int:
    """Removes the labels of units in which matching failed: the next ``fleet match`` takes these up again.

    Returns:
        How many units there were.
    """
    key = index_key(fleet_stage_one(stage_one or StageOneSettings()))
    wanted, forgotten = {place.unit for place in places(bucket, key)}, 0
    for name in bucket.folders("labels"):
        labels = LabelFolder(bucket, name)
        for unit in sorted(wanted & set(labels.failed())):
            labels.forget(unit)
            forgotten += 1
    return forgotten


def _as_repaired(row: Row) -> Row:
    """The row of a file that was no image: if it is one the next time, then because it is another file."""
    return Row(row.id, row.uri)


def adopt(bucket: Bucket, stage_one: StageOne) -> int:
    """Makes a fleet's candidates part of the local candidate cache, by reference: nothing but a table is written.

    From then on ``segment``, previews, learning and thresholds find them as they find what was indexed here. The shards
    must stay where they are.

    Args:
        bucket: the store.
        stage_one: how candidates are made; its ``index_dir`` is the cache.

    Returns:
        How many units the table knows.

    Raises:
        FleetError: if the store has no candidates made this way.
        IndexStorageError: if the cache cannot be written to.
    """
    folder = IndexFolder(bucket, index_key(stage_one))
    store = IndexStore(index_root(stage_one.settings.index_dir), folder.settings)
    units = sorted({place.unit for place in places(bucket, folder.key)} & folder.done())
    store.remember(stage_one.recipe)
    add_table(store.folder, f"{bucket.url} {folder.key}", folder.parts(units))
    return len(units)
