"""Which classes are in an image at all: from a run's labels and what was decided on them, numbers in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import NO_CLASS
from fiftyone_ntt.review.label_rows import REJECTED, UNDECIDED, decisions
from fiftyone_ntt.review.label_table import LabelTable
from fiftyone_ntt.review.threshold_fit import Curve, Floats, Ints, best_threshold, fit_curve

Bools = NDArray[np.bool_]
_UNDECIDED = 5.0
"""How many decisions on a class all images together count for in which nobody has decided on it. People accept about as
many as they reject, and mostly high scores: from that alone, far too many classes would seem to be there."""


@dataclass(frozen=True)
class PresenceFit:
    """How to tell whether a class is in an image.

    Attributes:
        curve: how likely it is, by the highest similarity of a label of the class in that image.
        thresholds: class -> the similarity above which the class counts as being there.
        overall: that of a class that is not among them.
    """

    curve: Curve
    thresholds: dict[str, float]
    overall: float

    def threshold(self, name: str) -> float:
        """Of any class."""
        return self.thresholds.get(name, self.overall)


@dataclass(frozen=True, eq=False)
class Pairs:
    """What labels say of each pair of an image and a class. Arrays are ``[S, K]``.

    The similarity counts, not the confidence: that ranks masks, and a class of which only parts are found well is there
    all the same.

    Attributes:
        samples: int64 ``[S]``, numbers of the samples in the label table, ascending.
        seen: the highest similarity of any label; 0 where there is none.
        stands: the same without rejected labels.
        right: whether a person accepted, edited or drew a label of the class there.
        wrong: whether the label most alike was rejected, and none is right.
    """

    samples: Ints
    seen: Floats
    stands: Floats
    right: Bools
    wrong: Bools

    @classmethod
    def of(cls, table: LabelTable, names: list[str]) -> Pairs:
        """Of all samples with labels; ``names`` are those of ``Labels.of``."""
        rows, index_of = table.rows, {name: i for i, name in enumerate(names)}
        rows = rows[rows["class"] != table.class_index(NO_CLASS)]
        samples, image = np.unique(rows["sample"].astype(np.int64), return_inverse=True)
        number = np.array([index_of.get(name, -1) for name in table.classes], np.int64)
        place, decided = image * len(names) + number[rows["class"]], decisions(rows)
        scored = rows["confidence"] > 0  # what a person drew has no score
        similarity = np.where(np.isnan(rows["similarity"]), rows["confidence"], rows["similarity"])
        seen, stands, turned_down = (
            _highest(place[chosen], similarity[chosen], len(samples), len(names))
            for chosen in (scored, scored & (decided != REJECTED), scored & (decided == REJECTED))
        )
        right = np.zeros(seen.shape, bool)
        right.flat[place[((decided != UNDECIDED) | ~scored) & (decided != REJECTED)]] = True
        return cls(samples, seen, stands, right, (turned_down > 0) & (turned_down >= seen) & ~right)

    def probability(self, curve: Curve) -> Floats:
        """How likely each class is there; a person's word is certain."""
        classes = np.broadcast_to(np.arange(self.stands.shape[1]), self.stands.shape)
        return np.where(self.right, 1.0, curve.probability(self.stands, classes))

    def present(self, thresholds: Floats) -> Bools:
        """Which classes count as being there, by the thresholds ``[K]``."""
        return self.right | (self.stands > thresholds)


def fit_presence(pairs: Pairs, names: list[str], guessed: Curve, precision: float | None) -> PresenceFit:
    """Fits to the images in which a class was decided on, and a little to what the references say of the others.

    Args:
        pairs: of all images of the run.
        names: the classes.
        guessed: how likely a label is right by its similarity, before anyone has decided.
        precision: of the images in which a class counts as being there, at least this share is to be right, as
            expected; where ``None``, F1 counts.
    """
    decided, scored = pairs.right | pairs.wrong, pairs.seen > 0
    image, number = np.nonzero(decided & scored)
    # Pairs of image and class that nobody decided on count too, each a little, at the guess made before.
    others, their_class = np.nonzero(~decided & scored)
    if not len(image):
        return thresholds_for(pairs, guessed, names, precision)
    seen, unknown = pairs.seen[image, number], pairs.seen[others, their_class]
    weight = np.full(len(others), min(1.0, _UNDECIDED * len(names) / max(len(others), 1)))
    curve = fit_curve(
        np.concatenate([seen, unknown]),
        np.concatenate([number, their_class]),
        np.concatenate([pairs.right[image, number], guessed.probability(unknown, their_class)]),
        np.concatenate([np.ones(len(image)), weight]),
    )
    return thresholds_for(pairs, curve, names, precision)


def thresholds_for(pairs: Pairs, curve: Curve, names: list[str], precision: float | None) -> PresenceFit:
    """The thresholds that follow from a curve."""
    image, number = np.nonzero(pairs.seen > 0)
    # [pairs with labels] a class whose labels were rejected is not there, whatever the curve says
    likely = np.where(pairs.wrong, 0.0, pairs.probability(curve))[image, number]
    seen = pairs.seen[image, number]

    def best(chosen: Ints) -> float | None:
        return best_threshold(seen[chosen], likely[chosen], precision) if len(chosen) else None

    overall = best(np.arange(len(seen)))
    overall = 1.0 if overall is None else overall
    each = {}
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(len(names) + 1))
    for name, of_class in zip(names, np.split(order, ends[1:-1]), strict=True):
        threshold = best(of_class)
        each[name] = overall if not len(of_class) else 1.0 if threshold is None else threshold
    return PresenceFit(curve, each, overall)


def _highest(place: Ints, value: Floats, samples: int, classes: int) -> Floats:
    """The highest value at each place of ``[samples, classes]``; 0 where there is none."""
    highest = np.zeros(samples * classes)
    np.maximum.at(highest, place, value)
    return highest.reshape(samples, classes)
