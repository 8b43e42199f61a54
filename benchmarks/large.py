"""What holds at a hundred thousand images: ``python -m benchmarks.large --samples 100000 --json FILE``.

A dataset of so many samples, and one of a tenth of it, are made by copying a few labelled ones (see ``large_data``).
Every step of the work runs on both, each in a process of its own, and is printed with wall seconds, CPU seconds of the
process and of the database, its peak memory and how far that grew in the step, and how many times longer it took with
ten times as many samples. Needs a database that FiftyOne reaches, see FIFTYONE_DATABASE_URI, on this machine, and room
on the disk: about 100 kB a sample, the candidate cache and an export included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.tables import number, table, write_json

Figures = dict[str, dict[str, float]]
"""Name of what was measured -> seconds, CPU seconds, megabytes."""
_HEADING = ["step", "s, a tenth", "s", "times", "CPU s", "database CPU s", "peak MB", "grown MB"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__.split("\n\n")[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--small", type=int, help="samples of the dataset to compare with; a tenth")
    parser.add_argument("--steps", help="only these, separated by commas")
    parser.add_argument("--folder", type=Path, help="for pictures, cache and exports; a temporary one unless named")
    parser.add_argument("--keep", action="store_true", help="leave the datasets, and use those that were left")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="run this step here (used internally)")
    options = parser.parse_args()
    if options.keep and options.folder is None:
        parser.error("--keep needs --folder: the pictures and the cache of the datasets lie there")
    if options.only:
        _run_here(options.only, options.samples, options.folder)
        return
    sizes = [options.small or max(options.samples // 10, 20), options.samples]
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntt-large-")))
        if not options.keep:
            stack.callback(_delete, sizes)
        by_size = {size: _all_steps(size, folder.absolute(), options) for size in dict.fromkeys(sizes)}
        small, large = (by_size[size] for size in sizes)
        rows = [[name, *_cells(small.get(name), figures)] for name, figures in large.items()]
        print(f"\n{sizes[0]} and {sizes[1]} samples\n\n{table(_HEADING, rows)}")
        write_json(options.json, {str(size): figures for size, figures in by_size.items()})


def _all_steps(samples: int, folder: Path, options: argparse.Namespace) -> Figures:
    steps = options.steps.split(",") if options.steps else []
    figures = _in_a_process("build", samples, folder) if not (options.keep and _is_there(samples)) else {}
    for step in steps or _steps():
        figures |= _in_a_process(step, samples, folder)
    return figures


def _steps() -> list[str]:
    from benchmarks.large_steps import STEPS

    return list(STEPS)


def _is_there(samples: int) -> bool:
    import fiftyone as fo

    from benchmarks.large_data import COMPLETE, dataset_name

    name = dataset_name(samples)
    return fo.dataset_exists(name) and COMPLETE in fo.load_dataset(name).info


def _delete(sizes: list[int]) -> None:
    import fiftyone as fo

    from benchmarks.large_data import dataset_name

    for size in sizes:
        if fo.dataset_exists(dataset_name(size)):
            fo.delete_dataset(dataset_name(size))


def _in_a_process(step: str, samples: int, folder: Path) -> Figures:
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.large", "--only", step, "--samples", str(samples)]
    result = subprocess.run([*command, "--folder", str(folder)], stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:  # the other steps are still worth knowing
        print(f"{step} with {samples} samples failed after {time.monotonic() - started:.0f} s", file=sys.stderr)
        return {f"{step}: failed": {}}
    figures: Figures = json.loads(result.stdout.splitlines()[-1])
    for name, row in figures.items():
        text = ", ".join(f"{key} {number(value)}" for key, value in row.items())
        print(f"{samples} samples, {name}: {text}", file=sys.stderr, flush=True)
    return figures


def _run_here(step: str, samples: int, folder: Path) -> None:
    import fiftyone as fo

    from benchmarks.large_data import build, dataset_name
    from benchmarks.large_steps import STEPS, Meter

    measure = Meter()
    if step == "build":
        with measure("build"):
            build(folder, samples)
    else:
        STEPS[step](fo.load_dataset(dataset_name(samples)), folder, measure)
    print(json.dumps(measure.rows))


def _cells(small: dict[str, float] | None, large: dict[str, float]) -> list[str]:
    before, now = (small or {}).get("seconds"), large.get("seconds")
    times: Any = now / before if before and now else None
    keys = ("cpu", "database_cpu", "peak_mb", "grown_mb")
    return [number(before), number(now), number(times), *(number(large.get(key)) for key in keys)]


if __name__ == "__main__":
    main()
