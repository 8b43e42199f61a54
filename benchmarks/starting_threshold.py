"""What a run writes where nobody chose: labels above the starting threshold of their class, beside all labels.

    python -m benchmarks.starting_threshold --json FILE

For every set and several draws of 1, 3 and 5 references a class: the share of right labels that is written, labels an
image on images without any of the classes (all, written), mask AP in points (all, written), and the same where review
begins. A label is right if it matches an object of its class with a mask IoU of at least 0.5, the best label first.
A set without such images borrows those of another set. The candidates come from a cache folder; ``--cached`` takes only
the images that are in it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from benchmarks.across import Contents, Key, Set, banks_of
from benchmarks.arguments import count, counts, folder, names, seeds
from benchmarks.coco_data import SHARED, TargetImage, Targets, read_targets
from benchmarks.tables import write_json
from fiftyone_ntt.core import Matcher, MemoryBank
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores
from fiftyone_ntt.evaluation.protocols.predictions import to_predictions
from fiftyone_ntt.method.starting_threshold import StartingThresholds, starting_thresholds
from fiftyone_ntt.models import load_preset

SETS = {"coco-mini": "voc20", "fruits-nuts": "all", "magnetic-tile": "all"}
"""Set -> its class list. The first one lends its images without a class to sets that have none."""
IMAGES = 60
IOU = 0.5


@dataclass(frozen=True)
class Images:
    """The images of a set whose candidates are to be had.

    Attributes:
        targets: those of the set, and what is in them.
        borrowed: images of another set, which show none of the classes.
    """

    targets: Targets
    borrowed: list[TargetImage]

    @property
    def empty(self) -> list[TargetImage]:
        """Images without any of the classes."""
        with_some = {item.image_id for item in self.targets.truth}
        return [image for image in self.targets.images if image.image_id not in with_some] or self.borrowed


@dataclass
class Draw:
    """The labels that the references of one draw find.

    Attributes:
        start: what the references suggest.
        predictions: all labels of the images of the set.
        right: whether each of them is right.
        on_empty: class and score ``[n, 2]`` of the labels on images without any of the classes.
    """

    start: StartingThresholds
    predictions: list[Prediction] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    on_empty: list[tuple[int, float]] = field(default_factory=list)

    def figures(self, images: Images, least: Sequence[float]) -> dict[str, float]:
        """What is left of the labels above the thresholds of their classes, ``[K]``."""
        above = np.array([item.score > least[item.label] for item in self.predictions], bool)
        right = np.array(self.right, bool)
        kept = [item for item, stays in zip(self.predictions, above, strict=True) if stays]
        count = sum(score > least[label] for label, score in self.on_empty)
        ids = [image.image_id for image in images.targets.images]
        mask = coco_scores(images.targets.truth, kept, images.targets.classes, ids).mask
        return {
            "kept_right": float(above[right].mean()) if right.any() else 1.0,
            "on_empty": count / max(len(images.empty), 1),
            "mask_ap": 100 * ((mask.ap if mask else None) or 0.0),
            "precision": float(right[above].mean()) if above.any() else 1.0,
        }


def matches(found: Sequence[Prediction], objects: Sequence[GroundTruth]) -> NDArray[np.bool_]:
    """Which labels of one image, in descending score, are right: each object has one label at most."""
    right = np.zeros(len(found), bool)
    if not found or not objects:
        return right
    overlaps = np.asarray(mask_utils.iou([item.rle for item in found], [item.rle for item in objects],
                                         [int(item.crowd) for item in objects]))  # fmt: skip
    free = np.array([not item.crowd for item in objects])
    labels = np.array([item.label for item in objects])
    for i, item in enumerate(found):
        fitting = np.where(free & (labels == item.label), overlaps[i], 0.0)
        best = int(fitting.argmax())
        if fitting[best] >= IOU:
            right[i], free[best] = True, False
    return right


def images_of(one: Set, lender: Targets, there: Callable[[TargetImage], bool]) -> Images:
    """The images of a set, as far as they are there."""
    targets = read_targets(one.root, one.classes, one.images)
    images = tuple(image for image in targets.images if there(image))
    ids = {image.image_id for image in images}
    truth = tuple(item for item in targets.truth if item.image_id in ids)
    with_some = {item.image_id for item in lender.truth}
    borrowed = [image for image in lender.images if image.image_id not in with_some and there(image)]
    return Images(Targets(targets.classes, images, truth), borrowed)


def labels_of(images: Images, banks: Mapping[Key, MemoryBank], contents: Contents) -> dict[Key, Draw]:
    """All labels that each bank finds; image by image, so that the candidates of only one are in memory."""
    draws = {key: Draw(starting_thresholds(bank)) for key, bank in banks.items()}
    matchers = {key: Matcher(bank) for key, bank in banks.items()}
    own, empty = ({image.path for image in part} for part in (images.targets.images, images.empty))
    for image in dict.fromkeys([*images.targets.images, *images.empty]):
        content = contents[image]
        objects = [item for item in images.targets.truth if item.image_id == image.image_id]
        for key, draw in draws.items():
            found = to_predictions(matchers[key].match(content), image.image_id)
            if image.path in own:
                draw.predictions += found
                draw.right += matches(found, objects).tolist()
            if image.path in empty:
                draw.on_empty += [(item.label, item.score) for item in found]
    return draws


def summary(images: Images, draws: Mapping[Key, Draw]) -> dict[str, object]:
    """The figures of a set: means over the draws, all together and a number of shots each."""
    zero = [0.0] * len(images.targets.classes)
    every, written, suggested = (
        {key: draw.figures(images, least(draw)) for key, draw in draws.items()}
        for least in (lambda draw: zero, lambda draw: draw.start.written, lambda draw: draw.start.suggested)
    )

    def of(keys: Sequence[Key]) -> dict[str, object]:
        def average(figures: Mapping[Key, Mapping[str, float]], name: str) -> float:
            return round(mean(figures[key][name] for key in keys), 3)

        return {
            "kept_right": average(written, "kept_right"),
            "labels_on_empty_images": [average(every, "on_empty"), average(written, "on_empty")],
            "mask_ap": [average(every, "mask_ap"), average(written, "mask_ap")],
            "suggested": {name: average(suggested, name) for name in ("kept_right", "on_empty", "precision")},
            "precision": [average(every, "precision"), average(written, "precision")],
        }

    shots = sorted({key[0] for key in draws})
    counts = {"images": len(images.targets.images), "empty_images": len(images.empty), "draws": len(draws)}
    return {**of(list(draws)), **counts, "shots": {str(n): of([key for key in draws if key[0] == n]) for n in shots}}


def run(options: argparse.Namespace, cache: Path) -> dict[str, object]:
    """Measures every set."""
    segmenter = load_preset(options.preset, options.device).segmenter()
    contents = Contents(cache, options.preset, segmenter)
    keys = [(shots, seed) for shots in options.shots for seed in options.seeds]
    roots = {name: options.data / name for name in SETS if (options.data / name).is_dir()}
    if set(options.sets or ()) - roots.keys() or not roots:
        raise InputError(f"expected sets of {', '.join(SETS)} in {options.data}, got {options.sets or 'none of them'}")
    first = next(iter(roots))
    lender = read_targets(roots[first], SETS[first], options.images)
    results: dict[str, object] = {}
    for name in options.sets or roots:
        one = Set(roots[name], SETS[name], options.images)
        images = images_of(one, lender, lambda image: not options.cached or is_cached(contents, image))
        banks = banks_of(segmenter, one, images.targets.classes, keys, crops=False, folder=contents.banks)
        results[name] = summary(images, labels_of(images, banks, contents))
        print(json.dumps({name: results[name]}, indent=2), file=sys.stderr, flush=True)
        write_json(options.json, results)
    return results


def is_cached(contents: Contents, image: TargetImage) -> bool:
    return contents.has(hashlib.sha256(image.path.read_bytes()).hexdigest())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting_threshold", description=__doc__)
    parser.add_argument("--data", type=folder, default=SHARED, help="a folder of sets")
    parser.add_argument("--sets", type=names, help=f"of {', '.join(SETS)}, commas between; all by default")
    parser.add_argument("--images", type=count, default=IMAGES, help="target images of each set")
    parser.add_argument("--shots", type=counts, default="1,3,5", help="references a class")
    parser.add_argument("--seeds", type=seeds, default="33,42,13", help="reference draws")
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--device", default=None)
    parser.add_argument("--cache", type=Path, help="keeps the candidates here; a temporary folder by default")
    parser.add_argument("--cached", action="store_true", help="only images whose candidates are in the cache")
    parser.add_argument("--json", type=Path, help="writes the figures here")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="ntt-candidates-") as temporary:
            results = run(options, options.cache or Path(temporary))
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
