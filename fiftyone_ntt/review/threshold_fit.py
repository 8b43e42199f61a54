"""From decisions to probabilities, and from probabilities to thresholds: numbers in, numbers out.

A run's labels as columns, and the thresholds that follow from what was decided on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fiftyone_ntt.dataset.fields import NO_CLASS
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.review.label_rows import REJECTED, UNDECIDED, Rows, decisions
from fiftyone_ntt.review.label_table import LabelTable
from fiftyone_ntt.runs.applied_thresholds import parting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SLOPE_SPREAD, OFFSET_SPREAD = 20.0, 1.5
"""How much the slope of all classes, and the offset of one, are expected to vary, in logits: few decisions move a class
little away from what all classes have in common."""
BINS = 10
"""Of the calibration error."""
_FOLDS = 5
_MOST_FITTED, _LEAST_FITTED = 100_000, 100
"""A curve is fitted to about so many decisions, and to all of a class and an answer that has no more than the second:
more would not move it."""


@dataclass(frozen=True)
class Curve:
    """How likely a label is right, by its score: a logistic curve that all classes share, moved sideways by class.

    One slope for all keeps it rising in every class, whatever the few decisions on it say.

    Attributes:
        slope: logits for a score of 1; not negative.
        offset: logits at score 0.
        offsets: number of a class -> logits to add to that; a class that is not there is like the average one.
    """

    slope: float
    offset: float
    offsets: Mapping[int, float] = field(default_factory=dict)

    def probability(self, scores: ArrayLike, classes: ArrayLike | None = None) -> Floats:
        """Of labels with these scores, of these classes (of an average class where left out)."""
        logits = self.slope * np.asarray(scores, np.float64) + self.offset
        if classes is not None and self.offsets:
            numbers = np.asarray(classes, np.int64)
            table = np.zeros(max(int(numbers.max(initial=0)), *self.offsets) + 1)
            table[list(self.offsets)] = list(self.offsets.values())
            logits = logits + table[numbers]
        probability: Floats = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
        return probability


@dataclass(frozen=True)
class Expected:
    """What to expect of the labels above a threshold.

    Attributes:
        precision: share of them that is right; ``None`` where there is none.
        recall: share of all right labels that is among them; ``None`` where there is no label.
        labels: how many there are.
    """

    precision: float | None
    recall: float | None
    labels: int


def fit_curve(scores: Floats, classes: Ints, right: ArrayLike, weights: ArrayLike | None = None) -> Curve:
    """Fits the curve to decisions, of which there may be few, of one kind only, or none.

    Args:
        scores: ``[n]`` in 0..1.
        classes: ``[n]``, not negative.
        right: ``[n]``, whether each was right, or how likely.
        weights: ``[n]``, how many decisions each counts for; 1 where left out.
    """
    share = np.asarray(right, np.float64)
    weight = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    some, times = _sample(classes, share)
    scores, classes, share, weight = scores[some], classes[some], share[some], weight[some] * times
    numbers, column = np.unique(classes, return_inverse=True)
    model = _logistic(scores, column, len(numbers), share, weight)
    slope, offsets = float(model.coef_[0, 0]) * SLOPE_SPREAD, model.coef_[0, 1:] * OFFSET_SPREAD
    named = dict(zip(numbers.tolist(), offsets.tolist(), strict=True))
    return Curve(slope, float(model.intercept_[0]), named) if slope > 0 else _flat(share, weight)


def _sample(classes: Ints, share: Floats) -> tuple[Ints, Floats]:
    """Rows to fit to, and how many each stands for: all of them, or of large groups some, evenly spaced.

    A group is what is right, or wrong, of one class, so what is rare stays whole.
    """
    if len(classes) <= _MOST_FITTED:
        return np.arange(len(classes)), np.ones(len(classes))
    _, group, count = np.unique(classes * 2 + (share > 0.5), return_inverse=True, return_counts=True)
    most = max(_MOST_FITTED // len(count), _LEAST_FITTED)
    order = np.argsort(group, kind="stable")
    starts, kept = np.cumsum(count) - count, np.minimum(count, most)
    rows = [order[start + np.arange(k) * n // k] for start, n, k in zip(starts, count, kept, strict=True)]
    return np.concatenate(rows), np.repeat(count / kept, kept)


def _logistic(scores: Floats, column: Ints, classes: int, share: Floats, weight: Floats) -> Any:
    """scikit-learn's model of these rows; sparse, as of a row only its score and its class are not 0."""
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression

    n = len(scores)
    # [n, 1 + classes] score, and which class; scaled, so that one penalty suits slope and offsets
    values = np.stack([scores * SLOPE_SPREAD, np.full(n, OFFSET_SPREAD)], axis=1)
    columns = np.stack([np.zeros(n, np.int64), 1 + column], axis=1)
    # Each row twice, as right and as wrong, for the share of each; then one wrong label at score 0 and one right label
    # at score 1, of no class: where nothing else is known.
    values = np.concatenate([values, values]).ravel()
    columns = np.concatenate([columns, columns]).ravel()
    ends = np.concatenate([np.arange(2 * n + 1) * 2, [4 * n, 4 * n + 1]])
    features = csr_array((np.append(values, SLOPE_SPREAD), np.append(columns, 0), ends), shape=(2 * n + 2, 1 + classes))
    sides = np.concatenate([np.ones(n), np.zeros(n), [0.0, 1.0]])
    amount = np.concatenate([weight * share, weight * (1 - share), [1.0, 1.0]])
    used = np.flatnonzero(amount)
    return LogisticRegression(solver="newton-cg", tol=1e-6).fit(features[used], sides[used], amount[used])


def _flat(share: Floats, weight: Floats) -> Curve:
    """Scores that say nothing: every label is as likely right as any other."""
    right = float(share @ weight) + 1
    return Curve(0.0, float(np.log(right / (weight.sum() + 2 - right))))


def expected_above(scores: Floats, probability: Floats, threshold: float) -> Expected:
    """Of labels with these scores and probabilities, what to expect above a threshold."""
    above = scores > threshold
    count, all_right = int(above.sum()), float(probability.sum())
    hits = float(probability[above].sum())
    return Expected(hits / count if count else None, hits / all_right if all_right > 0 else None, count)


def best_threshold(scores: Floats, probability: Floats, precision: float | None = None) -> float | None:
    """The threshold with the best expected F1, or the lowest one with at least so high an expected precision.

    Args:
        scores: ``[n]``.
        probability: ``[n]``, how likely each is right.
        precision: the least precision; where ``None``, F1 counts.

    Returns:
        Half-way between the scores it parts; ``None`` without labels, or where no threshold has that precision.
    """
    if not len(scores):
        return None
    order = np.argsort(-scores, kind="stable")
    # Down the ranking: scores, and how many right labels are expected up to each.
    ranked, hits = scores[order], probability[order].cumsum()
    above = np.arange(1, len(ranked) + 1)
    possible = np.append(ranked[1:] < ranked[:-1], True)  # labels of one score are above it together or not at all
    if precision is None:
        i = int(np.argmax(np.where(possible, 2 * hits / (above + hits[-1]), -1)))
    else:
        good = np.flatnonzero(possible & (hits / above >= precision))
        if not len(good):
            return None
        i = int(good[-1])
    below = float(ranked[i + 1]) if i + 1 < len(ranked) else 0.0
    return (float(ranked[i]) + below) / 2


def calibration_error(probability: Floats, right: ArrayLike) -> float | None:
    """Expected calibration error over ten bins of equal width; ``None`` without labels."""
    if not len(probability):
        return None
    bins = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)
    gaps = np.bincount(bins, np.asarray(right, np.float64), BINS) - np.bincount(bins, probability, BINS)
    return float(np.abs(gaps).sum() / len(probability))


def held_out(scores: Floats, classes: Ints, right: NDArray[np.bool_]) -> Floats | None:
    """Probability of each decided label, from a curve fitted without it; ``None`` with fewer than two of one kind."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(_FOLDS, int(right.sum()), int((~right).sum()))
    if folds < 2:
        return None
    probability = np.zeros(len(scores))
    for rest, fold in StratifiedKFold(folds, shuffle=True, random_state=0).split(scores[:, None], right):
        curve = fit_curve(scores[rest], classes[rest], right[rest])
        probability[fold] = curve.probability(scores[fold], classes[fold])
    return probability


def reference_similarities(vectors: NDArray[Any], classes: Ints) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """How much references look like classes they are of, and like others: decisions before there are any.

    Args:
        vectors: ``[M, C]``, centred where the bank says so, not normalised.
        classes: ``[M]``.

    Returns:
        Of each pair of a reference and a class its similarity to the prototype of that class (without itself), the
        class, and whether it is its own. The only reference of a class is not compared with its class.
    """
    kinds, own = np.unique(classes, return_inverse=True)
    plain = vectors.astype(np.float64)
    member = own == np.arange(len(kinds))[:, None]
    sums = member @ plain
    similarity = _unit(sums) @ _unit(plain).T
    rows = np.arange(len(plain))
    similarity[own, rows] = (_unit(sums[own] - plain) * _unit(plain)).sum(axis=1)
    compared = ~member | (member.sum(axis=1, keepdims=True) > 1)
    number = np.broadcast_to(kinds[:, None], member.shape)
    return similarity[compared].clip(0, 1), number[compared], member[compared]


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


DECISIONS, POOLED, REFERENCES, SCORES = "decisions", "all classes", "references", "scores"
"""What a threshold rests on: decisions on its class, those on all classes; where there are none, the references, or
where no class has two of them, where the scores fall apart."""
_ALL = "all classes"
_SURE = 5
"""So many decisions of one kind, and none of the other, set a limit to a threshold."""
LEAST = 5
"""So many right and so many wrong decisions it takes to say of a threshold how many labels above it are right. With
fewer in all, the thresholds themselves are a guess."""
_GUESSES = 20.0
"""Decisions a class that similarities of references count for, where there are none."""
_BACKGROUND = 10.0
"""How often a label is wrong for one that is right, before anyone has looked. References show no background: taken
evenly, they would let far too much through."""
_GUESSED_FROM = 5000
"""Labels from which a guess is made: more would not change it."""


@dataclass(frozen=True)
class ClassThreshold:
    """The threshold of one class.

    Attributes:
        name: the class.
        threshold: labels with a confidence above this count.
        precision: share of right ones among them, as expected; ``None`` where there are none, or fewer than ``LEAST``
            decisions of each kind on all labels together.
        recall: share of all right labels that the run found which is above it, as expected; ``None`` likewise.
        labels: how many labels of the class the run found.
        right: how many of them a person accepted or edited,
        wrong: and rejected.
        basis: ``"decisions"``, ``"all classes"``, ``"references"`` or ``"scores"``.
    """

    name: str
    threshold: float
    precision: float | None
    recall: float | None
    labels: int
    right: int
    wrong: int
    basis: str


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a run as columns; what a person drew has no score and is none of them."""

    names: list[str]
    rows: Rows
    classes: Ints
    decided: NDArray[np.int8]

    @classmethod
    def of(cls, table: LabelTable, names: list[str]) -> Labels:
        rows = table.rows
        rows = rows[(rows["confidence"] > 0) & (rows["class"] != table.class_index(NO_CLASS))]
        index_of = {name: i for i, name in enumerate(names)}
        for name in table.named_classes:  # labelled or drawn since
            index_of.setdefault(name, len(index_of))
        number = np.array([index_of.get(name, -1) for name in table.classes], np.int64)
        return cls(list(index_of), rows, number[rows["class"]], decisions(rows))

    @property
    def scores(self) -> Floats:
        scores: Floats = self.rows["confidence"]
        return scores

    @property
    def similarity(self) -> Floats:
        """As the run noted it; the confidence in its place where an early version did not."""
        similarity: Floats = np.where(np.isnan(self.rows["similarity"]), self.scores, self.rows["similarity"])
        return similarity

    @property
    def wrong(self) -> NDArray[np.bool_]:
        wrong: NDArray[np.bool_] = self.decided == REJECTED
        return wrong

    @property
    def right(self) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = (self.decided != UNDECIDED) & ~self.wrong
        return right

    @property
    def enough(self) -> bool:
        """Whether decisions of both kinds say how right labels are."""
        return min(int(self.right.sum()), int(self.wrong.sum())) >= LEAST

    def curve(self, decided: NDArray[np.bool_]) -> Curve:
        """Fitted to these labels."""
        return fit_curve(self.scores[decided], self.classes[decided], self.right[decided])


def guess(labels: Labels, bank: MemoryBank) -> tuple[str, Curve, Curve]:
    """A basis without decisions, and how likely labels are right, by confidence and by similarity.

    Those that look as references of their class do are probably right.
    """
    number = np.array([labels.names.index(name) for name in bank.classes])
    similarity, classes, own = reference_similarities(bank.project(bank.vectors), number[bank.class_index])
    some = np.linspace(0, len(labels.scores) - 1, min(len(labels.scores), _GUESSED_FROM)).astype(np.int64)
    scores, its_class = labels.scores[some], labels.classes[some]
    if own.any():
        sides = np.maximum([(~own).sum(), own.sum()], 1) * np.array([1 + 1 / _BACKGROUND, 1 + _BACKGROUND])
        look = fit_curve(similarity, classes, own, len(own) / sides[own.astype(int)])
        likely = look.probability(labels.similarity[some], its_class)
    else:
        likely = (scores > parting(labels.scores)).astype(np.float64)
    # The score is not the similarity: each label, as likely right as its similarity says, is a decision in part.
    weights = np.full(len(some), min(1.0, _GUESSES * len(labels.names) / len(some)))
    by_score = fit_curve(scores, its_class, likely, weights)
    if own.any():
        return REFERENCES, by_score, look
    return SCORES, by_score, fit_curve(labels.similarity[some], its_class, likely, weights)


def thresholds_of(labels: Labels, curve: Curve, precision: float | None, basis: str) -> list[ClassThreshold]:
    """That of all classes together, then that of each."""
    probability = curve.probability(labels.scores, labels.classes)
    everything = _threshold(_ALL, labels, np.arange(len(probability)), probability, precision, basis)
    fitted = [everything]
    order = np.argsort(labels.classes, kind="stable")
    ends = np.searchsorted(labels.classes[order], np.arange(len(labels.names) + 1))
    for name, of_class in zip(labels.names, np.split(order, ends[1:-1]), strict=True):
        # A class without a decision leans on the threshold of all classes: its own scores alone tell too little.
        leans = basis == DECISIONS and not (labels.decided[of_class] != UNDECIDED).any()
        pooled = everything.threshold if leans or not len(of_class) else None
        fitted.append(_threshold(name, labels, of_class, probability, precision, POOLED if leans else basis, pooled))
    return fitted


def _threshold(
    name: str, labels: Labels, of_class: Ints, probability: Floats, precision: float | None, basis: str,
    given: float | None = None,
) -> ClassThreshold:  # fmt: skip
    """That of the labels with these row numbers."""
    scores, decided = labels.scores[of_class], labels.decided[of_class]
    wrong, right = decided == REJECTED, (decided != UNDECIDED) & (decided != REJECTED)
    threshold = given
    if threshold is None:
        best = best_threshold(scores, probability[of_class], precision)
        threshold = 1.0 if best is None else best
        if wrong.sum() >= _SURE and not right.any():  # nothing that looks like these is wanted
            threshold = max(threshold, float(scores[wrong].max()))
        if right.sum() >= _SURE and not wrong.any() and precision is None:
            threshold = min(threshold, max(float(scores[right].min()) - 0.001, 0.0))
    expected = expected_above(scores, probability[of_class], threshold)
    measured = basis in (DECISIONS, POOLED) and labels.enough
    return ClassThreshold(
        name, threshold, expected.precision if measured else None, expected.recall if measured else None,
        len(scores), int(right.sum()), int(wrong.sum()), basis,
    )  # fmt: skip


def calibration_of(labels: Labels) -> tuple[float | None, float | None]:
    chosen = labels.right | labels.wrong
    scores, right = labels.scores[chosen], labels.right[chosen]
    after = held_out(scores, labels.classes[chosen], right)
    if after is None:
        return None, None
    return calibration_error(scores, right), calibration_error(after, right)
