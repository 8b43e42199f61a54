"""Semantic segmentation masks: what lies on top, how maps are compared, and what the published script gets wrong."""

from __future__ import annotations

import numpy as np
import pytest

from fiftyone_ntt.pixels.semantic_maps import VOID, Piece, SemanticScores, confusion, map_dtype, paint


def piece(value, rank, left=0, top=0, size=(4, 4)):
    return Piece(left, top, np.ones(size, bool), value, rank)


def test_the_surest_is_on_top_whatever_the_order():
    low, high = piece(1, (0.0, 0.2)), piece(2, (0.0, 0.9), left=2)
    for pieces in ([low, high], [high, low]):
        painted = paint(pieces, (5, 7), 2)
        assert painted[0].tolist() == [1, 1, 2, 2, 2, 2, 0] and not painted[4].any()


def test_map_order_is_decisions_then_scores_then_size():
    assert paint([piece(1, (1.0, 0.1)), piece(2, (0.0, 0.9))], (4, 4), 2).tolist() == [[1] * 4] * 4
    small = piece(1, (0.0, 0.5), size=(2, 2))
    for pieces in ([small, piece(2, (0.0, 0.5))], [piece(2, (0.0, 0.5)), small]):
        assert paint(pieces, (4, 4), 2)[0].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(("classes", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (70000, np.uint32)])
def test_the_type_holds_every_class(classes, dtype):
    assert map_dtype(classes) is dtype
    assert paint([piece(classes, (0.0,))], (4, 4), classes).max() == classes


def test_only_the_mask_is_painted():
    mask = np.eye(3, dtype=bool)
    assert paint([Piece(1, 0, mask, 3, (0.0,))], (3, 4), 3)[:, 1:].tolist() == (3 * mask).tolist()


def test_scores_equal_plain_counting():
    rng = np.random.default_rng(0)
    truth, found = rng.integers(-1, 4, (30, 20)), rng.integers(0, 4, (30, 20))
    scores = SemanticScores.of(confusion(truth, found, 3), ["a", "b", "c"])
    plain = []
    for k in range(4):
        real, claimed = (truth == k), (found == k) & (truth != VOID)
        plain.append((real & claimed).sum() / (real | claimed).sum())
    assert [scores.background, *scores.per_class.values()] == pytest.approx(plain)
    assert scores.miou == pytest.approx(np.mean(plain[1:]))
    assert scores.miou_with_background == pytest.approx(np.mean(plain))
    assert scores.pixels == (truth != VOID).sum()


def test_missed_or_imagined_class_counts_as_zero():
    truth, found = np.array([[1, 1, 0, 0]]), np.array([[1, 1, 2, 0]])
    scores = SemanticScores.of(confusion(truth, found, 4), ["there", "imagined", "nowhere", "nor here"])
    assert scores.per_class == {"there": 1.0, "imagined": 0.0, "nowhere": None, "nor here": None}
    assert scores.miou == 0.5 and scores.nowhere == ("nowhere", "nor here")
    missed = SemanticScores.of(confusion(np.array([[1, 2]]), np.array([[1, 0]]), 2), ["a", "elephant"])
    assert missed.per_class["elephant"] == 0 and missed.miou == 0.5


def test_nothing_at_all_is_no_score():
    empty = SemanticScores.of(np.zeros((3, 3), np.int64), ["a", "b"])
    assert (empty.miou, empty.miou_with_background, empty.background) == (None, None, None)
    blank = SemanticScores.of(confusion(np.zeros((2, 2), int), np.zeros((2, 2), int), 2), ["a", "b"])
    assert blank.miou is None and blank.miou_with_background == 1.0
