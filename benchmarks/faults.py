"""Workers killed at random moments, resumed, and compared with an undisturbed run: ``python -m benchmarks.faults``.

In every round a worker process labels a small dataset with small random networks and is killed with SIGKILL: in odd
rounds at a moment of the clock, in even ones right before one of its writes to the database. Another worker goes on.
Afterwards labels, boxes, scores, masks and statuses must be those of a run that nothing disturbed. With
``--workers 2`` two of them share the run and one is killed. Everything lies in a temporary folder, the database too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import count
from benchmarks.tables import write_json
from fiftyone_ntt.demo.database import start_database

if TYPE_CHECKING:
    from benchmarks.faults_rounds import Round


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=count, default=50, help="kills")
    parser.add_argument("--workers", type=count, default=1, help="workers at the same time, one of which is killed")
    parser.add_argument("--images", type=count, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ntt-faults-") as temporary:
        use_own_database(Path(temporary))
        from benchmarks.faults_rounds import Faults

        started, results = time.monotonic(), []
        faults = Faults(Path(temporary), options.images, options.seed)
        print(f"undisturbed: {faults.seconds:.1f} s, {faults.writes} writes, {faults.labels} labels")
        try:
            for number in range(1, options.rounds + 1):
                result = faults.round("time" if number % 2 else "write", options.workers)
                results.append(result)
                print(f"{number:4d} {result}", flush=True)
        finally:
            faults.close()
    figures = summary(results)
    print(" ".join(f"{name} {figures[name]}" for name in ("rounds", "survived", "lost", "doubled")))
    print(f"in {time.monotonic() - started:.0f} s")
    write_json(options.json, {**figures, "workers": options.workers, "images": options.images, "seed": options.seed})
    if figures["survived"] < figures["rounds"]:
        raise SystemExit(1)


def summary(results: list[Round]) -> dict[str, Any]:
    """Rounds, those that survived, and over all rounds the samples lost and doubled."""
    return {
        "rounds": len(results),
        "survived": sum(result.survived for result in results),
        "lost": sum(len(result.lost) for result in results),
        "doubled": sum(len(result.doubled) for result in results),
        "kills": [str(result) for result in results],
    }


def use_own_database(folder: Path) -> None:
    """Gives FiftyOne, before it is imported, a database that this process ends with."""
    os.environ.update(
        FIFTYONE_DATABASE_URI=start_database(folder / "database"),
        FIFTYONE_CONFIG_PATH=str(folder / "fiftyone.json"),  # there is none: plain defaults
        FIFTYONE_PLUGINS_DIR=str(folder / "plugins"),
        FIFTYONE_DATABASE_VALIDATION="false",
        FIFTYONE_SHOW_PROGRESS_BARS="false",
        FIFTYONE_DO_NOT_TRACK="true",
    )


if __name__ == "__main__":
    main()
