"""The tabs of the panel on a server whose answers come late and in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from app_page import CONTENT

CLICKS = 12


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_last_tab_stays_open_on_a_slow_server(start: Callable[..., Any], app_process: Any, seed: int) -> None:
    app = start("labelled")
    app.open_panel()
    chance, label = random.Random(seed), ""
    with app_process.slow(1.5):
        for _ in range(CLICKS):
            label = chance.choice(list(CONTENT))
            app.panel.get_by_role("tab", name=label).click()
            app.page.wait_for_timeout(chance.choice([0, 100, 400, 1500]))  # what a person takes, or an answer
        app.expect_rest()
        app.expect_tab(label)
