"""Which few of many labelled objects make the best references."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.core.advice import Index, Vectors, checked, unit
from fiftyone_ntt.errors import InputError

_REPULSION, _NEAREST = 0.15, 0.2
"""How much the nearest objects of other classes count, and which share of them that is; see ``docs/results.md``."""


def select_references(vectors: Vectors, class_index: Index, n: int) -> list[int]:
    """Up to ``n`` references of each class whose mean is like the objects of the class and unlike all others.

    Greedy: the next reference is the one with which the prototype has the highest mean cosine to the class, less 0.15
    times that to the nearest fifth of all other objects. So the first is typical of the class, and each further one
    completes the others: of a class of two kinds, one of each is chosen.

    Args:
        vectors: of all labelled objects ``[M, C]``, centred, not normalised.
        class_index: int64 ``[M]``.
        n: how many a class; a class that has fewer is taken as it is.

    Returns:
        Indices, class by class, in the order in which they were chosen.
    """
    vectors, class_index = checked(vectors, class_index)
    if n < 1:
        raise InputError(f"expected at least 1 reference a class, got {n}; ask for one or more")
    points = unit(vectors)
    chosen: list[int] = []
    for k in np.unique(class_index):
        mine, others = np.flatnonzero(class_index == k), points[class_index != k]
        chosen += _of_class(vectors[mine], points[mine], others, n, mine)
    return chosen


def _of_class(
    vectors: NDArray[np.float64], points: NDArray[np.float64], others: NDArray[np.float64], n: int, index: Index
) -> list[int]:
    left, chosen = list(range(len(vectors))), list[int]()
    total = np.zeros(vectors.shape[1])
    while left and len(chosen) < n:
        prototypes = unit(total + vectors[left])
        best = left[int(np.argmax(_worth(prototypes, points, others)))]
        left.remove(best)
        chosen.append(best)
        total = total + vectors[best]
    return [int(index[i]) for i in chosen]


def _worth(
    prototypes: NDArray[np.float64], points: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of each prototype: how much more it is like its class than like the objects that could be taken for it."""
    own = (prototypes @ points.T).mean(axis=1)
    if not len(others):
        return np.asarray(own, np.float64)
    nearest = max(1, int(_NEAREST * len(others)))
    foreign = np.partition(prototypes @ others.T, -nearest, axis=1)[:, -nearest:].mean(axis=1)
    return np.asarray(own - _REPULSION * foreign, np.float64)
