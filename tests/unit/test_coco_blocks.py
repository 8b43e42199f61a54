"""Scores of many images, paired some at a time: the same as those of all at once, in memory that does not grow so."""

from __future__ import annotations

import numpy as np
import pytest

from fiftyone_ntt.evaluation import coco
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores, encode_box

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


def test_annotations_exist_of_some_images_only(monkeypatch):
    monkeypatch.setattr(coco, "IMAGES_AT_ONCE", 2)
    seen = []
    real = coco._coco
    monkeypatch.setattr(coco, "_coco", lambda found, *rest: seen.append(len(found)) or real(found, *rest))
    truth, predicted, images = scene(0, images=30)
    coco_scores(truth, predicted, CLASSES, images)
    assert len(seen) == 4 * 15 and max(seen) < len(predicted) / 2
