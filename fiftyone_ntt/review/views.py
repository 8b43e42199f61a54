"""The views that review shows in the grid, and how to get back from them to what the person was looking at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.stages import ViewStage

from fiftyone_ntt.dataset.fields import DECIDED_TAGS


def above_threshold(view: fo.DatasetView, label_field: str, threshold: float, name: str | None) -> fo.DatasetView:
    """Only labels with a confidence above the threshold (of one class, if it is named), and images that have some."""
    condition = F("confidence") > threshold
    return view.filter_labels(label_field, condition if name is None else condition & (F("label") == name))


def undecided(view: fo.DatasetView, label_field: str) -> fo.DatasetView:
    """Only labels without a tag of a decision, and images that have some."""
    return view.filter_labels(label_field, ~(F("tags") != None).if_else(  # noqa: E711
        F("tags").contains(sorted(DECIDED_TAGS)), False
    ))  # fmt: skip


def added(view: fo.DatasetView, base: fo.DatasetView) -> list[str]:
    """Marks of the stages by which a view goes on from another."""
    return [_mark(stage) for stage in view._stages[len(base._stages) :]]


def without(view: Any, marks: Collection[str]) -> fo.DatasetView:
    """A view without the stages of these marks, so that what review shows does not pile up.

    Args:
        view: what is in the grid now; a person may have changed it since.
        marks: see ``added``.
    """
    plain: fo.DatasetView = view.view()
    kept = [stage for stage in plain._stages if _mark(stage) not in marks]
    return plain if len(kept) == len(plain._stages) else _of_stages(view, kept)


def _of_stages(view: Any, stages: Sequence[ViewStage]) -> fo.DatasetView:
    result = view._root_dataset.view()
    for stage in stages:
        result = result.add_stage(stage)
    return result


def _mark(stage: ViewStage) -> str:
    # Through JSON and back, as a stage goes through the App; its own id is another each time.
    facts = {key: value for key, value in stage._serialize().items() if key != "_uuid"}
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
