"""What must not grow with the dataset: how many samples the database looks at, and how much memory it takes."""

import fiftyone as fo
import numpy as np
import pytest
from support.app import PanelSession
from support.database_work import watched

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset import documents
from fiftyone_ntt.dataset.fields import has_label_tag
from fiftyone_ntt.panels import ntt_review
from fiftyone_ntt.panels.ntt_review import TABS
from fiftyone_ntt.references.tagging import count_references, likely_field
from fiftyone_ntt.review.decisions import undo_last_decision
from fiftyone_ntt.review.label_table import summarise_scores, table_of
from fiftyone_ntt.runs.record import RunRecord, register

SAMPLES, FEW = 120, 12


@pytest.fixture
def labelled(dataset):
    """Many samples with three labels each."""
    mask = np.ones((2, 2), bool)
    dataset.add_samples(
        fo.Sample(
            f"/picture-{i}.png",
            ntt=fo.Detections(detections=[
                fo.Detection(
                    label=name, confidence=0.1 + 0.2 * k, bounding_box=[0, 0, 1, 1], mask=mask, predicted_iou=0.9
                )
                for k, name in enumerate(("cat", "dog", "cat"))
            ]),
        )
        for i in range(SAMPLES)
    )  # fmt: skip
    return dataset


def counts_of(dataset):
    return [(one.name, one.labels, one.accepted, one.rejected) for one in summarise_scores(dataset, "ntt")]


@pytest.mark.parametrize("decide", [ntt.accept_labels, ntt.reject_labels])
def test_a_decision_on_one_label_looks_at_its_sample_alone(labelled, decide):
    counts_of(labelled)
    sample = labelled.skip(60).first()
    with watched(labelled) as work:
        assert decide(labelled, "ntt", label_ids=[sample.ntt.detections[1].id]) == 1
        after = counts_of(labelled)
        assert undo_last_decision(labelled, "ntt") == 1
        before = counts_of(labelled)
    assert work.operations and work.documents < FEW
    which = 2 if decide is ntt.accept_labels else 3
    assert [row[which] for row in after] == [0, 1] and [row[which] for row in before] == [0, 0]


def test_labels_of_few_samples_are_fetched_at_once(labelled, monkeypatch):
    """With the database's own batches of 16 MB, all that follow the first hundred would be here at once."""
    cursors, aggregate = [], fo.Dataset._aggregate
    monkeypatch.setattr(documents, "_SAMPLES_AT_ONCE", 10)
    monkeypatch.setattr(
        fo.Dataset, "_aggregate", lambda *each, **named: cursors.append(aggregate(*each, **named)) or cursors[-1]
    )
    rows = documents.label_parts(labelled, "ntt", ["_id"])
    first = [next(rows) for _ in range(SAMPLES - 15)]
    assert len(cursors) == 1 and cursors[0].cursor_id  # the server has not given all of them yet
    assert len({sample_id for sample_id, _ in [*first, *rows]}) == SAMPLES and not cursors[0].cursor_id


def test_a_decision_on_a_label_that_came_since(labelled):
    counts_of(labelled)
    sample = labelled.skip(60).first()
    new = fo.Detection(label="cat", confidence=0.9, bounding_box=[0, 0, 1, 1])
    sample.ntt.detections.append(new)
    sample.save()
    assert ntt.accept_labels(labelled, "ntt", label_ids=[new.id]) == 1
    assert counts_of(labelled) == [("cat", 2 * SAMPLES + 1, 1, 0), ("dog", SAMPLES, 0, 0)]


def test_nothing_changed_looks_at_no_sample(labelled):
    table = table_of(labelled, "ntt").refreshed()
    with watched(labelled) as work:
        assert table.refreshed() is table
    assert work.operations and work.documents == 0


def test_a_change_is_read_alone(labelled):
    table = table_of(labelled, "ntt").refreshed()
    rows = table.rows
    sample = labelled.skip(60).first()
    sample.ntt.detections[0].tags.append("ntt:accepted")
    sample.save()
    with watched(labelled) as work:
        table.refreshed()
    assert work.documents < FEW
    assert table.rows is rows  # nothing was joined again
    assert counts_of(labelled) == [("cat", 2 * SAMPLES, 1, 0), ("dog", SAMPLES, 0, 0)]


def test_dates_that_change_hands_are_all_seen(labelled):
    """One sample takes the date that another one had, and that one a new one: no date has more samples than before."""
    table = table_of(labelled, "ntt").refreshed()
    samples = labelled._sample_collection
    first, second = samples.find({}, {"last_modified_at": 1}).limit(2)
    dates = [first["last_modified_at"], max(row["last_modified_at"] for row in samples.find({}))]
    later = dates[1].replace(year=dates[1].year + 1)
    accept = {"ntt.detections.0.tags": ["ntt:accepted"]}
    samples.update_one({"_id": first["_id"]}, {"$set": {"last_modified_at": later, **accept}})
    samples.update_one({"_id": second["_id"]}, {"$set": {"last_modified_at": dates[0], **accept}})
    table.refreshed()
    assert counts_of(labelled) == [("cat", 2 * SAMPLES, 2, 0), ("dog", SAMPLES, 0, 0)]


def test_samples_that_come_and_go_make_other_rows(labelled):
    before = counts_of(labelled)
    labelled.delete_samples(labelled.limit(5))
    labelled.add_sample(labelled.first().copy())
    assert counts_of(labelled) != before
    assert counts_of(labelled) == [("cat", 2 * (SAMPLES - 4), 0, 0), ("dog", SAMPLES - 4, 0, 0)]


@pytest.fixture
def run_done(labelled):
    """The same labels as of a run that is through, and a ground truth."""
    samples = list(labelled.iter_samples())
    for sample in samples:
        sample["ground_truth"] = fo.Detections(detections=[fo.Detection(label="cat", bounding_box=[0, 0, 1, 1])])
        sample.save()
    register(labelled, RunRecord("ntt_ntt", "ntt", ["cat", "dog"], "lite", "0" * 64, {}, {}, 16))
    status = {"run_key": "ntt_ntt", "state": "ok", "error": None, "seconds": 0.1, "_cls": "DynamicEmbeddedDocument"}
    labelled._sample_collection.update_many({}, {"$set": {"ntt_status": status}})
    return labelled


@pytest.mark.parametrize("tab", TABS)
def test_opening_a_tab_looks_at_few_samples(run_done, tab):
    table_of(run_done, "ntt").refreshed()
    with watched(run_done) as work:
        PanelSession(run_done, tab)
    assert work.documents < FEW, [(one.get("docsExamined"), one.get("command")) for one in work.operations]


def test_the_first_opening_makes_the_indexes(labelled, monkeypatch):
    """No run, no reference: nothing has made them yet. Of a small dataset it makes none, which a page could trip on."""
    PanelSession(labelled, "references")
    assert "tags" not in labelled.list_indexes()
    monkeypatch.setattr(ntt_review, "LARGE", 1)
    with watched(labelled) as work:
        PanelSession(labelled, "references")
    assert work.documents < FEW, [(one.get("docsExamined"), one.get("command")) for one in work.operations]
    assert {"tags", "ntt.detections.tags"} <= set(labelled.list_indexes())


@pytest.mark.parametrize("field", ["ground_truth", "ntt"])
def test_tags_of_labels_are_found_by_the_index(run_done, field):
    with watched(run_done) as work:
        assert not has_label_tag(run_done, field, "ntt:reference")
    assert work.operations and work.documents == 0
    label = run_done.skip(50).first()[field].detections[0]
    ntt.use_as_references(run_done, field, label_ids=[label.id])
    with watched(run_done) as work:
        assert has_label_tag(run_done, field, "ntt:reference")
        assert count_references(run_done, field) == {"cat": 1}
        assert likely_field(run_done) == field
    assert work.documents < FEW
    assert not has_label_tag(run_done.limit(5), field, "ntt:reference")
    assert has_label_tag(run_done.skip(50).limit(1), field, "ntt:reference")


def test_undo_asks_the_database_by_the_chunk(run_done):
    kept = run_done.skip(7).first()
    kept.ntt.detections[0].tags = ["ntt:accepted"]
    kept.save()
    with watched(run_done, "execution_store") as work:
        assert ntt.undo_run(run_done, "ntt_ntt") == 3 * SAMPLES - 1
    asked = [str(operation["command"]) for operation in work.operations if operation["op"] == "query"]
    assert asked and not [text for text in asked if "'sample:" in text]  # nothing was replaced: nothing is looked for
    assert [len(sample.ntt.detections) for sample in run_done.exists("ntt")] == [1]
    assert run_done.first().ground_truth.detections
