"""How cost grows with points, candidates, classes, references and image size, plotted: ``python -m benchmarks.growth``.

Points: the preset ``lite``, both stages, on one photograph, all cores. All else is stage two (matching and merging from
the content of the index, prototypes made anew) on one core and synthetic candidates (``benchmarks.matching.discs``: 800
of them, 1024 channels, 20 classes, 480 x 640 where nothing else is said). The plain stage two stands beside it where
its full-size masks fit into 3 GB.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import matching, roofline
from benchmarks.arguments import count
from benchmarks.clock import median_seconds
from benchmarks.subjects import make_bank, make_images
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.candidates.compact import CompactImage, compact
from fiftyone_ntt.core import IndexedImage, MatchConfig, MemoryBank, Segmenter
from fiftyone_ntt.errors import MissingWeightsError

PLAIN_BYTES = 3e9
"""The plain stage two is left out where its full-size masks (9 bytes a pixel and candidate) would need more."""


@dataclass
class Series:
    """One plot.

    Attributes:
        name: of the file.
        title: above the plot.
        xlabel: what grows.
        x: its values.
        ours: seconds at each.
        plain: seconds of the plain way; ``None`` where not measured.
    """

    name: str
    title: str
    xlabel: str
    x: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    plain: list[float | None] = field(default_factory=list)

    def add(self, x: float, ours: float, plainly: float | None = None) -> None:
        self.x.append(x)
        self.ours.append(ours)
        self.plain.append(plainly)


def points(sides: Sequence[int]) -> Series:
    """Both stages against the number of prompts.

    Raises:
        MissingWeightsError: the weights of ``lite`` are not here.
    """
    from fiftyone_ntt.models.presets import load_preset

    series = Series("points", "preset lite: one image, both stages", "prompt points")
    loaded = load_preset("lite", "cpu")
    image = make_images(1, (480, 640))[0][0]
    references = make_bank(loaded.segmenter(), image, 20)
    loaded.segmenter(2).segment(image, references)
    for side in sides:
        segmenter = loaded.segmenter(side)
        started = time.perf_counter()
        segmenter.match(compact(segmenter.candidates(image)), references)
        series.add(side**2, time.perf_counter() - started)
    return series


def candidates(counts: Sequence[int], repeats: int) -> Series:
    """Stage two against the many of candidates."""
    series = Series("candidates", "stage two: matching and merging", "candidates")
    for many in counts:
        _stage_two(series, many, matching.discs(many), matching.bank(20), repeats)
    return series


def classes(counts: Sequence[int], repeats: int) -> Series:
    """Stage two against the many of classes: more labels, so fewer candidates of each."""
    series = Series("classes", "stage two: matching and merging", "classes")
    for many in counts:
        _stage_two(series, many, matching.discs(800, classes=many), matching.bank(many), repeats)
    return series


def references(counts: Sequence[int], repeats: int) -> Series:
    """Stage two, with a new memory bank each time, against the references of each class."""
    series = Series("references", "stage two with a new memory bank of 20 classes", "references a class")
    image = matching.discs(800)
    for many in counts:
        _stage_two(series, many, image, matching.bank(20, shots=many), repeats)
    return series


def image_size(megapixels: Sequence[float], repeats: int) -> Series:
    """Stage two against the size of the image."""
    series = Series("image_size", "stage two: matching and merging", "megapixels (4:3)")
    for size in megapixels:
        height = round((size * 1e6 * 3 / 4) ** 0.5)
        _stage_two(series, size, matching.discs(800, (height, round(height * 4 / 3))), matching.bank(20), repeats)
    return series


def _stage_two(series: Series, x: float, image: IndexedImage, bank: MemoryBank, repeats: int) -> None:
    small = compact(image)
    config = MatchConfig.published()
    ours = median_seconds(lambda: _match_anew(small, bank, config), repeats)
    height, width = image.candidates.frame.image_size
    affordable = 9 * min(len(image.candidates), 800) * height * width < PLAIN_BYTES
    series.add(x, ours, matching.time_plain(image, bank, config, 1)[0] if affordable else None)
    print(f"{series.name} {x:g}: {1000 * ours:.0f} ms", file=sys.stderr, flush=True)


def _match_anew(image: CompactImage, bank: MemoryBank, config: MatchConfig) -> object:
    return Segmenter.match(image, bank.changed(), config)  # a copy has not made its prototypes yet


def draw(series: Series, folder: Path) -> Path:
    """Writes the plot as SVG, the same file for the same figures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = series.name
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(series.x, [1000 * value for value in series.ours], marker="o", label="this project")
    known = [(x, 1000 * value) for x, value in zip(series.x, series.plain, strict=True) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), marker="s", linestyle="--", label="plain")
        axes.legend()
    axes.set(title=series.title, xlabel=series.xlabel, ylabel="ms", xscale="log", yscale="log")
    ticks = [f"{x:g}" for x in series.x]
    axes.set_xticks(series.x, ticks)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"perf_{series.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def run(options: argparse.Namespace) -> list[Series]:
    """Measures every series; ``--quick`` takes the small end of each."""
    quick, repeats = options.quick, options.repeats
    measured: list[Series] = []
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        measured.append(points([2, 4] if quick else [4, 8, 12, 16, 24]))
    except MissingWeightsError as error:
        print(f"points are left out: {error}", file=sys.stderr)
    torch.set_num_threads(1)
    measured.append(candidates([50, 100] if quick else [50, 100, 200, 400, 800, 1600], repeats))
    measured.append(classes([1, 5] if quick else [1, 5, 20, 80, 320, 1200], repeats))
    measured.append(references([1, 5] if quick else [1, 5, 10, 30, 100], repeats))
    measured.append(image_size([0.1, 0.3] if quick else [0.1, 0.3, 1, 3, 12], repeats))
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/images"), help="where the plots go")
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--quick", action="store_true", help="a few small values only")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    status = matching.again_on_one_thread("benchmarks.growth", arguments)
    if status is not None:
        return status
    with torch.inference_mode():
        measured = run(options)
    for series in measured:
        rows = [
            [f"{x:g}", number(1000 * ours), number(None if plainly is None else 1000 * plainly)]
            for x, ours, plainly in zip(series.x, series.ours, series.plain, strict=True)
        ]
        print(f"{series.title} ({draw(series, options.folder)})\n")
        print(table([series.xlabel, "ms", "plain ms"], rows) + "\n")
    figures: dict[str, Any] = {"machine": roofline.machine(torch.device("cpu"))}
    write_json(options.json, {**figures, "series": [asdict(series) for series in measured]})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
