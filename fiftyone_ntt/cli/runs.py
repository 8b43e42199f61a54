"""Commands ``fiftyone-ntt runs ...``: the labelling runs of a dataset, and what can be done with them."""

from __future__ import annotations

from collections.abc import Iterator
from json import dumps
from typing import Any

from fiftyone_ntt.cli.common import (
    add_command,
    add_option,
    console,
    dataset_of,
    narrow_table,
    plain,
    progress_bar,
    say,
    say_report,
)
from fiftyone_ntt.errors import InputError, counted, listing
from fiftyone_ntt.params.base import Params
from fiftyone_ntt.params.labelling import LowerThresholdParams, UndoParams

_COLOURS = {"running": "cyan", "completed": "green", "failed": "bold red", "interrupted": "yellow"}

_OPTIONS: dict[str, type[Params]] = {"lower": LowerThresholdParams, "undo": UndoParams}


def add_commands(commands: Any) -> None:
    """Adds the commands of the group ``runs``."""
    for name, function, text in (
        ("list", runs_list, "the labelling runs of a dataset: state, counts, speed"),
        ("show", runs_show, "what became of a run, and what undoing takes back; --json for all that is known"),
        ("resume", runs_resume, "go on with a run where it stopped, or help one that is at work"),
        ("lower", runs_lower, "write the weak labels that a run left out, from the candidate cache"),
        ("cancel", runs_cancel, "stop a run; what it has written stays"),
        ("undo", runs_undo, "take a run back"),
    ):
        parser = add_command(commands, name, function, text)
        parser.add_argument("dataset", help="name of a FiftyOne dataset")
        if name != "list":
            parser.add_argument("run_key", help="key of the run, see `list`")
        if name == "show":
            parser.add_argument("--json", action="store_true", help="print all that is known of the run, as JSON")
        for info in _OPTIONS[name].infos() if name in _OPTIONS else ():
            if info.name != "run_key":
                add_option(parser, info)


def runs_list(dataset: str) -> int:
    """Prints the runs of a dataset."""
    import fiftyone_ntt as ntt

    table = narrow_table()  # `show` tells the rest
    table.add_column("run", overflow="fold", min_width=8)
    for name in ("state", "ok", "empty", "error", "left", "per s", "to go", "started"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("state", "started") else "right")
    runs = ntt.list_runs(dataset_of(dataset))
    for run in runs:
        counts = (str(run["counts"].get(name, "-")) for name in ("ok", "empty", "error", "left"))
        speed, seconds = run.get("throughput"), run.get("eta_seconds")
        colour = _COLOURS.get(run["state"], "default")
        table.add_row(
            plain(run["run_key"]),
            f"[{colour}]{run['state']}[/]",
            *counts,
            f"{speed:.2f}" if speed else "-",
            duration(seconds) if seconds is not None else "-",
            str(run["started"] or "")[5:16].replace("T", " "),
        )
    console().print(table if runs else f"no labelling runs in {plain(dataset)}")
    for run in runs:
        if run.get("note"):
            say(f"run {run['run_key']!r}: {run['note']}")
    return 0


def runs_show(dataset: str, run_key: str, json: bool) -> int:
    """Prints one run: a summary in sentences, or all that is known of it."""
    import fiftyone_ntt as ntt

    runs = {run["run_key"]: run for run in ntt.list_runs(dataset_of(dataset))}
    if run_key not in runs:
        there = listing(map(repr, runs), like=repr(run_key))
        raise InputError(f"expected the key of a labelling run of {dataset!r}, got {run_key!r}; there is: {there}")
    run = runs[run_key]
    if json:
        console().print_json(dumps(run, default=str))
        return 0
    for line in _summary(run):
        say(line)
    say(f"`fiftyone-ntt runs show {dataset} {run_key} --json` tells all settings")
    return 0


def _summary(run: dict[str, Any]) -> Iterator[str]:
    """What became of a run first, then who made it and what can be undone."""
    from fiftyone_ntt.runs.listing import layer_in_words

    counts = run["counts"] or {}
    images = ", ".join(f"{counts[name]} {name}" for name in ("ok", "empty", "error", "left") if name in counts)
    field = f" in field {run['label_field']!r}" if run["label_field"] else ""
    yield f"run {run['run_key']!r} is {run['state']}: {images or 'nothing is done yet'}{field}"
    if run.get("error"):
        yield f"it failed: {run['error']}"
    if run.get("note"):
        yield f"note: {run['note']}"
    if run.get("eta_seconds") is not None:
        yield f"{run['throughput']:.2f} images a second, {duration(run['eta_seconds'])} to go"
    if run.get("started"):
        whom = f" by {run['started_by']} ({run['door']})" if run.get("started_by") else ""
        yield f"started {run['started'][:16].replace('T', ' ')}{whom}"
    if run.get("classes"):
        classes = counted(len(run["classes"]), "class", "classes")
        yield f"{classes}, preset {run['preset']}: {listing(run['classes'], 100)}"
    for number, layer in enumerate(reversed(run.get("layers") or [])):
        yield f"undo_run takes back {layer_in_words(layer)}" if not number else f"then {layer_in_words(layer)}"


def runs_resume(dataset: str, run_key: str) -> int:
    """Goes on with a run."""
    import fiftyone_ntt as ntt
    from fiftyone_ntt.runs.workers import Origin, through

    with progress_bar("images") as progress, through(Origin("cli")):
        report = ntt.resume_run(dataset_of(dataset), run_key, progress=progress)
    return say_report(report)


def runs_lower(dataset: str, run_key: str, score_threshold: float) -> int:
    """Writes labels down to another score threshold."""
    import fiftyone_ntt as ntt
    from fiftyone_ntt.runs.workers import Origin, through

    with progress_bar("images") as progress, through(Origin("cli")):
        report = ntt.lower_threshold(dataset_of(dataset), run_key, score_threshold, progress=progress)
    return say_report(report)


def runs_cancel(dataset: str, run_key: str) -> int:
    """Stops a run."""
    import fiftyone_ntt as ntt

    workers = ntt.cancel_run(dataset_of(dataset), run_key)
    say(f"run {run_key!r} cancelled; {counted(workers, 'worker')} told to stop")
    return 0


def runs_undo(dataset: str, run_key: str, keep_edited: bool) -> int:
    """Takes a run back."""
    from fiftyone_ntt.runs.undo import undo_last_layer

    say(undo_last_layer(dataset_of(dataset), run_key, keep_edited=keep_edited))
    return 0


def duration(seconds: float) -> str:
    """``"1:02:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
