"""The rounds of ``benchmarks.faults``: start workers, kill one, resume, compare with a run that nothing disturbed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F
from PIL import Image

import fiftyone_ntt as ntt
from benchmarks.faults_worker import BANK, FIELD, PRESET, RUN, serve
from fiftyone_ntt.runs.record import status_field

REFERENCES = 2
SECONDS_TO_WORK = 120.0
_MOST_TRIES = 20
_PAUSE_BETWEEN_TRIES = 0.5
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.faults_worker"])


class Worker:
    """A process that labels datasets, see ``benchmarks.faults_worker``.

    Args:
        log: where its log goes.

    Attributes:
        wrote: samples that it has marked as done in the database, each as often as it has done so.
    """

    def __init__(self, log: Path) -> None:
        self._pipe, its_end = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=serve, args=(its_end, log), daemon=True)
        self._process.start()
        its_end.close()
        self.wrote: list[str] = []

    def begin(self, job: dict[str, Any]) -> None:
        """Hands over a job and returns when the worker is at it."""
        self._pipe.send(job)
        if self.wait_for(("started",), SECONDS_TO_WORK) is None:
            raise RuntimeError("a worker did not start")

    def wait_for(self, wanted: tuple[str, ...], seconds: float) -> dict[str, Any] | None:
        """Waits for one of these events or ``"failed"``; ``None`` if the worker is gone or says none in time."""
        deadline = time.monotonic() + seconds
        while self._pipe.poll(max(0.0, deadline - time.monotonic())):
            try:
                event: dict[str, Any] = self._pipe.recv()
            except (EOFError, OSError):
                return None
            if event["event"] == "wrote":
                self.wrote.extend(event["samples"])
            if event["event"] in (*wanted, "failed"):
                return event
        return None

    def send(self, number: int) -> None:
        """Sends a signal, unless the worker is gone."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def end(self) -> None:
        """Kills the process; see ``join``."""
        self.send(signal.SIGKILL)
        self.join()

    def join(self) -> None:
        """Waits until the process is gone and all it has said is read."""
        self._process.join()
        while self.wait_for((), 0.1) is not None:
            pass


@dataclass(frozen=True)
class Content:
    """What a dataset holds after a run: for each file its labels, as values that can be compared, and its state."""

    labels: dict[str, list[tuple[Any, ...]]]
    states: dict[str, str | None]

    @classmethod
    def of(cls, dataset: fo.Dataset) -> Content:
        """Reads it through FiftyOne, masks included."""
        dataset.reload()
        labels, states = {}, {}
        for sample in dataset.iter_samples():
            name = Path(sample.filepath).name
            assert name not in labels, f"{name} is in the dataset twice"
            found = sample[FIELD]
            labels[name] = [_label(label) for label in found.detections] if found is not None else []
            status = sample[status_field(FIELD)]
            states[name] = None if status is None else f"{status.state}:{status.run_key}:{status.error}"
        return cls(labels, states)


def _label(label: fo.Detection) -> tuple[Any, ...]:
    mask = label.get_mask()
    return label.label, tuple(label.bounding_box), label.confidence, label.predicted_iou, mask.shape, mask.tobytes()


@dataclass
class Round:
    """What became of one round.

    Attributes:
        moment: when the worker was killed, in words.
        done_before: samples whose status said done at that moment.
        lost: samples without a label or a status that the undisturbed run gave them.
        doubled: samples with a label more than that, or marked as done by two workers.
        differing: samples that are not equal to the undisturbed run's in any other way.
        problems: anything else that is wrong.
    """

    moment: str = ""
    done_before: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether nothing can be told from a run that nothing disturbed."""
        return not (self.lost or self.doubled or self.differing or self.problems)

    def __str__(self) -> str:
        lists = {"lost": self.lost, "doubled": self.doubled, "differing": self.differing, "problems": self.problems}
        wrong = "; ".join(f"{name}: {', '.join(what)}" for name, what in lists.items() if what)
        return f"{self.moment}, {self.done_before} samples done: {wrong or 'survived'}"


class Faults:
    """A dataset, what an undisturbed run makes of it, and workers to disturb.

    Args:
        folder: for images, candidate caches and logs.
        images: how many images are to be labelled, one of them damaged; two more are references.
        seed: of the moments.
    """

    def __init__(self, folder: Path, images: int = 40, seed: int = 0) -> None:
        self._folder, self._images, self._random = folder, images, random.Random(seed)
        self._template = make_dataset(folder / "images", images)
        self._log = folder / "workers.log"
        self._resumer = Worker(self._log)
        self._rounds = 0
        with self._dataset() as (dataset, job):
            self._resumer.begin(job)
            done = self._done(self._resumer)
            self.reference = Content.of(dataset)
        self.seconds, self.writes = done["seconds"], done["writes"]

    @property
    def labels(self) -> int:
        """Labels that the undisturbed run wrote."""
        return sum(map(len, self.reference.labels.values()))

    def close(self) -> None:
        """Stops all workers and deletes the dataset."""
        self._resumer.end()
        self._template.delete()

    @contextmanager
    def _dataset(self) -> Iterator[tuple[fo.Dataset, dict[str, Any]]]:
        """A fresh copy of the dataset with an empty candidate cache, and the job of labelling it."""
        self._rounds += 1
        dataset = self._template.clone(f"{self._template.name}-{self._rounds}", persistent=True)
        try:
            yield dataset, {"dataset": dataset.name, "index": str(self._folder / f"index-{self._rounds}")}
        finally:
            dataset.delete()

    def _done(self, worker: Worker) -> dict[str, Any]:
        done = worker.wait_for(("done",), SECONDS_TO_WORK)
        if done is None or done["event"] != "done":
            raise RuntimeError(f"expected a worker to finish, got {done or self._log.read_text()}")
        return done

    def round(self, at: str, workers: int = 1, number: int = signal.SIGKILL) -> Round:
        """Stops a worker, lets others go on, and compares.

        Args:
            at: ``"time"`` stops it at a moment of the clock, ``"write"`` right before a write to the database,
                ``"image"`` when so many images are through.
            workers: how many share the run at that moment.
            number: the signal. After ``SIGSTOP`` the worker wakes up when the others are done.
        """
        for _ in range(_MOST_TRIES):
            with self._dataset() as (dataset, job):
                moment: float = {
                    "time": lambda: self._random.uniform(0, self.seconds),
                    "write": lambda: self._random.randint(1, self.writes),
                    "image": lambda: self._random.randint(1, self._images // 2),  # it still holds some
                }[at]()
                told = f"{signal.Signals(number).name} at {at} {moment:.4g}"
                result = self._disturb(dataset, {**job, "signal": number, f"at_{at}": moment}, workers)
                if result is not None:
                    result.moment = told
                    return result
        raise RuntimeError(f"the worker was done before it could be stopped, {_MOST_TRIES} times: {told}")

    def _disturb(self, dataset: fo.Dataset, job: dict[str, Any], count: int) -> Round | None:
        """One round; ``None`` if the worker was done before the moment came."""
        victim, *others = workers = [Worker(self._log) for _ in range(count)]
        plain = {name: job[name] for name in ("dataset", "index")}
        self._resumer.wrote.clear()
        try:
            starts = [(victim, job), *((worker, plain) for worker in others)]
            for worker, its_job in self._random.sample(starts, len(starts)):
                worker.begin(its_job)
            if not self._hit(victim, job):
                return None
            before = done_samples(dataset)
            result = Round(done_before=len(before))
            for worker in others:
                self._done(worker)
            self.resume(dataset, plain, result)
            if job["signal"] == signal.SIGSTOP:
                self._wake(victim, result)
        finally:
            for worker in workers:
                worker.end()
        self.compare(dataset, [*workers, self._resumer], before, result)
        return result

    def _hit(self, victim: Worker, job: dict[str, Any]) -> bool:
        """Waits for the moment and sends the signal, where the worker does not do so itself."""
        if (moment := job.get("at_time")) is not None:
            said = victim.wait_for(("done",), moment)
            victim.send(job["signal"])
        else:
            said = victim.wait_for(("hit", "done"), SECONDS_TO_WORK)
        if said is not None and said["event"] == "done":
            return False
        if job["signal"] != signal.SIGSTOP:
            victim.join()
        return True

    def _wake(self, victim: Worker, result: Round) -> None:
        """A worker that slept longer than its lease must notice."""
        victim.send(signal.SIGCONT)
        said = victim.wait_for(("done",), SECONDS_TO_WORK)
        if said is None or "LeaseLostError" not in said.get("error", ""):
            result.problems.append(f"expected the worker that slept to notice that its lease ran out, got {said}")

    def resume(self, dataset: fo.Dataset, job: dict[str, Any], result: Round) -> None:
        """Lets another worker go on until nothing is left: what a killed one had claimed is free after a while."""
        expected = sum(
            state is not None and state.startswith(("ok", "empty")) for state in self.reference.states.values()
        )
        for _ in range(_MOST_TRIES):
            self._resumer.begin(job)
            self._done(self._resumer)
            if len(done_samples(dataset)) >= expected:
                return
            time.sleep(_PAUSE_BETWEEN_TRIES)
        result.problems.append(f"not finished after {_MOST_TRIES} calls")

    def compare(self, dataset: fo.Dataset, workers: list[Worker], before: dict[str, list[str]], result: Round) -> None:
        """Notes all that an undisturbed run would not have left behind.

        Args:
            dataset: the dataset after the last worker.
            workers: all that worked on it.
            before: what ``done_samples`` gave when the worker had been killed.
            result: where to note it.
        """
        found, wanted = Content.of(dataset), self.reference
        for name, labels in wanted.labels.items():
            mine, surplus = Counter(found.labels.get(name, ())), Counter(labels)
            missing, surplus = surplus - mine, mine - surplus
            if missing or (wanted.states[name] is not None and found.states.get(name) is None):
                result.lost.append(name)
            elif surplus:
                result.doubled.append(name)
            elif found.labels[name] != labels or found.states[name] != wanted.states[name]:
                result.differing.append(name)
        if set(found.labels) != set(wanted.labels):
            result.problems.append(f"expected {len(wanted.labels)} samples, got {len(found.labels)}")
        result.problems.extend(
            f"the run is {run['state']}" for run in ntt.list_runs(dataset) if run["state"] != "completed"
        )
        after = done_samples(dataset)
        rewritten = {sample for sample, labels in before.items() if after.get(sample) != labels}
        marks = Counter(sample for worker in workers for sample in worker.wrote)
        result.doubled.extend(sorted(rewritten | {sample for sample, times in marks.items() if times > 1}))


def done_samples(dataset: fo.Dataset) -> dict[str, list[str]]:
    """The ids of the labels of each sample that is marked as done. Every write of a label gives it another id."""
    dataset.reload()
    status = status_field(FIELD)
    if not dataset.has_field(status):
        return {}
    view = dataset.match((F(f"{status}.run_key") == RUN) & F(f"{status}.state").is_in(["ok", "empty"]))
    return dict(zip(*view.values(["id", f"{FIELD}.detections.id"]), strict=True))


def make_dataset(folder: Path, images: int) -> fo.Dataset:
    """References with a bank made of them, and images to label: squares on noise, the last file is damaged."""
    folder.mkdir(parents=True)
    samples = []
    for i in range(REFERENCES + images):
        random = np.random.default_rng(i)
        pixels = random.integers(0, 90, (90, 120, 3), dtype=np.uint8)
        for _ in range(3):
            y, x = random.integers(0, 50), random.integers(0, 80)
            pixels[y : y + 40, x : x + 40] = random.integers(60, 255, 3)
        path = folder / f"{i:03d}.png"
        Image.fromarray(pixels).save(path)
        samples.append(fo.Sample(str(path)))
        if i < REFERENCES:
            truth = fo.Detection(label=f"kind {i}", bounding_box=[x / 120, y / 90, 40 / 120, 40 / 90])
            samples[-1]["truth"], samples[-1].tags = fo.Detections(detections=[truth]), ["ntt:reference"]
    path.write_bytes(path.read_bytes()[:200])
    dataset = fo.Dataset(f"ntt-faults-{uuid.uuid4().hex[:8]}", persistent=True)
    dataset.add_samples(samples)
    references = dataset.match_tags("ntt:reference")
    ntt.build_memory_bank(references, "truth", preset=PRESET, name=BANK, device="cpu")
    return dataset
