"""Any number of settings of stage two over several sets, shots and reference draws, from one index of candidates."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from benchmarks.coco_data import (
    TargetImage,
    Targets,
    known_classes,
    read_references,
    read_target_image,
    read_targets,
)
from benchmarks.verdicts import Verdicts, verdicts
from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.core import CompactImage, Instances, MatchConfig, MemoryBank, ReferenceItem, Segmenter, compact
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.coco import CocoScores, Prediction, coco_scores, encode_crop
from fiftyone_ntt.evaluation.protocols.predictions import to_predictions
from fiftyone_ntt.pixels.packed_masks import masks_at_image_size

Key = tuple[int, int]
"""Shots and seed: one reference set."""
Say = Callable[[str], None]
Match = Callable[[CompactImage, MemoryBank, str], Instances]
BASE = "paper"
"""The variant that the others are compared with."""


@dataclass(frozen=True)
class Set:
    """A set of target images with reference sets.

    Attributes:
        root: its folder.
        classes: its class list.
        images: how many target images; all where ``None``.
    """

    root: Path
    classes: str
    images: int | None = None

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.root.name if self.classes == "all" else f"{self.root.name} {self.classes}"


@dataclass(frozen=True)
class Row:
    """Scores of one variant with one reference set."""

    coco: CocoScores
    verdicts: Verdicts
    milliseconds: float

    def figures(self) -> dict[str, float | None]:
        """Everything by name; AP, AR, F1 and calibration errors in points of 0..100."""
        box, mask = self.coco.box, self.coco.mask
        points = {"box_ap": box.ap, "mask_ap": mask and mask.ap, "mask_ap50": mask and mask.ap50}
        points |= {"ar100": mask and mask.ar100, **self.verdicts.fractions()}
        scaled = {name: None if value is None else 100 * value for name, value in points.items()}
        return {**scaled, **self.verdicts.counts(), "milliseconds": self.milliseconds}


@dataclass
class SetResult:
    """Scores of every variant with every reference set, on one set of images.

    Attributes:
        targets: images and truth.
        ceiling: scores if each object got its best candidate, with label and score from the truth.
        rows: variant -> reference set -> scores.
        found: the labels of the last shots and seed, variant -> predictions, for charts.
    """

    targets: Targets
    ceiling: CocoScores
    rows: dict[str, dict[Key, Row]] = field(default_factory=dict)
    found: dict[str, list[Prediction]] = field(default_factory=dict)

    def values(self, variant: str, figure: str, shots: int | None = None) -> list[float]:
        """The figure with each reference set (of so many shots), where it is defined."""
        found = [row.figures()[figure] for key, row in self.rows[variant].items() if shots in (None, key[0])]
        return [value for value in found if value is not None]

    def differences(self, variant: str, figure: str, shots: int | None = None) -> list[float]:
        """Variant minus base with each reference set."""
        pairs = zip(self.values(variant, figure, shots), self.values(BASE, figure, shots), strict=True)
        return [mine - base for mine, base in pairs]

    def summary(self) -> dict[str, Any]:
        """Shots -> variant -> figure -> mean, std, and the paired difference to the base; ``"all"`` for all shots."""
        shots = sorted({key[0] for rows in self.rows.values() for key in rows})
        return {
            str(one or "all"): {
                variant: {name: self._figure(variant, name, one) for name in next(iter(rows.values())).figures()}
                for variant, rows in self.rows.items()
            }
            for one in (None, *shots)
        }

    def _figure(self, variant: str, name: str, shots: int | None) -> dict[str, float | None]:
        average, deviation = spread(self.values(variant, name, shots))
        changes = self.differences(variant, name, shots)
        change, change_deviation = spread(changes)
        better = sum(value > 0 for value in changes)
        return {"mean": average, "std": deviation, "difference": change, "difference_std": change_deviation,
                "higher_in": better, "of": len(changes)}  # fmt: skip


def spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation."""
    if not values:
        return None, None
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def sets_in(data: Path, images: int | None) -> list[Set]:
    """Every set of a folder, with each of its class lists."""
    roots = sorted(path for path in data.iterdir() if (path / "refs").is_dir())
    return [Set(root, classes, images) for root in roots for classes in known_classes(root)]


def only(sets: Sequence[Set], names: Sequence[str] | None) -> list[Set]:
    """Those of some names, all where ``None``; refuses a name that there is not."""
    known = {one.name: one for one in sets}
    unknown = sorted(set(names or ()) - known.keys())
    if unknown or not known:
        there = ", ".join(known) or "none (a set is a folder with refs/, annotations/ and images)"
        asked = ", ".join(map(repr, unknown)) or "a folder of none"
        raise InputError(f"expected sets that are there, got {asked}; there is: {there}")
    return list(sets) if names is None else [known[name] for name in names]


class Contents:
    """What stage one finds in the images, from the index, or computed and added to it."""

    def __init__(self, folder: Path, preset: str, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._store = IndexStore(folder, IndexSettings(preset, segmenter.facts()))
        self.computed = 0
        self.banks = folder / "banks"
        """Where ``banks_of`` may keep memory banks."""

    def has(self, digest: str) -> bool:
        """Whether the candidates of an image with these bytes are in the index."""
        return self._store.get(digest) is not None

    def __getitem__(self, image: TargetImage) -> CompactImage:
        digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
        content = self._store.get(digest)
        if content is None:
            content = compact(self._segmenter.candidates(read_target_image(image)))
            self._store.put(digest, content)
            self.computed += 1
        return content


def banks_of(
    segmenter: Segmenter,
    one: Set,
    names: Sequence[str],
    keys: Sequence[Key],
    crops: bool = True,
    folder: Path | None = None,
) -> dict[Key, MemoryBank]:
    """The memory bank of each reference set that is there.

    Args:
        segmenter: encodes the references.
        one: the set.
        names: its classes.
        keys: reference sets.
        crops: with what a second look needs.
        folder: keeps them for the next benchmark; a file's name is a hash of all that decides what is in it.
    """
    return {
        (shots, seed): _bank(segmenter, one, names, (shots, seed), crops, folder)
        for shots, seed in keys
        if _references_file(one, (shots, seed)).is_file()
    }


def _references_file(one: Set, key: Key) -> Path:
    return one.root / "refs" / f"{one.classes}_{key[0]}shot_seed{key[1]}.json"


def _bank(
    segmenter: Segmenter, one: Set, names: Sequence[str], key: Key, crops: bool, folder: Path | None
) -> MemoryBank:
    def references() -> Iterator[ReferenceItem]:  # twice, as all of them together are a lot of memory
        return read_references(one.root, one.classes, *key, names)

    if folder is None:
        return segmenter.build_bank(references(), names, crops=crops)
    seen = hashlib.sha256()
    for part in (segmenter.facts(), asdict(segmenter.references), list(names), crops):
        seen.update(json.dumps(part, sort_keys=True, default=str).encode())
    for item in references():
        seen.update(f"{item.label} {item.reference_id} {item.box} {item.image.shape}".encode())
        seen.update(item.image.tobytes() + item.mask.tobytes())
    path = folder / seen.hexdigest()[:32]
    if not path.is_dir():
        segmenter.build_bank(references(), names, crops=crops).save(path)
    return MemoryBank.load(path)


def run_set(
    segmenter: Segmenter, one: Set, contents: Contents, variants: Mapping[str, MatchConfig], keys: Sequence[Key],
    say: Say, match: Match | None = None, banks: Mapping[Key, MemoryBank] | None = None,
) -> SetResult:  # fmt: skip
    """Labels every image of a set with every reference set under every variant, and scores that.

    ``match`` labels an image under a variant in place of ``Segmenter.match`` with the variant's settings; ``banks`` are
    the memory banks where they have been made already.
    """
    targets = read_targets(one.root, one.classes, one.images)
    looked = any(config.second_look for config in variants.values())
    if banks is None:
        banks = banks_of(segmenter, one, targets.classes, keys, looked, contents.banks)
    say(f"{one.name}: {len(banks)} reference sets, {len(targets.images)} images")
    found: dict[tuple[str, Key], list[Prediction]] = {(name, key): [] for name in variants for key in banks}
    alike: dict[tuple[str, Key], list[float]] = {key: [] for key in found}
    seconds, ideal = dict.fromkeys(found, 0.0), []
    for done, image in enumerate(targets.images, start=1):
        content = contents[image]
        ideal += best_candidates(content, targets, image)
        for name, key in found:
            started = time.perf_counter()
            if match is not None:
                instances = match(content, banks[key], name)
            else:
                instances = segmenter.match(content, banks[key], variants[name])
            seconds[name, key] += time.perf_counter() - started
            found[name, key] += to_predictions(instances, image.image_id)
            alike[name, key] += np.asarray(instances.similarity, float).tolist()
        if done % 10 == 0:
            say(f"{one.name}: {done} of {len(targets.images)}")
    ids = [image.image_id for image in targets.images]
    result = SetResult(targets, coco_scores(targets.truth, ideal, targets.classes, ids))
    for (name, key), row in _scored(targets, found, alike, seconds):
        result.rows.setdefault(name, {})[key] = row
        result.found[name] = found[name, key]
    return result


def _scored(
    targets: Targets,
    found: Mapping[tuple[str, Key], list[Prediction]],
    alike: Mapping[tuple[str, Key], list[float]],
    seconds: Mapping[tuple[str, Key], float],
) -> Iterator[tuple[tuple[str, Key], Row]]:
    ids = [image.image_id for image in targets.images]
    for key, predictions in found.items():
        coco = coco_scores(targets.truth, predictions, targets.classes, ids)
        judged = verdicts(targets.truth, predictions, len(targets.classes), ids, alike[key])
        yield key, Row(coco, judged, 1000 * seconds[key] / len(ids))


def best_candidates(content: CompactImage, targets: Targets, image: TargetImage) -> list[Prediction]:
    """Each object's best candidate, labelled by the truth and scored by its overlap: what no scoring can beat."""
    objects = [item for item in targets.truth if item.image_id == image.image_id and not item.crowd and item.rle]
    if not objects or not len(content.candidates):
        return []
    size, boxes, rles = content.candidates.frame.image_size, [], []
    for mask in masks_at_image_size(content.candidates, range(len(content.candidates))):
        boxes.append(tuple(map(float, mask.extent)))
        rles.append(encode_crop(mask.crop() if mask.area else np.zeros((1, 1), bool), *mask.extent[:2], size))
    overlaps = np.asarray(mask_utils.iou(rles, [item.rle for item in objects], [0] * len(objects)))
    best = overlaps.argmax(axis=0)
    return [
        Prediction(image.image_id, item.label, boxes[i], float(overlaps[i, k]), rles[i])
        for k, (item, i) in enumerate(zip(objects, best.tolist(), strict=True))
    ]


FIGURES = {
    "box_ap": "box AP", "mask_ap": "mask AP", "mask_ap50": "AP50", "ar100": "AR100", "presence_fires": "F1 fires",
    "presence_fitted": "F1 fitted", "presence_similarity": "F1 similarity", "presence_per_class": "F1 per class",
    "presence_best": "F1 best", "false_alarms_unfiltered": "alarms", "false_alarms": "alarms fitted",
    "false_alarms_labels": "alarms, labels", "calibration": "ECE", "calibration_fitted": "ECE isotonic",
    "calibration_curve": "ECE curve", "milliseconds": "ms",
}  # fmt: skip
"""Figure -> heading."""


def describe(one: Set, result: SetResult, preset: str) -> str:
    """A set's results as text."""
    targets, rows = result.targets, result.rows[BASE]
    mask = result.ceiling.mask
    ceiling = f"mask AP {100 * (mask.ap or 0):.1f}, AP50 {100 * (mask.ap50 or 0):.1f}" if mask else "none"
    return (
        f"\n{one.name}: {len(targets.classes)} classes, {len(targets.images)} images, {len(targets.truth)} objects; "
        f"preset {preset}, reference sets (shots, seed) {sorted(rows)}\n"
        f"ceiling of the candidates: {ceiling}. {BASE} itself, then the others' paired differences to it, their "
        "sample standard deviation, and in how many reference sets they are higher\n\n"
        f"{report(result, list(FIGURES))}\n"
    )


def report(result: SetResult, figures: Sequence[str]) -> str:
    """A row a variant: the base's own scores; for the others the paired difference, its spread, how often higher."""
    rows = [["", *(FIGURES[figure] for figure in figures)]]
    for name in result.rows:
        cells = []
        for figure in figures:
            values = result.values(name, figure) if name == BASE else result.differences(name, figure)
            average, deviation = spread(values)
            better = f" ({sum(value > 0 for value in values)})"
            sign = "" if name == BASE else "+"
            cells.append(
                "-" if average is None else f"{average:{sign}.2f} +- {deviation:.2f}{'' if name == BASE else better}"
            )
        rows.append([name, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
