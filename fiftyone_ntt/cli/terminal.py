"""What the command line and the demo draw in a terminal, with rich."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fiftyone_ntt.params.base import Progress

if TYPE_CHECKING:
    from fiftyone_ntt.evaluation.summary import EvaluationResults


def results_table(results: EvaluationResults, title: str | None = None) -> Table:
    """An evaluation as a table: one row a class below a row for all of them."""
    # Narrow enough for a terminal of 80 columns.
    caption = "in image: is the class in the image at all? precision, recall, F1"
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("\nclass", overflow="fold", min_width=12)
    names = {"objects": "\nobjects", "predictions": "\nfound", "box_ap": "box\nAP", "box_ap50": "box\nAP50"}
    names |= {"mask_ap": "mask\nAP", "mask_ap50": "mask\nAP50"}
    if results.semantic is not None:
        names = {"objects": "images\nwith it", "predictions": "found\nin", "iou": "\nIoU"}
    names |= {"precision": "image\nP", "recall": "image\nR", "f1": "image\nF1"}
    for header in names.values():
        table.add_column(header, justify="right", no_wrap=True)
    for number, row in enumerate(results.table()):
        cells = [_cell(row[key]) for key in names]
        table.add_row(escape(str(row["class"])), *cells, style="bold" if number == 0 else None)
        if number == 0:
            table.add_section()
    return table


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar in the terminal, fed by the ``(done, total, message)`` callback that every service takes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, TextColumn("[dim]{task.fields[message]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, message="")
        shown = 0.0

        def report(done: int, total: int, message: str) -> None:
            nonlocal shown
            if done >= total or time.monotonic() - shown > 0.1:
                shown = time.monotonic()
                bar.update(task, completed=done, total=total, message=escape(message))

        yield report


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
