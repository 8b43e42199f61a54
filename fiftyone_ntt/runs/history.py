"""What a run has replaced, kept sample by sample until the run is undone.

Every start of a run that overwrites is a *pass* of that run: undoing a run takes its last pass back. A pass lies in
FiftyOne's execution store of the dataset, and is deleted with the dataset. ``undo_run`` (``runs/undo.py``) reads it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import Any

import bson
import fiftyone as fo
from bson import ObjectId, json_util
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from fiftyone.core.runs import RunConfig, RunResults

from fiftyone_ntt.dataset.documents import single_documents, stamp_of_now
from fiftyone_ntt.dataset.fields import dataset_of, every_image, has_labels
from fiftyone_ntt.dataset.labels import ATTRIBUTES, is_from_run, is_touched
from fiftyone_ntt.dataset.storage import JsonStore, raw_values, store
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.runs.mending import has_same_scores
from fiftyone_ntt.runs.presence_fields import clear_presence
from fiftyone_ntt.runs.record import PROVENANCE, RunRecord, has_statuses, provenance_of, run_of_field, status_field
from fiftyone_ntt.runs.run_samples import RunSamples
from fiftyone_ntt.runs.states import RUNNING, change_state

logger = logging.getLogger(__name__)

_FACTS, _SAMPLE, _PART, _STATUSES, _RESULTS, _TOLD, _BANK, _ALLOWED = (
    "facts", "sample:", "part:", "statuses:", "results", "told", "bank", "allowed",
)  # fmt: skip
_PART_SIZE, _MOST_PARTS = 8 * 2**20, 1024
_STATUSES_AT_ONCE = 1000

LABELLING, LEARNING = "labelling", "learning"  # what a pass can be for
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
        same_scores: whether what it replaces has the scores that it gives: only which labels are written is different.
        label_field: the field that it wrote, as it was called then.
        made: fields that were not there before it.
        previous: what the label field's ``info`` said of its labels before.
        config: the run's own record before; ``None`` unless it has run before.
        bank: name of the memory bank that only this pass has kept with the dataset, of the content ``bank_hash``.
        what: ``LABELLING`` or ``LEARNING``; begun ``at``, as ISO time; ``told``: what its report said, in one line.
        begun: the same in seconds, as exactly as is known: what tells which of two runs wrote over the other.
    """

    def __init__(self, dataset: fo.Dataset, run_key: str, number: int) -> None:
        self.dataset = dataset
        self._store = store(dataset, f"ntt_replaced_{number}_{run_key}")
        self.number = number
        facts = self._store.get(_FACTS)
        self.exists = facts is not None
        noted = json.loads(facts["json"]) if facts else {}
        self.overwrites = bool(noted.get("overwrites"))
        self.same_scores = bool(noted.get("same_scores"))
        self.label_field: str | None = noted.get("label_field")
        self.made: list[str] = noted.get("made", [])
        self.previous: dict[str, Any] | None = noted.get("previous")
        self.config: dict[str, Any] | None = noted.get("config")
        self.what, self.at = str(noted.get("what") or LABELLING), noted.get("at")
        self.begun = float(noted.get("begun") or _seconds(self.at))
        self.told = str(self._store.get(_TOLD) or "")
        self.bank, self.bank_hash = map(str, self._store.get(_BANK) or ("", ""))

    def begin(self, **facts: Any) -> None:
        """Notes the facts of the pass; from now on it exists."""
        self._store.set(_FACTS, {"json": json.dumps(facts)})

    def tell(self, text: str) -> None:
        """Notes what a report said that the pass changed: whoever takes it back says the same."""
        self._store.set(_TOLD, text)

    def name_bank(self, name: str, content_hash: str) -> None:
        """Notes a memory bank that was made for this pass alone: it goes when the pass is taken back."""
        self._store.set(_BANK, [name, content_hash])

    def allow(self, samples: RunSamples) -> None:
        """Notes of which samples a later call, too, may replace what is in them now, which no run wrote."""
        self._store.set(_ALLOWED, {"samples": samples.packed(), "since": stamp_of_now().isoformat()})

    def drawings(self, sample_id: str, labels: Document | None, stamp: Any, asked: bool) -> list[Document]:
        """What a person drew in a sample that the pass leaves there.

        In a field that a run wrote, that was drawn in its review: all of it. What was there before any run goes, in a
        call that is to overwrite; a later one only goes on with that, and leaves what was drawn since.

        Args:
            sample_id: id of the sample.
            labels: what it holds.
            stamp: when it was changed last.
            asked: whether the call that writes is to overwrite.
        """
        drawn = _drawn(labels)
        if not drawn or not self.overwrites or self.previous is not None:
            return drawn
        if asked:
            return []
        if (before := self.kept([sample_id]).get(sample_id)) is not None:
            return [label for label in drawn if label not in single_documents(before[0])]
        ids, since = self._allowed
        return [] if sample_id in ids and stamp is not None and stamp <= since else drawn

    @cached_property
    def _allowed(self) -> tuple[frozenset[str], datetime]:
        """What ``allow`` got, and when."""
        noted = self._store.get(_ALLOWED) or {}
        if not noted.get("samples"):  # they were too many to note, or an earlier version began the pass
            return frozenset(), datetime.min
        return RunSamples.unpacked(noted["samples"]).ids, datetime.fromisoformat(noted["since"])

    def keep(
        self, sample_id: str, labels: Document | None, status: Document | None, drawings: Sequence[Document] = ()
    ) -> None:
        """Keeps what a sample holds, before it is written.

        Only the first call sees the old labels; a later one adds what a person drew since, where that is replaced too.

        Args:
            sample_id: id of the sample.
            labels: its labels.
            status: its status.
            drawings: see there; what stays need not come back.
        """
        if not self._store.has(_SAMPLE + sample_id):
            if self.previous is None and drawings:
                rest = [label for label in single_documents(labels) if label not in drawings]
                labels = {**(labels or {}), "detections": rest}
            self._set_large(_SAMPLE + sample_id, bson.encode({"labels": labels, "status": status}))
        elif self.previous is None:
            before, old_status = self.kept([sample_id])[sample_id]
            old = single_documents(before)
            new = [label for label in _drawn(labels) if label not in old and label not in drawings]
            if new:
                ids = [label.get("_id") for label in new]
                both = [*(label for label in old if label.get("_id") not in ids), *new]
                document = {"labels": {**(labels or {}), "detections": both}, "status": old_status}
                self._set_large(_SAMPLE + sample_id, bson.encode(document))

    def kept(
        self, sample_ids: Sequence[str], unreadable: dict[str, str] | None = None
    ) -> dict[str, tuple[Document | None, Document | None]]:
        """Sample id -> the labels and the status that ``keep`` got, of those whose labels were replaced.

        Args:
            sample_ids: the samples.
            unreadable: gets the samples of which that cannot be read, each with a sentence; they raise NttError where
                it is left out.
        """
        kept = {}
        for key, data in self._get_large([_SAMPLE + sample_id for sample_id in sample_ids]).items():
            sample_id = key.removeprefix(_SAMPLE)
            try:
                document = bson.decode(data)
                kept[sample_id] = document["labels"], document["status"]
            except Exception as error:  # whatever bytes may be there
                text = f"what was replaced in sample {sample_id} cannot be read ({type(error).__name__}): it stays"
                if unreadable is None:
                    raise NttError(text) from error
                unreadable[sample_id] = text
        return kept

    def keep_statuses(self, statuses: dict[str, Document]) -> None:
        """Keeps the statuses of samples whose labels may be replaced later."""
        items = list(statuses.items())
        for start in range(0, len(items), _STATUSES_AT_ONCE):
            some = dict(items[start : start + _STATUSES_AT_ONCE])
            self._store.set(f"{_STATUSES}{start}", bson.encode(some))

    def statuses(self) -> dict[str, Document]:
        """What ``keep_statuses`` got: sample id -> status."""
        statuses: dict[str, Document] = {}
        for key in self._store.list_keys():
            if key.startswith(_STATUSES):
                statuses.update(bson.decode(self._store.get(key) or b""))
        return statuses

    def keep_results(self, results: RunResults) -> None:
        """Keeps the results that lie with the run's record: its memory bank."""
        self._set_large(_RESULTS, json_util.dumps(results.serialize()).encode())

    def results(self, config: RunConfig, run_key: str) -> RunResults | None:
        """What ``keep_results`` got, for the record of ``config``."""
        data = self._get_large([_RESULTS]).get(_RESULTS)
        return None if data is None else RunResults.from_dict(json_util.loads(data), self.dataset, config, run_key)

    def sample_ids(self) -> list[str]:
        """The samples that were written in this pass."""
        keys = self._store.list_keys()
        return [key.removeprefix(_SAMPLE) for key in keys if key.startswith(_SAMPLE)]

    def delete(self) -> None:
        """Forgets the pass."""
        self._store.clear()

    def _set_large(self, key: str, data: bytes) -> None:
        set_large(self._store, key, data)

    def _get_large(self, keys: Sequence[str]) -> dict[str, bytes]:
        return get_large(self._store, keys)


def set_large(kept: JsonStore, key: str, data: bytes) -> None:
    """In parts: a copy of a document with its envelope could be larger than MongoDB takes. The key comes last.

    Parts have new names each time: whoever is killed here leaves what was there before.
    """
    starts = range(0, len(data), _PART_SIZE)
    new, old = {"of": str(ObjectId()), "parts": len(starts)}, kept.get(key)
    names = _part_names(key, new)
    if names is None:
        raise InputError(f"expected at most {_MOST_PARTS} parts of what is replaced, got {len(starts)}")
    for name, start in zip(names, starts, strict=True):
        kept.set(name, data[start : start + _PART_SIZE])
    kept.set(key, new)
    for name in _part_names(key, old) or ():
        kept.delete(name)


def get_large(kept: JsonStore, keys: Sequence[str]) -> dict[str, bytes]:
    """What lies under some keys; asks the database twice, however many they are."""
    names = {key: _part_names(key, noted) for key, noted in kept.get_many(keys).items()}
    if not all(each is not None for each in names.values()):
        raise InputError(f"expected at most {_MOST_PARTS} parts of what was replaced in {kept.store_name!r}")
    parts = kept.get_many([name for each in names.values() for name in each or ()])
    return {key: b"".join(parts.get(name) or b"" for name in each or ()) for key, each in names.items()}


def delete_large(kept: JsonStore, key: str) -> None:
    """Forgets what ``set_large`` kept under a key, with the parts of writes that were interrupted."""
    kept.delete(key)
    kept.delete_below(f"{_PART}{key}:")


def _part_names(key: str, noted: Any) -> list[str] | None:
    """Where the parts lie of what is noted under a key; ``None`` where nothing of ours is. 0.1.0 noted their number."""
    of, count = (noted.get("of"), noted.get("parts")) if isinstance(noted, dict) else ("", noted)
    if not isinstance(count, int) or not 0 <= count <= _MOST_PARTS:
        return None
    return [f"{_PART}{key}:{of}:{i}" if of else f"{_PART}{key}:{i}" for i in range(count)]


def _drawn(labels: Document | None) -> list[Document]:
    """The labels of a sample that no run wrote, and that nobody has decided on."""
    return [label for label in single_documents(labels) if not (is_from_run(label) or is_touched(label))]


def _seconds(at: str | None) -> float:
    """An ISO time in seconds; 0 where there is none."""
    try:
        return datetime.fromisoformat(at or "").timestamp()
    except ValueError:
        return 0.0


def passes(dataset: fo.Dataset, run_key: str) -> Iterator[Pass]:
    """The passes of a run, the first one first."""
    number = 0
    while (run_pass := Pass(dataset, run_key, number)).exists:
        yield run_pass
        number += 1


def last_pass(dataset: fo.Dataset, run_key: str) -> Pass:
    """The pass that writes, or would be undone; it does not exist if no pass of this run was noted."""
    return next(reversed(list(passes(dataset, run_key))), Pass(dataset, run_key, 0))


def kept_bank(dataset: fo.Dataset, run_key: str) -> MemoryBank | None:
    """The memory bank of a run; of one that was stopped before that was kept, the bank of its pass before.

    ``None`` where neither can be read: a bank of the references alone still labels.
    """
    # Late: banks bring torch, and whoever lists runs needs none.
    from fiftyone_ntt.references.banks import bank_of_results, bank_of_run

    config = dataset.get_run_info(run_key).config
    with suppress(InputError):
        return bank_of_run(dataset, run_key)
    with suppress(InputError):
        results = last_pass(dataset, run_key).results(config, run_key)
        if results is not None:
            return bank_of_results(results, run_key)
    logger.warning("the memory bank of run %r cannot be read: what it had learned from a review is not used", run_key)
    return None


def begin_pass(
    targets: SampleCollection,
    record: RunRecord,
    overwrite: bool,
    what: str = LABELLING,
    *,
    other_settings: bool = False,
) -> None:
    """To be called where a run starts and before it is registered; where it is resumed only without ``overwrite``.

    Notes which fields the run is about to make. Where it overwrites, keeps the statuses of the targets and clears
    them; the labels are kept by ``LabelWriter``, right before it replaces them.

    Args:
        targets: the samples to label.
        record: the run.
        overwrite: whether it may replace what is there.
        what: ``LABELLING`` or ``LEARNING``.
        other_settings: whether a run of this key is there that would have labelled otherwise: then none of the samples
            that it has been at is done, whether it is among the targets or not.
    """
    dataset, name, status = dataset_of(targets), record.label_field, status_field(record.label_field)
    before = list(passes(dataset, record.run_key))
    # A run that goes on stays in the pass that it has begun, also where that is not known, as in a copy of its dataset;
    # only an overwriting one begins another.
    if not overwrite and (before or run_of_field(dataset, name) == record.run_key):
        return
    info = dataset.get_field(name).info if dataset.has_field(name) else None
    has_record = dataset.has_field(name) and dataset.has_run(record.run_key)
    overwrite = (
        overwrite
        and dataset.has_field(name)
        and bool(PROVENANCE in (info or {}) or every_image(dataset).count(f"{name}.detections"))
    )
    same_scores = overwrite and has_same_scores(record, provenance_of(dataset, name))
    paths = [name, *(f"{name}.detections.{attribute}" for attribute in ATTRIBUTES), status]
    this = Pass(dataset, record.run_key, len(before))
    cleared = [targets] if overwrite and has_statuses(dataset, name) else []
    if cleared and other_settings:
        cleared.append(every_image(dataset).match(F(f"{status}.run_key") == record.run_key))
    kept: dict[str, Document] = {}
    for samples in cleared:
        rows = zip(*raw_values(samples, ["id", status]), strict=True)
        kept |= {str(sample_id): value for sample_id, value in rows if value is not None}
    this.keep_statuses(kept)
    results = dataset.load_run_results(record.run_key, cache=False) if has_record else None
    if results is not None:
        this.keep_results(results)
    this.begin(
        what=what,
        at=record.started,
        begun=time.time(),
        label_field=name,
        overwrites=overwrite,
        same_scores=same_scores,
        made=[path for path in paths if dataset.get_field(path) is None],
        previous=provenance_of(dataset, name) or None,
        config=dataset.get_run_info(record.run_key).config.serialize() if has_record else None,
    )
    if overwrite and not same_scores:
        clear_presence(targets, name)
    if cleared:  # from here on the run is not through, whenever this process ends
        change_state(dataset, record.run_key, lambda state: {**state, "state": RUNNING} if state else None)
    for samples in cleared:
        samples.clear_sample_field(status)
    if overwrite and this.previous is None:  # after all that changes the samples here
        this.allow(RunSamples.of(targets.match(has_labels(dataset, name)), whole=False))
