"""From a tag to reviewed labels, in the App: each test is what a person does, and what the database says after it.

Each begins on a dataset of its own that has come as far as it needs. ``FIFTYONE_NTT_SCREENSHOTS=FOLDER`` keeps the
pictures of the documentation (``make screenshots``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from app_page import AppPage, eventually, expect
from fiftyone import ViewField as F

from fiftyone_ntt.dataset.fields import ACCEPTED_TAG, REFERENCE_TAG, REJECTED_TAG
from fiftyone_ntt.dataset.labels import is_changed
from fiftyone_ntt.operators.review import ASK_ABOVE
from fiftyone_ntt.references.banks import list_banks
from fiftyone_ntt.runs.listing import list_runs

COINS, COINS_TO_LABEL, MOTORCYCLE = 0, 1, 3
"""Numbers of samples in the grid."""
A_COIN = (0.757, 0.285)
"""Where one lies in ``COINS_TO_LABEL``: x and y, of 1."""
TARGETS = 7
Start = Callable[..., AppPage]


@pytest.fixture
def review(start: Start) -> AppPage:
    """The App with the review tab open, on labels nobody has decided on."""
    app = start("labelled")
    hide_truth(app)
    app.open_panel()
    app.tab("3 Review")
    return app


def hide_truth(app: AppPage) -> None:
    """The grid shows the labels of the run alone."""
    app.hide_field("ground_truth")
    app.toggle_sidebar()


def labels_of(dataset: Any, **wanted: Any) -> dict[str, str]:
    """Id -> class of the labels of the run, as the database has them now."""
    view = dataset.select_labels(fields="ntt", **wanted) if wanted else dataset
    ids, names = view.values(["ntt.detections.id", "ntt.detections.label"], unwind=True)
    return dict(zip(ids, names, strict=True))


def above(dataset: Any, threshold: float) -> Any:
    """The view of the labels above a threshold."""
    return dataset.filter_labels("ntt", F("confidence") > threshold)


def test_selected_samples_become_references(start: Start) -> None:
    app = start("plain")
    app.toggle_sidebar()
    app.open_panel()
    expect(app.panel).to_contain_text("No references yet")
    app.picture("1-start")
    app.toggle_sidebar()
    app.select(COINS)
    app.press_grid_button("use_as_reference")
    app.expect_toast("1 image is a reference now")
    eventually(lambda: app.dataset.match_tags(REFERENCE_TAG).count(), lambda count: count == 1)
    app.select(MOTORCYCLE)
    app.press("Use selection as references")
    app.expect_toast("1 image is a reference now")
    tagged = eventually(lambda: app.dataset.match_tags(REFERENCE_TAG).values("filepath"), lambda paths: len(paths) == 2)
    assert [Path(path).stem for path in tagged] == ["coins_1", "motorcycle_left"]


def test_the_gallery_shows_what_they_teach(start: Start) -> None:
    app = start("referenced")
    app.toggle_sidebar()
    app.open_panel()
    expect(app.panel.get_by_role("img")).to_have_count(7)
    expect(app.panel).to_contain_text("the only one of its class")
    app.picture("2-references")


def test_a_preview_shows_four_images_and_writes_nothing(start: Start) -> None:
    app = start("referenced")
    app.toggle_sidebar()
    app.open_panel()
    before = list(app.dataset.get_field_schema())
    app.press("Preview on 4 images")
    app.expect_done("Nothing has been written")
    expect(app.dialog.get_by_role("img")).to_have_count(4)
    app.picture("3-preview")
    app.close()
    app.dataset.reload()
    assert list(app.dataset.get_field_schema()) == before


def test_the_references_make_a_bank(start: Start) -> None:
    app = start("referenced")
    app.open_panel()
    app.press("Build memory bank")
    app.expect_form("NTT: Build memory bank")
    app.execute()
    assert "6 coin, 1 motorcycle" in app.expect_done()
    app.close()
    expect(app.panel).to_contain_text("as tagged now")
    app.dataset.reload()
    assert list_banks(app.dataset) == ["ntt_bank"]


def test_a_run_labels_the_rest_and_shows_in_its_tab(start: Start) -> None:
    app = start("banked")
    app.toggle_sidebar()
    app.open_panel()
    app.tab("2 Runs")
    app.press("Label images")
    app.expect_form("NTT: Label images")
    expect(app.dialog).to_contain_text("images")
    app.picture("4-form")
    app.execute()
    expect(app.page.get_by_role("dialog")).to_have_count(0)  # it goes on in the background
    row = app.panel.get_by_role("row").filter(has_text="ntt_ntt")
    expect(row).to_contain_text(re.compile("starting|running"))
    app.picture("5-runs-at-work")
    app.expect_after_run("2 Runs")
    app.expect_tab("3 Review")
    app.open(app.dataset.name)  # the page is loaded again
    app.tab("2 Runs")
    expect(row).to_contain_text("7 of 7")
    app.toggle_sidebar()
    app.hide_field("ground_truth")
    app.toggle_sidebar()
    app.picture("5-runs")
    dataset = app.dataset
    dataset.reload()
    assert [run["state"] for run in list_runs(dataset)] == ["completed"]
    assert dataset.count("ntt_status") == TARGETS
    assert dataset.match_tags(REFERENCE_TAG).count("ntt.detections") == 0
    assert dataset.count("ntt.detections") > 20
    assert "ntt" in dataset.active_label_schemas


def show_above_half(review: AppPage) -> None:
    """Moves the slider, and waits until the App keeps what that filters by."""
    review.set_slider(0.5)
    review.expect_filters({"confidence"})
    expect(review.panel.get_by_text("the grid shows labels above")).to_contain_text(re.compile(r"above 0\.(49|5)"))


def test_the_threshold_changes_what_the_grid_shows(review: AppPage) -> None:
    show_above_half(review)
    threshold = float(review.panel.get_by_text("the grid shows labels above").inner_text().rstrip(".").split()[-1])
    wanted = above(review.dataset, threshold)
    assert 0 < len(wanted) < TARGETS
    review.expect_samples(len(wanted))
    review.picture("6-review")


def test_all_above_the_threshold_are_accepted(review: AppPage) -> None:
    show_above_half(review)
    button = review.panel.get_by_role("button", name=re.compile("Accept all .* undecided above"))
    count = int(re.search(r"Accept all (\d+)", button.inner_text()).group(1))
    button.click()
    if count > ASK_ABOVE:
        review.expect_form("NTT: Accept labels")
        review.execute()
    review.expect_toast(f"{count} labels accepted")
    dataset = review.dataset
    assert len(labels_of(dataset, tags=ACCEPTED_TAG)) == count
    accepted = dataset.select_labels(tags=ACCEPTED_TAG, fields="ntt").values("ntt.detections.confidence", unwind=True)
    assert min(accepted) > 0.48
    review.press("Show all")
    review.expect_samples(9)


def test_a_label_selected_in_an_image_is_rejected(review: AppPage) -> None:
    dataset = review.dataset
    review.open_sample(COINS_TO_LABEL)
    review.click_in_sample(*A_COIN)
    review.picture("7-sample")
    review.page.get_by_text("thumb_down", exact=True).last.click()
    expect(review.dialog).to_contain_text("the 1 label you have selected")
    review.execute()
    review.expect_toast("1 label rejected")
    rejected = eventually(lambda: labels_of(dataset, tags=REJECTED_TAG), lambda labels: len(labels) == 1)
    assert set(rejected) <= {label.id for label in dataset.skip(COINS_TO_LABEL).first().ntt.detections}
    review.close_sample()


def test_the_apps_own_editor_changes_a_label(start: Start) -> None:
    """It opens on the field since the run has activated a label schema for it."""
    app = start("labelled")
    hide_truth(app)
    sample = app.dataset.skip(COINS_TO_LABEL).first()
    label = min(sample.ntt.detections, key=lambda label: label.confidence)
    app.open_sample(COINS_TO_LABEL)
    app.page.get_by_text("Annotate", exact=True).first.click()
    expect(app.page.locator("[data-cy^='annotate-label-']")).to_have_count(len(sample.ntt.detections))
    app.page.locator(f"[data-cy='annotate-label-{label.id}']").click()
    app.picture("8-editor")
    app.page.get_by_role("radio", name="motorcycle").check()

    def now() -> Any:
        sample.reload()
        return next(item for item in sample.ntt.detections if item.id == label.id)

    edited = eventually(now, lambda label: label.label == "motorcycle")
    assert is_changed(edited.to_mongo())


def test_learning_shows_first_and_writes_when_told(start: Start) -> None:
    app = start("labelled")
    hide_truth(app)
    dataset = app.dataset
    above(dataset, 0.5).tag_labels(ACCEPTED_TAG, "ntt")
    weak = dataset.filter_labels("ntt", F("confidence") < 0.3)
    scores, ids = (weak.values(f"ntt.detections.{name}", unwind=True) for name in ("confidence", "id"))
    best = sorted(zip(scores, ids, strict=True), reverse=True)[:2]  # the weakest of all would teach nothing
    dataset.select_labels(ids=[label_id for _, label_id in best], fields="ntt").tag_labels(REJECTED_TAG, "ntt")
    app.open_panel()
    app.tab("3 Review")
    before = labels_of(dataset)
    decided = labels_of(dataset, tags=[ACCEPTED_TAG, REJECTED_TAG])
    app.press("Learn from my decisions")
    app.expect_form("NTT: Learn from my decisions")
    app.execute()
    app.expect_done()
    app.close()
    assert labels_of(dataset) == before, "so far it only shows"
    expect(app.panel.get_by_role("button", name="Apply")).to_be_visible()
    app.panel.get_by_role("button", name="Apply").scroll_into_view_if_needed()
    app.picture("9-learn")
    app.press("Apply")
    app.expect_form("NTT: Learn from my decisions")
    app.execute()
    app.expect_done()
    app.close()
    after = labels_of(dataset)
    assert set(after) != set(before)
    assert {label_id: after.get(label_id) for label_id in decided} == decided, "decisions stay"


def test_evaluation_against_ground_truth(start: Start) -> None:
    app = start("labelled")
    hide_truth(app)
    app.open_panel()
    app.tab("4 Evaluate")
    app.press("Evaluate")
    app.expect_form("NTT: Evaluate labels")
    app.execute()
    app.expect_done("Scores")
    app.close()
    expect(app.panel.get_by_role("row").filter(has_text="coin")).to_be_visible()
    app.picture("10-evaluate")
    app.dataset.reload()
    assert app.dataset.list_evaluations() == ["ntt_eval"]
    right = app.dataset.filter_labels("ntt", F("ntt_eval") == "tp")
    assert right.count("ntt.detections") > 5
    app.press("Show true positives")
    app.expect_samples(len(right))


def test_a_light_theme_for_those_who_like_it(review: AppPage) -> None:
    review.page.get_by_test_id("LightModeIcon").or_(review.page.locator("[title='Light mode']")).first.click()
    expect(review.panel).to_contain_text("Most uncertain first")
    review.picture("11-light")
