"""Scores one can act on: a threshold for each class, with the precision and recall to expect there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import fiftyone as fo
import numpy as np

from fiftyone_ntt.dataset.fields import check_detections_field
from fiftyone_ntt.errors import InputError, counted, listing
from fiftyone_ntt.params.review import FitThresholdsParams
from fiftyone_ntt.references.banks import bank_of_run
from fiftyone_ntt.review.label_table import LabelTable, suggest_threshold, table_of
from fiftyone_ntt.review.presence_fit import Pairs, PresenceFit, fit_presence
from fiftyone_ntt.review.threshold_fit import (
    DECISIONS,
    LEAST,
    REFERENCES,
    SCORES,
    ClassThreshold,
    Curve,
    Expected,
    Floats,
    Labels,
    calibration_of,
    expected_above,
    guess,
    thresholds_of,
)
from fiftyone_ntt.runs.applied_thresholds import Facts, keep, kept_of_run, meaning, named
from fiftyone_ntt.runs.control import record_of_run
from fiftyone_ntt.runs.record import provenance_of, run_of_field

logger = logging.getLogger(__name__)

_FEW = 20
"""Fewer decisions than this are called few."""


@dataclass(frozen=True)
class Presence:
    """Whether a class is judged to be in an image, and how likely it is there."""

    present: bool
    probability: float


@dataclass(frozen=True)
class Thresholds:
    """What ``fit_thresholds`` found.

    Attributes:
        run_key: the run that wrote the labels.
        label_field: their field.
        classes: class -> its threshold.
        overall: one threshold for all classes together.
        curve: how likely a label is right by its score; its classes are numbered in the order of ``classes``.
        image: how likely a class is in an image at all, and from where on it counts as being there.
        precision: the precision that was asked for; ``None`` where F1 counted.
        calibration_before: expected calibration error of the confidence, on decided labels.
        calibration_after: that of the fitted probability, each from a curve fitted without the label.
        notes: what else is worth knowing.
        fitted_on: facts of the run that these thresholds belong to.
    """

    run_key: str
    label_field: str
    classes: dict[str, ClassThreshold]
    overall: ClassThreshold
    curve: Curve
    image: PresenceFit
    precision: float | None
    calibration_before: float | None
    calibration_after: float | None
    notes: tuple[str, ...]
    fitted_on: dict[str, Any]

    def probability(self, name: str, scores: Sequence[float] | Floats) -> Floats:
        """How likely labels of a class with these scores are right; an unknown class counts as an average one."""
        names = list(self.classes)
        return self.curve.probability(scores, None if name not in names else np.full(len(scores), names.index(name)))

    def least(self, name: str) -> float:
        """The threshold of a class; that of all together where the class is unknown."""
        return self.classes.get(name, self.overall).threshold

    def presence(self, similarities: Mapping[str, Sequence[float]]) -> dict[str, Presence]:
        """Whether each class is in an image.

        Args:
            similarities: class -> ``similarity`` of its labels in the image; none, or a class left out, means no
                label.

        Returns:
            Class -> whether the label most alike is above the class's threshold, and the probability that the class is
            there; only a guess where ``guessed``.
        """
        presences, names = {}, list(self.classes)
        for name in dict.fromkeys((*names, *similarities)):
            best = max(similarities.get(name, ()), default=0.0)
            number = None if name not in names else [names.index(name)]
            likely = float(self.image.curve.probability([best], number)[0])
            presences[name] = Presence(best > self.image.threshold(name), likely)
        return presences

    def expected(self, table: LabelTable, threshold: float, name: str | None = None) -> Expected:
        """What to expect above any threshold, of the labels of one class or all."""
        rows, index_of = table.rows, {label: i for i, label in enumerate(self.classes)}
        scores, classes = rows["confidence"], rows["class"]
        chosen = scores > 0  # what a person drew has none
        if name is not None:
            chosen &= classes == table.class_index(name)
        number = np.array([index_of.get(label, len(index_of)) for label in table.classes], np.int64)
        scores, classes = scores[chosen], number[classes[chosen]]
        return expected_above(scores, self.curve.probability(scores, classes), threshold)

    @property
    def guessed(self) -> bool:
        """Whether hardly any label was decided on: then the thresholds come from the references alone."""
        return self.overall.basis in (REFERENCES, SCORES)

    @property
    def measured(self) -> bool:
        """Whether enough labels were decided on, of each kind, to say what to expect above a threshold."""
        return not self.guessed and min(self.overall.right, self.overall.wrong) >= LEAST

    @property
    def needed(self) -> str:
        """What it takes to say that; empty where it can be said."""
        return "" if self.measured else decisions_needed(self.overall.right, self.overall.wrong)

    def rows(self) -> list[dict[str, Any]]:
        """The thresholds as a table: all classes together, then a row a class."""
        return [asdict(threshold) for threshold in (self.overall, *self.classes.values())]

    def __str__(self) -> str:
        decided = self.overall.right + self.overall.wrong
        on = f"the {self.overall.basis} alone" if self.guessed else counted(decided, "decision")
        goal = "the best balance of wrong and missed labels"
        if self.precision is not None:
            goal = f"a precision of at least {self.precision:g}"
        text = f"Thresholds for {goal}, from {on}: {self.overall.threshold:.2f} for all classes"
        text += f" ({in_words(self.overall.precision, self.overall.recall)})." if self.measured else "."
        if self.calibration_before is not None and self.calibration_after is not None:
            text += f" As a probability of being right the score was off by {self.calibration_before:.2f} on average, "
            text += f"the fitted one is by {self.calibration_after:.2f}."
        return " ".join([text, *self.notes])


def fit_thresholds(
    dataset: fo.Dataset, run_key: str, *, precision: float | None = None, write_image_labels: bool = True
) -> Thresholds:
    """Fits a threshold for each class to what a person accepted and rejected, and keeps them with the dataset.

    Every other run with the same memory bank and settings can use them: ``segment(..., thresholds="fitted")``.

    Accepted and edited labels are right, rejected ones wrong. Classes with few decisions lean on the others; with fewer
    than five in all, how much the references look like each other has to do. What to expect above a threshold is said
    from five right and five wrong ones on.

    Args:
        dataset: the dataset.
        run_key: key of the run whose labels were reviewed, see ``list_runs``.
        precision: the lowest thresholds with at least so high an expected precision; those with the best expected F1
            where ``None``.
        write_image_labels: also write which classes are in each image and which are not, see ``judge_presence``.

    Returns:
        The thresholds; ``load_thresholds`` gives them back.

    Raises:
        InputError: if there is no such run, or its field holds no labels of it.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> print(ntt.fit_thresholds(dataset, "ntt_ntt", precision=0.9))  # doctest: +SKIP
    """
    from fiftyone_ntt.review.presence import write_image_labels as write

    params = FitThresholdsParams(run_key, precision, write_image_labels)
    record = record_of_run(dataset, run_key)
    _check_field(dataset, record)
    thresholds = _fitted(dataset, record, params.precision)
    keep(dataset, run_key, _to_facts(thresholds))
    if params.write_image_labels:
        write(dataset, thresholds)
    logger.info("%s", thresholds)
    return thresholds


def _fitted(dataset: fo.Dataset, record: Mapping[str, Any], precision: float | None) -> Thresholds:
    table = table_of(dataset, record["label_field"]).refreshed()
    names = list(dict.fromkeys([*record["classes"], *table.named_classes]))
    labels = Labels.of(table, names)
    run_key = record["run_key"]
    if not len(labels.scores):
        raise InputError(f"run {run_key!r} has found no labels, so there is no threshold to fit; label images first")
    decided = labels.right | labels.wrong
    basis, curve, by_similarity = guess(labels, bank_of_run(dataset, run_key))
    if decided.sum() >= LEAST:
        basis, curve = DECISIONS, labels.curve(decided)
    fitted = thresholds_of(labels, curve, precision, basis)
    image = fit_presence(Pairs.of(table, names), labels.names, by_similarity, precision)
    before, after = calibration_of(labels)
    return Thresholds(
        run_key, record["label_field"], {threshold.name: threshold for threshold in fitted[1:]}, fitted[0], curve,
        image, precision, before, after, _notes(labels, fitted, precision),
        meaning(record["bank_hash"], record["match"]),
    )  # fmt: skip


def load_thresholds(dataset: fo.Dataset, run_key: str) -> Thresholds | None:
    """The thresholds fitted last to the labels of a run.

    Args:
        dataset: the dataset.
        run_key: key of the run.

    Returns:
        ``None`` where none were fitted, or the run has since been made again with other references or settings: its
        scores mean something else then.

    Raises:
        InputError: if there is no such run.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> thresholds = ntt.load_thresholds(dataset, "ntt_ntt")  # doctest: +SKIP
    """
    record = record_of_run(dataset, run_key)
    kept = kept_of_run(dataset, record)
    return None if kept is None else _from_facts({**kept, "label_field": record["label_field"]})


def thresholds_of_field(dataset: fo.Dataset, label_field: str) -> Thresholds | None:
    """The same for the run that wrote a field; ``None`` also where there is no such run any more."""
    run_key = run_of_field(dataset, label_field)
    try:
        return load_thresholds(dataset, run_key) if run_key else None
    except InputError:
        return None


@dataclass(frozen=True)
class WrittenAbove:
    """Which labels of a run are in its field, and where their review begins.

    Attributes:
        run_key: the run that wrote the field.
        written: class -> labels with a score above this are in the field; empty where all are.
        suggested: class -> labels above this are probably right, guessed from the references; empty where somebody
            chose what is written.
    """

    run_key: str
    written: dict[str, float]
    suggested: dict[str, float]

    def lowest(self, name: str | None = None) -> float:
        """Above this score all labels of a class, or of all classes, are in the field; ``lower_threshold`` goes on."""
        return self.written.get(name, 0.0) if name is not None else max(self.written.values(), default=0.0)


def written_above(dataset: fo.Dataset, label_field: str) -> WrittenAbove | None:
    """Which labels of the run that wrote a field are there; ``None`` where no run wrote it."""
    record = provenance_of(dataset, label_field)
    if not record:
        return None
    written, suggested = (named(record.get(key), record["classes"]) or {} for key in ("thresholds", "suggested"))
    return WrittenAbove(record["run_key"], written, suggested)


def first_threshold(dataset: fo.Dataset, label_field: str, table: LabelTable, name: str | None = None) -> float:
    """The threshold to begin with: the fitted one, or what the references suggested, or where scores fall apart.

    Args:
        dataset: the dataset.
        label_field: a field that a run wrote.
        table: its labels.
        name: of this class; of all together where ``None``.
    """
    fit, run = thresholds_of_field(dataset, label_field), written_above(dataset, label_field)
    if fit is not None:
        return round((fit.overall if name is None else fit.classes.get(name, fit.overall)).threshold, 3)
    # Of weak labels, most of which are not there, scores no longer tell where they fall apart.
    guessed = {} if run is None else run.suggested
    if name in guessed:
        return guessed[name]
    return round(float(np.median(list(guessed.values()))), 3) if guessed else suggest_threshold(table, name)


def decisions_needed(right: int, wrong: int) -> str:
    """What it takes to say of a threshold how many labels above it are right."""
    return (
        f"How many of the labels above it are right can be said from {LEAST} accepted and {LEAST} rejected labels on; "
        f"you have {right} and {wrong}."
    )


def in_words(precision: float | None, recall: float | None) -> str:
    """``"about 9 of 10 right, 70 % of what is right"``: what to expect above a threshold."""
    if precision is None or recall is None:
        return "no label is above it"
    return f"expect {precision:.0%} of the labels above it to be right, and {recall:.0%} of all right ones to be above"


def _notes(labels: Labels, fitted: list[ClassThreshold], precision: float | None) -> tuple[str, ...]:
    right, wrong = int(labels.right.sum()), int(labels.wrong.sum())
    notes = []
    if not right + wrong:
        notes.append(
            "Nobody has decided on a label yet, so this is a guess, and how many of the labels will be right is not "
            "known. Accept what is right, reject what is wrong, and fit again."
        )
    elif min(right, wrong) < LEAST:
        notes.append(decisions_needed(right, wrong))
    if right + wrong and not (right and wrong):
        given, other = ("accepted", "rejected") if right else ("rejected", "accepted")
        notes.append(f"You have {given} labels and {other} none: only both together tell where the line is.")
    elif 0 < right + wrong < _FEW:
        notes.append(
            f"{counted(right + wrong, 'decision')} make this unsure: more help, the most uncertain labels first."
        )
    beyond = [
        threshold.name
        for threshold in fitted[1:]
        if precision is not None and threshold.labels and threshold.threshold >= 1
    ]
    if beyond:
        notes.append(f"No threshold promises that precision for: {listing(beyond)}.")
    return tuple(notes)


def _check_field(dataset: fo.Dataset, record: Mapping[str, Any]) -> None:
    name, run_key = record["label_field"], record["run_key"]
    check_detections_field(dataset, name)
    writer = run_of_field(dataset, name)
    if writer != run_key:
        raise InputError(f"the labels in {name!r} are of run {writer!r} by now, not of {run_key!r}; choose that one")


def _to_facts(thresholds: Thresholds) -> Facts:
    """As the store keeps it: names of classes need not do as keys there."""
    plain = {key: value for key, value in vars(thresholds).items() if key not in ("classes", "overall", "curve")}
    image = thresholds.image
    return {
        **plain,
        "notes": list(thresholds.notes),
        "rows": thresholds.rows(),
        "curve": _curve_to_facts(thresholds.curve),
        "image": [_curve_to_facts(image.curve), [[key, value] for key, value in image.thresholds.items()],
                  image.overall],
    }  # fmt: skip


def _from_facts(kept: Mapping[str, Any]) -> Thresholds:
    facts = {**kept, "notes": tuple(kept["notes"])}
    overall, *each = (ClassThreshold(**row) for row in facts.pop("rows"))
    curve, least, of_others = facts.pop("image")
    facts["image"] = PresenceFit(_curve_from_facts(curve), dict(least), of_others)
    facts["curve"] = _curve_from_facts(facts["curve"])
    return Thresholds(classes={threshold.name: threshold for threshold in each}, overall=overall, **facts)


def _curve_to_facts(curve: Curve) -> list[Any]:
    return [curve.slope, curve.offset, [[key, value] for key, value in curve.offsets.items()]]


def _curve_from_facts(kept: list[Any]) -> Curve:
    slope, offset, offsets = kept
    return Curve(slope, offset, {int(key): value for key, value in offsets})
