"""Commands ``fit-thresholds``, ``judge-presence`` and ``to-segmentation``: what comes after labelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fiftyone_ntt.params.review import FitThresholdsParams, JudgePresenceParams, ToSegmentationParams


def add_commands(commands: Any, command: Callable[..., Any], service: Callable[..., None], option: Any) -> None:
    """Adds the commands.

    Args:
        commands: where to add them.
        command: makes the parser of one.
        service: makes the parser of one that works on samples.
        option: adds a parameter to a parser.
    """
    text = "find the score above which labels of each class count, from what was accepted and rejected"
    parser = command(commands, "fit-thresholds", fit_thresholds, text)
    parser.add_argument("dataset", help="name of a FiftyOne dataset")
    parser.add_argument("run_key", help="key of the run whose labels were reviewed, see `runs list`")
    for info in FitThresholdsParams.infos():
        if info.name != "run_key":
            option(parser, info)
    text = "write of each image which classes are in it and which are not"
    service(commands, "judge-presence", judge_presence, JudgePresenceParams, text)
    text = "paint the labels of each image into one map of classes"
    service(commands, "to-segmentation", to_segmentation, ToSegmentationParams, text)


def fit_thresholds(dataset: str, run_key: str, **options: Any) -> int:
    """Fits thresholds and prints them."""
    params = FitThresholdsParams.from_mapping({"run_key": run_key, **options}).to_mapping()
    import fiftyone_ntt as ntt
    from fiftyone_ntt.cli.main import view_of

    fit = ntt.fit_thresholds(view_of(dataset, None, None), **params)
    table = _table("class", "threshold", "expected right", "expected found", "right", "wrong", "fitted on")
    for number, row in enumerate(fit.rows()):
        shares = ("-" if row[key] is None else f"{row[key]:.0%}" for key in ("precision", "recall"))
        cells = (f"{row['threshold']:.3f}", *shares, str(row["right"]), str(row["wrong"]), row["basis"])
        table.add_row(escape(row["name"]), *cells, style="bold" if number == 0 else None)
    Console().print(table)
    Console().print(escape(str(fit)), soft_wrap=True)
    return 0


def judge_presence(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Writes verdicts and prints in how many images each class is."""
    params = JudgePresenceParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt
    from fiftyone_ntt.cli.main import view_of

    report = ntt.judge_presence(view_of(dataset, tag, saved_view), **params)
    table = _table("class", "images with it", "without it")
    for row in report.rows():
        table.add_row(escape(row["class"]), str(row["present"]), str(row["absent"]))
    Console().print(table)
    Console().print(escape(str(report)), soft_wrap=True)
    return 0


def to_segmentation(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Writes class maps and prints what the values mean."""
    params = ToSegmentationParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt
    from fiftyone_ntt.cli.main import view_of
    from fiftyone_ntt.cli.terminal import progress_bar

    with progress_bar("maps") as progress:
        report = ntt.to_segmentation(view_of(dataset, tag, saved_view), progress=progress, **params)
    Console().print(escape(str(report)), soft_wrap=True)
    for value, name in enumerate(report.classes, start=1):
        Console().print(f"{value} = {escape(name)}", soft_wrap=True)
    for sample_id, error in report.errors.items():
        Console().print(f"[yellow]failed[/] {sample_id}: {escape(error)}", soft_wrap=True)
    return 1 if report.errors else 0


def _table(first: str, *others: str) -> Table:
    # Narrow enough for a terminal of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold", min_width=12)
    for name in others:
        table.add_column(name, justify="left" if name == "fitted on" else "right")
    return table
