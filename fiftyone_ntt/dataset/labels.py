"""From instances to FiftyOne labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone as fo

from fiftyone_ntt.core import Instances


def to_detections(instances: Instances, classes: Sequence[str]) -> fo.Detections:
    """Detections with in-box masks, confidence and predicted IoU.

    A box is exactly its mask's pixels, so the mask comes back from FiftyOne bit for bit.

    Args:
        instances: what ``match`` found in one image.
        classes: class names; ``instances.labels`` index them.
    """
    return fo.Detections(detections=[_detection(instances, i, classes) for i in range(len(instances))])


def to_document(instances: Instances, classes: Sequence[str]) -> dict[str, Any]:
    """The same detections as the document that FiftyOne keeps in its database."""
    document: dict[str, Any] = to_detections(instances, classes).to_dict()
    return document


def _detection(instances: Instances, i: int, classes: Sequence[str]) -> fo.Detection:
    height, width = instances.image_size
    (x1, y1, x2, y2), mask = instances.crop(i)
    return fo.Detection(
        label=classes[int(instances.labels[i])],
        bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
        mask=mask,
        confidence=float(instances.scores[i]),
        predicted_iou=float(instances.predicted_iou[i]),
    )
