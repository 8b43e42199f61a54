"""The review tab through real panel contexts: what each event tells the App, and what becomes of the view."""

import fiftyone as fo
import numpy as np
import pytest
from support.app import PanelSession, registered_panel, requests_of

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.dataset.labels import fingerprint
from fiftyone_ntt.dataset.storage import store
from fiftyone_ntt.panels.ntt_review import NttReview, open_tab
from fiftyone_ntt.panels.review_tab import ReviewTab
from fiftyone_ntt.review.label_table import summarise_scores, table_of
from fiftyone_ntt.runs.mending import LEARNED_STORE
from fiftyone_ntt.runs.record import RunRecord, register

SCORES = (0.1, 0.2, 0.3, 0.7, 0.9)


@pytest.fixture
def review(dataset):
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


def label(name, score):
    return fo.Detection(label=name, confidence=score, similarity=score, alternative_similarity=score / 2,
                        predicted_iou=0.9, bounding_box=[0, 0, 1, 1], mask=np.ones((2, 2), bool),
                        written=fingerprint(name, [0, 0, 1, 1], np.ones((2, 2), bool)))  # fmt: skip


def rows(session):
    return {row["class"]: (row["labels"], row["above"], row["accepted"], row["rejected"]) for row in rows_of(session)}


def rows_of(session):
    return session.data["review_rows"]


def scores(session):
    return sorted((one.label, one.confidence) for sample in session.grid for one in sample.ntt.detections)


def test_without_a_run_it_says_what_to_do(dataset):
    dataset.add_sample(fo.Sample("/picture.png"))
    session = PanelSession(dataset, "review")
    assert "Nothing to review yet" in session.drawn and "Runs" in session.drawn


def test_labels_are_read_in_the_background(dataset, review, monkeypatch):
    from fiftyone_ntt.review import label_table

    monkeypatch.setattr(label_table, "_tables", {})
    monkeypatch.setattr(label_table.LabelTable, "refresh", lambda self, wait: False)
    session = PanelSession(dataset, "review")
    assert "Reading labels" in session.drawn and "TimerView" in session.drawn
    monkeypatch.undo()
    table_of(dataset, "ntt").refreshed()
    assert "Reading labels" not in session.send("on_review_refresh").drawn


def test_opening_counts_and_leaves_the_grid_alone(review):
    assert 0.3 <= review.state["review_threshold"] <= 0.7
    assert rows(review) == {"All classes": (16, 7, 0, 0), "cat": (15, 6, 0, 0), "dog": (1, 1, 0, 0)}
    assert not review.view._stages and not review.filters
    review.send("on_review_threshold", value=review.state["review_threshold"])
    assert review.filters and len(scores(review)) == 7, "pressing the slider where it stands filters as well"


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


def test_what_a_person_drew_is_above_every_threshold(review):
    sample = review.dataset.first()
    sample.ntt.detections.append(fo.Detection(label="cat", bounding_box=[0, 0, 1, 1]))
    sample.save()
    review.send("on_review_threshold", value=0.85)
    assert len([score for _name, score in scores_with_none(review) if score is None]) == 1


def draw_and_correct(dataset):
    """A person draws a label and gives another the right mask; FiftyOne's editor tags neither. Returns their ids."""
    sample = dataset.first()
    drawn, corrected = fo.Detection(label="cat", bounding_box=[0, 0, 1, 1]), sample.ntt.detections[0]
    corrected.mask = np.eye(2, dtype=bool)
    sample.ntt.detections.append(drawn)
    sample.save()
    return {drawn.id, corrected.id}


def by_the_panel(review):
    review.send("on_review_threshold", value=0.5).send("on_review_refresh")
    assert review.state["review_undecided"]["below"] == 8
    assert review.send("on_review_reject_below").execute() == 8


def from_python(review):
    assert ntt.reject_labels(review.dataset, below=0.5, undecided=True) == 8


def on_the_command_line(review):
    assert main(["reject", review.dataset.name, "--below", "0.5", "--undecided"]) == 0


def of_patches(review):
    assert ntt.reject_labels(review.dataset.to_patches("ntt"), below=0.5, undecided=True) == 8


@pytest.mark.parametrize("reject", [by_the_panel, from_python, on_the_command_line, of_patches])
def test_what_a_person_drew_or_corrected_is_decided(review, reject):
    """Of nine labels of at most 0.5 one was corrected; one more was drawn, and the database has nothing for less."""
    by_person = draw_and_correct(review.dataset)
    table_of(review.dataset, "ntt").refreshed()
    reject(review)
    rejected = {one.id for sample in review.dataset for one in sample.ntt.detections if "ntt:rejected" in one.tags}
    assert len(rejected) == 8 and not rejected & by_person
    assert len(table_of(review.dataset, "ntt").refreshed().edited()) == 2
    (cats,) = [one for one in summarise_scores(review.dataset) if one.name == "cat"]
    assert (cats.edited, cats.drawn, cats.rejected) == (2, 1, 8)


def test_labels_without_a_score_are_below_no_threshold(review):
    by_person = draw_and_correct(review.dataset)
    assert ntt.reject_labels(review.dataset, below=0.5) == 9
    tags = {one.id: one.tags for sample in review.dataset for one in sample.ntt.detections}
    assert sorted(map(tags.get, by_person)) == [[], ["ntt:rejected"]], "the corrected one has its score"


def scores_with_none(session):
    return [(one.label, one.confidence) for sample in session.grid for one in sample.ntt.detections]


def test_the_most_doubtful(review):
    press_threshold(review)
    for by in ("threshold", "classes", "mask", "merged"):
        review.send("on_review_doubt", by=by)
        assert len(scores(review)) == 16, "those below the threshold too"
    review.send("on_review_show_all")
    assert not review.view._stages and not review.filters


def numbers_on_buttons(review):
    return review.state["review_undecided"]


def test_buttons_count_what_the_grid_shows(review):
    review.view = review.dataset.limit(2)
    press_threshold(review)
    assert numbers_on_buttons(review) == {"above": 5, "below": 6}
    assert "Accept all 5 undecided above" in review.drawn
    review.send("on_review_class", value="dog")
    assert numbers_on_buttons(review) == {"above": 1, "below": 0}
    review.filters["ntt.detections.similarity"] = {"range": [0.8, 1], "exclude": False, "isMatching": False}
    review.send("on_review_refresh")
    assert numbers_on_buttons(review) == {"above": None, "below": None}, "only the database could tell"
    review.send("on_review_accept_above")
    assert not review.prompts[-1]["skip_prompt"] and review.execute() == 1


def test_much_is_asked_first_and_can_be_undone(review):
    import fiftyone_ntt as ntt

    for sample in review.dataset:
        sample.ntt.detections.extend(label("cat", 0.8) for _ in range(6))
        sample.save()
    ntt.reject_labels(review.dataset, classes=["dog"])
    table_of(review.dataset, "ntt").refreshed()
    press_threshold(review)
    review.send("on_review_accept_above")
    assert not review.prompts[-1]["skip_prompt"] and "24 labels above 0.6 in 3 images" in review.question()
    assert review.execute() == 24
    assert "Undo: 24 labels accepted" in review.send("on_review_refresh").drawn
    review.send("on_review_undo")
    assert rows(review)["All classes"][2:] == (0, 1), "the rejected dog stays rejected"
    assert "Undo: " not in review.send("on_review_refresh").drawn


def test_bulk_decisions_reach_hidden_labels_not_decided_ones(review):
    import fiftyone_ntt as ntt

    ntt.reject_labels(review.dataset, classes=["dog"])
    review.send("on_review_threshold", value=0.5)
    review.send("on_review_class", value="cat")
    review.send("on_review_accept_above")
    assert review.execute() == 6
    review.send("on_review_class", value="All classes").send("on_review_reject_below")
    assert review.execute() == 9
    review.send("on_review_refresh")
    assert rows(review) == {"All classes": (16, 7, 6, 10), "cat": (15, 6, 6, 9), "dog": (1, 1, 0, 1)}


def test_after_a_run_the_panel_goes_on_to_its_labels(review):
    ctx = review.context
    NttReview().tabs["review"].open_on(ctx, "ntt")
    asked = dict(requests_of(ctx))
    assert open_tab(ctx) == "review" and asked["set_active_fields"] == {"fields": ["ntt"]}
    low = asked["set_filters"]["ntt.detections.confidence"]["range"][0]
    assert low == pytest.approx(ctx.panel.state.review_threshold) and 0.3 <= low <= 0.7


def test_labels_that_the_run_left_out_can_be_brought_back(review):
    assert "Bring weaker labels back" not in review.send("on_review_threshold", value=0.15).drawn
    register(
        review.dataset, RunRecord("run", "ntt", ["cat", "dog"], "lite", "0" * 64, {}, {}, 4, thresholds=[0.2, 0.3])
    )
    drawn = review.send("on_review_threshold", value=0.25).drawn
    assert "left out labels below 0.3" in drawn and "those above 0.25" in drawn
    assert "left out" not in review.send("on_review_class", value="cat").drawn, "of cats all above 0.2 are there"
    review.send("on_review_lower")
    assert review.prompts[-1]["operator_uri"].endswith("/lower_threshold")
    assert review.prompts[-1]["params"] == {"run_key": "run", "score_threshold": 0.25}


def test_selected_labels(review):
    review.send("on_review_accept")
    assert review.prompts == [] and "Select labels first" in review.messages[0]
    sample = review.dataset.first()
    chosen = [{"field": "ntt", "label_id": sample.ntt.detections[0].id, "sample_id": sample.id}]
    review.send("on_review_accept", selected_labels=chosen)
    review.send("on_review_reject", selected=[sample.id])
    assert [one["skip_prompt"] for one in review.prompts] == [True, False]


def test_the_export_is_asked_for_the_field_under_review(review):
    review.send("on_review_export")
    assert review.prompts[-1]["operator_uri"].endswith("/export_labels")
    assert review.prompts[-1]["params"]["label_field"] == "ntt"


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
    """Another field of the same labels beside the one under review."""
    register(review.dataset, RunRecord("second", "other", ["cat", "dog"], "lite", "0" * 64, {}, {}, 4))
    for sample in review.dataset:
        sample["other"] = fo.Detections(detections=[label("cat", score) for score in SCORES])
        sample.save()
    table_of(review.dataset, "other").refreshed()
    return review.send("on_review_refresh")


@pytest.mark.parametrize("press", [press_threshold, press_class, press_uncertain])
def test_another_field_is_not_said_to_be_filtered(two_fields, press):
    press(two_fields)
    two_fields.send("on_review_field", value="other")
    assert two_fields.filters == {} and not stages(two_fields) and not two_fields.state["review_filtered"]
    assert two_fields.state["review_choices"]["review_class"] == "All classes"


def test_labels_that_are_gone_are_said_to_be(two_fields):
    """By every event: the run was undone in another window."""
    two_fields.dataset.delete_sample_field("ntt")
    for event in ReviewTab(registered_panel()).events():
        two_fields.state["review_field"], two_fields.messages = "ntt", []
        two_fields.send(f"on_review_{event}", value="other")
        assert two_fields.state["review_field"] == "other" and rows(two_fields)["cat"][0] == 15, event
        gone = [] if event in ("refresh", "field") else ["The labels of a run in 'ntt' are gone."]
        assert two_fields.messages == gone and not two_fields.prompts, event


def test_after_another_run_the_review_begins_anew(review):
    """Its own filters of before say nothing of the labels of now."""
    suggested = review.state["review_threshold"]
    review.send("on_review_class", value="dog").send("on_review_threshold", value=0.95).send("on_review_refresh")
    ReviewTab(registered_panel()).open_on(review.context, "ntt")
    state = review.context.panel.state
    assert state.review_threshold == suggested and state.review_class == "All classes"


def test_bringing_labels_back_is_followed_as_a_run_is(review):
    prompt = review.send("on_review_lower").prompts[-1]
    assert prompt["operator_uri"].endswith("/lower_threshold") and "on_runs_lowering" in str(prompt["on_success"])


def test_a_class_that_is_gone_is_not_chosen_any_more(review):
    review.send("on_review_class", value="dog")
    first = review.dataset.first()
    first.ntt.detections = [one for one in first.ntt.detections if one.label != "dog"]
    first.save()
    table_of(review.dataset, "ntt").refreshed()
    review.send("on_review_refresh")
    assert review.state["review_choices"]["review_class"] == "All classes"
    assert {name for name, _ in scores(review)} == {"cat"}


def test_what_is_shown_is_not_carried_to_another_field(two_fields):
    press_rejected(two_fields)
    two_fields.dataset.delete_sample_field("ntt")
    two_fields.send("on_review_refresh")
    assert two_fields.state["review_choices"] == {
        "review_class": "All classes", "review_field": "other", "review_shown": "Above the threshold"}  # fmt: skip
