"""The real App, in a real browser, on the demo's dataset. Skipped, with the reason, where a piece is missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_process import BROWSERS, AppProcess, find_browser

# Software rendering: no machine that runs this has to have a GPU. The sandbox needs rights a container lacks.
_BROWSER_ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
_PICTURES = "FIFTYONE_NTT_SCREENSHOTS"
_failed = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Remembers the first step that failed, and keeps a picture of the screen as it was."""
    report = yield
    module = item.parent
    if report.failed and _failed not in module.stash:
        module.stash[_failed] = item.name
        if app := item.funcargs.get("app"):
            place = Path(os.environ["FIFTYONE_DATABASE_DIR"]).parent.with_suffix(".failed.png")
            app.page.screenshot(path=place)
            report.sections.append(("The screen when it failed", str(place)))
    return report


@pytest.fixture(autouse=True)
def _after_the_step_before(request: Any) -> None:
    """The steps of a walk build on each other."""
    if before := request.node.parent.stash.get(_failed, None):
        pytest.skip(f"{before} failed, which comes before")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium. Gone with the module: while it is there, FiftyOne takes this thread for a server's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    place = find_browser()
    if place is None:
        pytest.skip(f"these tests need a browser: none of {', '.join(BROWSERS)} on the PATH starts")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=place, args=_BROWSER_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def app_process(browser: Any, database: str, tmp_path_factory: Any) -> Iterator[AppProcess]:
    """FiftyOne's App on the test database, with the plugin of this checkout."""
    process = AppProcess(tmp_path_factory.mktemp("app") / "app.log")
    try:
        process.wait_until_it_answers()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def dataset(database: str, tmp_path_factory: Any) -> Iterator[Any]:
    """The demo's dataset, before anyone has tagged references."""
    pytest.importorskip("skimage", reason="the demo's photographs are part of scikit-image")
    from fiftyone_ntt.demo.data import load_images
    from fiftyone_ntt.demo.run import REFERENCE_TAG, build_dataset

    dataset = build_dataset(tmp_path_factory.mktemp("demo"), load_images())
    dataset.untag_samples(REFERENCE_TAG)
    yield dataset
    dataset.delete()


@pytest.fixture(scope="session")
def weights() -> None:
    """Only looks whether the offline models are there: it is the App's process that loads them."""
    from fiftyone_ntt.cli.doctor import preset_weights

    if not next(preset.complete for preset in preset_weights() if preset.preset == "lite"):
        pytest.skip("the lite weights are not on this machine: fiftyone-ntt weights pull lite")


@pytest.fixture(scope="module")
def app(weights: None, browser: Any, app_process: AppProcess, dataset: Any) -> Iterator[Any]:
    """The App on the demo's dataset."""
    from app_page import SIZE, AppPage

    page = browser.new_page(viewport=SIZE)
    pictures = os.environ.get(_PICTURES)
    app = AppPage(page, app_process.url, Path(pictures).absolute() if pictures else None)
    app.open(dataset.name)
    yield app
    page.close()
