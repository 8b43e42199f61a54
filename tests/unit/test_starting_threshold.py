"""What the references say of scores before any label is decided on, on vectors whose likeness is known."""

import numpy as np
import pytest

from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.method.starting_threshold import (
    ALIKE,
    SUGGESTED,
    WRITTEN,
    expected_similarity,
    starting_thresholds,
)


def objects(count, alike, seed, channels=2000):
    """Vectors of one class: the cosine between each two is about ``alike``."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, channels)) / np.sqrt(channels)
    common = np.zeros(channels)
    common[seed] = np.sqrt(alike / (1 - alike)) if alike < 1 else 1e6
    return common + noise


def bank_of(*groups):
    index = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    names = tuple(f"class {k}" for k in range(len(groups)))
    return MemoryBank(names, np.concatenate(groups), index, tuple(map(str, range(len(index)))))


@pytest.mark.parametrize("alike", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("shots", [8, 20])
def test_a_further_object_is_as_like_the_prototype_as_expected(alike, shots):
    """With so many references the prior counts for little."""
    everything = objects(shots + 50, alike, 1)
    bank = bank_of(everything[:shots])
    fresh = everything[shots:] / np.linalg.norm(everything[shots:], axis=1, keepdims=True)
    assert expected_similarity(bank)[0] == pytest.approx((fresh @ bank.prototypes[0]).mean(), abs=0.06)


def test_single_references_say_nothing_and_the_prior_does():
    assert expected_similarity(bank_of(*(objects(1, 0.5, k) for k in range(3)))) == pytest.approx([ALIKE] * 3)
    assert expected_similarity(bank_of(objects(1, 0.5, 0))) == pytest.approx([ALIKE])


def test_a_class_with_one_reference_leans_on_the_others():
    alike, other = expected_similarity(bank_of(objects(10, 0.8, 0), objects(1, 0.8, 1)))
    assert ALIKE + 0.2 < other < alike


def test_more_references_of_equal_likeness_expect_more():
    few, many = (expected_similarity(bank_of(objects(n, ALIKE, 0)))[0] for n in (2, 20))
    assert ALIKE < few < many


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([np.zeros((2, 4)), np.ones((1, 4))], id="vectors of zeros"),
        pytest.param([np.array([[1.0, 0], [-1.0, 0]])], id="opposite references"),
        pytest.param([np.ones((5, 3))], id="the same reference five times"),
        pytest.param([np.full((2, 3), 1e-30), np.full((2, 3), 1e30)], id="extreme lengths"),
    ],
)
def test_thresholds_are_scores_whatever_the_references(groups):
    start = starting_thresholds(bank_of(*groups))
    assert len(start.written) == len(start.suggested) == len(groups)
    assert all(0 <= low <= high < 1 for low, high in zip(start.written, start.suggested, strict=True))


def test_thresholds_are_shares_of_what_is_expected():
    bank = bank_of(objects(4, 0.6, 0), objects(2, 0.6, 1))
    start, expected = starting_thresholds(bank), expected_similarity(bank)
    np.testing.assert_allclose(start.written, WRITTEN * expected, atol=0.005)
    np.testing.assert_allclose(start.suggested, SUGGESTED * expected, atol=0.005)
    assert start == starting_thresholds(bank_of(objects(4, 0.6, 0), objects(2, 0.6, 1)))


def test_the_centre_of_the_bank_is_taken_off():
    group = objects(4, 0.5, 0)
    shifted = MemoryBank(("a",), group + 7, [0] * 4, tuple("abcd"), np.full(group.shape[1], 7, np.float32))
    assert expected_similarity(shifted) == pytest.approx(expected_similarity(bank_of(group)), abs=1e-3)
