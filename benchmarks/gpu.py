"""Every precision of a card in one table: ``python -m benchmarks.gpu --preset large``.

One row a setting (fp32, tf32, bf16, fp16; eager, compiled, and compiled as CUDA graphs), all in one run on the same
images, beside the plain pipeline: seconds of warming up, ms of each stage, images a second end to end with JPEGs
decoded from memory, how many CPU cores that keeps busy, and how far the labels are those of fp32. With
``--random-weights`` it needs no weights. On a machine without a card ``--device cpu`` runs the same, for trying it out.
The options that are not here are those of ``benchmarks.pipeline``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks import pipeline, roofline
from benchmarks.arguments import names
from benchmarks.clock import STAGES
from benchmarks.measure import Agreement, Side, Subject, agreement, measure, optimised, plain, throughput
from benchmarks.plain import PlainResult
from benchmarks.tables import number, table, write_json
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.models.compiling import GRAPHS_VARIABLE

SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "tf32": {"precision": "fp32", "tf32": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "bf16+compile": {"precision": "bf16", "compile": True},
    "fp16+compile": {"precision": "fp16", "compile": True},
    "bf16+graphs": {"precision": "bf16", "compile": True, "graphs": True},
}
"""Name -> what differs. The first is what the others' labels are compared with."""
_TARGETS = {"bf16": 150.0, "bf16+compile": 60.0, "bf16+graphs": 60.0}
"""Milliseconds an image that are aimed at, with 1,024 points and the preset ``large``."""
_PARTS = ("masks", "boxes", "scores", "labels")


@dataclass(frozen=True, eq=False)
class Row:
    """What one setting took.

    Attributes:
        warm_up: seconds of ``Segmenter.warm_up``, which a worker takes once, before its first image.
        side: time of each stage and in all.
        images_per_second: end to end, JPEGs decoded from memory included.
        cores: CPU seconds that a second of that takes: how many cores it keeps busy.
        same: how far its labels are those of the first setting; ``None`` for that one.
    """

    warm_up: float
    side: Side
    images_per_second: float
    cores: float
    same: Agreement | None

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        same = None if self.same is None else vars(self.same)
        return {
            **self.side.figures(),
            "segmenter_warm_up": self.warm_up,
            "images_per_second": self.images_per_second,
            "cores": self.cores,
            "agreement_with_first": same,
        }


def run(options: argparse.Namespace) -> tuple[dict[str, Row], Side | None, dict[str, str]]:
    """Measures every setting that was asked for, then the plain pipeline; also says what the machine is."""
    rows: dict[str, Row] = {}
    first: list[Any] = []
    theirs: Side | None = None
    for name in options.settings:
        _say(f"{name}: loading models")
        with ExitStack() as stack:
            chosen = argparse.Namespace(**{**vars(options), "compile": False, **SETTINGS[name]})
            stack.callback(_ask_for_graphs, os.environ.get(GRAPHS_VARIABLE))
            _ask_for_graphs("1" if SETTINGS[name].get("graphs") else None)
            stack.callback(_allow_tf32, torch.backends.cuda.matmul.allow_tf32)
            # Before models are compiled: that holds for this switch, too.
            _allow_tf32(bool(SETTINGS[name].get("tf32")))
            subject, facts = pipeline.prepare(chosen, stack)
            rows[name] = _row(subject, options, first, facts["warm_up_seconds"])
            first = first or rows[name].side.results
            if options.plain and name == options.settings[-1]:
                _say("the plain pipeline")
                some = replace(subject, images=subject.images[:1])
                theirs = measure(plain(subject), some, 1, _warm_ups(subject))
    return rows, theirs, roofline.machine(subject.device)


def _row(subject: Subject, options: argparse.Namespace, first: Sequence[Any], warm_up: float) -> Row:
    side = measure(optimised(subject), subject, options.repeats, _warm_ups(subject))
    count = options.stream or (64 if subject.device.type == "cuda" else len(subject.images))
    cpu, started = time.process_time(), time.perf_counter()
    rate = throughput(subject, count)
    cores = (time.process_time() - cpu) / (time.perf_counter() - started)
    same = agreement(side.results, [_as_plain(result) for result in first]) if first else None
    return Row(warm_up, side, rate, cores, same)


def _warm_ups(subject: Subject) -> int:
    return 2 if subject.device.type == "cuda" else 0


def _as_plain(result: Any) -> PlainResult:
    """Instances in the form that ``agreement`` compares with."""
    parts = {name: torch.from_numpy(np.asarray(getattr(result, name))) for name in _PARTS}
    return PlainResult(**parts, candidates=len(result))


def _ask_for_graphs(value: str | None) -> None:
    if value is None:
        os.environ.pop(GRAPHS_VARIABLE, None)
    else:
        os.environ[GRAPHS_VARIABLE] = value


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def report(rows: dict[str, Row], theirs: Side | None, machine: dict[str, str]) -> str:
    """Everything as Markdown."""
    stages = [stage for stage in STAGES if any(stage in row.side.seconds for row in rows.values())]
    heading = ["setting", "warm-up, s", *(f"{stage}, ms" for stage in stages), "**ms an image**", "aim", "times faster"]
    heading += ["images/s", "cores busy", "labels as in the first", "largest change of score", "device GB"]
    body = [_cells(name, row, stages, theirs) for name, row in rows.items()]
    if theirs is not None:
        times = [number(1000 * theirs.seconds[stage]) if stage in theirs.seconds else "-" for stage in stages]
        body.append(
            ["plain, fp32", "-", *times, f"**{number(1000 * theirs.total)}**", "", "1", "-", "-", "-", "-", "-"]
        )
    return f"{roofline.describe(machine)}\n\n{table(heading, body)}"


def _cells(name: str, row: Row, stages: Sequence[str], theirs: Side | None) -> list[str]:
    side, same = row.side, row.same
    times = [number(1000 * side.seconds[stage]) if stage in side.seconds else "-" for stage in stages]
    faster = f"{theirs.total / side.total:.2f}" if theirs is not None else "-"
    alike = ["-", "-"] if same is None else [f"{same.found} of {same.instances}", f"{same.score:.1e}"]
    memory = "-" if side.peak.device is None else number(side.peak.device / 1e9)
    aim = number(_TARGETS.get(name)) if name in _TARGETS else ""
    cells = [name, number(row.warm_up), *times, f"**{number(1000 * side.total)}**", aim, faster]
    return [*cells, number(row.images_per_second), number(row.cores), *alike, memory]


def parser() -> argparse.ArgumentParser:
    """The options: those of ``benchmarks.pipeline`` and which settings."""
    made = pipeline.parser()
    made.prog, made.description = "python -m benchmarks.gpu", (__doc__ or "").split("\n\n")[0]
    made.add_argument("--settings", type=names, default=list(SETTINGS), help=f"all of {', '.join(SETTINGS)}")
    made.set_defaults(device="cuda", preset="large")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        unknown = [name for name in options.settings if name not in SETTINGS]
        if unknown:  # before any model is loaded
            raise InputError(f"expected settings of {', '.join(SETTINGS)}, got {', '.join(unknown)}")
        rows, theirs, machine = run(options)
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report(rows, theirs, machine))
    figures = {name: row.to_json() for name, row in rows.items()}
    write_json(options.json, {"machine": machine, "settings": figures, "plain": theirs and theirs.figures()})
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
