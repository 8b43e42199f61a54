"""Which images the simulated person of ``learning_curve`` takes next: at random, or as the product would show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.coco_data import TargetImage
from fiftyone_ntt.core import CompactImage, Matcher, MemoryBank
from fiftyone_ntt.method.starting_threshold import starting_thresholds
from fiftyone_ntt.params.review import DOUBTS
from fiftyone_ntt.review.expected_gain import Look, expected_objects, most_telling
from fiftyone_ntt.review.label_rows import ROW, Rows
from fiftyone_ntt.review.next_images import look_of
from fiftyone_ntt.review.ranking import most_doubtful_rows

RANDOM, GAIN = "random", "gain"
ORDERS = (RANDOM, GAIN, *DOUBTS)
"""At random, by ``ntt.next_images``, or the images of the most uncertain labels first, as ``ntt.doubtful`` has them."""


def chosen_images(
    order: str, count: int, rest: Sequence[TargetImage], contents: Mapping[str, CompactImage], bank: MemoryBank,
    known: NDArray[np.float64],
) -> list[TargetImage]:  # fmt: skip
    """The next images to review.

    Args:
        order: one of ``ORDERS``.
        count: how many.
        rest: those that nobody has looked at, in random order.
        contents: path -> candidates.
        bank: labels them; it has learned from the images that were reviewed.
        known: float64 ``[K]``, references and reviewed objects of each class.
    """
    if order == RANDOM or count <= 0:
        return list(rest[: max(count, 0)])
    look = partial(_look, rest, contents, bank)
    places = order_of(order, count, rows_of_labels(rest, contents, bank), bank, len(rest), known, look)
    return [rest[place] for place in places]


def order_of(
    order: str, count: int, rows: Rows, bank: MemoryBank, images: int, known: NDArray[np.float64], look: Look
) -> list[int]:
    """The places of the next images, as the product would order them.

    Args:
        order: one of ``ORDERS`` but at random.
        count: how many.
        rows: the labels of all images.
        bank: what labelled them.
        images: how many there are.
        known: float64 ``[K]``, references and reviewed objects of each class.
        look: what the image at a place looks like.
    """
    thresholds = np.array(starting_thresholds(bank).suggested)
    if order == GAIN:
        shape = (images, len(bank.classes))
        expected = expected_objects(rows["sample"], rows["class"], rows["confidence"], thresholds, shape)
        return most_telling(expected, known, count, look)
    first = most_doubtful_rows(rows, order, float(np.median(thresholds)))
    places = [*dict.fromkeys(rows["sample"][first].tolist())]
    # What has no label comes last: nothing would ever show it.
    return [*places, *sorted(set(range(images)) - set(places))][:count]


def _look(images: Sequence[TargetImage], contents: Mapping[str, CompactImage], bank: MemoryBank,
          place: int) -> NDArray[np.float32] | None:  # fmt: skip
    return look_of(contents[str(images[place].path)], bank)


def rows_of_labels(images: Sequence[TargetImage], contents: Mapping[str, CompactImage], bank: MemoryBank) -> Rows:
    """The labels that a run with this bank would write, as review's table holds them."""
    matcher, least, blocks = Matcher(bank), starting_thresholds(bank).written, [np.empty(0, ROW)]
    for place, image in enumerate(images):
        labels = matcher.match(contents[str(image.path)]).above(least)
        block = np.zeros(len(labels), ROW)
        block["sample"], block["class"], block["confidence"] = place, labels.labels, labels.scores
        for name in ("predicted_iou", "similarity", "alternative_similarity"):
            block[name] = getattr(labels, name)
        blocks.append(block)
    return np.concatenate(blocks)
