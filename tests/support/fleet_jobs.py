"""Fleet jobs of models that need no weights, and the images they work at; can be sent to other processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.fleet.bucket import Bucket, FleetError
from fiftyone_ntt.fleet.jobs import IndexJob
from fiftyone_ntt.fleet.manifest import Row, write_manifest
from fiftyone_ntt.fleet.stages import FleetModels
from support.fake_models import fake_segmenter

WEIGHTS = {"fake-sam": "a" * 64, "fake-features": "b" * 64}


@dataclass(frozen=True)
class FakeIndexJob(IndexJob):
    """Indexes with fake models under the key of ``lite``; notes every unit it does.

    Attributes:
        log: a file that gets a line for each unit done: process, unit.
        dies_at: the first worker that has done so many units dies before the next.
        dead: a file that is there once a worker has died.
        pause: seconds before each unit.
    """

    log: str = ""
    dies_at: int = 0
    dead: str = ""
    pause: float = 0.0

    def models(self):
        return FleetModels.of([fake_segmenter()], "lite")

    def start(self):
        index, done = super().start(), 0

        def logged(place):
            nonlocal done
            time.sleep(self.pause)
            if self.dies_at and done == self.dies_at and not Path(self.dead).exists():
                Path(self.dead).write_text(place.unit)
                os._exit(9)
            summary = index(place)
            done += 1
            if self.log:
                with open(self.log, "a", encoding="ascii") as file:
                    file.write(f"{os.getpid()} {place.unit}\n")
            return summary

        return logged


class HopelessJob(FakeIndexJob):
    """Its models cannot be loaded."""

    def models(self):
        raise FleetError("no such weights here")


def add_images(folder, count, damaged=()):
    """Writes noise with a bright patch; those of some numbers are no images."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        random = np.random.default_rng(i)
        pixels = random.integers(0, 120, (48 + i % 5, 64, 3), dtype=np.uint8)
        pixels[8:30, 5 + i % 20 : 40] = random.integers(120, 255, 3, dtype=np.uint8)
        path = folder / f"{i:03d}.png"
        Image.fromarray(pixels).save(path)
        if i in damaged:
            path.write_bytes(b"no image, but some bytes")
        paths.append(path)
    return paths


def add_manifest(store, paths, unit_rows=5):
    """A manifest of files; their ids are their names."""
    rows = [Row(path.stem, str(path), path.stat().st_size) for path in paths]
    return write_manifest(Bucket(store), rows, unit_rows=unit_rows)


def fake_bank():
    """A memory bank of the fake models: two colours."""
    vectors = np.array([[1.0, 0.2, -0.3], [-0.5, 0.9, 0.4]], np.float32)
    return MemoryBank(("red", "green"), vectors, np.array([0, 1]), ("one", "two"), None, "lite", WEIGHTS)


def shards_of(store):
    """Name of each shard of a store -> its bytes."""
    return {path.name: path.read_bytes() for path in Path(store).glob("index/*/shards/*")}


def units_in(log):
    """The units that a log names, in order."""
    return [line.split()[1] for line in Path(log).read_text().splitlines()]
