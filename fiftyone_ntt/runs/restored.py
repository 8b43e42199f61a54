"""What samples hold once a run is taken back: their labels without those of the run, with those that it replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fiftyone as fo

from fiftyone_ntt.dataset.documents import single_documents
from fiftyone_ntt.dataset.labels import is_from_run, is_kept
from fiftyone_ntt.runs.history import Document


@dataclass(frozen=True)
class Restored:
    """What is to be written to some samples.

    Attributes:
        labels: sample id -> its labels without those of the run.
        stamps: sample id -> when it was changed last, of those.
        statuses: sample id -> the status that it had before.
        gone: sample id -> how many labels go.
    """

    labels: dict[str, Document | None]
    stamps: dict[str, Any]
    statuses: dict[str, Document | None]
    gone: dict[str, int]

    @classmethod
    def of(
        cls, there: Mapping[str, Document], replaced: Mapping[str, Any], name: str,
        old_statuses: Mapping[str, Document], overwrites: bool, keep_edited: bool,
    ) -> Restored:  # fmt: skip
        """From what the samples hold now, and what the pass had replaced."""
        chunk = cls({}, {}, {}, {})
        for sample_id, document in there.items():
            now = document.get(name)
            before = replaced.get(sample_id)
            chunk.statuses[sample_id] = old_statuses.get(sample_id) or (before[1] if before else None)
            if before is None and overwrites:
                continue  # the run has not come to this sample
            labels = _restored(now, before[0] if before else None, keep_edited)
            chunk.labels[sample_id], chunk.stamps[sample_id] = labels, document.get("last_modified_at")
            chunk.gone[sample_id] = len(_by_id(now).keys() - _by_id(labels).keys())
        return chunk


def _restored(now: Document | None, before: Document | None, keep_edited: bool) -> Document | None:
    """A sample's labels without those of the run, with those that it replaced."""
    there = _by_id(now)
    stay = {key: label for key, label in there.items() if not is_from_run(label) or (keep_edited and is_kept(label))}
    # What was there before and outlived the run: what a person did to it since, stays.
    current = there if keep_edited else stay
    was = _by_id(before)
    old = [current.get(key, label) for key, label in was.items()]
    for key in was:
        stay.pop(key, None)
    if not stay and all(current.get(key, label) == label for key, label in was.items()):
        return before  # as it was, whatever it was
    return {**_holder(before or now), "detections": [*old, *stay.values()]}


def _holder(value: Any) -> Document:
    """The document that holds labels: that of a field, unless something else stands there."""
    return (
        dict(value) if isinstance(value, Mapping) and value.get("_cls") == "Detections" else fo.Detections().to_dict()
    )


def _by_id(labels: Document | None) -> dict[Any, Document]:
    """The labels of a sample, by their ids; of strangers by what is in them, and several of one id by their order."""
    seen: Counter[str] = Counter()
    by_id = {}
    for label in single_documents(labels):
        key = repr(label.get("_id", label))
        by_id[key, seen[key]] = dict(label)
        seen[key] += 1
    return by_id
