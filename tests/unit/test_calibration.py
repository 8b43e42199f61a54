"""From decisions to probabilities and thresholds, on synthetic decisions whose truth is known."""

import tracemalloc

import numpy as np
import pytest

from fiftyone_ntt.review.threshold_fit import (
    OFFSET_SPREAD,
    SLOPE_SPREAD,
    Curve,
    best_threshold,
    calibration_error,
    expected_above,
    fit_curve,
    held_out,
    reference_similarities,
)

MIDDLES = np.array([0.3, 0.5, 0.7])  # the score at which a label of each class is as likely right as not


def decide(seed, each, middles=MIDDLES):
    """Scores, classes, and answers drawn from a known probability."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(middles)), each)
    scores = rng.uniform(0, 1, len(classes))
    truth = 1 / (1 + np.exp(-12 * (scores - middles[classes])))
    return scores, classes, rng.uniform(size=len(scores)) < truth


@pytest.mark.parametrize(("each", "tolerance"), [(8, 0.13), (30, 0.06), (300, 0.03)])
def test_expected_precision_and_recall_come_true_on_other_labels(each, tolerance):
    gaps = []
    for seed in range(5):
        curve = fit_curve(*decide(seed, each))
        scores, classes, right = decide(100 + seed, 2000)
        for k in range(len(MIDDLES)):
            mine = classes == k
            probability = curve.probability(scores[mine], classes[mine])
            threshold = best_threshold(scores[mine], probability)
            expected, true = (expected_above(scores[mine], p, threshold) for p in (probability, right[mine]))
            gaps.append([expected.precision - true.precision, expected.recall - true.recall])
    assert np.abs(gaps).mean(axis=0).max() < tolerance
    assert np.abs(np.mean(gaps, axis=0)).max() < tolerance / 2, "no bias"


def test_the_best_f1_is_nearly_reached():
    curve = fit_curve(*decide(0, 30))
    scores, classes, right = decide(1, 3000)
    for k in range(len(MIDDLES)):
        s, y = scores[classes == k], right[classes == k]
        fitted = best_threshold(s, curve.probability(s, np.full(len(s), k)))
        assert f1_above(s, y, fitted) > max(f1_above(s, y, t) for t in np.linspace(0, 1, 100)) - 0.03


def f1_above(scores, right, threshold):
    above = scores > threshold
    return 2 * (above & right).sum() / (above.sum() + right.sum())


def test_a_precision_that_was_asked_for():
    scores, classes, right = decide(0, 300)
    curve = fit_curve(scores, classes, right)
    fresh, of, truth = decide(1, 3000)
    mine = of == 2
    probability = curve.probability(fresh[mine], of[mine])
    threshold = best_threshold(fresh[mine], probability, precision=0.9)
    assert expected_above(fresh[mine], probability, threshold).precision >= 0.9
    assert expected_above(fresh[mine], truth[mine], threshold).precision == pytest.approx(0.9, abs=0.03)
    assert threshold < 0.8, "no higher than need be"
    assert best_threshold(np.array([0.2, 0.4]), np.array([0.1, 0.3]), precision=0.9) is None


def test_few_decisions_move_a_class_little_away_from_the_others():
    scores, classes, right = decide(0, 100, np.array([0.5, 0.5]))

    def midpoint(count):
        """Where a third class is, all of whose labels were rejected, at scores that are right elsewhere."""
        curve = fit_curve(
            np.concatenate([scores, np.full(count, 0.6)]),
            np.concatenate([classes, np.full(count, 2)]),
            np.concatenate([right, np.zeros(count, bool)]),
        )
        return -(curve.offset + curve.offsets[2]) / curve.slope

    pooled = fit_curve(scores, classes, right)
    assert pooled.probability(0.5) == pytest.approx(0.5, abs=0.1)
    assert 0.5 < midpoint(1) < midpoint(5) < midpoint(30)
    assert midpoint(1) < 0.65 < 0.75 < midpoint(30)


def test_one_sided_decisions_and_none():
    scores = np.linspace(0.3, 0.8, 12)
    classes = np.zeros(12, np.int64)
    right, wrong = (fit_curve(scores, classes, np.full(12, answer)) for answer in (True, False))
    assert (right.probability(scores, classes) > 0.7).all() and (wrong.probability(scores, classes) < 0.3).all()
    none = fit_curve(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool))
    assert none.probability(0.5) == pytest.approx(0.5, abs=0.02) and none.slope > 0
    assert held_out(scores, classes, np.ones(12, bool)) is None
    assert best_threshold(np.zeros(0), np.zeros(0)) is None


def test_scores_that_say_the_opposite_end_up_saying_nothing():
    scores = np.linspace(0, 1, 40)
    curve = fit_curve(scores, np.zeros(40, np.int64), scores < 0.4)
    assert curve.slope == 0 and curve.probability(0.9) == pytest.approx(0.4, abs=0.05)


def test_calibration_error_falls():
    scores, classes, right = decide(0, 60)
    before, after = calibration_error(scores, right), calibration_error(held_out(scores, classes, right), right)
    assert after < 0.75 * before
    assert calibration_error(np.full(100, 0.25), np.arange(100) < 25) == 0
    assert calibration_error(np.zeros(0), np.zeros(0)) is None


def test_equal_scores_stay_together():
    scores, probability = np.array([0.9, 0.5, 0.5, 0.1]), np.array([0.9, 0.9, 0.1, 0.05])
    assert best_threshold(scores, probability) in (pytest.approx(0.7), pytest.approx(0.3))
    assert expected_above(scores, probability, 0.5).labels == 1
    assert expected_above(scores, probability, 0.95).precision is None


def test_references_against_each_other():
    vectors = np.array([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]], np.float32)
    similarity, classes, own = reference_similarities(vectors, np.array([0, 0, 1, 1, 2]))
    assert own.sum() == 4 and len(own) == 14, "the only reference of class 2 is not compared with itself"
    assert similarity[own].min() > 0.99 > 0.2 > similarity[~own].max()
    np.testing.assert_allclose(similarity[(classes == 0) & own][0], 1 / np.sqrt(1.01), rtol=1e-6)


def test_an_unknown_class_is_an_average_one():
    curve = Curve(10.0, -5.0, {0: 2.0})
    known, unknown = curve.probability([0.5, 0.5], [0, 7])
    assert unknown == curve.probability(0.5) == 0.5 < known


def plainly(scores, classes, right):
    """The same fit with a full matrix of features and every decision: slope, offset, offsets of the classes."""
    from sklearn.linear_model import LogisticRegression

    kinds = np.unique(classes)
    features = np.concatenate([scores[:, None] * SLOPE_SPREAD, (classes[:, None] == kinds) * OFFSET_SPREAD], axis=1)
    prior = np.zeros((2, features.shape[1]))
    prior[1, 0] = SLOPE_SPREAD
    model = LogisticRegression(solver="newton-cholesky").fit(
        np.concatenate([features, prior]), np.concatenate([right, [False, True]])
    )
    return model.coef_[0, 0] * SLOPE_SPREAD, model.intercept_[0], model.coef_[0, 1:] * OFFSET_SPREAD


@pytest.mark.parametrize("each", [5, 200, 60_000])
def test_the_sparse_fit_to_some_decisions_is_the_full_fit_to_all(each):
    scores, classes, right = decide(0, each)
    curve, (slope, offset, offsets) = fit_curve(scores, classes, right), plainly(scores, classes, right)
    sampled = each * len(MIDDLES) > 100_000
    assert curve.slope == pytest.approx(slope, rel=0.03 if sampled else 1e-4)
    middles = [-(curve.offset + curve.offsets[k]) / curve.slope for k in range(len(MIDDLES))]
    assert middles == pytest.approx(-(offset + offsets) / slope, abs=0.01 if sampled else 1e-4)


def test_what_is_rare_counts_in_a_sample_of_decisions():
    scores, classes, right = decide(0, 60_000)
    rare = np.full(20, 3)
    curve = fit_curve(
        np.append(scores, np.full(20, 0.9)), np.append(classes, rare), np.append(right, np.zeros(20, bool))
    )
    assert curve.probability([0.9], [3])[0] < 0.2 < 0.8 < curve.probability([0.9], [0])[0]


def test_memory_does_not_grow_with_classes_times_classes():
    kinds, shots = 300, 5
    vectors = np.random.default_rng(0).normal(size=(kinds * shots, 8))
    tracemalloc.start()
    similarity, classes, own = reference_similarities(vectors, np.repeat(np.arange(kinds), shots))
    fit_curve(similarity, classes, own)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(similarity) == kinds * kinds * shots
    assert peak < 200 * 2**20, "a full matrix of features alone would be 1 GiB"
