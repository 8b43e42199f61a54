"""The demo from start to end: references, memory bank, labels on the rest, evaluation, pictures.

Everything it makes lies in one folder, its database included; the user's own FiftyOne is never touched, unless
``FIFTYONE_DATABASE_URI`` names a database to use.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fiftyone_ntt.demo import overlays
from fiftyone_ntt.demo.data import DemoImage, load_images
from fiftyone_ntt.demo.database import start_database
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.pixels.drawing import encode_png
from fiftyone_ntt.pixels.files import write_file, write_problem
from fiftyone_ntt.pixels.images import read_image

if TYPE_CHECKING:
    import fiftyone as fo
    from rich.console import RenderableType

    from fiftyone_ntt.evaluation.summary import EvaluationResults
    from fiftyone_ntt.runs.segment import SegmentReport

logger = logging.getLogger(__name__)

DATASET = "ntt-demo"
REFERENCE_TAG = "ntt:reference"
SCORE_THRESHOLD = 0.32
"""Labels at or below are not kept. Chosen by looking at these pictures; other classes need another."""
POINTS_PER_SIDE = 12
"""Enough for objects of this size; the preset's 16 finds the same and takes nearly twice as long."""
_MARK = "ntt_demo"
InstallPlugin = Callable[[Path], object]
DrawResults = Callable[["EvaluationResults", str], "RenderableType"]


@dataclass
class DemoReport:
    """What the demo did.

    Attributes:
        results: the evaluation.
        report: the run that labelled the images.
        seconds: step -> wall time.
        pictures: the pictures written, the contact sheet first.
    """

    results: EvaluationResults
    report: SegmentReport
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)


def run_demo(
    output: Path, app: bool = False, *, install_plugin: InstallPlugin | None = None, draw_results: DrawResults
) -> DemoReport | None:
    """Runs the demo, or opens the App on a demo that ran before.

    Args:
        output: folder for everything the demo writes.
        app: opens FiftyOne's App on the dataset at the end, and waits until the user stops it. Where the demo has run
            in ``output`` before, it is not run again.
        install_plugin: puts the plugin into a plugins folder, for the App; not done where ``None``.
        draw_results: makes what the terminal shows of an evaluation, under a title.

    Returns:
        What was done; ``None`` where only the App was opened.

    Raises:
        InputError: there is a file in place of the folder, the photographs are missing, or the database holds another
            dataset of the demo's name.
        MissingWeightsError: the offline models are not on this machine.
    """
    output = output.expanduser().resolve()
    if output.exists() and not output.is_dir():
        raise InputError(f"expected a folder for what the demo writes, got the file {output}; choose another one")
    use_own_fiftyone(output, install_plugin)
    console = Console()
    if app and _finished_dataset() is not None:
        console.print(f"The demo has run in {output} before; opening it. (`fiftyone-ntt demo` runs it again.)")
        _open_app(console)
        return None
    report = _run(output, console)
    _tell(report, output, console, draw_results)
    if app:
        _open_app(console)
    return report


def use_own_fiftyone(output: Path, install_plugin: InstallPlugin | None = None) -> None:
    """Gives FiftyOne a database, a plugins folder and settings of the demo's own, before it is imported.

    Args:
        output: folder for everything the demo writes.
        install_plugin: puts the plugin into a plugins folder.

    Raises:
        InputError: FiftyOne is imported already and may use the user's own database; or there is no mongod.
    """
    if os.environ.get("FIFTYONE_DATABASE_URI"):
        return
    if "fiftyone" in sys.modules:
        raise InputError(
            "expected to run before FiftyOne is imported, so that the demo gets a database of its own; run it as "
            "`fiftyone-ntt demo`, or set FIFTYONE_DATABASE_URI to a database it may write to"
        )
    if install_plugin is not None:
        install_plugin(output / "plugins")
    os.environ.update(
        FIFTYONE_DATABASE_URI=start_database(output / "database"),
        FIFTYONE_CONFIG_PATH=str(output / "fiftyone.json"),  # there is none: plain defaults
        FIFTYONE_PLUGINS_DIR=str(output / "plugins"),
        FIFTYONE_DATABASE_VALIDATION="false",
        FIFTYONE_SHOW_PROGRESS_BARS="false",
        FIFTYONE_DO_NOT_TRACK="true",
    )


def build_dataset(output: Path, images: list[DemoImage]) -> fo.Dataset:
    """Writes the images and makes the FiftyOne dataset with ground truth and tagged references."""
    import fiftyone as fo

    if fo.dataset_exists(DATASET):
        old = fo.load_dataset(DATASET)
        if _MARK not in old.info:
            raise InputError(
                f"expected to be free to use the dataset name {DATASET!r}, but the database has a dataset of that name "
                "that the demo has not made; rename it, or unset FIFTYONE_DATABASE_URI"
            )
        old.delete()
    folder = output / "images"
    dataset = fo.Dataset(DATASET, persistent=True)
    dataset.info = {_MARK: "started"}
    dataset.add_samples([_sample(folder, image) for image in images])
    dataset.save_view("references", dataset.match_tags(REFERENCE_TAG))
    dataset.save_view("to_find", dataset.match_tags(REFERENCE_TAG, bool=False))
    return dataset


def _run(output: Path, console: Console) -> DemoReport:
    seconds: dict[str, float] = {}
    with _step("photographs and ground truth", seconds, console):
        dataset = build_dataset(output, load_images())
    import fiftyone_ntt as ntt

    with _step("memory bank from the references", seconds, console) as progress:
        ntt.build_memory_bank(
            dataset.match_tags(REFERENCE_TAG), "ground_truth", preset="lite", name="demo_bank", progress=progress
        )
    with _step("labels on the rest", seconds, console) as progress:
        report = ntt.segment(
            dataset,
            "demo_bank",
            "ntt",
            score_threshold=SCORE_THRESHOLD,
            points_per_side=POINTS_PER_SIDE,
            index_dir=output / "index",  # all the demo makes lies in one folder
            progress=progress,
        )
    with _step("evaluation", seconds, console) as progress:
        results = ntt.evaluate(
            dataset, "ntt", "ground_truth", eval_key="ntt_eval", score_threshold=SCORE_THRESHOLD, progress=progress
        )
    with _step("pictures", seconds, console) as progress:
        pictures = draw_pictures(dataset, output, progress)
    write_file(output / "results.json", json.dumps(results.to_dict(), indent=1) + "\n")
    dataset.info = {_MARK: "finished"}
    dataset.save()
    return DemoReport(results, report, seconds, pictures)


def draw_pictures(
    dataset: fo.Dataset, output: Path, progress: Callable[[int, int, str], None] | None = None
) -> list[Path]:
    """Draws ground truth beside labels for every image that has any, and one sheet of all; returns the files.

    A picture that cannot be drawn or written is left out, with a line in the log.
    """
    folder = output / "overlays"
    samples = {Path(sample.filepath).stem: sample for sample in dataset}
    classes = sorted(dataset.distinct("ground_truth.detections.label"))
    files, unread = [], set[str]()

    def draw(path: Path, make: Callable[[], Image.Image]) -> bool:
        try:
            write_file(path, encode_png(np.asarray(make())))
        except (OSError, InputError) as error:
            problem = write_problem(error) if isinstance(error, OSError) else error
            logger.warning("the picture %s is left out: %s", path.name, problem)
            return False
        return True

    for number, (name, sample) in enumerate(samples.items()):
        if progress:
            progress(number, len(samples) + 1, name)
        if REFERENCE_TAG not in sample.tags:
            path = folder / f"{name}.png"
            panels = partial(_side_by_side, sample, name, classes)
            if draw(path, panels):
                files.append(path)
            else:
                unread.add(name)
    overview = output / "overview.png"
    if progress:
        progress(len(samples), len(samples) + 1, overview.name)
    for name in unread:
        del samples[name]
    if draw(overview, partial(_contact_sheet, samples, classes)):
        files.insert(0, overview)
    if progress:
        progress(len(samples) + 1, len(samples) + 1, "")
    return files


def _side_by_side(sample: fo.Sample, name: str, classes: list[str]) -> Image.Image:
    return overlays.side_by_side([_truth(sample, name), _labelled(sample)], classes)


def _contact_sheet(samples: dict[str, Any], classes: list[str]) -> Image.Image:
    names = (
        ("coins_1", "motorcycle_left", "motorcycle_right"),
        ("coins_2", "coins_3"),
        ("astronaut", "chelsea", "coffee", "rocket"),
    )
    there = ([samples[name] for name in row if name in samples] for row in names)
    rows = [
        [_truth(item, "reference") if REFERENCE_TAG in item.tags else _labelled(item) for item in row]
        for row in there
        if row
    ]
    remark = (
        f"six coins and one motorcycle as references, nothing trained; offline preset lite, "
        f"labels above a score of {SCORE_THRESHOLD:g} (a fainter fill is a lower score)"
    )
    return overlays.contact_sheet("fiftyone-ntt: tag a few, find the rest", remark, rows, classes)


def _truth(sample: fo.Sample, title: str) -> overlays.Panel:
    pixels, shapes = _shapes(sample, "ground_truth")
    return overlays.Panel(pixels, shapes, title, _counted(shapes) if title == "reference" else "ground truth")


def _labelled(sample: fo.Sample) -> overlays.Panel:
    pixels, shapes = _shapes(sample, "ntt")
    # Labels far weaker than the best of the image would only clutter the picture; they are in the dataset.
    least = max((shape.score or 0.0 for shape in shapes), default=0.0) / 2
    drawn = [shape for shape in shapes if (shape.score or 0.0) >= least]
    weak = len(shapes) - len(drawn)
    hidden = f", {weak} weak {'one' if weak == 1 else 'ones'} not drawn" if weak else ""
    return overlays.Panel(pixels, drawn, "found", (_counted(drawn) or "nothing") + hidden)


def _shapes(sample: fo.Sample, field_name: str) -> tuple[Any, list[overlays.Shape]]:
    from fiftyone_ntt.dataset.geometry import full_mask

    pixels = read_image(sample.filepath)
    labels = sample[field_name].detections if sample[field_name] is not None else []
    size = (pixels.shape[0], pixels.shape[1])
    return pixels, [overlays.Shape(label.label, full_mask(label, size), label.confidence) for label in labels]


def _counted(shapes: list[overlays.Shape]) -> str:
    names = [shape.label for shape in shapes]
    return ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))


def _sample(folder: Path, image: DemoImage) -> fo.Sample:
    import fiftyone as fo

    path = folder / f"{image.name}.png"
    write_file(path, encode_png(image.pixels))
    height, width = image.pixels.shape[:2]
    labels = []
    for item in image.objects:
        rows, columns = np.flatnonzero(item.mask.any(1)), np.flatnonzero(item.mask.any(0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        labels.append(fo.Detection(label=item.label, bounding_box=box, mask=item.mask[top:bottom, left:right]))
    tags = [REFERENCE_TAG] if image.reference else []
    size = fo.ImageMetadata(width=width, height=height, num_channels=3, mime_type="image/png")
    return fo.Sample(filepath=str(path), tags=tags, metadata=size, ground_truth=fo.Detections(detections=labels))


def _finished_dataset() -> fo.Dataset | None:
    import fiftyone as fo

    if not fo.dataset_exists(DATASET):
        return None
    dataset = fo.load_dataset(DATASET)
    return dataset if dataset.info.get(_MARK) == "finished" else None


def _open_app(console: Console) -> None:
    import fiftyone as fo

    session = fo.launch_app(_finished_dataset())
    console.print(f"The App is at http://localhost:{session.server_port} - stop it with Ctrl+C.")
    session.wait(-1)


def _tell(report: DemoReport, output: Path, console: Console, draw_results: DrawResults) -> None:
    console.print()
    title = (
        f"{counted(report.report.done, 'image')}, labels above {SCORE_THRESHOLD:g}, against the outlines drawn by hand"
    )
    console.print(draw_results(report.results, title))
    steps = ", ".join(f"{name} {spent:.0f} s" for name, spent in report.seconds.items())
    console.print(f"Took {sum(report.seconds.values()):.0f} s: {steps}.", soft_wrap=True)
    if report.pictures:
        console.print(f"Pictures: {report.pictures[0]} and {report.pictures[-1].parent}", soft_wrap=True)
    place = "" if output == Path("demo_output").resolve() else f" --output {output}"
    console.print(f"Open the App on it: [bold]fiftyone-ntt demo --app{place}[/]", soft_wrap=True)
    if "VIRTUAL_ENV" not in os.environ and Path(sys.prefix, "pyvenv.cfg").is_file():
        console.print(f"(the command is {Path(sys.executable).with_name('fiftyone-ntt')})", soft_wrap=True)


@contextmanager
def _step(name: str, seconds: dict[str, float], console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Times a step and shows its progress."""
    started = time.monotonic()
    columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("[dim]{task.fields[message]}"), console=console) as bar:
        task = bar.add_task(name, total=None, message="")

        def report(done: int, total: int, message: str) -> None:
            bar.update(task, completed=done, total=total, message=message)

        yield report
        total = bar.tasks[task].total or 1
        bar.update(task, completed=total, total=total, message="")
    seconds[name] = time.monotonic() - started
