"""How quickly the panel answers on 10,000 images: ``python -m benchmarks.panel``.

Makes a dataset of samples with labels (no images: the panel reads none; masks are real, so that documents have a real
size), sends the panel every event that its review tab has, through FiftyOne's own contexts, and prints milliseconds.
Needs a database that FiftyOne reaches, see FIFTYONE_DATABASE_URI; the dataset is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import fiftyone as fo
import numpy as np
from bson import Binary, ObjectId
from fiftyone.operators.executor import ExecutionContext, Executor

from benchmarks.arguments import count
from benchmarks.tables import write_json
from fiftyone_ntt.dataset import labels as label_documents
from fiftyone_ntt.panels.ntt_review import TABS, NttReview
from fiftyone_ntt.review.label_rows import BINS
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.runs.record import RunRecord, register

CLASSES = ["coin", "motorcycle", "cat", "dog", "tree"]
LIMIT = 300.0
"""Milliseconds that an event may take."""
_EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("on_review_refresh", {}),
    ("on_review_class", {"value": "cat"}),
    ("on_review_row", {"row": 2}),
    ("on_review_threshold", {"value": 0.62}),
    ("on_review_bar", {"x": 0.5}),
    ("on_review_shown", {"value": "Rejected"}),
    ("on_review_suggest", {}),
    ("on_review_show_all", {}),
    *(("on_review_doubt", {"by": by}) for by in ("threshold", "classes", "mask", "merged")),
    ("on_change_current_sample", {}),
    ("on_review_accept", {}),
    ("on_review_accept_above", {}),
    ("on_review_reject_below", {}),
]


def build(name: str, samples: int, labels: int, seed: int = 0) -> fo.Dataset:
    """A dataset as a run leaves it: labels with masks, scores and fingerprints."""
    generator = np.random.default_rng(seed)
    dataset = fo.Dataset(name, persistent=True)
    dataset.add_samples([fo.Sample(f"/nowhere/{i}.png") for i in range(samples)])
    register(dataset, RunRecord("panel", "ntt", CLASSES, "lite", "0" * 64, {}, {}, 16))
    masks = [label_documents.serialised(_blob(generator)) for _ in range(200)]
    pattern, empty = fo.Detection(bounding_box=[0, 0, 0, 0]).to_dict(), fo.Detections().to_dict()
    ids = dataset.values("id")
    for start in range(0, samples, 500):
        documents = {
            one: {**empty, "detections": [_label(generator, pattern, masks) for _ in range(labels)]}
            for one in ids[start : start + 500]
        }
        dataset.set_values("ntt", documents, key_field="id", validate=False, dynamic=False)
    return dataset


def _blob(generator: np.random.Generator) -> np.ndarray:
    height, width = generator.integers(60, 260, 2)
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - height / 2, x - width / 2)
    edge = 0.8 + 0.2 * np.sin(6 * angle + 6 * generator.random())
    return (2 * y / height - 1) ** 2 + (2 * x / width - 1) ** 2 < edge


def _label(generator: np.random.Generator, pattern: dict[str, Any], masks: list[bytes]) -> dict[str, Any]:
    first = int(generator.integers(len(CLASSES)))
    similarity, box = float(generator.beta(4, 4)), generator.uniform(0.1, 0.4, 4).tolist()
    mask, label = masks[generator.integers(len(masks))], CLASSES[first]
    written = f"{label_documents._of_bytes(label, box, mask)}-{'0' * 12}"
    return {
        **pattern,
        "_id": ObjectId(),
        "label": label,
        "bounding_box": box,
        "mask": Binary(mask),
        "confidence": similarity * float(generator.uniform(0.5, 1)),
        "predicted_iou": float(generator.uniform(0.6, 1)),
        "similarity": similarity,
        "alternative": CLASSES[first - 1],
        "alternative_similarity": similarity * float(generator.uniform(0.5, 1)),
        "written": written,
    }


class Session:
    """The panel as the App talks to it: state goes out with every event and comes back changed."""

    def __init__(self, dataset: fo.Dataset) -> None:
        self.dataset, self.panel, self.state = dataset, NttReview(), dict[str, Any]()
        self.view, self.filters = dataset.view(), dict[str, Any]()

    def send(self, event: str, params: dict[str, Any]) -> float:
        """One event; returns milliseconds, with what the App would get turned to JSON."""
        started = time.perf_counter()
        request = {
            "dataset_name": self.dataset.name,
            "view": self.view._serialize(),
            "filters": self.filters,
            "params": {"panel_id": "p", "panel_state": self.state, "__method__": event, **params},
        }
        context = ExecutionContext(
            request_params=request, executor=Executor(), operator_uri="@fiftyone-ntt/ntt/ntt_review"
        )
        self.panel.execute(context)
        requests = [json.dumps(one.to_json(), default=str) for one in context.executor._requests]
        elapsed = time.perf_counter() - started
        self.state = dict(context.panel_state)
        for one in context.executor._requests:
            if one.operator_uri.endswith("set_view"):
                self.view = fo.DatasetView._build(self.dataset, one.params["view"])
            elif one.operator_uri.endswith("set_filters"):
                self.filters = one.params
        return 1000 * elapsed if requests else 0.0


def measure(dataset: fo.Dataset, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every event; those that come while labels are being read are counted by themselves."""
    session = Session(dataset)
    times: dict[str, list[float]] = {"on_load": [session.send("on_load", {})]}
    for tab in TABS:
        times[f"on_tab {tab}"] = [session.send("on_tab", {"value": tab}) for _ in range(repeats)]
    times["on_tab review, labels being read"] = [session.send("on_tab", {"value": "review"})]
    reading = times["on_review_refresh, labels being read"] = []
    while session.state.get("review_reading"):
        time.sleep(0.2)
        reading.append(session.send("on_review_refresh", {}))
    for _ in range(repeats):
        for event, params in _EVENTS:
            name = " ".join([event, *(str(value) for value in params.values() if isinstance(value, str))])
            times.setdefault(name, []).append(session.send(event, params))
    return {name: found for name, found in times.items() if found}


def plain_histogram(dataset: fo.Dataset) -> np.ndarray:
    """The baseline: a loop over samples, as one would write it first."""
    counts = np.zeros(BINS, np.int64)
    for sample in dataset.iter_samples():
        for label in sample.ntt.detections:
            counts[min(int(label.confidence * BINS), BINS - 1)] += 1
    return counts


def _milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.panel", description=__doc__.split("\n\n")[0])
    parser.add_argument("--samples", type=count, default=10_000)
    parser.add_argument("--labels", type=count, default=20, help="a sample")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--plain-samples", type=count, default=1000, help="of them, how many the plain loop reads")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    name = f"ntt-benchmark-panel-{ObjectId()}"
    try:
        dataset = build(name, options.samples, options.labels)
        size = dataset.stats()["samples_bytes"] / options.samples / 1000
        print(f"{options.samples} samples, {options.labels} labels each, {size:.1f} kB a document\n")
        first = _milliseconds(lambda: table_of(dataset, "ntt").refreshed())
        table_of(dataset, "ntt").__init__(dataset, "ntt")  # type: ignore[misc]  # forget it: the panel reads by itself
        times = measure(dataset, options.repeats)
        print(f"{'event':45s} median ms  worst ms")
        for event, found in times.items():
            print(
                f"{event:45s} {median(found):9.0f} {max(found):9.0f}{'  over the limit' if max(found) > LIMIT else ''}"
            )
        few = dataset.limit(options.plain_samples)
        plain = _milliseconds(lambda: plain_histogram(few)) * options.samples / len(few)
        ours = median(times["on_review_refresh"])
        print(f"\nreading all labels once, in the background: {first:.0f} ms")
        print(f"histogram by a loop over samples: {plain:.0f} ms, from {len(few)} of them; {plain / ours:.0f} x")
        write_json(options.json, {"times": times, "read": first, "plain": plain})
    finally:
        if fo.dataset_exists(name):
            fo.delete_dataset(name)


if __name__ == "__main__":
    main()
