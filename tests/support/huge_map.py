"""Writes and scores a huge semantic segmentation mask, and says by how many megabytes the memory grew.

python huge_map.py RESULT
"""

import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fiftyone as fo
import numpy as np

import fiftyone_ntt as ntt

SIZE = (12_000, 10_000)
BOXES = [(100, 100, 3000, 2000), (7000, 4000, 2000, 4000), (11_000, 9000, 1000, 1000)]


def label(top, left, height, width, number):
    mask = np.ones((height, width), bool)
    mask[: height // 2, : width // 2] = False
    box = [left / SIZE[1], top / SIZE[0], width / SIZE[1], height / SIZE[0]]
    return fo.Detection(label="ab"[number % 2], bounding_box=box, mask=mask, confidence=0.9)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(result):
    dataset = fo.Dataset()
    labels = fo.Detections(detections=[label(*box, number) for number, box in enumerate(BOXES)])
    metadata = fo.ImageMetadata(width=SIZE[1], height=SIZE[0])
    dataset.add_sample(fo.Sample("/huge.png", ntt=labels, metadata=metadata))
    start = peak()
    report = ntt.to_segmentation(dataset, "ntt")
    written = peak()
    results = ntt.evaluate(dataset, "ntt_semantic", "ntt")
    scored = peak()
    facts = {"size": list(SIZE), "maps": report.maps, "miou": results.semantic.miou}
    facts |= {"start": start, "written": written - start, "scored": scored - start}
    Path(result).write_text(json.dumps(facts))
    dataset.delete()


if __name__ == "__main__":
    main(*sys.argv[1:])
