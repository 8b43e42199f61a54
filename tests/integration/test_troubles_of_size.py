"""What is written can be read again, and huge segmentation masks take little memory."""

import json
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset import documents
from fiftyone_ntt.dataset.documents import MOST_BYTES, MOST_OF_MAP, label_of, mask_of
from fiftyone_ntt.dataset.geometry import read_map
from fiftyone_ntt.dataset.labels import serialised
from fiftyone_ntt.dataset.storage import move_masks
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.files import MOST_PIXELS


def test_every_mask_of_an_image_that_is_labelled_can_be_read():
    assert MOST_BYTES >= MOST_PIXELS and MOST_OF_MAP >= 2 * MOST_PIXELS


# ksugar/qupath-extension-sam#20, Project-MONAI/MONAILabel#1230: Pillow takes large pictures of one's own for bombs
@pytest.mark.parametrize("where", ["database", "file"])
@pytest.mark.parametrize("kind", ["label", "map"])
def test_what_is_written_up_to_the_bound_is_read(tmp_path, monkeypatch, kind, where):
    """Also where Pillow opens smaller pictures only, as it does by itself above 179 million pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(documents, "MOST_BYTES", 1200)
    monkeypatch.setattr(documents, "MOST_OF_MAP", 2400)
    mask = np.random.default_rng(0).random((30, 40) if kind == "label" else (40, 60)) < 0.5
    pattern = fo.Detection(bounding_box=[0, 0, 1, 1]) if kind == "label" else fo.Segmentation()
    document = {**pattern.to_dict(), "mask": serialised(mask if kind == "label" else mask.astype(np.uint8))}
    if where == "file" and kind == "label":
        move_masks([document], 1, tmp_path)
    elif where == "file":
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "map.png")
        document |= {"mask": None, "mask_path": str(tmp_path / "map.png")}
    assert ((mask_of(label_of(document)) > 0) == mask).all()


# tand826/wsiprocess#35: a mask of a slide of 100,000 x 100,000 pixels
@pytest.mark.parametrize(("size", "fits"), [((40, 60), True), ((41, 60), False), ((1, 10**9), False)])
def test_a_map_that_nobody_could_read_is_not_written(dataset, monkeypatch, size, fits):
    from fiftyone_ntt.evaluation import map_documents

    monkeypatch.setattr(map_documents, "MOST_OF_MAP", 2400)
    for each in (size, (10, 10)):
        labels = fo.Detections(detections=[fo.Detection(label="a", bounding_box=[0.1, 0, 0.1, 1])])
        metadata = fo.ImageMetadata(width=each[1], height=each[0])
        dataset.add_sample(fo.Sample(f"/{each[0]}.png", ntt=labels, metadata=metadata))
    report = ntt.to_segmentation(dataset, "ntt")
    assert report.maps == 1 + fits and len(report.errors) == 1 - fits
    if not fits:
        assert f"{size[1]} x {size[0]}" in report.errors[dataset.first().id]
        assert dataset.first().ntt_semantic is None
    for sample in dataset.exists("ntt_semantic"):
        assert read_map(sample.ntt_semantic).shape == (sample.metadata.height, sample.metadata.width)


def test_a_cache_file_that_nobody_could_read_is_not_written(pictures, bank, preset, index_dir, monkeypatch):
    from fiftyone_ntt.candidates import file_format

    monkeypatch.setattr(file_format, "_LARGEST", 1000)
    report = ntt.segment(pictures, bank, "found", preset=preset, index_dir=index_dir)
    assert report.failed == 0 and report.labelled + report.empty == 3 and report.indexed == 0
    assert any("at most 1000" in note for note in report.notes)
    assert not list(Path(index_dir).rglob("*.ntt"))


# safetensors/safetensors#668: a file is written that cannot be read again
@pytest.mark.parametrize("bound", ["_MOST_TENSOR_BYTES", "_MOST_TEXT_BYTES"])
def test_a_bank_that_nobody_could_read_is_not_written(bank, tmp_path, monkeypatch, bound):
    monkeypatch.setattr(f"fiftyone_ntt.method.memory_bank.{bound}", 100)
    with pytest.raises(InputError, match="at most 100 bytes"):
        bank.save(tmp_path / "bank")
    assert not list(tmp_path.rglob("bank.*"))


def test_a_bank_that_a_dataset_could_not_give_back_is_not_kept(pictures, bank, preset, monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.references.banks._MOST_BYTES", 100)
    with pytest.raises(InputError, match="at most 100 bytes"):
        ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset, name="kept")
    assert "kept" not in pictures.list_runs()


# azavea/raster-vision#616, ultralytics/ultralytics#26194: memory grows with pixels times labels
def test_a_huge_map_takes_little_memory(database, tmp_path):
    """12,000 x 10,000 pixels and few labels, written and scored in a process of its own."""
    script = Path(__file__).resolve().parents[1] / "support" / "huge_map.py"
    result = tmp_path / "result.json"
    subprocess.run([sys.executable, str(script), str(result)], check=True, timeout=900)
    said = json.loads(result.read_text())
    assert said["size"] == [12000, 10000] and said["miou"] == 1.0
    assert said["written"] < 220 and said["scored"] < 500, said
