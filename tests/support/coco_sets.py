"""COCO json made for samplers: objects that come out of a shuffle where a test wants them."""

from __future__ import annotations

import random
from pathlib import Path

from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile

SIZE = (480, 640)


def coco_file(entries, folder=Path("train2017")):
    """A file of (class, image name, box) or (class, image name, box, more keys); ids have gaps and are out of order."""
    names = list(dict.fromkeys(entry[0] for entry in entries))
    ids = {name: 90 - 3 * k for k, name in enumerate(names)}
    images = {name: 7 + 2 * i for i, name in enumerate(dict.fromkeys(entry[1] for entry in entries))}
    content = {
        "images": [
            {"id": i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for name, i in images.items()
        ],
        "categories": [{"id": k, "name": name} for name, k in ids.items()],
        "annotations": [
            {
                "id": 1000 + n, "image_id": images[image], "category_id": ids[label], "bbox": list(box),
                "area": box[2] * box[3], "iscrowd": 0, **(more[0] if more else {}),
            }
            for n, (label, image, box, *more) in enumerate(entries)
        ],
    }  # fmt: skip
    return CocoFile(Path("annotations/train.json"), content, Path(folder))


def before_shuffle(groups, seed):
    """Groups of entries in an order from which one stream of shuffles brings each group into the order given."""
    stream, ordered = random.Random(seed), {}
    for label, wanted in groups.items():
        places = list(range(len(wanted)))
        stream.shuffle(places)
        ordered[label] = [None] * len(wanted)
        for place, entry in zip(places, wanted, strict=True):
            ordered[label][place] = entry
    # The first of every class in the order of the classes, then the rest class by class.
    return [rows[0] for rows in ordered.values()] + [row for rows in ordered.values() for row in rows[1:]]
