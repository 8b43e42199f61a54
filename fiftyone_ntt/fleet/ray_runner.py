"""Running a job on a Ray cluster. Only paths and settings go through Ray, and receipts are the only checkpoint.

One actor a worker, which loads the models once and keeps them; one row a unit. An image that fails is a row of its
unit's receipt. A node that goes takes the units with it that it was at: Ray gives them to others.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.fleet.bucket import FleetError, needed
from fiftyone_ntt.fleet.jobs import Job, Place
from fiftyone_ntt.fleet.runners import FleetReport, begin, tell
from fiftyone_ntt.params.base import Progress

logger = logging.getLogger(__name__)

_MOST_BLOCKS = 2000
"""Blocks of units that Ray keeps in mind. A block that is lost half-way is begun again, and finds receipts."""


def run_ray(
    job: Job,
    workers: int,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> FleetReport:
    """Does the missing units of one part on a Ray cluster: the one that ``RAY_ADDRESS`` names, or this machine.

    Args:
        job: what to do. Every node must have this package, the weights, and a way to the store and the images.
        workers: how many actors.
        cpus: CPUs that Ray sets aside for each, which is also how many threads its models take.
        gpus: GPUs that Ray sets aside for each.
        part: this call's number and how many there are.
        progress: called with (done, total, message).

    Raises:
        FleetError: if Ray is missing, or a unit cannot be done.

    Example:
        >>> print(run_ray(IndexJob("s3://bucket/fleet"), 32, gpus=1, cpus=4))  # doctest: +SKIP
    """
    if workers < 1 or cpus <= 0 or gpus < 0:
        raise InputError(f"expected at least one worker with some CPU, got {workers} with {cpus} CPUs, {gpus} GPUs")
    ray, data = needed("ray"), needed("ray.data")
    report, mine = begin(job, part)
    if not mine:
        return report
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    rows = [{"manifest": p.manifest, "number": p.number, "unit": p.unit, "rows": p.rows} for p in mine]
    units = data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    results = units.map_batches(
        RayWorker,
        fn_constructor_kwargs={"job": job, "threads": max(1, int(cpus))},
        compute=data.ActorPoolStrategy(size=min(workers, len(rows))),
        batch_size=1,
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        for done in results.iter_rows():
            if done["error"]:
                raise FleetError(done["error"])
            report.count(done)
            tell(progress, report, len(mine))
    except ray.exceptions.RayError as error:
        raise FleetError(f"Ray gave up: {error}; what is done stays, and the same call does the rest") from error
    return report


class RayWorker:
    """The actor.

    Args:
        job: what to do.
        threads: that its models take.
    """

    def __init__(self, job: Job, threads: int) -> None:
        torch.set_num_threads(threads)
        self._error, self._do = "", None
        try:
            self._do = job.start()
        except NttError as error:  # an exception would make Ray start it again, for ever
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Does the units of a batch, columns of ``Place``; returns a row for each."""
        done = [self._one(Place(*values)) for values in zip(*(batch[name].tolist() for name in _NAMES), strict=True)]
        return {name: [row[name] for row in done] for name in ("images", "failed", "error")}

    def _one(self, place: Place) -> dict[str, Any]:
        if self._do is None:
            return {"images": 0, "failed": 0, "error": self._error}
        try:
            done = self._do(place)
            return {"images": int(done["images"]), "failed": int(done["failed"]), "error": ""}
        except NttError as error:
            return {"images": 0, "failed": 0, "error": str(error)}


_NAMES = ("manifest", "number", "unit", "rows")
