"""The demo's pictures and outlines fit together. Reads the photographs of the installed scikit-image."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from fiftyone_ntt.demo import data
from fiftyone_ntt.errors import InputError


@pytest.fixture(scope="module")
def images():
    return {image.name: image for image in data.load_images()}


def test_every_coin_is_in_one_tile(images):
    counts = {name: Counter(item.label for item in image.objects) for name, image in images.items()}
    assert counts["coins_1"] == {"coin": 6}
    assert counts["coins_2"] == {"coin": 6}
    assert counts["coins_3"] == {"coin": 12}
    assert counts["motorcycle_left"] == counts["motorcycle_right"] == {"motorcycle": 1}
    assert not any(counts[name] for name in ("astronaut", "chelsea", "coffee", "rocket"))
    assert [name for name, image in images.items() if image.reference] == ["coins_1", "motorcycle_left"]


def test_the_cuts_lose_no_pixel_of_a_coin(images):
    document = json.loads(data.ANNOTATIONS.read_text())
    whole = sum(data._rasterised(item["segmentation"], (303, 384)).sum() for item in document["annotations"][:24])
    assert sum(item.mask.sum() for name in images for item in images[name].objects if item.label == "coin") == whole


def test_masks_have_the_size_of_their_image(images):
    for image in images.values():
        assert image.pixels.dtype == np.uint8
        assert all(item.mask.shape == image.pixels.shape[:2] for item in image.objects)


def test_outlines_lie_on_edges(images):
    """Coins are brighter than the cloth: a ring just inside each outline is brighter than one just outside."""
    for image in images.values():
        everything = np.any([item.mask for item in image.objects], axis=0) if image.objects else None
        for item in image.objects:
            if item.label != "coin":
                continue
            inside = item.mask & ~ndimage.binary_erosion(item.mask, iterations=2)
            outside = ndimage.binary_dilation(item.mask, iterations=3) & ~ndimage.binary_dilation(item.mask)
            contrast = image.pixels[inside].mean() - image.pixels[outside & ~everything].mean()
            assert contrast > 15


def test_the_motorcycle_moved_by_its_disparity(images):
    """Stereo: the right outline is the left one, moved left by 40 to 65 pixels and at the same height."""
    left, right = (np.argwhere(images[f"motorcycle_{side}"].objects[0].mask) for side in ("left", "right"))
    shift = left.mean(0) - right.mean(0)
    assert abs(shift[0]) < 2
    assert 40 < shift[1] < 65
    assert len(right) == pytest.approx(len(left), rel=0.05)


def test_missing_photographs_say_what_to_install(monkeypatch):
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="scikit-image"):
        data.load_images()
