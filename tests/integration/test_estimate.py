"""What a form says of a run's cost: images, how many are indexed, and the time, without loading a model."""

from __future__ import annotations

import math
import time

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.candidates.tiles import tiles_of_size
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.runs import estimate as module
from fiftyone_ntt.runs.estimate import Estimate, estimate, in_words, remember_speed, seconds_per_look


@pytest.fixture
def stage_one(preset):
    return StageOneSettings(preset=preset, device="cpu")


@pytest.fixture
def images(dataset, tmp_path):
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    dataset.add_samples([fo.Sample(str(tmp_path / f"{i}.png")) for i in range(4)])
    return dataset


def test_what_is_indexed_is_counted_and_what_it_took_is_known(images, stage_one, tmp_path):
    where = {"index_dir": tmp_path / "index"}
    before = estimate(images, stage_one, **where)
    assert (before.images, before.indexed, before.seconds) == (4, 0, None)
    assert str(before) == (
        "4 images to do, none of them in the candidate cache yet. How long that takes on this machine is not known "
        "yet: run a preview, and it will be."
    )
    ntt.index(images.limit(3), stage_one.preset, device="cpu", **where)
    after = estimate(images, stage_one, **where)
    assert (after.found, after.looked_at, after.exact) == (3, 4, True)
    assert after.seconds_each > 0 and "3 of them in the candidate cache. Takes about" in str(after)
    assert estimate(images, stage_one, use_index=False, **where).indexed == 0
    other = stage_one.changed(points_per_side=3)
    assert estimate(images, other, **where).indexed == 0 and seconds_per_look(images, StageOne.of(other)) is None


def test_the_speed_is_kept_with_the_dataset(images, stage_one):
    remember_speed(images, StageOne.of(stage_one), 12.0, 4)
    remember_speed(images, StageOne.of(stage_one), 0.0, 0)
    assert seconds_per_look(images, StageOne.of(stage_one)) == 3.0
    assert "Takes about 12 seconds on this machine, at 3 s an image as measured" in str(estimate(images, stage_one))


def test_a_tile_is_a_look(images, stage_one, tmp_path):
    """A large image takes as long as its tiles: in an estimate, and in what was measured for one."""
    Image.fromarray(np.zeros((200, 2500, 3), np.uint8)).save(tmp_path / "4.png")
    images.add_sample(fo.Sample(str(tmp_path / "4.png")))
    asked = stage_one.changed(large_images="auto", index_dir=tmp_path / "index")
    tiles = len(tiles_of_size((200, 2500), asked))
    assert tiles > 5
    remember_speed(images, StageOne.of(asked), 3.0, 3)
    said = estimate(images, asked)
    assert (said.images, said.looks, said.seconds) == (5, (4 + tiles) / 5, 4.0 + tiles)
    assert "at 1 s a tile, of which an image has" in str(said)
    assert estimate(images, asked.changed(large_images="off")).seconds == 5.0
    report = ntt.index(images, asked.preset, stage_one=asked)
    assert report.computed == 5
    took = seconds_per_look(images, StageOne.of(asked))
    assert took is not None and took * (4 + tiles) <= report.seconds
    assert estimate(images, asked).indexed == 5


@pytest.mark.parametrize("service", ["index", "segment"])
def test_warming_up_is_no_images_time(service, images, stage_one, bank, tmp_path, monkeypatch):
    """Models that take an hour to compile do so once, for four images as for a million."""
    clock, hours = time.perf_counter, []
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * len(hours))
    monkeypatch.setattr(Segmenter, "warm_up", lambda segmenter: None if hours else hours.append(1))
    asked = stage_one.changed(index_dir=tmp_path / "index")
    if service == "index":
        report = ntt.index(images, asked.preset, stage_one=asked)
    else:
        report = ntt.segment(images, bank, "ntt", stage_one=asked)
    assert hours and report.seconds > 3600
    assert 0 < seconds_per_look(images, StageOne.of(asked)) < 900


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Estimate(0, 0, 0, None), "No images to do."),
        (
            Estimate(1, 1, 1, None),
            "1 image to do, all of them in the candidate cache. Takes about 1 second on this machine.",
        ),
        (
            Estimate(10_000, 100, 25, 1.0),
            "10,000 images to do, about 2500 of them in the candidate cache (judging by 100",
        ),
        (Estimate(10_000, 100, 0, 2.0), "Takes about 5.6 hours on this machine, at 2 s an image as measured."),
        (Estimate(10_000, 0, 0, 2.0), "not known how many are in the candidate cache"),
    ],
)
def test_it_reads_as_a_sentence(found, said):
    assert said in str(found)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (89, "89 seconds"),
        (100, "2 minutes"),
        (5300, "88 minutes"),
        (9000, "2.5 hours"),
        (3e5, "3 days"),
    ],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_large_view_is_judged_by_some_of_its_images(dataset, images, stage_one, tmp_path, monkeypatch):
    where = {"index_dir": tmp_path / "index"}
    ntt.index(images, stage_one.preset, device="cpu", **where)
    paths = images.values("filepath")
    images.add_samples([fo.Sample(paths[i % 4], n=i) for i in range(2000)])
    reads = []
    monkeypatch.setattr(module, "_digests", type(module._digests)())
    monkeypatch.setattr(module, "file_digest", lambda path, read=module.file_digest: reads.append(path) or read(path))
    judged = estimate(images, stage_one, most_seconds=math.inf, **where)
    assert (judged.images, judged.looked_at, judged.indexed) == (2004, 100, 2004)
    assert len(reads) <= 4, "a file that was read is not read again"
    assert estimate(images, stage_one, most_seconds=-1, **where).looked_at == 100
    monkeypatch.setattr(module, "_digests", type(module._digests)())
    assert estimate(images, stage_one, most_seconds=-1, **where).looked_at == 0, "no time, no reading"
