"""What reviewed images are worth: a simulated person goes through 0, 5, 10, ... of them, the rest is labelled again.

    python -m benchmarks.learning_curve --preset lite --cache DIR --json FILE

The person accepts right labels (IoU of at least 0.5) above the suggested thresholds, rejects wrong ones, draws what is
missing and marks the image as done. Then the images that nobody looked at, a third of the set and always the same in a
draw, are labelled with the references alone, with each method of ``learn``, and scored: mask AP of all labels, presence
F1 of those above the suggested thresholds. ``ceiling`` is the mask AP if each object got its best candidate.

The person goes on in rounds: what was learned from the first 5 images relabels those that the next 5 are taken from,
and it is these labels that she reviews. ``--order`` says which images she takes next.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from benchmarks.across import Contents, Set, banks_of, best_candidates
from benchmarks.arguments import count, folder, names, seeds
from benchmarks.charts import draw_curves
from benchmarks.coco_data import SHARED, TargetImage, Targets, read_targets
from benchmarks.review_orders import ORDERS, RANDOM, chosen_images
from benchmarks.starting_threshold import is_cached, matches
from benchmarks.tables import write_json
from benchmarks.verdicts import f1, highest
from fiftyone_ntt.core import CompactImage, Matcher, MemoryBank
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.evaluation.coco import coco_scores
from fiftyone_ntt.evaluation.protocols.predictions import to_predictions
from fiftyone_ntt.method.pooling import pool_mask
from fiftyone_ntt.method.starting_threshold import starting_thresholds
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.review.head_fit import HeadReport
from fiftyone_ntt.review.head_rows import NONE, Decided, Rows, rows_of
from fiftyone_ntt.review.lessons import Lesson
from fiftyone_ntt.review.teaching import learned_bank

COUNTS = (0, 5, 10, 20, 40, 80)
SETS = {
    "coco-mini": ("voc20", COUNTS),
    "coco-mini all80": ("all80", COUNTS),
    "magnetic-tile": ("all", COUNTS),
    "fruits-nuts": ("all", (0, 1, 2, 4, 6)),
}
"""Name -> class list, and numbers of reviewed images."""
METHODS = {"references": "references", "head": "head", "both": "auto"}
"""What the tables call a method -> ``learn(method=...)``; besides them ``prototypes``, the references alone."""
Figures = dict[str, float]


@dataclass(frozen=True)
class Reviewed:
    """What the person said of one image.

    Attributes:
        lessons: decisions, as ``learn`` reads them.
        rows: what they say of the image's candidates.
    """

    lessons: list[Lesson]
    rows: Rows


def review(image: TargetImage, content: CompactImage, targets: Targets, bank: MemoryBank,
           before: MemoryBank | None = None) -> Reviewed:  # fmt: skip
    """The person goes through one image.

    Args:
        image: the image.
        content: its candidates.
        targets: what she knows.
        bank: labelled the image.
        before: the bank without anything learned; ``bank`` where ``None``.
    """
    before = bank if before is None else before
    labels = Matcher(bank).match(content).above(starting_thresholds(bank).suggested)
    found = to_predictions(labels, image.image_id)
    objects = [item for item in targets.truth if item.image_id == image.image_id]
    right = matches(found, objects)
    accepted = [
        (mask_utils.decode(item.rle).astype(bool), item.label) for item, hit in zip(found, right, strict=True) if hit
    ]
    wrong = [
        (mask_utils.decode(item.rle).astype(bool), item.label)
        for item, hit in zip(found, right, strict=True)
        if not hit
    ]
    drawn = [
        (mask_utils.decode(item.rle).astype(bool), item.label)
        for item in objects
        if not item.crowd and not any(k == item.label and _iou(mask, item.rle) >= 0.5 for mask, k in accepted)
    ]
    crowds = [(mask_utils.decode(item.rle).astype(bool), item.label) for item in objects if item.crowd]
    tokens, lessons = content.tokens.full(), []
    for kind, some in (("accepted", accepted), ("edited", drawn), ("rejected", wrong)):
        for mask, k in some:
            if mask.any():
                key = f"{image.image_id:012d}/{len(lessons)}"
                lessons.append(Lesson(key, targets.classes[k], kind, pool_mask(mask, tokens)))
    wanted = [*accepted, *drawn, *crowds]
    decided = Decided(
        [mask for mask, _ in (*wanted, *wrong)],
        np.array([k for _, k in wanted] + [NONE] * len(wrong), np.int64),
        np.array([False] * (len(accepted) + len(drawn)) + [True] * len(crowds) + [False] * len(wrong), bool),
        done=True,
    )
    return Reviewed(lessons, rows_of(content, decided, before.prototypes, before.center))


def _iou(mask: NDArray[np.bool_], rle: Mapping[str, object]) -> float:
    return float(mask_utils.iou([mask_utils.encode(np.asfortranarray(mask, np.uint8))], [rle], [0])[0, 0])


def learned(bank: MemoryBank, reviewed: Mapping[str, Reviewed], method: str) -> tuple[MemoryBank, HeadReport | None]:
    """The bank after ``learn`` from reviewed images, id -> what was said of it."""
    lessons = sorted((item for one in reviewed.values() for item in one.lessons), key=lambda lesson: lesson.key)
    parts = {} if method == "references" else {key: one.rows for key, one in reviewed.items()}
    return learned_bank(bank, lessons, set(reviewed), method, parts, bank.classes)


def figures(bank: MemoryBank, images: Sequence[TargetImage], contents: Mapping[str, CompactImage],
            targets: Targets) -> Figures:  # fmt: skip
    """Mask AP of all labels, and presence F1 of those above the suggested thresholds, in points of 0..100."""
    matcher, found = Matcher(bank), []
    for image in images:
        found += to_predictions(matcher.match(contents[str(image.path)]), image.image_id)
    ids = [image.image_id for image in images]
    truth = [item for item in targets.truth if item.image_id in set(ids)]
    scores = coco_scores(truth, found, targets.classes, ids)
    least, row = np.array(starting_thresholds(bank).suggested), {image_id: i for i, image_id in enumerate(ids)}
    present = np.zeros((len(ids), len(targets.classes)), bool)
    for item in truth:
        present[row[item.image_id], item.label] |= not item.crowd
    place = np.array([(row[item.image_id], item.label) for item in found], int).reshape(-1, 2)
    best = highest(place, np.array([item.score for item in found]), present.shape)
    mask_ap = (scores.mask.ap if scores.mask else None) or 0.0
    return {"mask_ap": 100 * mask_ap, "presence_f1": 100 * f1(present, best > least)}


def measure_draw(one: Set, bank: MemoryBank, seed: int, counts: Sequence[int], targets: Targets,
                 contents: Mapping[str, CompactImage], order: str) -> dict[str, dict[int, Figures]]:  # fmt: skip
    """One draw of references and of the images to look at: method -> number of reviewed images -> figures."""
    shuffled = np.random.default_rng(seed).permutation(len(targets.images))
    images = [targets.images[i] for i in shuffled]
    test, pool = images[: len(images) // 3], images[len(images) // 3 :]
    plain = figures(bank, test, contents, targets)
    results: dict[str, dict[int, Figures]] = {"prototypes": dict.fromkeys(counts, plain)}
    for name, method in METHODS.items():
        results[name] = {}
        for n, taught, cell in rounds(pool, bank, method, counts, targets, contents, order):
            same = taught.content_hash == bank.content_hash
            results[name][n] = {**(plain if same else figures(taught, test, contents, targets)), **cell}
            say = {key: round(value, 2) for key, value in results[name][n].items()}
            print(f"{one.name} seed {seed} {name} {n}: {say}", file=sys.stderr, flush=True)
    return results


def rounds(pool: Sequence[TargetImage], bank: MemoryBank, method: str, counts: Sequence[int], targets: Targets,
           contents: Mapping[str, CompactImage], order: str) -> Iterator[tuple[int, MemoryBank, Figures]]:  # fmt: skip
    """The person reviews, learns, and goes on with the images that are relabelled.

    Yields:
        How many images she has reviewed, the bank that learned from them, and what that took: seconds, decisions, and
        of a head its share and by how much it was judged better.
    """
    reviewed: dict[str, Reviewed] = {}
    rest, taught = list(pool), bank
    for n in counts:
        lessons = [item for one in reviewed.values() for item in one.lessons if item.kind != "rejected"]
        found = Counter(lesson.label for lesson in lessons)
        known = np.array([bank.shots[name] + found[name] for name in bank.classes], np.float64)
        for image in chosen_images(order, n - len(reviewed), rest, contents, taught, known):
            rest.remove(image)
            reviewed[f"{image.image_id:012d}"] = review(image, contents[str(image.path)], targets, taught, bank)
        started = time.perf_counter()
        taught, report = learned(bank, reviewed, method) if reviewed else (bank, None)
        cell: Figures = {"seconds": time.perf_counter() - started}
        cell["decisions"] = sum(len(one.lessons) for one in reviewed.values())
        if report is not None:
            cell |= {"share": report.share, "judged": 100 * ((report.head or 0) - (report.matcher or 0))}
        yield n, taught, cell


def summary(draws: Sequence[Mapping[str, Mapping[int, Figures]]]) -> dict[str, dict[str, Figures]]:
    """Method -> number of images -> mean of each figure over the draws, and the sample deviation of its gain."""
    table: dict[str, dict[str, Figures]] = defaultdict(dict)
    for name, by_count in draws[0].items():
        for n, first in by_count.items():
            rows = [draw[name][n] for draw in draws]
            cell = {key: round(mean(row[key] for row in rows), 3) for key in first if all(key in row for row in rows)}
            for key in ("mask_ap", "presence_f1"):
                gains = [draw[name][n][key] - draw["prototypes"][n][key] for draw in draws]
                cell[f"{key}_gain_std"] = round(stdev(gains), 3) if len(gains) > 1 else 0.0
            table[name][str(n)] = cell
    return dict(table)


def ceiling_of(targets: Targets, contents: Mapping[str, CompactImage]) -> float:
    """Mask AP in points if each object got its best candidate, with the right label."""
    ideal = [item for image in targets.images for item in best_candidates(contents[str(image.path)], targets, image)]
    mask = coco_scores(targets.truth, ideal, targets.classes, [image.image_id for image in targets.images]).mask
    return 100 * ((mask.ap if mask else None) or 0.0)


def run(options: argparse.Namespace, cache: Path) -> dict[str, dict[str, Any]]:
    """Measures every set."""
    segmenter = load_preset(options.preset, options.device).segmenter()
    store, results = Contents(cache, options.preset, segmenter), dict[str, dict[str, Any]]()
    unknown = sorted(set(options.sets or ()) - SETS.keys())
    if unknown:
        raise InputError(f"expected sets of {', '.join(SETS)}, got {', '.join(unknown)}")
    for name in options.sets or SETS:
        classes, counts = SETS[name]
        one = Set(options.data / name.split()[0], classes, options.images)
        targets = read_targets(one.root, classes, options.images)
        images = tuple(image for image in targets.images if not options.cached or is_cached(store, image))
        ids = {image.image_id for image in images}
        targets = Targets(targets.classes, images, tuple(item for item in targets.truth if item.image_id in ids))
        contents = {str(image.path): store[image] for image in images}
        counts = [n for n in counts if n <= len(images) - len(images) // 3]
        keys = [(options.shots, seed) for seed in options.seeds]
        banks = banks_of(segmenter, one, targets.classes, keys, crops=False, folder=store.banks)
        draws = [
            measure_draw(one, bank, seed, counts, targets, contents, options.order) for (_, seed), bank in banks.items()
        ]
        facts = {
            "images": len(images),
            "draws": len(draws),
            "shots": options.shots,
            "preset": options.preset,
            "order": options.order,
        }
        results[name] = {**summary(draws), "ceiling": round(ceiling_of(targets, contents), 2), **facts}
        write_json(options.json, results)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_curve", description=__doc__)
    parser.add_argument("--data", type=folder, default=SHARED, help="a folder of sets")
    parser.add_argument("--sets", type=names, help=f"of {', '.join(SETS)}, commas between; all by default")
    parser.add_argument("--images", type=count, default=120, help="target images of each set")
    parser.add_argument("--shots", type=count, default=1, help="references a class")
    parser.add_argument(
        "--seeds", type=seeds, default="33,42,13", help="draws of references and of the order of images"
    )
    parser.add_argument("--order", choices=ORDERS, default=RANDOM, help="which images the person takes next")
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--device", default=None)
    parser.add_argument("--cache", type=Path, help="keeps the candidates here; a temporary folder by default")
    parser.add_argument("--cached", action="store_true", help="only images whose candidates are in the cache")
    parser.add_argument("--json", type=Path, help="writes the figures here")
    parser.add_argument("--chart", type=Path, help="draws the curves into this SVG file")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="ntt-candidates-") as temporary:
            results = run(options, options.cache or Path(temporary))
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.chart:
        draw_curves(results, options.chart)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
