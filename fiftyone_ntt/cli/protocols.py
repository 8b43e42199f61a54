"""Commands ``fiftyone-ntt protocol ...``: the published tables, one command each. A run needs no FiftyOne."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiftyone_ntt.cli.common import add_command, add_option, console, narrow_table, plain, progress_bar, say
from fiftyone_ntt.errors import counted
from fiftyone_ntt.params.base import PresetObject, StageOneSettings, param_of

_OUT = Path("protocol_results")
_STAGE_ONE = ("preset", "points_per_side", "precision", "device", "index_dir")


def add_commands(commands: Any) -> None:
    """Adds the commands of the group ``protocol``."""
    add_command(commands, "list", protocol_list, "the protocols: parts, shots, seeds, scorers")
    prepare = add_command(commands, "prepare", protocol_prepare, "say file by file what is there, and what is missing")
    run = add_command(
        commands, "run", protocol_run, "label, score, and write one JSON for each number of shots and seed"
    )
    for parser in (prepare, run):
        parser.add_argument("name", help="name of the protocol, see `list`")
        parser.add_argument("--data", type=Path, required=True, help="the data folder, laid out as `prepare` says")
        parser.add_argument(
            "--part", help="a split, set or fold, or `all` (default: the first; `prepare` looks at all)"
        )
        parser.add_argument("--out", type=Path, default=_OUT, help="folder of the results (default: %(default)s)")
    prepare.add_argument(
        "--masks", action="store_true", help="also make masks of reference boxes, where they are boxes"
    )
    run.add_argument("--shots", type=int, nargs="+", default=[1], help="references a class (default: 1)")
    run.add_argument("--seed", type=int, nargs="+", default=[],
                     help="draws (default: 33, or that of the protocol); fixed references have none")  # fmt: skip
    run.add_argument("--match", choices=("default", "published", "paper"), default="default",
                     help="scoring; 'paper' copies the published code's quirks (default: %(default)s)")  # fmt: skip
    run.add_argument("--scorers", nargs="+", default=[], help="names of scorers (default: those of the protocol)")
    run.add_argument("--limit", type=int, help="only so many images or episodes; such figures are not compared")
    run.add_argument("--evaluation-size", type=int,
                     help="of episodes: side of semantic masks when compared (default: the image's)")  # fmt: skip
    for parser in (prepare, run):
        _add_stage_one(parser)
    report = add_command(commands, "report", protocol_report, "results beside what is published")
    report.add_argument("results", type=Path, nargs="*", default=[_OUT], help="JSON files and folders")
    report.add_argument("--markdown", type=Path, help="also write a page of tables and curves, with pictures beside it")
    load = add_command(commands, "load", protocol_load, "make a FiftyOne dataset of a result, to look at")
    load.add_argument("result", type=Path, help="the JSON of a run")
    load.add_argument("--name", help="of the dataset (default: that of the file)")
    load.add_argument("--least-score", type=float, default=0.0, help="leave out labels at or below this score")


@dataclass(frozen=True, kw_only=True)
class _ProtocolStageOne(StageOneSettings):
    """A protocol has no memory bank whose models it could take."""

    preset: str | PresetObject | None = param_of(
        StageOneSettings, "preset", "lite", help="which pair of mask model and feature model to use"
    )


def _add_stage_one(parser: argparse.ArgumentParser) -> None:
    for info in _ProtocolStageOne.infos():
        if info.name in _STAGE_ONE:
            add_option(parser, info)


def _stage_one(options: dict[str, Any]) -> StageOneSettings:
    given = {name: options.pop(name) for name in _STAGE_ONE}
    return StageOneSettings.from_mapping(given)


def protocol_list() -> int:
    """Prints the protocols."""
    from fiftyone_ntt.evaluation.protocols.registry import PROTOCOLS

    table = narrow_table()
    for heading in ("protocol", "parts", "shots", "seeds", "scorers", "presence"):
        table.add_column(heading, overflow="fold")
    for protocol in PROTOCOLS.values():
        seeds = ", ".join(map(str, protocol.seeds)) or "fixed"
        shots = ", ".join(map(str, protocol.shots))
        table.add_row(
            protocol.name, ", ".join(protocol.parts), shots, seeds, ", ".join(protocol.scorers), protocol.presence
        )
    console().print(table)
    for protocol in PROTOCOLS.values():
        say(f"{protocol.name}: {protocol.summary}")
    return 0


def protocol_prepare(name: str, data: Path, part: str | None, out: Path, masks: bool, **options: Any) -> int:
    """Prints what is there and what is missing; 1 where something is."""
    from fiftyone_ntt.evaluation.protocols.prepare import make_masks, prepare
    from fiftyone_ntt.evaluation.protocols.registry import protocol_of

    protocol, stage_one = protocol_of(name), _stage_one(options)
    prepared = prepare(protocol, data, part)
    for one in prepared:
        say(f"{name} {one.part}")
        for needed in one.files:
            mark = "[green]ok[/]" if needed.there else "[bold red]missing[/]"
            kind = "folder with files" if needed.folder else "file"
            where = "" if needed.there else f" ({kind}; from {needed.source})"
            console().print(f"  {mark} {plain(needed.path)}{plain(where)}", soft_wrap=True)
        for line in one.lines:
            say(f"  {line}")
        if masks and one.complete:
            with progress_bar("masks") as progress:
                count = make_masks(protocol, data, out, one.part, stage_one, progress)
            say(f"  {counted(count, 'mask')} of boxes in {out}")
    missing = {needed.path for one in prepared for needed in one.files if not (needed.there or needed.optional)}
    if missing:
        say(f"{counted(len(missing), 'file or folder', 'files or folders')} missing; nothing is downloaded")
    problems = any(line.startswith("problem") for one in prepared for line in one.lines)
    return 1 if missing or problems else 0


def protocol_run(
    name: str,
    data: Path,
    part: str | None,
    out: Path,
    shots: list[int],
    seed: list[int],
    match: str,
    scorers: list[str],
    limit: int | None,
    evaluation_size: int | None,
    **options: Any,
) -> int:
    """Runs a protocol and prints its figures; 1 where images failed, or a scorer that was asked for was left out."""
    from fiftyone_ntt.evaluation.protocols.orders import Order
    from fiftyone_ntt.evaluation.protocols.protocol_run import run
    from fiftyone_ntt.evaluation.protocols.registry import protocol_of
    from fiftyone_ntt.evaluation.protocols.report import read_results

    order = Order(
        data, out, part, tuple(shots), tuple(seed), match, tuple(scorers), limit, evaluation_size, _stage_one(options)
    )  # fmt: skip
    with progress_bar("images") as progress:
        paths = run(protocol_of(name), order, progress)
    results = read_results(paths)
    _show(results)
    for path in paths:
        say(path)
    left_out = any(name in result["scorers_left_out"] for result in results for name in scorers)
    return 1 if left_out or any(result["failed"] for result in results) else 0


def protocol_report(results: list[Path], markdown: Path | None) -> int:
    """Prints results beside what is published."""
    from fiftyone_ntt.evaluation.protocols import report

    found = report.read_results(results)
    _show(found)
    if markdown is not None:
        for path in report.write_page(report.rows_of(found), markdown):
            say(path)
    return 0


def _show(results: list[dict[str, Any]]) -> None:
    from fiftyone_ntt.evaluation.protocols import report

    rows = report.rows_of(results)
    for presence, group in report.by_presence(rows).items():
        table = narrow_table(title=report.TITLES[presence], title_justify="left")
        table.add_column("", overflow="fold")
        for heading in ("expected", "measured", "difference"):
            table.add_column(heading, justify="right", no_wrap=True)
        last = ""
        for row in group:
            if row.title != last:
                table.add_row(plain(row.title), style="bold")
                last = row.title
            cells = (report.points(row.expected), report.points(row.measured), report.points(row.difference, "+.1f"))
            figures = (*cells[:2], f"{cells[2]} !" if row.marked else f"{cells[2]}  ")
            others = f" ({row.others})" if row.others else ""
            table.add_row(f"  {row.scorer} {row.metric}{others}", *figures, style="yellow" if row.marked else None)
        console().print(table)
    for source in sorted({source for row in rows for source in row.sources}):
        say(f"published, {source}")
    for result in results:
        for scorer, why in result["scorers_left_out"].items():
            say(f"{scorer} left out: {why}")
        for key, why in list(result["failed"].items())[:5]:
            say(f"failed {key}: {why}")


def protocol_load(result: Path, name: str | None, least_score: float) -> int:
    """Makes a dataset of a result."""
    from fiftyone_ntt.evaluation.protocols.fiftyone_result import load_result

    dataset = load_result(result, name, least_score=least_score)
    say(f"dataset {dataset.name!r}: {counted(len(dataset), 'sample')}, fields ground_truth and ntt")
    return 0
