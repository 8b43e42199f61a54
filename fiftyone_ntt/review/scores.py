"""Counts and histograms of a field's labels, quick enough for every click: from a small table in memory.

A question to the database reads every document, masks and all. So what review asks of a label (class, scores, decision)
is read once, in a thread, into rows of a few bytes, and brought up to date by what has changed since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import check_detections_field
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.review.label_table import ACCEPTED, EDITED, REJECTED, UNDECIDED, LabelTable, decisions, table_of

BINS = 25
"""Bars of a histogram, from score 0 to 1."""


@dataclass(frozen=True)
class ClassScores:
    """What is known of the labels of one class.

    Attributes:
        name: the class.
        labels: how many there are.
        above: how many of them have a confidence above the threshold.
        accepted: how many a person accepted,
        rejected: rejected,
        edited: edited and neither accepted nor rejected,
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
    undecided: int
    undecided_above: int
    histogram: tuple[int, ...]


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
    rows = table.rows
    count = len(table.classes)

    def per_class(which: Any) -> NDArray[np.int64]:
        return np.bincount(rows["class"][which], minlength=count)

    everything = np.bincount(rows["class"], minlength=count)
    high = rows["confidence"] > threshold
    above = per_class(high)
    decided = decisions(rows)
    undecided_above = per_class(high & (decided == UNDECIDED))
    accepted, rejected, edited, undecided = (
        per_class(decided == code) for code in (ACCEPTED, REJECTED, EDITED, UNDECIDED)
    )
    bins = np.clip((rows["confidence"] * BINS).astype(np.int64), 0, BINS - 1)
    histograms = np.bincount(rows["class"] * BINS + bins, minlength=count * BINS).reshape(count, BINS)
    found = [
        ClassScores(
            name=name,
            labels=int(everything[i]),
            above=int(above[i]),
            accepted=int(accepted[i]),
            rejected=int(rejected[i]),
            edited=int(edited[i]),
            undecided=int(undecided[i]),
            undecided_above=int(undecided_above[i]),
            histogram=tuple(histograms[i].tolist()),
        )
        for i, name in enumerate(table.classes)
        if everything[i]
    ]
    return sorted(found, key=lambda one: (-one.labels, one.name))


def suggest_threshold(table: LabelTable, name: str | None = None) -> float:
    """Where the scores (of one class, or all) fall apart into two groups best (Otsu's method); 0.5 without labels."""
    scores = table.rows["confidence"]
    if name is not None:
        scores = scores[table.rows["class"] == table.class_index(name)]
    return parting(scores)


def parting(scores: NDArray[np.float64]) -> float:
    """Where scores fall apart into two groups best; 0.5 for fewer than two."""
    if len(scores) < 2:
        return 0.5
    counts, edges = np.histogram(scores, bins=100, range=(0, 1))
    centres = (edges[1:] + edges[:-1]) / 2
    below, sums = counts.cumsum(), (counts * centres).cumsum()
    weight = below * (len(scores) - below)
    apart = (sums[-1] * below - sums * len(scores)) ** 2 / np.maximum(weight, 1)
    best = np.flatnonzero(apart == apart.max())
    return round(float(edges[1:][best].mean()), 2)


def note_tags(collection: SampleCollection, label_field: str, labels: dict[Any, list[Any]], tag: str | None) -> None:
    """Tells the table, if this process has one, what was just decided: spares it reading thousands of labels again.

    Args:
        collection: where the labels lie.
        label_field: their field.
        labels: id of a sample -> ids of its labels, as they were just written.
        tag: what they are tagged now; ``None`` if they have no tag of a decision any more.
    """
    if not collection._is_generated:
        table_of(collection._dataset, label_field).note(labels, tag)
