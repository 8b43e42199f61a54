"""Which order of review teaches most, on vectors of the feature model alone: minutes in place of hours of candidates.

    python -m benchmarks.order_settings --data DIR/coco-mini --images 302 --test 150 --rows FILE --json FILE

What stands for candidates is that of ``head_settings``: true masks, quarters of them, ellipses. One object a class is
its reference. A simulated person goes through images in rounds of 5, 5, 10, 20 and 40; what she says becomes references
(and a head, with ``--head``), and these label what the next round is chosen from. Scored on images that nobody looks
at: mean over the classes of the average precision of the labels, in points. It tells orders apart; what they are worth
on real candidates is for ``learning_curve``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import count, counts, folder, names, seeds
from benchmarks.coco_data import SHARED
from benchmarks.head_settings import bank_of, precision_of, rows_to_use, with_references
from benchmarks.review_orders import GAIN, ORDERS, RANDOM, order_of
from benchmarks.tables import write_json
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.method.options.head import scores_of
from fiftyone_ntt.review.head_fit import train_head
from fiftyone_ntt.review.head_rows import NONE, Rows, unit
from fiftyone_ntt.review.label_rows import ROW
from fiftyone_ntt.review.label_rows import Rows as Labels

POOL = 120
"""Images to choose from."""


def measure(rows: Rows, seed: int, order: str, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """One draw of references and images: number of reviewed images -> precision, and objects that they hold."""
    first, rest = bank_of(rows, seed)
    images = np.random.default_rng(seed).permutation(np.unique(rows.images)).tolist()
    test, left = rest.select(np.isin(rest.images, images[: options.test])), images[options.test :][:POOL]
    done: list[int] = []
    bank, cells = first, {0: {"precision": precision_of(first, first.head, test), "objects": 0.0}}
    for number in options.reviewed:
        known = rest.select(np.isin(rest.images, done) & (rest.classes != NONE))
        counted = np.bincount([*first.class_index, *known.classes], minlength=len(first.classes)).astype(float)
        chosen = _chosen(order, number - len(done), left, rest, bank, counted)
        left, done = [image for image in left if image not in chosen], [*done, *chosen]
        known = rest.select(np.isin(rest.images, done))
        taught = partial(with_references, first, known)
        head = train_head(known, taught)[0] if options.head else None
        bank = taught().changed(head=head)
        objects = float((known.classes != NONE).sum())
        cells[number] = {"precision": precision_of(bank, head, test), "objects": objects}
    return cells


def _chosen(order: str, number: int, left: Sequence[int], rows: Rows, bank: MemoryBank,
            known: NDArray[np.float64]) -> list[int]:  # fmt: skip
    if order == RANDOM:
        return list(left[:number])
    looks = {
        image: unit(rows.vectors[rows.images == image], bank.center).mean(axis=0) for image in left if order == GAIN
    }

    def look(place: int) -> NDArray[np.float32] | None:
        own = looks[left[place]]
        return None if not np.isfinite(own).all() else own / max(float(np.linalg.norm(own)), 1e-12)

    places = order_of(order, number, _labels(left, rows, bank), bank, len(left), known, look)
    return [left[place] for place in places]


def _labels(images: Sequence[int], rows: Rows, bank: MemoryBank) -> Labels:
    """Every candidate as a label of the class that it looks most like."""
    some = rows.select(np.isin(rows.images, images))
    scores = scores_of(bank, unit(some.vectors, bank.center))
    labels, place = np.zeros(len(some), ROW), {image: i for i, image in enumerate(images)}
    labels["sample"], labels["class"] = [place[int(image)] for image in some.images], scores.argmax(axis=1)
    ranked = np.sort(scores, axis=1)
    labels["confidence"] = labels["similarity"] = ranked[:, -1]
    labels["alternative_similarity"] = ranked[:, -2] if ranked.shape[1] > 1 else 0
    labels["predicted_iou"] = 1
    return labels


def summary(draws: Mapping[str, Sequence[Mapping[int, Mapping[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Order -> reviewed images -> means over the draws, and the deviation of the gain over random order."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for order, cells in draws.items():
        for number in cells[0]:
            row = {key: round(mean(cell[number][key] for cell in cells), 2) for key in ("precision", "objects")}
            if RANDOM in draws and len(cells) > 1:
                pairs = zip(cells, draws[RANDOM], strict=True)
                row["gain_std"] = round(stdev(a[number]["precision"] - b[number]["precision"] for a, b in pairs), 2)
            table.setdefault(order, {})[str(number)] = row
    return table


def run(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Measures every order."""
    unknown = sorted(set(options.orders) - set(ORDERS))
    if unknown:
        raise InputError(f"expected orders of {', '.join(ORDERS)}, got {', '.join(unknown)}")
    rows = rows_to_use(options)
    draws = {order: [measure(rows, seed, order, options) for seed in options.seeds] for order in options.orders}
    return summary(draws)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.order_settings", description=__doc__)
    parser.add_argument("--data", type=folder, default=SHARED / "coco-mini", help="a set")
    parser.add_argument("--images", type=count, default=302, help="target images")
    parser.add_argument("--test", type=count, default=150, help="so many of them are scored on")
    parser.add_argument("--orders", type=names, default=[RANDOM, GAIN, "threshold", "classes"], help="commas between")
    parser.add_argument("--reviewed", type=counts, default="5,10,20,40,80", help="numbers of reviewed images")
    parser.add_argument("--head", action="store_true", help="train a head besides")
    parser.add_argument("--seeds", type=seeds, default="0,1,2,3,4,5,6,7,8,9,10,11", help="draws")
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
