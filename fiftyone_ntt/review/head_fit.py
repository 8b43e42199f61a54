"""Trains a head on decisions, and finds out on images that it was not trained on whether it is better than the matcher.

Scikit-learn's logistic regression pulls its weights towards zero. Here they are pulled towards the prototypes, so that
few decisions change little; that takes a few lines of L-BFGS instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from fiftyone_ntt.errors import counted
from fiftyone_ntt.method.bank_parts import Head
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.head import similarities_of
from fiftyone_ntt.review.head_rows import NONE, Rows, unit

Floats = NDArray[np.float64]
Arrays = NDArray[np.float32]

PULL = 0.03
"""How strongly weights are pulled towards the prototypes: a step as long as they are costs half of this in loss."""
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the head in the score that are tried out, as parts of the most that it may have."""
DOUBT = 5
"""Of n reviewed images a head may have a share of n / (n + this) at most: what is best on few of them is often not on
others."""
FOLDS = 5
LEAST_IMAGES, LEAST_OBJECTS = 3, 6
"""Of decisions that a head can be judged by: with fewer it is not trained."""
MOST_ROWS = 5000
"""Of candidates that are of a class, and of those that are none: more only take longer."""
BETTER = 0.005
"""By how much the average precision has to be higher than the matcher's."""


def logits_of(features: Arrays, weights: Floats, bias: Floats) -> Floats:
    """float64 ``[n, K + 1]``."""
    return np.asarray(features @ weights.T + bias, np.float64)


def prior_of(features: Arrays, targets: NDArray[np.int64], counts: Floats, prototypes: Arrays) -> tuple[Floats, Floats]:
    """The head that only calibrates the matcher: how steep, and from which cosine on a candidate is of a class.

    Args:
        features: float32 ``[n, C]``, l2-normalised.
        targets: int64 ``[n]``, K for none.
        counts: float64 ``[n]``, what each row counts; they sum to one.
        prototypes: float32 ``[K, C]``, l2-normalised.

    Returns:
        Weights ``[K + 1, C]``, ``steepness * prototypes`` and a row of zeros; bias ``[K + 1]``, zeros and that of none.
    """
    cosines = features.astype(np.float64) @ prototypes.T.astype(np.float64)  # [n, K]

    def loss(values: Floats) -> float:
        scores = np.column_stack([np.exp(values[0]) * cosines, np.full(len(cosines), np.exp(values[0]) * values[1])])
        likely = log_softmax(scores, axis=1)[np.arange(len(targets)), targets]
        # A weak belief, worth little beside any decisions: steepness about 15, border at a cosine of 0.4.
        return float(-counts @ likely + 0.01 * ((values[0] - np.log(15)) ** 2 + 25 * (values[1] - 0.4) ** 2))

    steepness, border = minimize(loss, np.array([np.log(15), 0.4]), method="L-BFGS-B").x
    weights = np.concatenate([np.exp(steepness) * prototypes, np.zeros((1, prototypes.shape[1]))])
    bias = np.zeros(len(weights))
    bias[-1] = np.exp(steepness) * border
    return weights, bias


def fitted(features: Arrays, targets: NDArray[np.int64], counts: Floats, prototypes: Arrays,
           pull: float = PULL) -> tuple[Floats, Floats]:  # fmt: skip
    """Softmax regression whose weights are pulled towards the calibrated matcher; arguments as ``prior_of``.

    Returns:
        Weights float64 ``[K + 1, C]`` and bias ``[K + 1]``.
    """
    first, first_bias = prior_of(features, targets, counts, prototypes)
    start = np.column_stack([first, first_bias])  # [K + 1, C + 1]
    inputs = np.column_stack([features, np.ones(len(features), np.float32)]).astype(np.float32)
    hits = np.zeros((len(targets), len(first)), np.float32)
    hits[np.arange(len(targets)), targets] = 1
    # A step of the steepness is a step of one: the pull means the same whatever that is.
    strength = pull / max(float(np.linalg.norm(first[:-1], axis=1).mean()) ** 2, 1e-12)

    def loss(flat: Floats) -> tuple[float, Floats]:
        away = flat.reshape(start.shape) - start
        logs = log_softmax(inputs @ (start + away).T.astype(np.float32), axis=1)  # [n, K + 1]
        value = -counts @ (logs * hits).sum(axis=1) + strength / 2 * (away**2).sum()
        slope = ((np.exp(logs) - hits) * counts[:, None].astype(np.float32)).T @ inputs
        return float(value), (slope + strength * away).ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-7})
    best = found.x.reshape(start.shape)
    return best[:, :-1], best[:, -1]


def balanced(targets: NDArray[np.int64], counts: NDArray[np.floating], classes: int) -> Floats:
    """What each row counts where rare classes are to count nearly as much as frequent ones: float64 ``[n]``, sum 1.

    A class counts by the root of its number of objects, and all classes together as much as none of them.
    """
    size = np.bincount(targets, counts, classes + 1).astype(np.float64)
    share = np.sqrt(size)
    wanted, unwanted = share[:-1].sum(), share[-1]
    if wanted and unwanted:
        share[-1] = wanted
    per_row = np.divide(share, size, out=np.zeros_like(size), where=size > 0)
    weights = counts * per_row[targets]
    return np.asarray(weights / weights.sum(), np.float64)


def average_precision(scores: Floats, classes: NDArray[np.int64], counts: NDArray[np.floating]) -> float:
    """Mean over the classes of the average precision of the labels that candidates would get, as the matcher labels.

    Args:
        scores: float ``[n, K]``.
        classes: int64 ``[n]``, what the candidates are; ``NONE`` for none.
        counts: float ``[n]``, what each counts as a right label; a wrong one counts as one.
    """
    labels, best = scores.argmax(axis=1), scores.max(axis=1)
    precisions = []
    for k in np.unique(classes[classes != NONE]):
        order = np.flatnonzero(labels == k)
        order = order[np.argsort(-best[order], kind="stable")]
        right = classes[order] == k
        gained = np.where(right, counts[order], 0.0)
        hits = np.cumsum(gained)
        precision = hits / np.maximum(hits + np.cumsum(~right), 1e-12)
        precisions.append(float((gained * precision).sum() / counts[classes == k].sum()))
    return float(np.mean(precisions)) if precisions else 0.0


@dataclass(frozen=True)
class HeadReport:
    """What came of training a head, in average precision of labels on images that it was not trained on.

    Attributes:
        objects: accepted objects that it learned from, and could be judged by.
        images: images with decisions.
        matcher: the average precision without the head, 0..1; ``None`` where there was too little to judge by.
        head: with it; ``None`` there too.
        share: its share in the score; 0 where it is not used.
        seconds: of training and judging.
    """

    objects: int
    images: int
    matcher: float | None = None
    head: float | None = None
    share: float = 0.0
    seconds: float = 0.0

    @property
    def used(self) -> bool:
        """Whether it is better than the matcher, and so is used."""
        return self.share > 0

    def __str__(self) -> str:
        if self.matcher is None or self.head is None:
            return (
                f"A head was not trained: it takes accepted labels of {LEAST_OBJECTS} objects in {LEAST_IMAGES} images "
                f"and something that is wrong; there are {counted(self.objects, 'object')}, and decisions in "
                f"{counted(self.images, 'image')}. Mark images as done: only then they say what is not there."
            )
        figures = f"average precision {self.head:.3f}, {self.matcher:.3f} without it"
        on = f"on {counted(self.images, 'reviewed image')} that it was not trained on in turn"
        if self.used:
            return f"A trained head takes part in the scores: {figures}, {on}."
        return f"A trained head is not used, as it is not better by at least {BETTER}: {figures}, {on}."


@dataclass(frozen=True, eq=False)
class _Judged:
    """Rows as each fold's head and matcher see them, which did not know their images.

    Attributes:
        similarities: float64 ``[n, K]``.
        logits: float64 ``[n, K + 1]``.
    """

    similarities: Floats
    logits: Floats


def train_head(
    rows: Rows, bank_without: Callable[[Collection[int]], MemoryBank], pull: float = PULL
) -> tuple[Head | None, HeadReport]:
    """Trains a head and judges it, one group of images after the other left out.

    Args:
        rows: what decisions say; the references of the bank count as accepted besides.
        bank_without: the memory bank as it is without what was learned from some images; always of the same classes.
        pull: how strongly weights are pulled towards the prototypes.

    Returns:
        The head, ``None`` where it is not better than the matcher on the same decisions; and what there is to say.
    """
    started = time.perf_counter()
    rows, bank = thinned(rows), bank_without(())
    wanted = rows.classes != NONE
    images = np.unique(rows.images)
    objects = round(float(rows.counts[wanted].sum()))
    report = HeadReport(objects, len(images))
    enough = objects >= LEAST_OBJECTS and len(np.unique(rows.images[wanted])) >= LEAST_IMAGES
    if not enough or wanted.all():
        return None, report
    judged = _judged(rows, images, bank_without, pull)
    targets = np.where(wanted, rows.classes, len(bank.classes))
    weights = balanced(targets, rows.counts, len(bank.classes))
    temperature = _temperature(judged.logits, targets, weights)
    likely = softmax(judged.logits / temperature, axis=1)[:, :-1]
    gain = _gain(judged.similarities, likely, rows)
    matcher = average_precision(judged.similarities, rows.classes, rows.counts)
    most = len(images) / (len(images) + DOUBT)
    by_share = {
        share: average_precision((1 - share) * judged.similarities + share * gain * likely, rows.classes, rows.counts)
        for share in (part * most for part in SHARES)
    }
    share = max(by_share, key=lambda value: by_share[value])
    report = replace(report, matcher=matcher, head=by_share[share])
    head = None
    if by_share[share] > matcher + BETTER:
        final, bias = _trained(rows, bank, pull)
        head = Head(final.astype(np.float32), bias.astype(np.float32), temperature, share, gain)
        report = replace(report, share=share)
    return head, replace(report, seconds=time.perf_counter() - started)


def thinned(rows: Rows) -> Rows:
    """At most ``MOST_ROWS`` of each kind, spread evenly over the images."""
    kept = [np.flatnonzero(kind) for kind in (rows.classes != NONE, rows.classes == NONE)]
    if max(map(len, kept)) <= MOST_ROWS:
        return rows
    kept = [kind if len(kind) <= MOST_ROWS else kind[:: -(-len(kind) // MOST_ROWS)] for kind in kept]
    return rows.select(np.sort(np.concatenate(kept)))


def _judged(rows: Rows, images: NDArray[np.int64], bank_without: Callable[[Collection[int]], MemoryBank],
            pull: float) -> _Judged:  # fmt: skip
    """Every row by a head and a bank that do not know its image."""
    folds = len(images) if len(images) <= 2 * FOLDS else FOLDS
    classes = len(bank_without(()).classes)
    judged = _Judged(np.zeros((len(rows), classes)), np.zeros((len(rows), classes + 1)))
    for fold in range(folds):
        left_out = images[fold::folds]
        test = np.isin(rows.images, left_out)
        bank = bank_without(set(left_out.tolist()))
        weights, bias = _trained(rows.select(~test), bank, pull)
        features = unit(rows.vectors[test], bank.center)
        judged.similarities[test] = similarities_of(bank, features)
        judged.logits[test] = logits_of(features, weights, bias)
    return judged


def _trained(rows: Rows, bank: MemoryBank, pull: float) -> tuple[Floats, Floats]:
    """Weights and bias from rows and from the references of a bank."""
    features = np.concatenate([unit(rows.vectors, bank.center), unit(bank.vectors, bank.center)])
    none = len(bank.classes)
    targets = np.concatenate([np.where(rows.classes == NONE, none, rows.classes), bank.class_index])
    counts = np.concatenate([rows.counts, np.ones(len(bank.vectors), np.float32)])
    return fitted(features, targets, balanced(targets, counts, none), bank.prototypes, pull)


def _temperature(logits: Floats, targets: NDArray[np.int64], weights: Floats) -> float:
    """By what logits of images that a head does not know are to be divided, so that its probabilities are right."""

    def loss(value: float) -> float:
        likely = log_softmax(logits / np.exp(value), axis=1)[np.arange(len(targets)), targets]
        return float(-weights @ likely + 0.01 * value**2)

    return float(np.exp(minimize_scalar(loss, bounds=(-1, 3), method="bounded").x))


def _gain(similarities: Floats, likely: Floats, rows: Rows) -> float:
    """What probabilities are multiplied by, so that right labels keep their scores, and thresholds their meaning."""
    right = np.flatnonzero(rows.classes != NONE)
    own = rows.classes[right]
    before, after = similarities[right, own].mean(), likely[right, own].mean()
    return float(np.clip(before / max(after, 1e-6), 0.1, 1.0))
