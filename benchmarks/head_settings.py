"""How a trained head should be set, on vectors of the feature model alone: minutes in place of hours of candidates.

    python -m benchmarks.head_settings --data DIR/coco-mini --images 68 --rows FILE --json FILE

What stands for candidates: the true masks, a quarter of each (a part is none of the classes) and thirty random ellipses
an image that cover no object. One object a class, at random, is its reference. A head learns from the first so many
images and is scored on 28 others: mean over the classes of the average precision of the labels, in points, as a gain
over the prototypes. So it tells settings apart; what a head is worth on real candidates is for ``learning_curve``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from benchmarks.arguments import count, counts, folder, seeds
from benchmarks.coco_data import SHARED, Targets, default_classes, read_target_image, read_targets
from benchmarks.tables import write_json
from fiftyone_ntt.core import MemoryBank, Segmenter
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.method.bank_parts import Head
from fiftyone_ntt.method.options.head import scores_of, similarities_of
from fiftyone_ntt.method.pooling import pool_mask
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.review.head_fit import PULL, average_precision, train_head
from fiftyone_ntt.review.head_rows import NONE, OTHER, Rows, unit

SIDE = 128
"""Masks are read on a grid of so many cells a side."""
TEST = 28
ELLIPSES = 30


def rows_of_images(segmenter: Segmenter, targets: Targets) -> Rows:
    """What stands for the candidates of every image."""
    rng, parts = np.random.default_rng(0), []
    for i, image in enumerate(targets.images):
        tokens = segmenter.image_tokens(read_target_image(image)).numpy()
        cells = np.ix_(*(np.arange(SIDE) * size // SIDE for size in image.size))
        objects = [item for item in targets.truth if item.image_id == image.image_id and not item.crowd]
        masks = [mask_utils.decode(item.rle).astype(bool)[cells] for item in objects]
        regions = [(mask, item.label) for mask, item in zip(masks, objects, strict=True) if mask.sum() >= 20]
        regions += [(part, NONE) for part in map(quarter, masks) if part.any()]
        ellipses = (ellipse(rng) for _ in range(ELLIPSES))
        regions += [(mask, NONE) for mask in ellipses if mask.sum() >= 30 and not _covers(mask, masks)]
        vectors = np.array([pool_mask(mask, tokens) for mask, _ in regions], np.float32)
        classes = np.array([k for _, k in regions], np.int64)
        parts.append(Rows(vectors, classes, np.ones(len(classes), np.float32), np.full(len(classes), i)))
    return Rows.joined([part for part in parts if len(part)])


def quarter(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The upper left quarter of an object; empty where that is hardly less than the object, or hardly anything."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 100:
        return np.zeros_like(mask)
    part = mask.copy()
    part[int(np.median(rows)) :], part[:, int(np.median(columns)) :] = False, False
    return part if 10 < part.sum() < OTHER * mask.sum() else np.zeros_like(mask)


def ellipse(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random one: bool ``[128, 128]``."""
    y, x = np.mgrid[:SIDE, :SIDE]
    radius = np.exp(rng.uniform(np.log(0.05), np.log(0.6))) * SIDE / 1.5
    top, left = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
    return np.asarray((y - top) ** 2 + (x - left) ** 2 < radius**2)


def _covers(mask: NDArray[np.bool_], masks: Sequence[NDArray[np.bool_]]) -> bool:
    return any((mask & other).sum() > OTHER * (mask | other).sum() for other in masks)


def bank_of(rows: Rows, seed: int) -> tuple[MemoryBank, Rows]:
    """A bank with one object a class as reference, and all other rows, whose classes are numbered as the bank's."""
    rng = np.random.default_rng(seed)
    names = np.unique(rows.classes[rows.classes != NONE])
    places = {int(name): place for place, name in enumerate(names)} | {NONE: NONE}
    moved = np.array([places[int(name)] for name in rows.classes])
    chosen = [int(rng.choice(np.flatnonzero(moved == k))) for k in range(len(names))]
    bank = MemoryBank(
        [str(name) for name in names], rows.vectors[chosen], range(len(names)), [str(row) for row in chosen],
        rows.vectors.mean(axis=0),
    )  # fmt: skip
    rest = np.setdiff1d(np.arange(len(rows)), chosen)
    return bank, Rows(rows.vectors, moved, rows.counts, rows.images).select(rest)


def with_references(bank: MemoryBank, rows: Rows, without: Collection[int] = ()) -> MemoryBank:
    """The bank with every object of some rows as a reference, apart from those of some images."""
    new = rows.select((rows.classes != NONE) & ~np.isin(rows.images, list(without)))
    vectors = np.concatenate([bank.vectors, new.vectors])
    index = np.concatenate([bank.class_index, new.classes])
    return MemoryBank(bank.classes, vectors, index, [str(i) for i in range(len(index))], bank.center)


def measure(rows: Rows, seed: int, count: int, pull: float) -> dict[str, float]:
    """One draw of references and images: figure -> points."""
    bank, rest = bank_of(rows, seed)
    order = np.random.default_rng(seed).permutation(np.unique(rows.images))
    test, known = (rest.select(np.isin(rest.images, some)) for some in (order[:TEST], order[TEST : TEST + count]))
    taught = partial(with_references, bank, known)
    figures = {"prototypes": precision_of(bank, None, test), "references": precision_of(taught(), None, test)}
    for name, without in (("head", lambda images: bank), ("both", taught)):
        head, report = train_head(known, without, pull)
        figures[name] = precision_of(without(()), head, test)
        figures |= {f"{name}_used": float(report.used), f"{name}_seconds": report.seconds}
    return figures


def precision_of(bank: MemoryBank, head: Head | None, test: Rows) -> float:
    """Mean over the classes of the average precision of the labels, in points."""
    features = unit(test.vectors, bank.center)
    scores = similarities_of(bank, features) if head is None else scores_of(bank.changed(head=head), features)
    return 100 * average_precision(scores, test.classes, test.counts)


def run(options: argparse.Namespace) -> dict[str, object]:
    """Measures every number of images and every pull."""
    rows = rows_to_use(options)
    results: dict[str, object] = {"images": len(np.unique(rows.images)), "objects": int((rows.classes != NONE).sum())}
    for number in options.reviewed:
        for pull in options.pulls:
            draws = defaultdict(list)
            for seed in options.seeds:
                figures = measure(rows, seed, number, pull)
                for name, value in figures.items():
                    draws[name].append(value)
                    if name in ("references", "head", "both"):
                        draws[f"{name}_gain"].append(value - figures["prototypes"])
            summary = {name: round(mean(values), 2) for name, values in draws.items()}
            worst = {f"{name}_worst": round(min(values), 2) for name, values in draws.items() if "gain" in name}
            results[f"{number} images, pull {pull}"] = summary | worst
            print(number, pull, summary | worst, file=sys.stderr, flush=True)
    return results


def rows_to_use(options: argparse.Namespace) -> Rows:
    """Those of the file, or of the images, for the file to keep."""
    if options.rows is not None and options.rows.is_file():
        with np.load(options.rows, allow_pickle=False) as kept:
            return Rows(kept["vectors"], kept["classes"], kept["counts"], kept["images"])
    targets = read_targets(options.data, default_classes(options.data), options.images)
    rows = rows_of_images(load_preset(options.preset, options.device).segmenter(), targets)
    if options.rows is not None:
        np.savez(options.rows, vectors=rows.vectors, classes=rows.classes, counts=rows.counts, images=rows.images)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head_settings", description=__doc__)
    parser.add_argument("--data", type=folder, default=SHARED / "coco-mini", help="a set")
    parser.add_argument("--images", type=count, default=68, help="target images, 28 of them to score on")
    parser.add_argument("--reviewed", type=counts, default="5,10,40", help="numbers of images to learn from")
    parser.add_argument("--pulls", type=float, nargs="+", default=[PULL], help="pulls towards the prototypes")
    parser.add_argument("--seeds", type=seeds, default="0,1,2,3,4", help="draws of references and of images")
    parser.add_argument("--rows", type=Path, help="keeps the vectors here")
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path, help="writes the figures here")
    options = parser.parse_args(arguments)
    try:
        results = run(options)
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(options.json, results)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
