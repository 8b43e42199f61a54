"""A fleet on a Ray cluster of two nodes on this machine."""

from __future__ import annotations

import pytest
from support.fleet_jobs import FakeIndexJob, HopelessJob, add_images, add_manifest, fake_bank, shards_of, units_in
from support.ray_cluster import two_nodes

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fiftyone-ntt[ray]'")

from fiftyone_ntt.fleet.bucket import Bucket, FleetError  # noqa: E402
from fiftyone_ntt.fleet.jobs import MatchJob, put_bank  # noqa: E402
from fiftyone_ntt.fleet.ray_runner import run_ray  # noqa: E402
from fiftyone_ntt.fleet.runners import run_here  # noqa: E402
from fiftyone_ntt.fleet.status import failed_images, fleet_status  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with a CPU each."""
    with two_nodes(monkeypatch) as nodes:
        ray.init(address=nodes.address, log_to_driver=False)
        nodes.wait_for_nodes()
        yield nodes


def test_a_node_that_goes_after_the_third_receipt(cluster, tmp_path):
    paths = add_images(tmp_path / "images", 60, damaged=(11, 42))
    for name in ("single", "store"):
        add_manifest(tmp_path / name, paths)
    run_here(FakeIndexJob(str(tmp_path / "single")))
    store, log = str(tmp_path / "store"), tmp_path / "log"
    removed = []

    def progress(done, total, message):
        if done >= 3 and not removed:
            cluster.remove_node(cluster.second)
            removed.append(len(units_in(log)))

    report = run_ray(FakeIndexJob(store, log=str(log), pause=1.0), 2, progress=progress)
    assert (report.units, report.images, report.failed) == (12, 60, 2) and removed[0] >= 3
    workers = {line.split()[0] for line in log.read_text().splitlines()}
    assert len(workers) >= 2, "both nodes worked"
    assert shards_of(store) == shards_of(tmp_path / "single")
    status = fleet_status(Bucket(store))
    assert (status.done, status.indexed, status.failed) == (12, 58, 2)
    assert [row.id for row, _ in failed_images(Bucket(store))] == ["011", "042"]

    put_bank(Bucket(store), "two", fake_bank())
    assert run_ray(MatchJob(store, "two"), 1).units == 12
    assert run_ray(FakeIndexJob(store), 1).units == 0, "only what is missing is done"


def test_what_no_worker_can_do_is_said(cluster, tmp_path):
    add_manifest(tmp_path / "store", add_images(tmp_path / "images", 4))
    with pytest.raises(FleetError, match="no such weights here"):
        run_ray(HopelessJob(str(tmp_path / "store")), 1)
