"""Counts, histograms and thresholds of a field's labels: the table in memory against a loop over samples."""

from collections import Counter
from datetime import datetime, timedelta, timezone

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.review.label_table import BINS, suggest_threshold, summarise_scores, table_of


@pytest.fixture
def scored(dataset):
    generator = np.random.default_rng(0)
    for i in range(30):
        labels = [
            fo.Detection(label=str(generator.choice(["cat", "dog"])), confidence=float(generator.random()),
                         bounding_box=[0, 0, 1, 1], mask=np.ones((2, 2), bool), predicted_iou=0.9)
            for _ in range(i % 4)
        ]  # fmt: skip
        dataset.add_sample(fo.Sample(f"/picture-{i}.png", ntt=fo.Detections(detections=labels) if i else None))
    return dataset


def by_hand(dataset, threshold=0.5):
    """Class -> the counts, by a loop over samples."""
    counts, histograms = {}, {}
    for sample in dataset:
        for label in (sample.ntt or fo.Detections()).detections:
            row = counts.setdefault(label.label, Counter())
            decision = next(
                (tag[4:] for tag in label.tags if tag[4:] in ("accepted", "rejected", "edited")), "undecided"
            )
            high = label.confidence > threshold
            row.update(["labels", decision, *(["above"] if high else [])])
            row.update(["undecided_above"] if high and decision == "undecided" else [])
            histograms.setdefault(label.label, Counter())[min(int(label.confidence * BINS), BINS - 1)] += 1
    return counts, histograms


def check(dataset, threshold=0.5):
    counts, histograms = by_hand(dataset, threshold)
    found = summarise_scores(dataset, threshold=threshold)
    assert [one.name for one in found] == sorted(counts, key=lambda name: (-counts[name]["labels"], name))
    for one in found:
        for key in ("labels", "above", "accepted", "rejected", "edited", "undecided", "undecided_above"):
            assert getattr(one, key) == counts[one.name][key], (one.name, key)
        assert list(one.histogram) == [histograms[one.name][i] for i in range(BINS)]


def test_counts_follow_every_change(scored):
    check(scored)
    check(scored, threshold=0.8)
    ntt.accept_labels(scored, above=0.7)
    check(scored)
    ntt.reject_labels(scored, classes=["cat"], above=0.6)
    check(scored)
    scored.limit(20).tag_labels("ntt:edited", label_fields="ntt")  # by other means than ours
    check(scored)
    ntt.clear_decisions(scored.limit(10))
    check(scored)
    sample = scored.skip(22).first()
    sample.ntt.detections[0].label = "bird"
    sample.ntt.detections[1].confidence = 1.0
    sample.save()
    check(scored)
    scored.delete_samples(scored.limit(5))
    check(scored)
    scored.add_sample(fo.Sample("/new.png", ntt=fo.Detections(detections=[fo.Detection(label="new", confidence=0.1)])))
    check(scored)
    scored.clear_sample_field("ntt")
    assert summarise_scores(scored) == []


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=400)], ids=str)
@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_a_clock_that_ran_ahead_hides_no_change(scored, monkeypatch, ahead, zone):
    """FiftyOne stamps what it writes with the clock of its machine; only later stamps were looked at."""
    monkeypatch.setattr(fo.config, "timezone", zone)
    check(scored)
    stamp = {"$set": {"last_modified_at": datetime.now(timezone.utc) + ahead}}
    database_collection(scored).update_one({"_id": ObjectId(scored.skip(2).first().id)}, stamp)
    check(scored)
    scored.skip(4).limit(6).tag_labels("ntt:rejected", label_fields="ntt")
    check(scored)
    scored.delete_labels(tags="ntt:rejected", fields="ntt")
    scored.skip(20).limit(3).tag_labels("ntt:accepted", label_fields="ntt")
    check(scored)


def test_our_own_decisions_need_no_second_reading(scored, monkeypatch):
    table = table_of(scored, "ntt").refreshed()
    monkeypatch.setattr(table, "_read_documents", lambda query: pytest.fail("read again"))
    ntt.accept_labels(scored, above=0.5)
    check(scored)


def test_an_edit_shows_by_its_fingerprint(scored):
    from fiftyone_ntt.dataset import labels

    sample = scored.last()
    label = sample.ntt.detections[0]
    stored = scored._sample_collection.find_one({"_id": sample._id})["ntt"]["detections"][0]
    pixels = np.ones((2, 2), bool)
    prints = (
        labels._of_bytes("", label.bounding_box, stored["mask"]),
        labels._of_pixels("", label.bounding_box, pixels),
        labels._of_class(label.label),
    )
    label["written"] = "-".join(prints)
    sample.save()
    assert sum(one.edited for one in summarise_scores(scored)) == 0
    label.label = "another"
    sample.save()
    assert sum(one.edited for one in summarise_scores(scored)) == 0, "nobody has looked at its mask"
    label.mask = np.array([[True, False], [True, True]])
    sample.save()
    assert sum(one.edited for one in summarise_scores(scored)) == 1


@pytest.mark.parametrize(
    ("scores", "between"),
    [([0.1, 0.15, 0.2, 0.8, 0.85], (0.2, 0.8)), ([0.31, 0.32, 0.6], (0.32, 0.6)), ([], (0.499, 0.501))],
)
def test_a_threshold_is_suggested_between_two_groups(dataset, scores, between):
    labels = [fo.Detection(label="cat", confidence=score) for score in scores]
    dataset.add_sample(fo.Sample("/picture.png", ntt=fo.Detections(detections=labels)))
    assert between[0] < suggest_threshold(table_of(dataset, "ntt").refreshed()) < between[1]


def test_refusals(scored):
    with pytest.raises(InputError, match="field 'nope'"):
        summarise_scores(scored, "nope")
    with pytest.raises(InputError, match="between 0 and 1"):
        summarise_scores(scored, threshold=2)
