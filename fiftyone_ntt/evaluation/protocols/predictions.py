"""Instances as the scorers and the journal of a run have them."""

from __future__ import annotations

from typing import Any

from fiftyone_ntt.evaluation.coco import Prediction
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.pixels.mask_codes import encode_crop


def to_predictions(instances: Instances, image_id: int) -> list[Prediction]:
    """Instances of one image, in their order, for the metrics."""
    predictions = []
    for i in range(len(instances)):
        (left, top, _, _), crop = instances.crop(i)
        x1, y1, x2, y2 = (float(value) for value in instances.boxes[i])
        rle = encode_crop(crop, left, top, instances.image_size)
        score, label = float(instances.scores[i]), int(instances.labels[i])
        predictions.append(Prediction(image_id, label, (x1, y1, x2, y2), score, rle))
    return predictions


def to_row(one: Prediction) -> list[Any]:
    """A prediction as JSON can hold it, without its image."""
    rle = one.rle
    counts = None if rle is None else [rle["size"], rle["counts"].decode("ascii")]
    return [one.label, one.score, list(one.box), counts]


def from_row(row: list[Any], image_id: int) -> Prediction:
    """What ``to_row`` made a row of."""
    label, score, (x1, y1, x2, y2), counts = row
    rle = None if counts is None else {"size": counts[0], "counts": counts[1].encode("ascii")}
    return Prediction(image_id, label, (x1, y1, x2, y2), score, rle)
