"""Runs the optimised and the plain pipeline stage by stage: time, work and memory of each."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.clock import COMPACT, DECODE, ENCODE, MATCH, STAGES, Clock, settle, staged, staged_model, timer
from benchmarks.plain import PlainPipeline, PlainResult
from benchmarks.subjects import Peak, peak_memory
from benchmarks.work import WorkCounter
from fiftyone_ntt.candidates.stream import stream
from fiftyone_ntt.core import CompactImage, Instances, MatchConfig, MemoryBank, Segmenter, compact
from fiftyone_ntt.method.proposals import propose

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is measured.

    Attributes:
        segmenters: one a device, with equal settings; stages are measured on the first.
        device: of the first.
        plain: the plain pipeline with the same weights and settings, in float32.
        images: what to run on.
        bank: the references.
        config: settings of stage two, for both.
    """

    segmenters: Sequence[Segmenter]
    device: torch.device
    plain: PlainPipeline
    images: Sequence[Picture]
    bank: MemoryBank
    config: MatchConfig


@dataclass
class Side:
    """Figures of one pipeline.

    Attributes:
        seconds: stage -> median seconds an image.
        flops: stage -> operations an image (the first one).
        bytes: stage -> bytes an image (the first one).
        total: median seconds an image of undivided runs.
        spread: shortest and longest of those.
        warm_up: seconds of the runs before the measured ones (in which work is counted), excluded from all else.
        candidates: mean number of candidates an image that went on to matching.
        peak: memory.
        results: the last result of each image.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)
    total: float = 0.0
    spread: tuple[float, float] = (0.0, 0.0)
    warm_up: float = 0.0
    candidates: float = 0.0
    peak: Peak = field(default_factory=lambda: Peak(None, None))
    results: list[Any] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """All but the results, for JSON."""
        kept = {key: value for key, value in vars(self).items() if key not in ("results", "peak")}
        return {**kept, "peak": vars(self.peak)}


Run = Callable[[Picture, Clock | None], tuple[Any, int]]
"""Runs one image, with a clock for its stages or without; returns the result and the number of candidates."""


def optimised(subject: Subject) -> Run:
    """The pipeline as the labelling service runs it."""
    segmenter = subject.segmenters[0]

    def run(image: Picture, clock: Clock | None) -> tuple[Instances, int]:
        with ExitStack() as stack:
            if clock is not None:
                stack.enter_context(staged(segmenter, clock))
            candidates = segmenter.candidates(image)
            with _stage(clock, COMPACT):
                found = compact(candidates)
            with _stage(clock, MATCH):
                return segmenter.match(found, subject.bank, subject.config), len(found.candidates)

    return run


def plain(subject: Subject) -> Run:
    """The plain pipeline."""

    def run(image: Picture, clock: Clock | None) -> tuple[PlainResult, int]:
        with _stage(clock, STAGES[-1]):
            result = subject.plain(image, subject.bank, subject.config, lambda name: _stage(clock, name))
        return result, result.candidates

    return run


def optimised_masks(subject: Subject) -> Run:
    """Only the mask model of the service."""
    segmenter = subject.segmenters[0]
    model = segmenter.proposal_model

    @torch.inference_mode()
    def run(image: Picture, clock: Clock | None) -> tuple[None, int]:
        frame = model.frame((image.shape[0], image.shape[1]))
        pixels = frame.render(image)
        with nullcontext() if clock is None else staged_model(model, clock, ENCODE):
            embedding = model.encode(pixels, frame)
            with _stage(clock, DECODE):
                return None, len(propose(model, embedding, frame, segmenter.proposals))

    return run


def plain_masks(subject: Subject) -> Run:
    """Only the mask model, plainly."""
    model = subject.plain.masks

    @torch.inference_mode()
    def run(image: Picture, clock: Clock | None) -> tuple[None, int]:
        frame = model.frame((image.shape[0], image.shape[1]))
        pixels = frame.render(image)
        with _stage(clock, ENCODE):
            embedding = model.encode(pixels, frame)
        with _stage(clock, DECODE):
            return None, len(subject.plain.propose(embedding, frame)[1])

    return run


def _stage(clock: Clock | None, name: str) -> AbstractContextManager[Any]:
    return nullcontext() if clock is None else clock.stage(name)


def measure(run: Run, subject: Subject, repeats: int, warm_ups: int = 1) -> Side:
    """Counts work in a first run, warms up, then times every image ``repeats`` times.

    Args:
        run: what to measure.
        subject: gives images and device.
        repeats: timed runs of each image.
        warm_ups: runs of the first image before, besides the one in which work is counted.
    """
    side = Side()
    started = time.perf_counter()
    _count(run, subject, side)
    for _ in range(warm_ups):
        run(subject.images[0], None)
        settle(subject.device)
    side.warm_up = time.perf_counter() - started
    with peak_memory(subject.device) as peak:
        _time(run, subject, repeats, side)
    side.peak = peak[0]
    return side


def _count(run: Run, subject: Subject, side: Side) -> None:
    work = WorkCounter()
    clock = Clock({"flops": lambda: work.flops, "bytes": lambda: work.bytes})
    with work.counting():
        run(subject.images[0], clock)
    side.flops = {stage: used["flops"] for stage, used in clock.used.items()}
    side.bytes = {stage: used["bytes"] for stage, used in clock.used.items()}


def _time(run: Run, subject: Subject, repeats: int, side: Side) -> None:
    stages: dict[str, list[float]] = {}
    totals, counts = [], []
    for _ in range(repeats):
        side.results = []
        for image in subject.images:
            clock = timer(subject.device)
            started = time.perf_counter()
            result, count = run(image, clock)
            elapsed = time.perf_counter() - started
            for stage, used in clock.used.items():
                stages.setdefault(stage, []).append(used["seconds"])
            if subject.device.type == "cuda":  # waiting for each stage costs time of its own there
                started = time.perf_counter()
                result, count = run(image, None)
                settle(subject.device)
                elapsed = time.perf_counter() - started
            totals.append(elapsed)
            counts.append(count)
            side.results.append(result)
    side.seconds = {stage: median(times) for stage, times in stages.items()}
    side.total, side.spread = median(totals), (min(totals), max(totals))
    side.candidates = sum(counts) / len(counts)


def throughput(subject: Subject, count: int) -> float:
    """Images a second of ``core.stream`` over all devices, decoding ``count`` JPEGs in memory included."""
    files = [_jpeg(image) for image in subject.images]
    items = [(str(i), partial(_decoded, files[i % len(files)])) for i in range(count)]
    if subject.device.type == "cuda":  # batches are shapes of their own, and further devices have not run yet
        _drain(subject, items[: 4 * sum(segmenter.images_per_batch for segmenter in subject.segmenters)])
    started = time.perf_counter()
    _drain(subject, items)
    return count / (time.perf_counter() - started)


def _drain(subject: Subject, items: Sequence[tuple[str, Callable[[], Picture]]]) -> None:
    def finish(key: str, found: CompactImage) -> Instances:
        return subject.segmenters[0].match(found, subject.bank, subject.config)

    for outcome in stream(subject.segmenters, items, finish):
        if outcome.error is not None:
            raise outcome.error


def _jpeg(image: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _decoded(data: bytes) -> Picture:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@dataclass(frozen=True)
class Agreement:
    """How far two results are the same.

    Attributes:
        instances: instances of the plain result.
        found: of those, how many have a counterpart: same label, mask IoU above 0.9.
        score: largest difference of score of such a pair.
        pixels: share of the mask pixels of such pairs that differ.
    """

    instances: int
    found: int
    score: float
    pixels: float


def agreement(ours: Sequence[Instances], theirs: Sequence[PlainResult]) -> Agreement:
    """Compares results image by image."""
    instances = found = changed = pixels = 0
    score = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        instances += len(other)
        if not len(mine) or not len(other):
            continue
        a, b = mine.masks.reshape(len(mine), -1), other.masks.cpu().numpy().reshape(len(other), -1)
        shared = b.astype(np.float32) @ a.astype(np.float32).T
        iou = shared / np.maximum(b.sum(1)[:, None] + a.sum(1)[None] - shared, 1)
        iou[other.labels.cpu().numpy()[:, None] != mine.labels[None]] = 0
        for i, j in enumerate(iou.argmax(axis=1)):
            if iou[i, j] > 0.9:
                found += 1
                score = max(score, abs(float(other.scores[i]) - float(mine.scores[j])))
                changed += int((a[j] != b[i]).sum())
                pixels += int(b[i].sum())
    return Agreement(instances, found, score, changed / max(pixels, 1))
