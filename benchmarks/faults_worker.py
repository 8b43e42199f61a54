"""The worker that ``benchmarks.faults`` kills: labels datasets it is told of, with two small random networks.

It is forked from a process that has imported this module, which takes much longer than a round.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import fiftyone as fo
import torch
from fiftyone.core.odm import database
from pymongo import monitoring
from torch import Tensor

import fiftyone_ntt as ntt
from fiftyone_ntt.core import ImageFrame
from fiftyone_ntt.method.references import ReferenceSettings
from fiftyone_ntt.models.presets import PRESETS, Preset
from fiftyone_ntt.runs import session as writing
from fiftyone_ntt.runs import states
from fiftyone_ntt.runs import workers as leases

BANK, FIELD, RUN = "faults_bank", "found", "ntt_found"
SCORE_THRESHOLD = 0.0
LEASE_SECONDS = "2"
"""Short, so that what a worker had claimed is soon free."""
SAMPLES_IN_A_CHUNK = 4
"""Claimed and written at once: few, so that few images are shared, and cut, as many are otherwise."""
_WRITES = frozenset({"insert", "update", "delete", "findAndModify", "findandmodify"})


class SmallProposals:
    """Masks are where the features of one random convolution resemble those at the prompt."""

    name, weights_hash, side = "small-masks", "1" * 64, 256

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self._weights = torch.randn(8, 3, 16, 16, generator=generator)

    def frame(self, image_size: tuple[int, int]) -> ImageFrame:
        """The image fills the square."""
        return ImageFrame.squash(image_size, self.side)

    def encode(self, pixels: Tensor, frame: ImageFrame) -> Tensor:
        """Features of length one, ``[8, 32, 32]``."""
        found = torch.nn.functional.conv2d(pixels[None] - 0.4, self._weights, stride=8, padding=4)[0]
        return torch.nn.functional.normalize(found, dim=0)

    def decode_points(self, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Three masks a prompt, each stricter than the one before."""
        x, y = (points / 8).long().clamp(0, embedding.shape[-1] - 1).T
        likeness = torch.einsum("chw,cp->phw", embedding, embedding[:, y, x])
        strict = torch.tensor([0.7, 0.8, 0.9])
        logits = likeness[:, None] - strict[:, None, None]
        iou = 0.5 + 0.4 * likeness.mean(dim=(1, 2)).abs()[:, None] * torch.tensor([0.8, 1.0, 0.9])
        return torch.nn.functional.interpolate(logits, size=(256, 256), mode="bilinear"), iou

    def decode_boxes(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The middle mask of the prompt at each box's centre."""
        logits, iou = self.decode_points(embedding, (boxes[:, :2] + boxes[:, 2:]) / 2)
        return logits[:, 1], iou[:, 1]


class SmallFeatures:
    """A token is what one random convolution makes of its patch."""

    name, weights_hash = "small-features", "2" * 64
    input_size, grid, dim = 64, (8, 8), 16

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self._weights = torch.randn(self.dim, 3, 8, 8, generator=generator)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens ``[B, 8, 8, 16]``."""
        return torch.nn.functional.conv2d(images - 0.4, self._weights, stride=8).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class SmallSpec:
    """How to get one of the two."""

    kind: type
    cpu_only: ClassVar[bool] = True

    def load(self, device: torch.device, *, preset: str = "", precision: str = "fp32", compile: bool = False) -> Any:
        """Makes it: the weights are random, and always the same."""
        return self.kind()


PRESET = Preset(
    "faults",
    SmallSpec(SmallProposals),
    SmallSpec(SmallFeatures),
    references=ReferenceSettings(context="image", weights="area"),
    points_per_side=4,
    target_via=None,
)


class Writes(monitoring.CommandListener):
    """Counts the writes this process sends to the database, tells whose statuses they set, ends it at a chosen one."""

    def __init__(self, outside: Connection) -> None:
        self.begin({})
        self._outside = outside
        self._statuses: dict[int, list[str]] = {}

    def begin(self, job: dict[str, Any]) -> None:
        """Counts from one again, for a job that may name a write (``at_write``)."""
        self._job, self.sent = job, 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Called by the driver before a command goes out."""
        if event.command_name not in _WRITES:
            return
        self.sent += 1
        if self.sent == self._job.get("at_write"):
            os.kill(os.getpid(), self._job["signal"])
        statuses = _statuses_set(event.command)
        if statuses:
            self._statuses[event.request_id] = statuses

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Called by the driver when the database has answered."""
        if statuses := self._statuses.pop(event.request_id, None):
            self._outside.send({"event": "wrote", "samples": statuses})

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Called by the driver when the database has refused."""
        self._statuses.pop(event.request_id, None)


def _statuses_set(command: Any) -> list[str]:
    """Ids of the samples that an update marks as done."""
    done = []
    for update in command.get("updates", []):
        values = update["u"].get("$set", {}) if isinstance(update["u"], dict) else {}
        status = values.get(f"{FIELD}_status")
        if isinstance(status, dict) and status.get("state") in ("ok", "empty"):
            done.append(str(update["q"].get("_id")))
    return done


def work(job: dict[str, Any], writes: Writes, outside: Connection) -> None:
    """Labels one dataset.

    Args:
        job: ``dataset``, ``index`` (folder), and, to be hit by a ``signal``: ``at_write`` or ``at_image`` (a number).
        writes: the listener of this process.
        outside: who wants to know.
    """

    def progress(done: int, total: int, message: str) -> None:
        if done >= job.get("at_image", total + 1):
            job["at_image"] = total + 1
            outside.send({"event": "hit"})
            os.kill(os.getpid(), job["signal"])

    dataset = fo.load_dataset(job["dataset"])
    dataset.reload()
    outside.send({"event": "started"})
    writes.begin(job)
    settings = {"run_key": RUN, "preset": PRESET, "device": "cpu", "score_threshold": SCORE_THRESHOLD}
    report = ntt.segment(dataset, BANK, FIELD, index_dir=job["index"], progress=progress, **settings)
    outside.send({"event": "done", "writes": writes.sent, "seconds": report.seconds})


def serve(outside: Connection, log: Path) -> None:
    """Takes jobs until it is stopped."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it, and pass that on
    torch.set_num_threads(1)
    os.environ[leases.LEASE_VARIABLE] = LEASE_SECONDS
    states.IN_A_CHUNK = writing._LARGEST_CHUNK = SAMPLES_IN_A_CHUNK
    PRESETS[PRESET.name] = PRESET
    writes = Writes(outside)
    database._disconnect()  # the connection is the other process's; the next one has the listener
    monitoring.register(writes)
    while True:
        job = outside.recv()
        try:
            work(job, writes, outside)
        except Exception as error:
            outside.send({"event": "failed", "error": f"{type(error).__name__}: {error}"})
