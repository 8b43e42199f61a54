"""``MatchConfig.paper()`` through the service is the match of what the models gave: equal to the bit, cache or not."""

from __future__ import annotations

from dataclasses import replace

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.core import MatchConfig, Matcher, MemoryBank, compact, read_image
from fiftyone_ntt.dataset.geometry import full_mask
from fiftyone_ntt.models import load_preset

SIZES = [(90, 120), (61, 47), (9, 200), (300, 410)]
"""Height and width; random models draw ragged masks, of which small images see much."""
EVERY = replace(MatchConfig.paper(), nms_threshold=1)
CONFIGS = {
    "as it is": ({"config": MatchConfig.paper()}, MatchConfig.paper()),
    "nothing suppressed": ({"config": EVERY}, EVERY),
    "few labels": (
        {"config": EVERY, "max_instances": 5, "score_threshold": 0.1},
        replace(EVERY, max_instances=5, score_threshold=0.1),
    ),
}


@pytest.fixture
def noise(dataset, tmp_path):
    """Pictures of all sizes, of noise with something smooth in it."""
    for i, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels[: height // 2, : width // 2] = (200, 40 * i, 0)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        dataset.add_sample(fo.Sample(str(tmp_path / f"{i}.png")))
    return dataset


@pytest.fixture
def classes(noise, preset):
    """A bank of several classes: vectors of candidates of one picture, which all look much alike."""
    segmenter = load_preset(preset).segmenter()
    vectors = segmenter.candidates(read_image(noise.first().filepath)).vectors.numpy()
    names = ("a", "b", "c", "d")
    ids = tuple(str(i) for i in range(8))
    return MemoryBank(names, vectors[:8], np.arange(8) % 4, ids, preset=preset.name, weights=segmenter.weights)


def direct(noise, preset, bank, config):
    matcher = Matcher(bank, config, segmenter=load_preset(preset).segmenter())
    return [matcher.match(read_image(path)) for path in noise.values("filepath")]


def same(sample, found, bank, field="found"):
    """Whether a sample's labels are these instances, in their order, to the bit."""
    labels = sample[field].detections if sample[field] else []
    height, width = found.image_size
    assert [label.label for label in labels] == [bank.classes[k] for k in found.labels]
    assert [label.confidence for label in labels] == [float(score) for score in found.scores]
    assert [label.predicted_iou for label in labels] == [float(iou) for iou in found.predicted_iou]
    masks = [full_mask(label, found.image_size) for label in labels]
    assert np.array_equal(np.array(masks).reshape(found.masks.shape), found.masks)
    for label, mask in zip(labels, found.packed, strict=True):
        x1, y1, x2, y2 = mask.extent
        assert label.bounding_box == [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_service_gives_the_published_method_to_the_bit(noise, classes, preset, index_dir, name):
    asked, config = CONFIGS[name]
    expected = direct(noise, preset, classes, config)
    assert all(len(found) for found in expected) and len({k for found in expected for k in found.labels}) > 1
    ntt.index(noise.limit(2), preset, index_dir=index_dir)
    for _ in range(2):
        report = ntt.segment(
            noise, classes, "found", preset=preset, index_dir=index_dir, run_key="paper", overwrite=True, resume=False,
            **asked,
        )  # fmt: skip
        assert (report.done, report.failed, report.from_index) == (4, 0, 0)
        for sample, found in zip(noise, expected, strict=True):
            same(sample, found, classes)


def test_the_report_says_that_the_cache_did_not_stand_in(noise, classes, preset, index_dir):
    ntt.index(noise.limit(3), preset, index_dir=index_dir)
    config = MatchConfig.paper()
    report = ntt.segment(noise, classes, "found", preset=preset, index_dir=index_dir, config=config)
    assert (report.from_index, report.indexed) == (0, 1), "what is new is kept for other settings"
    assert any("3 images" in note and "went through the models again" in note for note in report.notes), report.notes
    again = ntt.segment(noise, classes, "other", preset=preset, index_dir=index_dir, config=MatchConfig.published())
    assert again.from_index == 4 and not any("went through" in note for note in again.notes)


def test_the_compact_form_would_have_moved_pixels(noise, classes, preset):
    """Else this file would not tell the difference."""
    segmenter, matcher = load_preset(preset).segmenter(), Matcher(classes, EVERY)
    found = [segmenter.candidates(read_image(path)) for path in noise.values("filepath")]
    assert any(
        len(full) != len(small) or not np.array_equal(full.masks, small.masks)
        for full, small in ((matcher.match(image), matcher.match(compact(image))) for image in found)
    )
