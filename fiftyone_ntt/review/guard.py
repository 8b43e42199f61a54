"""What FiftyOne's editor would delete without being told to: labels that a view hides.

The editor gets a sample's labels from the view and saves them as the whole list, and it tells the server which label it
changed by its place in that list. So where a stage of the view hides labels, hidden ones vanish, and a change may hit
another label than the one in sight. A hidden label cannot be deleted or edited on purpose: each one is kept when its
sample is opened, and is put back once that is closed. A label that was in sight and is gone was deleted by a person.
Who clears the field meanwhile leaves no list at all, which the editor never does: nothing is put back then.
Nobody says when a browser is closed: what is kept longer than a day is forgotten, and what was deleted since stays so.

Filters of the App's sidebar hide nothing from the editor. But its labels are as old as the page: one that was accepted
or rejected since loses that when another label of the sample is saved. So decisions are kept and put back as well,
where anything but tags has changed; who takes a tag off in FiftyOne's own menu changes nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bson
import fiftyone as fo
import numpy as np
from bson import ObjectId

from fiftyone_ntt.dataset.documents import label_of, label_parts, tags_of
from fiftyone_ntt.dataset.fields import ACCEPTED_TAG, REJECTED_TAG, label_root
from fiftyone_ntt.dataset.labels import Document, is_from_run
from fiftyone_ntt.dataset.parts import shows_whole_lists
from fiftyone_ntt.dataset.storage import JsonStore, database_collection, store
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.runs.record import status_field

logger = logging.getLogger(__name__)

_STORE = "ntt_guard"
_GRACE = 1.0
"""Seconds after a sample was closed in which the editor may still save."""
_LARGEST = 8 * 2**20
_LONGEST_OPEN = 24 * 3600.0
"""Seconds after which a sample that was opened is taken for closed."""
_UNTOLD = "untold"
_OF_NO_WEIGHT = frozenset({"_id", "tags", "mask"})


@dataclass(frozen=True)
class PutBack:
    """What came of looking after labels that the editor may have dropped.

    Attributes:
        labels: how many, or the decisions on how many, were put back since somebody was told last.
        pending: whether to look again in a moment.
    """

    labels: int
    pending: bool


def watch(dataset: fo.Dataset, view: fo.DatasetView, sample_id: str) -> int:
    """Keeps decisions on the labels of a sample, and those labels that a view hides.

    To be called when the sample is opened in the App.

    Args:
        dataset: the open dataset.
        view: what the view bar says, without the sidebar's filters.
        sample_id: the sample.

    Returns:
        Number of hidden labels kept.
    """
    kept, count = store(dataset, _STORE), 0
    _end_earlier(dataset, kept, sample_id)
    for field in dataset.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Label):
        root, is_list = label_root(dataset, field)
        if not is_list:
            continue
        document = _document(dataset, sample_id, field)
        labels = _labels(document, root)
        by_key = _by_key(labels)
        hidden = _hidden(view, sample_id, field, by_key)
        decided = {str(key): tag for key, label in by_key.items() if (tag := _decision(label)) is not None}
        if not (hidden or decided):
            continue
        count += len(hidden)
        facts: dict[str, Any] = {
            "root": root,
            "order": list(by_key),
            "hidden": bson.encode({"labels": list(hidden.values()), "keys": list(hidden)}),
            "decided": decided,
            "content": _content(labels),
            "status": bson.encode({"status": document.get(status_field(field))}),
            "opened": time.time(),
        }
        if len(facts["hidden"]) > _LARGEST:
            logger.warning("sample %s: the labels in %r that the view hides are too large to be kept", sample_id, field)
            continue
        kept.set_if_absent(f"{sample_id}:{field}", facts)
    return count


def _end_earlier(dataset: fo.Dataset, kept: JsonStore, sample_id: str) -> None:
    """Ends what was kept when the sample was open before: what is deleted from now on was in sight."""
    for key in kept.list_keys():
        number, _, field = key.partition(":")
        facts = kept.get(key) if number == sample_id else None
        if facts is None or (facts.get("closed") is None and not _is_past(facts)):
            continue
        labels = _restore(dataset, sample_id, field, facts)
        kept.delete(key)
        if labels:
            kept.set(_UNTOLD, (kept.get(_UNTOLD) or 0) + labels)


def note_decision(dataset: fo.Dataset, label_field: str, labels: Mapping[Any, Sequence[Any]], tag: str | None) -> None:
    """Takes over what was decided on purpose while samples are open: sample id -> ids of labels, and their tag now."""
    kept = store(dataset, _STORE)
    for key in kept.list_keys():
        sample_id, _, field = key.partition(":")
        changed = {str(label_id) for number, ids in labels.items() if str(number) == sample_id for label_id in ids}
        if field == label_field and changed and (facts := kept.get(key)):
            rest = {label: own for label, own in facts.get("decided", {}).items() if label not in changed}
            kept.set(key, {**facts, "decided": {**rest, **(dict.fromkeys(changed, tag) if tag else {})}})


def _hidden(view: fo.DatasetView, sample_id: str, field: str, labels: dict[Any, Document]) -> dict[Any, Document]:
    """The labels of a sample that a view hides; none where the sample is no part of it."""
    if shows_whole_lists(view, field) or not view.has_field(field):
        return {}
    lists = list(label_parts(view.select(sample_id), field, ["_id"]))
    in_view = {repr(label.get("_id")) for _, shown in lists for label in shown}
    return {key: label for key, label in labels.items() if repr(label.get("_id")) not in in_view} if lists else {}


def _decision(label: dict[str, Any]) -> str | None:
    return next((tag for tag in (ACCEPTED_TAG, REJECTED_TAG) if tag in tags_of(label)), None)


def _by_key(labels: Sequence[Document]) -> dict[Any, Document]:
    """Labels by their ids; one of a stranger without any, or with that of another, by all that is in it."""
    by_key: dict[Any, Document] = {}
    for label in labels:
        key = label.get("_id")
        if not isinstance(key, ObjectId) or key in by_key:
            key = hashlib.sha256(bson.encode(label)).hexdigest()
        by_key[f"{key} again" if key in by_key else key] = label
    return by_key


def _content(labels: list[dict[str, Any]]) -> str:
    """Tells labels apart by all but their tags."""
    plain = [{key: value for key, value in label.items() if key != "tags"} for label in labels]
    return hashlib.sha256(bson.encode({"labels": plain})).hexdigest()


def put_back(dataset: fo.Dataset, open_sample: str | None = None, *, tell: bool = True) -> PutBack:
    """Puts labels back that ``watch`` kept and the editor dropped, or changed in place of others.

    To be called now and then; it costs one small query where nothing is kept.

    Args:
        dataset: the open dataset.
        open_sample: the sample that is open in the App; the editor would only drop its labels again.
        tell: whether the caller can tell a person; otherwise the next caller who can gets the sum.

    Returns:
        What was put back.
    """
    kept = store(dataset, _STORE)
    keys = kept.list_keys()
    labels, pending = kept.get(_UNTOLD) or 0 if _UNTOLD in keys else 0, False
    before = labels
    for key in keys:
        sample_id, _, field = key.partition(":")
        facts = None if key == _UNTOLD or sample_id == open_sample else kept.get(key)
        if facts is None:
            continue
        labels += _restore(dataset, sample_id, field, facts)
        closed = facts.get("closed")
        if _is_past(facts) or (closed is not None and time.time() - closed > _GRACE):
            kept.delete(key)
            continue
        pending = True
        if closed is None:
            kept.set(key, {**facts, "closed": time.time()})
    if tell and before:
        kept.delete(_UNTOLD)
    elif not tell and labels > before:
        kept.set(_UNTOLD, labels)
    return PutBack(labels, pending)


def _is_past(facts: dict[str, Any]) -> bool:
    """Whether a sample was opened so long ago that nobody can still be editing it."""
    return bool(time.time() - facts.get("opened", time.time()) > _LONGEST_OPEN)


def _restore(dataset: fo.Dataset, sample_id: str, field: str, facts: dict[str, Any]) -> int:
    if _is_past(facts) or not dataset.has_field(field):
        return 0
    document = _document(dataset, sample_id, field)
    now = _by_key(_labels(document, facts["root"]))
    if not document or _was_labelled_again(document, field, facts, now):
        return 0
    if document.get(field) is None:  # cleared on purpose: the editor always leaves a list
        return 0
    kept = bson.decode(facts["hidden"])
    keys = kept.get("keys") or list(_by_key(kept["labels"]))  # an earlier version kept no keys
    hidden = dict(zip(keys, kept["labels"], strict=True))
    lost = [key for key, label in hidden.items() if key not in now or not _same(label, now[key])]
    undecided = _undecided(facts, now)
    if not lost and not undecided:
        return 0
    logger.info(
        "sample %s: the editor dropped %s, and decisions on %d, in %r; they are put back",
        sample_id, counted(len(lost), "label"), len(undecided), field,
    )  # fmt: skip
    for key in lost:
        # Accepted or rejected meanwhile: that was on purpose.
        now[key] = {**hidden[key], "tags": now[key].get("tags")} if key in now else hidden[key]
    for key, tag in undecided.items():
        now[key] = {**now[key], "tags": [*sorted(tags_of(now[key])), tag]}
    order = [key for key in facts["order"] if key in now]
    labels = [now[key] for key in (*order, *(key for key in now if key not in set(order)))]
    name = facts["root"].rpartition(".")[2]
    others = [item for item in _listed(document, facts["root"]) if not isinstance(item, dict)]
    value = {**(document.get(field) or {}), name: [*labels, *others]}
    dataset.set_values(field, {sample_id: value}, key_field="id", validate=False, dynamic=False)
    return len({*lost, *undecided})


def _undecided(facts: dict[str, Any], now: dict[Any, Document]) -> dict[Any, str]:
    """Labels that lost what was decided on them while something else was saved -> the tag of that."""
    if facts.get("content") == _content(list(now.values())):
        return {}
    decided = facts.get("decided") or {}
    return {key: decided[str(key)] for key, label in now.items() if str(key) in decided and _decision(label) is None}


def _was_labelled_again(document: Document, field: str, facts: dict[str, Any], now: dict[Any, Document]) -> bool:
    """Whether a run, or undoing one, has written the sample since: what it took away stays away."""
    before = bson.decode(facts["status"])["status"]
    new = [label for key, label in now.items() if key not in set(facts["order"])]
    return document.get(status_field(field)) != before or any(is_from_run(label) for label in new)


def _same(one: Document, other: Document) -> bool:
    """Whether two documents of a label say the same, but for tags and for how the mask is packed."""
    keys = (one.keys() | other.keys()) - _OF_NO_WEIGHT
    if any(one.get(key) != other.get(key) for key in keys):
        return False
    masks = [label.get("mask") for label in (one, other)]
    if masks[0] == masks[1] or None in masks:
        return masks[0] == masks[1]
    try:
        pixels = [label_of(label).mask for label in (one, other)]
    except InputError:  # of a stranger: other bytes are another mask
        return False
    return bool(np.array_equal(*pixels))


def _document(dataset: fo.Dataset, sample_id: str, field: str) -> Document:
    wanted = {field: 1, status_field(field): 1}
    return database_collection(dataset).find_one({"_id": ObjectId(sample_id)}, wanted) or {}


def _labels(document: Document, root: str) -> list[Document]:
    """The labels at a path such as ``ntt.detections``."""
    return [item for item in _listed(document, root) if isinstance(item, dict)]


def _listed(document: Document, root: str) -> list[Any]:
    """All that stands in the list there, labels or not."""
    value: Any = document
    for name in root.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, list) else []
