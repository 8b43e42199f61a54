"""What a fleet adds to the work, and how it scales on one machine: ``python -m benchmarks.fleet``.

Three figures, each on its own: how well two workers on two cores do beside one on one core; what manifest, shards and
receipts cost beside the plain candidate cache; and how long it takes to list, plan and look at ten million images,
which are made up: no file and no model is touched for them. CPU seconds are told beside seconds, as these are what
other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import roofline
from benchmarks.arguments import count
from benchmarks.subjects import make_images
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.fleet.bucket import Bucket
from fiftyone_ntt.fleet.jobs import IndexJob
from fiftyone_ntt.fleet.manifest import Row, write_manifest
from fiftyone_ntt.fleet.receipts import OK, ImageStatus, Receipt
from fiftyone_ntt.fleet.runners import run_here, run_local
from fiftyone_ntt.fleet.status import fleet_status
from fiftyone_ntt.params.base import StageOneSettings

UNIT = 4
SIZE = (480, 640)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=count, default=24, help="images that are indexed (default: %(default)s)")
    parser.add_argument("--points-per-side", type=count, default=16, help="prompt points (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=3, help="of the overhead (default: %(default)s)")
    parser.add_argument("--rows", type=count, default=10_000_000, help="made-up images (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    asked = StageOneSettings(preset="lite", device="cpu", points_per_side=options.points_per_side)
    with tempfile.TemporaryDirectory(prefix="ntt-fleet-") as temporary:
        folder = Path(temporary)
        paths, kind = image_files(folder / "images", options.images)
        plan = apart(planned, asked, folder / "plan", options.rows)
        costs = apart(overhead, asked, folder / "cost", paths, options.rounds)
        one, two = (apart(scaled, asked, folder / f"{workers}", paths, workers) for workers in (1, 2))
    efficiency = two["images_per_s"] / (2 * one["images_per_s"])
    figures = {
        "efficiency": efficiency,
        "efficiency_cpu": one["cpu_s_an_image"] / two["cpu_s_an_image"],
        "overhead": costs["fleet_cpu_s"] / costs["plain_cpu_s"] - 1,
        "plan_10m_s": plan["seconds"],
        "load_average": os.getloadavg()[1],
        "workers": {"1": one, "2": two},
        "cost": costs,
        "plan": plan,
    }
    print(roofline.describe(roofline.machine(torch.device("cpu"))))
    points, load = options.points_per_side, figures["load_average"]
    print(f"\n{options.images} {kind} of {SIZE[1]}x{SIZE[0]}, lite, {points} points a side; load average {load:.1f}\n")
    rows = [[name, number(figures[name])] for name in ("efficiency", "efficiency_cpu", "overhead", "plan_10m_s")]
    parts = {"cost": costs, "plan": plan, "1 worker": one, "2 workers": two}
    rows += [[f"{part}: {name}", number(value)] for part, values in parts.items() for name, value in values.items()]
    print(table(["figure", "value"], rows))
    write_json(options.json, figures)
    return 0


def apart(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What ``work`` returns, called in a process of its own: its memory and its CPU seconds are nobody else's."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        figures: dict[str, float] = ours.recv()
    except EOFError:
        sys.exit(f"{work.__name__} ended without an answer; see its messages above")
    process.join()
    return figures


def _answer(line: Any, work: Callable[..., dict[str, float]], arguments: tuple[Any, ...]) -> None:
    line.send(work(*arguments))


def image_files(folder: Path, images: int) -> tuple[list[Path], str]:
    """Writes images, each with a mark of its own so that no two are alike; returns their files and what they are."""
    folder.mkdir()
    made, kind = make_images(images, SIZE)
    paths = []
    for i, pixels in enumerate(made):
        marked = pixels.copy()
        marked[:2, :2] = i
        paths.append(folder / f"{i:04d}.png")
        Image.fromarray(marked).save(paths[-1])
    return paths, kind


def new_store(folder: Path, paths: list[Path]) -> str:
    """A store with a manifest of the images."""
    rows = [Row(path.stem, str(path), path.stat().st_size) for path in paths]
    write_manifest(Bucket(folder), rows, unit_rows=UNIT)
    return str(folder)


def scaled(asked: StageOneSettings, folder: Path, paths: list[Path], workers: int) -> dict[str, float]:
    """Indexes the images with so many workers on as many cores, loading the models not counted."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < workers:
        sys.exit(f"expected {workers} cores, got {len(cores)}; two workers on one core say nothing")
    os.sched_setaffinity(0, cores[:workers])
    store = new_store(folder, paths)
    job = IndexJob(store, asked)
    report = run_local(job, workers)
    if report.failed or report.images != len(paths):
        sys.exit(f"expected all images to be indexed, got: {report}")
    spent = sum(receipt["seconds"] for receipt in job.folder.summaries(sorted(job.folder.done())))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        # Each worker's images over its own seconds in units: waiting for others to load is not counted.
        "images_per_s": workers * len(paths) / spent,
        "cpu_s_an_image": (used.ru_utime + used.ru_stime) / len(paths),  # with loading, once a worker
    }


def overhead(asked: StageOneSettings, folder: Path, paths: list[Path], rounds: int) -> dict[str, float]:
    """The same images through the plain candidate cache and through a fleet's functions, in turns; CPU seconds."""
    segmenters = StageOne.of(asked).load()  # stay in memory: loading them again costs nothing
    segmenters[0].candidates(make_images(1, SIZE)[0][0])
    plain, fleet = list[float](), list[float]()
    for i in range(rounds):
        plain.append(cpu_seconds(lambda i=i: index_plainly(asked, folder / f"plain{i}", paths)))
        fleet.append(cpu_seconds(lambda i=i: index_as_a_fleet(asked, folder / f"fleet{i}", paths)))
    return {
        "plain_cpu_s": statistics.median(plain),
        "fleet_cpu_s": statistics.median(fleet),
        "plain_spread": max(plain) / min(plain) - 1,
        "fleet_spread": max(fleet) / min(fleet) - 1,
    }


def cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def index_plainly(asked: StageOneSettings, folder: Path, paths: list[Path]) -> None:
    source = CandidateSource(StageOne.of(asked.changed(index_dir=folder)))
    source.open()
    for outcome in source.outcomes([(path.stem, str(path)) for path in paths], lambda key, content: None):
        if outcome.error is not None:
            raise outcome.error
    if source.indexed != len(paths):
        sys.exit(f"expected {len(paths)} images in the cache, got {source.indexed}")


def index_as_a_fleet(asked: StageOneSettings, folder: Path, paths: list[Path]) -> None:
    if run_here(IndexJob(new_store(folder, paths), asked)).failed:
        sys.exit("expected all images to be indexed")


def planned(asked: StageOneSettings, folder: Path, rows: int) -> dict[str, float]:
    """Lists, plans and looks at made-up images, all of which have receipts; the peak memory of all that."""
    bucket, started = Bucket(folder), time.perf_counter()
    write_manifest(bucket, made_up(rows))
    listed, job = time.perf_counter(), IndexJob(bucket.url, asked)
    missing = job.missing()
    counted = time.perf_counter()
    forge_receipts(Path(folder, "index", job.key, "receipts"), [place.unit for place in missing])
    forged = time.perf_counter()
    status = fleet_status(bucket, asked)
    left = job.missing()
    looked = time.perf_counter()
    assert status.done == len(missing) == -(-rows // 1000) and not left
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sizes = {"manifest_mb": sum(path.stat().st_size for path in folder.glob("manifests/*")) / 1e6}
    shutil.rmtree(folder)
    parts = {"list_s": listed - started, "plan_s": counted - listed, "status_s": looked - forged}
    cpu = time.process_time()  # that of forging receipts is in it
    return {"rows": rows, "seconds": sum(parts.values()), **parts, "cpu_s": cpu, "peak_gb": peak, **sizes}


def made_up(rows: int) -> Iterator[Row]:
    """Images that are nowhere, named like FiftyOne's samples."""
    for i in range(rows):
        yield Row(f"{i:024x}", f"/data/images/{i % 1000:03d}/{i:012d}.jpg", 200_000 + i % 1000)


def forge_receipts(folder: Path, units: list[str]) -> None:
    """A receipt of a thousand images for every unit; they differ in the name of the file only."""
    images = [ImageStatus(f"{i:024x}", OK, f"{i:064x}", 49_000 * i, 49_000, 60) for i in range(1000)]
    facts = {"ended": time.time(), "seconds": 60.0, "devices": 1, "device": "cuda", "worker": "none"}
    data = Receipt(units[0], f"shards/{units[0]}.ntts", tuple(images), facts).to_bytes()
    folder.mkdir(parents=True)
    for unit in units:
        (folder / f"{unit}.parquet").write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
