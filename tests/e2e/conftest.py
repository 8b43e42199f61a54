"""The real App, in a real browser, on the demo's photographs. Skipped, with the reason, where a piece is missing.

Each test begins on a dataset and a page of its own: ``start("labelled")`` gives the App on a dataset that has come as
far as that. What an earlier test computed is in the candidate cache, so getting there again takes seconds.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from app_process import BROWSERS, AppProcess, find_browser

# Software rendering: no machine that runs this has to have a GPU. The sandbox needs rights a container lacks.
_BROWSER_ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
_PICTURES = "FIFTYONE_NTT_SCREENSHOTS"
_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Keeps a picture of the screen as it was when a test failed, and the end of the App's log."""
    report = yield
    app = getattr(item, "ntt_app", None) or item.funcargs.get("app")
    if report.failed and call.when != "teardown" and app:  # then the page is closed
        place = Path(os.environ["FIFTYONE_DATABASE_DIR"]).parent.with_suffix(f".{item.name}.failed.png")
        app.page.screenshot(path=place)
        report.sections.append(("The screen when it failed", str(place)))
    if report.failed and "app_process" in item.funcargs:
        report.sections.append(("The App's log ends", item.funcargs["app_process"].tail()))
    return report


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


@pytest.fixture(scope="session")
def weights() -> None:
    """Only looks whether the offline models are there: it is mostly the App's process that loads them."""
    from fiftyone_ntt.cli.doctor import preset_weights

    if not next(preset.complete for preset in preset_weights() if preset.preset == "lite"):
        pytest.skip("the lite weights are not on this machine: fiftyone-ntt weights pull lite")


@pytest.fixture(scope="session")
def app_process(database: str, tmp_path_factory: Any) -> Iterator[AppProcess]:
    """FiftyOne's App on the test database, with the plugin of this checkout."""
    if find_browser() is None:
        pytest.skip("no browser")
    process = AppProcess(tmp_path_factory.mktemp("app"))
    try:
        process.wait_until_it_answers()
        yield process
    finally:
        process.stop()
        for dataset in process.datasets:
            if not dataset.deleted:
                dataset.delete()


@pytest.fixture(autouse=True)
def _nothing_in_the_log(app_process: AppProcess) -> Iterator[None]:
    """A traceback in the App's log fails the test that it came up in, whatever the screen says."""
    before = app_process.log.stat().st_size
    yield
    troubles = app_process.troubles(before)
    assert not troubles, f"the App's log holds {len(troubles)} tracebacks; the first one:\n{troubles[0]}"


@pytest.fixture(scope="session")
def pictures() -> Path | None:
    """Folder of the documentation's pictures, where these are wanted."""
    folder = os.environ.get(_PICTURES)
    return Path(folder).absolute() if folder else None


@pytest.fixture
def start(
    weights: None,
    browser: Any,
    app_process: AppProcess,
    pictures: Path | None,
    tmp_path_factory: Any,
    request: Any,
) -> Iterator[Callable[..., Any]]:
    """``start(stage)`` opens the App on a new dataset of a stage.

    Stages: ``"plain"`` (photographs with ground truth), ``"referenced"``, ``"banked"``, ``"labelled"``.
    """
    pytest.importorskip("skimage", reason="the demo's photographs are part of scikit-image")
    from app_page import SIZE, AppPage

    pages = []

    def begin(stage: str, **size: int) -> AppPage:
        # Playwright keeps an event loop in this thread, where FiftyOne would take itself for a server.
        with ThreadPoolExecutor(1) as thread:
            dataset = thread.submit(_dataset, stage, tmp_path_factory.getbasetemp()).result()
        app_process.datasets.append(dataset)
        page = browser.new_page(viewport={**SIZE, **size})
        pages.append(page)
        app = AppPage(page, app_process.url, pictures)
        request.node.ntt_app, app.dataset = app, dataset
        app.open(dataset.name)
        return app

    yield begin
    for page in pages:
        page.close()


def _dataset(stage: str, folder: Path) -> Any:
    """A new dataset of the demo's photographs that has come as far as ``stage``."""
    import fiftyone_ntt as ntt
    from fiftyone_ntt.demo.data import load_images
    from fiftyone_ntt.demo.run import REFERENCE_TAG, build_dataset

    dataset = build_dataset(folder / "demo", load_images())
    dataset.name = f"ntt-demo-{next(_numbers)}"
    if stage == "plain":
        dataset.untag_samples(REFERENCE_TAG)
        return dataset
    if stage == "referenced":
        return dataset
    ntt.build_memory_bank(dataset.match_tags(REFERENCE_TAG), "ground_truth", preset="lite", name="ntt_bank")
    if stage == "labelled":
        ntt.segment(dataset, "ntt_bank", "ntt")
    return dataset
