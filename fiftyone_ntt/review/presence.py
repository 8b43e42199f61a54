"""Image-level labels: is each class in the image, and how probable is that; kept with the samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import (
    check_detections_field,
    dataset_of,
    every_image,
    whole_images,
    with_all_fields,
)
from fiftyone_ntt.dataset.storage import patiently
from fiftyone_ntt.errors import counted
from fiftyone_ntt.params.review import JudgePresenceParams
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.review.presence_fit import Bools, Pairs
from fiftyone_ntt.review.threshold_fit import Floats
from fiftyone_ntt.review.thresholds import Thresholds, fit_thresholds, load_thresholds
from fiftyone_ntt.runs.control import written_by
from fiftyone_ntt.runs.presence_fields import declare_presence_fields, note_counts, presence_field_names
from fiftyone_ntt.runs.record import status_field

logger = logging.getLogger(__name__)

_AT_ONCE = 2000
"""Samples whose image-level labels are written at once."""


@dataclass(frozen=True)
class PresenceReport:
    """What was judged.

    Attributes:
        label_field: the labels it was judged from.
        fields: the fields that say which classes are in an image, and which are not.
        images: how many images were judged.
        left_out: how many were not: references, images that failed, images that the run was not for.
        present: class -> how many images it is in.
        guessed: whether nobody had decided on any label.
    """

    label_field: str
    fields: tuple[str, str]
    images: int
    left_out: int
    present: dict[str, int]
    guessed: bool

    def rows(self) -> list[dict[str, Any]]:
        """A row a class: in how many images it is, and in how many it is not."""
        return [
            {"class": name, "present": count, "absent": self.images - count} for name, count in self.present.items()
        ]

    def __str__(self) -> str:
        text = f"Image-level labels for {counted(self.images, 'image')}, from the labels in {self.label_field!r}"
        text += f" ({self.left_out} left out)" if self.left_out else ""
        if not self.images:
            reason = "references, images that failed, or not of this run" if self.left_out else "the view holds none"
            return f"{text}: {reason}; choose a view with images that the run has labelled."
        text += f": classes in {self.fields[0]!r} are there, those in {self.fields[1]!r} are not."
        if self.guessed:
            text += " A guess from the references: accept and reject some labels, and fit the thresholds again."
        return text


def judge_presence(view: SampleCollection, label_field: str = "ntt") -> PresenceReport:
    """Writes of each image which classes are in it and which are not, and how probable that is.

    Two fields of ``Classifications``: ``<label_field>_present`` and ``<label_field>_absent``; the confidence is the
    probability of what the field says. So images without a cat are a click in the App's sidebar. The thresholds are
    those of ``fit_thresholds``; where there are none yet, they are fitted now.

    An image counts if the run has labelled it, also where it found nothing. References that were left out, and images
    that failed, get none. Labels that a person accepted, edited or drew are certain, rejected ones do not count.

    Args:
        view: the dataset, or the samples to judge.
        label_field: the field that a run wrote.

    Returns:
        How many images each class is in.

    Raises:
        InputError: if no run wrote the field, it has found nothing, or the fields hold something else.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> print(ntt.judge_presence(dataset, "ntt"))  # doctest: +SKIP
    """
    params = JudgePresenceParams(label_field)
    view, dataset = whole_images(view), dataset_of(view)
    check_detections_field(dataset, params.label_field)
    run_key = written_by(dataset, label_field, "what their scores mean is not known")
    thresholds = load_thresholds(dataset, run_key) or fit_thresholds(dataset, run_key, write_image_labels=False)
    return write_image_labels(view, thresholds)


def write_image_labels(view: SampleCollection, thresholds: Thresholds) -> PresenceReport:
    """The same with these thresholds, which belong to the view's dataset."""
    dataset, name = dataset_of(view), thresholds.label_field
    table = table_of(dataset, name).refreshed()
    names = list(dict.fromkeys([*thresholds.classes, *table.named_classes]))
    pairs = Pairs.of(table, names)
    # Sample id -> its row below; samples without labels share one row more, the last.
    known = table.sample_ids  # a list that is made anew each time
    row = {str(known[number]): i for i, number in enumerate(pairs.samples)}
    least = np.array([thresholds.image.threshold(class_name) for class_name in names])
    # [samples with labels + 1, classes] probability, and whether the class counts as present
    likely = np.vstack([pairs.probability(thresholds.image.curve), _without_labels(thresholds, len(names))])
    there = np.vstack([pairs.present(least), np.zeros(len(names), bool)])
    judged = every_image(dataset) if isinstance(view, fo.Dataset) else view
    ids, states = _judged(judged, name, thresholds.run_key)
    rows = np.array([row.get(sample_id, len(row)) for sample_id in ids], np.int64)
    declare_presence_fields(dataset, name, thresholds.run_key)
    for start in range(0, len(ids), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        _write(dataset, name, ids[start : start + _AT_ONCE], names, likely[some], there[some])
    patiently(note_counts, dataset, name)
    counts = there[rows].sum(axis=0) if len(ids) else np.zeros(len(names), int)
    present = dict(zip(names, map(int, counts), strict=True))
    return PresenceReport(name, presence_field_names(name), len(ids), states - len(ids), present, thresholds.guessed)


def judged_without(view: SampleCollection, label_field: str, name: str) -> SampleCollection:
    """The images of a view that are judged to be without a class, the surest first."""
    field = presence_field_names(label_field)[1]
    chances = F(f"{field}.classifications").filter(F("label") == name).map(F("confidence"))
    images = with_all_fields(view).match(F(f"{field}.classifications.label").contains(name))
    return images.sort_by(chances.max(), reverse=True)


def _without_labels(thresholds: Thresholds, classes: int) -> Floats:
    """Probabilities of classes of which there is no label."""
    return thresholds.image.curve.probability(np.zeros(classes), np.arange(classes))


def _judged(view: SampleCollection, label_field: str, run_key: str) -> tuple[list[str], int]:
    """Ids of the samples that the run has labelled, and how many samples there are."""
    status = status_field(label_field)
    done = (F(f"{status}.run_key") == run_key) & F(f"{status}.state").is_in(["ok", "empty"])
    return list(patiently(view.match(done).values, "id")), len(view)


def _write(
    dataset: fo.Dataset, label_field: str, ids: Sequence[str], names: Sequence[str], likely: Floats, there: Bools
) -> None:
    """Documents as the database keeps them: making them from label objects would be most of the time."""
    pattern, empty = fo.Classification().to_dict(), fo.Classifications().to_dict()
    documents: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for sample_id, chances, is_there in zip(ids, likely.tolist(), there.tolist(), strict=True):
        sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for name, chance, present in zip(names, chances, is_there, strict=True):
            sure = chance if present else 1 - chance
            # The confidence is that of the statement: "absent" is as sure as the class is unlikely.
            sides[not present].append({**pattern, "_id": ObjectId(), "label": name, "confidence": sure})
        for side in (0, 1):
            documents[side][sample_id] = {**empty, "classifications": sides[side]}
    for field, values in zip(presence_field_names(label_field), documents, strict=True):
        patiently(dataset.set_values, field, values, key_field="id", validate=False, dynamic=False)
