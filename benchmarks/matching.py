"""Stage two alone, on one core, beside the plain one; and an image's size on disk: ``python -m benchmarks.matching``.

Matching and merging of a 640 x 480 image with 800 candidates and 20 classes, three times:

* ``discs``: ellipses of all sizes strewn evenly, vectors around random class directions;
* ``real``: what the preset ``lite`` finds in photographs, repeated with small shifts and noise up to the same number
  (left out where its weights are not on the machine);
* ``ragged``: masks as a model with random weights draws them, with thousands of runs of pixels and many specks each.

Of each, in one run, as CPU time (``_ms``) and wall time (``_wall_ms``): ``compact`` what stage one found, ``match``
that with the default, ``published_match`` with the published scores, ``raw_match`` the latter from raw logits and
tokens, pooling included, and ``plain`` the same in the plain order of work.

The vectors of stage two are what costs memory bandwidth: both have 1024 channels, as DINOv2 large gives. The size on
disk is that of 1024 ``discs`` with 37 x 37 tokens of 1024 channels made up as a smooth field of low rank plus noise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain, roofline
from benchmarks.arguments import count
from benchmarks.subjects import bank_of, ellipses, make_images
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.candidates.compact import CompactImage, compact
from fiftyone_ntt.core import (
    Candidates,
    ImageFrame,
    IndexedImage,
    Instances,
    MatchConfig,
    MemoryBank,
    Segmenter,
    match,
)
from fiftyone_ntt.errors import MissingWeightsError
from fiftyone_ntt.pixels.frames import MASK_SIDE

CHANNELS, GRID, SIDE = 1024, 37, 1024
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def tokens(seed: int = 0, noise: float = 0.1) -> Tensor:
    """float32 ``[37, 37, 1024]``: 24 smooth maps, each with a direction of its own, and noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 24, 7, 7, generator=random)
    maps = F.interpolate(coarse, size=(GRID, GRID), mode="bicubic")[0].flatten(1).T
    strength = torch.linspace(1, 0.2, 24)[:, None]
    field = maps @ (strength * torch.randn(24, CHANNELS, generator=random))
    return (field + noise * torch.randn(field.shape, generator=random)).reshape(GRID, GRID, CHANNELS)


def discs(count: int, size: tuple[int, int] = (480, 640), classes: int = 20, seed: int = 0) -> IndexedImage:
    """``count`` ellipses with vectors around ``classes`` directions, in an image squashed as for SAM2."""
    random = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 2, generator=random) * SIDE
    found = Candidates(
        ellipses(points, SIDE), 0.5 + 0.5 * torch.rand(count, generator=random), ImageFrame.squash(size, SIDE)
    )
    return IndexedImage(found, vectors(count, classes, seed), tokens(seed))


def vectors(count: int, classes: int, seed: int = 0, channels: int = CHANNELS) -> Tensor:
    """float32 ``[count, channels]`` around the directions that ``bank`` remembers."""
    random = torch.Generator().manual_seed(seed + 1)
    label = torch.randint(classes, (count,), generator=random)
    return _directions(classes, channels)[label] + 0.8 * torch.randn(count, channels, generator=random)


def bank(classes: int, shots: int = 3, channels: int = CHANNELS) -> MemoryBank:
    """References around one direction a class."""
    random = torch.Generator().manual_seed(2)
    directions = _directions(classes, channels).repeat_interleave(shots, dim=0)
    return bank_of((directions + 0.3 * torch.randn(directions.shape, generator=random)).numpy(), shots)


def _directions(classes: int, channels: int) -> Tensor:
    return torch.randn(classes, channels, generator=torch.Generator().manual_seed(3))


def real(count: int, points: int, classes: int = 20, photographs: Sequence[Path] = ()) -> IndexedImage:
    """What ``lite`` finds in photographs, repeated with shifts of up to eight mask pixels up to ``count``.

    Raises:
        MissingWeightsError: the preset's weights are not here.
    """
    from fiftyone_ntt.models.presets import load_preset

    segmenter = load_preset("lite", "cpu").segmenter(points)
    images = make_images(max(len(photographs), 1), (480, 640), photographs)[0]
    parts = [segmenter.candidates(image).candidates for image in images]
    found = Candidates(
        torch.cat([part.mask_logits for part in parts]),
        torch.cat([part.predicted_iou for part in parts]),
        parts[0].frame,
    )
    random = np.random.default_rng(0)
    logits, ious = [], []
    for i in range(count):
        one = found.mask_logits[i % len(found)].float()
        shift = (0, 0) if i < len(found) else tuple(int(step) for step in random.integers(-8, 9, 2))
        logits.append(torch.roll(one, shift, (0, 1)))
        ious.append(float(found.predicted_iou[i % len(found)]) - 0.02 * random.random() * (i >= len(found)))
    strewn = Candidates(torch.stack(logits), torch.tensor(ious), found.frame)
    return IndexedImage(strewn, vectors(count, classes), tokens())


def ragged(count: int, classes: int = 20, seed: int = 0, size: tuple[int, int] = (480, 640)) -> IndexedImage:
    """Masks of smooth shapes under noise of two grains: about 1,700 runs of pixels each."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.empty(count, MASK_SIDE, MASK_SIDE)
    for i in range(count):
        shape, grain = (
            F.interpolate(torch.randn(1, 1, side, side, generator=random), size=MASK_SIDE, mode="bicubic")[0, 0]
            for side in (6, 64)
        )
        noise = torch.randn(MASK_SIDE, MASK_SIDE, generator=random)
        logits[i] = 4 * (shape - 2 + 2.5 * (i % 64) / 63) + 1.5 * grain + 0.5 * noise
    iou = 0.5 + 0.5 * torch.rand(count, generator=random)
    return IndexedImage(Candidates(logits, iou, ImageFrame.squash(size, SIDE)), vectors(count, classes), tokens())


def time_ours(
    image: CompactImage, references: MemoryBank, config: MatchConfig, repeats: int
) -> tuple[float, Instances]:
    """Median seconds of stage two as the service runs it, from the content of the index."""
    times, result = timed(lambda: Segmenter.match(_as_read(image), references, config), repeats)
    return times.wall, result


def _as_read(image: CompactImage) -> CompactImage:
    """The image as one that has just been read: nothing of it is worked out yet."""
    return CompactImage.from_arrays(image.to_arrays())


def time_plain(
    image: IndexedImage, references: MemoryBank, config: MatchConfig, repeats: int
) -> tuple[float, plain.PlainResult]:
    """Median seconds of the plain stage two, from logits and vectors."""
    found = image.candidates
    times, result = timed(
        lambda: plain.match(found.mask_logits, found.predicted_iou, image.vectors, found.frame, references, config),
        repeats,
    )
    return times.wall, result


@dataclass(frozen=True)
class Times:
    """Median seconds of some work: on the clock, and of this process's CPU time."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any], repeats: int) -> tuple[Times, Any]:
    """Does work once to warm up and ``repeats`` times on the clock; also returns its last result."""
    result = work()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        result = work()
        cpu.append(time.process_time() - used)
        wall.append(time.perf_counter() - started)
    return Times(median(wall), median(cpu)), result


def side_by_side(subject: IndexedImage, references: MemoryBank, repeats: int, plainly: bool = True) -> dict[str, float]:
    """Milliseconds of CPU and wall time of every way from what stage one found to instances, in turns."""
    found, published = subject.candidates, MatchConfig.published()
    image, prototypes = compact(subject), torch.from_numpy(references.prototypes)

    def raw() -> Instances:
        fresh = Candidates(found.mask_logits, found.predicted_iou, found.frame)
        return match(fresh, subject.tokens, prototypes, published)

    def plain_order() -> plain.PlainResult:
        pooled = plain.pool(found.mask_logits, subject.tokens, found.frame)
        return plain.match(found.mask_logits, found.predicted_iou, pooled, found.frame, references, published)

    works: dict[str, Callable[[], Any]] = {
        "compact": lambda: compact(subject),
        "match": lambda: Segmenter.match(_as_read(image), references),
        "published_match": lambda: Segmenter.match(_as_read(image), references, published),
        "raw_match": raw,
        **({"plain": plain_order} if plainly else {}),
    }
    figures: dict[str, float] = {}
    for name, work in works.items():
        times, _ = timed(work, 1 if name == "plain" else repeats)
        figures |= {f"{name}_ms": 1000 * times.cpu, f"{name}_wall_ms": 1000 * times.wall}
    figures["match_to_published"] = figures["match_ms"] / figures["published_match_ms"]
    if plainly:
        figures["plain_to_raw"] = figures["plain_ms"] / figures["raw_match_ms"]
    return figures


def size_on_disk(count: int = 1024) -> dict[str, int]:
    """Bytes of the arrays of one image: of each, and together."""
    arrays = compact(discs(count)).to_arrays()
    return {
        **{name: int(array.nbytes) for name, array in arrays.items()},
        "total": sum(a.nbytes for a in arrays.values()),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures both sets of candidates."""
    from benchmarks.measure import agreement

    count = options.candidates
    subjects = {"discs": discs(count, classes=options.classes), "ragged": ragged(count, options.classes)}
    try:
        if options.points:
            subjects["real"] = real(count, options.points, options.classes, options.photographs)
    except MissingWeightsError as error:
        print(f"real candidates are left out: {error}", file=sys.stderr)
    references, config = bank(options.classes), MatchConfig.published()
    cases = {}
    for name, subject in subjects.items():
        image = compact(subject)
        ours, found = time_ours(image, references, config, options.repeats)
        case: dict[str, Any] = {"seconds": ours, "candidates": len(image.candidates), "instances": len(found)}
        case["default_seconds"] = time_ours(image, references, MatchConfig(), options.repeats)[0]
        case |= side_by_side(subject, references, options.repeats, options.plain)
        if options.plain:
            case["plain_seconds"], expected = time_plain(subject, references, config, 1)
            case["agreement"] = vars(agreement([found], [expected]))
        cases[name] = case
    return {"machine": roofline.machine(torch.device("cpu")), "cases": cases, "bytes": size_on_disk(options.stored)}


def report(figures: dict[str, Any], options: argparse.Namespace) -> str:
    """The figures as Markdown."""
    rows = []
    for name, case in figures["cases"].items():
        plainly, same = case.get("plain_seconds"), case.get("agreement")
        rows.append([name, str(case["candidates"]), str(case["instances"]), number(1000 * case["seconds"])])
        rows[-1] += [number(1000 * plainly), number(plainly / case["seconds"])] if plainly else ["-", "-"]
        rows[-1] += [f"{same['found']} of {same['instances']}", f"{same['score']:.1e}"] if same else ["-", "-"]
        rows[-1].append(number(1000 * case["default_seconds"]))
    heading = ["candidates", "number", "instances", "ms", "plain ms", "times faster", "same instances", "scores within",
               "default scoring ms"]  # fmt: skip
    parts = ", ".join(f"{name} {number(size / 1e6)}" for name, size in figures["bytes"].items() if size > 10_000)
    return "\n".join(
        [
            f"matching + merging, 480 x 640, {options.classes} classes, {CHANNELS} channels, one core; "
            f"median of {options.repeats} runs after one to warm up",
            "",
            table(heading, rows),
            "",
            "CPU ms / wall ms of each way, in turns",
            "",
            _ways(figures["cases"]),
            "",
            f"an image with {options.stored} candidates and {GRID} x {GRID} tokens of {CHANNELS} channels, MB: {parts}",
        ]
    )


def _ways(cases: Mapping[str, Mapping[str, float]]) -> str:
    ways = ["compact", "match", "published_match", "raw_match", "plain"]
    rows = [
        [name]
        + [f"{number(case.get(f'{way}_ms'))} / {number(case.get(f'{way}_wall_ms'))}" for way in ways]
        + [number(case.get(ratio)) for ratio in ("match_to_published", "plain_to_raw")]
        for name, case in cases.items()
    ]
    names = [way.replace("_", " ") for way in ways]
    return table(["candidates", *names, "match to published", "plain to raw"], rows)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.matching", description=__doc__.split("\n\n")[0])
    made.add_argument("--candidates", type=count, default=800)
    made.add_argument("--classes", type=count, default=20)
    made.add_argument("--points", type=int, default=12, help="points a side for the real candidates; 0 leaves them out")
    made.add_argument(
        "--photographs", type=Path, nargs="*", default=[], help="files for the real candidates; of scikit-image if none"
    )
    made.add_argument("--stored", type=count, default=1024, help="candidates of the image whose size is told")
    made.add_argument("--repeats", type=count, default=5)
    made.add_argument("--no-plain", dest="plain", action="store_false")
    made.add_argument("--json", type=Path)
    return made


def again_on_one_thread(module: str, arguments: Sequence[str] | None) -> int | None:
    """Runs ``module`` in a process whose numerical libraries have one thread; ``None`` if this is such a process."""
    if all(os.environ.get(name) == "1" for name in ONE_THREAD):
        return None
    command = [sys.executable, "-m", module, *(sys.argv[1:] if arguments is None else arguments)]
    # They read these when they are imported, which is too late here.
    return subprocess.run(command, env={**os.environ, **dict.fromkeys(ONE_THREAD, "1")}, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parser().parse_args(arguments)
    status = again_on_one_thread("benchmarks.matching", arguments)
    if status is not None:
        return status
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with torch.inference_mode():
        figures = run(options)
    print(report(figures, options))
    write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
