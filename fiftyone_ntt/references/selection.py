"""Which few of many labelled objects make the best references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import (
    check_reference_field,
    every_image,
    image_samples,
    is_map_field,
    root_dataset_of,
)
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import Progress, checked_progress
from fiftyone_ntt.params.param_info import checked_number
from fiftyone_ntt.references.banks import build_memory_bank
from fiftyone_ntt.references.tagging import use_as_references

Vectors = NDArray[np.floating]
Index = NDArray[np.int64]

_REPULSION, _NEAREST = 0.15, 0.2
"""How much the nearest objects of other classes count, and which share of them that is; chosen in
``docs/experiments/references.md``."""


def select_rows(vectors: Vectors, class_index: Index, n: int) -> list[int]:
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
        own, others = np.flatnonzero(class_index == k), points[class_index != k]
        chosen += _of_class(vectors[own], points[own], others, n, own)
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


@with_bar
def select_references(
    view: SampleCollection,
    n: int,
    label_field: str = "ground_truth",
    *,
    preset: str | Preset = "lite",
    classes: Sequence[str] | None = None,
    tag: bool = False,
    device: str | None = None,
    progress: Progress | bool | None = None,
) -> SampleCollection:
    """Picks ``n`` references of each class out of everything that is labelled: typical ones that complete each other.

    Every labelled object of the view is encoded (about a second an image without a GPU), so give it a view of some
    hundred images rather than all of a large dataset.

    Args:
        view: samples with labels.
        n: references a class; fewer where a class has fewer labels.
        label_field: the ``Detections`` field with the labels.
        preset: name of a preset, or a ``Preset`` with checkpoint paths of your own.
        classes: the classes wanted; all of them where ``None``.
        tag: also tag the chosen labels ``ntt:reference``. What was tagged before stays tagged.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        The samples of the chosen labels; of this field, the view holds no other labels. As references for
        ``build_memory_bank`` it can be used as it is.

    Raises:
        InputError: if ``n`` is less than 1, the field is missing, or there are no samples.
        WrongTypeError: if ``n`` is no whole number.
        BadReferenceError: if a label cannot serve as a reference, or there are none.

    Example:
        >>> references = ntt.select_references(dataset.take(200), 3, "ground_truth")  # doctest: +SKIP
        >>> bank = ntt.build_memory_bank(references, "ground_truth")  # doctest: +SKIP
    """
    progress, n = checked_progress(progress), checked_number("n", n, int, 1)
    samples = image_samples(view)
    check_reference_field(samples, label_field)
    if is_map_field(samples, label_field):
        raise WrongTypeError(
            f"expected a field with labels of objects to choose among, got {label_field!r} with semantic segmentation "
            "masks; tag the images yourself"
        )
    bank = build_memory_bank(samples, label_field, classes=classes, preset=preset, device=device, progress=progress)
    chosen = select_rows(bank.project(bank.vectors), bank.class_index, n)
    keys = [bank.reference_ids[i].split("/") for i in chosen]
    images = every_image(root_dataset_of(samples)).select(list(dict.fromkeys(key[0] for key in keys)), ordered=True)
    references = images.select_labels(ids=[key[1] for key in keys], fields=label_field)
    if tag:
        use_as_references(root_dataset_of(samples), label_field, label_ids=[key[1] for key in keys])
    return references


def unit(vectors: Vectors) -> NDArray[np.float64]:
    """l2-normalised rows; a zero vector stays what it is."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float64] = np.asarray(vectors, np.float64) / np.maximum(lengths, 1e-12)
    return scaled


def checked(vectors: Vectors, class_index: Index) -> tuple[NDArray[np.float64], Index]:
    """Both as arrays of the right type.

    Raises:
        InputError: if they do not belong together.
    """
    points, index = np.asarray(vectors, np.float64), np.asarray(class_index, np.int64)
    if points.ndim != 2 or index.shape != points.shape[:1] or not np.isfinite(points).all():
        raise InputError(
            f"expected finite vectors [M, C] with a class index each, got {points.shape} and {index.shape}; "
            "give one class index for every vector"
        )
    return points, index
