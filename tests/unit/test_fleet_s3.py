"""A fleet's store in S3, or what stands in for it on this machine: what is published is published once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.fleet_jobs import FakeIndexJob, add_images, add_manifest, shards_of

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")
s3fs = pytest.importorskip("s3fs", reason="buckets of S3 need s3fs: pip install s3fs")
servers = pytest.importorskip("moto.server", reason="moto stands in for S3: pip install 'moto[server]'")

from fiftyone_ntt.candidates.source import StageOne  # noqa: E402
from fiftyone_ntt.candidates.store import IndexStore  # noqa: E402
from fiftyone_ntt.fleet.bucket import Bucket, FleetError  # noqa: E402
from fiftyone_ntt.fleet.runners import run_here  # noqa: E402
from fiftyone_ntt.fleet.status import adopt, fleet_status  # noqa: E402
from fiftyone_ntt.params.base import StageOneSettings  # noqa: E402
from fiftyone_ntt.pixels.images import content_digest  # noqa: E402


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A store in a bucket of a server of its own."""
    server = servers.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("fleet-tests", exist_ok=True)
    yield f"s3://fleet-tests/{tmp_path.name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_of_many_that_publish_at_once_one_wins(store):
    texts = [f"of worker {number}".encode() for number in range(8)]
    with ThreadPoolExecutor(len(texts)) as pool:
        won = list(pool.map(lambda text: Bucket(store).publish("receipts/one", text), texts))
    assert won.count(True) == 1
    assert Bucket(store).read("receipts/one") == texts[won.index(True)]
    assert not Bucket(store).publish("receipts/one", b"late") and Bucket(store).read("receipts/one") != b"late"
    assert Bucket(store).names("receipts", "") == ["one"]


def test_a_fleet_works_in_a_bucket(store, tmp_path):
    paths = add_images(tmp_path / "images", 12, damaged=(3,))
    add_manifest(store, paths)
    add_manifest(tmp_path / "disk", paths)
    report = run_here(FakeIndexJob(store))
    assert (report.units, report.images, report.failed) == (3, 12, 1) and run_here(FakeIndexJob(store)).units == 0
    assert fleet_status(Bucket(store)).indexed == 11
    run_here(FakeIndexJob(str(tmp_path / "disk")))
    folder = FakeIndexJob(store).folder
    names = Bucket(store).names(f"index/{folder.key}/shards", ".ntts")
    made = {name: Bucket(store).read(f"index/{folder.key}/shards/{name}") for name in names}
    assert made == shards_of(tmp_path / "disk"), "the same bytes as on a disk"

    settings = StageOneSettings(index_dir=tmp_path / "cache")
    assert adopt(Bucket(store), StageOne.of(settings)) == 3
    cache = IndexStore(tmp_path / "cache", folder.settings)
    assert [cache.has(content_digest(path.read_bytes())) for path in paths] == [i != 3 for i in range(12)]


def test_a_bucket_that_cannot_be_written_to_is_said(store):
    Bucket(store).try_out()
    assert Bucket(store).names("", "") == []
    with pytest.raises(FleetError, match="no-such-bucket.*credentials"):
        Bucket("s3://no-such-bucket/store").try_out()
