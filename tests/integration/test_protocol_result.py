"""The result of a protocol as a dataset in FiftyOne."""

from __future__ import annotations

import json

import fiftyone as fo
import pytest
from support.colours import COLOUR_PRESET
from support.protocol_data import LEFT, SIZE, folder_data, pascal_5i_data

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols import fiftyone_result
from fiftyone_ntt.evaluation.protocols.fiftyone_result import load_result
from fiftyone_ntt.evaluation.protocols.orders import Order
from fiftyone_ntt.evaluation.protocols.protocol_run import run
from fiftyone_ntt.evaluation.protocols.registry import protocol_of
from fiftyone_ntt.params.base import StageOneSettings


def result(tmp_path, name, make, **changes):
    data = tmp_path / name
    data.mkdir()
    make(data)
    stage_one = StageOneSettings(preset=COLOUR_PRESET, index_dir=tmp_path / "cache")
    return run(protocol_of(name), Order(data, tmp_path / "out", stage_one=stage_one, **changes))[0]


def test_result_as_a_dataset(tmp_path):
    """Truth and labels lie where they are in the image; nothing is written over."""
    path = result(tmp_path, "folder", folder_data)
    dataset = load_result(path, "protocol-result")
    try:
        assert len(dataset) == 3 and dataset.info["protocol"]["presence"] == "unknown"
        sample = dataset.match({"filepath": {"$regex": "t2"}}).first()
        (truth,), (label, *_) = sample.ground_truth.detections, sample.ntt.detections
        x1, y1, x2, y2 = LEFT
        assert truth.bounding_box == pytest.approx(
            [x1 / SIZE[1], y1 / SIZE[0], (x2 - x1) / SIZE[1], (y2 - y1) / SIZE[0]]
        )
        assert label.bounding_box == pytest.approx(truth.bounding_box, abs=0.02)
        assert label.label == truth.label and label.confidence > 0.3 and truth.mask.shape == (y2 - y1, x2 - x1)
        with pytest.raises(InputError, match="not taken"):
            load_result(path, "protocol-result")
    finally:
        fo.delete_dataset("protocol-result")


@pytest.mark.parametrize("change", ["classes", "images"])
def test_labels_of_another_annotation_file_are_refused(change, tmp_path):
    """Rows have classes and images by number: a file that numbers them otherwise would show each under another."""
    path = result(tmp_path, "folder", folder_data)
    file = tmp_path / "folder" / "annotations" / "test.json"
    content = json.loads(file.read_text())
    if change == "classes":
        names = [one["name"] for one in content["categories"]]
        for one, name in zip(content["categories"], names[::-1], strict=True):
            one["name"] = name
    else:
        names = [one["file_name"] for one in content["images"]]
        for one, name in zip(content["images"], names[1:] + names[:1], strict=True):
            one["file_name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="was changed since"):
        load_result(path, "changed")
    assert not fo.dataset_exists("changed")


def test_a_dataset_is_whole_or_not_there(tmp_path, monkeypatch):
    """Samples are made by the chunk, and what fails half-way leaves no dataset that keeps the name."""
    path, seen = result(tmp_path, "folder", folder_data), []
    monkeypatch.setattr(fiftyone_result, "_CHUNK", 1)
    plain = fiftyone_result._detections

    def failing(items, classes, size):
        if sum(seen) == 2:
            raise MemoryError
        return plain(items, classes, size)

    def adding(self, samples, **options):
        seen.append(len(samples))
        return add(self, samples, **options)

    add = fo.Dataset.add_samples
    monkeypatch.setattr(fo.Dataset, "add_samples", adding)
    monkeypatch.setattr(fiftyone_result, "_detections", failing)
    with pytest.raises(MemoryError):
        load_result(path, "half")
    assert seen == [1, 1] and not fo.dataset_exists("half")
    monkeypatch.setattr(fiftyone_result, "_detections", plain)
    load_result(path, "half").delete()
    assert seen == [1] * 5


def test_what_cannot_be_loaded_is_said(tmp_path):
    episodes = result(tmp_path, "pascal-5i", pascal_5i_data, limit=2)
    with pytest.raises(InputError, match="overlaps"):
        load_result(episodes)
    path = result(tmp_path, "folder", folder_data)
    next(path.parent.glob("folder*.labels.jsonl")).unlink()
    with pytest.raises(InputError, match="run the protocol again"):
        load_result(path)
    with pytest.raises(InputError, match=f"got the folder .*{path.name}"):
        load_result(path.parent)
    content = json.loads(path.read_text())
    for absent in ("labels", "part"):
        half = {key: value for key, value in content.items() if key != absent}
        path.with_name("half.json").write_text(json.dumps(half))
        with pytest.raises(InputError, match=f"without {absent}"):
            load_result(path.with_name("half.json"))
    path.with_name(content["labels"]).write_text("[1]\n")
    with pytest.raises(InputError, match="expected the labels of a run"):
        load_result(path)
    assert not fo.dataset_exists(path.stem)
