"""Precision and recall of the labels above the score threshold at which a review begins.

AP ranks labels of every score. What a person works with is what lies above one threshold: here is how good that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import dataset_of
from fiftyone_ntt.errors import counted
from fiftyone_ntt.evaluation.found import Found, Matches
from fiftyone_ntt.runs.applied_thresholds import kept_of_run, parting
from fiftyone_ntt.runs.record import provenance_of

GIVEN, FITTED, APPLIED, SUGGESTED = "given", "fitted", "applied", "suggested"
"""Where a threshold comes from."""
_WORDS = {
    GIVEN: "the score threshold that was given",
    FITTED: "the score thresholds fitted to this run",
    APPLIED: "the score thresholds that the run applied",
    SUGGESTED: "the score threshold that is suggested for the review",
}


@dataclass(frozen=True)
class ReviewPoint:
    """Labels above a score threshold, paired with objects at IoU 0.5.

    Attributes:
        basis: ``"given"``, ``"fitted"``, ``"applied"`` by the run, or ``"suggested"``: where the thresholds come from.
        thresholds: class -> its threshold.
        per_class: class -> what is found above it.
    """

    basis: str
    thresholds: Mapping[str, float]
    per_class: Mapping[str, Found]

    @classmethod
    def of(cls, matches: Mapping[str, Matches], basis: str, thresholds: Mapping[str, float]) -> ReviewPoint:
        """What is found above thresholds: class -> threshold, with one for each class."""
        return cls(basis, thresholds, {name: of.above(thresholds[name]) for name, of in matches.items()})

    @property
    def all(self) -> Found:
        """All classes together; classes without an object count too: their labels are wrong."""
        found = self.per_class.values()
        return Found(*(sum(getattr(each, name) for each in found) for name in ("right", "labels", "objects")))

    def __str__(self) -> str:
        low, high = min(self.thresholds.values()), max(self.thresholds.values())
        where = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
        found = self.all
        return (
            f"above {_WORDS[self.basis]} ({where}): right are {found.right} of {counted(found.labels, 'label')} "
            f"(precision {_share(found.precision)}), found are {found.right} of {counted(found.objects, 'object')} "
            f"(recall {_share(found.recall)}), at IoU 0.5"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, fit for JSON."""
        found = self.all
        return {
            "basis": self.basis,
            "precision": found.precision,
            "recall": found.recall,
            "thresholds": dict(self.thresholds),
        }


def review_thresholds(
    view: SampleCollection, label_field: str, classes: Sequence[str], scores: Sequence[float], given: float | None
) -> tuple[str, dict[str, float]]:
    """Where these thresholds come from, and that of each class.

    Args:
        view: what is evaluated.
        label_field: the predictions.
        classes: names.
        scores: of all predictions.
        given: the threshold that a caller chose, if any.
    """
    if given is not None:
        return GIVEN, dict.fromkeys(classes, given)
    record = provenance_of(view, label_field)
    facts = kept_of_run(dataset_of(view), record) if record.get("run_key") and record.get("match") else None
    if facts is not None:
        overall, *rows = facts["rows"]
        fitted = {row["name"]: float(row["threshold"]) for row in rows}
        return FITTED, {name: fitted.get(name, float(overall["threshold"])) for name in classes}
    rest = parting(np.array(scores, np.float64))
    for basis, key in ((SUGGESTED, "suggested"), (APPLIED, "thresholds")):
        if record.get(key) is not None:
            of_run = dict(zip(record["classes"], record[key], strict=True))
            return basis, {name: float(of_run.get(name, rest)) for name in classes}
    floor = float((record.get("match") or {}).get("score_threshold") or 0.0)
    return (APPLIED, dict.fromkeys(classes, floor)) if floor > 0 else (SUGGESTED, dict.fromkeys(classes, rest))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
