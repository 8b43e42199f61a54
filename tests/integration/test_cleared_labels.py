"""A field whose labels were cleared: decisions on these, and what followed from them, are not believed any more."""

import pytest
from support.app import PanelSession
from support.labelled import IMAGES, KEY, PICTURES

import fiftyone_ntt as ntt
from fiftyone_ntt.review.decisions import last_decision
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.review.learn import last_outcome
from fiftyone_ntt.runs.presence_fields import presence_counts

pytestmark = pytest.mark.pictures(**PICTURES)

CLEARED = {
    "field": lambda dataset: dataset.clear_sample_field("found"),
    "view": lambda dataset: dataset.exists("found").clear_sample_field("found"),
    "statuses": lambda dataset: [dataset.clear_sample_field(name) for name in ("found", "found_status")],
}
AGAIN = {
    "resumed": lambda dataset: ntt.resume_run(dataset, KEY),
    "called": lambda dataset: ntt.segment(dataset, "shapes", "found"),
    "replaced": lambda dataset: ntt.segment(dataset, "shapes", "found", run_key="another", overwrite=True),
}


@pytest.fixture
def reviewed(named):
    """Labels of a run with decisions on them, and all that follows from these."""
    dataset, _ = named
    ntt.accept_labels(dataset.limit(3), "found")
    ntt.learn(dataset, "found")
    ntt.fit_thresholds(dataset, KEY)
    assert noted(dataset) == [True, True, True]
    return dataset


def noted(dataset):
    """Whether a last decision, something learned and image-level labels are kept."""
    return [bool(look(dataset, "found")) for look in (last_decision, last_outcome, presence_counts)]


@pytest.mark.parametrize(
    ("clear", "again"),
    [("field", "resumed"), ("view", "called"), ("statuses", "resumed"), ("field", "replaced")],
)
def test_nothing_is_said_of_labels_that_are_gone(reviewed, clear, again):
    CLEARED[clear](reviewed)
    assert AGAIN[again](reviewed).labelled == IMAGES
    assert noted(reviewed) == [False, False, False]
    table_of(reviewed, "found").refreshed()
    panel = PanelSession(reviewed, "review")
    assert "Score threshold" in panel.drawn and "Undo:" not in panel.drawn and not panel.state["review_judged"]


def test_what_is_left_of_labels_is_still_believed(reviewed):
    reviewed.skip(1).limit(1).clear_sample_field("found")
    assert ntt.resume_run(reviewed, KEY).labelled == 1
    assert noted(reviewed)[:2] == [True, True]
