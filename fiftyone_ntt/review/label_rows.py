"""The rows of the label table: what review asks of a label, in a few bytes, and what is counted of all of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import ACCEPTED_TAG, REJECTED_TAG

BINS = 25
"""Bars of a histogram, from score 0 to 1."""
DECISIONS = UNDECIDED, ACCEPTED, REJECTED, EDITED = range(4)
"""What a person did to a label."""

Rows = NDArray[np.void]
"""One row a label; the fields are those of ``ROW``."""
ROW = np.dtype(
    [
        ("label", "V12"),
        ("sample", np.int32),
        ("class", np.int32),
        ("confidence", np.float64),
        ("predicted_iou", np.float64),
        ("similarity", np.float64),
        ("alternative_similarity", np.float64),
        ("tagged", np.int8),
        ("edited", np.bool_),
    ]
)
TAIL = np.dtype({"names": ["tail"], "formats": ["<u4"], "offsets": [8], "itemsize": ROW.itemsize})
"""The last four bytes of each label's id, by which labels are found quickly."""
SCORES = ("predicted_iou", "similarity", "alternative_similarity")


def decisions(rows: Rows) -> NDArray[np.int8]:
    """What was decided on each row; acceptance and rejection say more than an edit."""
    edited: NDArray[np.int8] = np.where((rows["tagged"] == UNDECIDED) & rows["edited"], EDITED, rows["tagged"])
    return edited


@dataclass(frozen=True, eq=False)
class Columns:
    """What is counted of all labels at every event, each side by side in memory: rows are 70 bytes apart.

    Attributes:
        version: of the table.
        rows: the rows.
        classes: int32 ``[labels]``.
        decided: int8 ``[labels]``, see ``decisions``.
        confidence: float64 ``[labels]``.
        histograms: int64 ``[classes, BINS]``, labels by confidence.
    """

    version: int
    rows: Rows
    classes: NDArray[np.int32]
    decided: NDArray[np.int8]
    confidence: NDArray[np.float64]
    histograms: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows, classes: int, version: int) -> Columns:
        """Those of all rows."""
        confidence, kinds = np.ascontiguousarray(rows["confidence"]), np.ascontiguousarray(rows["class"])
        bins = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
        histograms = np.bincount(kinds * BINS + bins, minlength=classes * BINS).reshape(classes, BINS)
        return cls(version, rows, kinds, decisions(rows), confidence, histograms)


def number_or(value: Any, otherwise: float) -> float:
    """A score as it should be; something else may stand there in labels of strangers."""
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else otherwise


def decision_of(tags: Collection[Any]) -> int:
    """What the tags of a label say was decided on it."""
    return REJECTED if REJECTED_TAG in tags else ACCEPTED if ACCEPTED_TAG in tags else UNDECIDED
