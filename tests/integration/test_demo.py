"""The demo without its models: dataset, pictures, and a database that is nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

from fiftyone_ntt.dataset.geometry import full_mask
from fiftyone_ntt.demo import overlays, run
from fiftyone_ntt.demo.data import load_images
from fiftyone_ntt.demo.database import find_mongod
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.drawing import class_colour

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_demo_dataset(database):
    yield
    if fo.dataset_exists(run.DATASET):
        fo.delete_dataset(run.DATASET)


@pytest.mark.usefixtures("no_demo_dataset")
def test_demo_dataset_and_pictures_hold_the_outlines(tmp_path, caplog):
    images = {image.name: image for image in load_images()}
    dataset = run.build_dataset(tmp_path, list(images.values()))
    assert len(dataset) == 9
    assert len(dataset.load_saved_view("references")) == 2
    for sample in dataset:
        image = images[Path(sample.filepath).stem]
        size = image.pixels.shape[:2]
        assert np.array_equal(np.asarray(Image.open(sample.filepath)), image.pixels)
        for label, item in zip(sample.ground_truth.detections, image.objects, strict=True):
            assert np.array_equal(full_mask(label, size), item.mask)
    for sample in dataset.match_tags(run.REFERENCE_TAG, bool=False):  # perfect labels stand in for the models' ones
        found = [label.copy() for label in sample.ground_truth.detections]
        for label in found:
            label.confidence = 0.8
        sample["ntt"] = fo.Detections(detections=found)
        sample.save()
    files = run.draw_pictures(dataset, tmp_path)
    assert [path.name for path in files][:2] == ["overview.png", "coins_2.png"]
    assert len(files) == 8
    with Image.open(tmp_path / "overview.png") as sheet:
        assert sheet.width > 1600
    (tmp_path / "images" / "coins_2.png").unlink()
    (tmp_path / "overlays" / "coffee.png").unlink()
    (tmp_path / "overlays" / "coffee.png").mkdir()
    names = [path.name for path in run.draw_pictures(dataset, tmp_path)]
    assert len(names) == 6 and not {"coins_2.png", "coffee.png"} & {*names}, "one picture costs itself"
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 2 and "images/coins_2.png" in told[0] and "overlays/coffee.png" in told[1]
    rebuilt = run.build_dataset(tmp_path, list(images.values()))
    assert len(rebuilt) == 9, "the demo's own dataset is replaced"


@pytest.mark.usefixtures("no_demo_dataset")
def test_a_dataset_of_the_users_is_not_replaced(tmp_path):
    fo.Dataset(run.DATASET, persistent=True).add_sample(fo.Sample(filepath="mine.png"))
    with pytest.raises(InputError, match="demo.*not made"):
        run.build_dataset(tmp_path, load_images())
    assert len(fo.load_dataset(run.DATASET)) == 1


def test_fiftyone_imported_too_early_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("FIFTYONE_DATABASE_URI")
    with pytest.raises(InputError, match="FiftyOne.*imported"):
        run.use_own_fiftyone(tmp_path)


@pytest.mark.skipif(find_mongod() is None, reason="needs a mongod")
def test_demo_database_is_its_own_and_ends_with_its_process(tmp_path):
    code = """
import os, sys
from pathlib import Path
from fiftyone_ntt.demo.run import use_own_fiftyone
from fiftyone_ntt.pixels.drawing import class_colour
from fiftyone_ntt.errors import InputError
try:
    use_own_fiftyone(Path(sys.argv[1]))
except InputError as error:
    sys.exit(f"REFUSED {error}")
import fiftyone as fo
print("BEFORE", fo.list_datasets())
fo.Dataset("kept", persistent=True)
print("READY", flush=True)
sys.stdin.read()
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FIFTYONE_")}
    keywords = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def start():
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **keywords)

    first = start()
    assert first.stdout.readline().strip() == "BEFORE []"
    assert first.stdout.readline().strip() == "READY"
    assert "REFUSED the database" in start().communicate()[1], "two demos cannot share a folder"
    first.kill()  # not even a chance to clean up
    first.wait()
    for _ in range(100):  # the orphaned mongod notices and ends; only then the folder is free again
        output, errors = start().communicate()
        if "REFUSED" not in errors:
            break
    assert "BEFORE ['kept']" in output


def test_overlays_tint_the_shape_and_leave_the_rest(tmp_path):
    pixels = np.full((60, 80, 3), 100, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    panel = overlays.Panel(pixels, [overlays.Shape("fig", mask)], "title")
    drawn = np.asarray(overlays.draw_panel(panel, ["date", "fig"], 400))[-300:]
    assert drawn.shape == (300, 400, 3)
    assert (drawn[250:290, 100:300] == 100).all(), "below the shape nothing changes"
    colour = np.array(class_colour("fig", ["date", "fig"]))
    tinted = drawn[150, 150].astype(int)
    assert np.abs(tinted - (100 + 0.38 * (colour - 100))).max() <= 2
    edge = drawn[99:103, 200].astype(int)
    assert np.abs(edge - colour).sum(1).min() < 40, "the outline has the colour of the class"


@pytest.mark.parametrize("place", [(0, 0, 10, 10), (50, 70, 60, 80), (0, 0, 60, 80), (30, 40, 31, 41)])
def test_shapes_at_the_border_are_drawn(place):
    top, left, bottom, right = place
    mask = np.zeros((60, 80), bool)
    mask[top:bottom, left:right] = True
    shapes = [overlays.Shape("fig", mask, 0.5), overlays.Shape("date", np.zeros((60, 80), bool), 0.4)]
    panel = overlays.Panel(np.zeros((60, 80, 3), np.uint8), shapes)
    assert np.asarray(overlays.draw_panel(panel, ["fig", "date"], 333, 200)).any()
