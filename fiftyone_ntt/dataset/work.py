"""The samples of a run that are left, handed out as this worker claims them, chunk by chunk."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.database import patiently
from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.dataset.leases import Worker

DONE = ("ok", "empty")


class Work:
    """What one worker has to do in a run that others may be at as well.

    Which chunk a sample is in depends on its id alone, so workers agree on it whatever view they were given.
    ``samples`` runs in the readers' threads of the stream, in one of them at a time.

    Args:
        targets: the samples to label.
        status: name of the status field.
        worker: the lease of this worker.
        run_key: key of the run.
        chunks: into how many chunks samples are divided.

    Attributes:
        dataset: the dataset.
        resumed: samples that were done before.
        total: samples that were left at the start.
        by_others: how many of these another worker did.
    """

    def __init__(self, targets: SampleCollection, status: str, worker: Worker, run_key: str, chunks: int) -> None:
        self.dataset, self._status, self._worker = targets._dataset, status, worker
        self._run_key, self._chunks = run_key, chunks
        ids, paths, runs, states = targets.values(["id", "filepath", f"{status}.run_key", f"{status}.state"])
        self._paths = dict(zip(ids, paths, strict=True))
        mine = {key: state for key, run, state in zip(ids, runs, states, strict=True) if run == run_key}
        self._failed_before = {key for key, state in mine.items() if state not in DONE}
        self._left = {key: None for key in ids if mine.get(key) not in DONE}
        self._held: dict[str, set[str]] = {}
        self._lock = threading.RLock()
        self.resumed = len(ids) - len(self._left)
        self.total = len(self._left)
        self.by_others = 0

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
        fields = ["id", f"{self._status}.run_key", f"{self._status}.state"]
        found = zip(*patiently(every_image(self.dataset).select(ids).values, fields), strict=True)
        undone = {
            key
            for key, run, state in found
            if run != self._run_key or (state not in DONE and key in self._failed_before)
        }
        with self._lock:
            for sample_id in ids:
                if sample_id not in undone and sample_id in self._left:
                    del self._left[sample_id]
                    self.by_others += 1
        return [sample_id for sample_id in ids if sample_id in undone]
