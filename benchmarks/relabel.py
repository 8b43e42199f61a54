"""A thousand indexed images relabelled, labels in FiftyOne included: ``python -m benchmarks.relabel``.

The candidates are those of the preset ``lite`` in a few photographs, stored for as many made-up image files as asked
for; with ``--candidates`` they are synthetic, ``benchmarks.matching``'s ellipses with 1024 channels. Then ``segment``
runs on a temporary dataset, once with few references a class and once with many. No model runs in what is timed.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import fiftyone as fo
import numpy as np
import torch
from PIL import Image

import fiftyone_ntt as ntt
from benchmarks import matching, roofline
from benchmarks.arguments import count, counts
from benchmarks.subjects import bank_of, make_images
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.core import CompactImage, MemoryBank, compact
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.runs import segment as runs

PHOTOGRAPHS = 5


def contents(candidates: int | None) -> list[CompactImage]:
    """What the index is to hold, for some images."""
    if candidates is not None:
        return [compact(matching.discs(candidates, seed=seed)) for seed in range(PHOTOGRAPHS)]
    segmenter = load_preset("lite", "cpu").segmenter()
    return [compact(segmenter.candidates(image)) for image in make_images(PHOTOGRAPHS, (480, 640))[0]]


def memory_bank(content: CompactImage, classes: int, shots: int, weights: dict[str, str]) -> MemoryBank:
    """References that resemble candidates: each class is one of them, each shot that with noise."""
    random = np.random.default_rng(0)
    vectors = content.vectors[np.isfinite(content.vectors).all(axis=1)].astype(np.float32)
    chosen = vectors[random.permutation(len(vectors))[:classes]].repeat(shots, axis=0)
    noise = 0.3 * vectors.std(axis=0) * random.standard_normal(chosen.shape)
    made = bank_of((chosen + noise).astype(np.float32), shots, vectors.mean(axis=0))
    return made.changed(preset="lite", weights=weights)


def fill(folder: Path, count: int, found: list[CompactImage]) -> tuple[fo.Dataset, dict[str, str], float]:
    """A dataset of ``count`` small files, the weights their candidates are signed with, and the megabytes a file."""
    segmenter = load_preset("lite", "cpu").segmenter()
    store = IndexStore(folder / "index", IndexSettings("lite", segmenter.facts()))
    dataset, size = fo.Dataset(), 0
    for i in range(count):
        path = folder / f"{i}.png"
        Image.fromarray(np.full((8, 8, 3), (i % 251, i // 251, 7), np.uint8)).save(path)
        size += store.put(hashlib.sha256(path.read_bytes()).hexdigest(), found[i % len(found)])
        dataset.add_sample(fo.Sample(str(path)))
    store.remember(StageOne.of(StageOneSettings(preset="lite")).recipe)
    return dataset, segmenter.weights, size / count / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relabel", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=count, default=1000)
    parser.add_argument("--candidates", type=count, help="synthetic candidates an image, in place of those of lite")
    parser.add_argument("--classes", type=count, default=20)
    parser.add_argument("--shots", type=counts, default="5,100", help="references a class, separated by commas")
    parser.add_argument("--finishers", type=counts, help="threads that match, each in a run of its own, e.g. 1,2")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = contents(options.candidates)
    with tempfile.TemporaryDirectory(prefix="ntt-relabel-") as temporary:
        dataset, weights, megabytes = fill(Path(temporary), options.images, found)
        try:
            banks = {shots: memory_bank(found[0], options.classes, shots, weights) for shots in options.shots}
            rows = [
                relabelled(dataset, bank, shots, Path(temporary), finishers)
                for shots, bank in banks.items()
                for finishers in options.finishers or [runs.finishers()]
            ]
        finally:
            dataset.delete()
    print(roofline.describe(roofline.machine(torch.device("cpu"))))
    print(
        f"\n{options.images} images, {options.classes} classes, {np.mean([len(one.candidates) for one in found]):.0f} "
        f"candidates an image, {megabytes:.2f} MB each in the index\n"
    )
    cells = [[number(value) for value in row.values()] for row in rows]
    print(table([name.replace("_", " ") for name in rows[0]], cells))
    write_json(options.json, {"images": options.images, "megabytes": megabytes, "rows": rows})


def relabelled(dataset: fo.Dataset, bank: MemoryBank, shots: int, folder: Path, finishers: int) -> dict[str, float]:
    """Labels the dataset from the index alone, and takes the time."""
    field = f"shots_{shots}_threads_{finishers}"
    started, used = time.perf_counter(), time.process_time()
    with patch.object(runs, "finishers", lambda: finishers):
        report = ntt.segment(dataset, bank, field, index_dir=folder / "index", device="cpu", score_threshold=0)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    if report.from_index != len(dataset) or report.failed:
        raise SystemExit(f"expected {len(dataset)} images from the index, got: {report}")
    return {
        "references_a_class": shots,
        "finishers": finishers,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "ms_an_image": 1000 * seconds / len(dataset),
        "cpu_ms_an_image": 1000 * cpu / len(dataset),
        "labels_an_image": report.instances / len(dataset),
    }


if __name__ == "__main__":
    main()
