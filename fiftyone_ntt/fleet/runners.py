"""Running a job: here, in processes of this machine, or this machine's share of it. ``ray_runner`` runs it on Ray.

All do the same: the units that are missing, one after the other, each by one worker. What is done is said by what lies
in the store, so a runner that is stopped is started again, and two at one job do some units twice and none wrong.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any

import torch

from fiftyone_ntt.errors import InputError, NttError, counted
from fiftyone_ntt.fleet.bucket import FleetError
from fiftyone_ntt.fleet.jobs import Done, Job, Place
from fiftyone_ntt.params.base import Progress

logger = logging.getLogger(__name__)

_MOST_DEATHS = 3
"""A unit that so many workers died of is not given to another."""


@dataclass
class FleetReport:
    """What a runner did.

    Attributes:
        title: of the job.
        units: units done by this call.
        images: images in them.
        failed: images of these that failed; their status rows say why.
        left: units that are not done, and not this call's to do.
        deaths: workers that died and were replaced.
    """

    title: str
    units: int = 0
    images: int = 0
    failed: int = 0
    left: int = 0
    deaths: int = 0

    def count(self, done: Done) -> None:
        """Adds a unit."""
        self.units, self.images, self.failed = (
            self.units + 1, self.images + done["images"], self.failed + done["failed"]
        )  # fmt: skip

    def __str__(self) -> str:
        text = (
            f"{self.title}: {counted(self.units, 'unit')} with {counted(self.images, 'image')} done, "
            f"{self.failed} failed"
        )
        further = [f"{counted(self.deaths, 'worker')} died, and others took over"] if self.deaths else []
        further += [f"{counted(self.left, 'unit')} left to others"] if self.left else []
        return "; ".join([text, *further])


def part_of(text: str) -> tuple[int, int]:
    """``"3/32"``: this machine's number, from 0 on, and how many there are.

    Raises:
        InputError: if it is something else.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"expected --part I/N with I from 0 to N-1, e.g. 0/32 to 31/32, got {text!r}")
    return int(number), int(count)


def run_here(job: Job, part: tuple[int, int] = (0, 1), progress: Progress | None = None) -> FleetReport:
    """Does the missing units of one part in this process.

    Args:
        job: what to do.
        part: this machine's number and how many there are. Which part a unit belongs to depends on its name alone.
        progress: called with (done, total, message).

    Raises:
        FleetError: if the store cannot be used, or the images are not where they should be.
        NttError: what loading the models raised.

    Example:
        >>> print(run_here(IndexJob("s3://bucket/fleet"), part_of("3/32")))  # doctest: +SKIP
    """
    report, mine = begin(job, part)
    if not mine:
        return report  # without loading a model
    do = job.start()
    for place in mine:
        report.count(do(place))
        tell(progress, report, len(mine))
    return report


def run_local(job: Job, workers: int, part: tuple[int, int] = (0, 1), progress: Progress | None = None) -> FleetReport:
    """Does the missing units of one part in processes of this machine, each with models of its own.

    A worker that dies (killed for memory, say) is replaced, and its unit given to another.

    Args:
        job: what to do.
        workers: how many processes.
        part: this machine's number and how many there are.
        progress: called with (done, total, message).

    Raises:
        FleetError: if workers die of the same unit again and again, or a unit cannot be done.
    """
    if workers < 1:
        raise InputError(f"expected at least one worker, got {workers}")
    report, mine = begin(job, part)
    workers = min(workers, len(mine))
    todo, deaths = deque(mine), Counter[Place]()
    crew = [_Worker(job, workers) for _ in range(workers)]
    try:
        while any(worker.busy for worker in crew) or todo:
            ready = connection.wait([worker.line for worker in crew])
            for worker in [worker for worker in crew if worker.line in ready]:
                try:
                    done = worker.answer()
                except EOFError:
                    crew[crew.index(worker)] = _replaced(worker, job, workers, todo, deaths)
                    report.deaths += 1
                    continue
                if done is not None:
                    report.count(done)
                    tell(progress, report, len(mine))
                if todo:
                    worker.give(todo.popleft())
    finally:
        for worker in crew:
            worker.stop()
    return report


def begin(job: Job, part: tuple[int, int]) -> tuple[FleetReport, list[Place]]:
    """Looks before anything heavy starts; returns a report to fill, and the units to do."""
    job.check()
    missing = job.missing()
    number, count = part
    mine = [place for place in missing if int(place.unit, 16) % count == number]
    return FleetReport(job.title, left=len(missing) - len(mine)), mine


def tell(progress: Progress | None, report: FleetReport, units: int) -> None:
    if progress is not None:
        progress(report.units, units, f"{counted(report.images, 'image')}, {report.failed} failed")


class _Worker:
    """A process that does units, and the line to it. It ends when the line is cut, however that happens."""

    def __init__(self, job: Job, workers: int) -> None:
        context = get_context("spawn")  # a fork would share what cannot be shared: CUDA, connections, threads
        self.line, theirs = context.Pipe()
        self.place: Place | None = None
        self.starting = True
        self._process = context.Process(target=_work, args=(theirs, job, _threads_of(workers)), daemon=True)
        self._process.start()
        theirs.close()  # or the line would stay open when the process is gone

    @property
    def busy(self) -> bool:
        return self.place is not None or self.starting

    def give(self, place: Place) -> None:
        self.place = place
        try:
            self.line.send(place)
        except OSError:  # it has died meanwhile: the next look at the line says so
            logger.debug("a worker was gone before it was given a unit")

    def answer(self) -> Done | None:
        """What became of the unit; ``None`` where it says that it is ready. EOFError if it has died."""
        try:
            kind, value = self.line.recv()
        except OSError as error:
            raise EOFError from error
        if kind == "error":
            hint = "; presets registered by this process are unknown to its workers: run_here does without workers"
            raise FleetError(f"{value}{hint if self.starting and 'preset' in value else ''}")
        self.place, self.starting = None, False
        return value if kind == "done" else None

    def stop(self) -> None:
        self.line.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()


def _replaced(worker: _Worker, job: Job, workers: int, todo: deque[Place], deaths: Counter[Place]) -> _Worker:
    """Another worker in the place of a dead one, whose unit is done next."""
    worker.stop()
    place = worker.place
    if place is None and not worker.starting:  # it had nothing to do
        return _Worker(job, workers)
    if place is None:
        raise FleetError(
            "a worker died while it loaded what it needs (was there not enough memory?); start fewer workers, or see "
            "its messages above"
        )
    deaths[place] += 1
    if deaths[place] >= _MOST_DEATHS:
        raise FleetError(
            f"{counted(_MOST_DEATHS, 'worker')} died of unit {place.unit} ({place.manifest}, number {place.number}); "
            "what is done stays: start fewer workers if memory was short, or leave its images out of the manifest"
        )
    logger.warning("a worker died at unit %s, another one does it", place.unit)
    todo.appendleft(place)
    return _Worker(job, workers)


def _threads_of(workers: int) -> int:
    """Threads for each of several workers that share the cores of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, workers))


def _work(line: Any, job: Job, threads: int) -> None:
    """The body of a worker's process: says that it is ready, then does what comes along the line."""
    torch.set_num_threads(threads)  # before models are loaded: their own engines ask for it
    try:
        do: Callable[[Place], Done] = job.start()
        line.send(("ready", None))
        while True:
            try:
                place = line.recv()
            except EOFError:
                return
            line.send(("done", dict(do(place))))
    except NttError as error:
        line.send(("error", str(error)))
    except (BrokenPipeError, KeyboardInterrupt):  # the one who asked is gone
        return
    except Exception as error:
        logger.debug("a worker failed", exc_info=error)
        line.send(("error", f"a worker failed with an unexpected {type(error).__name__}: {error}"))
