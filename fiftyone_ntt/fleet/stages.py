"""The two functions that a fleet runs, on whatever engine: ``index_unit`` and ``match_unit``.

Plain functions of a unit and a store. They know no engine, no database and no FiftyOne, and calling one again for the
same unit returns what is there.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.file_format import DamagedIndexError, IndexSettings, Signature, to_bytes
from fiftyone_ntt.candidates.source import describe_error
from fiftyone_ntt.candidates.store import checked
from fiftyone_ntt.candidates.stream import stream
from fiftyone_ntt.candidates.tiles import is_tiled
from fiftyone_ntt.errors import InputError, NttError, counted
from fiftyone_ntt.fleet.bucket import FleetError, UnreachableImageError, masked, read_image_file
from fiftyone_ntt.fleet.label_parts import ImageLabels, LabelFolder
from fiftyone_ntt.fleet.manifest import Row, Unit
from fiftyone_ntt.fleet.receipts import ERROR, OK, ImageStatus, IndexFolder, Receipt
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.pixels.images import content_digest, decode_with_notes

_FEW = 3
"""So many images of one unit that cannot be reached are no accident, where they are most of it."""


class LargeImageError(InputError):
    """An image that ``segment`` looks at in tiles, which a fleet does not."""


class ChangedImageError(InputError):
    """An image file that is not the one of the manifest: another copy of the data, or a file that was replaced."""


@dataclass(frozen=True)
class FleetModels:
    """The loaded models of a worker.

    Attributes:
        segmenters: one a device.
        settings: what decides the candidates besides the image.
        device: of what kind the devices are, for the figures.
    """

    segmenters: Sequence[Segmenter]
    settings: IndexSettings
    device: str = "cpu"

    @classmethod
    def of(cls, segmenters: Sequence[Segmenter], preset: str, device: str = "cpu") -> FleetModels:
        """Models and the name of the preset that they are."""
        return cls(segmenters, IndexSettings(preset, segmenters[0].facts()), device)


def index_unit(
    unit: Unit, models: FleetModels, store: IndexFolder, *, large_images: str = "auto", missing_ok: bool = False
) -> Receipt:
    """Finds the candidates of a unit's images and publishes them as a shard with a receipt.

    An image that fails is a row of the receipt and costs the others nothing. The shard follows from the unit and the
    models alone: made twice on the same kind of device, it has the same bytes.

    Args:
        unit: the images.
        models: of this worker.
        store: where shards and receipts of these settings go.
        large_images: ``"auto"`` makes errors of images that ``segment`` looks at in tiles; ``"off"`` takes each in one
            part.
        missing_ok: publish the unit although most of its images cannot be reached.

    Returns:
        The receipt; that of before where there is one.

    Raises:
        FleetError: if the store has candidates of other models, or cannot be written to; or if most images cannot be
            reached from here, which may well be a matter of this machine: then nothing is published.

    Example:
        >>> receipt = index_unit(manifest.unit(0, key), models, IndexFolder(bucket, key))  # doctest: +SKIP
        >>> receipt.summary["failed"]  # doctest: +SKIP
        0
    """
    store.claim(models.settings)
    try:
        return store.receipt(unit.name)
    except FileNotFoundError:
        pass
    started = time.time()
    digests: dict[str, str] = {}
    found: dict[str, tuple[bytes, int]] = {}
    failed: dict[str, ImageStatus] = {}

    def record(key: str, image: CompactImage) -> tuple[bytes, int]:
        return to_bytes(image, Signature(digests[key], models.settings)), len(image.candidates)

    items = ((row.id, partial(_decoded, row, digests, large_images)) for row in unit.rows)
    with closing(stream(models.segmenters, items, record)) as outcomes:
        for outcome in outcomes:
            if outcome.value is not None:
                found[outcome.key] = outcome.value
            elif outcome.error is not None:
                failed[outcome.key] = failure(outcome.key, outcome.error)
    if not missing_ok:
        _check_reached(unit, failed)
    images, offset = [], 0
    for row in unit.rows:  # in the order of the manifest, whichever was ready first
        if row.id in failed:
            images.append(failed[row.id])
            continue
        data, candidates = found[row.id]
        images.append(ImageStatus(row.id, OK, digests[row.id], offset, len(data), candidates))
        offset += len(data)
    records = [found[image.id][0] for image in images if image.status == OK]
    facts = {"device": models.device, "devices": len(models.segmenters), "worker": socket.gethostname()}
    return store.publish(unit.name, records, images, {**facts, "seconds": round(time.time() - started, 3)})


def match_unit(receipt: Receipt, matcher: Matcher, store: IndexFolder, labels: LabelFolder) -> dict[str, Any]:
    """Matches a unit's candidates with a memory bank and publishes the labels. Needs no model.

    Args:
        receipt: of the unit.
        matcher: the memory bank made ready.
        store: where the shard is.
        labels: where the labels go.

    Returns:
        How many ``images``, how many of them ``failed`` in either stage, and the name of the part in the store.

    Raises:
        FleetError: if the store cannot be read or written to, or the shard is damaged: then nothing is published.

    Example:
        >>> match_unit(receipt, Matcher(bank), folder, LabelFolder(bucket, label_key))  # doctest: +SKIP
        {'images': 1000, 'failed': 2, 'labels': 'labels/5f0c.../8a1d....parquet'}
    """
    settings = store.settings
    try:
        records: Mapping[str, bytes] = {image.id: data for image, data in store.records(receipt)}
    except FileNotFoundError as error:
        raise FleetError(store.way_out(receipt, "is not there")) from error
    rows, failed = [], dict[str, str]()
    for image in receipt.images:
        if image.status != OK or image.image is None:
            rows.append(ImageLabels(image.id, None, image.error))
            continue
        try:
            content = checked(records[image.id], Signature(image.image, settings))
            rows.append(ImageLabels(image.id, matcher.match(content)))
        except DamagedIndexError as error:
            raise FleetError(store.way_out(receipt, f"is damaged ({error})")) from error
        except Exception as error:
            failed[image.id] = describe_error(image.id, error)
            rows.append(ImageLabels(image.id, None, failed[image.id]))
    name = labels.publish(receipt.unit, rows, failed)
    return {"images": len(rows), "failed": sum(row.instances is None for row in rows), "labels": name}


def failure(key: str, error: Exception) -> ImageStatus:
    """The row of an image that failed."""
    if isinstance(error, FleetError):
        raise error  # a missing package is no matter of one image
    kind = type(error).__name__ if isinstance(error, NttError) else f"unexpected {type(error).__name__}"
    return ImageStatus(key, ERROR, error=masked(describe_error(key, error)), kind=kind)


def _check_reached(unit: Unit, failed: Mapping[str, ImageStatus]) -> None:
    """Refuses a unit most of which cannot be reached: a machine without its mount must not make errors of all images.

    Raises:
        FleetError: then.
    """
    gone = [image for image in failed.values() if image.kind == UnreachableImageError.__name__]
    if len(gone) >= _FEW and 2 * len(gone) > len(unit.rows):
        raise FleetError(
            f"{len(gone)} of {counted(len(unit.rows), 'image')} of unit {unit.name} cannot be reached from "
            f"{socket.gethostname()}, so nothing of it was published: {gone[0].error}; see to this machine's mounts "
            "and credentials, or say where the files are here with --map-root A=B; if they are gone for good, "
            "--missing-ok makes errors of these images"
        )


def _decoded(row: Row, digests: dict[str, str], large_images: str) -> NDArray[np.uint8]:
    """The pixels of an image, uint8 ``[H, W, 3]``; notes the sha256 that the candidate cache knows it by."""
    data = read_image_file(row.uri)
    _check_content(row, data)
    digests[row.id] = content_digest(data)
    pixels = decode_with_notes(data, masked(row.uri)).pixels
    height, width = pixels.shape[:2]
    if is_tiled((height, width), large_images):
        raise LargeImageError(
            f"{masked(row.uri)} has {width} x {height} pixels: `segment` looks at such an image in tiles, which a "
            "fleet does not; label it with `segment`, or run the fleet with large_images='off' (--large-images off), "
            "which takes it in one part and misses small objects"
        )
    return pixels


def _check_content(row: Row, data: bytes) -> None:
    """Sees that a file is the one of the manifest: by its hash where that is known, else by its size."""
    if row.hash is not None:
        expected, got = f"sha256 {row.hash}", f"sha256 {hashlib.sha256(data).hexdigest()}"
    elif row.size is not None:
        expected, got = f"{row.size} bytes", f"{len(data)} bytes"
    else:
        return
    if expected != got:
        raise ChangedImageError(
            f"another file than that of the manifest: {masked(row.uri)} (expected {expected}, got {got}); say where "
            "the files are here with --map-root A=B, or, where it was replaced, compute the dataset's metadata again "
            "and make the manifest again"
        )
