"""Advice on references whose vectors are constructed: what was planted is found, and nothing else."""

import numpy as np
import pytest

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.references.selection import select_rows
from fiftyone_ntt.review.influence import change_on, class_needs, leave_one_out, most_helpful, near_duplicates, outliers

C = 32


def around(direction, count, seed, noise=0.5):
    """Vectors of length about one around an axis."""
    vectors = np.random.default_rng(seed).normal(0, noise / np.sqrt(C), (count, C))
    vectors[:, direction] += 1
    return vectors


@pytest.fixture
def planted():
    """Classes 0 and 1 of five references each; 4 is an outlier of class 0, 9 repeats 8."""
    vectors = np.concatenate([around(0, 4, 1), around(5, 1, 2), around(1, 4, 3)])
    return np.concatenate([vectors, vectors[-1:] + 0.005]), np.array([0] * 5 + [1] * 5)


def test_a_planted_outlier_does_harm_and_is_found(planted):
    influence = leave_one_out(*planted)
    assert int(np.argmin(influence.change)) == 4 and influence.change[4] < 0
    assert np.delete(influence.change, 4)[:4].min() > 0
    assert np.flatnonzero(outliers(influence.similarity, planted[1])).tolist() == [4]


def test_a_planted_duplicate_is_found(planted):
    assert near_duplicates(planted[0]) == [(8, 9)]
    assert near_duplicates(planted[0], 1.0) == []


def test_margins_are_those_of_banks_without_the_reference(planted):
    vectors, names = planted
    influence = leave_one_out(vectors, names)

    def bank(left_out):
        keep = [i for i in range(10) if i not in left_out]
        return MemoryBank(("a", "b"), vectors[keep], names[keep], tuple(map(str, keep))).prototypes

    def margin(j, left_out):
        similarity = bank({j, *left_out}) @ (vectors[j] / np.linalg.norm(vectors[j]))
        return similarity[names[j]] - similarity[1 - names[j]]

    assert influence.margin == pytest.approx([margin(j, ()) for j in range(10)], abs=1e-5)
    for i in (0, 4, 7):
        changes = {j: margin(j, ()) - margin(j, (i,)) for j in range(10) if j != i}
        own, other = ([changes[j] for j in changes if (names[j] == names[i]) == same] for same in (True, False))
        assert influence.change[i] == pytest.approx(np.mean(own) + np.mean(other), abs=1e-5)


def test_a_reference_of_the_wrong_class_names_the_right_one():
    vectors = np.concatenate([around(0, 3, 1), around(1, 1, 2), around(1, 4, 3)])
    influence = leave_one_out(vectors, np.array([0] * 4 + [1] * 4))
    assert influence.margin[3] < 0 and influence.rival[3] == 1
    assert (np.delete(influence.margin, 3) > 0).all()


def test_classes_mixed_up_or_with_one_reference_need_more():
    mixed = around(2, 6, 4)  # classes 1 and 2 are drawn from the same
    vectors, names = np.concatenate([around(0, 4, 1), mixed, around(9, 1, 5)]), [0] * 4 + [1, 2] * 3 + [3]
    needs = class_needs(leave_one_out(vectors, np.array(names)).margin, np.array(names), 4)
    assert [need.count for need in needs] == [4, 3, 3, 1]
    assert not needs[0].needs_more and needs[0].accuracy == 1
    assert needs[1].needs_more or needs[2].needs_more
    assert needs[3].needs_more and np.isnan(needs[3].accuracy)


def test_what_cannot_be_said_is_nan():
    vectors = np.concatenate([around(0, 1, 1), around(1, 2, 2)])
    influence = leave_one_out(vectors, np.array([0, 1, 1]))
    assert np.isnan(influence.similarity).tolist() == [True, False, False]
    assert np.isnan(influence.change).all()  # of two, leaving one out leaves nothing to judge the other by
    one_class = leave_one_out(around(0, 4, 1), np.zeros(4, int))
    assert np.isinf(one_class.margin).all() and (one_class.rival == -1).all() and np.isfinite(one_class.change).all()


def test_reviewed_labels_tell_what_a_reference_does(planted):
    vectors, names = planted
    probes = np.concatenate([around(0, 3, 7), around(5, 3, 8)])
    change = change_on(vectors, names, probes, np.zeros(6, int), np.array([True] * 3 + [False] * 3))
    assert int(np.nanargmin(change)) == 4 and change[4] < 0  # the outlier looks like what was rejected
    assert np.isnan(change[5:]).all()  # nobody decided on labels of class 1


def test_what_to_label_next_is_doubtful_common_and_unknown():
    vectors = np.concatenate([around(0, 6, 1), around(1, 6, 2), around(2, 1, 3), around(3, 6, 4)])
    doubt = np.array([1.0] * 13 + [0.0] * 6)
    chosen = most_helpful(vectors, doubt, around(0, 3, 5), 2)
    assert 6 <= chosen[0] < 12  # unlike the references, and common; then what is rare
    assert chosen[1] == 12
    everything = most_helpful(vectors, doubt, np.zeros((0, C)), 99)  # stops by itself where nothing is left to learn
    assert {0, 1, 2} <= {i // 6 for i in everything} and len(set(everything)) == len(everything) < 19
    assert most_helpful(vectors, np.zeros(19), vectors[:1], 3) == []


def test_the_selection_covers_both_modes_of_a_class():
    vectors = np.concatenate([around(0, 6, 1), around(1, 6, 2), around(2, 9, 3)])
    names = np.array([0] * 12 + [1] * 9)
    chosen = select_rows(vectors, names, 2)
    assert sorted(names[chosen].tolist()) == [0, 0, 1, 1]
    assert sorted(i // 6 for i in chosen if i < 12) == [0, 1]


def test_the_selection_avoids_what_looks_like_another_class(planted):
    wrong = np.array([0] * 5 + [1] * 5 + [0])  # one of class 1 that somebody called 0
    assert 10 not in select_rows(np.concatenate([planted[0], around(1, 1, 6)]), wrong, 3)
    assert sorted(select_rows(*planted, 9)) == list(range(10))  # a class that has fewer is taken as it is


@pytest.mark.parametrize(
    ("vectors", "names", "n"),
    [
        (np.ones((2, 3)), np.zeros(3, int), 1),
        (np.full((2, 3), np.nan), np.zeros(2, int), 1),
        (np.ones((2, 3)), [0, 0], 0),
    ],
)
def test_what_cannot_be_used_is_refused(vectors, names, n):
    with pytest.raises(InputError, match="expected"):
        select_rows(vectors, names, n)
