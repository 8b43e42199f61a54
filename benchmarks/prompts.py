"""The same references as masks, boxes, points and scribbles: ``python -m benchmarks.prompts --data DIR``.

Points and scribbles are made from the true masks: the point lies where the mask is deepest, the scribble is the longest
path along its skeleton. Measured are the masks made from each, against the true ones, and a run with each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.across import Contents, Set, spread
from benchmarks.arguments import folder, seeds
from benchmarks.coco_data import SHARED, Targets, known_classes, read_references, read_targets
from benchmarks.prompts_made import deepest_point, scribble_line
from benchmarks.tables import table, write_json
from fiftyone_ntt.core import MemoryBank, ReferenceItem, Segmenter
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.evaluation.coco import CocoScores, coco_scores
from fiftyone_ntt.evaluation.protocols.predictions import to_predictions
from fiftyone_ntt.method.options.prompts import MaskOptions, Prompt, choose_masks, mask_options
from fiftyone_ntt.method.references import mask_extent
from fiftyone_ntt.models import load_preset

KINDS = ("mask", "box", "point", "scribble")
SETS = (("fruits-nuts", "all", None), ("coco-mini", "voc20", 40))
"""Folder, class list and number of target images of each set."""
SHOTS, SEEDS = 3, (33, 42, 13)
Masks = list[NDArray[np.bool_]]


def made_masks(segmenter: Segmenter, items: Sequence[ReferenceItem]) -> dict[str, Masks]:
    """Kind -> a mask for each reference."""
    options: dict[str, list[MaskOptions]] = {kind: [] for kind in KINDS[1:]}
    tokens = []
    for image, group in _by_image(items):
        encoded = segmenter.encode([segmenter.prepare(image)])[0]
        tokens.append(encoded.tokens.float().cpu().mean(dim=(0, 1)).numpy())
        for kind in options:
            options[kind] += mask_options(segmenter, encoded, [prompt_of(item, kind) for item in group])
    center = np.mean(tokens, axis=0) if segmenter.references.centre else None
    labels = [item.label for item in items]
    found: dict[str, Masks] = {"mask": [item.mask for item in items]}
    for kind, offered in options.items():
        chosen = choose_masks(offered, labels, None, center)
        found[kind] = [_taken(one, index, item) for one, index, item in zip(offered, chosen, items, strict=True)]
    return found


def prompt_of(item: ReferenceItem, kind: str) -> Prompt:
    """The reference shown by a box, a point or a scribble."""
    if kind == "box":
        return Prompt.box(item.box or mask_extent(item.mask))
    if kind == "point":
        return Prompt(deepest_point(item.mask)[None], np.ones(1, bool))
    return Prompt.scribble(scribble_line(item.mask))


def _taken(one: MaskOptions, index: int | None, item: ReferenceItem) -> NDArray[np.bool_]:
    """The chosen mask. A person would be told that there is none, and draw a box."""
    if index is not None:
        return one.masks[index].full(one.image_size)
    x1, y1, x2, y2 = (int(value) for value in mask_extent(item.mask))
    mask = np.zeros_like(item.mask)
    mask[y1:y2, x1:x2] = True
    return mask


def _by_image(items: Sequence[ReferenceItem]) -> Iterator[tuple[NDArray[np.uint8], list[ReferenceItem]]]:
    group: list[ReferenceItem] = []
    for item in items:
        if group and group[0].image is not item.image:
            yield group[0].image, group
            group = []
        group.append(item)
    if group:
        yield group[0].image, group


def banks_of(
    segmenter: Segmenter, items: Sequence[ReferenceItem], masks: Mapping[str, Masks], names: Sequence[str]
) -> dict[str, MemoryBank]:
    """Kind -> the bank of the same references with the masks made from it."""
    return {
        kind: segmenter.build_bank([_with_mask(item, mask) for item, mask in zip(items, made, strict=True)], names)
        for kind, made in masks.items()
    }


def _with_mask(item: ReferenceItem, mask: NDArray[np.bool_]) -> ReferenceItem:
    return item if mask is item.mask else replace(item, mask=mask, box=mask_extent(mask))


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max(int((a | b).sum()), 1))


def scores_of(contents: Contents, targets: Targets, banks: Mapping[str, MemoryBank]) -> dict[str, CocoScores]:
    """Kind -> what a run with its bank scores."""
    found: dict[str, list[Any]] = {kind: [] for kind in banks}
    for image in targets.images:
        content = contents[image]
        for kind, bank in banks.items():
            found[kind] += to_predictions(Segmenter.match(content, bank), image.image_id)
    ids = [image.image_id for image in targets.images]
    return {kind: coco_scores(targets.truth, one, targets.classes, ids) for kind, one in found.items()}


def run_set(segmenter: Segmenter, one: Set, contents: Contents, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Kind -> figures, means over the reference draws; all but counts in points of 0..100."""
    targets = read_targets(one.root, one.classes, one.images)
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for seed in seeds:
        items = list(read_references(one.root, one.classes, SHOTS, seed, targets.classes))
        made = made_masks(segmenter, items)
        scores = scores_of(contents, targets, banks_of(segmenter, items, made, targets.classes))
        for kind in KINDS:
            overlaps = [overlap(mask, item.mask) for mask, item in zip(made[kind], items, strict=True)]
            box, mask = scores[kind].box, scores[kind].mask
            rows[kind].append(
                {
                    "iou": 100 * mean(overlaps),
                    "iou_above_half": 100 * mean(value > 0.5 for value in overlaps),
                    "box_ap": 100 * (box.ap or 0),
                    "mask_ap": 100 * ((mask and mask.ap) or 0),
                }
            )
        print(f"{one.name}, seed {seed}: {len(items)} references", file=sys.stderr)
    return {kind: _summary(found, rows["mask"]) for kind, found in rows.items()}


def _summary(rows: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name in rows[0]:
        figures[name], figures[f"{name}_std"] = spread([row[name] for row in rows])
    for name in ("box_ap", "mask_ap"):
        figures[f"{name}_share"] = 100 * figures[name] / max(mean(row[name] for row in base), 1e-9)
    return {**figures, "draws": len(rows)}


def report(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """One table over all sets."""
    heading = ["references", "IoU of the masks", "above 0.5", "box AP", "mask AP", "of the masks' mask AP"]
    rows = []
    for name, kinds in results.items():
        for kind, figures in kinds.items():
            cells = [f"{figures[key]:.1f} ± {figures[f'{key}_std']:.1f}" for key in ("box_ap", "mask_ap")]
            share = f"{figures['mask_ap_share']:.0f} %"
            rows.append(
                [f"{name}, {kind}", f"{figures['iou']:.1f}", f"{figures['iou_above_half']:.0f} %", *cells, share]
            )
    return table(heading, rows)


def sets_in(data: Path) -> list[Set]:
    """The sets to measure that a folder holds; the folder may be one of them."""
    found = []
    for name, classes, images in SETS:
        root = data if data.name == name else data / name
        if (root / "refs").is_dir() and classes in known_classes(root):
            found.append(Set(root, classes, images))
    if not found:
        raise InputError(f"expected {' or '.join(one[0] for one in SETS)} with reference sets (refs/) in {data}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prompts", description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="lite")
    parser.add_argument(
        "--data", type=folder, default=SHARED, help="folder of fruits-nuts and coco-mini (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=seeds, default=SEEDS, help="reference draws, commas between")
    parser.add_argument("--index", type=Path, help="keeps the candidates here; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="writes {set: {kind: figures}}")
    options = parser.parse_args(argv)
    try:
        sets = sets_in(options.data)
        segmenter = load_preset(options.preset).segmenter()
        with tempfile.TemporaryDirectory(prefix="ntt-prompts-") as temporary:
            contents = Contents(options.index or Path(temporary), options.preset, segmenter)
            results = {one.root.name: run_set(segmenter, one, contents, options.seeds) for one in sets}
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(results))
    write_json(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
