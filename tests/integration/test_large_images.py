"""Large images through the whole of the package: labels, cache, record, learning, previews, and the references."""

from __future__ import annotations

from dataclasses import replace

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.blob_models import blob_preset

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.core import MatchConfig, ReferenceSettings
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.runs.record import METHOD, note_provenance, provenance_of, stage_one_settings

pytestmark = pytest.mark.pictures(count=2, references=1)
OPTIONS = {"points_per_side": 8, "device": "cpu"}


@pytest.fixture
def preset():
    return blob_preset()


@pytest.fixture
def panorama(pictures, tmp_path):
    """The pictures, and one that is long enough for ``auto``."""
    pixels = np.random.default_rng(5).integers(0, 90, (300, 2400, 3), dtype=np.uint8)
    for left in range(50, 2400, 300):
        pixels[100:180, left : left + 80] = (200, 40, 0)
    path = tmp_path / "panorama.png"
    Image.fromarray(pixels).save(path)
    pictures.add_sample(fo.Sample(str(path)))
    return pictures


def labels_of(dataset, field):
    """Boxes and scores of the last sample, and of the others."""
    rows = [
        [(label.bounding_box, label.confidence, label.mask.sum()) for label in sample[field].detections]
        for sample in dataset.match({field: {"$ne": None}})
    ]
    return rows[-1], rows[:-1]


def test_a_panorama_is_labelled_in_tiles(panorama, bank, preset, index_dir, monkeypatch):
    options = {**OPTIONS, "preset": preset, "index_dir": index_dir}
    off = ntt.segment(panorama, bank, "off", large_images="off", **options)
    auto = ntt.segment(panorama, bank, "auto", **options)
    assert (off.failed, auto.failed) == (0, 0), (off.errors, auto.errors)
    assert any("unseen" in note and "large_images" in note for note in off.notes)
    assert not any("unseen" in note for note in auto.notes)
    (large_off, small_off), (large, small) = labels_of(panorama, "off"), labels_of(panorama, "auto")
    assert small == small_off and len(large) == 8 > len(large_off)
    assert (auto.from_index, auto.indexed) == (1, 1)  # what is as it was, and what has tiles now
    assert provenance_of(panorama, "auto")["large_images"] == "auto"
    for box, _, _ in large:
        assert min(box) >= 0 and box[0] + box[2] <= 1 + 1e-9 and box[1] + box[3] <= 1 + 1e-9

    def refuse(*_arguments, **_keywords):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(candidates, "load_segmenters", refuse)
    again = ntt.segment(panorama, bank, "again", **options)
    assert (again.from_index, again.indexed, again.failed) == (2, 0, 0)
    assert labels_of(panorama, "again") == (large, small)


def test_resuming_asks_for_the_same_tiles(panorama, bank, preset, index_dir):
    options = {**OPTIONS, "preset": preset, "index_dir": index_dir}
    ntt.segment(panorama, bank, "ntt", large_images="off", **options)
    with pytest.raises(InputError, match="large_images"):
        ntt.segment(panorama, bank, "ntt", **options)
    report = ntt.segment(panorama, bank, "ntt", large_images="off", **options)
    assert report.resumed == 2


def test_a_run_of_before_there_were_tiles_goes_on_without(panorama, bank, preset, index_dir):
    """Its record says nothing of them, which has one meaning for whoever resumes it or learns from it."""
    options = {**OPTIONS, "preset": preset, "index_dir": index_dir}
    ntt.segment(panorama, bank, "ntt", large_images="off", **options)
    record = {key: value for key, value in provenance_of(panorama, "ntt").items() if not key.startswith("large")}
    panorama.register_run(record["run_key"], panorama.init_run(method=METHOD, record=record), overwrite=True)
    note_provenance(panorama, "ntt", record)
    assert stage_one_settings(record, {}).large_images == "off"
    before = labels_of(panorama, "ntt")
    assert ntt.segment(panorama, bank, "ntt", **options).resumed == 2
    assert labels_of(panorama, "ntt") == before
    with pytest.raises(InputError, match="large_images"):
        ntt.segment(panorama, bank, "ntt", large_images="on", **options)
    assert ntt.segment(panorama, bank, "ntt", overwrite=True, **options).resumed == 0  # a new one
    assert len(labels_of(panorama, "ntt")[0]) == 8 > len(before[0])


def test_the_published_method_knows_no_tiles(panorama, bank, preset, index_dir):
    options = {**OPTIONS, "preset": preset, "index_dir": index_dir, "config": MatchConfig.paper()}
    with pytest.raises(InputError, match="paper"):
        ntt.segment(panorama, bank, "ntt", large_images="on", **options)
    assert ntt.segment(panorama, bank, "ntt", **options).failed == 0


def test_index_and_preview_look_at_tiles(panorama, bank, preset, index_dir):
    report = ntt.index(panorama, preset, index_dir=index_dir, large_images="on", **OPTIONS)
    assert (report.computed, report.failed) == (3, 0)
    images = list(ntt.preview(panorama, bank, images=2, preset=preset, index_dir=index_dir, **OPTIONS))
    assert [image.error for image in images] == [None, None]
    assert all(image.from_index for image in images)


def test_decisions_on_a_large_image_teach(panorama, bank, preset, index_dir):
    options = {**OPTIONS, "preset": preset, "index_dir": index_dir}
    ntt.segment(panorama, bank, "ntt", **options)
    sample = panorama.last()
    for label in sample.ntt.detections[:3]:
        label.tags.append("ntt:accepted")
    sample.save()
    report = ntt.learn(panorama, "ntt", preset=preset, index_dir=index_dir)
    assert not report.errors
    assert report.decisions == {"square": {"accepted": 3, "edited": 0, "rejected": 0}}


def test_a_reference_in_a_large_image_is_seen_near(panorama, preset):
    """As a tile shows it, by models that see references in their images; others crop them anyway."""
    sample = panorama.last()
    box = [350 / 2400, 100 / 300, 80 / 2400, 80 / 300]
    sample["truth"] = fo.Detections(detections=[fo.Detection(label="square", bounding_box=box)])
    sample.save()
    view, preset = panorama.select(sample.id), replace(preset, references=ReferenceSettings(context="image"))
    banks = [ntt.build_memory_bank(view, "truth", preset=preset, large_images=mode) for mode in ("off", "auto")]
    assert banks[0].content_hash != banks[1].content_hash
    assert np.isfinite(banks[1].vectors).all()


def test_an_unreadable_large_image_costs_itself(panorama, bank, preset, index_dir, tmp_path):
    path = tmp_path / "panorama.png"
    path.write_bytes(path.read_bytes()[:20_000])
    report = ntt.segment(panorama, bank, "ntt", preset=preset, index_dir=index_dir, **OPTIONS)
    assert (report.failed, report.labelled + report.empty) == (1, 1)
    assert "panorama" in next(iter(report.errors.values()))
