"""A dataset that a run has labelled: what its tests share. The fixtures are in ``tests/integration/conftest.py``."""

from __future__ import annotations

import numpy as np

from support.pictures import Shape

KEY = "ntt_found"
IMAGES = 3
"""Besides the reference."""
SHAPES = [Shape(), Shape("disc", left=80, top=65, width=30, height=20, step=0, colour=(30, 220, 60))]
PICTURES = {"count": IMAGES + 1, "shapes": SHAPES, "every_label": True}
"""What a module asks for with ``pytestmark = pytest.mark.pictures(**PICTURES)``."""


def labels_of(dataset, field):
    """File -> every label in it, without ids; ``None`` where an image has no list of labels."""
    if not dataset.has_field(field):
        return {}
    return {
        path: None if labels is None else [content(label) for label in labels.detections]
        for path, labels in zip(*dataset.values(["filepath", field]), strict=True)
    }


def content(label):
    return label.label, tuple(np.round(label.bounding_box, 9)), round(label.confidence, 6), label.mask.tobytes()


def fields_of_run(dataset):
    return [name for name in dataset.get_field_schema() if name.startswith(("found", "fruit"))]


def second(dataset):
    return dataset.skip(1).first()


def set_to_none(dataset):
    sample = second(dataset)
    sample["found"] = None
    sample.save()


def all_labels(dataset):
    return [label for labels in dataset.values("found") if labels for label in labels.detections]
