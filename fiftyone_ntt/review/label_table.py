"""The table behind counts, histograms and rankings: a few numbers of every label of a field, kept in memory.

A question to the database reads every document, masks and all. So what review asks of a label (class, scores, decision)
is read once, in a thread, into rows of a few bytes, and brought up to date by what has changed since.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import Document, class_of, single_documents, tags_of
from fiftyone_ntt.dataset.fields import (
    EDITED_TAG,
    NO_CLASS,
    check_detections_field,
    dataset_of,
    is_generated,
    label_root,
)
from fiftyone_ntt.dataset.labels import is_edited, is_from_run
from fiftyone_ntt.dataset.storage import database_collection, dataset_id, patiently
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.review.label_rows import BINS as BINS  # of the histograms below
from fiftyone_ntt.review.label_rows import (
    DECISIONS,
    EDITED,
    ROW,
    SCORES,
    TAIL,
    UNDECIDED,
    Columns,
    Rows,
    decision_of,
    decisions,
    number_or,
)
from fiftyone_ntt.runs.applied_thresholds import parting
from fiftyone_ntt.runs.record import provenance_of, run_of_field

logger = logging.getLogger(__name__)

_LOOKS = 4
"""What changes while it is read is read again, but not for ever: a run may go on writing."""
_BATCH = 100  # decoding holds Python's lock: small batches let other threads answer in between
_TABLES_KEPT, _MOST_DATES = 4, 100_000
_LATE = timedelta(minutes=2)
"""A bulk write stamps its samples when it begins: the last of them may come that much after a later-looking one."""


class LabelTable:
    """Reads the labels of a field, and later those that changed, in a thread.

    Args:
        dataset: the dataset.
        label_field: a field of detections.
    """

    def __init__(self, dataset: fo.Dataset, label_field: str) -> None:
        self._samples, self._field = database_collection(dataset), label_field
        self._root = label_root(dataset, label_field)[0] if dataset.has_field(label_field) else label_field
        self._classes_of_run = tuple(provenance_of(dataset, label_field).get("classes") or ())
        self.of_run = run_of_field(dataset, label_field) is not None
        """Whether a run wrote the field: what no run wrote there, a person drew."""
        self._blocks: dict[ObjectId, Rows] = {}
        self._order: dict[ObjectId, int] = {}
        self._classes: dict[str, int] = {}
        self._stamps: dict[ObjectId, datetime | None] = {}
        self._latest: datetime | None = None
        self._joined: Rows | None = None
        self._columns: Columns | None = None
        self._version = 0
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self.loaded = False
        """Whether every label has been read once."""

    @property
    def classes(self) -> list[str]:
        """Names; ``rows["class"]`` indexes them."""
        return list(self._classes)

    @property
    def named_classes(self) -> list[str]:
        """The same without ``NO_CLASS``."""
        return [name for name in self._classes if name != NO_CLASS]

    @property
    def sample_ids(self) -> list[ObjectId]:
        """Ids; ``rows["sample"]`` indexes them."""
        return list(self._order)

    @property
    def rows(self) -> Rows:
        """One row a label. Decisions on them go on being taken over; labels that come or go make other rows."""
        with self._lock:
            if self._joined is None:
                self._joined = np.concatenate(list(self._blocks.values())) if self._blocks else np.empty(0, ROW)
                # From now on the blocks are parts of that: what changes in one need not be joined again.
                ends = np.cumsum([len(block) for block in self._blocks.values()]).tolist()
                for sample_id, end in zip(self._blocks, ends, strict=True):
                    self._blocks[sample_id] = self._joined[end - len(self._blocks[sample_id]) : end]
            return self._joined

    @property
    def columns(self) -> Columns:
        """What is counted of the rows."""
        version, rows = self._version, self.rows
        if self._columns is None or self._columns.version != version:
            self._columns = Columns.of(rows, len(self._classes), version)
        return self._columns

    def samples_with(self, labels: Iterable[ObjectId]) -> list[ObjectId] | None:
        """The samples that hold these labels; ``None`` where some are not in the table."""
        wanted = {label.binary for label in labels}
        rows = self.rows
        tails = np.array([int.from_bytes(label[8:], "little") for label in wanted], np.uint32)
        alike = rows[np.isin(rows.view(TAIL)["tail"], tails)]
        pairs = zip(alike["label"].tolist(), alike["sample"].tolist(), strict=True)
        there = [(label, number) for label, number in pairs if label in wanted]
        if len({label for label, _ in there}) < len(wanted):
            return None
        ids = self.sample_ids
        return [ids[number] for number in {number for _, number in there}]

    def edited(self) -> list[ObjectId]:
        """The labels that a person drew or edited, and neither accepted nor rejected."""
        rows = self.rows
        return [ObjectId(label) for label in rows["label"][decisions(rows) == EDITED].tolist()]

    def class_index(self, name: str) -> int:
        """The number of a class; -1 where no label has it."""
        return self._classes.get(name, -1)

    def refresh(self, wait: float | None) -> bool:
        """Reads what is new or has changed.

        Args:
            wait: seconds to wait for it; what is not read by then goes on being read. ``None`` waits until it is.

        Returns:
            Whether the table is up to date.
        """
        thread = self._thread
        if thread is None or not thread.is_alive():
            thread = self._thread = threading.Thread(target=self._read_safely, name="ntt-labels", daemon=True)
            thread.start()
        thread.join(wait)
        return not thread.is_alive()

    def refreshed(self) -> LabelTable:
        """The table, up to date.

        Raises:
            DatabaseGoneError: if the database does not answer for minutes.
        """
        patiently(self._read)
        return self

    def note(self, labels: Mapping[ObjectId, list[ObjectId]], tag: str | None) -> None:
        """Takes over tags that were just written, so that these samples need not be read again."""
        if not self.loaded or not labels:
            return
        document = self._samples.find_one({"_id": next(iter(labels))}, {"last_modified_at": 1})
        code = decision_of({tag})
        with self._lock:
            for sample_id, ids in labels.items():
                block = self._blocks.get(sample_id)
                if block is None:
                    continue
                chosen = {label_id.binary for label_id in ids}
                block["tagged"][[label in chosen for label in block["label"].tolist()]] = code
                if document:
                    self._stamps[sample_id] = document["last_modified_at"]
            self._version += 1

    def _read_safely(self) -> None:
        try:
            self._read()
        except Exception as error:  # the next refresh tries again
            logger.warning("labels of %r could not be read: %s", self._field, error)

    def _read(self) -> None:
        with self._reading:
            if not self.loaded:
                self._read_documents({})
            for _ in range(_LOOKS if self.loaded else 0):
                for query in (queries := self._changed()):
                    self._read_documents(query)
                if not queries:
                    break
            if len(self._blocks) > self._samples.estimated_document_count():
                self._forget_deleted()
            self._latest = max(filter(None, self._stamps.values()), default=None)
            self.loaded = True

    def _changed(self) -> list[dict[str, Any]]:
        """Queries for the samples that were written since they were read, in batches.

        The index on dates answers how many samples have which; no document is looked at where none has changed. Dates
        of the last minutes are compared one by one, so a change is seen as one sample more of some date.
        """
        latest, since = self._latest, dict[str, Any]()
        if latest is not None:  # it may be of a clock that ran ahead
            now = datetime.now(timezone.utc).replace(tzinfo=timezone.utc if latest.tzinfo else None)
            since = {"last_modified_at": {"$gt": min(latest, now) - _LATE}}
        grouped = {"_id": "$last_modified_at", "samples": {"$sum": 1}}
        counts: list[dict[str, Any]] = [{"$match": since}, {"$group": grouped}]
        known = Counter(self._stamps.values())
        dates = [
            row["_id"]
            for row in self._samples.aggregate(counts, batchSize=_MOST_DATES)
            if row["samples"] > known[row["_id"]]
        ]
        ids: list[ObjectId] = []
        for start in range(0, len(dates), _BATCH):
            some = {"last_modified_at": {"$in": dates[start : start + _BATCH]}}
            stamps = self._samples.find(some, {"last_modified_at": 1})
            ids += [one["_id"] for one in stamps if self._stamps.get(one["_id"], self) != one.get("last_modified_at")]
        return [{"_id": {"$in": ids[start : start + _BATCH]}} for start in range(0, len(ids), _BATCH)]

    def _read_documents(self, query: dict[str, Any]) -> None:
        wanted = {self._root: 1, "last_modified_at": 1}
        for document in self._samples.find(query, wanted, batch_size=_BATCH):
            labels = single_documents(document.get(self._field))
            self._put(document["_id"], [label for label in labels if isinstance(label.get("_id"), ObjectId)])
            self._stamps[document["_id"]] = document.get("last_modified_at")

    def _put(self, sample_id: ObjectId, labels: list[Document]) -> None:
        number = self._order.setdefault(sample_id, len(self._order))
        rows = np.array([self._row(number, label) for label in labels], ROW)
        with self._lock:
            block = self._blocks.get(sample_id)
            if block is not None and len(block) == len(rows) and self._joined is not None:
                block[:] = rows
            else:
                self._blocks[sample_id] = rows
                self._joined = None
            self._version += 1

    def _row(self, number: int, label: Document) -> tuple[Any, ...]:
        name, tags = class_of(label) or NO_CLASS, tags_of(label)
        return (
            label["_id"].binary,
            number,
            self._classes.setdefault(name, len(self._classes)),
            number_or(label.get("confidence"), 0.0),
            *(number_or(label.get(key), np.nan) for key in SCORES),
            decision_of(tags),
            EDITED_TAG in tags or (self.of_run and not is_from_run(label)) or is_edited(label, self._classes_of_run),
        )

    def _forget_deleted(self) -> None:
        there = {document["_id"] for document in self._samples.find({}, {"_id": 1})}
        with self._lock:
            self._blocks = {key: block for key, block in self._blocks.items() if key in there}
            self._stamps = {key: stamp for key, stamp in self._stamps.items() if key in there}
            self._joined = None
            self._version += 1


_tables: dict[tuple[Any, str], LabelTable] = {}
_tables_lock = threading.Lock()


def table_of(dataset: fo.Dataset, label_field: str) -> LabelTable:
    """The table of a field; it is made on the first call and read on its first ``refresh``. Safe in any thread."""
    key = (dataset_id(dataset), label_field)
    with _tables_lock:
        table = _tables.pop(key, None)
        if table is None or table.of_run != (run_of_field(dataset, label_field) is not None):
            table = LabelTable(dataset, label_field)
        _tables[key] = table
        while len(_tables) > _TABLES_KEPT:
            del _tables[next(iter(_tables))]
    return table


@dataclass(frozen=True)
class ClassScores:
    """What is known of the labels of one class.

    Attributes:
        name: the class.
        labels: how many there are.
        above: how many of them have a confidence above the threshold.
        accepted: how many a person accepted,
        rejected: rejected,
        edited: edited or drawn, and neither accepted nor rejected,
        drawn: of those, what has no score: it says nothing of a score threshold,
        undecided: did nothing to,
        undecided_above: and how many of those have a confidence above the threshold.
        histogram: labels in each of ``BINS`` equal parts of 0..1, by confidence.
    """

    name: str
    labels: int
    above: int
    accepted: int
    rejected: int
    edited: int
    drawn: int
    undecided: int
    undecided_above: int
    histogram: tuple[int, ...]

    @property
    def decided(self) -> int:
        """How many of them a person has decided on, one way or the other."""
        return self.accepted + self.rejected + self.edited


def summarise_scores(dataset: fo.Dataset, label_field: str = "ntt", *, threshold: float = 0.5) -> list[ClassScores]:
    """Counts and histogram of every class in a field, the most frequent class first.

    Args:
        dataset: the dataset.
        label_field: field of the labels.
        threshold: what ``above`` counts from.

    Raises:
        InputError: if there is no such field, or the threshold is none.
        WrongTypeError: if the field holds no detections.
    """
    check_detections_field(dataset, label_field)
    if not 0 <= threshold <= 1:
        raise InputError(f"expected a threshold between 0 and 1, got {threshold!r}")
    return scores_of(table_of(dataset, label_field).refreshed(), threshold)


def scores_of(table: LabelTable, threshold: float) -> list[ClassScores]:
    """The same from a table."""
    columns, count = table.columns, len(table.columns.histograms)
    # [classes, decision, above the threshold or not] labels, counted at once
    key = (columns.classes * len(DECISIONS) + columns.decided) * 2 + (columns.confidence > threshold)
    counts = np.bincount(key, minlength=count * len(DECISIONS) * 2).reshape(count, len(DECISIONS), 2)
    everything, above = counts.sum(axis=(1, 2)), counts[:, :, 1].sum(axis=1)
    undecided, accepted, rejected, edited = (counts[:, code].sum(axis=1) for code in DECISIONS)
    undecided_above = counts[:, UNDECIDED, 1]
    drawn = np.bincount(columns.classes[(columns.decided == EDITED) & (columns.confidence <= 0)], minlength=count)
    entries = [
        ClassScores(
            name=name,
            labels=int(everything[i]),
            above=int(above[i]),
            accepted=int(accepted[i]),
            rejected=int(rejected[i]),
            edited=int(edited[i]),
            drawn=int(drawn[i]),
            undecided=int(undecided[i]),
            undecided_above=int(undecided_above[i]),
            histogram=tuple(columns.histograms[i].tolist()),
        )
        for i, name in enumerate(table.classes[:count])
        if everything[i]
    ]
    return sorted(entries, key=lambda entry: (-entry.labels, entry.name))


def suggest_threshold(table: LabelTable, name: str | None = None) -> float:
    """Where the scores (of one class, or all) fall apart into two groups best (Otsu's method); 0.5 without labels."""
    scores = table.rows["confidence"]
    if name is not None:
        scores = scores[table.rows["class"] == table.class_index(name)]
    return parting(scores)


def catch_up(collection: SampleCollection, label_field: str) -> None:
    """To be called before ``note_tags`` and what it tells of: what others have written so far is read, if it ever was.

    Args:
        collection: where the labels lie.
        label_field: their field.
    """
    if not is_generated(collection) and (table := table_of(dataset_of(collection), label_field)).loaded:
        table.refresh(None)


def note_tags(collection: SampleCollection, label_field: str, labels: dict[Any, list[Any]], tag: str | None) -> None:
    """Tells the table, if this process has one, what was just decided: spares it reading thousands of labels again.

    Args:
        collection: where the labels lie.
        label_field: their field.
        labels: id of a sample -> ids of its labels, as they were just written.
        tag: what they are tagged now; ``None`` if they have no tag of a decision any more.
    """
    if not is_generated(collection):
        table_of(dataset_of(collection), label_field).note(labels, tag)
