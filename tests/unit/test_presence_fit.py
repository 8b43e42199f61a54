"""Verdicts on images from columns: what counts as evidence, and how the bench judges it."""

import numpy as np
import pytest

from benchmarks.verdicts import judged
from fiftyone_ntt.core import Instances
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.review.presence_fit import Pairs, fit_presence, thresholds_for
from fiftyone_ntt.review.threshold_fit import Curve


class Table:
    """Rows as the label table keeps them: sample, class, confidence, similarity, decision."""

    classes = ("cat", "dog")

    def __init__(self, *rows):
        kinds = [("sample", int), ("class", int), ("confidence", float), ("similarity", float), ("tagged", np.int8),
                 ("edited", bool)]  # fmt: skip
        self.rows = np.array([(*row, False) for row in rows], kinds)

    def class_index(self, name):
        return self.classes.index(name) if name in self.classes else -1


NONE, ACCEPTED, REJECTED = 0, 1, 2
NAN = float("nan")


@pytest.mark.parametrize(
    ("rows", "stands", "right", "wrong"),
    [
        ([(7, 0, 0.1, 0.8, NONE), (7, 0, 0.9, 0.3, NONE)], 0.8, False, False),  # the similarity counts
        ([(7, 0, 0.4, NAN, NONE)], 0.4, False, False),  # an early version noted none
        ([(7, 0, 0.5, 0.8, REJECTED), (7, 0, 0.5, 0.3, NONE)], 0.3, False, True),
        ([(7, 0, 0.5, 0.3, REJECTED), (7, 0, 0.5, 0.8, NONE)], 0.8, False, False),  # a part was rejected
        ([(7, 0, 0.5, 0.8, REJECTED), (7, 0, 0.5, 0.3, ACCEPTED)], 0.3, True, False),
        ([(7, 0, 0.0, NAN, NONE)], 0.0, True, False),  # drawn
        ([(7, 0, 0.0, NAN, REJECTED), (7, 1, 0.5, 0.5, NONE)], 0.0, False, False),
    ],
)
def test_what_labels_say_of_an_image(rows, stands, right, wrong):
    pairs = Pairs.of(Table(*rows), ["cat", "dog"])
    assert pairs.samples.tolist() == [7]
    assert (pairs.stands[0, 0], pairs.right[0, 0], pairs.wrong[0, 0]) == (stands, right, wrong)
    assert pairs.probability(Curve(10, -5))[0, 0] == (1 if right else pytest.approx(1 / (1 + np.exp(5 - 10 * stands))))


def test_the_threshold_parts_what_is_likely_from_what_is_not():
    pairs = Pairs.of(Table(*[(i, 0, 0.5, i / 10, NONE) for i in range(1, 10)]), ["cat", "dog"])
    fit = thresholds_for(pairs, Curve(60, -33), ["cat", "dog"], None)
    assert fit.threshold("cat") == pytest.approx(0.55)
    assert fit.threshold("dog") == fit.threshold("lamp") == fit.overall, "no label of them is known"
    sure = thresholds_for(pairs, Curve(3, -3), ["cat", "dog"], 0.9)
    assert sure.threshold("cat") == 1, "no threshold promises that"


def test_balanced_review_makes_no_class_seem_present():
    rows = [(i, 0, 0.5, 0.1 + 0.3 * (i % 10) / 10, NONE) for i in range(200)]
    rows += [(200 + i, 0, 0.5, 0.8 + 0.005 * i, ACCEPTED) for i in range(10)]
    rows += [(300 + i, 0, 0.5, 0.55 + 0.005 * i, REJECTED) for i in range(10)]
    pairs = Pairs.of(Table(*rows), ["cat", "dog"])
    fit = fit_presence(pairs, ["cat", "dog"], Curve(20, -10), None)
    assert 0.55 < fit.threshold("cat") < 0.8
    assert fit.curve.probability([0.2], [0])[0] < 0.1 < 0.9 < fit.curve.probability([0.85], [0])[0]
    undecided = Pairs.of(Table(*rows[:200]), ["cat", "dog"])
    assert fit_presence(undecided, ["cat", "dog"], Curve(20, -10), None).curve == Curve(20, -10)


def test_instances_above_the_threshold_of_their_class():
    packed = tuple(PackedMask.from_crop(np.ones((1, i + 1), bool), 0, 0) for i in range(4))
    found = Instances(
        np.zeros((4, 4), np.float32), np.array([0.9, 0.5, 0.5, 0.1], np.float32), np.array([0, 1, 0, 1]),
        np.ones(4, np.float32), packed, (4, 4), np.array([0.9, 0.8, 0.7, 0.6], np.float32),
    )  # fmt: skip
    kept = found.above([0.5, 0.2])
    assert kept.labels.tolist() == [0, 1] and kept.similarity.tolist() == pytest.approx([0.9, 0.8])
    assert [mask.area for mask in kept.packed] == [1, 2] and kept.alternative is None
    assert found.above([0, 0]) is found and len(found.above([1, 1])) == 0


def test_the_bench_tells_evidence_from_noise():
    present = np.zeros((40, 1), bool)
    present[:30:2] = present[1:30:4] = True  # the last ten images hold nothing
    place = np.stack([np.arange(40), np.zeros(40, int)], 1)
    noise = np.random.default_rng(0).uniform(0.4, 0.6, 40)
    told = judged(present, place, noise, present[:, 0], np.where(present[:, 0], 0.7, 0.3))
    assert told.by_similarity == told.per_class == 1 > told.best >= told.fires
    assert told.false_alarms_unfiltered == 1, "one label in each of the images without the class"
    certain = judged(present, place, np.where(present[:, 0], 0.9, 0.1), present[:, 0], None)
    assert certain.false_alarms == certain.false_alarms_labels == 0 and certain.by_similarity is None
    assert certain.calibration == pytest.approx(0.1) and certain.calibration_curve < 0.15
