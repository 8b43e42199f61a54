"""Accuracy on real images: several reference draws and several settings of stage two, on one set of candidates.

    python -m benchmarks.accuracy --preset lite --data DIR --classes voc20 --shots 1 --seeds 33,42,13 --images 60

Prints box and mask AP, AP50, AR100 and presence F1 as mean and sample standard deviation (n - 1; 0 for a single draw)
over the reference draws. Folders: see ``benchmarks.coco_data``; which images ``--images`` takes: ``choose_images``
there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.arguments import count, counts, folder, names, seeds
from benchmarks.candidate_cache import CandidateCache
from benchmarks.coco_data import Targets, default_classes, read_references, read_targets
from benchmarks.levers import VARIANTS
from fiftyone_ntt.core import IndexedImage, MatchConfig, MemoryBank, ReferenceSettings, Segmenter
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.evaluation.coco import (
    CocoScores,
    Prediction,
    PresenceScores,
    Scores,
    coco_scores,
    presence_scores,
)
from fiftyone_ntt.evaluation.protocols.predictions import to_predictions
from fiftyone_ntt.method.options.guided_points import guided_index
from fiftyone_ntt.method.proposals import grid_points
from fiftyone_ntt.models import load_preset

IMAGES_A_SET = 60
"""Enough to tell settings apart; all of them take hours with all variants."""
REFERENCES: dict[str, ReferenceSettings | None] = {"preset": None, "crop": ReferenceSettings()}
"""How references are shown: the preset's own way, or the published crop with corner weights and no centring."""


@dataclass(frozen=True)
class DrawScores:
    """Scores of one variant with the references of one draw."""

    coco: CocoScores
    presence: PresenceScores

    @property
    def mask(self) -> Scores:
        return self.coco.mask or Scores(None, None, None, None)


METRICS: dict[str, tuple[str, Callable[[DrawScores], float | None]]] = {
    "box_ap": ("box AP", lambda scores: scores.coco.box.ap),
    "mask_ap": ("mask AP", lambda scores: scores.mask.ap),
    "mask_ap50": ("mask AP50", lambda scores: scores.mask.ap50),
    "ar100": ("mask AR100", lambda scores: scores.mask.ar100),
    "presence_f1": ("presence F1", lambda scores: scores.presence.micro.f1),
}
"""Key in the json -> heading and value. Presence: a class is in the image where any label of it fires."""
FURTHER: dict[str, tuple[str, Callable[[DrawScores], float | None]]] = {
    "best_presence_f1": ("best F1 (oracle)", lambda scores: scores.presence.best_f1),
}
"""Printed beside them."""


@dataclass
class Result:
    """Scores a variant and draw, and what it took.

    Attributes:
        scores: variant -> seed -> scores.
        computed: images whose candidates were computed rather than read.
        stage_one: seconds for all candidates.
        stage_two: seconds for all matches.
        matches: number of matches.
    """

    scores: dict[str, dict[int, DrawScores]] = field(default_factory=dict)
    computed: int = 0
    stage_one: float = 0.0
    stage_two: float = 0.0
    matches: int = 0

    def summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Variant -> metric -> mean and sample standard deviation over the draws, fractions in 0..1."""
        return {
            variant: {
                name: _mean_and_std([value(draw) for draw in draws.values()]) for name, (_, value) in METRICS.items()
            }
            for variant, draws in self.scores.items()
        }


def _mean_and_std(values: Sequence[float | None]) -> dict[str, float | None]:
    defined = [value for value in values if value is not None]
    if not defined:
        return {"mean": None, "std": None}
    return {"mean": mean(defined), "std": stdev(defined) if len(defined) > 1 else 0.0}


def run(
    segmenter: Segmenter,
    data: Path,
    classes: str,
    shots: int,
    seeds: Sequence[int],
    targets: Targets,
    variants: Mapping[str, MatchConfig],
    cache: CandidateCache,
    say: Callable[[str], None],
    guided: Guided | None = None,
) -> Result:
    """Labels every target with the references of every draw under every variant, and scores that.

    Args:
        segmenter: models and reference settings; encodes the references.
        data: the data folder.
        classes: name of its class list.
        shots: references a class.
        seeds: reference draws.
        targets: images and truth.
        variants: name -> settings of stage two.
        cache: gives the candidates.
        say: called with a line of progress.
        guided: keep only the candidates of these points.
    """
    banks = {
        seed: segmenter.build_bank(read_references(data, classes, shots, seed, targets.classes), targets.classes)
        for seed in seeds
    }
    say(f"encoded the references of {len(banks)} draws")
    result = Result()
    found = _label(segmenter, targets, banks, variants, cache, result, say, guided)
    image_ids = [image.image_id for image in targets.images]
    for variant in variants:
        result.scores[variant] = {
            seed: DrawScores(
                coco_scores(targets.truth, found[variant, seed], targets.classes, image_ids),
                presence_scores(targets.truth, found[variant, seed], targets.classes, image_ids),
            )
            for seed in seeds
        }
    return result


def _label(
    segmenter: Segmenter,
    targets: Targets,
    banks: Mapping[int, MemoryBank],
    variants: Mapping[str, MatchConfig],
    cache: CandidateCache,
    result: Result,
    say: Callable[[str], None],
    guided: Guided | None,
) -> dict[tuple[str, int], list[Prediction]]:
    """Image by image, so that the candidates of only one are in memory. (variant, seed) -> predictions."""
    found: dict[tuple[str, int], list[Prediction]] = {(name, seed): [] for name in variants for seed in banks}
    for done, image in enumerate(targets.images, start=1):
        started = time.perf_counter()
        indexed = cache[image]
        ready = time.perf_counter()
        for name, seed in found:
            kept = guided(segmenter, indexed, banks[seed]) if guided else indexed
            instances = segmenter.match(kept, banks[seed], variants[name])
            found[name, seed] += to_predictions(instances, image.image_id)
        result.stage_one += ready - started
        result.stage_two += time.perf_counter() - ready
        result.matches += len(found)
        say(f"image {done} of {len(targets.images)} ({len(indexed.candidates)} candidates)")
    result.computed = cache.computed
    return found


@dataclass(frozen=True)
class Guided:
    """What ``points="guided"`` would have found, taken from the candidates of the whole grid: a point's mask does not
    depend on the other points. Only possible where every point gave a candidate.

    Attributes:
        fraction: how much of the grid is kept.
    """

    fraction: float

    def __call__(self, segmenter: Segmenter, indexed: IndexedImage, bank: MemoryBank) -> IndexedImage:
        frame = indexed.candidates.frame
        points = grid_points(frame, segmenter.proposals)
        if len(indexed.candidates) != len(points):
            raise InputError(
                f"expected a candidate of each of the {len(points)} points, got {len(indexed.candidates)}: which "
                "points they are of is not known then; use a preset whose candidates all pass the IoU threshold"
            )
        kept = guided_index(points, indexed.tokens, frame, self.fraction)
        return IndexedImage(indexed.candidates.select(kept), indexed.vectors[kept], indexed.tokens)


def table(result: Result) -> str:
    """The scores as text: a row a variant, mean +- sample standard deviation."""
    columns = {**METRICS, **FURTHER}
    rows = [["", *(heading for heading, _ in columns.values())]]
    for variant, draws in result.scores.items():
        rows.append([variant])
        for _, value in columns.values():
            spread = _mean_and_std([value(draw) for draw in draws.values()])
            rows[-1].append("-" if spread["mean"] is None else f"{spread['mean']:.3f} +- {spread['std']:.3f}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def details(result: Result, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a draw and class, for whoever wants to look closer."""
    return {
        "settings": dict(settings),
        "std": "sample standard deviation (n - 1) over the draws",
        "seconds": {"stage_one": result.stage_one, "stage_two": result.stage_two, "matches": result.matches},
        "draws": {
            variant: {str(seed): _plain(draw) for seed, draw in draws.items()}
            for variant, draws in result.scores.items()
        },
    }


def _plain(draw: DrawScores) -> dict[str, Any]:
    """Its scores, fit for JSON: without the single predictions, which are many, and arrays."""
    return asdict(replace(draw, coco=replace(draw.coco, matches={})))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is by default")
    parser.add_argument(
        "--data",
        type=folder,
        required=True,
        help="a folder with refs/, annotations/ and images, or a folder of such folders",
    )
    parser.add_argument("--classes", help="class list: voc20, all80 or all; what the folder has by default")
    parser.add_argument("--shots", type=counts, help="references a class; over several sets also several: 1,3,5")
    parser.add_argument("--seeds", type=seeds, default="33,42,13", help="reference draws, separated by commas")
    parser.add_argument(
        "--images", type=count, help=f"how many target images; all by default, over several sets {IMAGES_A_SET} of each"
    )
    parser.add_argument("--points", type=count, help="prompt points along each side; the preset's by default")
    parser.add_argument("--guided", type=float, metavar="FRACTION", help="prompt only this part of the grid")
    parser.add_argument("--second-look", action="store_true", help="encode candidates again, cut out")
    parser.add_argument(
        "--variants",
        default="paper,default",
        help=f"all, or of {'; '.join(VARIANTS)}; commas between, or semicolons where a name holds one",
    )
    parser.add_argument("--references", choices=list(REFERENCES), default="preset", help="how references are shown")
    parser.add_argument("--cache", type=Path, help="keeps the candidates here; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="writes mean and std of each variant")
    parser.add_argument("--sets", type=names, help="over several sets: only these, by name, commas between")
    parser.add_argument("--charts", type=Path, help="over several sets: draws charts into this folder")
    parser.add_argument("--details", type=Path, help="writes every score of every draw and class")
    return parser


def _variants(names: str) -> dict[str, MatchConfig]:
    if names == "all":
        return {name: config for name, config in VARIANTS.items() if not config.second_look}
    chosen = [name.strip() for name in names.split(";" if ";" in names else ",") if name.strip()]
    unknown = [name for name in chosen if name not in VARIANTS]
    if unknown or not chosen:
        raise SystemExit(f"expected variants of {', '.join(VARIANTS)}, got {names!r}")
    return {name: VARIANTS[name] for name in chosen}


def _segmenter(options: argparse.Namespace) -> Segmenter:
    plain = load_preset(options.preset, options.device).segmenter(options.points)
    return Segmenter(
        plain.proposal_model,
        plain.feature_model,
        references=REFERENCES[options.references] or plain.references,
        proposals=plain.proposals,
        target_via=plain.target_via,
        second_look=options.second_look,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="ntt-candidates-") as temporary:
            cache = options.cache or Path(temporary)
            if (options.data / "refs").is_dir():
                _measure(options, cache)
            else:
                _measure_across(options, cache)
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure_across(options: argparse.Namespace, cache_folder: Path) -> None:
    """Several sets: candidates come from a candidate cache in the cache folder."""
    from benchmarks import across, charts

    variants, segmenter = {across.BASE: VARIANTS[across.BASE], **_variants(options.variants)}, _segmenter(options)
    keys = [(shots, seed) for shots in options.shots or (1, 3, 5) for seed in options.seeds]
    contents = across.Contents(cache_folder, options.preset, segmenter)
    chosen = across.sets_in(options.data, options.images or IMAGES_A_SET)
    results = {}
    for one in across.only(chosen, options.sets):
        results[one.name] = across.run_set(segmenter, one, contents, variants, keys, _say)
        print(across.describe(one, results[one.name], options.preset), flush=True)
        _write(options.json, {name: result.summary() for name, result in results.items()})
    if options.charts:
        charts.draw(results, options.charts)


def _write(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _measure(options: argparse.Namespace, cache_folder: Path) -> None:
    variants, shots, draws = _variants(options.variants), options.shots or (1,), options.seeds
    if len(shots) > 1:
        raise InputError(
            f"expected one number of --shots for one data folder, got {', '.join(map(str, shots))}; give the folder "
            "above it, and the set's name with --sets, to compare several"
        )
    classes = options.classes or default_classes(options.data)
    targets = read_targets(options.data, classes, options.images)
    segmenter = _segmenter(options)
    cache = CandidateCache(cache_folder, segmenter)
    guided = None if options.guided is None else Guided(options.guided)
    result = run(segmenter, options.data, classes, shots[0], draws, targets, variants, cache, _say, guided)
    print(
        f"\n{options.data.name}, {len(targets.classes)} classes, {len(targets.images)} images, {len(targets.truth)} "
        f"objects; preset {options.preset}, {segmenter.proposals.points_per_side} points a side, references "
        f"{options.references}, {shots[0]} shot, draws {list(draws)}"
    )
    print("fractions, mean +- sample standard deviation over the draws\n")
    print(table(result))
    print(
        f"\ncandidates: {result.stage_one / len(targets.images):.1f} s an image ({result.computed} of "
        f"{len(targets.images)} computed, the rest read); match: {1000 * result.stage_two / result.matches:.0f} ms"
    )
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    _write(options.json, result.summary())
    _write(options.details, details(result, settings))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
