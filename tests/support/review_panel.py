"""The review tab, open on labels of a run, and what can be pressed in it."""

from __future__ import annotations

import fiftyone as fo
import numpy as np

from fiftyone_ntt.dataset.labels import fingerprint
from fiftyone_ntt.dataset.storage import store
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.runs.mending import LEARNED_STORE
from fiftyone_ntt.runs.record import RunRecord, register
from support.app import PanelSession

SCORES = (0.1, 0.2, 0.3, 0.7, 0.9)


def reviewed_session(dataset):
    """The tab, open on a run's labels: in each of three pictures a cat at every score, in one of them a dog."""
    for i in range(3):
        dataset.add_sample(fo.Sample(f"/picture-{i}.png"))
    register(dataset, RunRecord("run", "ntt", ["cat", "dog"], "lite", "0" * 64, {}, {}, 4))
    for i, sample in enumerate(dataset):
        labels = [label("cat", score) for score in SCORES] + ([label("dog", 0.9)] if i == 0 else [])
        sample["ntt"] = fo.Detections(detections=labels)
        sample.save()
    table_of(dataset, "ntt").refreshed()
    return PanelSession(dataset, "review")


def with_another_field(review):
    """Another field of the same labels beside the one under review."""
    register(review.dataset, RunRecord("second", "other", ["cat", "dog"], "lite", "0" * 64, {}, {}, 4))
    for sample in review.dataset:
        sample["other"] = fo.Detections(detections=[label("cat", score) for score in SCORES])
        sample.save()
    table_of(review.dataset, "other").refreshed()
    return review.send("on_review_refresh")


def label(name, score):
    return fo.Detection(label=name, confidence=score, similarity=score, alternative_similarity=score / 2,
                        predicted_iou=0.9, bounding_box=[0, 0, 1, 1], mask=np.ones((2, 2), bool),
                        written=fingerprint(name, [0, 0, 1, 1], np.ones((2, 2), bool)))  # fmt: skip


def rows_of(session):
    return session.data["review_rows"]


def rows(session):
    return {row["class"]: (row["labels"], row["above"], row["accepted"], row["rejected"]) for row in rows_of(session)}


def scores(session):
    return sorted((one.label, one.confidence) for sample in session.grid for one in sample.ntt.detections)


def stages(session):
    return [type(stage).__name__ for stage in session.view._stages]


def press_threshold(review):
    review.send("on_review_threshold", value=0.6)


def press_class(review):
    review.send("on_review_class", value="cat")


def press_uncertain(review):
    review.send("on_review_doubt", by="classes")


def press_rejected(review):
    review.send("on_review_shown", value="Rejected")


def press_changed(review):
    changed = review.dataset.limit(1).values("id")
    outcome = {"changed": changed, "rows": [], "summary": "1 image changes", "applied": True}
    store(review.dataset, LEARNED_STORE).set("ntt", outcome)
    review.send("on_review_learn_show")
    assert len(review.view) == 1
