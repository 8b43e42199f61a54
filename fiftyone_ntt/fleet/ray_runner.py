"""Running a job on a Ray cluster. Only paths and settings go through Ray, and receipts are the only checkpoint.

One actor a worker, which loads the models once and keeps them; one row a unit. An image that fails is a row of its
unit's receipt. A node that goes takes the units with it that it was at: Ray gives them to others.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import torch

from fiftyone_ntt.errors import InputError, NttError, counted
from fiftyone_ntt.fleet.bucket import Bucket, FleetError, needed
from fiftyone_ntt.fleet.jobs import Job, Place
from fiftyone_ntt.fleet.runners import FleetReport, begin, tell
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.pixels.files import expanded

logger = logging.getLogger(__name__)

ADDRESS = "RAY_ADDRESS"
"""The environment variable that names a cluster, as Ray itself reads it."""
_ANSWER_SECONDS, _JOIN_SECONDS = 10.0, 60.0
"""How long an address may take to answer, and a cluster to take this machine in: Ray itself asks for minutes."""
_CLIENT = "ray://"
_MOST_BLOCKS = 2000
"""Blocks of units that Ray keeps in mind. A block that is lost half-way is begun again, and finds receipts."""


def check_ray() -> None:
    """Sees that Ray is installed, and that its address is one to work with; asks nobody.

    Raises:
        FleetError: if not; says what to do.
    """
    if find_spec("ray") is None:
        needed("ray")
    address = os.environ.get(ADDRESS, "")
    if address.startswith(_CLIENT):
        raise FleetError(
            f"expected {ADDRESS}=HOST:PORT of the cluster itself, got {address!r}: Ray Data does not work through "
            "Ray's client; make this machine a part of the cluster, `ray start --address=HOST:6379 --num-cpus=0`"
        )


def check_store(store: str | None) -> None:
    """Sees, without asking a network, that a store is something to write to.

    Raises:
        InputError: if none is named, or a folder without its full path: the cluster would look for it elsewhere.
        FleetError: if nothing knows that kind of URL, or a folder on this machine cannot be written to.
    """
    if not store:
        raise InputError(
            "expected a store for the candidates, a folder or URL that this machine and all of the cluster reach (e.g. "
            "s3://bucket/fleet), got none"
        )
    bucket = Bucket(store)
    if not bucket.remote:
        if not expanded(store.removeprefix("file://")).is_absolute():
            raise InputError(f"expected the full path of a folder, or a URL such as s3://bucket/fleet, got {store!r}")
        folder = bucket.url
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise FleetError(f"expected a folder that can be written to as the store, got {store}: see to {folder}")


def join_cluster() -> Any:
    """Ray, connected to the cluster that ``RAY_ADDRESS`` names; to one of its own on this machine where that is empty.

    Raises:
        FleetError: if Ray is missing, or no cluster takes this machine in, within about a minute.
    """
    check_ray()
    ray = needed("ray")
    if ray.is_initialized():
        return ray
    address = os.environ.get(ADDRESS, "")
    if address:
        _ask_for(address)
    try:
        ray.init(log_to_driver=False)
    except Exception as error:  # of whatever kind: each version has others
        raise _no_cluster(address, f"{type(error).__name__}: {error}") from error
    return ray


def _ask_for(address: str) -> None:
    """Sees that a cluster is there, in bounded time: what asks Ray in vain for minutes is a process of its own."""
    try:
        place = urlsplit(f"//{address}")
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), _ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from error
    command = [sys.executable, "-c", "import ray; ray.init(log_to_driver=False)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_JOIN_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _no_cluster(address, f"what is there does not answer as a cluster does in {_JOIN_SECONDS:g} s") from error
    if done.returncode:
        raise _no_cluster(address, (done.stderr.strip().splitlines() or ["it says nothing"])[-1])


def _no_cluster(address: str, reason: str) -> FleetError:
    return FleetError(
        f"expected a Ray cluster at {address or 'this machine'} ({ADDRESS}), got none: {reason}; see that it is up, "
        "that this machine is a part of it (`ray start --address=HOST:PORT`), and that both have one version of Ray"
    )


def run_ray(
    job: Job,
    workers: int | None,
    *,
    cpus: float = 1.0,
    gpus: float | None = 0.0,
    part: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> FleetReport:
    """Does the missing units of one part on a Ray cluster: the one that ``RAY_ADDRESS`` names, or this machine.

    Args:
        job: what to do. Every node must have this package, the weights, and a way to the store and the images.
        workers: how many actors; as many as there is room for now where ``None``.
        cpus: CPUs that Ray sets aside for each, which is also how many threads its models take.
        gpus: GPUs that Ray sets aside for each; where ``None``, one if the cluster has any.
        part: this call's number and how many there are.
        progress: called with (done, total, message).

    Raises:
        FleetError: if Ray or its cluster is missing, or a unit cannot be done.

    Example:
        >>> print(run_ray(IndexJob("s3://bucket/fleet"), 32, gpus=1, cpus=4))  # doctest: +SKIP
    """
    if (workers is not None and workers < 1) or cpus <= 0 or (gpus or 0) < 0:
        raise InputError(f"expected at least one worker with some CPU, got {workers} with {cpus} CPUs, {gpus} GPUs")
    check_ray()
    report, mine = begin(job, part)
    if not mine:
        return report
    ray, data = join_cluster(), needed("ray.data")
    if gpus is None:
        gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
    room = _room(ray, cpus, gpus)
    crew = min(workers or max(1, room), len(mine))
    if progress is not None:
        waits = "" if room else f"; none of its machines has {cpus:g} CPUs and {gpus:g} GPUs yet"
        progress(0, len(mine), f"starting {counted(crew, 'worker')} on the Ray cluster{waits}")
    rows = [{"manifest": p.manifest, "number": p.number, "unit": p.unit, "rows": p.rows} for p in mine]
    units = data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    results = units.map_batches(
        RayWorker,
        fn_constructor_kwargs={"job": job, "threads": max(1, int(cpus))},
        compute=data.ActorPoolStrategy(size=crew),
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


def _room(ray: Any, cpus: float, gpus: float) -> int:
    """Workers that the machines of a cluster have room for, were nothing else at work there."""
    wanted = {"CPU": cpus, "GPU": gpus}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(has.get(name, 0) // need) for name, need in wanted.items() if need) for has in machines)


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
