"""What a run has replaced, kept sample by sample until the run is undone.

Every start of a run that overwrites is a *pass* of that run: undoing a run takes its last pass back. A pass lies in
FiftyOne's execution store of the dataset, and is deleted with the dataset. ``undo_run`` takes a labelling run back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import bson
import fiftyone as fo
from bson import json_util
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from fiftyone.core.runs import RunConfig, RunResults
from pymongo.errors import DocumentTooLarge

from fiftyone_ntt.dataset.documents import documents_of, set_documents
from fiftyone_ntt.dataset.fields import dataset_of, every_image
from fiftyone_ntt.dataset.labels import ATTRIBUTES, is_from_run, is_kept
from fiftyone_ntt.dataset.schema import declare_labels, declare_status
from fiftyone_ntt.dataset.storage import masks_folder, patiently, raw_values, remove_masks, store
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.params.base import check_arguments
from fiftyone_ntt.params.labelling import UndoParams
from fiftyone_ntt.runs.listing import list_runs
from fiftyone_ntt.runs.mending import LEARNED_STORE, forget_lost_labels, forget_statuses, has_same_scores, mask_paths
from fiftyone_ntt.runs.presence_fields import clear_presence, forget_presence
from fiftyone_ntt.runs.record import (
    PROVENANCE,
    RunRecord,
    delete_state,
    note_provenance,
    run_of_field,
    status_field,
)
from fiftyone_ntt.runs.workers import forget_claims

_FACTS, _SAMPLE, _PART, _STATUSES, _RESULTS = "facts", "sample:", "part:", "statuses:", "results"
_PART_SIZE, _MOST_PARTS = 8 * 2**20, 1024
_STATUSES_AT_ONCE, _CHUNK = 1000, 50

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
        what: ``LABELLING`` or ``LEARNING``; begun ``at``, as ISO time.
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
        data = self._get_large(_RESULTS)
        return None if data is None else RunResults.from_dict(json_util.loads(data), self.dataset, config, run_key)

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
        if parts is not None and not (isinstance(parts, int) and parts <= _MOST_PARTS):
            raise InputError(f"expected at most {_MOST_PARTS} parts of what run pass {self.number} has replaced")
        return None if parts is None else b"".join(self._store.get(f"{_PART}{key}:{i}") or b"" for i in range(parts))


def passes(dataset: fo.Dataset, run_key: str) -> Iterator[Pass]:
    """The passes of a run, the first one first."""
    number = 0
    while (run_pass := Pass(dataset, run_key, number)).exists:
        yield run_pass
        number += 1


def last_pass(dataset: fo.Dataset, run_key: str) -> Pass:
    """The pass that writes, or would be undone; it does not exist if no pass of this run was noted."""
    return next(reversed(list(passes(dataset, run_key))), Pass(dataset, run_key, 0))


def begin_pass(targets: SampleCollection, record: RunRecord, overwrite: bool, what: str = LABELLING) -> None:
    """To be called where a run starts and before it is registered; where it is resumed only without ``overwrite``.

    Notes which fields the run is about to make. Where it overwrites, keeps the statuses of the targets and clears
    them; the labels are kept by ``LabelWriter``, right before it replaces them.

    Args:
        targets: the samples to label.
        record: the run.
        overwrite: whether it may replace what is there.
        what: ``LABELLING`` or ``LEARNING``.
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
    same_scores = overwrite and has_same_scores(record, info)
    paths = [name, *(f"{name}.detections.{attribute}" for attribute in ATTRIBUTES), status]
    this = Pass(dataset, record.run_key, len(before))
    if overwrite and dataset.has_field(status):
        ids, statuses = raw_values(targets, ["id", status])
        this.keep_statuses({key: value for key, value in zip(ids, statuses, strict=True) if value is not None})
    results = dataset.load_run_results(record.run_key, cache=False) if has_record else None
    if results is not None:
        this.keep_results(results)
    this.begin(
        what=what,
        at=record.started,
        label_field=name,
        overwrites=overwrite,
        same_scores=same_scores,
        made=[path for path in paths if dataset.get_field(path) is None],
        previous=(info or {}).get(PROVENANCE),
        config=dataset.get_run_info(record.run_key).config.serialize() if has_record else None,
    )
    if overwrite and not same_scores:
        clear_presence(targets, name)
    if overwrite and dataset.has_field(status):
        targets.clear_sample_field(status)


def undo_run(dataset: fo.Dataset, run_key: str, *, keep_edited: bool = True) -> int:
    """Takes a labelling run back: its labels, mask files, image-level labels, statuses, new fields and record.

    Labels that a person has accepted or edited (tags ``ntt:accepted``, ``ntt:edited``, or another class, box or mask
    than the run wrote) stay unless told otherwise, and with them the field; labels that a person drew always stay.
    What ``overwrite=True`` replaced comes back. A run that has overwritten its own labels goes back by one such pass.
    If this is interrupted, call it again.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.
        keep_edited: leave what a person has accepted or edited.

    Returns:
        Number of labels removed.

    Raises:
        InputError: if there is no such run, if it is at work, or if another run has overwritten its labels since.
        DatabaseGoneError: if the database does not answer for minutes.
        NttError: if the database refuses to take some samples back; all others are restored.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> removed = ntt.undo_run(dataset, "ntt_ntt")  # doctest: +SKIP
    """
    check_arguments(UndoParams, keep_edited=keep_edited)
    name = patiently(_check, dataset, run_key)
    this = patiently(last_pass, dataset, run_key)
    removed = 0
    if not dataset.has_field(name):
        patiently(forget_lost_labels, dataset, name)
        if this.overwrites:  # the labels of the run are gone, those that it replaced come back
            patiently(declare_labels, dataset, name)
            patiently(declare_status, dataset, name, status_field(name))
    # Where this was interrupted, the field already says what it said before.
    owners = (None, run_key, (this.previous or {}).get("run_key"))
    if dataset.has_field(name) and run_of_field(dataset, name) in owners:
        removed, refused = _restore_samples(dataset, name, run_key, this, keep_edited)
        if refused:
            sample_id, reason = next(iter(refused.items()))
            raise NttError(
                f"run {run_key!r} is undone but for {len(refused)} samples that the database does not take back, e.g. "
                f"sample {sample_id}: {reason}; see to them, then call undo_run again"
            )
        forget_presence(dataset, name, run_key)
        patiently(store(dataset, LEARNED_STORE).delete, name)  # what learning found was found in labels that are gone
        patiently(_restore_provenance, dataset, name, run_key, this)
        patiently(_remove_fields, dataset, name, this)
    elif dataset.has_field(name):
        patiently(forget_statuses, dataset, name, run_key)  # labels of another run, in a field that was made anew since
    remove_masks(masks_folder(dataset, run_key, this.number), patiently(mask_paths, dataset, name))
    # Last of all, and in this order: as long as they are there, this can be called again.
    if this.config is not None:
        patiently(_restore_record, dataset, run_key, name, this, this.config)
        patiently(this.delete)
    else:
        patiently(this.delete)
        patiently(forget_claims, dataset, run_key)
        patiently(delete_state, dataset, run_key)
        patiently(_delete_record, dataset, run_key)
    return removed


def _check(dataset: fo.Dataset, run_key: str) -> str:
    """The run's label field; refuses what cannot be undone."""
    # A run that waits for a worker to begin it has written nothing yet.
    runs = {run["run_key"]: run for run in list_runs(dataset) if dataset.has_run(run["run_key"])}
    if run_key not in runs:
        raise InputError(f"no labelling run {run_key!r} in {dataset.name!r}; there is: {', '.join(runs) or 'none'}")
    if runs[run_key].get("workers"):  # one that was cancelled may take a second to stop
        raise InputError(f"run {run_key!r} is at work; cancel it first, see cancel_run, and wait for it to stop")
    name = str(runs[run_key]["label_field"])
    if not name:
        raise InputError(f"run {run_key!r} cannot be undone: {runs[run_key]['error']}")
    for other in (key for key, run in runs.items() if key != run_key and run["label_field"] == name):
        if any((run_pass.previous or {}).get("run_key") == run_key for run_pass in passes(dataset, other)):
            raise InputError(f"run {other!r} has overwritten labels of run {run_key!r}; undo {other!r} first")
    return name


def _restore_samples(
    dataset: fo.Dataset, name: str, run_key: str, this: Pass, keep_edited: bool
) -> tuple[int, dict[str, str]]:
    """Labels removed, and the samples that could not be restored, each with the reason."""
    status, old_statuses = status_field(name), patiently(this.statuses)
    ids = patiently(_samples, dataset, name, run_key, this, old_statuses)
    removed, refused = 0, dict[str, str]()
    for start in range(0, len(ids), _CHUNK):
        there = patiently(documents_of, dataset, ids[start : start + _CHUNK], [name])
        labels: dict[str, Document | None] = {}
        statuses: dict[str, Document | None] = {}
        for sample_id, document in there.items():
            now = document.get(name)
            before = patiently(this.kept, sample_id) if this.overwrites else None  # others have kept nothing
            statuses[sample_id] = old_statuses.get(sample_id) or (before[1] if before else None)
            if before is None and this.overwrites:
                continue  # the run has not come to this sample
            labels[sample_id] = _restored(now, before[0] if before else None, keep_edited)
            removed += len(_ids(now) - _ids(labels[sample_id]))
        refused |= _set(dataset, name, labels)
        # A status stays where the labels did: it is by the status that the next call finds the sample.
        refused |= _set(dataset, status, {key: value for key, value in statuses.items() if key not in refused})
    return removed, refused


def _samples(
    dataset: fo.Dataset, name: str, run_key: str, this: Pass, old_statuses: dict[str, Document]
) -> list[str]:  # fmt: skip
    """The samples that a pass has written, or whose status it has cleared."""
    if this.overwrites:
        return sorted({*this.sample_ids(), *old_statuses})
    status = status_field(name)
    has_labels = F(f"{name}.detections").exists() & (F(f"{name}.detections").length() > 0)
    if not dataset.has_field(status):
        return list(every_image(dataset).match(has_labels).values("id"))
    # A run that was killed between labels and statuses leaves labels without a status.
    of_this_run = (F(f"{status}.run_key") == run_key) | (has_labels & ~F(f"{status}.run_key").exists())
    return list(every_image(dataset).match(of_this_run).values("id"))


def _restored(now: Document | None, before: Document | None, keep_edited: bool) -> Document | None:
    """A sample's labels without those of the run, with those that it replaced."""
    stay = {
        label["_id"]: label
        for label in (now or {}).get("detections") or []
        if not is_from_run(label) or (keep_edited and is_kept(label))
    }
    # What was there before and outlived the run: what a person did to it since, stays.
    current = {label["_id"]: label for label in (now or {}).get("detections") or []} if keep_edited else stay
    old = [current.get(label["_id"], label) for label in (before or {}).get("detections") or []]
    for label in old:
        stay.pop(label["_id"], None)
    if not old and not stay:
        return before
    return {**(before or now or {}), "detections": [*old, *stay.values()]}


def _ids(labels: Document | None) -> set[Any]:
    return {label["_id"] for label in (labels or {}).get("detections") or []}


def _set(dataset: fo.Dataset, field: str, documents: dict[str, Document | None]) -> dict[str, str]:
    """Writes documents; returns the samples that the database refuses, each with the reason."""
    if not documents or not dataset.has_field(field):
        return {}
    try:
        patiently(set_documents, dataset, {key: {field: document} for key, document in documents.items()})
    except (ValueError, DocumentTooLarge) as error:  # FiftyOne turns what MongoDB refuses into a ValueError
        if len(documents) == 1:
            return dict.fromkeys(documents, str(error))
        return {k: reason for key in documents for k, reason in _set(dataset, field, {key: documents[key]}).items()}
    return {}


def _restore_record(dataset: fo.Dataset, run_key: str, name: str, this: Pass, facts: dict[str, Any]) -> None:
    plain = {key: value for key, value in facts.items() if key not in ("cls", "type")}
    config = dataset.init_run(**{**plain, "record": {**plain["record"], "label_field": name}})
    dataset.register_run(run_key, config, overwrite=True)
    results = this.results(config, run_key)
    if results is not None:
        dataset.save_run_results(run_key, results, cache=False)


def _delete_record(dataset: fo.Dataset, run_key: str) -> None:
    if dataset.has_run(run_key):
        dataset.delete_run(run_key)


def _restore_provenance(dataset: fo.Dataset, name: str, run_key: str, this: Pass) -> None:
    """The field names the run before; where there was none, the labels that stay are a person's now."""
    if this.previous or run_of_field(dataset, name) == run_key:
        note_provenance(dataset, name, {**this.previous, "label_field": name} if this.previous else None)


def _remove_fields(dataset: fo.Dataset, name: str, this: Pass) -> None:
    """Removes the fields that the run has made, unless something is in them."""
    status = status_field(name)
    created = [name, status]  # of runs of earlier versions, and in copies of a dataset, no pass is known
    if this.exists:  # its field may be called otherwise now
        created = [name + path.removeprefix(this.label_field or name) for path in this.made]
    if name in created and not every_image(dataset).count(f"{name}.detections"):
        dataset.delete_sample_field(name)
    else:
        for path in (f"{name}.detections.{attribute}" for attribute in ATTRIBUTES):
            if path in created and dataset.get_field(path) is not None and not every_image(dataset).count(path):
                dataset.delete_sample_field(path)
    if status in created and dataset.has_field(status) and not every_image(dataset).count(f"{status}.run_key"):
        dataset.delete_sample_field(status)  # and its index
