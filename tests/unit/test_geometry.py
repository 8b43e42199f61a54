"""Relative boxes and in-box masks <-> pixels."""

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

from fiftyone_ntt.dataset.geometry import box_in_pixels, full_mask, place_mask, read_map
from fiftyone_ntt.errors import InputError, WrongTypeError

SIZE = (60, 80)


def detection(box, mask=None):
    x1, y1, x2, y2 = box
    relative = [x1 / SIZE[1], y1 / SIZE[0], (x2 - x1) / SIZE[1], (y2 - y1) / SIZE[0]]
    return fo.Detection(label="a", bounding_box=relative, mask=mask)


def test_a_mask_of_its_boxs_pixels_comes_back_bit_for_bit():
    random = np.random.default_rng(0)
    for _ in range(200):
        x1, y1 = random.integers(0, 70), random.integers(0, 50)
        mask = random.random((random.integers(1, 61 - y1), random.integers(1, 81 - x1))) > 0.5
        left, top, crop = place_mask(detection((x1, y1, x1 + mask.shape[1], y1 + mask.shape[0]), mask), SIZE)
        assert (left, top) == (x1, y1)
        np.testing.assert_array_equal(crop, mask)


def test_a_coarse_mask_is_stretched_over_its_box():
    mask = np.array([[True, False], [False, True]])
    full = full_mask(detection((10, 20, 30, 40), mask), SIZE)
    assert full[20:30, 10:20].all()
    assert full[30:40, 20:30].all()
    assert full.sum() == 200


def test_what_sticks_out_of_the_image_is_cut_and_not_squeezed():
    mask = np.zeros((20, 20), bool)
    mask[:, 10:] = True
    full = full_mask(detection((-10, 50, 10, 70), mask), SIZE)
    assert full[50:60, 0:10].all()
    assert full.sum() == 100


@pytest.mark.parametrize("box", [(79.7, 59.8, 80, 60), (0, 0, 0.2, 0.2), (79.9, 0, 300, 60)])
def test_a_box_thinner_than_a_pixel_still_has_one(box):
    left, top, crop = place_mask(detection(box, np.ones((1, 1), bool)), SIZE)
    assert crop.size >= 1
    assert left + crop.shape[1] <= SIZE[1]
    assert top + crop.shape[0] <= SIZE[0]


@pytest.mark.parametrize(
    ("relative", "text"),
    [
        ([0.1, 0.1, float("nan"), 0.2], "relative box"),
        ([0.1, 0.1, 0.2], "relative box"),
        (None, "relative box"),
        ([200, 30, 40, 40], "pixels"),
        ([0.1, 0.1, 0, 0.2], "no area, as its width or its height is not above 0"),
        ([0.5, 0.5, -0.2, 0.2], "no area, as its width or its height is not above 0"),
        ([0.5, 0.5, 0.2, -9], "no area, as its width or its height is not above 0"),
        ([1.5, 0.5, 0.2, 0.2], "no area inside the image; boxes are relative"),
    ],
)
def test_unusable_boxes_are_explained(relative, text):
    with pytest.raises(InputError, match=text):
        box_in_pixels(fo.Detection(label="a", bounding_box=relative), SIZE)


@pytest.mark.parametrize("mask", [np.zeros((0, 3), bool), np.zeros(4, bool)])
def test_unusable_masks_are_explained(mask):
    with pytest.raises(InputError, match="two-dimensional mask"):
        place_mask(detection((0, 0, 10, 10), mask), SIZE)


@pytest.mark.parametrize("kind", ["P", "RGB"])
def test_a_mask_with_a_palette_is_called_one(tmp_path, kind):
    """Pascal VOC's: their numbers are colours to FiftyOne and to OpenCV."""
    image = Image.fromarray(np.eye(8, dtype=np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.convert(kind).save(tmp_path / "map.png")
    with pytest.raises(WrongTypeError, match="colours are not read") as caught:
        read_map(fo.Segmentation(mask_path=str(tmp_path / "map.png")))
    assert ("save its indices as grey values" in str(caught.value)) is (kind == "P")
