"""The memory of services that go over a whole dataset does not grow with it as its labels do.

By Python's own count of what is allocated at once (``tracemalloc``), with few samples and with four times as many.
"""

from __future__ import annotations

import tracemalloc

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from PIL import Image
from support.runs import begin_run

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.runs.history import Pass

FEW, MANY, LABELS, SIDE = 60, 240, 4, 64
AT_ONCE = 10
"""Samples that a service has in memory at once here: fewer than in either dataset."""


def masked(number):
    """A label with a ragged mask: 64 x 64 of noise are some kilobytes, in the database and as run lengths."""
    mask = np.random.default_rng(number).random((SIDE, SIDE)) > 0.5
    return fo.Detection(label="fig", bounding_box=[0, 0, 1, 1], mask=mask, confidence=0.5, predicted_iou=0.9)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Few and many copies of a sample with labels, as predictions and as ground truth."""
    path = tmp_path_factory.mktemp("memory") / "picture.png"
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(path)
    datasets = {}
    for count in (FEW, MANY):
        dataset = datasets[count] = fo.Dataset(persistent=True)
        labels = fo.Detections(detections=[masked(i) for i in range(LABELS)])
        dataset.add_sample(fo.Sample(str(path), ntt=labels, truth=labels.copy()))
        dataset.compute_metadata(progress=False)
        begin_run(dataset, "ntt", done=1, failed=0, state="completed")
        samples = database_collection(dataset)
        sample = samples.find_one()
        sample["ntt"] = labels.to_dict()
        samples.replace_one({"_id": sample["_id"]}, sample)
        samples.insert_many([{**sample, "_id": ObjectId()} for _ in range(count - 1)])
        dataset.reload()
    yield datasets
    for dataset in datasets.values():
        dataset.delete()


def peak_of(call, dataset):
    tracemalloc.start()
    try:
        call(dataset)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def evaluate(dataset, folder):
    results = ntt.evaluate(dataset, "ntt", "truth", include_references=True)
    assert results.images == len(dataset) and results.mask.ap == 1


def evaluate_borders(dataset, folder):
    results = ntt.evaluate(dataset, "ntt", "truth", include_references=True, boundary=True)
    assert results.boundary.ap == 1


def export(dataset, folder):
    report = ntt.export_labels(dataset, folder / f"export {len(dataset)}", "ntt", only="all", export_media=False)
    assert report.labels == LABELS * len(dataset)


def undo(dataset, folder):
    """Of a pass that has overwritten everything."""
    replaced = Pass(dataset, "ntt_ntt", 0)
    rows = database_collection(dataset).find({}, {"ntt": 1, "ntt_status": 1})
    replaced.begin(label_field="ntt", overwrites=True, made=[], previous=None, config=None)
    for row in rows:
        replaced.keep(str(row["_id"]), row["ntt"], row.get("ntt_status"))
    tracemalloc.reset_peak()
    assert ntt.undo_run(dataset, "ntt_ntt") == 0
    assert dataset.count("ntt.detections") == LABELS * len(dataset)


A_SAMPLE = LABELS * SIDE * SIDE
"""Bytes that the pixels of a sample's masks take; as run lengths or packed they take a good part of that."""


@pytest.fixture
def small_parts(monkeypatch):
    for name in (
        "dataset.parts._AT_ONCE", "evaluation.objects.IMAGES_AT_ONCE", "review.export._CHUNK",
        "review.export_choice._CHUNK", "runs.undo._CHUNK",
    ):  # fmt: skip
        monkeypatch.setattr(f"fiftyone_ntt.{name}", AT_ONCE)


@pytest.mark.parametrize("service", [evaluate, evaluate_borders, export, undo], ids=lambda service: service.__name__)
def test_memory_does_not_grow_with_the_samples(made, small_parts, tmp_path, service):
    peaks = {count: peak_of(lambda dataset: service(dataset, tmp_path), dataset) for count, dataset in made.items()}
    grown = (peaks[MANY] - peaks[FEW]) / (MANY - FEW)
    assert grown < A_SAMPLE / 4, f"{grown:.0f} bytes a sample, {peaks}"
