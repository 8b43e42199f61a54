"""References: crops, patch weights, and the shapes of reference on which the published code breaks."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fiftyone_ntt.core import MemoryBank, ReferenceItem, ReferenceSettings
from fiftyone_ntt.errors import BadReferenceError, InputError, NttError
from fiftyone_ntt.method.references import ReferenceEncoder, crop_bounds, patch_weights
from fiftyone_ntt.method.segmenter import Segmenter


class ColourGrid:
    """A feature model whose tokens are the mean colours of its patches: results can be computed by hand."""

    name, weights_hash, input_size, grid, dim = "colour_grid", "0" * 64, 64, (8, 8), 3

    def __init__(self):
        self.calls = 0

    def encode(self, images):
        self.calls += len(images)
        return F.adaptive_avg_pool2d(images, self.grid).permute(0, 2, 3, 1)


def item(image, mask, label="a", reference_id="s/1", box=None):
    return ReferenceItem(image, mask, label, reference_id, box)


@pytest.fixture
def picture():
    """Red square on blue, 100 x 140, and the square's mask."""
    image = np.zeros((100, 140, 3), np.uint8)
    image[..., 2] = 255
    mask = np.zeros((100, 140), bool)
    mask[30:70, 40:80] = True
    image[mask] = (255, 0, 0)
    return image, mask


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 30, 80, 70), (36, 26, 84, 74)),
        ((0, 0, 40, 20), (0, 0, 44, 34)),  # clipped left and top: no longer square
        ((100.9, 50.2, 139.9, 99.9), (90, 45, 140, 100)),
        ((7.2, 5.1, 7.9, 5.8), (7, 5, 8, 6)),  # vanishes when truncated: one pixel stays
        ((139.5, 99.5, 140, 100), (138, 98, 140, 100)),
    ],
)
def test_crop_bounds(box, expected):
    assert crop_bounds(box, (100, 140), 0.2) == expected


@pytest.mark.parametrize(("context", "least"), [("crop", 0.85), ("image", 0.65)])
def test_the_vector_is_the_mean_under_the_mask(picture, context, least):
    # In the whole image the square's border patches hold some blue.
    settings = ReferenceSettings(context=context, weights="area")
    red, green, blue = ReferenceEncoder(ColourGrid(), settings).encode(item(*picture)).tolist()
    assert red > least
    assert blue == pytest.approx(1 - red, abs=0.02)
    assert abs(green) < 0.02


def test_corner_weights_sample_and_area_weights_average():
    mask = torch.zeros(64, 64)
    mask[1:8, 1:8] = 1  # fills the first patch but for its top-left pixel
    assert patch_weights(mask, (8, 8), "corner", 64)[0, 0] == 0
    assert patch_weights(mask, (8, 8), "area", 64)[0, 0] == pytest.approx(49 / 64)


@pytest.mark.parametrize("context", ["crop", "image"])
def test_mask_between_sampled_pixels_falls_back_to_its_area(picture, context, caplog):
    image, _ = picture
    thin = np.zeros((100, 140), bool)
    thin[33:34, 45:95] = True
    with caplog.at_level(logging.WARNING):
        vector = ReferenceEncoder(ColourGrid(), ReferenceSettings(context=context)).encode(item(image, thin))
    assert np.isfinite(vector).all()
    if context == "image":
        assert "too thin" in caplog.text


def test_a_speck_in_a_huge_image_still_gives_a_vector():
    image = np.zeros((3000, 4000, 3), np.uint8)
    mask = np.zeros((3000, 4000), bool)
    mask[1501, 2003] = True
    for context in ("crop", "image"):
        vector = ReferenceEncoder(ColourGrid(), ReferenceSettings(context=context)).encode(item(image, mask))
        assert np.isfinite(vector).all()


def test_whole_images_are_encoded_once_for_all_their_instances(picture):
    image, mask = picture
    model = ColourGrid()
    items = [item(image, mask), item(image, ~mask, "b"), item(image.copy(), mask)]
    encoder = ReferenceEncoder(model, ReferenceSettings(context="image", weights="area"))
    vectors = [encoder.encode(one) for one in items]
    assert model.calls == 2
    assert not np.allclose(vectors[0], vectors[1])


def bank_of(items, classes, **settings):
    segmenter = Segmenter(None, ColourGrid(), references=ReferenceSettings(**settings))
    # No mask model is needed to build a bank from masks; its name is, for provenance.
    segmenter.proposal_model = ColourGrid()
    return segmenter.build_bank(items, classes, preset="test")


def test_classes_may_have_different_numbers_of_references(picture):
    image, mask = picture
    bank = bank_of([item(image, mask, "a"), item(image, mask, "a"), item(image, ~mask, "b")], ["a", "b"])
    assert bank.shots == {"a": 2, "b": 1}
    assert np.isfinite(bank.prototypes).all()
    np.testing.assert_allclose(np.linalg.norm(bank.prototypes, axis=1), 1, atol=1e-6)


def test_prototypes_are_the_normalised_mean_of_raw_vectors():
    bank = MemoryBank(("a",), np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), ("x", "y"))
    np.testing.assert_allclose(bank.prototypes, [[3 / 10**0.5, 1 / 10**0.5]], atol=1e-6)


def test_centring_moves_references_and_candidates_alike(picture):
    image, mask = picture
    bank = bank_of([item(image, mask, "a"), item(image, ~mask, "b")], ["a", "b"], context="image", centre=True)
    assert bank.center is not None
    np.testing.assert_allclose(bank.project(bank.vectors), bank.vectors - bank.center)
    assert bank.prototypes[0] @ bank.prototypes[1] < 0, "what is left after centring tells the two apart"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda image, mask: bank_of([item(image, mask)], ["a", "b"]), "no reference for: b"),
        (lambda image, mask: bank_of([item(image, mask, "c")], ["a"]), "'c'"),
        (lambda image, mask: item(image, np.zeros_like(mask)), "mask.*empty"),
        (lambda image, mask: item(image, mask[:50]), r"mask.*size.*\(100, 140\)"),
    ],
)
def test_references_that_cannot_be_used_are_named(picture, make, text):
    with pytest.raises(BadReferenceError, match=text):
        make(*picture)


def test_no_references_at_all_are_refused():
    with pytest.raises(InputError, match="one reference"):
        bank_of([], ["a"])


@pytest.mark.parametrize(
    "change",
    [
        {"label": None},
        {"label": 3},
        {"reference_id": None},
        {"mask": None},
        {"mask": [[True]]},
        {"mask": torch.ones(100, 140)},
        {"mask": np.ones((100, 140, 1), bool)},
        {"box": (1, 2, 3)},
        {"box": (0, 0, float("nan"), 5)},
    ],
)
def test_references_of_another_kind_are_named(picture, change):
    image, mask = picture
    with pytest.raises(NttError, match="expected .*got"):
        item(**{"image": image, "mask": mask, **change})


def test_masks_of_numbers_are_as_good_as_truth_values(picture):
    image, mask = picture
    encoder = ReferenceEncoder(ColourGrid(), ReferenceSettings())
    wanted = encoder.encode(item(image, mask))
    for numbers in (mask.astype(np.uint8), mask.astype(np.uint8) * 255, mask.astype(np.float32)):
        np.testing.assert_allclose(encoder.encode(item(image, numbers)), wanted, rtol=1e-6)
