"""What FiftyOne's editor drops from a view that hides labels comes back; what a person deletes does not."""

import time

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from fiftyone.server.routes.sample import _handle_top_level_patch, save_sample
from support.app import PanelSession, context, operator

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.review import guard
from fiftyone_ntt.review.decisions import undo_last_decision
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.runs.record import RunRecord, register

SCORES = (0.3, 0.9, 0.2, 0.7)


@pytest.fixture
def panel(dataset, monkeypatch):
    """The panel over a picture with four labels of a run; the person's own view hides the two weak ones."""
    monkeypatch.setattr(guard, "_GRACE", -1.0)
    dataset.add_sample(fo.Sample("/picture.png"))
    register(dataset, RunRecord("run", "ntt", ["cat", "dog"], "lite", "0" * 64, {}, {}, 4))
    sample = dataset.first()
    sample["ntt"] = fo.Detections(detections=[label(score) for score in SCORES])
    sample["truth"] = fo.Polylines(polylines=[fo.Polyline(label=name, points=[[(0, 0), (1, 1)]]) for name in "ab"])
    sample.save()
    table_of(dataset, "ntt").refreshed()
    session = PanelSession(dataset, "review")
    session.view = strong(dataset)
    return session


def label(score):
    return fo.Detection(label="cat", confidence=score, predicted_iou=0.9, bounding_box=[score, 0, 0.1, 1],
                        mask=np.eye(4, dtype=bool), written="0-0")  # fmt: skip


def strong(dataset):
    return dataset.filter_labels("ntt", F("confidence") > 0.5)


def open_and_edit(panel, *patches):
    """Opens the picture, sends what the editor sends, and closes it; FiftyOne's own server applies it."""
    panel.opened = panel.dataset.first().id
    panel.send("on_change_current_sample", value=panel.opened)
    panel.dataset.reload()
    save(panel.dataset, *patches)
    panel.opened = None
    return panel.send("on_change_current_sample", value=None)


def save(dataset, *patches):
    sample = dataset.first()
    for patch in patches:
        sample = _handle_top_level_patch(sample, [patch])
        save_sample(sample, None)


def labels(dataset, field="ntt.detections"):
    view = dataset.view()
    view.reload()
    ids, names = view.values([f"{field}.id", f"{field}.label"], unwind=True)
    return dict(zip(ids, names, strict=True))


def by_score(dataset):
    return {one.confidence: one for one in dataset.first().ntt.detections}


def remove(*places):
    return [{"op": "remove", "path": f"/ntt/detections/{place}"} for place in sorted(places, reverse=True)]


def rename(place):
    return {"op": "replace", "path": f"/ntt/detections/{place}/label", "value": "dog"}


def test_hidden_labels_come_back_in_their_order(panel):
    before = labels(panel.dataset)
    open_and_edit(panel, rename(1), *remove(0, 2))
    after = labels(panel.dataset)
    assert list(after) == list(before) and list(after.values()) == ["cat", "dog", "cat", "cat"]
    assert "had dropped 2 labels" in panel.messages[-1] and panel.asked("reload_samples")
    assert all(one.mask.shape == (4, 4) for one in panel.dataset.first().ntt.detections)
    panel.send("on_review_refresh")
    assert len(panel.messages) == 1, "it says so once"


def test_labels_come_back_also_where_the_view_hides_all_of_them(panel):
    panel.view = panel.dataset.filter_labels("ntt", F("label") == "dog", only_matches=False)
    before = labels(panel.dataset)
    open_and_edit(panel, *remove(0, 1, 2, 3))
    assert labels(panel.dataset) == before


def test_a_change_that_hit_a_hidden_label_instead_is_taken_back(panel):
    before = labels(panel.dataset)
    open_and_edit(panel, rename(0))
    assert labels(panel.dataset) == before and "1 label, or" in panel.messages[-1]


def test_a_label_in_sight_that_is_deleted_stays_deleted(panel):
    chosen = by_score(panel.dataset)[0.9].id
    before = labels(panel.dataset)
    open_and_edit(panel, *remove(0, 1, 2))
    assert set(labels(panel.dataset)) == set(before) - {chosen}


def test_with_all_labels_in_sight_nothing_comes_back(panel):
    panel.view = panel.dataset.view()
    panel.filters = {"ntt.detections.confidence": {"range": [0.5, 1], "exclude": False, "isMatching": False}}
    open_and_edit(panel, *remove(0, 1))
    assert len(labels(panel.dataset)) == 2 and not panel.messages


def test_nothing_comes_back_while_the_sample_is_open_or_twice(panel):
    panel.opened = panel.dataset.first().id
    panel.send("on_change_current_sample", value=panel.opened)
    panel.dataset.set_values("ntt.detections", [panel.dataset.first().ntt.detections[1:]])
    panel.send("on_review_refresh")
    assert len(labels(panel.dataset)) == 3
    panel.opened = None
    again = PanelSession(panel.dataset, "references")  # the page was loaded anew
    assert len(labels(panel.dataset)) == 4 and again.messages
    again.send("on_review_refresh")
    panel.dataset.set_values("ntt.detections", [[]])
    again.send("on_review_refresh")
    assert labels(panel.dataset) == {}, "what happens later has other reasons"


# FiftyOne's App says nothing when its page is closed
@pytest.mark.parametrize(("hours", "left"), [(1, 4), (30, 2)])
def test_what_is_deleted_days_later_stays_deleted(panel, monkeypatch, hours, left):
    """A sample was open when the browser was closed; its hidden labels are deleted on purpose in a notebook."""
    panel.opened = panel.dataset.first().id
    panel.send("on_change_current_sample", value=panel.opened)
    hidden = [label.id for label in panel.dataset.first().ntt.detections if label.confidence < 0.5]
    panel.dataset.delete_labels(ids=hidden, fields="ntt")
    later = time.time() + hours * 3600
    monkeypatch.setattr("fiftyone_ntt.review.guard.time.time", lambda: later)
    panel.opened = None
    panel.send("on_change_current_sample", value=None)
    assert len(labels(panel.dataset)) == left


def test_what_is_deleted_when_it_is_opened_again_stays_deleted(panel):
    """Between the two there may be no event of the panel that would forget what was kept."""
    dataset, chosen = panel.dataset, by_score(panel.dataset)[0.2].id
    guard.watch(dataset, strong(dataset), dataset.first().id)
    guard.put_back(dataset, None)  # closed
    guard.watch(dataset, dataset.view(), dataset.first().id)  # and opened with all labels in sight
    dataset.delete_labels(ids=[chosen], fields="ntt")
    guard.put_back(dataset, None)
    assert chosen not in labels(dataset) and len(labels(dataset)) == 3


def test_decisions_made_meanwhile_stay(panel):
    panel.opened = panel.dataset.first().id
    panel.send("on_change_current_sample", value=panel.opened)
    ntt.reject_labels(panel.dataset, below=0.25)
    open_and_edit(panel, *remove(0))
    assert by_score(panel.dataset)[0.2].tags == ["ntt:rejected"] and len(labels(panel.dataset)) == 4


def test_what_a_run_takes_away_meanwhile_stays_away(panel):
    panel.opened = panel.dataset.first().id
    panel.send("on_change_current_sample", value=panel.opened)
    sample = panel.dataset.first()
    sample["ntt"] = fo.Detections(detections=[label(0.8)])
    sample.save()
    panel.opened = None
    panel.send("on_change_current_sample", value=None)
    assert len(labels(panel.dataset)) == 1 and not panel.messages


def test_without_a_panel_the_button_of_an_open_image_sees_to_it(panel, dataset):
    button, before = operator("accept_labels"), labels(dataset)
    button.resolve_placement(context("accept_labels", strong(dataset), current_sample=dataset.first().id))
    save(dataset, *remove(0, 2))
    button.resolve_placement(context("accept_labels", strong(dataset)))
    assert labels(dataset) == before
    assert "had dropped 2 labels" in panel.send("on_review_refresh").messages[-1], "the next panel says so"
    assert len(panel.send("on_review_refresh").messages) == 1


def test_other_fields_and_other_kinds_of_labels_come_back_too(panel):
    panel.view = panel.dataset.filter_labels("truth", F("label") == "b")
    before = labels(panel.dataset, "truth.polylines")
    open_and_edit(panel, {"op": "remove", "path": "/truth/polylines/0"})
    assert labels(panel.dataset, "truth.polylines") == before


def test_a_saved_view_hides_labels_as_well(panel):
    panel.dataset.save_view("strong", strong(panel.dataset))
    panel.view = panel.dataset.load_saved_view("strong")
    before = labels(panel.dataset)
    open_and_edit(panel, *remove(0, 2))
    assert labels(panel.dataset) == before


def untag(place):
    """What the editor saves of a label whose decision it does not know yet, and FiftyOne's menu of one taken off."""
    return {"op": "replace", "path": f"/ntt/detections/{place}/tags", "value": []}


def decided(panel, above=0.6):
    """All labels are in sight, and the strong ones, numbers 1 and 3 of the list, are accepted."""
    panel.view = panel.dataset.view()
    ntt.accept_labels(panel.dataset, above=above)


def test_a_decision_that_the_editor_does_not_know_comes_back(panel):
    decided(panel)
    open_and_edit(panel, rename(0), untag(3))
    assert {score: one.tags for score, one in by_score(panel.dataset).items()} == {
        0.3: [], 0.9: ["ntt:accepted"], 0.2: [], 0.7: ["ntt:accepted"],
    }  # fmt: skip
    assert by_score(panel.dataset)[0.3].label == "dog" and "decisions" in panel.messages[-1]


@pytest.mark.parametrize("on_purpose", ["FiftyOne's menu", "our operator", "undo"])
def test_a_decision_taken_back_on_purpose_stays_away(panel, on_purpose):
    decided(panel)
    panel.opened = panel.dataset.first().id
    panel.send("on_change_current_sample", value=panel.opened)
    if on_purpose == "our operator":
        ntt.clear_decisions(panel.dataset)
    elif on_purpose == "undo":
        undo_last_decision(panel.dataset, "ntt")
    patches = [untag(1), untag(3)] if on_purpose == "FiftyOne's menu" else [rename(0)]
    open_and_edit(panel, *patches)
    assert not any(one.tags for one in by_score(panel.dataset).values())


CLEARED = {
    "field": lambda dataset, field: dataset.clear_sample_field(field),
    "view": lambda dataset, field: dataset.limit(1).clear_sample_field(field),
    "none": lambda dataset, field: dataset.set_values(field, [None]),
    "missing": lambda dataset, field: database_collection(dataset).update_one({}, {"$unset": {field: 1}}),
    "deleted": lambda dataset, field: dataset.delete_sample_field(field),
}


@pytest.mark.parametrize("clear", CLEARED.values(), ids=CLEARED)
@pytest.mark.parametrize("field", ["ntt", "truth"])
def test_what_is_cleared_on_purpose_stays_away(panel, clear, field):
    """In a notebook, while the image is open under a view that hides some of its labels."""
    ntt.accept_labels(panel.dataset.limit(1), "ntt", above=0.8)
    panel.view = strong(panel.dataset).filter_labels("truth", F("label") == "b", only_matches=False)
    panel.opened = panel.dataset.first().id
    panel.send("on_change_current_sample", value=panel.opened)
    clear(panel.dataset, field)
    panel.opened = None
    panel.send("on_change_current_sample", value=None)
    assert (database_collection(panel.dataset).find_one() or {}).get(field) is None and not panel.messages
