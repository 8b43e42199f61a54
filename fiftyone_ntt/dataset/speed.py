"""How long an image takes on this machine, as measured; kept with the dataset, in FiftyOne's execution store."""

from __future__ import annotations

import hashlib
import platform

import fiftyone as fo
from fiftyone.operators.store import ExecutionStore

from fiftyone_ntt.dataset.candidates import StageOne
from fiftyone_ntt.models.devices import choose_devices


def remember_speed(dataset: fo.Dataset, stage_one: StageOne, seconds: float, images: int) -> None:
    """Keeps with a dataset how long images took that were not in the index; ``seconds_per_image`` tells it.

    Args:
        dataset: the dataset.
        stage_one: how candidates were made.
        seconds: for all of them.
        images: how many they were; nothing is kept of none.
    """
    if images > 0 and seconds > 0:
        _store(dataset).set(_key(stage_one), {"seconds": seconds, "images": images})


def seconds_per_image(dataset: fo.Dataset, stage_one: StageOne) -> float | None:
    """How long an image takes on this machine that is not in the index; ``None`` while that was never measured."""
    known = _store(dataset).get(_key(stage_one))
    return known["seconds"] / known["images"] if known else None


def _store(dataset: fo.Dataset) -> ExecutionStore:
    return ExecutionStore.create("ntt_speed", dataset._doc.id)


def _key(stage_one: StageOne) -> str:
    devices = ",".join(str(device) for device in choose_devices(stage_one.device))
    return hashlib.sha256(f"{platform.node()} {devices} {stage_one.recipe}".encode()).hexdigest()
