"""A view some samples at a time: what it takes is in memory in parts, and no part costs as much as the whole.

FiftyOne puts what selects a part behind the stages of a view. So a view that is sorted or limited would be sorted anew
for each of its parts: with a hundred thousand samples, thousands of times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import fiftyone.core.stages as stages
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import dataset_of, every_image, is_generated
from fiftyone_ntt.dataset.storage import in_parts, patiently, raw_values, stages_of

_AT_ONCE = 50
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
    ids = patiently(view.values, "id")
    for some in in_parts(ids, _AT_ONCE):
        yield from zip(*patiently(raw_values, part_of(view, some, ordered=True), fields), strict=True)


def selections(view: SampleCollection, ids: Sequence[Any]) -> Iterator[SampleCollection]:
    """``view.select`` of many samples, in parts: a query is a document, and a million ids are more than one takes."""
    for some in in_parts(ids):
        yield view.select(some)
