"""Which images a service works on: plain datasets and views, grouped ones, views that group, and what it refuses."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.fields import every_image, image_samples, whole_images
from fiftyone_ntt.errors import WrongTypeError

SIZE = (60, 80)
GROUPS = 3


def labelled(path, **facts):
    box = [0.1, 0.2, 0.4, 0.5]
    truth = fo.Detections(detections=[fo.Detection(label="square", bounding_box=box)])
    return fo.Sample(str(path), ground_truth=truth, **facts)


@pytest.fixture
def paths(tmp_path):
    found = []
    for i in range(2 * GROUPS):
        image = np.random.default_rng(i).integers(0, 90, (*SIZE, 3), dtype=np.uint8)
        image[12:42, 8 + 5 * i : 40 + 5 * i] = (200, 40, 20 * i)
        found.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(found[-1])
    return found


@pytest.fixture
def plain(dataset, paths):
    dataset.add_samples([labelled(path, scene="ab"[i % 2]) for i, path in enumerate(paths)])
    return dataset


@pytest.fixture
def grouped(dataset, paths):
    """Groups of a left image, a right image and a video."""
    dataset.add_group_field("group", default="left")
    for i in range(GROUPS):
        group = fo.Group()
        for k, name in enumerate(("left", "right")):
            dataset.add_sample(labelled(paths[2 * i + k], group=group.element(name), scene="ab"[i % 2]))
        dataset.add_sample(fo.Sample(str(paths[0].with_name(f"{i}.mp4")), group=group.element("clip")))
    return dataset


def test_images_are_taken_as_they_are(plain):
    view = plain.limit(2)
    patches = plain.to_patches("ground_truth")
    assert image_samples(plain) is plain
    assert image_samples(view) is view
    assert image_samples(patches) is patches, "patches can serve as references"
    assert image_samples(plain[:0]).values("id") == []


def test_an_empty_dataset_is_no_error(dataset):
    assert image_samples(dataset) is dataset


@pytest.mark.parametrize("by", ["scene", ("scene", "filepath")])
def test_a_view_that_groups_is_all_its_images(plain, by):
    grouping = plain.group_by("scene") if by == "scene" else plain.group_by("scene", order_by="filepath")
    assert sorted(image_samples(grouping).values("id")) == sorted(plain.values("id"))


@pytest.mark.parametrize("active", ["left", "right"])
def test_of_groups_it_is_the_active_slice(grouped, active):
    expected = grouped.select_group_slices(active)
    view = grouped.match(F("scene") == "a")
    view.group_slice = active
    grouped.group_slice = active
    for collection in (grouped, grouped.view(), grouped.group_by("scene")):
        found = image_samples(collection)
        assert (found.media_type, sorted(found.values("id"))) == ("image", sorted(expected.values("id")))
    assert image_samples(view).values("id") == expected.match(F("scene") == "a").values("id")
    assert len(every_image(grouped)) == 2 * GROUPS


def test_groups_whose_active_slice_is_no_image_are_refused(grouped):
    grouped.group_slice = "clip"
    with pytest.raises(WrongTypeError, match="'clip'.*'left'"):
        image_samples(grouped)


@pytest.mark.parametrize(("name", "what"), [("film.mp4", "videos.*frames"), ("scene.fo3d", "3D scenes")])
def test_what_is_no_image_is_refused_in_words(dataset, name, what):
    dataset.add_sample(fo.Sample(f"/data/{name}"))
    with pytest.raises(WrongTypeError, match=what):
        image_samples(dataset)


def test_all_slices_at_once_are_refused(grouped):
    with pytest.raises(WrongTypeError, match="several kinds.*slice"):
        image_samples(grouped.select_group_slices(_allow_mixed=True))


def test_patches_are_nothing_to_label(plain):
    assert whole_images(plain) is plain
    with pytest.raises(WrongTypeError, match="whole images.*patches"):
        whole_images(plain.to_patches("ground_truth"))


def interrupt_after(number):
    def progress(done, total, message):
        if done >= number:
            raise KeyboardInterrupt

    return progress


def test_a_slice_is_labelled_resumed_evaluated_and_undone(grouped, preset):
    """The slice that is active when the run starts, whatever slice someone looks at later."""
    right = grouped.select_group_slices("right")
    bank = ntt.build_memory_bank(right.limit(1), preset=preset)
    view = grouped.match(F("filepath").contains_str(".png"))
    grouped.group_slice = "right"
    with pytest.raises(KeyboardInterrupt):
        ntt.segment(view, bank, preset=preset, include_references=True, progress=interrupt_after(1))
    grouped.group_slice = "left"
    assert 0 < (ntt.list_runs(grouped)[0]["counts"]["left"]) < GROUPS

    report = ntt.resume_run(grouped, "ntt_ntt", preset=preset)
    assert report.labelled == GROUPS - report.resumed > 0 < report.resumed
    everything = every_image(grouped)
    assert sorted(everything.match(F("ntt_status.state") == "ok").values("id")) == sorted(right.values("id"))
    assert (ntt.list_runs(grouped)[0]["state"], ntt.list_runs(grouped)[0]["counts"]["ok"]) == ("completed", GROUPS)
    assert not grouped.count("ntt.detections"), "the left images have none"

    grouped.group_slice = "right"
    results = ntt.evaluate(grouped, eval_key="scored", include_references=True)
    assert results.images == GROUPS and right.count("ntt.detections.scored")
    grouped.group_slice = "left"
    assert ntt.undo_run(grouped, "ntt_ntt") > 0
    assert not grouped.has_field("ntt")


def test_a_grouping_view_is_labelled_sample_by_sample(plain, preset):
    bank = ntt.build_memory_bank(plain.group_by("scene"), preset=preset)
    report = ntt.segment(plain.group_by("scene"), bank, preset=preset, include_references=True)
    assert bank.shots == {"square": 2 * GROUPS}
    assert report.labelled == 2 * GROUPS == len(plain.exists("ntt.detections"))
    assert ntt.index(plain.group_by("scene"), preset).found == 2 * GROUPS
    assert ntt.list_runs(plain)[0]["counts"]["left"] == 0
