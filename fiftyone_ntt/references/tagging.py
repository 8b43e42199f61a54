"""Samples and labels become references, or stop being some: by a tag, which is all that makes a reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import can_be_tagged, class_of, label_parts, make_tag_lists, tags_of
from fiftyone_ntt.dataset.fields import (
    NEGATIVE_TAG,
    NO_CLASS,
    NO_IMAGES,
    REFERENCE_TAG,
    check_reference_field,
    count_classes,
    count_labels_in,
    dataset_of,
    every_image,
    field_names,
    has_label_tag,
    has_labels,
    image_samples,
    is_detections_field,
    is_generated,
    is_map_field,
    is_reference_field,
    is_tagged,
    label_path,
    reference_fields,
    sound_lists,
    with_all_fields,
    with_labels,
)
from fiftyone_ntt.dataset.given import checked_ids
from fiftyone_ntt.dataset.marks import is_example
from fiftyone_ntt.dataset.schema import index_tags
from fiftyone_ntt.dataset.storage import edit_label_tags, tag_images
from fiftyone_ntt.errors import InputError, counted

NO_REFERENCES = (
    "there are no references here yet: select images (or single labels) that show what you want, and press 'NTT: Use "
    "as reference' above the grid; in Python, call use_as_references"
)
NOTHING_SELECTED = (
    "Nothing is selected. Tick the images that show what you want (or click single labels in an opened image), then "
    "press the button again."
)


MAPS = "(semantic segmentation masks)"
"""What stands for the classes in semantic segmentation masks: to tell them, every one would have to be read."""


@dataclass(frozen=True)
class ReferenceChange:
    """What became a reference, or stopped being one.

    Attributes:
        samples: whole samples that were tagged or untagged.
        labels: single labels that were.
        unlabelled: samples among them without any label to learn from.
        added: whether they became references.
        left_out: labels among them that are no examples: marked as a crowd, as difficult or as to be ignored.
    """

    samples: int = 0
    labels: int = 0
    unlabelled: int = 0
    added: bool = True
    left_out: int = 0

    def __str__(self) -> str:
        parts = [(self.samples, "image"), (self.labels, "label")]
        if not (self.samples or self.labels):
            return "nothing was there to tag: " + NO_IMAGES if self.added else "no reference was there to untag"
        what = " and ".join(counted(count, name) for count, name in parts if count)
        single = self.samples + self.labels == 1
        text = f"{what} {'is a reference' if single else 'are references'} now" if self.added else (
            f"{what} {'is' if single else 'are'} no reference any more"
        )  # fmt: skip
        if self.added and self.unlabelled:
            it = "it has no" if self.unlabelled == 1 == self.samples else f"{self.unlabelled} of them without"
            text += f", but {it} labels yet: draw a box or a mask around each object first"
        if self.added and self.left_out:
            labels = counted(self.left_out, "label is", "labels are")
            text += f"; {labels} left out, as marked for a crowd, difficult or to be ignored"
        return text


def use_as_references(
    samples: SampleCollection,
    label_field: str = "ground_truth",
    *,
    sample_ids: Sequence[str] | None = None,
    label_ids: Sequence[str] | None = None,
) -> ReferenceChange:
    """Makes samples, or single labels of them, references: they are tagged ``ntt:reference``.

    Of a tagged sample every label counts, of any other one the tagged labels. In a patches view the label behind each
    patch is tagged, and not the sample.

    Args:
        samples: a dataset or view. All of it becomes references where no ids are given.
        label_field: the field with the labels: detections, keypoints, polylines or segmentations.
        sample_ids: the samples (in a patches view: the patches) to take.
        label_ids: the labels to take; samples are left as they are then.

    Returns:
        How many samples and labels were tagged.

    Raises:
        InputError: if the field is missing, or holds nothing that can be a reference.

    Example:
        >>> print(ntt.use_as_references(dataset.take(2), "ground_truth"))  # doctest: +SKIP
        2 images are references now
    """
    check_reference_field(samples, label_field)
    return _change(samples, label_field, sample_ids, label_ids, True)


def remove_references(
    samples: SampleCollection,
    label_field: str = "ground_truth",
    *,
    sample_ids: Sequence[str] | None = None,
    label_ids: Sequence[str] | None = None,
) -> ReferenceChange:
    """Takes the tag ``ntt:reference`` from samples and from their labels.

    Args:
        samples: a dataset or view. All of it is untagged where no ids are given.
        label_field: the field with the labels: detections, keypoints, polylines or segmentations.
        sample_ids: the samples (in a patches view: the patches) to take.
        label_ids: the labels to take; samples are left as they are then.

    Returns:
        How many samples and labels were references before.

    Raises:
        InputError: if the field is missing, or holds nothing that can be a reference.

    Example:
        >>> print(ntt.remove_references(dataset, "ground_truth"))  # doctest: +SKIP
        2 images are no reference any more
    """
    check_reference_field(samples, label_field)
    return _change(samples, label_field, sample_ids, label_ids, False)


def change_selected(
    view: SampleCollection,
    selected_samples: Sequence[str],
    selected_labels: Sequence[tuple[str, str]],
    *,
    add: bool,
    label_field: str | None = None,
) -> ReferenceChange | None:
    """Adds or removes what is selected in the App: single labels if any are, else samples.

    Args:
        view: what the grid shows.
        selected_samples: ids of the samples (or patches).
        selected_labels: field and id of each selected label.
        add: whether to make them references.
        label_field: where the samples' labels are; ``likely_field`` where ``None``.

    Returns:
        What changed; ``None`` if nothing is selected.

    Raises:
        InputError: if there are no labels to learn from.
    """
    change: Callable[..., ReferenceChange] = use_as_references if add else remove_references
    if selected_labels:
        by_field: dict[str, list[str]] = {}
        for name, label_id in selected_labels:
            by_field.setdefault(name, []).append(label_id)
        done = [change(view, name, label_ids=ids) for name, ids in by_field.items()]
        return ReferenceChange(
            labels=sum(part.labels for part in done), added=add, left_out=sum(part.left_out for part in done)
        )
    if not selected_samples:
        return None
    return change(view, label_field or likely_field(view), sample_ids=selected_samples)


def images_of(dataset: fo.Dataset) -> SampleCollection:
    """All images of a dataset in which references may be: of groups those of every slice, whichever is active.

    Raises:
        WrongTypeError: if it holds no images.
    """
    slices = dataset.group_media_types if dataset.media_type == fo.core.media.GROUP else {}
    return every_image(dataset) if fo.core.media.IMAGE in slices.values() else image_samples(dataset)


def likely_field(samples: SampleCollection) -> str:
    """The field whose labels are meant where nobody says: one with tagged labels, else ``ground_truth``, else any.

    Raises:
        InputError: if no field holds labels that can be references.
    """
    names = reference_fields(samples)
    if not names:
        raise InputError(
            "this dataset has no labels yet: open an image, press 'Annotate' and draw a box or a mask around each "
            "object, then use it as a reference"
        )
    if len(names) == 1:
        return names[0]
    # Detections first: what else there is may be no more than landmarks.
    preferred = sorted(names, key=lambda name: (name != "ground_truth", not is_detections_field(samples, name)))
    whole = with_all_fields(samples)
    tagged = (name for name in preferred if has_label_tag(whole, name, REFERENCE_TAG))
    return next(tagged, preferred[0])


def count_labels(view: SampleCollection, fields: Sequence[str]) -> Counter[str]:
    """Labels of each class in fields that can hold references, those that are no examples aside.

    Counted by the database, no mask or map is read.
    """
    counts: Counter[str] = Counter()
    view = with_all_fields(view)
    for name in fields:
        if name in reference_fields(view) and not is_map_field(view, name):
            counts.update(count_classes(examples_of(view, name), name))
    return counts


def examples_of(view: SampleCollection, field: str) -> SampleCollection:
    """The view without the labels of a field that are no examples: crowds, difficult and ignored ones."""
    if is_map_field(view, field):
        return view
    return with_labels(view, field, is_example() | is_tagged(NEGATIVE_TAG), only_matches=False)


def truth_field(view: SampleCollection, names: Sequence[str]) -> str | None:
    """The field that is most likely ground truth: one with labels on images that are no references.

    Args:
        view: the samples to score.
        names: fields that may be it.

    Returns:
        ``ground_truth`` before others; the first name where no field has such labels; ``None`` without any.
    """
    others = view.match_tags(REFERENCE_TAG, bool=False)
    preferred = sorted(names, key=lambda name: name != "ground_truth")
    labelled = (name for name in preferred if len(others.match(has_labels(others, name)).limit(1)))
    return next(labelled, preferred[0] if preferred else None)


def count_references(
    view: SampleCollection, label_field: str = "ground_truth", *, tag: str = REFERENCE_TAG
) -> dict[str, int]:
    """References of each class; counted by the database, no image or mask is read. Crowds and the like are none."""
    try:
        references = tagged_references(image_samples(view), tag, label_field)
    except InputError:
        return {}
    if is_map_field(references, label_field):
        return {MAPS: int(references.count(f"{label_field}.id"))}
    parts = label_parts(examples_of(references, label_field), label_field, ["label"])
    counts = Counter(class_of(label) or NO_CLASS for _, labels in parts for label in labels)
    return dict(sorted(counts.items()))


def without_tagged(view: SampleCollection) -> tuple[SampleCollection, int]:
    """The samples that are no references, and how many are."""
    return view.match_tags(REFERENCE_TAG, bool=False), len(view.match_tags(REFERENCE_TAG))


def _change(
    samples: SampleCollection, field: str, sample_ids: Sequence[str] | None, label_ids: Sequence[str] | None, add: bool
) -> ReferenceChange:
    samples = image_samples(samples)
    if add and not is_generated(samples):
        index_tags(dataset_of(samples), [field])
    # Patches (those of an evaluation too) and frames are of a dataset that FiftyOne made for the view. What is tagged
    # on their labels it writes to the source as well; a tag of their own would be lost with the view.
    if is_generated(samples) and label_ids is None:
        label_ids = _label_ids(
            samples if sample_ids is None else samples.select(checked_ids(sample_ids, "patches")), field
        )
    if label_ids is not None:
        labels = sound_lists(samples, field).select_labels(ids=checked_ids(label_ids, "labels"), fields=field)
        left_out = _left_out(labels, field) if add else 0
        return ReferenceChange(labels=_tag_labels(labels, field, add), added=add, left_out=left_out)
    chosen = samples if sample_ids is None else samples.select(checked_ids(sample_ids, "samples"))
    if not add:
        labels_before = _tag_labels(_narrowed(chosen, REFERENCE_TAG, [field]), field, False)
        count = len(chosen.match_tags(REFERENCE_TAG))
        tag_images(chosen, REFERENCE_TAG, add=False)
        return ReferenceChange(count, labels_before, added=False)
    tag_images(chosen, REFERENCE_TAG)
    count = len(chosen)
    labelled = len(chosen.match(has_labels(chosen, field))) if count else 0
    return ReferenceChange(count, 0, count - labelled, left_out=_left_out(chosen, field))


def _left_out(samples: SampleCollection, field: str) -> int:
    """Labels of a field that will be no references, whatever is tagged."""
    return count_labels_in(samples, field) - count_labels_in(examples_of(samples, field), field)


def _tag_labels(labels: SampleCollection, field: str, add: bool) -> int:
    """Tags or untags labels; returns how many that are (untagging: how many were tagged)."""
    which: dict[Any, list[Any]] = {}
    for sample_id, found in label_parts(labels, field, ["_id", "tags"]):
        for label in filter(can_be_tagged, found):
            if add or REFERENCE_TAG in tags_of(label):
                which.setdefault(sample_id, []).append(label["_id"])
    if add:
        make_tag_lists(labels, field, which)
    if which:
        edit_label_tags(labels, field, which, REFERENCE_TAG, add=add)
    return sum(map(len, which.values()))


def _label_ids(patches: SampleCollection, field: str) -> list[str]:
    return [str(label["_id"]) for _, labels in label_parts(patches, field, ["_id"]) for label in labels if label]


def tagged_references(target: SampleCollection, tag: str, label_field: str | Sequence[str]) -> SampleCollection:
    """The references in a target: all labels of tagged samples, and the tagged labels of others.

    Args:
        target: where to look.
        tag: the tag; empty takes the target as it is.
        label_field: field, or fields, in which labels may be tagged.

    Raises:
        InputError: if nothing carries the tag.
    """
    target = with_all_fields(target)
    if not tag:
        return target
    references = _with_tag(target, tag, label_field)
    if references is not None:
        return references
    if not len(target):
        raise InputError(NO_IMAGES)
    raise InputError(
        f"{counted(len(target), 'sample')}, none tagged {tag!r}: tag your references, or leave reference_tag empty to "
        "use every sample of the target (select the references first)"
    )


def tagged_negatives(
    target: SampleCollection, label_field: str | Sequence[str], tag: str = NEGATIVE_TAG
) -> SampleCollection | None:
    """What in a target is tagged as not wanted, for ``build_memory_bank(negatives=...)``; ``None`` if nothing is."""
    return _with_tag(with_all_fields(target), tag, label_field) if tag else None


def _with_tag(target: SampleCollection, tag: str, label_field: str | Sequence[str]) -> SampleCollection | None:
    """All labels of tagged samples, and the tagged labels of others; ``None`` if there is neither."""
    tagged = target.match_tags(tag)
    fields = [
        name
        for name in field_names(label_field)
        if is_reference_field(target, name) and has_label_tag(target, name, tag)
    ]
    if fields and len(tagged):
        return _labels_or_samples(target, tag, field_names(label_field), fields)
    if fields:
        view = _narrowed(target, tag, fields)
        for name in fields:
            view = with_labels(view, name, is_tagged(tag), only_matches=False)
        return view
    return tagged if len(tagged) else None


def _narrowed(target: SampleCollection, tag: str, fields: Sequence[str]) -> SampleCollection:
    """The samples that have a label with a tag in one of the fields, by the index where there is one."""
    return target.match({"$or": [{label_path(target, name, "tags"): tag} for name in fields]})


def _labels_or_samples(
    target: SampleCollection, tag: str, names: Sequence[str], fields: Sequence[str]
) -> SampleCollection:
    """Samples that are tagged, or have tagged labels in some of the fields; of the latter no other labels."""
    ids = {*target.match_tags(tag).values("id")}
    ids.update(_narrowed(target, tag, fields).values("id"))
    view = target.select(sorted(ids))
    for name in names:
        if is_reference_field(view, name):
            view = with_labels(view, name, F("$tags").contains(tag) | is_tagged(tag), only_matches=False)
    return view
