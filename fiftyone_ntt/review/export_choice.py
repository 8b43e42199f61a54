"""Which labels an export takes, and in which order their classes are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bson import ObjectId
from fiftyone import ViewExpression
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import single_documents, tags_of
from fiftyone_ntt.dataset.fields import (
    DECIDED_TAGS,
    DONE_TAG,
    NO_IMAGES,
    PROTECTED_TAGS,
    REJECTED_TAG,
    count_classes,
    count_labels_in,
    dataset_of,
    image_samples,
    is_labelled,
    is_tagged,
    with_labels,
)
from fiftyone_ntt.dataset.labels import is_edited, scores_above
from fiftyone_ntt.dataset.parts import part_of
from fiftyone_ntt.dataset.storage import raw_values
from fiftyone_ntt.errors import InputError, counted, listing
from fiftyone_ntt.runs.record import provenance_of, run_of_field

_CHUNK = 100


def chosen_labels(
    view: SampleCollection, label_field: str, *, only: str, score_threshold: float | None = None, exact: bool = False
) -> SampleCollection:
    """The view reduced to the labels that would be exported.

    Args:
        view: the samples.
        label_field: field of detections.
        only: ``"accepted"``, ``"done"`` or ``"all"``.
        score_threshold: undecided labels at or below this score are left out.
        exact: also finds labels that a person edited without saying so, which takes reading every mask.
    """
    if only == "done":
        view = view.match_tags(DONE_TAG)
    elif only == "all" and run_of_field(dataset_of(view), label_field):
        view = view.match(is_labelled(label_field))  # of the others nobody knows what is in them
    kept = is_tagged(sorted(PROTECTED_TAGS))
    if run_of_field(dataset_of(view), label_field):
        kept |= ~F("predicted_iou").exists()  # drawn by a person: no run leaves this out
    edited = _edited(view, label_field) if exact else []
    if edited:
        kept |= F("_id").is_in(edited)
    if only == "all":
        kept |= _true() if score_threshold is None else scores_above(score_threshold)
    return with_labels(view, label_field, ~is_tagged(REJECTED_TAG) & kept, only_matches=only == "accepted")


def count_chosen(
    view: SampleCollection,
    label_field: str,
    *,
    only: str,
    score_threshold: float | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[int, int]:
    """How many labels on how many images ``export_labels`` would write, about: no mask is read."""
    chosen = chosen_labels(image_samples(view), label_field, only=only, score_threshold=score_threshold)
    if classes:  # a form that is left empty means all of them
        of_classes = F("label").is_in(list(classes))
        chosen = with_labels(chosen, label_field, of_classes, only_matches=only == "accepted")
    return count_labels_in(chosen, label_field), len(chosen)


def note_of_unlabelled(view: SampleCollection, label_field: str, only: str) -> list[str]:
    """What a report says of images that have not even an empty list of labels; see ``chosen_labels``."""
    count = len(view.match(~is_labelled(label_field))) if only == "all" else 0
    if not count:
        return []
    if run_of_field(dataset_of(view), label_field):
        return [f"{counted(count, 'image')} that no run has labelled in {label_field!r} left out"]
    return [f"{counted(count, 'image')} without labels written as background"]


def _true() -> ViewExpression:
    return F("_id").exists()


def _edited(view: SampleCollection, label_field: str) -> list[ObjectId]:
    """Labels without a decision's tag whose shape is no longer as a run wrote it."""
    ids, classes = view.values("id"), provenance_of(view, label_field).get("classes") or ()
    edited: list[Any] = []
    for start in range(0, len(ids), _CHUNK):
        for document in raw_values(part_of(view, ids[start : start + _CHUNK]), label_field):
            for label in single_documents(document):
                if not DECIDED_TAGS & tags_of(label) and is_edited(label, classes):
                    edited.append(label.get("_id"))
    return edited


def classes_of(view: SampleCollection, label_field: str, classes: Sequence[str] | None) -> list[str]:
    """The classes to write in the order of their numbers; those of the run and what else there is unless told."""
    if isinstance(classes, str) or (classes is not None and (not classes or len(set(classes)) < len(classes))):
        raise InputError(f"expected a list of distinct class names, got {classes!r}")
    there = list(count_classes(view, label_field))
    if classes is not None:
        missing = sorted(set(classes) - set(there))
        if missing and len(missing) == len(classes):
            raise InputError(
                f"nothing to export: no label of {listing(map(repr, missing))} among them; there is: "
                f"{listing(sorted(there), like=missing[0])}"
            )
        return list(classes)
    of_run = list(provenance_of(view, label_field).get("classes") or [])
    return [*of_run, *sorted(set(there) - set(of_run))]


def why_nothing(view: SampleCollection, label_field: str, only: str) -> str:
    """The reason that no label of a view would be written."""
    count = count_labels_in(view, label_field)
    if not len(view):
        return NO_IMAGES
    if only == "done" and not len(view.match_tags(DONE_TAG)):
        return (
            f"{counted(len(view), 'image')}, none marked as done; mark those that you have gone through (mark_done), "
            "or export what is accepted (only='accepted')"
        )
    if not count:
        return f"{counted(len(view), 'sample')}, none with labels in {label_field!r}; label them first"
    if only == "done":
        return "the images that are done hold no accepted, edited or drawn label; accept what is right in them"
    if only == "accepted":
        return f"{counted(count, 'label')} in {label_field!r}, none accepted; accept some, or export all (only='all')"
    return (
        f"{counted(count, 'label')} in {label_field!r}: rejected, of another class, or of too low a score; lower "
        "score_threshold, or choose other classes"
    )
