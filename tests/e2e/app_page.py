"""What a person does in the App, in a browser: waits look for words on the screen, never for seconds to pass."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Error, Locator, Page, expect

PLUGIN = "@fiftyone-ntt/ntt"
PANEL = "No Time to Train"
SIZE = {"width": 1400, "height": 900}
CONTENT = {
    "1 References": "Use selection as references",
    "2 Runs": "Show all images",
    "3 Review": "Most uncertain first",
    "4 Evaluate": "Ground truth: what is really there",
}
"""Words that only the content of each tab has, on a labelled dataset without an evaluation."""
# Popovers about the paid product lie over buttons.
NO_POPOVERS = "localStorage.setItem('fiftyone-enterprise-tooltip-seen', 'true')"
# Milliseconds until a wait is given up: far more than a busy machine takes.
_PATIENCE, _PATIENCE_WITH_MODELS = 300_000, 900_000


def _into_view(place: Locator) -> None:
    """Scrolls there; once more where the panel was drawn again in that moment, which a click copes with by itself."""
    for again in (True, True, False):
        try:
            place.scroll_into_view_if_needed()
            return
        except Error as error:
            if not again or "not attached" not in str(error):
                raise


class AppPage:
    """The App on one dataset.

    Args:
        page: the browser's page.
        url: the App's address.
        pictures: folder for pictures of the screen; none are made where it is None.

    Attributes:
        dataset: the dataset, where ``start`` opened it.
    """

    def __init__(self, page: Page, url: str, pictures: Path | None) -> None:
        self.page, self.dataset = page, None
        self._told: list[tuple[str, set[str]]] = []
        page.on("request", self._note_filters)
        self._url = url
        self._pictures = pictures
        page.set_default_timeout(_PATIENCE)
        expect.set_options(timeout=_PATIENCE)
        page.add_init_script(NO_POPOVERS)

    def _note_filters(self, request: Any) -> None:
        if request.url.endswith("/operators/execute"):
            told = json.loads(request.post_data or "{}")
            event = str(told["params"].get("__method__") or told["operator_uri"])
            self._told.append((event, {path.rpartition(".")[2] for path in told.get("filters") or {}}))

    def expect_filters(self, attributes: set[str]) -> None:
        """Waits until the App tells the panel that its sidebar filters by just these attributes, and nothing more."""
        deadline = time.monotonic() + _PATIENCE / 1000
        while time.monotonic() < deadline:
            before = len(self._told)
            self.page.wait_for_timeout(3500)
            if len(self._told) == before and self._told[-1][1] == attributes:
                return
        raise AssertionError(f"{attributes} expected; the App told of its filters: {self._told[-40:]}")

    def open(self, dataset: str) -> None:
        """Opens the dataset, or loads the page again, and waits until its grid and its operators are there."""
        self.page.goto(f"{self._url}/datasets/{dataset}")
        self.samples.first.wait_for()
        self.page.locator("[data-item-id^='@fiftyone-ntt/']").first.wait_for(state="attached")

    @property
    def samples(self) -> Locator:
        """The samples in the grid, in order."""
        return self.page.locator("[data-cy='fo-grid'] [data-cy='looker']")

    @property
    def dialog(self) -> Locator:
        """The open form, result or sample."""
        return self.page.get_by_role("dialog").last

    @property
    def panel(self) -> Locator:
        """The plugin's panel."""
        return self.page.locator("[data-cy='panel-content-ntt_review']")

    def select(self, *numbers: int) -> None:
        """Ticks samples of the grid."""
        for number in numbers:
            self.samples.nth(number).hover()
            self.samples.nth(number).locator("label").click()
        expect(self.page.locator("[data-item-id='selected']").first).to_contain_text(str(len(numbers)))

    def press_grid_button(self, operator: str) -> None:
        """Presses an operator's button above the grid, or behind the arrow where the row is full."""
        button = self.page.locator(f"[data-item-id='{PLUGIN}/{operator}']")
        if self._on_top(button.first):
            button.first.click()
            return
        more = self.page.locator("[data-cy='fo-grid-actions']").locator(
            "[data-testid='KeyboardArrowDownIcon'], [data-testid='ExpandMoreIcon']"
        )
        more.last.click()
        expect(button).to_have_count(2)
        button.last.click()
        self.page.locator("[data-cy='fo-grid']").click(position={"x": 20, "y": 600})  # what is behind the arrow stays

    def _on_top(self, item: Locator) -> bool:
        """Whether a click in the middle of an item would reach it."""
        code = """item => { const r = item.getBoundingClientRect();
            const hit = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);
            return item.contains(hit); }"""
        return bool(item.evaluate(code))

    def open_form(self, label: str) -> None:
        """Opens an operator's form through the operator browser."""
        self.page.keyboard.press("Backquote")
        self.page.get_by_placeholder("Search operations by name").fill(label)
        self.page.get_by_text(label, exact=True).last.click()
        self.expect_form(label)

    def expect_form(self, label: str) -> None:
        """Waits until an operator's form is there and can be executed."""
        expect(self.dialog).to_contain_text(label)
        expect(self.dialog.get_by_role("button", name="Execute")).to_be_enabled()

    def fill(self, label: str, value: object) -> None:
        """Fills the field of a form that has this label."""
        field = self.dialog.locator(f"xpath=.//p[normalize-space()='{label}']/following::input[1]")
        field.fill(str(value))
        expect(field).to_have_value(str(value))
        field.press("Tab")

    def execute(self) -> None:
        """Presses "Execute" in the open form."""
        button = self.dialog.get_by_role("button", name="Execute")
        expect(button).to_be_enabled()
        button.click()

    def expect_done(self, text: str = "Done") -> str:
        """Waits for the result of the operator that runs; returns its text. Fails at once on an error."""
        failed = self.page.get_by_text("Error occurred during operator execution")
        expect(self.dialog.get_by_text(text, exact=text == "Done").or_(failed).first).to_be_visible(
            timeout=_PATIENCE_WITH_MODELS
        )
        said = self.dialog.inner_text()
        if failed.count():
            raise AssertionError(f"the operator failed: {said}")
        return said

    def close(self) -> None:
        """Closes the result that is shown."""
        self.dialog.get_by_role("button", name=re.compile("^(Close|Done)$")).click()
        expect(self.page.get_by_role("dialog")).to_have_count(0)

    def expect_toast(self, text: str) -> None:
        """Waits for a message at the bottom of the screen."""
        expect(self.page.get_by_role("alert").filter(has_text=text).first).to_be_visible()

    def expect_samples(self, count: int) -> None:
        """Waits until the grid shows so many samples; where a filter hides some, FiftyOne also says of how many."""
        expect(self.page.locator("[data-cy='entry-counts']")).to_have_text(re.compile(rf"^{count}( of \d+)? sample"))

    def toggle_sidebar(self) -> None:
        """Hides the sidebar, which leaves more room for the panel."""
        self.page.locator("[data-cy='action-toggle-sidebar']").click()

    def hide_field(self, name: str) -> None:
        """Unticks a field in the sidebar."""
        self.page.locator(f"[data-cy='checkbox-{name}']").first.click()

    def open_panel(self) -> None:
        """Opens the plugin's panel with the plus beside "Samples"."""
        self.page.locator("[data-cy='new-panel-btn']").first.click()
        self.page.get_by_text(PANEL, exact=True).first.click()
        self.panel.wait_for()

    def tab(self, label: str) -> None:
        """Opens a tab of the panel, and waits for its content."""
        self.panel.get_by_role("tab", name=label).click()
        self.expect_tab(label)

    def expect_tab(self, label: str) -> None:
        """Waits until a tab is open and its content is there."""
        expect(self.panel.get_by_role("tab", name=label)).to_have_attribute("aria-selected", "true")
        expect(self.panel).to_contain_text(CONTENT[label])
        for other in set(CONTENT) - {label}:
            expect(self.panel).not_to_contain_text(CONTENT[other])

    def expect_rest(self) -> None:
        """Waits until the panel sends nothing any more."""
        events: list[str] = []
        self.page.on("request", lambda request: events.append(request.url))
        for _ in range(20):
            events.clear()
            self.page.wait_for_timeout(3000)
            if not any(url.endswith("/operators/execute") for url in events):
                return
        raise AssertionError("the panel does not come to rest")

    def expect_after_run(self, label: str) -> None:
        """Waits until the panel leaves the tab of runs by itself, as long as something there is at work."""
        tab, rows = self.panel.get_by_role("tab", name=label), self.panel.get_by_role("row")
        while tab.get_attribute("aria-selected") == "true":
            texts = rows.all_inner_texts()
            if texts and not re.search("starting|running|done", " ".join(texts)):
                if tab.get_attribute("aria-selected") != "true":
                    return  # it left just now: those are the rows of the next tab
                raise AssertionError(f"nothing is at work: {texts}")
            self.page.wait_for_timeout(1000)

    def press(self, label: str) -> None:
        """Presses a button of the panel."""
        button = self.panel.get_by_role("button", name=label, exact=True)
        _into_view(button)
        button.click()

    def choose(self, label: str, value: str) -> None:
        """Chooses a value in a dropdown of the panel."""
        field = self.panel.locator(f"xpath=.//*[normalize-space()='{label}']/following::*[@role='combobox'][1]").first
        field.click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def set_slider(self, part: float) -> None:
        """Clicks the panel's slider at a part of its width."""
        slider = self.panel.locator(".MuiSlider-root").first
        _into_view(slider)
        place = slider.bounding_box()
        self.page.mouse.click(place["x"] + part * place["width"], place["y"] + place["height"] / 2)

    def open_sample(self, number: int) -> None:
        """Opens a sample of the grid."""
        place = self.samples.nth(number).bounding_box()  # the top of a thumbnail selects it
        self.samples.nth(number).click(position={"x": place["width"] / 2, "y": 0.8 * place["height"]})
        self.page.locator("[data-cy='modal-looker-container'] canvas").first.wait_for()

    def close_sample(self) -> None:
        """Goes back to the grid."""
        modal = self.page.locator("[data-cy='modal']")
        for _ in range(3):  # the first may only leave what is selected or edited
            if not modal.count():
                break
            self.page.keyboard.press("Escape")
            self.page.wait_for_timeout(500)
        expect(modal).to_have_count(0)

    def leave_editor(self) -> None:
        """Goes back to the grid from the editor, by a click beside the sample."""
        modal = self.page.locator("[data-cy='modal']")
        for _ in range(3):  # the first may only leave the label that is edited
            if not modal.count():
                break
            self.page.mouse.click(12, 600)
            self.page.wait_for_timeout(700)
        expect(modal).to_have_count(0)

    def click_in_sample(self, x: float, y: float) -> None:
        """Clicks in the open sample at a relative place of its image."""
        box = self.page.locator("[data-cy='modal-looker-container'] canvas").first.bounding_box()
        self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

    def picture(self, name: str) -> None:
        """Keeps a picture of the screen for the documentation, where pictures are wanted."""
        if self._pictures is None:
            return
        self.page.mouse.move(300, 895)  # off the grid: no tooltips, no half-selected sample
        self.page.wait_for_timeout(1200)  # canvases and plots draw after the page says it is ready
        pixels = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        self._pictures.mkdir(parents=True, exist_ok=True)
        pixels.save(self._pictures / f"{name}.jpg", quality=82, optimize=True, progressive=True)


def eventually(what: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 300.0) -> Any:
    """Returns what the database says as soon as it says what is wanted; fails with what it said last."""
    deadline = time.monotonic() + seconds
    while not wanted(found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s the database still says {found!r}")
        time.sleep(0.2)
    return found
