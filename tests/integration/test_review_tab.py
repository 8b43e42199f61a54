"""The review tab through real panel contexts: what it counts, and what each event does to the labels."""

import fiftyone as fo
import numpy as np
import pytest
from support.app import PanelSession, registered_panel, requests_of
from support.review_panel import label, press_threshold, reviewed_session, rows, scores, with_another_field

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.panels.ntt_review import NttReview, open_tab
from fiftyone_ntt.panels.review_tab import ReviewTab
from fiftyone_ntt.review import next_images
from fiftyone_ntt.review.label_table import summarise_scores, table_of
from fiftyone_ntt.runs.record import RunRecord, register


@pytest.fixture
def review(dataset):
    return reviewed_session(dataset)


@pytest.fixture
def two_fields(review):
    return with_another_field(review)


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


def test_images_to_review_next(review, monkeypatch):
    """Of the three images that a run labelled, those that nobody is through with, the labels above the threshold."""
    review.send("on_review_threshold", value=0.6)
    first = review.dataset.first()
    ntt.mark_done(review.dataset.select(first.id))
    limits, choose = [], next_images.images_to_review
    monkeypatch.setattr(
        next_images, "images_to_review", lambda *given, **more: limits.append(more) or choose(*given, **more)
    )
    review.send("on_review_next")
    assert limits[0]["seconds"] < 1, "the App waits"
    assert first.id not in review.view.values("id") and len(review.view) == len(review.dataset) - 1
    assert min(score for _, score in scores_with_none(review)) > 0.6
    ntt.mark_done(review.dataset)
    review.send("on_review_next")
    assert "Every image" in review.messages[-1]


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
    assert state.review_threshold == suggested and state.review_class is None


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


@pytest.mark.parametrize("names", [["All classes"], ["All classes", "(All classes)"]], ids=["one", "two"])
def test_a_class_called_all_classes_is_one_class(review, names):
    """It was taken for all of them: "Accept all" accepted the labels of every class."""
    labels = [one for sample in review.dataset for one in sample.ntt.detections]
    for name, one in zip(names, [one for one in labels if one.label == "dog"] + labels, strict=False):
        review.dataset.set_label_values("ntt.detections.label", {one.id: name})
    table_of(review.dataset, "ntt").refreshed()
    review.send("on_review_refresh")
    total, *classes = [row["class"] for row in review.data["review_rows"]]
    assert set(classes) >= set(names) and total not in classes
    for name in names:
        review.send("on_review_row", row=1 + classes.index(name)).send("on_review_threshold", value=0.0)
        assert {label_name for label_name, _ in scores(review)} == {name}
        assert review.state["review_choices"]["review_class"] == name
        assert review.send("on_review_accept_above").prompts[-1]["params"]["classes"] == [name]
    for event in ({"name": "on_review_class", "value": total}, {"name": "on_review_row", "row": 0}):
        review.send("on_review_class", value=names[0]).send(event.pop("name"), **event)
        assert {label_name for label_name, _ in scores(review)} == set(classes)
        assert review.state["review_choices"]["review_class"] == total
        assert "classes" not in review.send("on_review_accept_above").prompts[-1]["params"]
