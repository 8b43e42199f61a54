"""How many clicks lie between photographs nobody labelled and the first masks, and what the first look shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app_page import AppPage, expect

from fiftyone_ntt.dataset.fields import REFERENCE_TAG

AIM = 6
COIN = 0
"""Number of a picture of coins in the grid."""
OTHER_COINS = {"coins_2", "coins_3"}
_COUNT = "window.clicks = 0; addEventListener('click', event => { window.clicks += event.isTrusted }, true)"


def test_six_clicks_lead_to_the_first_masks(start: Callable[..., AppPage]) -> None:
    app = start("plain")
    app.page.evaluate(_COUNT)
    app.open_panel()  # two clicks: the plus, and the panel's name
    app.select(COIN)
    app.press("Use selection as references")
    app.press("Label images")
    app.expect_form("NTT: Label images")
    app.execute()
    clicks = app.page.evaluate("window.clicks")
    # From here on the panel goes on by itself: to the runs, and from there to the review.
    expect(app.panel.get_by_role("tab", name=re.compile("2 Runs|3 Review"), selected=True)).to_be_visible()
    app.expect_after_run("2 Runs")
    app.expect_tab("3 Review")
    counts = labels_of_pictures(app.dataset)
    assert clicks <= AIM
    assert {name for name, count in counts.items() if count} == OTHER_COINS, "labels where nothing is to be found"
    assert min(counts[name] for name in OTHER_COINS) >= 4


def labels_of_pictures(dataset: Any) -> dict[str, int]:
    """Name of a picture -> how many labels the run has written there; references are left out."""
    dataset.reload()
    rest = dataset.match_tags(REFERENCE_TAG, bool=False)
    paths, labels = rest.values(["filepath", "ntt.detections.label"])
    return {Path(path).stem: len(found or []) for path, found in zip(paths, labels, strict=True)}
