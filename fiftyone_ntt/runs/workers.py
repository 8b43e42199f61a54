"""Leases of the workers of a run, and their claims on chunks of its samples; kept in FiftyOne's execution store.

A worker is alive while it renews its lease. It may write a sample only while it is alive and holds the chunk the sample
is in. What a worker that is not alive has claimed, others may take: by then its lease cannot be renewed any more.
"""

from __future__ import annotations

import getpass
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from fiftyone.operators.store.transient_jobs import TransientJobCoordinator

from fiftyone_ntt.dataset.fields import dataset_of, every_image, is_labelled
from fiftyone_ntt.dataset.parts import selections
from fiftyone_ntt.dataset.storage import JsonStore, patiently, store
from fiftyone_ntt.errors import InputError, LeaseLostError, RunCancelledError
from fiftyone_ntt.runs.processes import has_died, process_facts

logger = logging.getLogger(__name__)

LEASE_VARIABLE = "FIFTYONE_NTT_LEASE_SECONDS"
_DEFAULT_LEASE = 60
_LONGEST_BEAT = 2.0
"""Seconds between two renewals at most: as long may it take until a worker hears that its run was cancelled."""
_POLL = 0.2
DONE = ("ok", "empty")
"""States of samples that a run need not come back to."""
_DAY = 24 * 60 * 60


def run_store(dataset: fo.Dataset) -> JsonStore:
    """Where the states of a dataset's runs and the leases of their workers lie; goes with the dataset."""
    return store(dataset, "ntt_runs")


def live_workers(dataset: fo.Dataset, run_key: str) -> list[dict[str, Any]]:
    """The leases of the workers that are at a run now."""
    store = run_store(dataset)
    jobs = (store.get(key) for key in _keys(store, run_key))
    return [job for job in jobs if _is_live(job)]


def request_cancel(dataset: fo.Dataset, run_key: str) -> int:
    """Tells all workers of a run to stop. Returns how many there are."""
    workers = live_workers(dataset, run_key)
    for job in workers:
        _coordinator(dataset).request_cancel(job["id"])
    return len(workers)


def forget_claims(dataset: fo.Dataset, run_key: str) -> None:
    """Removes the claims of a run, and leases of the dead. Called alone on the field: who is alive waits to begin."""
    store = run_store(dataset)
    for key in [key for key in _keys(store, run_key) if not _is_live(store.get(key))]:
        store.delete(key)
    _claims(dataset, run_key).clear()


class Worker:
    """One part in a run, kept alive by a thread until ``end``. Its methods may be called from several threads.

    Args:
        dataset: the dataset.
        run_key: key of the run, a name.
        origin: who asks for the run; its ``stopped`` is asked now and then.

    Attributes:
        processed: samples done so far, for the figures of the run.
    """

    def __init__(self, dataset: fo.Dataset, run_key: str, origin: Origin) -> None:
        self._run_key, self._origin = run_key, origin
        self._coordinator = _coordinator(dataset)
        self._claims, self._fields = _claims(dataset, run_key), store(dataset, "ntt_fields")
        owner, job_id = process_facts(), f"{run_key}/{ObjectId()}"
        job = self._coordinator.create(owner=owner, scope=run_key, payload=None, job_id=job_id)
        self.id: str = job["id"]
        claimed = self._coordinator.claim(self.id)
        if claimed is None:  # nobody else knows the id, so only if all leases of the run were removed just now
            raise LeaseLostError(f"run {run_key!r} was undone while this worker joined it; start it again")
        self._token = claimed["fencing_token"]
        self._problem: LeaseLostError | RunCancelledError | None = None
        self._over, self._renewing = threading.Event(), threading.Lock()
        self._started = time.monotonic()
        self.processed = 0
        self._thread = threading.Thread(target=self._beat, name="ntt-lease", daemon=True)
        self._thread.start()

    @property
    def figures(self) -> dict[str, float]:
        """Samples done so far and the seconds they took."""
        return {"done": self.processed, "seconds": round(time.monotonic() - self._started, 3)}

    def check(self) -> None:
        """Raises what the last renewal found, without asking the database."""
        if self._problem is not None:
            raise self._problem

    def renew(self) -> None:
        """Renews the lease. Called before every write.

        Raises:
            LeaseLostError: if it has run out.
            RunCancelledError: if the run has been cancelled.
        """
        self.check()
        with self._renewing:
            job = self._coordinator.set_progress(self.id, self._token, self.figures) or self._revived()
        if job is None:
            self._problem = LeaseLostError(
                f"this worker of run {self._run_key!r} gave no sign of life for {_lease_seconds()} s, and another one "
                "took over: it stops, what it has written stays; start the same run again to share the rest"
            )
        elif job["cancel_requested"]:
            self._problem = RunCancelledError(
                f"run {self._run_key!r} was cancelled; what it has written stays: resume_run goes on, undo_run takes "
                "it back"
            )
        self.check()

    def claim(self, chunk: str, among: JsonStore | None = None) -> bool:
        """Tries to take a chunk, or a key among other claims. Returns whether this worker has it now."""
        self.check()
        claims, lease = self._claims if among is None else among, {"worker": self.id}
        if claims.set_if_absent(chunk, lease, ttl=_DAY):
            return True
        held = claims.get(chunk)
        if held is None or held == lease:
            return held is not None
        if held["worker"] is not None and not self._shut_out(held["worker"]):
            return False
        return bool(claims.compare_and_set(chunk, held, lease, ttl=_DAY))

    def release(self, chunk: str, among: JsonStore | None = None) -> None:
        """Gives a chunk back, for samples of it that another worker's view may hold."""
        claims = self._claims if among is None else among
        claims.compare_and_set(chunk, {"worker": self.id}, {"worker": None}, ttl=_DAY)

    def wait(self, seconds: float = _POLL) -> None:
        """Waits for other workers."""
        self._over.wait(seconds)
        self.check()

    @contextmanager
    def alone(self, label_field: str) -> Iterator[None]:
        """What is done inside, only one worker on the field does at a time, whatever its run."""
        while not self.claim(label_field, self._fields):
            self.wait()
        try:
            yield
        finally:
            self.release(label_field, self._fields)

    @contextmanager
    def if_free(self, place: str) -> Iterator[bool]:
        """The same, of any place, for whoever does not wait: says whether it is this worker's meanwhile."""
        is_free = self.claim(place, self._fields)
        try:
            yield is_free
        finally:
            if is_free:
                self.release(place, self._fields)

    def end(self) -> None:
        """Ends the part: its claims are free, it can write no more."""
        self._over.set()
        self._thread.join()
        try:
            self._coordinator.complete(self.id, self._token)
        except Exception:  # the lease then runs out by itself
            logger.warning("could not tell the database that a worker of run %r ended", self._run_key)
            logger.debug("why", exc_info=True)

    def _revived(self) -> dict[str, Any] | None:
        """Takes up a lease that ran out (the database was away, the machine slept) unless it was shut out meanwhile."""
        job: dict[str, Any] | None = self._coordinator.get(self.id)
        if job is not None and job["cancel_requested"]:
            return job
        job = self._coordinator.claim(self.id)
        if job is not None:
            self._token = job["fencing_token"]
        return job

    def _shut_out(self, other: str) -> bool:
        """Whether another worker is dead; one whose lease ran out cannot renew it from here on, whatever its clock."""
        job = self._coordinator.get(other)
        if _is_live(job):
            return False
        self._coordinator.fail_expired(other, "the lease ran out and another worker took over")
        return not _is_live(self._coordinator.get(other))

    def _beat(self) -> None:
        stopped = self._origin.stopped
        while not self._over.wait(min(_LONGEST_BEAT, _lease_seconds() / 3)):
            try:
                if stopped is not None and stopped():
                    self._coordinator.request_cancel(self.id)
                self.renew()
            except (LeaseLostError, RunCancelledError):
                return  # kept: the next `check` raises it
            except Exception:  # the database may be back before the lease runs out
                logger.warning("could not renew the lease of run %r", self._run_key)
                logger.debug("why", exc_info=True)


def _lease_seconds() -> int:
    text = os.environ.get(LEASE_VARIABLE, str(_DEFAULT_LEASE))
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"expected {LEASE_VARIABLE} to be a whole number of seconds, at least 1, got {text!r}")
    return int(text)


def _coordinator(dataset: fo.Dataset) -> TransientJobCoordinator:
    return TransientJobCoordinator(run_store(dataset), ttl_seconds=_DAY, lease_seconds=_lease_seconds())


def _claims(dataset: fo.Dataset, run_key: str) -> JsonStore:
    return store(dataset, f"ntt_claims_{run_key}")


def _keys(store: JsonStore, run_key: str) -> list[str]:
    return [key for key in store.list_keys() if key.startswith(f"{run_key}/")]


def _is_live(job: dict[str, Any] | None) -> bool:
    if job is None or job["state"] != "running":
        return False
    expires: datetime = job["lease_expires_at"].replace(tzinfo=timezone.utc)  # earlier versions' come back without
    return expires > datetime.now(timezone.utc) and not has_died(job["owner"])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have no name
        return "unknown"


@dataclass(frozen=True)
class Origin:
    """Where a call of a service comes from.

    Attributes:
        door: ``"sdk"``, ``"app"``, ``"cli"`` or ``"delegated"``.
        user: who it is.
        operation: id of the delegated operation.
        stopped: whether the caller's side has given the run up; asked now and then from another thread.
    """

    door: str = "sdk"
    user: str = field(default_factory=_user)
    operation: str | None = None
    stopped: Callable[[], bool] | None = None


_current: ContextVar[Origin | None] = ContextVar("ntt_origin", default=None)


def current_origin() -> Origin:
    """The origin of the call at hand: Python, unless another entry point says otherwise."""
    return _current.get() or Origin()


@contextmanager
def through(origin: Origin) -> Iterator[None]:
    """Calls inside come from ``origin``."""
    token = _current.set(origin)
    try:
        yield
    finally:
        _current.reset(token)


class Work:
    """What one worker has to do in a run that others may be at as well.

    Which chunk a sample is in depends on its id alone, so workers agree on it whatever view they were given.
    ``samples`` runs in the readers' threads of the stream, in one of them at a time.

    Args:
        targets: the samples to label.
        label_field: the field of the labels. A sample without labels there is not done, whatever its status says.
        status: name of the status field.
        worker: the lease of this worker.
        run_key: key of the run.
        chunks: into how many chunks samples are divided.

    Attributes:
        dataset: the dataset.
        resumed: samples that were done before.
        lost: samples that were done before, and whose labels are gone.
        total: samples that were left at the start.
        by_others: how many of these another worker did.
    """

    def __init__(
        self, targets: SampleCollection, label_field: str, status: str, worker: Worker, run_key: str, chunks: int
    ) -> None:
        self.dataset, self._worker, self._run_key, self._chunks = dataset_of(targets), worker, run_key, chunks
        self._state = [f"{status}.run_key", f"{status}.state", is_labelled(label_field)]
        ids, paths, *states = targets.values(["id", "filepath", *self._state])
        self._paths = dict(zip(ids, paths, strict=True))
        # Of each sample that the run was at: whether its status says done, and whether its labels are there.
        rows = zip(ids, *states, strict=True)
        of_run = {key: (state in DONE, labels) for key, run, state, labels in rows if run == run_key}
        self._failed_before = {key for key, (done, _) in of_run.items() if not done}
        self._left = {key: None for key in ids if of_run.get(key) != (True, True)}
        self.lost = sum(figures == (True, False) for figures in of_run.values())
        self._held, self._lock = dict[str, set[str]](), threading.RLock()
        self.resumed = len(ids) - len(self._left)
        self.total, self.by_others = len(self._left), 0

    @property
    def left(self) -> bool:
        """Whether there are samples that nobody has done, as far as this worker knows."""
        return bool(self._left)

    def samples(self) -> Iterator[tuple[str, str]]:
        """Ids and paths of samples that this worker now has to itself. Ends where others hold all that is left."""
        chunks: dict[str, list[str]] = {}
        for sample_id in self._left:
            chunks.setdefault(str(zlib.crc32(sample_id.encode()) % self._chunks), []).append(sample_id)
        for chunk, ids in chunks.items():
            if not patiently(self._worker.claim, chunk):
                continue
            undone = self._undone(ids)  # now that nobody else can be at them
            if not undone:
                patiently(self._worker.release, chunk)
                continue
            with self._lock:
                self._held[chunk] = set(undone)
            for sample_id in undone:
                self._worker.check()
                yield sample_id, self._paths[sample_id]

    def written(self, sample_ids: list[str]) -> None:
        """These samples are in the database: chunks of which nothing is left are given back."""
        with self._lock:
            for sample_id in sample_ids:
                self._left.pop(sample_id, None)
            for ids in self._held.values():
                ids.difference_update(sample_ids)
            through = [chunk for chunk, ids in self._held.items() if not ids]
            for chunk in through:
                del self._held[chunk]
        for chunk in through:
            patiently(self._worker.release, chunk)

    def look_again(self) -> None:
        """Passes over what others have done meanwhile."""
        self._undone(list(self._left))

    def _undone(self, ids: list[str]) -> list[str]:
        """The samples that still have to be done; one that failed for another worker meanwhile is not tried again."""
        parts = selections(every_image(self.dataset), ids)
        rows = (row for part in parts for row in zip(*patiently(part.values, ["id", *self._state]), strict=True))
        undone = {
            key
            for key, run, state, has_labels in rows
            if run != self._run_key or (not has_labels if state in DONE else key in self._failed_before)
        }
        with self._lock:
            for sample_id in ids:
                if sample_id not in undone and sample_id in self._left:
                    del self._left[sample_id]
                    self.by_others += 1
        return [sample_id for sample_id in ids if sample_id in undone]
