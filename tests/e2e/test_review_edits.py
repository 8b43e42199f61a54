"""What a person deletes in FiftyOne's editor stays deleted: the guard of labels brings back only what was hidden."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from app_page import SIZE, AppPage, eventually, expect

from fiftyone_ntt.dataset.labels import fingerprint
from fiftyone_ntt.dataset.schema import activate_schema
from fiftyone_ntt.runs.record import RunRecord, register

# Not in order: the editor tells the server the place of a label in the list that the view holds.
SCORES = (0.35, 0.85, 0.15, 0.62, 0.28, 0.5, 0.05, 0.75)
CLASSES = ["cat", "dog"]
EDITED = 1
"""Number of the sample that is edited."""
Labels = dict[str, tuple[str, float, frozenset[str]]]


def label(number: int, score: float) -> fo.Detection:
    """A round label in a place of its own; every third one is a dog."""
    y, x = np.mgrid[:24, :24]
    mask = (y - 11.5) ** 2 + (x - 11.5) ** 2 < 130
    name, box = CLASSES[number % 3 == 2], [0.04 + 0.24 * (number % 4), 0.1 + 0.45 * (number // 4), 0.2, 0.3]
    look = {"similarity": score, "alternative": "dog", "alternative_similarity": score / 2, "predicted_iou": 0.9}
    return fo.Detection(
        label=name, confidence=score, bounding_box=box, mask=mask, written=fingerprint(name, box, mask), **look
    )


@pytest.fixture(scope="module")
def dataset(database: str, tmp_path_factory: Any) -> Iterator[Any]:
    """The demo's photographs as a run leaves them, with the same labels on each."""
    pytest.importorskip("skimage", reason="the demo's photographs are part of scikit-image")
    from fiftyone_ntt.demo.data import load_images
    from fiftyone_ntt.demo.run import build_dataset

    dataset = build_dataset(tmp_path_factory.mktemp("demo"), load_images())
    dataset.delete_sample_field("ground_truth")
    register(dataset, RunRecord("run", "ntt", CLASSES, "lite", "0" * 64, {}, {}, 4))
    for sample in dataset:
        sample["ntt"] = fo.Detections(detections=[label(number, score) for number, score in enumerate(SCORES)])
        sample.save()
    activate_schema(dataset, "ntt", CLASSES)
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def app(browser: Any, app_process: Any, dataset: Any) -> Iterator[Any]:
    """The App on that dataset; no models are needed."""
    page = browser.new_page(viewport=SIZE)
    pictures = os.environ.get("FIFTYONE_NTT_SCREENSHOTS")
    yield AppPage(page, app_process.url, Path(pictures).absolute() if pictures else None)
    page.close()


def stored(dataset: Any, number: int = EDITED) -> Labels:
    """Id -> class, score and tags of a sample's labels, as the database has them now."""
    sample = dataset.skip(number).first()
    sample.reload()
    return {one.id: (one.label, one.confidence, frozenset(one.tags)) for one in sample.ntt.detections}


def to_review(app: AppPage, dataset: Any, address: str = "") -> None:
    """Opens the App anew, and the review tab in it."""
    app.open(dataset.name + address)
    if not app.panel.is_visible():
        app.open_panel()
    app.tab("3 Review")
    expect(app.panel).to_contain_text("Most uncertain first")


def open_editor(app: AppPage, number: int) -> None:
    """Opens a sample of the grid in FiftyOne's editor, in which samples may be open already."""
    place = eventually(app.samples.nth(number).bounding_box, bool)
    app.samples.nth(number).click(position={"x": place["width"] / 2, "y": 0.8 * place["height"]})
    app.page.locator("[data-cy='modal']").get_by_text("Annotate", exact=True).first.click()


def test_what_a_person_deletes_stays_deleted(app: AppPage, dataset: Any) -> None:
    to_review(app, dataset)
    before = stored(dataset)
    chosen = next(key for key, (_name, score, _tags) in before.items() if score == 0.85)
    open_editor(app, EDITED)
    app.page.locator(f"[data-cy='annotate-label-{chosen}']").click()
    app.page.keyboard.press("Delete")
    eventually(lambda: set(stored(dataset)), lambda ids: ids == set(before) - {chosen})
    app.leave_editor()
    app.press("Refresh")
    app.page.wait_for_timeout(2000)
    assert set(stored(dataset)) == set(before) - {chosen}
