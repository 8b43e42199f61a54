"""Which references help, which do not, which ones to choose, and what to label next: all from their vectors alone.

Vectors are those of a memory bank, centred (``MemoryBank.project``) and not normalised: a prototype is the mean of its
references as they are, so a reference counts for more where its vector is longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.references.selection import Index, Vectors, checked, unit

SAME = 0.9
"""Two references with a cosine above this show the same: of two images, those of a class rarely reach 0.75."""
FAR = 0.2
"""An outlier is at least this much less like its class than the class's references usually are."""
DEVIATIONS = 3.0
"""And at least so many deviations, pooled over the classes."""
LOW_ACCURACY = 0.75
"""A class needs more references where fewer of them are told from other classes by the rest of their class."""


@dataclass(frozen=True, eq=False)
class Influence:
    """What each of M references does to the others; NaN where nothing can be said.

    Attributes:
        similarity: float64 ``[M]``, cosine of each to the mean of the others of its class; NaN for one alone.
        margin: float64 ``[M]``, that minus the cosine to the most similar other class; below 0, it looks more like the
            other class. NaN for one alone; infinite where there is no other class.
        rival: int64 ``[M]``, that other class; -1 where there is none.
        change: float64 ``[M]``, how much wider the margins of the other references are with it than without it, the
            mean over its own class plus the mean over all other references. NaN where its class has fewer than three.
    """

    similarity: NDArray[np.float64]
    margin: NDArray[np.float64]
    rival: Index
    change: NDArray[np.float64]


def leave_one_out(vectors: Vectors, class_index: Index) -> Influence:
    """What becomes of the other references if one is left out.

    Args:
        vectors: ``[M, C]``, centred.
        class_index: int64 ``[M]``; every class up to the highest has a reference.
    """
    vectors, class_index = checked(vectors, class_index)
    count = np.bincount(class_index)
    sums = _sums(vectors, class_index)
    with_all = unit(vectors) @ unit(sums).T
    alone = count[class_index] < 2
    similarity = (unit(vectors) * unit(sums[class_index] - vectors)).sum(axis=1)
    similarity[alone] = np.nan
    rival, against = _rivals(with_all, class_index)
    margin = similarity - against
    change = np.full(len(vectors), np.nan)
    for i in np.flatnonzero(count[class_index] > 2):
        change[i] = _change_of_class(vectors, class_index, sums, similarity, int(i))
    return Influence(similarity, margin, rival, change + _change_elsewhere(vectors, class_index, sums, similarity))


def _change_of_class(
    vectors: Vectors, class_index: Index, sums: Vectors, similarity: NDArray[np.float64], i: int
) -> float:
    """How much more like their class its others are with reference ``i``; each is judged without itself."""
    others = np.flatnonzero(class_index == class_index[i])
    others = others[others != i]
    without = unit(sums[class_index[i]] - vectors[i] - vectors[others])
    return float((similarity[others] - (unit(vectors[others]) * without).sum(axis=1)).mean())


def _change_elsewhere(
    vectors: Vectors, class_index: Index, sums: Vectors, similarity: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much wider the margins of references of other classes are with each reference: float64 ``[M]``."""
    points, change = unit(vectors), np.zeros(len(vectors))
    with_all, without = points @ unit(sums).T, points @ unit(sums[class_index] - vectors).T
    against = _rivals(with_all, class_index)[1]
    for i, k in enumerate(class_index.tolist()):
        probes = np.flatnonzero((class_index != k) & np.isfinite(similarity))
        if len(probes):
            similarities = with_all[probes].copy()
            similarities[:, k] = without[probes, i]
            change[i] = float((_rivals(similarities, class_index[probes])[1] - against[probes]).mean())
    return change


def change_on(
    vectors: Vectors, class_index: Index, probes: Vectors, probe_class: Index, wanted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """What each reference does to labels that a person has decided on.

    Args:
        vectors: references ``[M, C]``, centred.
        class_index: int64 ``[M]``.
        probes: vectors of labels ``[P, C]``, centred.
        probe_class: int64 ``[P]``, the class that each label has, or had when it was rejected.
        wanted: bool ``[P]``: whether the label is right.

    Returns:
        float64 ``[M]``: how much wider the margins of right labels, and how much smaller those of rejected ones, are
        with it than without it, averaged over the labels of its class. NaN where there are none, or where it is alone.
    """
    vectors, class_index = checked(vectors, class_index)
    sums = _sums(vectors, class_index)
    points = unit(np.asarray(probes, np.float64))
    # [P, K] cosine of each probe with each class, and [P, M] with the class of each reference once that is left out
    with_all, without = points @ unit(sums).T, points @ unit(sums[class_index] - vectors).T
    count, sign = np.bincount(class_index), np.where(wanted, 1.0, -1.0)
    change = np.full(len(vectors), np.nan)
    for i, k in enumerate(class_index.tolist()):
        of_class = np.flatnonzero(probe_class == k)
        if len(of_class) and count[k] > 1:
            change[i] = float((sign[of_class] * (with_all[of_class, k] - without[of_class, i])).mean())
    return change


def near_duplicates(vectors: Vectors, threshold: float = SAME) -> list[tuple[int, int]]:
    """Pairs of references that show the same, the most alike first.

    Args:
        vectors: ``[M, C]``, centred.
        threshold: on their cosine.
    """
    points = unit(np.asarray(vectors, np.float64))
    # [M, M] each pair once, without the diagonal
    alike = np.triu(points @ points.T, k=1)
    first, second = np.nonzero(alike > threshold)
    order = np.argsort(-alike[first, second], kind="stable")
    return [(int(first[k]), int(second[k])) for k in order]


def outliers(similarity: NDArray[np.float64], class_index: Index) -> NDArray[np.bool_]:
    """Which references are far from the others of their class.

    How much similarities scatter is taken over all classes at once, since a class has few references. A class of two
    has no outlier: nobody knows which of them is odd.

    Args:
        similarity: float64 ``[M]`` of ``leave_one_out``.
        class_index: int64 ``[M]``.

    Returns:
        bool ``[M]``.
    """
    behind = np.full(len(similarity), np.nan)
    for k in np.unique(class_index):
        of_class = np.flatnonzero(class_index == k)
        if len(of_class) > 2:
            behind[of_class] = np.median(similarity[of_class]) - similarity[of_class]
    if not np.isfinite(behind).any():
        return np.zeros(len(similarity), bool)
    # 1.4826 times the median deviation is the standard deviation of a normal distribution.
    scatter = 1.4826 * float(np.nanmedian(np.abs(behind)))
    far: NDArray[np.bool_] = np.nan_to_num(behind, nan=-np.inf) > max(FAR, DEVIATIONS * scatter)
    return far


@dataclass(frozen=True)
class ClassNeed:
    """What is known of a class.

    Attributes:
        count: its references.
        accuracy: share of them that the rest of their class tells from other classes; NaN where there is one only.
        needs_more: whether more of them would help.
    """

    count: int
    accuracy: float
    needs_more: bool


def class_needs(margin: NDArray[np.float64], class_index: Index, classes: int) -> list[ClassNeed]:
    """Which classes need more references: those with a single one, and those that are often taken for another.

    Args:
        margin: float64 ``[M]`` of ``leave_one_out``.
        class_index: int64 ``[M]``.
        classes: how many classes there are.
    """
    needs = []
    for k in range(classes):
        margins = margin[class_index == k]
        accuracy = float((margins > 0).mean()) if len(margins) > 1 else float("nan")
        needs.append(ClassNeed(len(margins), accuracy, len(margins) < 2 or accuracy < LOW_ACCURACY))
    return needs


def most_helpful(vectors: Vectors, doubt: NDArray[np.floating], labelled: Vectors, n: int) -> list[int]:
    """Which objects to label next: doubtful ones that stand for many others and are unlike what is known.

    Greedy: each choice is the object that brings most doubt nearer to something labelled (the sum over all objects of
    their doubt times how much closer the nearest labelled one comes).

    Args:
        vectors: of the objects ``[N, C]``, centred.
        doubt: ``[N]``, not negative.
        known: of references and decided labels ``[R, C]``, centred.
        n: how many to choose.

    Returns:
        At most ``n`` indices, the most helpful first.
    """
    points = unit(np.asarray(vectors, np.float64))
    alike = (points @ points.T).clip(min=0)
    near = (points @ unit(np.asarray(labelled, np.float64)).T).clip(min=0)
    covered = near.max(axis=1) if near.size else np.zeros(len(points))
    chosen: list[int] = []
    while len(chosen) < min(n, len(points)):
        # [N] doubt that each object would take from all others, beyond what is covered already
        gain = (np.asarray(doubt)[:, None] * (alike - covered[:, None]).clip(min=0)).sum(axis=0)
        gain[chosen] = -1
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        chosen.append(best)
        covered = np.maximum(covered, alike[:, best])
    return chosen


def _sums(vectors: Vectors, class_index: Index) -> NDArray[np.float64]:
    sums = np.zeros((int(class_index.max(initial=-1)) + 1, vectors.shape[1]))
    np.add.at(sums, class_index, vectors)
    return sums


def _rivals(similarities: NDArray[np.float64], class_index: Index) -> tuple[Index, NDArray[np.float64]]:
    """The most similar class of each row apart from its own, and the similarity to it; -1 and -inf for none."""
    if similarities.shape[1] < 2 or not len(similarities):
        return np.full(len(similarities), -1, np.int64), np.full(len(similarities), -np.inf)
    rows = np.arange(len(similarities))
    others = similarities.copy()
    others[rows, class_index] = -np.inf
    rival = others.argmax(axis=1).astype(np.int64)
    return rival, others[rows, rival]
