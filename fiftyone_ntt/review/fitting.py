"""A run's labels as columns, and the thresholds that follow from what was decided on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.review.calibration import (
    Curve,
    Floats,
    Ints,
    best_threshold,
    calibration_error,
    expected_above,
    fit_curve,
    held_out,
    reference_similarities,
)
from fiftyone_ntt.review.label_table import REJECTED, UNDECIDED, LabelTable, Rows, decisions
from fiftyone_ntt.review.scores import parting

DECISIONS, POOLED, REFERENCES, SCORES = "decisions", "all classes", "references", "scores"
"""What a threshold rests on: decisions on its class, those on all classes; where there are none, the references, or
where no class has two of them, where the scores fall apart."""
_ALL = "all classes"
_SURE = 5
"""So many decisions of one kind, and none of the other, set a limit to a threshold."""
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
        precision: share of right ones among them, as expected; ``None`` where there are none, or nobody has decided on
            any label.
        recall: share of all right labels that the run found which is above it, as expected.
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
        rows = rows[rows["confidence"] > 0]
        known = {name: i for i, name in enumerate(names)}
        for name in table.classes:  # labelled or drawn since
            known.setdefault(name, len(known))
        number = np.array([known[name] for name in table.classes], np.int64)
        return cls(list(known), rows, number[rows["class"]], decisions(rows))

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
    everything = _threshold(_ALL, labels, np.ones(len(probability), bool), probability, precision, basis)
    found = [everything]
    for i, name in enumerate(labels.names):
        mine = labels.classes == i
        leans = basis == DECISIONS and not (labels.decided[mine] != UNDECIDED).any()
        pooled = everything.threshold if leans or not mine.any() else None
        found.append(_threshold(name, labels, mine, probability, precision, POOLED if leans else basis, pooled))
    return found


def _threshold(
    name: str, labels: Labels, mine: NDArray[np.bool_], probability: Floats, precision: float | None, basis: str,
    given: float | None = None,
) -> ClassThreshold:  # fmt: skip
    scores, right, wrong = labels.scores[mine], labels.right & mine, labels.wrong & mine
    threshold = given
    if threshold is None:
        best = best_threshold(scores, probability[mine], precision)
        threshold = 1.0 if best is None else best
        if wrong.sum() >= _SURE and not right.any():  # nothing that looks like these is wanted
            threshold = max(threshold, float(labels.scores[wrong].max()))
        if right.sum() >= _SURE and not wrong.any() and precision is None:
            threshold = min(threshold, max(float(labels.scores[right].min()) - 0.001, 0.0))
    expected = expected_above(scores, probability[mine], threshold)
    known = basis in (DECISIONS, POOLED)
    return ClassThreshold(
        name, threshold, expected.precision if known else None, expected.recall if known else None,
        len(scores), int(right.sum()), int(wrong.sum()), basis,
    )  # fmt: skip


def calibration_of(labels: Labels) -> tuple[float | None, float | None]:
    chosen = labels.right | labels.wrong
    scores, right = labels.scores[chosen], labels.right[chosen]
    after = held_out(scores, labels.classes[chosen], right)
    if after is None:
        return None, None
    return calibration_error(scores, right), calibration_error(after, right)
