"""A view some samples at a time: what it takes is in memory in parts, and no part costs as much as the whole.

FiftyOne puts what selects a part behind the stages of a view. So a view that is sorted or limited would be sorted anew
for each of its parts: with a hundred thousand samples, thousands of times.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import fiftyone.core.stages as stages
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import dataset_of, every_image, is_generated
from fiftyone_ntt.dataset.storage import in_parts, patiently, raw_values, stages_of

T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE = 50
_MOST_THREADS = 4
"""More would wait for Python's lock."""
_WHOLE_LISTS = frozenset({
    stages.Exclude, stages.ExcludeBy, stages.Exists, stages.Limit, stages.Match, stages.MatchFrames,
    stages.MatchLabels, stages.MatchTags, stages.Select, stages.SelectBy, stages.SelectGroupSlices, stages.Shuffle,
    stages.Skip, stages.SortBy, stages.SortBySimilarity, stages.Take, stages.GeoNear, stages.GeoWithin,
})  # fmt: skip
"""Stages of views that choose samples, or order them, and leave each as it is."""
_OF_EACH = frozenset({
    stages.ExcludeFields, stages.ExcludeLabels, stages.FilterField, stages.FilterKeypoints, stages.FilterLabels,
    stages.LimitLabels, stages.MapLabels, stages.SelectFields, stages.SelectLabels, stages.SetField,
})  # fmt: skip
"""Stages that show each sample otherwise, whichever samples there are besides."""


def shows_whole_lists(view: SampleCollection, label_field: str) -> bool:
    """Whether a view surely shows all labels that its samples have in a field."""
    return all(
        type(stage) in _WHOLE_LISTS or (isinstance(stage, stages.FilterLabels) and stage.field != label_field)
        for stage in stages_of(view)
    )


def part_of(view: SampleCollection, ids: Sequence[Any], *, ordered: bool = False) -> SampleCollection:
    """Some samples of a view, as it shows them.

    Args:
        view: the view, of images.
        ids: samples that are in it.
        ordered: in the order of ``ids``.
    """
    through = stages_of(view)
    shown = [stage for stage in through if type(stage) not in _WHOLE_LISTS]
    if is_generated(view) or not all(type(stage) in _OF_EACH for stage in shown):
        return view.select(list(ids), ordered=ordered)
    part: SampleCollection = every_image(dataset_of(view)).select(list(ids), ordered=ordered)
    for stage in shown:
        part = part.add_stage(stage)
    return part


def raw_samples(view: SampleCollection, fields: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """``raw_values`` sample by sample, in the order of the view, with some samples in memory at a time.

    What ``iter_samples`` is where labels are a stranger's: no mask is unpacked, see ``documents``.
    """
    for rows in raw_parts(view, fields):
        yield from rows


def raw_parts(view: SampleCollection, fields: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
    """The same, some samples at once."""
    ids = patiently(view.values, "id")
    for some in in_parts(ids, _AT_ONCE):
        yield list(zip(*patiently(raw_values, part_of(view, some, ordered=True), fields), strict=True))


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``work(item)`` of each item, in their order; of a few at once.

    For work that is mostly unpacking masks and compiled loops, which let other threads of Python run. No processes:
    each would import FiftyOne, and a script without ``if __name__ == "__main__"`` would start itself again.

    Args:
        work: called in other threads; must change nothing that it shares with its other calls.
        items: taken in the caller's thread, never more ahead of what was returned than there are threads and one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads, waiting = min(cores, _MOST_THREADS), deque[Future[R]]()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ntt-labels")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the caller stopped, or an item failed
        pool.shutdown(wait=True, cancel_futures=True)


def selections(view: SampleCollection, ids: Sequence[Any]) -> Iterator[SampleCollection]:
    """``view.select`` of many samples, in parts: a query is a document, and a million ids are more than one takes."""
    for some in in_parts(ids):
        yield view.select(some)
