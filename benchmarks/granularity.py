"""Which of the mask model's three masks should become candidates, and whether the references know.

    python -m benchmarks.granularity --data DIR --sets fruits-nuts,magnetic-tile --images 40 --cache FOLDER --json FILE

One index holds all three masks of every point; what each choice would have kept is taken from it. ``auto`` keeps what
the references of the bank chose.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import across
from benchmarks.across import Contents, Key, Set, SetResult
from benchmarks.arguments import count, counts, folder, names, seeds
from benchmarks.coco_data import read_references, read_targets
from benchmarks.tables import write_json
from fiftyone_ntt.candidates.compact import CompactCandidates
from fiftyone_ntt.core import Candidates, CompactImage, IndexedImage, Instances, MatchConfig, MemoryBank, Segmenter
from fiftyone_ntt.evaluation.coco import Prediction, coco_scores
from fiftyone_ntt.method.backends import in_batches
from fiftyone_ntt.method.options.granularity import AMONG, Fit, ReferenceGranularity, chosen_by
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.proposals import grid_points
from fiftyone_ntt.method.segmenter import Encoded
from fiftyone_ntt.models import load_preset

CONFIGS = {"paper": MatchConfig.paper(), "default": MatchConfig()}
CHOICES: dict[str, tuple[int, ...]] = {**AMONG, "1": (0,), "2": (1,), "3": (2,), "all": (0, 1, 2)}
"""Among which of a point's three masks the one of highest predicted IoU is taken; ``"all"`` takes each of them."""
FIGURES = ("box_ap", "mask_ap", "mask_ap50", "ar100")


def of_each_point(content: CompactImage, outputs: str, threshold: float = 0.4) -> CompactImage:
    """The candidates that a choice of outputs keeps, from an image with all three masks of every point."""
    iou = content.candidates.predicted_iou.reshape(-1, 3)
    first = 3 * np.arange(len(iou))
    if outputs == "all":
        kept = np.flatnonzero(iou.ravel() > threshold)
    else:
        among = np.array(CHOICES[outputs])
        best = iou[:, among].argmax(axis=1)
        kept = (first + among[best])[iou[:, among].max(axis=1) > threshold]
    return replace(content, candidates=_select(content.candidates, kept), vectors=content.vectors[kept])


def _select(found: CompactCandidates, kept: NDArray[np.int64]) -> CompactCandidates:
    runs, run_ends = _parts(found.runs, found.run_ends, kept)
    outline, outline_ends = _parts(found.outline, found.outline_ends, kept)
    return CompactCandidates(
        found.frame, found.predicted_iou[kept], found.stability[kept], found.boxes[kept], runs, run_ends, outline,
        outline_ends,
    )  # fmt: skip


def _parts(values: NDArray[Any], ends: NDArray[np.int64], kept: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    starts = ends - np.diff(ends, prepend=0)
    pieces = [values[starts[i] : ends[i]] for i in kept]
    return np.concatenate([values[:0], *pieces]), np.cumsum([len(piece) for piece in pieces], dtype=np.int64)


class EveryMask(Segmenter):
    """Keeps all three masks of every point, so that which point a candidate is of is known."""

    def facts(self) -> dict[str, object]:
        """See ``Segmenter.facts``."""
        return {**super().facts(), "outputs": "all", "predicted_iou_threshold": -1.0}

    @torch.inference_mode()
    def decode(self, encoded: Encoded) -> IndexedImage:
        """See ``Segmenter.decode``; 3 P candidates of P points."""
        parts = in_batches(
            lambda points, _: self.proposal_model.decode_points(encoded.embedding, points),
            grid_points(encoded.frame, self.proposals),
            self.proposals.points_per_batch,
        )
        logits, iou = (torch.cat([part[side] for part in parts]).flatten(0, 1) for side in (0, 1))
        candidates = Candidates(logits, iou, encoded.frame)
        return IndexedImage(candidates, pool(candidates, encoded.tokens), encoded.tokens)


def segmenter_of_all(preset: str) -> Segmenter:
    """``EveryMask`` with the models and settings of a preset."""
    plain = load_preset(preset).segmenter()
    return EveryMask(
        plain.proposal_model, plain.feature_model, references=plain.references, target_via=plain.target_via,
        proposals=plain.proposals,
    )  # fmt: skip


class Voices:
    """What the references say, each asked once."""

    def __init__(self, segmenter: Segmenter, file: Path | None) -> None:
        self._segmenter, self._file = segmenter, file
        known = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}
        self.fits: dict[str, Fit] = {name: Fit(**fit) for name, fit in known.items()}

    def of(self, one: Set, key: Key, names: Sequence[str]) -> list[Fit]:
        """The fits of one reference set."""
        found = []
        for item in read_references(one.root, one.classes, *key, names):
            name = f"{one.name}/{item.reference_id}"
            if name not in self.fits:
                asked = ReferenceGranularity(self._segmenter.proposal_model, self._segmenter.proposals)
                asked.add(item)
                self.fits[name] = asked.fits[0]
            found.append(self.fits[name])
        if self._file is not None:
            kept = {name: {"label": fit.label, "by_choice": fit.by_choice} for name, fit in self.fits.items()}
            self._file.write_text(json.dumps(kept), encoding="utf-8")
        return found


def run_set(
    segmenter: Segmenter, one: Set, contents: Contents, keys: Sequence[Key], fits: Mapping[Key, list[Fit]]
) -> tuple[SetResult, dict[str, float | None]]:
    """Scores of ``<choice>, <config>``, and the ceiling of each choice."""
    choices = [*CHOICES, "auto"] if fits else [*CHOICES]
    variants = {"paper": CONFIGS["paper"]}  # what ``across`` compares with
    variants |= {f"{choice}, {name}": config for name, config in CONFIGS.items() for choice in choices}
    chosen: dict[int, str] = {}
    kept: dict[tuple[int, str], CompactImage] = {}

    def match(content: CompactImage, bank: MemoryBank, name: str) -> Instances:
        choice = "best" if name == "paper" else name.split(",")[0]
        choice = chosen[id(bank)] if choice == "auto" else choice
        if (id(content), choice) not in kept:
            if kept and next(iter(kept))[0] != id(content):
                kept.clear()
            kept[id(content), choice] = of_each_point(content, choice)
        return segmenter.match(kept[id(content), choice], bank, variants[name])

    banks = across.banks_of(segmenter, one, read_targets(one.root, one.classes, one.images).classes, keys)
    chosen |= {id(bank): chosen_by(fits[key])[0] for key, bank in banks.items() if key in fits}
    result = across.run_set(segmenter, one, contents, variants, keys, _say, match, banks)
    ideal: dict[str, list[Prediction]] = {choice: [] for choice in CHOICES}
    for image in result.targets.images:
        for choice, found in ideal.items():
            found += across.best_candidates(of_each_point(contents[image], choice), result.targets, image)
    ids = [image.image_id for image in result.targets.images]
    ceilings = {
        choice: coco_scores(result.targets.truth, found, result.targets.classes, ids).mask
        for choice, found in ideal.items()
    }
    return result, {choice: mask.ap if mask else None for choice, mask in ceilings.items()}


def table(result: SetResult, ceilings: Mapping[str, float | None]) -> str:
    """A row a choice and configuration: the difference to the published choice with the same configuration."""
    lines = []
    for name in result.rows:
        choice, _, config = name.partition(", ")
        cells = []
        for figure in FIGURES:
            mine, base = (result.values(one, figure) for one in (name, f"best, {config or 'paper'}"))
            changes = [a - b for a, b in zip(mine, base, strict=True)]
            mean, deviation = across.spread(mine if choice == "best" else changes)
            better = "" if choice == "best" else f" ({sum(change > 0 for change in changes)})"
            cells.append(f"{figure} {mean:+.2f} +- {deviation:.2f}{better}")
        ceiling = ceilings.get(choice)
        end = "" if ceiling is None else f"ceiling {100 * ceiling:.1f}"
        lines.append("  ".join([name.ljust(18), *(cell.ljust(26) for cell in cells), end]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.granularity", description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--data", type=folder, required=True, help="a folder of data folders")
    parser.add_argument("--sets", type=names, help="only these, by name, commas between")
    parser.add_argument("--images", type=count, help="how many target images; all by default")
    parser.add_argument("--shots", type=counts, default="1,3,5")
    parser.add_argument("--seeds", type=seeds, default="33,42,13")
    parser.add_argument("--ask-shots", type=counts, default="1,3,5", help="for which of them the references are asked")
    parser.add_argument("--cache", type=Path, required=True, help="keeps the candidates, and what references said")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    options.cache.mkdir(parents=True, exist_ok=True)
    segmenter = segmenter_of_all(options.preset)
    contents, voices = (
        Contents(options.cache, options.preset, segmenter),
        Voices(segmenter, options.cache / "fits.json"),
    )
    keys = [(shots, seed) for shots in options.shots for seed in options.seeds]
    report = {}
    for one in across.only(across.sets_in(options.data, options.images), options.sets):
        classes = read_targets(one.root, one.classes, one.images).classes
        fits = {key: voices.of(one, key, classes) for key in keys if key[0] in options.ask_shots}
        for key, some in fits.items():
            print(f"{one.name} {key}: {chosen_by(some)[0]}", {k: round(v, 3) for k, v in _means(some).items()})
        result, ceilings = run_set(segmenter, one, contents, keys, fits if len(fits) == len(keys) else {})
        print(f"\n{one.name}, {len(result.targets.images)} images\n{table(result, ceilings)}\n", flush=True)
        report[one.name] = {"scores": result.summary(), "ceilings": ceilings}
    write_json(options.json, report)
    return 0


def _means(fits: Sequence[Fit]) -> dict[str, float]:
    return {choice: float(np.mean([fit.by_choice[choice] for fit in fits])) for choice in sorted(fits[0].by_choice)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
