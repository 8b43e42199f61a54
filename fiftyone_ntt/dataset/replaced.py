"""What a run has replaced, kept sample by sample until the run is undone.

Every start of a run that overwrites is a *pass* of that run: undoing a run takes its last pass back. A pass lies in
FiftyOne's execution store of the dataset, and is deleted with the dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import bson
import fiftyone as fo
from bson import json_util
from fiftyone.core.collections import SampleCollection
from fiftyone.core.runs import RunConfig, RunResults
from fiftyone.operators import ExecutionStore

from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.dataset.labels import ATTRIBUTES
from fiftyone_ntt.dataset.runs import PROVENANCE, RunRecord, status_field
from fiftyone_ntt.dataset.verdict_fields import clear_verdicts

_FACTS, _SAMPLE, _PART, _STATUSES, _RESULTS = "facts", "sample:", "part:", "statuses:", "results"
_PART_SIZE = 8 * 2**20
_STATUSES_AT_ONCE = 1000

Document = dict[str, Any]
"""Labels or a status as the database holds them."""


class Pass:
    """One pass of a run, and what it has replaced.

    Args:
        dataset: the dataset.
        run_key: key of the run.
        number: 0 for its first pass.

    Attributes:
        number: see above.
        exists: whether the pass has begun.
        overwrites: whether it may replace what is there.
        made: fields that were not there before it.
        previous: what the label field's ``info`` said of its labels before.
        config: the run's own record before; ``None`` unless it has run before.
    """

    def __init__(self, dataset: fo.Dataset, run_key: str, number: int) -> None:
        self._dataset = dataset
        self._store = ExecutionStore.create(f"ntt_replaced_{number}_{run_key}", dataset_id=dataset._doc.id)
        self.number = number
        facts = self._store.get(_FACTS)
        self.exists = facts is not None
        known = json.loads(facts["json"]) if facts else {}
        self.overwrites = bool(known.get("overwrites"))
        self.made: list[str] = known.get("made", [])
        self.previous: dict[str, Any] | None = known.get("previous")
        self.config: dict[str, Any] | None = known.get("config")

    def begin(self, **facts: Any) -> None:
        """Notes the facts of the pass; from now on it exists."""
        self._store.set(_FACTS, {"json": json.dumps(facts)})

    def keep(self, sample_id: str, labels: Document | None, status: Document | None) -> None:
        """Keeps what a sample holds, unless that was done before: only the first call sees the old labels."""
        if not self._store.has(_SAMPLE + sample_id):
            self._set_large(_SAMPLE + sample_id, bson.encode({"labels": labels, "status": status}))

    def kept(self, sample_id: str) -> tuple[Document | None, Document | None] | None:
        """The labels and the status that ``keep`` got; ``None`` if the sample's labels were not replaced."""
        data = self._get_large(_SAMPLE + sample_id)
        if data is None:
            return None
        documents = bson.decode(data)
        return documents["labels"], documents["status"]

    def keep_statuses(self, statuses: dict[str, Document]) -> None:
        """Keeps the statuses of samples whose labels may be replaced later."""
        items = list(statuses.items())
        for start in range(0, len(items), _STATUSES_AT_ONCE):
            some = dict(items[start : start + _STATUSES_AT_ONCE])
            self._store.set(f"{_STATUSES}{start}", bson.encode(some))

    def statuses(self) -> dict[str, Document]:
        """What ``keep_statuses`` got: sample id -> status."""
        found: dict[str, Document] = {}
        for key in self._store.list_keys():
            if key.startswith(_STATUSES):
                found.update(bson.decode(self._store.get(key) or b""))
        return found

    def keep_results(self, results: RunResults) -> None:
        """Keeps the results that lie with the run's record: its memory bank."""
        self._set_large(_RESULTS, json_util.dumps(results.serialize()).encode())

    def results(self, config: RunConfig, run_key: str) -> RunResults | None:
        """What ``keep_results`` got, for the record of ``config``."""
        data = self._get_large(_RESULTS)
        return None if data is None else RunResults.from_dict(json_util.loads(data), self._dataset, config, run_key)

    def sample_ids(self) -> list[str]:
        """The samples that were written in this pass."""
        keys = self._store.list_keys()
        return [key.removeprefix(_SAMPLE) for key in keys if key.startswith(_SAMPLE)]

    def delete(self) -> None:
        """Forgets the pass."""
        self._store.clear()

    def _set_large(self, key: str, data: bytes) -> None:
        """In parts: a copy of a document with its envelope could be larger than MongoDB takes. The key comes last."""
        parts = range(0, len(data), _PART_SIZE)
        for i, start in enumerate(parts):
            self._store.set(f"{_PART}{key}:{i}", data[start : start + _PART_SIZE])
        self._store.set(key, len(parts))

    def _get_large(self, key: str) -> bytes | None:
        parts = self._store.get(key)
        return None if parts is None else b"".join(self._store.get(f"{_PART}{key}:{i}") or b"" for i in range(parts))


def passes(dataset: fo.Dataset, run_key: str) -> Iterator[Pass]:
    """The passes of a run, the first one first."""
    number = 0
    while (one := Pass(dataset, run_key, number)).exists:
        yield one
        number += 1


def last_pass(dataset: fo.Dataset, run_key: str) -> Pass:
    """The pass that writes, or would be undone; it does not exist if no pass of this run was noted."""
    return next(reversed(list(passes(dataset, run_key))), Pass(dataset, run_key, 0))


def begin_pass(targets: SampleCollection, record: RunRecord, overwrite: bool) -> None:
    """To be called where a run starts and before it is registered; where it is resumed only without ``overwrite``.

    Notes which fields the run is about to make. Where it overwrites, keeps the statuses of the targets and clears
    them; the labels are kept by ``LabelWriter``, right before it replaces them.

    Args:
        targets: the samples to label.
        record: the run.
        overwrite: whether it may replace what is there.
    """
    dataset, name, status = targets._dataset, record.label_field, status_field(record.label_field)
    before = list(passes(dataset, record.run_key))
    if before and not overwrite:
        return
    info = dataset.get_field(name).info if dataset.has_field(name) else None
    known = dataset.has_run(record.run_key)
    overwrite = (
        overwrite
        and dataset.has_field(name)
        and bool(PROVENANCE in (info or {}) or every_image(dataset).count(f"{name}.detections"))
    )
    paths = [name, *(f"{name}.detections.{attribute}" for attribute in ATTRIBUTES), status]
    this = Pass(dataset, record.run_key, len(before))
    if overwrite and dataset.has_field(status):
        ids, statuses = targets.values(["id", status], _raw=True)
        this.keep_statuses({key: value for key, value in zip(ids, statuses, strict=True) if value is not None})
    results = dataset.load_run_results(record.run_key, cache=False) if known else None
    if results is not None:
        this.keep_results(results)
    this.begin(
        label_field=name,
        overwrites=overwrite,
        made=[path for path in paths if dataset.get_field(path) is None],
        previous=(info or {}).get(PROVENANCE),
        config=dataset.get_run_info(record.run_key).config.serialize() if known else None,
    )
    if overwrite:
        clear_verdicts(targets, name)
    if overwrite and dataset.has_field(status):
        targets.clear_sample_field(status)


def forget_replaced(dataset: fo.Dataset, run_key: str) -> None:
    """Gives up what a run has replaced: its labels can then only be removed, and disk space is freed.

    Args:
        dataset: the dataset.
        run_key: key of the run.
    """
    before = list(passes(dataset, run_key))
    made = [path for one in before for path in one.made]
    for one in reversed(before):
        one.delete()
    if before:
        Pass(dataset, run_key, 0).begin(overwrites=False, made=made, previous=None, config=None)
