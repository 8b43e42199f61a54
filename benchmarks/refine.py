"""What refining does to masks: ``python -m benchmarks.refine --data DIR --json FILE``.

Each object of the truth is given the candidate that fits it best, as a person would accept it, and that mask is
refined. Measured are IoU and boundary IoU with the truth before and after, and the share that the guard refused.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from benchmarks.across import Set
from benchmarks.arguments import count, folder
from benchmarks.coco_data import SHARED, TargetImage, known_classes, read_target_image, read_targets
from benchmarks.prompts import overlap
from benchmarks.tables import table, write_json
from fiftyone_ntt.core import Segmenter
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.method.options.refine import refine
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.pixels.packed_masks import PackedMask, masks_at_image_size

SETS = (("fruits-nuts", "all"), ("magnetic-tile", "all"), ("coco-mini", "voc20"))
BAND = 0.02
"""Width of a border in image diagonals, as in the paper of boundary IoU (CVPR 2021) for COCO."""
Flags = NDArray[np.bool_]
Accepted = tuple[PackedMask, float, Flags]
"""A candidate's mask, its predicted IoU, and the true mask."""


def border(mask: Flags, band: float = BAND) -> Flags:
    """The pixels of a mask ``[H, W]`` that are at most ``band`` diagonals from what is outside it or the image."""
    steps = max(1, round(band * float(np.hypot(*mask.shape))))
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]
    return mask & (inner == 0)


def boundary_iou(a: Flags, b: Flags) -> float:
    """IoU of the borders of two masks."""
    return overlap(border(a), border(b))


def accepted(segmenter: Segmenter, image: NDArray[np.uint8], truth: Sequence[Any]) -> Iterator[Accepted]:
    """Of each object in an image the candidate that fits it best, if that has an IoU above 0.5 with it.

    Args:
        segmenter: makes the candidates.
        image: uint8 ``[H, W, 3]``.
        truth: compressed run lengths of the objects.
    """
    candidates = segmenter.candidates(image).candidates
    masks = masks_at_image_size(candidates, range(len(candidates)))
    size = (image.shape[0], image.shape[1])
    codes = [mask_utils.encode(np.asfortranarray(mask.full(size).astype(np.uint8))) for mask in masks]
    if not codes or not truth:
        return
    overlaps = mask_utils.iou(codes, list(truth), [0] * len(truth))  # [candidates, objects]
    for number, code in enumerate(truth):
        best = int(overlaps[:, number].argmax())
        if overlaps[best, number] > 0.5:
            true = np.asarray(mask_utils.decode(code), bool)
            yield masks[best], float(candidates.predicted_iou[best]), true


def run_set(segmenter: Segmenter, one: Set, most: int) -> dict[str, Any]:
    """Figures of a set; IoU in points of 0..100. Of each image at most ``most`` objects count, the first ones."""
    targets = read_targets(one.root, one.classes, one.images)
    rows: list[dict[str, Any]] = []
    for target in targets.images:
        codes = [item.rle for item in targets.truth if item.image_id == target.image_id and _has_mask(item)]
        rows += _of_image(segmenter, target, codes[:most])
        print(f"{one.name}: {len(rows)} objects", file=sys.stderr)
    return summary(rows)


def _has_mask(item: Any) -> bool:
    return item.rle is not None and not item.crowd


def _of_image(segmenter: Segmenter, target: TargetImage, codes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    if not codes:
        return
    image = read_target_image(target)
    for old, predicted_iou, true in accepted(segmenter, image, codes):
        begin = time.perf_counter()
        result = refine(segmenter.proposal_model, image, old, predicted_iou=predicted_iou)
        seconds = time.perf_counter() - begin
        before, after = (mask.full(target.size) for mask in (old, result.mask))
        yield {
            "iou": (overlap(before, true), overlap(after, true)),
            "boundary_iou": (boundary_iou(before, true), boundary_iou(after, true)),
            "kept": result.kept,
            "ms": 1000 * seconds,
        }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over objects."""
    figures: dict[str, Any] = {"objects": len(rows)}
    if not rows:
        return figures
    for name in ("iou", "boundary_iou"):
        for place, when in enumerate(("before", "after")):
            figures[f"{name}_{when}"] = 100 * mean(row[name][place] for row in rows)
    new = [row for row in rows if row["kept"] is None]
    figures["refused"] = 100 * (1 - len(new) / len(rows))
    figures["reasons"] = dict(Counter(row["kept"] for row in rows if row["kept"] is not None))
    better = [row["boundary_iou"][1] > row["boundary_iou"][0] for row in new]
    figures["better_of_refined"] = 100 * mean(better) if new else None
    return {**figures, "ms": mean(row["ms"] for row in rows)}


def report(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One table over all sets."""
    heading = ["set", "objects", "IoU before", "after", "boundary IoU before", "after", "refused", "ms an object"]
    names = ("iou_before", "iou_after", "boundary_iou_before", "boundary_iou_after")
    rows = []
    for name, figures in results.items():
        if figures["objects"]:
            cells = [f"{figures[key]:.1f}" for key in names]
            rows.append([name, str(figures["objects"]), *cells, f"{figures['refused']:.0f} %", f"{figures['ms']:.0f}"])
    return table(heading, rows)


def sets_in(data: Path, images: int) -> list[Set]:
    """The sets to measure that a folder holds; the folder may be one of them."""
    found = []
    for name, classes in SETS:
        root = data if data.name == name else data / name
        if (root / "refs").is_dir() and classes in known_classes(root):
            found.append(Set(root, classes, images))
    if not found:
        raise InputError(f"expected {' or '.join(name for name, _ in SETS)} with reference sets (refs/) in {data}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refine", description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--data", type=folder, default=SHARED, help="folder of the sets (default: %(default)s)")
    parser.add_argument("--images", type=count, default=20, help="of each set (default: %(default)s)")
    parser.add_argument("--objects", type=count, default=4, help="of each image at most (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="writes {set: figures}")
    options = parser.parse_args(argv)
    results = {}
    try:
        segmenter = load_preset(options.preset).segmenter()
        for one in sets_in(options.data, options.images):
            results[one.root.name] = run_set(segmenter, one, options.objects)
            write_json(options.json, results)  # what is measured is not lost
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
