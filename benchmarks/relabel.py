"""A thousand indexed images relabelled, labels in FiftyOne included: ``python -m benchmarks.relabel``.

The candidates are those of the preset ``lite`` in a few photographs, stored for as many made-up image files as asked
for; with ``--candidates`` they are synthetic, ``benchmarks.matching``'s ellipses with 1024 channels. Then ``segment``
runs on a temporary dataset, once with few references a class and once with many. No model runs in what is timed.
``--cores 1,2`` runs it on so many cores with as many finishers, and ``--plot FILE`` draws what that gives. (The
database is a process of its own and takes the cores it likes.)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    parser.add_argument("--cores", type=counts, help="cores to use with as many finishers, e.g. 1,2; Linux only")
    parser.add_argument("--plot", type=Path, help="where to draw images a second against cores, an SVG")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = tries(options.finishers, options.cores, parser)
    found = contents(options.candidates)
    with tempfile.TemporaryDirectory(prefix="ntt-relabel-") as temporary:
        dataset, weights, megabytes = fill(Path(temporary), options.images, found)
        try:
            banks = {shots: memory_bank(found[0], options.classes, shots, weights) for shots in options.shots}
            rows = [
                relabelled(dataset, bank, shots, Path(temporary), *way) for shots, bank in banks.items() for way in ways
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
    if options.plot is not None:
        draw(rows, options.plot)


def tries(
    finishers: Sequence[int] | None, cores: Sequence[int] | None, parser: argparse.ArgumentParser
) -> list[tuple[int, int]]:
    """Cores and finishers of each run."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if cores is None:
        return [(here or os.cpu_count() or 1, number) for number in finishers or [runs.finishers()]]
    if here is None or max(cores) > here:
        parser.error(
            f"expected --cores of at most {here}" if here else "expected a system on which cores can be chosen"
        )
    return [(number, number) for number in cores]


@contextmanager
def on_cores(number: int) -> Iterator[None]:
    """This process, and the threads that it starts, on the first cores of those it may use."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def relabelled(
    dataset: fo.Dataset, bank: MemoryBank, shots: int, folder: Path, cores: int, finishers: int
) -> dict[str, float]:
    """Labels the dataset from the index alone, and takes the time."""
    field = f"shots_{shots}_cores_{cores}_threads_{finishers}"
    started, used = time.perf_counter(), time.process_time()
    with on_cores(cores), patch.object(runs, "finishers", lambda: finishers):
        report = ntt.segment(dataset, bank, field, index_dir=folder / "index", device="cpu", score_threshold=0)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    if report.from_index != len(dataset) or report.failed:
        raise SystemExit(f"expected {len(dataset)} images from the index, got: {report}")
    return {
        "references_a_class": shots,
        "cores": cores,
        "finishers": finishers,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "images_a_second": len(dataset) / seconds,
        "ms_an_image": 1000 * seconds / len(dataset),
        "cpu_ms_an_image": 1000 * cpu / len(dataset),
        "labels_an_image": report.instances / len(dataset),
    }


def draw(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Images a second against cores, a line for each number of references, and dotted what proportion would give."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.5, 3.2))
    for shots in dict.fromkeys(row["references_a_class"] for row in rows):
        mine = [row for row in rows if row["references_a_class"] == shots]
        cores, speed = ([row[name] for row in mine] for name in ("cores", "images_a_second"))
        (line,) = axes.plot(cores, speed, marker="o", label=f"{shots:.0f} references a class")
        axes.plot(cores, [speed[0] * number / cores[0] for number in cores], ":", color=line.get_color())
    axes.set(xlabel="cores (dotted: in proportion)", ylabel="images a second", ylim=(0, None))
    axes.set_xticks(sorted({row["cores"] for row in rows}))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
