"""The samples that a run is for, by their ids: a view says other ones once a tag, a value or a field has changed.

Ids are noted in the run's state. Earlier versions noted the stages of views there.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from bson import json_util
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import REFERENCE_TAG, dataset_of, every_image
from fiftyone_ntt.dataset.storage import database_collection, stages_of, view_from_documents
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.runs.record import has_statuses, status_field

logger = logging.getLogger(__name__)

_MOST_IDS = 500_000
"""Ids that a run notes: each query for its samples names them, and MongoDB takes no command of more than 16 MB."""
_LARGEST = 3 * 2**20
"""Bytes of them, which are written together with those before them, and as text."""
_ID_BYTES = 12


@dataclass(frozen=True)
class RunSamples:
    """Samples that calls of a run were for.

    Attributes:
        ids: ids of samples.
        but: whether all images of the dataset but these are meant, those included that come to it later.
    """

    ids: frozenset[str]
    but: bool = False

    @classmethod
    def of(cls, targets: SampleCollection, whole: bool) -> RunSamples:
        """The samples of a view; of a whole dataset, those that it leaves out."""
        ids = frozenset(targets.values("id"))
        return cls(frozenset(every_image(dataset_of(targets)).values("id")) - ids, True) if whole else cls(ids)

    @classmethod
    def unpacked(cls, facts: Mapping[str, Any]) -> RunSamples:
        """What ``packed`` made."""
        packer = zlib.decompressobj()
        data = packer.decompress(facts["ids"], _MOST_IDS * _ID_BYTES)
        if not packer.eof:
            raise InputError("expected packed ids to their end, got a part of them; call segment as before")
        columns = np.frombuffer(data, np.uint8).reshape(_ID_BYTES, -1)
        return cls(frozenset(row.tobytes().hex() for row in columns.T), bool(facts["but"]))

    def packed(self) -> dict[str, Any] | None:
        """As the state keeps it, in about a byte a sample; ``None`` where these are too many.

        Sorted ids of samples that were added together differ in their last bytes: a byte's column is easily packed.
        """
        if len(self.ids) > _MOST_IDS:
            return None
        rows = np.frombuffer(b"".join(map(bytes.fromhex, sorted(self.ids))), np.uint8).reshape(-1, _ID_BYTES)
        data = zlib.compress(rows.T.tobytes())
        return {"but": self.but, "ids": data} if len(data) < _LARGEST else None

    def __or__(self, other: RunSamples) -> RunSamples:
        if self.but and other.but:
            return RunSamples(self.ids & other.ids, but=True)
        if self.but or other.but:
            whole, some = (self, other) if self.but else (other, self)
            return RunSamples(whole.ids - some.ids, but=True)
        return RunSamples(self.ids | other.ids)

    def of_dataset(self, dataset: fo.Dataset) -> SampleCollection:
        """The samples that are there now."""
        images = every_image(dataset)
        if self.but:
            return images.exclude(list(self.ids)) if self.ids else images
        return images.select(list(self.ids))


def is_whole(view: SampleCollection) -> bool:
    """Whether a view is all of a dataset. Of groups it shows a slice, which is only a part."""
    return not stages_of(view) and dataset_of(view).media_type != fo.core.media.GROUP


def noted(dataset: fo.Dataset, run_key: str, label_field: str, state: Mapping[str, Any]) -> RunSamples | None:
    """The samples that a state tells of; ``None`` where they were too many to note, or their view is no more."""
    if "samples" in state:
        with suppress(LookupError, TypeError, ValueError, zlib.error):  # damaged: nobody knows them
            return RunSamples.unpacked(state["samples"])
        return None
    samples = RunSamples(frozenset())
    for view in state.get("views", ()):
        shown = None if view is None else _of_view(dataset, view)
        if shown is None:
            return None
        samples |= shown
    return samples | _labelled(dataset, run_key, label_field)


def joined(
    dataset: fo.Dataset, run_key: str, label_field: str, state: Mapping[str, Any], asked: RunSamples
) -> RunSamples | None:
    """The samples that a state tells of, and those that are asked for now; ``None`` where these are too many.

    Where nobody knows those of before, they are those that the run has been at.
    """
    before = noted(dataset, run_key, label_field, state)
    both = asked | (_labelled(dataset, run_key, label_field) if before is None else before)
    return both if both.packed() is not None else None


def _labelled(dataset: fo.Dataset, run_key: str, label_field: str) -> RunSamples:
    """The samples whose status names a run; an index answers."""
    if not has_statuses(dataset, label_field):
        return RunSamples(frozenset())
    rows = database_collection(dataset).find({f"{status_field(label_field)}.run_key": run_key}, {"_id": 1})
    return RunSamples(frozenset(str(row["_id"]) for row in rows))


def _of_view(dataset: fo.Dataset, texts: list[str]) -> RunSamples | None:
    """What a view of an earlier version shows now; ``None`` where it cannot be loaded any more."""
    try:
        stages = [json_util.loads(text) for text in texts]
        whole = bool(stages) and dataset.media_type != fo.core.media.GROUP and all(map(_leaves_references, stages))
        view = view_from_documents(dataset, stages) if stages else every_image(dataset)
        return RunSamples.of(view, whole)
    except Exception:  # whatever FiftyOne raises where a field, a slice or a kind of stage is gone
        logger.debug("a view that a run was for cannot be loaded any more", exc_info=True)
        return None


def _leaves_references(stage: Mapping[str, Any]) -> bool:
    """Whether a stage is one of those by which the references were taken out of a dataset."""
    kind, arguments = str(stage["_cls"]).rpartition(".")[2], dict(stage["kwargs"])
    tags = arguments.get("tags")
    return kind == "Exclude" or (
        kind == "MatchTags" and arguments.get("bool") is False and tags in (REFERENCE_TAG, [REFERENCE_TAG])
    )
