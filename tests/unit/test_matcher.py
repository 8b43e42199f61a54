"""The matcher: a bank made ready once, images or what stage one found in them, results as COCO has them."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from support.fake_models import fake_segmenter

from fiftyone_ntt.core import MatchConfig, Matcher, MemoryBank, ReferenceItem, compact
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError


def photo(seed=0):
    image = np.random.default_rng(seed).integers(0, 90, (60, 80, 3), dtype=np.uint8)
    image[10:35, 10:40] = (250, 240, 40)
    image[30:55, 50:75] = (60, 200, 250)
    return image


@pytest.fixture
def segmenter():
    return fake_segmenter(8)


@pytest.fixture
def bank(segmenter):
    yellow, blue = np.zeros((2, 60, 80), bool)
    yellow[10:35, 10:40], blue[30:55, 50:75] = True, True
    items = [ReferenceItem(photo(), yellow, "yellow", "photo 0/a"), ReferenceItem(photo(), blue, "blue", "photo 0/b")]
    return segmenter.build_bank(items)


def assert_same(a, b):
    for name in ("boxes", "scores", "labels", "masks", "similarity", "alternative"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_classes_are_those_of_the_references_in_order(bank):
    assert bank.classes == ("blue", "yellow")
    assert bank.shots == {"blue": 1, "yellow": 1}


def test_an_image_and_its_candidates_give_the_same(segmenter, bank):
    matcher = Matcher(bank, segmenter=segmenter)
    direct = matcher.match(photo(1))
    assert len(direct) > 1 and set(direct.labels.tolist()) == {0, 1}
    assert_same(direct, Matcher(bank).match(segmenter.candidates(photo(1))))
    assert_same(direct, segmenter.segment(photo(1), bank))
    assert_same(direct, segmenter.match(segmenter.candidates(photo(1)), bank))


def test_one_matcher_serves_many_images(segmenter, bank):
    matcher = Matcher(bank, MatchConfig(self_support=0.2, max_instances=5))
    for seed in range(3):
        image = compact(segmenter.candidates(photo(seed)))
        assert_same(matcher.match(image), Matcher(bank, MatchConfig(self_support=0.2, max_instances=5)).match(image))


def test_an_image_without_models_is_refused(bank):
    with pytest.raises(InputError, match="segmenter"):
        Matcher(bank).match(photo())


@pytest.mark.parametrize("config", [MatchConfig(), MatchConfig.paper()])
def test_coco_results_hold_the_same_masks_boxes_and_scores(segmenter, bank, config):
    instances = Matcher(bank, config, segmenter=segmenter).match(photo(2))
    results = json.loads(json.dumps(instances.to_coco(7)))
    assert len(results) == len(instances) > 1
    for i, result in enumerate(results):
        assert (result["image_id"], result["category_id"]) == (7, instances.labels[i] + 1)
        np.testing.assert_array_equal(coco_masks.decode(result["segmentation"]).astype(bool), instances.mask(i))
        x, y, width, height = result["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], instances.boxes[i])
        assert result["score"] == pytest.approx(instances.scores[i])
    assert [one["category_id"] for one in instances.to_coco(7, [30, 40])] == [30 + 10 * k for k in instances.labels]


WRONG_IMAGES = {
    "0..1": photo() / 255,
    "16 bits": photo().astype(np.uint16),
    "truth": photo() > 100,
    "grey": photo()[..., 0],
    "four channels": np.dstack([photo(), photo()[..., 0]]),
    "a path": "photo.png",
    "nothing": None,
    "a list": photo().tolist(),
}


@pytest.mark.parametrize("image", WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_images_are_uint8_rgb_everywhere(segmenter, bank, image):
    calls = [
        lambda: ReferenceItem(image, np.ones((60, 80), bool), "fig", "photo 0"),
        lambda: segmenter.candidates(image),
        lambda: segmenter.image_tokens(image),
        lambda: Matcher(bank, segmenter=segmenter).match(image),
    ]
    for call in calls:
        with pytest.raises(NttError, match=r"uint8 \[H, W, 3\].*read_image"):
            call()


@pytest.mark.parametrize("config", [{}, {"coverage": 0}, "paper", False, MatchConfig])
def test_settings_of_another_kind_are_refused(bank, config):
    with pytest.raises(WrongTypeError, match="MatchConfig"):
        Matcher(bank, config)


@pytest.mark.parametrize("given", [None, "bank", np.full((1, 3), np.nan), [], 3])
def test_what_is_no_bank_is_refused(given):
    with pytest.raises(NttError, match="expected .*got"):
        Matcher(given)


def test_candidates_alone_are_no_image(segmenter, bank):
    with pytest.raises(WrongTypeError, match="segmenter.candidates.*Candidates"):
        Matcher(bank).match(segmenter.candidates(photo()).candidates)


@pytest.mark.parametrize("center", [None, np.zeros(5, np.float32)])
def test_a_bank_of_another_model_is_refused(segmenter, center):
    other = MemoryBank(("fig",), np.ones((1, 5), np.float32), [0], ("photo 0",), center)
    with pytest.raises(InputError, match="5 channels.*preset"):
        Matcher(other, segmenter=segmenter).match(photo())


def test_ids_of_coco_results_fit_json_and_classes(segmenter, bank):
    instances = Matcher(bank, segmenter=segmenter).match(photo(2))
    given = json.loads(json.dumps(instances.to_coco(np.int64(7), np.array([30, 40]))))
    assert given == json.loads(json.dumps(instances.to_coco(7, [30, 40])))
    with pytest.raises(InputError, match="id.*each class"):
        instances.to_coco(7, [30])
    for ids in ((7, ["fig", "date"]), (7, {"fig": 1, "date": 2}), ("7", None), (None, None)):
        with pytest.raises(WrongTypeError, match="whole numbers"):
            instances.to_coco(*ids)


def test_no_instances_are_an_empty_list(segmenter, bank):
    assert Matcher(bank, MatchConfig(score_threshold=1.0), segmenter=segmenter).match(photo()).to_coco(1) == []
