"""What is different between the labels that an image has and those that it would get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass
class ClassChange:
    """What becomes of the labels of one class.

    Attributes:
        gained: labels where there was none.
        lost: labels that are gone.
        relabelled: labels that had another class.
        unchanged: labels that stay, whatever their score.
    """

    gained: int = 0
    lost: int = 0
    relabelled: int = 0
    unchanged: int = 0


def changes_of(
    old: Sequence[Document], new: Sequence[Document], threshold: float, changes: dict[str, ClassChange]
) -> bool:
    """Adds the changes in one image to those counted so far. The same box is the same object.

    Args:
        old: labels as they are, documents of detections.
        new: labels as they would be.
        threshold: labels with a confidence at or below this do not count, on either side.
        changes: class -> what was counted so far.

    Returns:
        Whether there are any.
    """
    before, after = _by_place(old, threshold), _by_place(new, threshold)
    differ = False
    for place in before.keys() | after.keys():
        gone, come = before.get(place, Counter()), after.get(place, Counter())
        for name, count in (gone & come).items():
            changes.setdefault(name, ClassChange()).unchanged += count
        left, arrived = list((gone - come).elements()), list((come - gone).elements())
        for name in arrived[: len(left)]:
            changes.setdefault(name, ClassChange()).relabelled += 1
        for name in arrived[len(left) :]:
            changes.setdefault(name, ClassChange()).gained += 1
        for name in left[len(arrived) :]:
            changes.setdefault(name, ClassChange()).lost += 1
        differ |= bool(left or arrived)
    return differ


def _by_place(labels: Sequence[Document], threshold: float) -> dict[tuple[int, ...], Counter[str]]:
    found: dict[tuple[int, ...], Counter[str]] = {}
    for label in labels:
        if (label.get("confidence") or 0.0) > threshold:
            place = tuple(round(value * 100_000) for value in label["bounding_box"])
            found.setdefault(place, Counter())[label["label"]] += 1
    return found
