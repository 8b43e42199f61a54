"""What the settings keep from being found is said: objects between the points, labels past the most of an image."""

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.pixels.frames import smallest_object

# (height, width), points a side -> side of the smallest object that is surely met, and whether that is worth a note.
# facebookresearch/sam2#314: few of many trees, as the grid of points is too coarse for them.
SIZES = [((360, 5760), 32, 180), ((480, 640), 16, 40), ((9000, 12000), 32, 375), ((9000, 12000), 256, 94)]


@pytest.mark.parametrize(("size", "points", "smallest"), SIZES)
def test_the_smallest_object_follows_from_grid_and_size(size, points, smallest):
    assert smallest_object(size, points) == smallest


# facebookresearch/segment-anything#760: panoramas need more points along their width
def test_a_panorama_says_what_cannot_be_seen_in_it(pictures, bank, preset, tmp_path, index_dir):
    path = tmp_path / "panorama.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 90, (60, 960, 3), np.uint8)).save(path)
    panorama = fo.Sample(str(path))
    pictures.add_sample(panorama)
    for labels in (True, False):  # decoded, then from the candidate cache
        report = ntt.segment(pictures, bank, "found", preset=preset, index_dir=index_dir, overwrite=not labels)
        notes = pictures.values("found_status.note")
        assert "240 pixels" in notes[-1] and notes[1:-1] == [None] * 3
        assert [note for note in report.notes if "in 1 image objects smaller" in note and panorama.id in note]


# facebookresearch/Detectron#726, RolnickLab/ami-data-companion#95: never more than 100, by a default nobody had set
def test_the_most_labels_of_an_image_are_named_and_can_be_raised(pictures, bank, preset, index_dir):
    options = {"preset": preset, "index_dir": index_dir, "score_threshold": 0.0, "overwrite": True}
    counts = {}
    for most in (1, 100):
        report = ntt.segment(pictures, bank, "found", max_instances=most, **options)
        counts[most] = [len(found.detections) for found in pictures.skip(1).values("found")]
        reached = [note for note in pictures.skip(1).values("found_status.note") if note and "(1)" in note]
        assert len(reached) == (3 if most == 1 else 0)
        assert any("raise max_instances" in note for note in report.notes) is (most == 1)
    assert counts[1] == [1, 1, 1] and sum(counts[100]) >= 3
