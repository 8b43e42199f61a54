"""Scores of many images, paired some at a time: the same as those of all at once, in memory that does not grow so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.oracles import coco_pairs

from fiftyone_ntt.evaluation import coco, pairing
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores, encode_box
from fiftyone_ntt.evaluation.pairing import paired

CLASSES, SIZE = ["cat", "dog", "none"], (40, 50)


def scene(seed, images=17):
    """Objects and predictions with equal scores, crowds, and images without either, in no order."""
    random = np.random.default_rng(seed)

    def box():
        x, y = random.integers(0, 30, 2)
        w, h = random.integers(1, 10, 2)
        return (float(x), float(y), float(x + w), float(y + h))

    truth, predicted = [], []
    for i in random.permutation(images):
        for _ in range(random.integers(0, 4)):
            where, label = box(), int(random.integers(2))
            truth.append(GroundTruth(f"image {i}", label, where, encode_box(where, SIZE), bool(random.random() < 0.2)))
            for _ in range(random.integers(0, 3)):
                score = float(random.integers(0, 4)) / 4
                predicted.append(Prediction(f"image {i}", label, where, score, encode_box(where, SIZE)))
                other = box()
                predicted.append(Prediction(f"image {i}", label, other, score, encode_box(other, SIZE)))
    return truth, predicted, [f"image {i}" for i in range(images)]


@pytest.mark.parametrize("at_once", [1, 3, 16])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("masks", [True, False])
def test_blocks_of_images_score_as_all_at_once(monkeypatch, at_once, seed, masks):
    truth, predicted, images = scene(seed)
    whole = coco_scores(truth, predicted, CLASSES, images, masks=masks)
    monkeypatch.setattr(coco, "IMAGES_AT_ONCE", at_once)
    parts = coco_scores(truth, predicted, CLASSES, images, masks=masks)
    assert parts == whole and whole.box.ap is not None
    for name in CLASSES:
        assert parts.matches[name].objects == whole.matches[name].objects
        np.testing.assert_array_equal(parts.matches[name].scores, whole.matches[name].scores)
        np.testing.assert_array_equal(parts.matches[name].right, whole.matches[name].right)
    assert whole.matches["cat"].right.any()


def test_nothing_at_all():
    scores = coco_scores([], [], CLASSES, [])
    assert scores.box.ap is None and scores.matches["cat"].objects == 0


def test_objects_of_some_images_only_are_paired_at_once(monkeypatch):
    monkeypatch.setattr(coco, "IMAGES_AT_ONCE", 2)
    seen = []
    real = coco.paired
    monkeypatch.setattr(
        coco, "paired", lambda truth, found, *rest: seen.append(len(found)) or real(truth, found, *rest)
    )
    truth, predicted, images = scene(0, images=30)
    coco_scores(truth, predicted, CLASSES, images)
    assert len(seen) == 2 * 15 and max(seen) < len(predicted) / 2


@pytest.mark.parametrize("most", [1, 2, 100])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("loop", ["compiled", "plain"])
@pytest.mark.parametrize("seed", range(6))
def test_pairs_are_those_of_pycocotools(monkeypatch, seed, loop, kind, most):
    if loop == "plain":
        monkeypatch.setattr(pairing, "_pairing", lambda: pairing._pair)
    truth, predicted, images = crowded_scene(seed)
    numbers = [images.index(item.image_id) for item in (*truth, *predicted)]
    pairs, expected = paired(truth, predicted, numbers, kind, most), coco_pairs(truth, predicted, numbers, kind, most)
    assert pairs.keys() == expected.keys()
    for k, (scores, matched, ignored, objects_ignored) in expected.items():
        np.testing.assert_array_equal(pairs[k].scores, scores)
        np.testing.assert_array_equal(pairs[k].matched, matched)
        np.testing.assert_array_equal(pairs[k].ignored, ignored)
        np.testing.assert_array_equal(pairs[k].objects_ignored, objects_ignored)
    if most == 100:
        assert any(each.matched.any() for each in pairs.values()) and any(each.ignored.any() for each in pairs.values())


def crowded_scene(seed):
    """Many that want the same object, crowds that hold several, boxes without an area, and scores that are equal."""
    truth, predicted, images = scene(seed)
    random = np.random.default_rng(seed + 100)
    truth = [replace(item, crowd=item.crowd or random.random() < 0.2) for item in truth]
    near = []
    for item in truth:
        for _ in range(4):
            x1, y1, x2, y2 = (float(value) for value in item.box + random.integers(-1, 2, 4))
            box = (max(x1, 0.0), max(y1, 0.0), x2, y2)
            score = float(random.integers(0, 4)) / 4
            near.append(Prediction(item.image_id, item.label, box, score, encode_box(box, SIZE)))
    return truth, [*predicted, *near], images


def test_no_prediction_or_no_object_is_no_pair():
    truth, predicted, images = scene(1)
    numbers = [images.index(item.image_id) for item in truth]
    assert not any(pairs.scores.size for pairs in paired(truth, [], numbers, "bbox", 100).values())
    numbers = [images.index(item.image_id) for item in predicted]
    pairs = paired([], predicted, numbers, "segm", 100)
    assert sum(each.scores.size for each in pairs.values()) == len(predicted)
    assert not any(each.matched.any() for each in pairs.values()) and paired([], [], [], "bbox", 100) == {}
