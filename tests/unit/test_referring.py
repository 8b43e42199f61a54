"""The referring task: the one best match of each reference, asked for on its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fiftyone_ntt.core import Candidates, ImageFrame, IndexedImage, MatchConfig, MemoryBank, Segmenter
from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.options.referring import one_class_each, refer

SIDE = 64
PLAIN = MatchConfig(coverage=0.0, quality_exponent=0.0, island_share=0.0)
"""Scores are cosines."""


def image_of(*vectors: tuple[float, ...], boxes=None, iou=0.9) -> IndexedImage:
    """An image of one square mask a vector, side by side."""
    logits = torch.full((len(vectors), 256, 256), -8.0)
    for i in range(len(vectors)):
        x = 40 * i if boxes is None else boxes[i]
        logits[i, 100:130, x : x + 30] = 8.0
    candidates = Candidates(logits, torch.full((len(vectors),), iou), ImageFrame.squash((SIDE, SIDE), 1024))
    return IndexedImage(candidates, torch.tensor(vectors), torch.zeros(4, 4, len(vectors[0])))


def bank_of(vectors, classes=("mug",), index=None, **options) -> MemoryBank:
    index = [0] * len(vectors) if index is None else index
    ids = tuple(f"r{i}" for i in range(len(vectors)))
    return MemoryBank(classes, np.array(vectors, np.float32), np.array(index), ids, **options)


def found(image, bank, config=PLAIN):
    result = refer(image, bank, config)
    left = [int(box[0] * 4) // 40 for box in result.boxes]  # which of the squares
    return {int(r): (where, float(s)) for r, where, s in zip(result.labels, left, result.scores, strict=True)}


def test_each_reference_finds_its_own_best_match():
    image = image_of((1, 0.1, 0), (0.1, 1, 0), (0, 0, 1))
    result = found(image, bank_of([(1, 0, 0), (0, 1, 0)]))
    expected = 1 / np.hypot(1, 0.1)
    assert result == {0: (0, pytest.approx(expected)), 1: (1, pytest.approx(expected))}


def test_one_candidate_may_answer_to_two_references():
    image = image_of((1, 0.9, 0), (0, 0, 1))
    bank = bank_of([(1, 0.5, 0), (0.5, 1, 0)], ("mug", "cup"), [0, 1])
    assert {where for where, _ in found(image, bank).values()} == {0}
    assert len(Segmenter.match(image, bank, PLAIN)) < 2 * len(image.candidates), "generic: one label a candidate"


def test_absent_reference_scores_lower_than_a_present_one():
    image = image_of((1, 0, 0.05), (0.5, 0, 1))
    result = found(image, bank_of([(1, 0, 0), (0.3, 1, 0)]))
    assert result[0][1] > 0.99 and result[1][1] < 0.35
    assert found(image_of((0, 0, 1.0)), bank_of([(1, 0, 0)])) == {}, "nothing alike at all"


def test_results_come_in_descending_score_and_thresholds_hold():
    image = image_of((1, 0, 0.3), (0, 1, 0.1))
    references = bank_of([(1, 0, 0), (0, 1, 0)])
    result = refer(image, references, PLAIN)
    assert result.labels.tolist() == [1, 0] and (np.diff(result.scores) < 0).all()
    least = float(result.scores.mean())
    assert refer(image, references, replace(PLAIN, score_threshold=least)).labels.tolist() == [1]


def test_one_reference_is_the_best_of_the_generic_match():
    rng = np.random.default_rng(0)
    image = image_of(*rng.normal(size=(6, 8)).astype(np.float32).tolist(), boxes=[0, 10, 20, 90, 100, 180])
    bank = bank_of(rng.normal(size=(1, 8)), center=rng.normal(size=8).astype(np.float32))
    for config in (PLAIN, MatchConfig(), MatchConfig.published()):
        generic, referring = Segmenter.match(image, bank, config), refer(image, bank, config)
        assert len(referring) == 1 and referring.scores[0] == generic.scores[0]
        assert referring.boxes[0].tolist() == generic.boxes[0].tolist()


def test_what_a_class_is_not_none_of_its_references_is():
    negative = np.array([(1, 0, 1)], np.float32)
    vectors, index = [(1, 0, 0), (1, 0.1, 0), (1, 0.2, 0)], [0, 0, 1]
    image = image_of((1, 0, 0.9))
    plain = found(image, bank_of(vectors, ("mug", "cup"), index))
    against = bank_of(vectors, ("mug", "cup"), index, negatives=VectorSet(negative, ("mug",), ("n",)))
    result = found(image, against)
    assert result[0][1] < plain[0][1] and result[1][1] < plain[1][1] and result[2] == plain[2]
    of_all = found(image, against.changed(negatives=VectorSet(negative, (None,), ("n",))))
    assert all(of_all[k][1] < plain[k][1] for k in range(3))


def test_crops_stay_with_their_reference_where_that_is_known():
    crops = np.eye(3, dtype=np.float32)
    vectors, index, classes = [(1, 0, 0), (0, 1, 0), (0, 0, 1)], [0, 1, 0], ("mug", "cup")
    own = one_class_each(bank_of(vectors, classes, index, crops=VectorSet(crops, ("mug", "cup", "mug"))))
    assert own.crop_prototypes.tolist() == crops.tolist()
    fewer = bank_of(vectors, classes, index, crops=VectorSet(crops[:2], ("mug", "cup")))
    assert one_class_each(fewer).crop_prototypes.tolist() == crops[[0, 1, 0]].tolist()


def test_sharing_masks_between_references_changes_nothing():
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(12, 6)).astype(np.float32)
    image = image_of(*vectors.tolist(), boxes=[0, 5, 10, 15, 60, 65, 70, 120, 125, 130, 190, 195])
    bank = bank_of(rng.normal(size=(5, 6)))
    together = refer(image, bank, MatchConfig())
    for label, score, box in zip(together.labels, together.scores, together.boxes, strict=True):
        alone = refer(image, bank_of(bank.vectors[[label]]), MatchConfig())
        assert alone.boxes[0].tolist() == box.tolist()
        assert alone.scores[0] == pytest.approx(score, abs=1e-6), "a product of other shapes may round otherwise"
