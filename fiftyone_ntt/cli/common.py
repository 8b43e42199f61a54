"""What the commands share: how a parser gets its options, which samples are meant, what is drawn in a terminal."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fiftyone_ntt.errors import InputError, as_text, listing, spelt_out
from fiftyone_ntt.params.base import Params, Progress
from fiftyone_ntt.params.param_info import ParamInfo
from fiftyone_ntt.params.wording import for_command_line

if TYPE_CHECKING:
    import fiftyone as fo
    from fiftyone.core.collections import SampleCollection

    from fiftyone_ntt.evaluation.summary import EvaluationResults


"""Of datasets that a message lists."""
Command = Callable[..., int]
"""Does what a command says with its options; returns the exit status."""


class Report(Protocol):
    """What a service returns that goes through images.

    Attributes:
        errors: sample id -> what went wrong.
    """

    errors: dict[str, str]


def add_group(commands: Any, name: str, help: str) -> Any:
    """Adds a group of commands; returns where to add them."""
    return commands.add_parser(name, help=help).add_subparsers(required=True, metavar="COMMAND")


def add_command(commands: Any, name: str, function: Command, help: str) -> argparse.ArgumentParser:
    """Adds a command; returns its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=function)
    return parser


def add_service(commands: Any, name: str, function: Command, params: type[Params], help: str) -> None:
    """Adds a command that works on samples, with an option a parameter."""
    parser = add_command(commands, name, function, help)
    parser.add_argument("dataset", help="name of a FiftyOne dataset")
    parser.add_argument("--tag", help="only samples with this tag")
    parser.add_argument("--saved-view", help="only this saved view")
    for info in params.infos():
        add_option(parser, info)


def add_option(parser: argparse.ArgumentParser, info: ParamInfo) -> None:
    """Adds a parameter as an option: its name, help, default and choices are those of the declaration."""
    flags = [f"--{info.name.replace('_', '-')}", *(["--field"] if info.name == "label_field" else [])]
    shown = {True: "yes", False: "no"}[info.default] if info.kind is bool else info.default
    default = "" if info.default is None else f" (default: {shown})"
    keywords: dict[str, Any] = {"dest": info.name, "help": (info.help + default).replace("%", "%%")}
    if info.kind is bool:
        keywords |= {"action": argparse.BooleanOptionalAction}
        parser.set_defaults(**{info.name: info.default})  # given to the action, Python 3.10 says it a second time
    elif info.kind is tuple:
        keywords |= {"nargs": "+", "metavar": "NAME", "default": info.default}
    else:
        keywords |= {"type": info.kind, "choices": info.choices, "default": info.default}
    parser.add_argument(*flags, required=info.required, **keywords)


def dataset_of(name: str) -> fo.Dataset:
    """The dataset of a name."""
    import fiftyone as fo

    if not fo.dataset_exists(name):
        there = listing(fo.list_datasets(), like=name)
        raise InputError(f"expected the name of a FiftyOne dataset, got {name!r}; there is: {there}")
    return fo.load_dataset(name)


def view_of(dataset: str, tag: str | None, saved_view: str | None) -> SampleCollection:
    """The samples that a command is for."""
    view: SampleCollection = dataset_of(dataset)
    if saved_view is not None:
        if not view.has_saved_view(saved_view):
            there = listing(view.list_saved_views(), like=saved_view)
            raise InputError(f"dataset {dataset!r} has no saved view {saved_view!r}; there is: {there}")
        try:
            view = view.load_saved_view(saved_view)
        except Exception as error:  # whatever FiftyOne raises where a field is gone that the view asks for
            raise InputError(
                f"saved view {saved_view!r} of dataset {dataset!r} can no longer be loaded ({error}); save it again, "
                "or leave it out"
            ) from error
    return view if tag is None else view.match_tags(tag)


def console(**options: Any) -> Console:
    """A console that takes no ``:name:`` for a picture."""
    return Console(emoji=False, **options)


def plain(text: object) -> str:
    """Text as it is, for a console: names of strangers are no markup, and nothing that a terminal would obey."""
    return escape(spelt_out(str(text)))


def say(text: object) -> None:
    """Prints what a service says in one line, however long it is, in the words of the command line."""
    say_as_it_is(for_command_line(text))


def say_as_it_is(text: object) -> None:
    """Prints a line of code or a path."""
    console().print(spelt_out(str(text)), soft_wrap=True, markup=False)


def say_report(report: Report, *lines: str) -> int:
    """Prints a report, further lines, and what failed; returns the exit status: 1 where anything did."""
    for line in (report, *lines):
        say(line)
    for sample_id, error in report.errors.items():
        said = plain(for_command_line(error))
        console().print(f"[yellow]failed[/] {plain(as_text(sample_id))}: {said}", soft_wrap=True)
    return 1 if report.errors else 0


def narrow_table(**options: Any) -> Table:
    """A table that fits into a terminal of 80 columns."""
    return Table(**{"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), **options})


def results_table(results: EvaluationResults, title: str | None = None) -> Table:
    """An evaluation as a table: one row a class below a row for all of them."""
    caption = "in image: is the class in the image at all? precision, recall, F1"
    caption += "" if results.boundary is None else "\nedge: boundary AP, of masks that agree along their borders, too"
    table = narrow_table(title=title, title_justify="left", caption=caption, caption_justify="left", padding=0)
    table.add_column("\nclass", overflow="fold", min_width=12)
    names = {"objects": "ob-\njects", "predictions": "\nfound", "box_ap": "box\nAP", "box_ap50": "box\nAP50"}
    names |= {"mask_ap": "mask\nAP", "mask_ap50": "mask\nAP50"}
    if results.boundary is not None:
        names |= {"boundary_ap": "edge\nAP"}
    if results.review is not None:
        names |= {"label_precision": "label\nP", "label_recall": "label\nR"}
    if results.semantic is not None:
        names = {"objects": "images\nwith it", "predictions": "found\nin", "iou": "\nIoU"}
    names |= {"precision": "image\nP", "recall": "image\nR", "f1": "image\nF1"}
    for header in names.values():
        table.add_column(header, justify="right", no_wrap=True)
    for number, row in enumerate(results.table()):
        cells = [_cell(row[key]) for key in names]
        table.add_row(plain(as_text(row["class"])), *cells, style="bold" if number == 0 else None)
        if number == 0:
            table.add_section()
    return table


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar in the terminal, fed by the ``(done, total, message)`` callback that every service takes.

    It appears with the first step: a service that refuses before costs a sentence and no bar.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Bar(*columns, TextColumn("[dim]{task.fields[message]}"), console=console(stderr=True))
    task = bar.add_task(title, total=None, message="")
    last = 0.0

    def report(done: int, total: int, message: str) -> None:
        nonlocal last
        bar.start()  # does nothing where it is there
        if done >= total or time.monotonic() - last > 0.1:
            last = time.monotonic()
            bar.update(task, completed=done, total=total, message=plain(as_text(message)))

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()


def _cell(value: object) -> str:
    """Shares in four letters, ``.867`` or ``1.00``: all columns and the class fit into 80."""
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.3f}".removeprefix("0") if round(value, 3) < 1 else f"{value:.2f}"
