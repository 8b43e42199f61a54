"""Many images through both stages at once: read, run the models, finish; each in threads of its own.

    items -> readers -> [images] -> devices -> [stage one] -> finishers -> [outcomes] -> the caller

The brackets are small bounded queues. A thread that is ahead waits, so memory does not grow with the number of items,
and a caller who is slow to take outcomes slows everything down with it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_ntt.candidates.compact import CompactImage, compact
from fiftyone_ntt.candidates.parted import ItemInParts, Part, Parted
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.results import IndexedImage
from fiftyone_ntt.method.segmenter import Encoded, Prepared, Segmenter
from fiftyone_ntt.models.devices import use_torch_threads

T = TypeVar("T")
U = TypeVar("U")

OUTCOMES_AHEAD = 8
"""Results that may wait for the caller. They are small: a caller that saves in chunks should not stop the models."""
_FOUND_AHEAD = 4
"""Images that may wait for a finisher, with all their masks: 270 MB of 1,024."""


@dataclass(frozen=True, eq=False)
class Outcome(Generic[T]):
    """What became of one item.

    Attributes:
        key: the item's key.
        value: what ``finish`` returned; ``None`` if there is an error.
        error: what went wrong with this item, in whichever thread.
        seconds: time spent on this item, waiting excluded.
        from_index: whether no model ran for it: its candidates were there already.
    """

    key: str
    value: T | None
    error: Exception | None
    seconds: float
    from_index: bool = False


def stream(
    segmenters: Sequence[Segmenter] | Callable[[], Sequence[Segmenter]],
    items: Iterable[tuple[str, Callable[[], Loaded]]],
    finish: Callable[[str, Any], T],
    *,
    readers: int | None = None,
    finishers: int = 1,
    whole: bool = False,
) -> Generator[Outcome[T], None, None]:
    """Runs items through reading, the models and ``finish``, all three at the same time.

    Closing the iterator early (or an exception at the caller, an interrupt included) stops all threads and waits for
    them: each finishes at most the item it is at.

    Args:
        segmenters: one a device, with equal settings: each image goes to whichever is free. A function that makes
            them is called at the first image that needs one, at most once; if all items are indexed, never.
        items: key and a function, called in another thread, that returns either a decoded image, uint8
            ``[H, W, 3]`` RGB, or the content of the index, which needs no model, or an image in parts (``Parted``).
            Readers take them one by one.
        finish: called in another thread with the key and what stage one found, a ``CompactImage``: store, match, make
            labels.
        readers: threads that call the items' functions; two, or half as many as finishers, where ``None``.
        finishers: threads that call ``finish``. With more than one, ``finish`` runs beside itself.
        whole: ``finish`` gets what the models gave as it is, an ``IndexedImage``: a hundred times larger.

    Yields:
        One outcome an item, in no particular order. An exception in any thread is its item's alone.

    Raises:
        InputError: if there is not at least one of each kind of worker.
        Exception: what making the segmenters or taking the next item raised; nothing can go on without them.
    """
    readers = max(2, finishers // 2) if readers is None else readers
    if readers < 1 or finishers < 1:
        raise InputError(f"expected at least one reader and one finisher, got {readers} and {finishers}")
    finishers = min(finishers, _FOUND_AHEAD) if whole else finishers  # each holds all masks while it matches
    run = _Stream(segmenters, items, finish, finishers, whole)
    try:
        run.start(readers, finishers)
        yield from run.results()
    except _Stopped:
        if run.failure is not None:
            raise run.failure from None
        raise
    finally:
        run.stop()


Loaded = NDArray[np.uint8] | CompactImage | Parted
"""What an item's function returns."""


class _Stopped(Exception):  # noqa: N818 - no error: tells a thread that waits at a queue to go home
    pass


class _Queue(Generic[T]):
    """A bounded queue that can be stopped, which at once wakes every thread that waits at it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._content: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, item: T) -> None:
        """Adds an item once there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._content) < self._size)
            if self._stopped:
                raise _Stopped
            self._content.append(item)
            self._changed.notify_all()

    def get(self, most: int = 1) -> list[T]:
        """Takes what is there, up to ``most`` items; waits for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(self._content))
            if self._stopped:
                raise _Stopped
            taken = [self._content.popleft() for _ in range(min(most, len(self._content)))]
            self._changed.notify_all()
            return taken

    def resize(self, size: int) -> None:
        """Sets how many items there is room for."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def stop(self) -> None:
        """Drops the content; from now on ``put`` and ``get`` raise ``_Stopped``."""
        with self._changed:
            self._stopped = True
            self._content.clear()
            self._changed.notify_all()


@dataclass(frozen=True, eq=False)
class _Work(Generic[T]):
    """An item, or a part of one, on its way: what it is now, and the seconds spent on it so far."""

    key: str
    content: T
    seconds: float
    part: Part | None = None

    def now(self, content: U, seconds: float) -> _Work[U]:
        """The same, having become something else in so many more seconds."""
        return _Work(self.key, content, self.seconds + seconds, self.part)


class _Stream(Generic[T]):
    """The threads and queues of one call of ``stream``."""

    def __init__(
        self,
        segmenters: Sequence[Segmenter] | Callable[[], Sequence[Segmenter]],
        items: Iterable[tuple[str, Callable[[], Loaded]]],
        finish: Callable[[str, Any], T],
        finishers: int,
        whole: bool,
    ) -> None:
        self.failure: BaseException | None = None
        self.outcomes: _Queue[Outcome[T] | None] = _Queue(OUTCOMES_AHEAD)  # None: no more items are taken
        self._stage_one: _Queue[_Work[IndexedImage | CompactImage]] = _Queue(min(finishers, _FOUND_AHEAD))
        self._images: _Queue[_Work[Prepared]] = _Queue(1)  # grows when the devices are there
        self._segmenters = segmenters
        self._first: Segmenter | None = None
        self._loading = threading.Lock()
        self._items = iter(items)
        self._next = threading.Lock()
        self._taken, self._ended = 0, False
        self._finish, self._whole = finish, whole
        self._threads: list[threading.Thread] = []
        self._torch_threads = torch.get_num_threads()

    def start(self, readers: int, finishers: int) -> None:
        for _ in range(readers):
            self._spawn(self._read_all, "ntt-reader")
        for _ in range(finishers):
            self._spawn(self._finish_all, "ntt-finisher")

    def results(self) -> Generator[Outcome[T], None, None]:
        """The outcomes, until there is one of every item."""
        done, last = 0, None
        while last is None or done < last:
            outcome = self.outcomes.get()[0]
            if outcome is None:
                last = self._taken
            else:
                done += 1
                yield outcome

    def stop(self) -> None:
        """Wakes every thread that waits, and waits for all to end."""
        for queue in (self._images, self._stage_one, self.outcomes):
            queue.stop()
        self._items = iter(())
        for thread in self._threads:  # readers come first: only they add threads, the devices'
            thread.join()
        use_torch_threads(self._torch_threads)  # also what threads that start later will have

    def _spawn(self, body: Callable[[], None], name: str, torch_threads: int = 1) -> None:
        """Starts a thread whose torch operators use so many threads: it counts for each thread by itself.

        One for readers and finishers: side by side, teams of helpers of each would fight the devices' for the cores.
        Helpers that wait do so in a loop: on two cores beside other busy processes the features of an image took 1.4
        to 2.1 s of CPU time with a team of two, 0.4 s with one thread.
        """

        def guarded() -> None:
            try:
                use_torch_threads(torch_threads)
                body()
            except _Stopped:
                pass
            except BaseException as error:
                self.failure = error
                self.outcomes.stop()  # the caller wakes up, raises the failure and stops the rest

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _read_all(self) -> None:
        while (item := self._next_item()) is not None:
            key, load = item
            started = time.perf_counter()
            try:
                loaded = load()
            except Exception as error:
                self._failed(_Work(key, None, 0.0), error, time.perf_counter() - started)
                continue
            seconds = time.perf_counter() - started
            if isinstance(loaded, Parted):
                self._read_parts(key, loaded, seconds)
            else:
                self._loaded(_Work(key, loaded, seconds))

    def _loaded(self, work: _Work[Any]) -> None:
        if isinstance(work.content, np.ndarray):
            self._prepare(work)
        else:
            self._stage_one.put(work)

    def _read_parts(self, key: str, item: Parted, seconds: float) -> None:
        """Reads the parts of an item one by one: each is on its way before the next is read."""
        whole, number = ItemInParts(item), 0
        started = time.perf_counter() - seconds
        try:
            for number, content in enumerate(item.contents()):
                self._loaded(_Work(key, content, time.perf_counter() - started, Part(whole, number)))
                started = time.perf_counter()
                if whole.failed:
                    break
        except _Stopped:
            raise
        except Exception as error:
            self._failed(_Work(key, None, time.perf_counter() - started, Part(whole, number)), error, 0.0)

    def _next_item(self) -> tuple[str, Callable[[], Loaded]] | None:
        with self._next:
            item = next(self._items, None)
            self._taken += item is not None
            first_to_know = item is None and not self._ended
            self._ended = item is None
        if first_to_know:
            self.outcomes.put(None)
        return item

    def _prepare(self, work: _Work[NDArray[np.uint8]]) -> None:
        segmenter = self._start_devices()
        started = time.perf_counter()
        try:
            prepared = segmenter.prepare(work.content)
        except Exception as error:
            self._failed(work, error, time.perf_counter() - started)
        else:
            self._images.put(work.now(prepared, time.perf_counter() - started))

    def _start_devices(self) -> Segmenter:
        """Starts the devices' threads on the first call. Returns the first segmenter: all prepare images alike."""
        with self._loading:
            if self.failure is not None:
                raise _Stopped
            if self._first is None:
                try:
                    segmenters = self._segmenters() if callable(self._segmenters) else self._segmenters
                    if not segmenters:
                        raise InputError("expected at least one segmenter for images that are not indexed, got none")
                except BaseException as error:
                    self.failure = error  # while the lock is held, or the next reader would try again
                    raise
                self._images.resize(2 * sum(segmenter.images_per_batch for segmenter in segmenters))
                for segmenter in segmenters:
                    self._spawn(partial(self._run_device, segmenter), "ntt-device", self._torch_threads)
                self._first = segmenters[0]
            return self._first

    def _run_device(self, segmenter: Segmenter) -> None:
        segmenter.warm_up()
        while True:
            self._find(segmenter, self._images.get(segmenter.images_per_batch))

    def _find(self, segmenter: Segmenter, group: list[_Work[Prepared]]) -> None:
        for work in self._encode(segmenter, group):
            started = time.perf_counter()
            try:
                indexed = segmenter.decode(work.content)
            except Exception as error:
                self._failed(work, error, time.perf_counter() - started)
            else:
                self._stage_one.put(work.now(indexed, time.perf_counter() - started))

    def _encode(self, segmenter: Segmenter, group: list[_Work[Prepared]]) -> list[_Work[Encoded]]:
        started = time.perf_counter()
        try:
            encoded = segmenter.encode([work.content for work in group])
        except Exception as error:
            if len(group) > 1:  # one by one, to find which image it was (or because memory does not hold them all)
                return [done for work in group for done in self._encode(segmenter, [work])]
            self._failed(group[0], error, time.perf_counter() - started)
            return []
        share = (time.perf_counter() - started) / len(group)
        return [work.now(image, share) for work, image in zip(group, encoded, strict=True)]

    def _finish_all(self) -> None:
        while True:
            outcome = self._finish_one(self._stage_one.get())
            if outcome is not None:
                self.outcomes.put(outcome)

    def _finish_one(self, taken: list[_Work[IndexedImage | CompactImage]]) -> Outcome[T] | None:
        """The outcome of an item; ``None`` of one of which there are parts to come."""
        started = time.perf_counter()
        work = taken.pop()  # nobody else holds it: all that the models gave goes as soon as it is compact
        key, content, seconds, part = work.key, work.content, work.seconds, work.part
        del work
        from_index = isinstance(content, CompactImage)
        try:
            content = content if self._whole else _compacted(content)
            if part is not None:
                spent = seconds + time.perf_counter() - started
                content, seconds, from_index = part.whole.add(part.number, _compacted(content), spent, from_index)
                started = time.perf_counter()
                if content is None:
                    return None
            return Outcome(key, self._finish(key, content), None, seconds + time.perf_counter() - started, from_index)
        except Exception as error:
            problem = error
        if part is not None and not part.whole.fail():
            return None
        return Outcome(key, None, problem, seconds + time.perf_counter() - started, from_index)

    def _failed(self, work: _Work[Any], error: Exception, seconds: float) -> None:
        if work.part is None or work.part.whole.fail():
            self.outcomes.put(Outcome(work.key, None, error, work.seconds + seconds))


def _compacted(image: IndexedImage | CompactImage) -> CompactImage:
    return compact(image) if isinstance(image, IndexedImage) else image
