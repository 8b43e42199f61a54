"""What the last learning on a field found, kept with the dataset for whoever opens the panel."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
from fiftyone.operators import ExecutionStore

from fiftyone_ntt.review.learn import LearnReport

MOST_IDS = 5000
"""Changed samples that are noted: nobody looks at more, and the App would be slow to show them."""


def keep_outcome(dataset: fo.Dataset, report: LearnReport) -> dict[str, Any]:
    """Keeps what a panel shows of a report, in place of what was kept for this field; returns it."""
    outcome = {
        "summary": str(report),
        "rows": report.rows(),
        "changed": report.changed[:MOST_IDS],
        "applied": report.applied is not None,
        "threshold": report.threshold,
    }
    _store(dataset).set(report.label_field, outcome)
    return outcome


def last_outcome(dataset: fo.Dataset, label_field: str) -> dict[str, Any] | None:
    """What ``keep_outcome`` kept for a field; ``None`` if there is nothing."""
    found: dict[str, Any] | None = _store(dataset).get(label_field)
    return found


def forget_outcome(dataset: fo.Dataset, label_field: str) -> None:
    """Forgets it."""
    _store(dataset).delete(label_field)


def _store(dataset: fo.Dataset) -> ExecutionStore:
    return ExecutionStore.create("ntt_learn", dataset._doc.id)
