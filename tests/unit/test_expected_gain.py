"""Which images promise to teach most, on made-up scores and looks."""

import numpy as np
import pytest

from fiftyone_ntt.review.expected_gain import ALIKE, BATCH, MOST_LOOKS, UNSURE, expected_objects, most_telling


def chosen(expected, count=10, known=None, looks=None):
    expected = np.array(expected, float)
    known = np.ones(expected.shape[1]) if known is None else np.array(known, float)
    return most_telling(expected, known, count, (lambda place: None) if looks is None else looks.__getitem__)


def looks_of(*angles):
    return [np.array([np.cos(angle), np.sin(angle)]) for angle in angles]


def plain_greedy(expected, known, count, looks):
    """The rule as it is said: everything looked at, nothing kept from one choice to the next."""
    known, order = known.copy(), []
    for step in range(count):
        gain = (np.log1p(known + expected) - np.log1p(known)).sum(axis=1)
        cosine = np.clip(looks @ looks[order].T, 0, 1) if order else np.zeros((len(expected), 1))
        batch = cosine[:, step // BATCH * BATCH : step] if order else np.zeros((len(expected), 0))
        worth = gain * (1 - cosine.max(axis=1))
        worth[order] = -2
        apart = batch.max(axis=1, initial=0) <= ALIKE
        apart[order] = False
        worth[~apart] = -2 if apart.any() else worth[~apart]
        order.append(int(worth.argmax()))
        known += expected[order[-1]]
    return order


def test_half_at_the_threshold_and_more_where_unsure():
    scores = np.array([0.3, 0.6, 3.0, 0.0, np.nan])
    expected = expected_objects(np.arange(5), np.zeros(5, int), scores, np.array([0.3]), (6, 1))[:, 0]
    assert expected[0] == pytest.approx(0.5 + UNSURE) and expected[1] == pytest.approx(0.8 + UNSURE * 0.64)
    assert expected[2] == pytest.approx(1, abs=0.03) and not expected[3:].any(), "the sixth image has no label"


def test_labels_of_an_image_and_class_add_up():
    image, kind = np.array([0, 0, 0]), np.array([1, 1, 0])
    expected = expected_objects(image, kind, np.full(3, 0.4), np.array([0.4, 0.2]), (1, 2))
    assert expected[0, 1] == pytest.approx(2 * (0.8 + UNSURE * 0.64)) and expected[0, 0] == pytest.approx(0.5 + UNSURE)


def test_classes_take_turns():
    expected = [[3, 0], [3, 0], [2, 0], [0, 1.5], [0, 1.5]]
    assert chosen(expected, 3) == [0, 3, 1], "after three of the first class one of the second is worth more"
    assert chosen([[1, 0], [0, 1]], known=[50, 1])[0] == 1, "what is known well teaches little"


def test_ties_go_to_the_first():
    assert chosen(np.ones((6, 3)), 4) == [0, 1, 2, 3]
    assert chosen(np.ones((6, 3)), 4, looks=looks_of(*[0] * 6)) == [0, 1, 2, 3], "all alike: their turn comes"


def test_images_without_labels_come_last():
    assert chosen([[0, 0], [0.1, 0], [0, 0], [0, 0.1]]) == [1, 3, 0, 2]
    assert chosen(np.zeros((0, 2))) == [] and chosen(np.zeros((2, 0))) == [0, 1]


def test_no_near_duplicates_in_a_batch_of_ten():
    """Twenty images worth much, near-duplicates in twos, and others worth little: ten of the latter are preferred."""
    angles = [n for n in range(10) for _ in range(2)]
    looks = np.eye(32)[[*angles, *range(10, 22)]]
    expected = np.array([[5.0, 5.0]] * 20 + [[0.01, 0.01]] * 12)
    order = chosen(expected, 32, looks=list(looks))
    for start in (0, 10, 20):
        batch = looks[order[start : start + BATCH]]
        assert (np.triu(batch @ batch.T, 1) <= ALIKE).all()
    assert sorted(order) == list(range(32))


def test_images_like_a_chosen_one_are_worth_less():
    looks = looks_of(0.0, 0.6, 1.5)
    assert chosen([[2.0], [1.5], [1.0]], 2, looks=looks) == [0, 2]
    assert chosen([[2.0], [1.5], [1.0]], 2) == [0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_as_the_plain_rule(seed):
    rng = np.random.default_rng(seed)
    expected = rng.random((60, 5)) * (rng.random((60, 5)) < 0.4)
    looks = rng.normal(size=(60, 4))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    known = rng.integers(1, 5, 5).astype(float)
    assert chosen(expected, 35, known, list(looks)) == plain_greedy(expected, known, 35, looks)


def test_few_of_many_images_are_looked_at():
    rng, asked = np.random.default_rng(0), []
    looks = rng.normal(size=(10_000, 32))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)

    def look(place):
        asked.append(place)
        return looks[place]

    order = most_telling(rng.random((10_000, 20)) ** 8, np.ones(20), 20, look)
    assert len(set(order)) == 20 <= len(asked) < 500 and len(set(asked)) == len(asked)
    looks[:], asked[:] = looks[0], []
    assert len(set(most_telling(rng.random((10_000, 20)), np.ones(20), 20, look))) == 20
    assert len(asked) == MOST_LOOKS, "all alike: it ends"
