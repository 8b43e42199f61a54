"""Which tab of the panel is drawn, when answers of the server come late and in any order."""

from __future__ import annotations

import random

import fiftyone as fo
import pytest
from support.app import PANEL, context, registered_panel, requests_of
from support.runs import begin_run

from fiftyone_ntt.panels.ntt_review import TABS


class Browser:
    """The panel as the App's JavaScript keeps it, with answers that come in any order.

    What it does was read in FiftyOne 1.22.1: tabs take their value from the state when they first appear, write it
    there and tell the server, and from then on listen to clicks only; patches of answers are put on top of the state as
    they come in; a new schema replaces the old one; a timer runs once when its name appears, and sends the state of
    that moment.

    Attributes:
        state: the panel's state.
        schema: what is drawn.
        selected: the tab that looks open.
        waiting: answers on their way.
    """

    def __init__(self, dataset, chance):
        self.dataset, self.chance = dataset, chance
        self.state, self.schema, self.selected = {}, None, None
        self.waiting, self._timers = [], []
        self.send("on_load")
        self.settle()

    def send(self, method, **params):
        """An event: the server answers at once, and the answer is on its way from now on."""
        params = {"panel_id": "p", "panel_state": dict(self.state), "__method__": method, **params}
        ctx = context(PANEL, self.dataset, params, dataset_name=self.dataset.name)
        registered_panel().execute(ctx)
        self.waiting.append(requests_of(ctx))

    def click(self, tab):
        """Clicks one of the tabs."""
        self.selected = tab
        self._report()

    def step(self):
        """Any one of the things that are about to happen: a timer is through, or an answer comes in."""
        choices = [self._answer] * len(self.waiting) + [self._tick] * len(self._timers)
        self.chance.choice(choices)()

    def settle(self):
        """Lets everything happen that is about to, in any order; fails if that never ends."""
        for _ in range(500):
            if not (self.waiting or self._timers):
                return
            self.step()
        raise AssertionError("the panel does not come to rest")

    @property
    def content(self):
        """Keys of the tabs whose content is drawn."""
        return {name.split("_")[0] for name in self.schema if name.split("_")[0] in TABS}

    @property
    def _tabs(self):
        return next((name for name in self.schema or () if name.startswith("tab_")), None)

    def _report(self):
        self.state[self._tabs] = self.selected
        self.send("on_tab", path=self._tabs, value=self.selected)

    def _tick(self):
        name = self._timers.pop(self.chance.randrange(len(self._timers)))
        self.send("on_drawn", **self.schema[name]["view"]["params"])

    def _answer(self):
        answer = self.waiting.pop(self.chance.randrange(len(self.waiting)))
        for name, params in answer:
            if name == "clear_panel_state":
                self.state = {}
            elif name == "patch_panel_state":
                self.state.update(params["state"])
            elif name == "show_panel_output":
                self._draw(params["output"])

    def _draw(self, output):
        before, tabs = set(self.schema or ()), self._tabs
        self.schema = output["type"]["properties"]
        timers = [name for name in self.schema if name.startswith("drawn_")]
        self._timers = [name for name in self._timers if name in timers] + [n for n in timers if n not in before]
        if self._tabs != tabs:
            self.selected = self.state.get(self._tabs) or self.schema[self._tabs]["default"]
            self._report()


@pytest.fixture
def samples(dataset):
    dataset.add_samples([fo.Sample(f"/data/{i}.png", ground_truth=fo.Detections()) for i in range(10)])
    begin_run(dataset, state="completed")
    return dataset


@pytest.mark.parametrize("seed", range(40))
def test_the_tab_that_was_clicked_last_is_drawn(samples, seed):
    chance = random.Random(seed)
    browser = Browser(samples, chance)
    last = None
    for _ in range(chance.randrange(2, 7)):
        last = chance.choice(list(TABS))
        browser.click(last)
        for _ in range(chance.randrange(4)):
            if browser.waiting or browser._timers:
                browser.step()
    browser.settle()
    assert (browser.selected, browser.content) == (last, {last})


@pytest.mark.parametrize("seed", range(20))
def test_what_is_drawn_is_selected_whatever_else_happens(samples, seed):
    """Forms that are through, another dataset, buttons and timers of tabs that are no longer open."""
    chance = random.Random(seed)
    browser = Browser(samples, chance)
    for _ in range(6):
        other = chance.choice(["on_change_dataset", "on_runs_refresh", "on_review_refresh", "form", "click"])
        if other == "click":
            browser.click(chance.choice(list(TABS)))
        elif other == "form":
            state, browser.state = browser.state, {}  # it calls back without the panel's state
            browser.send("on_evaluate_refresh")
            browser.state = state
        else:
            browser.send(other)
        for _ in range(chance.randrange(4)):
            if browser.waiting or browser._timers:
                browser.step()
    browser.settle()
    assert browser.content == {browser.selected}


def test_a_tab_that_is_drawn_rightly_is_left_alone(samples):
    """Drawing it again could undo what has been changed since."""
    browser = Browser(samples, random.Random(0))
    (timer,) = [item for name, item in browser.schema.items() if name.startswith("drawn_")]
    browser.send("on_drawn", **timer["view"]["params"])
    assert browser.waiting == [[]]
