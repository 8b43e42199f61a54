"""The review tab and the grid's filters: what each button shows, and what the App forgets meanwhile."""

import pytest
from support.app import PanelSession
from support.review_panel import (
    press_changed,
    press_class,
    press_rejected,
    press_threshold,
    press_uncertain,
    reviewed_session,
    scores,
    stages,
    with_another_field,
)


@pytest.fixture
def review(dataset):
    return reviewed_session(dataset)


def test_a_threshold_filters_the_grid_and_does_not_pile_up(review):
    review.view = review.dataset.limit(2)
    for value, left in [(0.85, 3), (0.25, 7), (0.6, 5)]:
        review.send("on_review_threshold", value=value)
        assert len(scores(review)) == left and len(review.filters) == 1
    review.send("on_review_bar", x=0.74)
    assert review.state["review_threshold"] == 0.72 and len(scores(review)) == 3
    review.view = review.view.skip(1)  # a person goes on from there
    review.send("on_review_row", row=1)
    assert review.state["review_class"] == "cat" and scores(review) == [("cat", 0.9)]
    review.send("on_review_show_all")
    assert stages(review) == ["Limit", "Skip"] and review.filters == {}


BUTTONS = (press_threshold, press_class, press_uncertain, press_rejected, press_changed)


@pytest.mark.parametrize("press", BUTTONS)
def test_no_button_hides_labels_from_the_editor(review, press):
    """The editor reads a sample by the view alone, and saves what it read as the whole list."""
    press(review)
    assert review.requests[0][0] == "set_filters", "changes of the page that came before would take them back"
    assert all(len(sample.ntt.detections) >= 5 for sample in review.view)
    assert review.filters or stages(review)


@pytest.mark.parametrize("press", BUTTONS)
def test_a_panel_opened_again_knows_its_own_filters(review, press):
    own = {"ntt.detections.confidence": {"range": [0.15, 1.0], "exclude": False, "isMatching": False}}
    review.view, review.filters = review.dataset.limit(2), dict(own)
    press(review)
    again = PanelSession(review.dataset, "review", view=review.view, filters=review.filters)
    assert again.state["review_filtered"]
    press_threshold(again)
    wanted = 2 if press is press_class else 1  # the class that was chosen stays chosen
    assert [type(stage).__name__ for stage in again.grid._stages].count("FilterLabels") == wanted, "none piles up"
    again.send("on_review_show_all")
    assert stages(again) == ["Limit"] and again.filters == own
    assert not again.state["review_filtered"]


def test_the_slider_follows_the_sidebar(review):
    press_threshold(review)
    review.filters["ntt.detections.confidence"]["range"] = [0.8, 1.0]
    review.send("on_review_refresh")
    assert review.state["review_threshold"] == review.state["review_slider"] == 0.8
    review.filters = {}
    assert not review.send("on_review_refresh").state["review_filtered"]


OWN = {"ntt.detections.label": {"values": ["dog"], "exclude": False, "isMatching": False}}


def at_rest(review):
    """What happens of itself once the App has the filters."""
    assert "on_seen" in review.send("on_kept").drawn
    assert "on_seen" not in review.send("on_seen").drawn and "on_kept" not in review.drawn


def test_filters_that_the_app_forgets_are_sent_until_it_has_them(review):
    """While it is busy with its page the App goes back to the filters of before, however long that takes."""
    press_threshold(review)
    wanted, review.filters = review.filters, {}
    for _ in range(40):
        assert review.send("on_kept").asked("set_filters") == [wanted] == [review.filters]
        assert [name for name, _ in review.requests] == ["set_filters"], "changes of the panel would load the page anew"
        review.filters = {}
    review.filters = wanted
    assert "on_seen" in review.send("on_kept").drawn
    review.filters = {}
    assert review.send("on_seen").asked("set_filters") == [wanted] and "on_kept" in review.drawn
    at_rest(review)


@pytest.mark.parametrize(
    ("event", "params"),
    [
        ("on_review_refresh", {}),
        ("on_review_refresh", {"original_params": {}}),
        ("on_change_current_sample", {}),
    ],
)
def test_a_change_of_the_panel_may_cost_filters_again(review, event, params):
    press_threshold(review)
    wanted = review.filters
    at_rest(review)
    if not params:
        assert "on_kept" in review.send(event).drawn
    review.filters = {}
    assert review.send(event, **params).asked("set_filters") == [wanted]
    at_rest(review)


def test_what_goes_while_the_app_is_at_rest_was_taken_away(review):
    press_threshold(review)
    at_rest(review)
    review.filters = {}
    review.send("on_review_refresh")
    assert not review.asked("set_filters") and not review.state["review_filtered"] and "on_kept" not in review.drawn
    press_threshold(review)
    assert review.filters and "on_kept" in review.drawn


def test_what_is_wanted_counts_while_the_app_is_busy(review):
    press_threshold(review)
    wanted, review.filters = review.filters, {}
    review.send("on_review_refresh")
    assert review.state["review_threshold"] == 0.6 and review.state["review_filtered"] and review.filters == wanted
    review.filters = {}
    review.send("on_review_threshold", value=0.85)
    latest = review.filters
    for older in ({}, wanted):  # what was asked for first may come last
        review.filters = older
        assert review.send("on_kept").asked("set_filters") == [latest]
    review.filters, review.opened = {}, review.dataset.first().id
    assert not review.send("on_kept").asked("set_filters"), "an open sample is left in peace"
    review.opened, review.filters = None, OWN
    assert not review.send("on_kept").asked("set_filters") and "on_kept" not in review.drawn, "the person's own win"


def test_late_answers_lose_no_filters(review):
    """An event may know the panel as it was, and its answer may come after a newer one."""
    press_threshold(review)
    before, first = dict(review.state), review.filters
    review.filters = {}
    review.send("on_review_threshold", value=0.85)  # the App knew nothing of the first yet
    latest, review.filters = review.filters, first
    assert review.send("on_kept").asked("set_filters") == [latest], "an earlier one of ours is not the person's"
    now, review.state, review.filters = review.state, before, OWN
    review.send("on_review_refresh")  # lets the first go
    review.state, review.filters = {**now, "kept_filters_done": review.state["kept_filters_done"]}, {}
    assert review.send("on_kept").asked("set_filters") == [latest]
    assert "on_kept" in review.send("on_drawn", drawn="tab_first_review_").drawn, "drawn by an answer that knew of none"


def test_filters_are_not_carried_to_another_dataset(review, dataset):
    press_threshold(review)
    other = dataset.clone()
    try:
        review.dataset, review.view, review.filters = other, other.view(), {}
        assert not review.send("on_kept").asked("set_filters")
        assert not review.send("on_change_dataset").asked("set_filters")
    finally:
        other.delete()


@pytest.mark.parametrize(
    ("event", "value", "state"),
    [
        ("on_review_class", "dog", {"review_class": "dog", "review_shown": "Above the threshold"}),
        ("on_review_shown", "Rejected", {"review_class": "All classes", "review_shown": "Rejected"}),
    ],
)
def test_a_panel_opened_again_knows_what_it_shows(review, event, value, state):
    review.send(event, value=value)
    again = PanelSession(review.dataset, "review", view=review.view, filters=review.filters)
    assert {**state, "review_field": "ntt"} == again.state["review_choices"]
    shown = scores(again)
    again.send("on_review_threshold", value=again.state["review_threshold"])
    if event == "on_review_class":
        assert scores(again) == shown == [("dog", 0.9)]


@pytest.fixture
def two_fields(review):
    return with_another_field(review)


@pytest.mark.parametrize("press", [press_threshold, press_class, press_uncertain])
def test_another_field_is_not_said_to_be_filtered(two_fields, press):
    press(two_fields)
    two_fields.send("on_review_field", value="other")
    assert two_fields.filters == {} and not stages(two_fields) and not two_fields.state["review_filtered"]
    assert two_fields.state["review_choices"]["review_class"] == "All classes"


def test_what_is_shown_is_not_carried_to_another_field(two_fields):
    press_rejected(two_fields)
    two_fields.dataset.delete_sample_field("ntt")
    two_fields.send("on_review_refresh")
    assert two_fields.state["review_choices"] == {
        "review_class": "All classes", "review_field": "other", "review_shown": "Above the threshold"}  # fmt: skip
