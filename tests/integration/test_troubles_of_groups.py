"""Groups of samples: what is noted about a run on one slice follows its labels as on a plain dataset."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.app import PanelSession
from support.field_troubles import TROUBLES
from support.labelled import IMAGES, KEY, PICTURES, SHAPES, fields_of_run, labels_of
from support.pictures import SIZE

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import PRESETS

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


# References in another slice than the one that is active


@pytest.fixture
def with_references_in(pictures, tmp_path):
    """Makes groups of two pictures, and of a scene where that slice is to be active; one slice has references."""
    made = []

    def make(active, of_references):
        dataset = fo.Dataset(f"{pictures.name}-{active}-{of_references}", persistent=True)
        made.append(dataset)
        scene = tmp_path / "a.fo3d"
        scene.write_text("{}")
        dataset.add_group_field("group", default=active)
        for sample in pictures:
            group = fo.Group()
            for name in SLICES:
                tags = list(sample.tags) if name == of_references else []
                element = group.element(name)
                truth = sample.truth.copy() if sample.truth is not None else None
                dataset.add_sample(fo.Sample(sample.filepath, truth=truth, group=element, tags=tags))
            if active == "scene":
                dataset.add_sample(fo.Sample(str(scene), group=group.element("scene")))
        return dataset

    yield make
    for dataset in made:
        dataset.delete()


@pytest.mark.pictures(**PICTURES)
@pytest.mark.parametrize(("active", "of_references"), [("left", "right"), ("right", "left"), ("scene", "left")])
def test_references_of_any_slice_are_found(with_references_in, preset, monkeypatch, active, of_references):
    monkeypatch.setitem(PRESETS, preset.name, preset)
    dataset = with_references_in(active, of_references)
    view = dataset.select_group_slices(of_references)
    (*previews,) = ntt.preview(view, preset=preset)
    assert [shown.error for shown in previews] == [None] * IMAGES
    assert ntt.segment(view, None, "found", preset=preset).labelled == IMAGES
    advice = ntt.advise_references(view, label_field="truth", reviewed="found", preset=preset)
    assert len(advice.references) == len(SHAPES)
    panel = PanelSession(dataset, "references", view)
    assert panel.state["references_counts"] == {"disc": 1, "square": 1}
    assert len(panel.state["references_cards"]) == len(SHAPES)


@pytest.mark.pictures(**PICTURES)
def test_groups_without_references_say_so(with_references_in, preset):
    dataset = with_references_in("left", "none")
    assert PanelSession(dataset, "references", dataset.select_group_slices("left")).state["references_counts"] == {}
    with pytest.raises(InputError, match="no references here yet"):
        ntt.segment(dataset.select_group_slices("left"), None, "found", preset=preset)
