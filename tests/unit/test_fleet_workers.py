"""A fleet of several processes: workers that die, drivers that are stopped, machines that mount files elsewhere."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.fleet_jobs import FakeIndexJob, HopelessJob, add_images, add_manifest, fake_bank, shards_of, units_in

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")

from fiftyone_ntt.fleet.bucket import Bucket, FleetError  # noqa: E402
from fiftyone_ntt.fleet.jobs import MatchJob, put_bank  # noqa: E402
from fiftyone_ntt.fleet.runners import run_here, run_local  # noqa: E402
from fiftyone_ntt.fleet.status import fleet_status  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
from support.fleet_jobs import FakeIndexJob
from fiftyone_ntt.fleet.runners import run_local
if __name__ == "__main__":
    run_local(FakeIndexJob(sys.argv[1], log=sys.argv[2], pause=0.3), 1)
"""


@pytest.fixture
def single(tmp_path):
    """The images, and the shards that one process made of them."""
    paths = add_images(tmp_path / "images", 30)
    add_manifest(tmp_path / "single", paths, unit_rows=3)
    assert run_here(FakeIndexJob(str(tmp_path / "single"))).images == 30
    return paths, shards_of(tmp_path / "single")


@pytest.mark.slow
def test_a_worker_that_dies_after_its_third_receipt(single, tmp_path):
    paths, shards = single
    store, log = str(tmp_path / "store"), tmp_path / "log"
    add_manifest(store, paths, unit_rows=3)
    job = FakeIndexJob(store, log=str(log), dies_at=3, dead=str(tmp_path / "dead"))
    report = run_local(job, 2)
    assert (report.units, report.images, report.failed, report.deaths) == (10, 30, 0, 1)
    units = units_in(log)
    assert len(units) == len(set(units)) == 10, "no unit is done twice"
    assert (tmp_path / "dead").read_text() in units
    assert shards_of(store) == shards
    assert fleet_status(Bucket(store)).indexed == 30

    put_bank(Bucket(store), "two", fake_bank())
    assert run_local(MatchJob(store, "two"), 1).images == 30
    assert list(fleet_status(Bucket(store)).matched.values()) == [10]


@pytest.mark.slow
def test_a_driver_that_is_killed_is_started_again(single, tmp_path):
    paths, shards = single
    store, log, script = str(tmp_path / "store"), tmp_path / "log", tmp_path / "driver.py"
    add_manifest(store, paths, unit_rows=3)
    script.write_text(DRIVER)
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    driver = subprocess.Popen([sys.executable, str(script), store, str(log)], env=environment)
    try:
        while not (log.exists() and len(units_in(log)) >= 3):
            assert driver.poll() is None
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    worker = int(log.read_text().split()[0])
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)  # it does the unit that it is at, and ends when it sees that nobody asks any more
    left = len(units_in(log))
    assert 3 <= left < 10
    report = run_here(FakeIndexJob(store, log=str(log)))
    assert report.units == 10 - left
    units = units_in(log)
    assert len(units) == len(set(units)) == 10, "what had a receipt is not done again"
    assert shards_of(store) == shards


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_is_named(tmp_path):
    store = str(tmp_path / "store")
    add_manifest(store, add_images(tmp_path / "images", 3), unit_rows=3)
    with pytest.raises(FleetError, match="3 workers died of unit"):
        run_local(DeadlyJob(store), 1)


@pytest.mark.slow
def test_what_a_worker_cannot_load_is_said_once(tmp_path):
    store = str(tmp_path / "store")
    add_manifest(store, add_images(tmp_path / "images", 3))
    with pytest.raises(FleetError, match="no such weights here"):
        run_local(HopelessJob(store), 2)


class DeadlyJob(FakeIndexJob):
    """No worker survives a unit of it."""

    def start(self):
        import os

        super().start()
        return lambda place: os._exit(9)


def test_two_mounts_of_the_same_files_make_the_same_shards(single, tmp_path):
    """Half of the units on a machine that has the files where they were, half on one that has them elsewhere."""
    paths, shards = single
    store, here = str(tmp_path / "store"), paths[0].parent
    add_manifest(store, paths, unit_rows=3)
    run_here(FakeIndexJob(store), (0, 2))
    there = here.rename(tmp_path / "other mount")
    with pytest.raises(FleetError, match="map-root"):
        run_here(FakeIndexJob(store), (1, 2))
    report = run_here(FakeIndexJob(store, roots=((str(here), str(there)),)), (1, 2))
    assert 0 < report.units < 10 and report.left == 0
    assert shards_of(store) == shards
