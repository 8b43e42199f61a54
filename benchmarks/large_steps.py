"""The steps that ``benchmarks.large`` times: each gets a dataset of ``large_data.build``, and a meter."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import psutil
from fiftyone.core.odm import get_db_client

import fiftyone_ntt as ntt
from benchmarks import panel
from benchmarks.large_data import FIELD, RUN, TRUTH, index_folder
from fiftyone_ntt.candidates import maintenance
from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.panels.ntt_review import TABS
from fiftyone_ntt.review.decisions import undo_last_decision
from fiftyone_ntt.review.label_table import table_of

SLICE = 300
"""Samples that are labelled from the cache, and matched again by learning."""
_EVERY = 100
"""One sample in so many is not done when the run is resumed."""


class _EnoughError(Exception):
    """Ends a call that would go on for hours."""


class Meter:
    """Measures calls: wall seconds, CPU seconds of this process and of the database, and the most memory in use.

    Attributes:
        rows: name of each call -> its figures.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self._database = psutil.Process(get_db_client().admin.command("serverStatus")["pid"])

    @contextmanager
    def __call__(self, name: str, calls: int = 1) -> Iterator[None]:
        """Measures what happens inside, which is the same thing ``calls`` times."""
        _forget_peak()
        resident, cpu, database, started = _memory("VmRSS"), time.process_time(), self._of_database(), time.monotonic()
        try:
            yield
        finally:
            peak = _memory("VmHWM")
            self.rows[name] = {
                "seconds": (time.monotonic() - started) / calls,
                "cpu": (time.process_time() - cpu) / calls,
                "database_cpu": (self._of_database() - database) / calls,
                "peak_mb": peak / 1e6,
                "grown_mb": (peak - resident) / 1e6,
            }

    def _of_database(self) -> float:
        times = self._database.cpu_times()
        return float(times.user + times.system)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory(key: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(text.split(f"{key}:")[1].split()[0])


def index(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """Looking after the candidate cache, and room for one image more."""
    root = index_folder(folder, len(dataset))
    with measure("index info"):
        maintenance.info(root)
    with measure("index prune, dry"):
        maintenance.prune(root, dry_run=True)
    with measure("index verify"):
        maintenance.verify(root)
    settings = next(root.glob("*/settings.json"))
    store = IndexStore(root, IndexSettings.from_json(settings.read_text()))
    with measure("index: first look at the room"):
        store._room.take(1)


def opening(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """The panel is opened, then each of its tabs."""
    session = panel.Session(dataset)
    with measure("panel opens"):
        session.send("on_load", {})
    for tab in TABS:
        with measure(f"tab {tab}, first time"):
            session.send("on_tab", {"value": tab})
        with measure(f"tab {tab}, again"):
            session.send("on_tab", {"value": tab})


def table(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """All labels are read into the table behind the review."""
    with measure("label table, read"):
        labels = table_of(dataset, FIELD).refreshed()
        rows = labels.rows
    with measure("label table, refreshed"):
        labels.refreshed()
    assert len(rows)


def events(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """Every event of the review, once the labels have been read."""
    session = _review(dataset)
    for event, params in panel._EVENTS:
        name = " ".join([event, *(str(value) for value in params.values() if isinstance(value, str))])
        with measure(f"event {name}", 3):
            for _ in range(3):
                session.send(event, params)
    session.send("on_review_show_all", {})


def decision(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """One label is accepted as the App does it, and the panel is drawn again."""
    session = _review(dataset)
    label = dataset.skip(len(dataset) // 2).first()[FIELD].detections[0].id
    with measure("accept one label"):
        ntt.accept_labels(session.view, FIELD, label_ids=[label])
    with measure("refresh after it"):
        session.send("on_review_refresh", {})
    with measure("undo this decision"):
        undo_last_decision(dataset, FIELD)


def learn(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """Learns from decisions in 20 images, dry; ends after some images have been matched again."""
    few = dataset.limit(20)
    ntt.accept_labels(few, FIELD, above=0.5)
    ntt.reject_labels(few, FIELD, below=0.3)
    with measure(f"learn, dry, {SLICE} images matched"):
        _until(SLICE, "matched", lambda progress: ntt.learn(
            dataset, FIELD, index_dir=index_folder(folder, len(dataset)), progress=progress))  # fmt: skip


def accept_all(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """All labels above a score are accepted, and half of the others rejected; thresholds; and back again."""
    session = _review(dataset)
    scores = table_of(dataset, FIELD).refreshed().rows["confidence"]  # dataset.quantiles() fails above 16 MB of them
    middle = np.quantile(scores[np.isfinite(scores)], [0.5, 0.75]).tolist()
    ntt.reject_labels(dataset.match_tags("none", bool=False).limit(len(dataset) // 10), FIELD, below=middle[0])
    with measure("accept all above, a quarter"):
        ntt.accept_labels(session.view, FIELD, above=middle[1])
    with measure("refresh after accepting all"):
        session.send("on_review_refresh", {})
    with measure("fit thresholds"):
        ntt.fit_thresholds(dataset, RUN, write_image_labels=False)
    with measure("image-level labels"):
        ntt.judge_presence(dataset, FIELD)
    with measure("take it all back"):
        undo_last_decision(dataset, FIELD)


def evaluate(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """Scores against ground truth, a third as many objects as labels."""
    with measure("evaluate"):
        ntt.evaluate(dataset, FIELD, TRUTH)


def maps(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """Semantic segmentation masks of all samples."""
    with measure("semantic maps"):
        ntt.to_segmentation(dataset, FIELD, "ntt_semantic")
    dataset.delete_sample_field("ntt_semantic")


def coco(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """COCO, with images."""
    _export(dataset, folder, measure, "coco")


def yolo(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """YOLO, with images."""
    _export(dataset, folder, measure, "yolo")


def _export(dataset: fo.Dataset, folder: Path, measure: Meter, format: str) -> None:
    target = folder / f"export-{format}"
    shutil.rmtree(target, ignore_errors=True)
    with measure(f"export {format}"):
        ntt.export_labels(dataset, target, FIELD, format=format, only="all")
    shutil.rmtree(target)


def label(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """Some samples are labelled from the candidate cache, into another field, by the run's own bank."""
    from fiftyone_ntt.references.banks import bank_of_run

    bank, some = bank_of_run(dataset, RUN), dataset.skip(len(dataset) // 2).limit(SLICE)
    with measure(f"label {SLICE} images from the cache"):
        ntt.segment(some, bank, "slice", index_dir=index_folder(folder, len(dataset)), device="cpu", score_threshold=0)
    ntt.undo_run(dataset, "ntt_slice")


def resume(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """The run is resumed where one sample in a hundred is left; until the first of them is labelled."""
    left = list(dataset.values("_id")[::_EVERY])
    for start in range(0, len(left), 1000):
        query = {"_id": {"$in": left[start : start + 1000]}}
        database_collection(dataset).update_many(query, {"$set": {FIELD: None, f"{FIELD}_status": None}})
    with measure("resume, to the first of 1 %"):
        _until(1, "labelled", lambda progress: ntt.resume_run(dataset, RUN, progress=progress))


def undo(dataset: fo.Dataset, folder: Path, measure: Meter) -> None:
    """The run is undone."""
    with measure("undo the run"):
        ntt.undo_run(dataset, RUN)


def _review(dataset: fo.Dataset) -> panel.Session:
    """The panel's tab Review, with all labels read."""
    session = panel.Session(dataset)
    session.send("on_load", {})
    session.send("on_tab", {"value": "review"})
    table_of(dataset, FIELD).refreshed()
    session.send("on_review_refresh", {})
    return session


def _until(most: int, word: str, call: Callable[[Any], object]) -> None:
    """Calls what takes a progress callback, and ends it once so many images are through."""

    def progress(done: int, total: int, message: str) -> None:
        if done >= most and message.startswith(word):
            raise _EnoughError

    try:
        call(progress)
    except _EnoughError:
        return


STEPS: dict[str, Callable[[fo.Dataset, Path, Meter], None]] = {
    step.__name__: step
    for step in (
        index, opening, table, events, decision, learn, accept_all, evaluate, maps, coco, yolo, label, resume, undo,
    )
}  # fmt: skip
"""In an order in which none is in the way of the next."""
