"""What a fleet adds to the work, and how it scales on one machine: ``python -m benchmarks.fleet``.

Three figures, each on its own: how well two workers on two cores do beside two plain processes that know nothing of
each other on the same two (what they reach is what the cores allow: they share memory, caches and heat); what
manifest, shards and receipts cost beside the plain candidate cache; and how long it takes to list, plan and look at ten
million images, which are made up: no file and no model is touched for them. CPU seconds are told beside seconds, as
these are what other work on the machine changes little.
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

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import roofline
from benchmarks.arguments import count
from benchmarks.subjects import make_images
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.fleet.bucket import Bucket
from fiftyone_ntt.fleet.jobs import IndexJob
from fiftyone_ntt.fleet.manifest import Row, columns_of, write_manifest
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
    parser.add_argument("--rounds", type=count, default=3, help="of the first two (default: %(default)s)")
    parser.add_argument("--rows", type=count, default=10_000_000, help="made-up images (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    asked = StageOneSettings(preset="lite", device="cpu", points_per_side=options.points_per_side)
    with tempfile.TemporaryDirectory(prefix="ntt-fleet-") as temporary:
        folder = Path(temporary)
        paths, kind = image_files(folder / "images", options.images)
        plan = apart(planned, asked, folder / "plan", options.rows)
        costs = apart(overhead, asked, folder / "cost", paths, options.rounds)
        one = apart(scaled, asked, folder / "1", paths, 1)
        rounds = [one_round(asked, folder / f"round{i}", paths) for i in range(options.rounds)]
    efficiencies = [two["images_per_s"] / pair["images_per_s"] for two, pair in rounds]
    two, pair = ({name: statistics.median(side[name] for side in sides) for name in sides[0]}
                 for sides in zip(*rounds, strict=True))  # fmt: skip
    figures = {
        "efficiency": statistics.median(efficiencies),
        "efficiency_from": min(efficiencies),
        "efficiency_to": max(efficiencies),
        "of_twice_one": two["images_per_s"] / (2 * one["images_per_s"]),
        "overhead": costs["fleet_cpu_s"] / costs["plain_cpu_s"] - 1,
        "plan_10m_s": plan["seconds"],
        "load_average": os.getloadavg()[1],
        "workers": {"1": one, "2": two},
        "two_plain": pair,
        "cost": costs,
        "plan": plan,
    }
    print(roofline.describe(roofline.machine(torch.device("cpu"))))
    points, load = options.points_per_side, figures["load_average"]
    print(f"\n{options.images} {kind} of {SIZE[1]}x{SIZE[0]}, lite, {points} points a side; load average {load:.1f}\n")
    rows = [[name, number(figures[name])] for name, value in figures.items() if isinstance(value, float)]
    parts = {"cost": costs, "plan": plan, "1 worker": one, "2 workers": two, "2 plain processes": pair}
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


def one_round(asked: StageOneSettings, folder: Path, paths: list[Path]) -> tuple[dict[str, float], dict[str, float]]:
    """Two workers, then two plain processes: whatever else the machine does meanwhile, it does to both."""
    return apart(scaled, asked, folder / "fleet", paths, 2), apart(side_by_side, asked, folder / "plain", paths, 2)


def hold(workers: int) -> None:
    """Holds this process, and those that it starts, to so many cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < workers:
        sys.exit(f"expected {workers} cores, got {len(cores)}; two workers on one core say nothing")
    os.sched_setaffinity(0, cores[:workers])


def scaled(asked: StageOneSettings, folder: Path, paths: list[Path], workers: int) -> dict[str, float]:
    """Indexes the images with so many workers on as many cores, loading the models not counted."""
    hold(workers)
    folder.mkdir(parents=True)
    store = new_store(folder, paths)
    job = IndexJob(store, asked)
    report = run_local(job, workers)
    if report.failed or report.images != len(paths):
        sys.exit(f"expected all images to be indexed, got: {report}")
    spent = sum(receipt["seconds"] for receipt in job.folder.summaries(sorted(job.folder.done())))
    return rates(workers, len(paths), spent)


def side_by_side(asked: StageOneSettings, folder: Path, paths: list[Path], workers: int) -> dict[str, float]:
    """The same with as many processes that have a share of the images and a candidate cache each, and no fleet."""
    hold(workers)
    context = get_context("spawn")
    together, answers = context.Barrier(workers), context.SimpleQueue()
    processes = [
        context.Process(target=plain_worker, args=(asked, folder / str(i), paths[i::workers], together, answers))
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            sys.exit("a plain process ended without an answer; see its messages above")
    return rates(workers, len(paths), sum(answers.get() for _ in processes))


def plain_worker(asked: StageOneSettings, folder: Path, paths: list[Path], together: Any, answers: Any) -> None:
    """Loads the models, waits for the others to have theirs, and tells how long its images take."""
    torch.set_num_threads(1)
    StageOne.of(asked).load()
    together.wait(600)  # not for ever, if another one has died
    started = time.perf_counter()
    index_plainly(asked, folder, paths)
    answers.put(time.perf_counter() - started)


def rates(workers: int, images: int, spent: float) -> dict[str, float]:
    """Images a second, from the seconds that all workers were at work, loading the models not counted."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "images_per_s": workers * images / spent,
        "cpu_s_an_image": (used.ru_utime + used.ru_stime) / images,  # with loading, once a worker
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
    bucket, started, making = Bucket(folder), time.perf_counter(), list[float]()
    write_manifest(bucket, timed(made_up(rows), making))
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
    parts = {"list_s": listed - started - sum(making), "plan_s": counted - listed, "status_s": looked - forged}
    cpu = time.process_time()  # that of making up rows and receipts is in it
    figures = {**parts, "making_up_s": sum(making), "cpu_s": cpu, "peak_gb": peak, **sizes}
    return {"rows": rows, "seconds": sum(parts.values()), **figures}


def timed(pieces: Iterator[Any], seconds: list[float]) -> Iterator[Any]:
    """The same pieces; adds how long each took to come."""
    while True:
        started = time.perf_counter()
        piece = next(pieces, None)
        seconds.append(time.perf_counter() - started)
        if piece is None:
            return
        yield piece


def made_up(rows: int, at_once: int = 50_000) -> Iterator[Any]:
    """Images that are nowhere, named like FiftyOne's samples; as many at once as a view gives."""
    for start in range(0, rows, at_once):
        numbers = np.arange(start, min(start + at_once, rows))
        ids = texts_of(digits(numbers, 24, 16))
        folders, names = digits(numbers % 1000, 3), digits(numbers, 12)
        parts = ("/data/images/", folders, "/", names, ".jpg")
        yield columns_of(ids, texts_of(*parts), 200_000 + numbers % 1000, pyarrow.nulls(len(numbers), pyarrow.string()))


def digits(numbers: NDArray[np.int64], places: int, base: int = 10) -> NDArray[np.uint8]:
    """Numbers written with so many digits, one letter a column."""
    powers = base ** np.arange(min(places, 15), dtype=np.int64)[::-1]
    written = np.frombuffer(b"0123456789abcdef", np.uint8)[numbers[:, None] // powers % base]
    return np.pad(written, ((0, 0), (places - len(powers), 0)), constant_values=ord("0"))


def texts_of(*parts: str | NDArray[np.uint8]) -> Any:
    """Texts of one length as Arrow has them, from letters that all share and such that are a row's own."""
    rows = next(len(part) for part in parts if not isinstance(part, str))
    shared = {part: np.frombuffer(part.encode(), np.uint8) for part in parts if isinstance(part, str)}
    wide = [np.tile(shared[part], (rows, 1)) if isinstance(part, str) else part for part in parts]
    letters = np.concatenate(wide, axis=1)
    offsets = np.arange(rows + 1, dtype=np.int32) * letters.shape[1]
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(np.ascontiguousarray(letters))]
    return pyarrow.Array.from_buffers(pyarrow.string(), rows, buffers)


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
