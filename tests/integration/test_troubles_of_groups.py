"""Groups of samples: what is noted about a run on one slice follows its labels as on a plain dataset."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.field_troubles import TROUBLES
from support.labelled import IMAGES, KEY, SHAPES, fields_of_run, labels_of
from support.pictures import SIZE

import fiftyone_ntt as ntt

# voxel51/fiftyone#3336, #3763: what holds on a plain dataset does not on groups; #4423: the active slice was not heeded
SLICES = ("left", "right")


@pytest.fixture
def grouped(dataset, tmp_path, preset):
    """Pairs of pictures, of which a run has labelled the left ones; and what it wrote."""
    dataset.add_group_field("group", default="left")
    for i in range(IMAGES + 1):
        group = fo.Group()
        for name in SLICES:
            pixels = np.random.default_rng(i).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
            for shape in SHAPES:
                shape.draw(pixels, i)
            path = tmp_path / f"{name} {i}.png"
            Image.fromarray(pixels).save(path)
            truth = fo.Detections(detections=[shape.detection(i) for shape in SHAPES])
            is_reference = i == 0 and name == "left"
            dataset.add_sample(
                fo.Sample(
                    str(path), truth=truth, group=group.element(name), tags=["ntt:reference"] if is_reference else []
                )
            )
    bank = ntt.build_memory_bank(dataset.match_tags("ntt:reference"), "truth", preset=preset)
    assert ntt.segment(left(dataset), bank, "found", preset=preset).labelled == IMAGES
    return dataset, bank, labels_of(left(dataset), "found")


def left(dataset):
    return dataset.select_group_slices("left")


@pytest.mark.parametrize("active", SLICES)
@pytest.mark.parametrize("what", TROUBLES)
def test_the_same_call_writes_what_is_missing(grouped, preset, what, active):
    dataset, bank, expected = grouped
    act, field, again, is_decision = TROUBLES[what]
    dataset.group_slice = (
        active if "field" in what or what.startswith(("labels and", "labels cleared", "statuses", "copied")) else "left"
    )
    act(dataset)
    dataset.group_slice = active
    before = labels_of(left(dataset), field)
    report = ntt.segment(left(dataset), bank, field, run_key=KEY, preset=preset)
    assert (report.done, report.resumed) == (again, IMAGES - again)
    assert labels_of(left(dataset), field) == (before if is_decision else expected)
    (listed,) = ntt.list_runs(dataset)
    assert (listed["state"], listed["note"], listed["counts"]["left"]) == ("completed", None, 0)
    assert (listed["label_field"], sum(listed["counts"].values())) == (field, IMAGES)
    ntt.undo_run(dataset, KEY)
    assert fields_of_run(dataset) == [] and ntt.list_runs(dataset) == []
