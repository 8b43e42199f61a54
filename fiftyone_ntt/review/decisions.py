"""A person accepts or rejects labels: tags that say so, and nothing else is touched."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import can_be_tagged, label_parts, make_tag_lists, tags_of
from fiftyone_ntt.dataset.fields import (
    ACCEPTED_TAG,
    DECIDED_TAGS,
    NO_IMAGES,
    REJECTED_TAG,
    check_detections_field,
    count_classes,
    count_labels_in,
    dataset_of,
    every_image,
    image_samples,
    is_generated,
    is_patches,
    is_tagged,
    root_dataset_of,
    sound_lists,
    with_labels,
)
from fiftyone_ntt.dataset.given import checked_ids
from fiftyone_ntt.dataset.storage import edit_label_tags, store
from fiftyone_ntt.errors import InputError, counted, empty_list, listing
from fiftyone_ntt.params.base import plain_values
from fiftyone_ntt.params.review import DecisionParams
from fiftyone_ntt.review.guard import note_decision
from fiftyone_ntt.review.label_rows import decision_of
from fiftyone_ntt.review.label_table import catch_up, note_tags, table_of
from fiftyone_ntt.runs.mending import DECIDED_LABELS, DECIDED_STORE
from fiftyone_ntt.runs.record import run_of_field

logger = logging.getLogger(__name__)

Changes = dict[Any, list[ObjectId]]
"""Id of a sample -> ids of its labels."""
Before = dict[str, list[ObjectId]]
"""Tag of a decision, or ``_UNDECIDED`` -> ids of labels."""
_UNDECIDED, _MOST_TO_UNDO = "undecided", 500_000
_MOST_HOLDING = 10_000
"""A query of more samples than this is no quicker than one of all."""


def accept_labels(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
    undecided: bool = False,
) -> int:
    """Marks labels as right (tag ``ntt:accepted``): later runs keep them, learning makes references of them.

    Args:
        view: the samples, or patches; labels that the view filters out are left alone.
        label_field: field of the labels.
        label_ids: only these labels; none of them where it is empty.
        classes: only labels of these classes.
        above: only labels with a confidence above this.
        below: only labels with a confidence of at most this; labels that a person drew have none.
        undecided: only labels that nobody has accepted, rejected, edited or drawn; otherwise a decision takes
            another's place.

    Returns:
        Number of labels whose decision changed.

    Raises:
        InputError: if there is no such field, an id is none, ``classes`` is empty, or a score is not between 0 and 1.
        WrongTypeError: if the field holds no detections, or a score is no number.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.accept_labels(dataset, "ntt", classes=["cat"], above=0.8)  # doctest: +SKIP
    """
    return _decide(view, label_field, _Choice(label_ids, classes, above, below, undecided), ACCEPTED_TAG)


def reject_labels(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
    undecided: bool = False,
) -> int:
    """Marks labels as wrong (tag ``ntt:rejected``): they stay, but are left out of scores and exports.

    Args and errors are those of ``accept_labels``.

    Returns:
        Number of labels whose decision changed.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.reject_labels(dataset, "ntt", below=0.2)  # doctest: +SKIP
    """
    return _decide(view, label_field, _Choice(label_ids, classes, above, below, undecided), REJECTED_TAG)


def clear_decisions(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
    undecided: bool = False,
) -> int:
    """Takes acceptance and rejection back. What a person edited stays edited.

    Args and errors are those of ``accept_labels``.

    Returns:
        Number of labels whose decision changed.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.clear_decisions(dataset, "ntt", classes=["cat"])  # doctest: +SKIP
    """
    return _decide(view, label_field, _Choice(label_ids, classes, above, below, undecided), None)


@dataclass(frozen=True)
class _Choice:
    label_ids: Iterable[str] | None
    classes: Collection[str] | None
    above: float | None
    below: float | None
    undecided: bool

    def __post_init__(self) -> None:
        if self.label_ids is not None:  # an iterator is used up by the first look
            object.__setattr__(self, "label_ids", checked_ids(self.label_ids, "labels"))
        if isinstance(self.classes, str):
            object.__setattr__(self, "classes", (self.classes,))
        given = {name: getattr(self, name) for name in ("classes", "above", "below", "undecided")}
        for name, value in zip(given, plain_values(DecisionParams, **given), strict=True):
            object.__setattr__(self, name, value)
        if self.classes is not None and not len(self.classes):
            raise InputError(empty_list("classes"))

    def condition(self, samples: SampleCollection, label_field: str) -> Any:
        parts, confidence = [], F("confidence")
        if self.classes is not None:
            parts.append(F("label").is_in(list(self.classes)))
        if self.above is not None:
            parts.append(confidence.is_number() & (confidence > self.above))
        if self.below is not None:  # the database takes what is absent for less than any number
            parts.append(confidence.is_number() & (confidence <= self.below))
        if self.undecided:
            parts += _nobody_decided(samples, label_field)
        whole = None
        for part in parts:
            whole = part if whole is None else whole & part
        return whole


def _nobody_decided(samples: SampleCollection, label_field: str) -> list[Any]:
    """Conditions on labels: no tag of a decision, nor a shape that a person drew or changed without saying so."""
    conditions, dataset = [~is_tagged(sorted(DECIDED_TAGS))], root_dataset_of(samples)
    if not dataset.has_field(label_field):  # of frames, say: no table knows these
        return conditions
    if run_of_field(dataset, label_field):
        conditions.append(F("predicted_iou").exists())  # no run leaves this out
    if edited := table_of(dataset, label_field).refreshed().edited():
        conditions.append(~F("_id").is_in(edited))
    return conditions


def check_classes(view: SampleCollection, label_field: str, classes: Collection[str] | None) -> None:
    """Raises InputError where a field has no label of a class: a slip of the pen would decide on nothing, silently."""
    check_detections_field(image_samples(view), label_field)
    if not classes:
        return
    dataset = dataset_of(view)
    check_among(classes, count_classes(every_image(dataset), label_field), label_field)


def check_among(classes: Collection[str], there: Collection[str], label_field: str) -> None:
    """Raises InputError where a class is not among those that there are."""
    unknown = [name for name in classes if name not in there]
    if unknown:
        raise InputError(
            f"expected classes of labels in {label_field!r}, got {listing(map(repr, unknown))}; there is: "
            f"{listing(sorted(there), like=unknown[0]) if there else 'no label yet'}"
        )


def amount(
    view: SampleCollection,
    label_field: str,
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
    undecided: bool = False,
) -> tuple[int, int]:
    """How many images and labels a decision with these arguments would be about; see ``accept_labels``."""
    chosen = _chosen(view, label_field, _Choice(label_ids, classes, above, below, undecided))
    return len(chosen), count_labels_in(chosen, label_field)


def _chosen(view: SampleCollection, label_field: str, choice: _Choice) -> SampleCollection:
    chosen = image_samples(view)
    check_detections_field(chosen, label_field)
    if choice.label_ids is not None:
        ids = list(choice.label_ids)
        chosen = sound_lists(_where(chosen, label_field, ids), label_field).select_labels(ids=ids, fields=label_field)
    condition = choice.condition(chosen, label_field)
    return chosen if condition is None else with_labels(chosen, label_field, condition)


def _where(samples: SampleCollection, label_field: str, label_ids: list[str]) -> SampleCollection:
    """The samples that hold some labels, where the table knows: the database would look at every label there is."""
    if is_generated(samples) or not (table := table_of(dataset_of(samples), label_field)).loaded:
        return samples
    holding = table.refreshed().samples_with(map(ObjectId, label_ids))
    return samples if holding is None or len(holding) > _MOST_HOLDING else samples.select(holding)


def why_unchanged(
    view: SampleCollection,
    label_field: str,
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
    undecided: bool = False,
) -> str:
    """Why a decision with these arguments changed no label, and what to do; see ``accept_labels``."""
    samples = image_samples(view)
    there = count_labels_in(samples, label_field)
    if not there:
        return f"no image of the view has labels in {label_field!r}; label them first" if len(samples) else NO_IMAGES
    _, count = amount(
        view, label_field, label_ids=label_ids, classes=classes, above=above, below=below, undecided=undecided
    )
    if not count:
        return (
            f"{counted(there, 'label')} in {label_field!r}, none of that class, score or id; give others, or "
            "choose another view"
        )
    return f"nothing was left to change on {counted(count, 'label')} in {label_field!r}"


def _decide(view: SampleCollection, label_field: str, choice: _Choice, tag: str | None) -> int:
    samples, chosen = image_samples(view), _chosen(view, label_field, choice)
    others = {ACCEPTED_TAG, REJECTED_TAG} - {tag}
    wrong, missing, before = _to_change(chosen, label_field, tag, others)
    if missing:
        make_tag_lists(samples, label_field, missing)
    catch_up(samples, label_field)
    _note_last(samples, label_field, tag, before)
    if wrong:
        edit_label_tags(chosen, label_field, wrong, sorted(others), add=False)
        _note(samples, label_field, wrong, tag)
    if missing and tag is not None:
        edit_label_tags(chosen, label_field, missing, tag, add=True)
        _note(samples, label_field, missing, tag)
    changed = len({label for part in (wrong, missing) for labels in part.values() for label in labels})
    if not changed:
        logger.warning("no decision changed: %s", why_unchanged(view, label_field, **vars(choice)))
    return changed


def _note(samples: SampleCollection, label_field: str, labels: Changes, tag: str | None) -> None:
    """Tells those who keep decisions by themselves what was just written."""
    note_tags(samples, label_field, labels, tag)
    if not is_generated(samples):
        note_decision(dataset_of(samples), label_field, labels, tag)


@dataclass(frozen=True)
class LastDecision:
    """What was decided last in a dataset.

    Attributes:
        label_field: field of the labels.
        tag: what they were tagged; ``None`` where a decision was taken back.
        labels: how many there are.
    """

    label_field: str
    tag: str | None
    labels: int

    def __str__(self) -> str:
        done = {ACCEPTED_TAG: "accepted", REJECTED_TAG: "rejected"}.get(self.tag or "", "without a decision")
        return f"{counted(self.labels, 'label')} {done}"


def last_decision(dataset: fo.Dataset, label_field: str) -> LastDecision | None:
    """What was decided last on the labels of a field, and can be undone."""
    facts = store(dataset, DECIDED_STORE).get(label_field)
    if facts is None:
        return None
    return LastDecision(label_field, facts["tag"], facts["labels"])


def undo_last_decision(dataset: fo.Dataset, label_field: str) -> int:
    """Takes the last decision on a field back: its labels are again what they were, unless something came after.

    Returns:
        Number of labels whose decision changed.
    """
    decided = store(dataset, DECIDED_STORE)
    facts, before_all = decided.get(label_field), decided.get(label_field + DECIDED_LABELS)
    if facts is None or before_all is None:
        return 0
    table, changed = table_of(dataset, label_field).refreshed(), 0
    rows, ids = table.rows, table.sample_ids
    rows = rows[rows["tagged"] == decision_of({facts["tag"]})]
    for name, data in before_all.items():
        before = None if name == _UNDECIDED else name
        wanted = {data[start : start + 12] for start in range(0, len(data), 12)}
        labels: Changes = {}
        for label, number in zip(rows["label"].tolist(), rows["sample"].tolist(), strict=True):
            if label in wanted:
                labels.setdefault(ids[number], []).append(ObjectId(label))
        for tag, add in ((facts["tag"], False), (before, True)):
            if tag and labels:
                edit_label_tags(every_image(dataset), label_field, labels, tag, add=add)
        _note(dataset, label_field, labels, before)
        changed += sum(map(len, labels.values()))
    for key in (label_field, label_field + DECIDED_LABELS):
        decided.delete(key)
    return changed


def _note_last(samples: SampleCollection, label_field: str, tag: str | None, before: Before) -> None:
    """Keeps what the labels were before, so that it can be undone; of patches, with what they are patches of."""
    if not before or (is_generated(samples) and not is_patches(samples)):
        return
    decided = store(root_dataset_of(samples), DECIDED_STORE)
    count = sum(map(len, before.values()))
    decided.delete(label_field)
    if count > _MOST_TO_UNDO:
        return
    ids = {name: b"".join(label.binary for label in labels) for name, labels in before.items()}
    decided.set(label_field + DECIDED_LABELS, ids)  # by itself: the panel reads at every event what there is to undo
    decided.set(label_field, {"tag": tag, "labels": count})


def _to_change(
    view: SampleCollection, label_field: str, tag: str | None, others: set[str]
) -> tuple[Changes, Changes, Before]:
    """Labels with a tag of the ``others``, labels without ``tag``, and what all of them are; masks are not read."""
    wrong: Changes = {}
    missing: Changes = {}
    before: Before = {}
    for sample_id, labels in label_parts(view, label_field, ["_id", "tags"]):
        for label in filter(can_be_tagged, labels):
            label_id, own = label["_id"], tags_of(label)
            contrary, lacks = others & own, tag is not None and tag not in own
            if contrary:
                wrong.setdefault(sample_id, []).append(label_id)
            if lacks:
                missing.setdefault(sample_id, []).append(label_id)
            if contrary or lacks:
                before.setdefault(min(contrary, default=_UNDECIDED), []).append(label_id)
    return wrong, missing, before
