"""A person accepts or rejects labels: tags that say so, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import (
    ACCEPTED_TAG,
    REJECTED_TAG,
    check_detections_field,
    image_samples,
    is_patches,
    label_fields,
    label_root,
)
from fiftyone_ntt.dataset.storage import edit_label_tags
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.review.label_table import note_tags

Changes = dict[Any, list[ObjectId]]
"""Id of a sample -> ids of its labels."""


def accept_labels(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
) -> int:
    """Marks labels as right (tag ``ntt:accepted``): later runs keep them, learning makes references of them.

    Args:
        view: the samples, or patches; labels that the view filters out are left alone.
        label_field: field of the labels.
        label_ids: only these labels.
        classes: only labels of these classes.
        above: only labels with a confidence above this.
        below: only labels with a confidence of at most this.

    Returns:
        Number of labels whose decision changed.

    Raises:
        InputError: if there is no such field, or an id is none.
        WrongTypeError: if the field holds no detections.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.accept_labels(dataset, "ntt", classes=["cat"], above=0.8)  # doctest: +SKIP
    """
    return _decide(view, label_field, _Choice(label_ids, classes, above, below), ACCEPTED_TAG)


def reject_labels(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
) -> int:
    """Marks labels as wrong (tag ``ntt:rejected``): they stay, but are left out of scores and exports.

    Args and errors are those of ``accept_labels``.

    Returns:
        Number of labels whose decision changed.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.reject_labels(dataset, "ntt", below=0.2)  # doctest: +SKIP
    """
    return _decide(view, label_field, _Choice(label_ids, classes, above, below), REJECTED_TAG)


def clear_decisions(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    above: float | None = None,
    below: float | None = None,
) -> int:
    """Takes acceptance and rejection back. What a person edited stays edited.

    Args and errors are those of ``accept_labels``.

    Returns:
        Number of labels whose decision changed.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.clear_decisions(dataset, "ntt", classes=["cat"])  # doctest: +SKIP
    """
    return _decide(view, label_field, _Choice(label_ids, classes, above, below), None)


def selected_labels(
    view: SampleCollection, samples: Sequence[str], labels: Iterable[tuple[str, str]]
) -> dict[str, list[str]]:
    """What is selected in the App, as labels; a selected patch is a selected label.

    Args:
        view: what the grid shows.
        samples: ids of the selected samples (or patches).
        labels: field and id of each selected label.

    Returns:
        Field -> ids of its labels.
    """
    selected: dict[str, list[str]] = {}
    for field, label_id in labels:
        selected.setdefault(field, []).append(label_id)
    if selected or not samples or not is_patches(view):
        return selected
    patches = view.select(list(samples))
    for field in label_fields(patches):
        if patches.has_field(field):
            ids = patches.values(f"{label_root(patches, field)[0]}.id", unwind=True)
            selected[field] = [label_id for label_id in ids if label_id]
    return selected


@dataclass(frozen=True)
class _Choice:
    label_ids: Iterable[str] | None
    classes: Collection[str] | None
    above: float | None
    below: float | None

    def condition(self) -> Any:
        parts = []
        if self.classes is not None:
            names = [self.classes] if isinstance(self.classes, str) else list(self.classes)
            parts.append(F("label").is_in(names))
        if self.above is not None:
            parts.append(F("confidence") > self.above)
        if self.below is not None:
            parts.append(F("confidence") <= self.below)
        whole = None
        for part in parts:
            whole = part if whole is None else whole & part
        return whole


def _decide(view: SampleCollection, label_field: str, choice: _Choice, tag: str | None) -> int:
    samples = image_samples(view)
    check_detections_field(samples, label_field)
    chosen = samples
    if choice.label_ids is not None:
        chosen = chosen.select_labels(ids=_checked(choice.label_ids), fields=label_field)
    condition = choice.condition()
    if condition is not None:
        chosen = chosen.filter_labels(label_field, condition)
    others = {ACCEPTED_TAG, REJECTED_TAG} - {tag}
    wrong, missing = _to_change(chosen, label_field, tag, others)
    if wrong:
        edit_label_tags(chosen, label_field, wrong, sorted(others), add=False)
        note_tags(samples, label_field, wrong, tag)
    if missing and tag is not None:
        edit_label_tags(chosen, label_field, missing, tag, add=True)
        note_tags(samples, label_field, missing, tag)
    return len({label for part in (wrong, missing) for labels in part.values() for label in labels})


def _checked(label_ids: Iterable[str]) -> list[str]:
    ids = [str(label_id) for label_id in label_ids]
    try:
        return [str(ObjectId(label_id)) for label_id in ids]
    except InvalidId as error:
        raise InputError(f"expected ids of labels, as Detection.id holds them: {error}") from None


def _to_change(view: SampleCollection, label_field: str, tag: str | None, others: set[str]) -> tuple[Changes, Changes]:
    """Labels with a tag of the ``others``, and labels without ``tag``; masks are not read."""
    root, is_list = label_root(view, label_field)
    wrong: Changes = {}
    missing: Changes = {}
    for sample_id, ids, tags in zip(*view.values(["_id", f"{root}._id", f"{root}.tags"]), strict=True):
        for label_id, own in zip(ids or [], tags or [], strict=True) if is_list else [(ids, tags)]:
            if label_id is None:
                continue
            if others & set(own or []):
                wrong.setdefault(sample_id, []).append(label_id)
            if tag is not None and tag not in (own or []):
                missing.setdefault(sample_id, []).append(label_id)
    return wrong, missing
