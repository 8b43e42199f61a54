"""HSNet's scores of episodes: mIoU over the classes, and FB-IoU. Pure: numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.evaluation.protocols.scorers import Scored


@dataclass(frozen=True)
class Overlap:
    """Pixels of one episode.

    Attributes:
        label: index of the class.
        shared: in both the answer and the truth.
        joined: in either.
        shared_ground: in neither.
        joined_ground: outside of one of them at least.
    """

    label: int
    shared: int
    joined: int
    shared_ground: int
    joined_ground: int


def overlap(label: int, answer: NDArray[np.bool_], truth: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> Overlap:
    """Pixels of an answer and a truth, all bool ``[H, W]``; ignored pixels count nowhere."""
    counted = ~ignored
    both, either = int((answer & truth & counted).sum()), int(((answer | truth) & counted).sum())
    pixels = int(counted.sum())
    return Overlap(label, both, either, pixels - either, pixels - both)


def episode_scores(overlaps: Iterable[Overlap], classes: Sequence[int], names: Sequence[str]) -> Scored:
    """Sums over the episodes of a class, then the mean over classes: not the mean of the images' IoU.

    Args:
        overlaps: of all episodes.
        classes: indices of the fold's classes.
        names: of all classes.
    """
    sums = {k: [0, 0] for k in classes}
    whole = np.zeros((2, 2), np.int64)  # [ground, object] x [shared, joined]
    for one in overlaps:
        sums[one.label][0] += one.shared
        sums[one.label][1] += one.joined
        whole += [[one.shared_ground, one.joined_ground], [one.shared, one.joined]]
    per_class = {names[k]: {"iou": shared / joined if joined else None} for k, (shared, joined) in sums.items()}
    defined = [values["iou"] for values in per_class.values() if values["iou"] is not None]
    ground_and_object = [shared / joined for shared, joined in whole.tolist() if joined]
    return Scored(
        {
            "miou": float(np.mean(defined)) if defined else None,
            "fb_iou": float(np.mean(ground_and_object)) if ground_and_object else None,
        },
        per_class,
    )
