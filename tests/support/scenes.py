"""Scenes of rings with ground truth and predictions, and the scores that they must have."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import numpy as np
from PIL import Image

from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores, presence_scores
from support.oracles import encode_mask

# Widths whose inverse is no short binary fraction, so that relative boxes do not come back exactly.
SIZES = [(61, 83), (97, 131), (70, 49), (53, 107), (66, 66), (45, 71)]
CLASSES = ["bolt", "nut", "washer"]


def blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A ring: not convex, so that a mask differs from its box."""
    y, x = np.mgrid[: size[0], : size[1]]
    radius = rng.uniform(5, 12)
    cy, cx = (rng.uniform(0, side) for side in size)
    distance = np.hypot(y - cy, (x - cx) * rng.uniform(0.7, 1.4))
    mask = (distance < radius) & (distance > radius / 3)
    return mask if mask.sum() > 20 else blob(rng, size)


def boxed(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


class Scene:
    """The same objects twice: as FiftyOne labels in a dataset, and as plain metrics input from full-size masks."""

    def __init__(self, dataset: fo.Dataset, folder: Path, seed: int = 0) -> None:
        self.dataset, self.rng = dataset, np.random.default_rng(seed)
        self.truth: list[GroundTruth] = []
        self.found: list[Prediction] = []
        self.ids: list[str] = []
        for i, size in enumerate(SIZES):
            path = folder / f"{i}.png"
            Image.fromarray(self.rng.integers(0, 255, (*size, 3), np.uint8)).save(path)
            self._add(fo.Sample(str(path)), size, objects=0 if i == 2 else 4)

    def _add(self, sample: fo.Sample, size: tuple[int, int], objects: int) -> None:
        truth, found = [], []
        for _ in range(objects):
            mask, label, crowd = blob(self.rng, size), int(self.rng.integers(0, 3)), self.rng.random() < 0.2
            truth.append((mask, label, bool(crowd)))
            near = np.roll(mask, int(self.rng.integers(-1, 2)), int(self.rng.integers(0, 2)))
            found.append((near, label if self.rng.random() < 0.8 else (label + 1) % 3, float(self.rng.random())))
        found.append((blob(self.rng, size), int(self.rng.integers(0, 3)), float(self.rng.random())))
        sample["ground_truth"] = fo.Detections(
            detections=[fo.Detection.from_mask(m, label=CLASSES[k], iscrowd=int(c)) for m, k, c in truth]
        )
        sample["ntt"] = fo.Detections(
            detections=[fo.Detection.from_mask(m, label=CLASSES[k], confidence=s) for m, k, s in found]
        )
        self.dataset.add_sample(sample)
        self.ids.append(sample.id)
        self.truth += [GroundTruth(sample.id, k, boxed(m), encode_mask(m), c) for m, k, c in truth]
        self.found += [Prediction(sample.id, k, boxed(m), s, encode_mask(m)) for m, k, s in found]

    def scores(self, ids: list[str] | None = None, **options):
        ids = self.ids if ids is None else ids
        truth = [item for item in self.truth if item.image_id in ids]
        found = [item for item in self.found if item.image_id in ids]
        return coco_scores(truth, found, CLASSES, ids, **options), presence_scores(truth, found, CLASSES, ids)


def assert_equal_scores(results, expected) -> None:
    coco, presence = expected
    assert (results.box, results.mask, results.presence) == (coco.box, coco.mask, presence)
    for row in results.per_class:
        assert (row.box, row.mask) == (coco.box_per_class[row.name], coco.mask_per_class[row.name])
