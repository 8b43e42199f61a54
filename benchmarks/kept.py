"""What the index's small form of an image costs in accuracy: ``python -m benchmarks.kept --data DIR``.

Everything stage two needs is kept in few bytes: outlines of masks in sixteen levels, float16 vectors, patch tokens of
low rank. This labels the same candidates in full precision and from that form, with and without the coverage factor,
which reads the patch tokens: the share of a class's evidence around a mask that lies inside it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.accuracy import _mean_and_std
from benchmarks.arguments import count, folder, seeds
from benchmarks.candidate_cache import CandidateCache
from benchmarks.coco_data import Targets, default_classes, read_references, read_targets
from benchmarks.tables import write_json
from fiftyone_ntt.candidates.compact import CompactTokens, reduced_tokens
from fiftyone_ntt.core import Candidates, IndexedImage, Instances, MatchConfig, MemoryBank, Segmenter, compact
from fiftyone_ntt.evaluation.coco import Prediction, coco_scores
from fiftyone_ntt.evaluation.protocols.predictions import to_predictions
from fiftyone_ntt.method.matcher import to_instances
from fiftyone_ntt.method.merging import CandidateMasks, soft_merge, suppress
from fiftyone_ntt.method.scoring import label, normalise, similarity
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.models.devices import fetched

CONFIG = MatchConfig()
RANKS = (16, 32, 64, 128)
_COVERAGE, _DILATION, _FLOOR = 0.5, 2, 1e-3


def coverage(candidates: Candidates, tokens: Tensor, bank: MemoryBank) -> Tensor:
    """float32 ``[N, K]`` in 0..1: how much of each class's evidence around a mask lies inside the mask."""
    rows, columns, channels = tokens.shape
    flat = torch.from_numpy(bank.project(tokens.reshape(-1, channels).float().numpy()))
    evidence = similarity(normalise(flat), normalise(torch.from_numpy(bank.prototypes)))
    evidence = (evidence - evidence.median(dim=0).values).clamp(min=0)
    height, width = (round(extent) for extent in candidates.frame.mask_content)
    inside = (candidates.mask_logits[:, None, :height, :width] > 0).float()
    inside = F.adaptive_avg_pool2d(inside, (rows, columns))
    around = F.max_pool2d(inside, 2 * _DILATION + 1, stride=1, padding=_DILATION)
    covered, available = (weights.flatten(1) @ evidence for weights in (inside, around))
    return (covered + _FLOOR) / (available + _FLOOR)


def labelled(indexed: IndexedImage, bank: MemoryBank) -> Iterator[tuple[str, Instances]]:
    """The image's instances under every variant."""
    small = compact(indexed)
    prototypes = normalise(torch.from_numpy(bank.prototypes))

    def match(candidates: object, vectors: np.ndarray, tokens: Tensor | None) -> Instances:
        features = normalise(torch.from_numpy(bank.project(vectors.astype(np.float32))))
        scores = similarity(features, prototypes)
        if tokens is not None:
            scores = scores * coverage(indexed.candidates, tokens, bank) ** _COVERAGE
        masks = CandidateMasks.of(candidates, CONFIG)
        kept = suppress(label(candidates, features, scores, None, CONFIG), masks, CONFIG)
        return to_instances(soft_merge(kept, masks, CONFIG), masks, CONFIG)

    vectors = indexed.vectors.numpy()
    yield "full precision", match(indexed.candidates, vectors, None)
    yield "as kept", match(small.candidates, small.vectors, None)
    yield "coverage, full precision", match(indexed.candidates, vectors, indexed.tokens)
    yield "coverage, as kept", match(small.candidates, small.vectors, torch.from_numpy(small.tokens.full()))
    for rank in RANKS:
        tokens = torch.from_numpy(CompactTokens.from_arrays(fetched(reduced_tokens(indexed.tokens, rank))).full())
        yield f"coverage, only tokens reduced, rank {rank}", match(indexed.candidates, vectors, tokens)


def run(
    segmenter: Segmenter,
    targets: Targets,
    banks: Mapping[int, MemoryBank],
    cache: CandidateCache,
    say: Callable[[str], None],
) -> dict[str, dict[str, list[float | None]]]:
    """Variant -> metric -> a value a draw."""
    found: dict[tuple[str, int], list[Prediction]] = {}
    for done, image in enumerate(targets.images, start=1):
        indexed = cache[image]
        for seed, bank in banks.items():
            for variant, instances in labelled(indexed, bank):
                found.setdefault((variant, seed), []).extend(to_predictions(instances, image.image_id))
        say(f"image {done} of {len(targets.images)}")
    scores: dict[str, dict[str, list[float | None]]] = {}
    ids = [image.image_id for image in targets.images]
    for (variant, _), predictions in found.items():
        coco = coco_scores(targets.truth, predictions, targets.classes, ids)
        row = scores.setdefault(variant, {"box_ap": [], "mask_ap": []})
        row["box_ap"].append(coco.box.ap)
        row["mask_ap"].append(coco.mask.ap if coco.mask else None)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kept", description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--data", type=folder, required=True, help="folder with refs/, annotations/ and images")
    parser.add_argument("--shots", type=count, default=1)
    parser.add_argument("--seeds", type=seeds, default="33,42,13")
    parser.add_argument("--images", type=count)
    parser.add_argument("--cache", type=Path, help="keeps the candidates here; a temporary folder by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    segmenter = load_preset(options.preset).segmenter()
    classes = default_classes(options.data)
    targets = read_targets(options.data, classes, options.images)
    banks = {
        seed: segmenter.build_bank(
            read_references(options.data, classes, options.shots, seed, targets.classes), targets.classes
        )
        for seed in options.seeds
    }
    with tempfile.TemporaryDirectory(prefix="ntt-candidates-") as temporary:
        cache = CandidateCache(options.cache or Path(temporary), segmenter)
        scores = run(segmenter, targets, banks, cache, lambda line: None)
    print(
        f"{options.data.name}, {len(targets.images)} images, {options.shots} shots, draws {list(options.seeds)}; "
        "AP in points"
    )
    base = {kind: next(row for name, row in scores.items() if name.startswith(kind)) for kind in ("full", "coverage")}
    for variant, row in scores.items():
        against = base["coverage" if variant.startswith("coverage") else "full"]
        cells = []
        for metric, values in row.items():
            mean = 100 * (_mean_and_std(values)["mean"] or 0)
            cells.append(f"{metric} {mean:.2f} ({mean - 100 * (_mean_and_std(against[metric])['mean'] or 0):+.2f})")
        print(f"{variant:45s} {'   '.join(cells)}")
    write_json(options.json, scores)


if __name__ == "__main__":
    main()
