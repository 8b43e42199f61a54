"""Stores that fail, files that are not those of the manifest, workers that see nothing: what a fleet makes of it."""

from __future__ import annotations

import errno
import hashlib
import shutil
import uuid
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.fleet_jobs import FakeIndexJob, add_images, add_manifest, fake_bank

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")
fsspec = pytest.importorskip("fsspec")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

from fiftyone_ntt.candidates.file_format import IndexSettings  # noqa: E402
from fiftyone_ntt.candidates.shards import FOLDER, ShardPart, add_table, tables_in  # noqa: E402
from fiftyone_ntt.cli.main import main  # noqa: E402
from fiftyone_ntt.core import Matcher  # noqa: E402
from fiftyone_ntt.errors import InputError, counted  # noqa: E402
from fiftyone_ntt.fleet import bucket as buckets  # noqa: E402
from fiftyone_ntt.fleet.bucket import Bucket, FleetError, masked, read_image_file  # noqa: E402
from fiftyone_ntt.fleet.jobs import MatchJob, places_of, preset_of_banks, put_bank  # noqa: E402
from fiftyone_ntt.fleet.label_parts import LabelFolder  # noqa: E402
from fiftyone_ntt.fleet.manifest import Row, check_rows, manifests_of, mapped, roots_of, write_manifest  # noqa: E402
from fiftyone_ntt.fleet.receipts import IndexFolder  # noqa: E402
from fiftyone_ntt.fleet.runners import run_here  # noqa: E402
from fiftyone_ntt.fleet.spool import Spool  # noqa: E402
from fiftyone_ntt.fleet.status import failed_images, fleet_status, rerun_manifest  # noqa: E402
from fiftyone_ntt.params.base import StageOneSettings  # noqa: E402
from fiftyone_ntt.pixels.images import read_bytes  # noqa: E402


class Unsteady(MemoryFileSystem):
    """A bucket that says "invalid argument" where a file is there, and whose answers get lost now and then.

    Attributes:
        troubles: raised one after the other, each before something is done.
        lost: raised one after the other, each after a file was written.
    """

    protocol = "unsteady"
    cachable = False
    troubles: list[Exception] = []
    lost: list[Exception] = []
    made: list[str] = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("unsteady://", "memory://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if self.troubles:
            raise self.troubles.pop()
        if mode == "create" and self.exists(path):
            raise OSError(22, "At least one of the pre-conditions you specified did not hold")
        super().pipe_file(path, value, mode, **kwargs)
        if self.lost:
            raise self.lost.pop()

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.troubles:
            raise self.troubles.pop()
        return super().cat_file(path, start, end, **kwargs)

    def makedirs(self, path, exist_ok=False):
        self.made.append(path)


@pytest.fixture
def unsteady(monkeypatch):
    """The URL of a folder in such a bucket."""
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    monkeypatch.setattr(buckets, "_PAUSE", 0.0)
    for name in ("troubles", "lost", "made"):
        monkeypatch.setattr(Unsteady, name, [])
    return f"unsteady://{uuid.uuid4().hex}/store"


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "store")


def folder_of(store):
    return IndexFolder(Bucket(store), FakeIndexJob(store).key)


# ---- stores ----


def test_what_is_there_is_looked_up_whatever_the_error(unsteady):
    bucket = Bucket(unsteady)
    assert bucket.publish("a/b", b"first") and not bucket.publish("a/b", b"second")
    Unsteady.lost.append(TimeoutError("no answer"))
    assert bucket.publish("a/c", b"mine"), "it was written, and the answer got lost"
    assert bucket.read("a/b") == b"first" and bucket.read("a/c") == b"mine"


def test_a_store_that_fails_for_a_moment_is_asked_again(unsteady):
    bucket = Bucket(unsteady)
    Unsteady.troubles.extend([OSError(5, "slow down"), TimeoutError()])
    bucket.write("a", b"content")
    Unsteady.troubles.append(ConnectionResetError())
    assert bucket.read("a") == b"content" and Unsteady.troubles == []


@pytest.mark.parametrize("trouble", [PermissionError("not yours"), RuntimeError("no credentials"), OSError(5, "down")])
def test_a_store_that_fails_is_named_with_the_reason(unsteady, trouble):
    bucket = Bucket(unsteady)
    for call in (lambda: bucket.read("a"), lambda: bucket.write("a", b""), lambda: bucket.publish("a", b"")):
        Unsteady.troubles[:] = [trouble] * 20
        with pytest.raises(FleetError, match=f"{bucket.url}/a cannot be used.*{trouble.args[-1]}.*start again"):
            call()
    Unsteady.troubles.clear()
    with pytest.raises(FileNotFoundError):
        bucket.read("a")


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FleetError, match="a cannot be used"):
        Bucket(tmp_path).read("a")


def test_folders_are_made_where_a_store_has_folders(unsteady, monkeypatch):
    Bucket(unsteady).write("a/b", b"")
    assert [path.rpartition("/")[2] for path in Unsteady.made] == ["a"]
    monkeypatch.setattr(Unsteady, "protocol", ("s3", "s3a"))
    Bucket(unsteady).write("c/d", b"")
    assert len(Unsteady.made) == 1


def test_the_root_of_a_store_keeps_its_slashes():
    bucket, name = Bucket("memory://"), uuid.uuid4().hex
    assert bucket.url == "memory://" and bucket.url_of("a") == "memory://a"
    bucket.write(name, b"content")
    assert bucket.read(name) == read_image_file(bucket.url_of(name)) == b"content"
    assert Bucket("memory://a/").url == "memory://a" and Bucket("/").url == "/"


def test_settings_that_are_there_are_not_written_again(store, monkeypatch):
    settings, folder = IndexSettings("lite", {"weights": {}}), IndexFolder(Bucket(store), "k")
    folder.claim(settings)
    monkeypatch.setattr(Bucket, "publish", None)
    folder.claim(settings)
    IndexFolder(Bucket(store), "k").claim(settings)
    with pytest.raises(FleetError, match="other candidates"):
        IndexFolder(Bucket(store), "k").claim(IndexSettings("lite", {"weights": {"sam": "a"}}))


def test_passwords_and_signatures_are_in_no_error():
    error = FleetError("sftp://me:secret@host/a is gone (https://host/a.png?X-Amz-Signature=secret), s3://b")
    assert str(error) == "sftp://***@host/a is gone (https://host/a.png?***), s3://b"
    assert masked("/data/a@b/c?d.png 7:/x@y") == "/data/a@b/c?d.png 7:/x@y"


# ---- manifests ----


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_two_manifests_at_once_are_both_there(store, unsteady, place):
    bucket = Bucket(store if place == "disk" else unsteady)

    def rows():
        write_manifest(bucket, [Row("inner", "/a")])  # while the other one is still being written
        yield Row("outer", "/b")

    outer = write_manifest(bucket, rows())
    both = manifests_of(bucket)
    assert [manifest.unit(0, "k").rows[0].id for manifest in both] == ["inner", "outer"]
    assert outer.name == both[1].name == "manifests/0001.parquet"


@pytest.mark.parametrize(
    ("there", "missing", "refused"),
    [(4, 1, False), (1, 1, False), (0, 1, True), (0, 3, True), (3, 2, True), (18, 2, False), (17, 3, True)],
)
def test_one_image_that_is_gone_is_no_wrong_root(store, tmp_path, there, missing, refused):
    paths = [*add_images(tmp_path / "images", there), *(tmp_path / f"gone-{i}.png" for i in range(missing))]
    manifest = write_manifest(Bucket(store), sorted(Row(path.stem, str(path)) for path in paths))
    said = pytest.raises(FleetError, match=f"{missing} of {counted(there + missing, 'file')}")
    with said if refused else nullcontext():
        check_rows([manifest])


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize(("size", "got"), [(100, None), (101, "one of 101"), (0, "an empty file")])
def test_no_file_is_read_that_is_too_large_for_an_image(where, size, got, tmp_path, monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.fleet.bucket.MOST_BYTES", 100)
    monkeypatch.setattr(read_bytes, "__defaults__", (100,))
    uri = str(tmp_path / "a") if where == "disk" else f"memory://{uuid.uuid4().hex}/a"
    with fsspec.open(uri, "wb") as stream:
        stream.write(b"1" * size)
    if got is None:
        assert len(read_image_file(uri)) == size
        return
    if size and where == "memory":
        monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_: pytest.fail("it is not read"))
    with pytest.raises(InputError, match=f"100.*got {got}"):
        read_image_file(uri)


def test_manifests_are_counted_and_foreign_files_left_alone(store):
    bucket = Bucket(store)
    for name in ("part-0001.parquet", "1.parquet", "00x2.parquet", "notes.txt"):
        bucket.write(f"manifests/{name}", b"")
    assert write_manifest(bucket, [Row("a", "/a")]).name == "manifests/0000.parquet"
    Path(store, "manifests/0000.parquet").rename(Path(store, "manifests/9999.parquet"))
    names = [write_manifest(bucket, [Row("a", "/a")]).name for _ in range(2)]
    assert names == ["manifests/10000.parquet", "manifests/10001.parquet"]
    assert [manifest.name for manifest in manifests_of(bucket)] == ["manifests/9999.parquet", *names]


def test_paths_of_windows_are_mapped():
    roots = roots_of(["C:\\data=s3://b/data", r"\\server\share=/mnt/share"])
    assert mapped("C:\\data\\more\\a.png", roots) == mapped("C:/data/more/a.png", roots) == "s3://b/data/more/a.png"
    assert mapped(r"\\server\share\a.png", roots) == "/mnt/share/a.png"
    assert mapped("C:\\database\\a.png", roots) == "C:\\database\\a.png"
    assert mapped("/data/a\\b.png", [("/data", "/x")]) == "/x/a\\b.png"


# ---- images ----


def test_another_file_than_the_manifest_s_is_an_error(store, tmp_path):
    """One of the same size where the hash is known, one of another size where it is not; one is as it should be."""
    paths = add_images(tmp_path / "images", 12)
    digest = hashlib.sha256(read_bytes(paths[0])).hexdigest()
    rows = [Row(path.stem, str(path), path.stat().st_size, digest if i < 2 else None) for i, path in enumerate(paths)]
    write_manifest(Bucket(store), rows)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(paths[2])
    assert run_here(FakeIndexJob(store)).failed == 2
    failed = {row.id: image for row, image in failed_images(Bucket(store))}
    assert set(failed) == {"001", "002"} and {image.kind for image in failed.values()} == {"ChangedImageError"}
    assert digest in failed["001"].error and "bytes, got" in failed["002"].error and "map-root" in failed["002"].error
    again = rerun_manifest(Bucket(store))
    assert [row.size is None for row in again.unit(0, "k").rows] == [False, False], "another copy is not taken later"


def test_what_a_later_manifest_made_good_has_not_failed(store, tmp_path):
    paths = add_images(tmp_path / "images", 12, damaged=(3, 7))
    add_manifest(store, paths)
    run_here(FakeIndexJob(store))
    assert [row.id for row, _ in failed_images(Bucket(store))] == ["003", "007"]
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(paths[3])
    add_manifest(store, paths)  # with the size of the file that stands there now: a new unit, and all of it succeeds
    assert run_here(FakeIndexJob(store)).failed == 0
    assert [row.id for row, _ in failed_images(Bucket(store))] == ["007"]
    assert fleet_status(Bucket(store)).indexed == 15


# ---- machines that see nothing ----


def test_a_machine_without_its_images_publishes_no_errors(store, tmp_path):
    paths = add_images(tmp_path / "images", 12)
    add_manifest(store, paths)
    job = FakeIndexJob(store)
    index, place = job.start(), job.missing()[0]
    moved = paths[0].parent.rename(tmp_path / "unmounted")
    with pytest.raises(FleetError, match=r"5 of 5 images of unit .* cannot be reached .*--missing-ok"):
        index(place)
    assert fleet_status(Bucket(store)).done == 0
    with pytest.raises(FleetError, match="map-root"):
        job.start()  # a worker on another machine than the one that looked before
    moved.rename(paths[0].parent)
    for path in paths[:2]:
        path.unlink()
    assert index(place)["failed"] == 2, "two of five are a matter of these images"
    for path in paths[2:]:
        path.unlink()
    report = run_here(FakeIndexJob(store, missing_ok=True))
    assert (report.units, report.failed) == (2, 7) and rerun_manifest(Bucket(store)).attempt == 1
    assert run_here(FakeIndexJob(store, missing_ok=True)).failed == 9
    assert fleet_status(Bucket(store)).kinds == {"UnreachableImageError": 18}


def test_a_large_image_is_an_error_unless_tiles_are_off(store, tmp_path):
    paths = add_images(tmp_path / "images", 3)
    Image.fromarray(np.full((40, 2100, 3), 90, np.uint8)).save(paths[1])
    add_manifest(store, paths)
    assert run_here(FakeIndexJob(store)).failed == 1
    ((row, image),) = failed_images(Bucket(store))
    assert (row.id, image.kind) == ("001", "LargeImageError") and "2100 x 40 pixels" in image.error
    rerun_manifest(Bucket(store))
    assert run_here(FakeIndexJob(store, StageOneSettings(large_images="off"))).failed == 0
    assert list(failed_images(Bucket(store))) == []
    with pytest.raises(InputError, match="no tiles"):
        run_here(FakeIndexJob(store, StageOneSettings(large_images="on")))


# ---- matching ----


@pytest.mark.parametrize("trouble", ["byte", "half", "gone"])
def test_a_damaged_shard_is_not_matched_and_can_be_made_again(store, tmp_path, trouble):
    add_manifest(store, add_images(tmp_path / "images", 4))
    run_here(FakeIndexJob(store))
    bucket = Bucket(store)
    put_bank(bucket, "two", fake_bank())
    (shard,) = Path(store).glob("index/*/shards/*")
    data = bytearray(shard.read_bytes())
    data[-10] ^= 255
    {"byte": lambda: shard.write_bytes(data), "half": lambda: shard.write_bytes(data[:90]), "gone": shard.unlink}[
        trouble
    ]()
    with pytest.raises(
        FleetError, match=r"shard .* (damaged|not there).*delete its receipt .*parquet, and .*fleet index"
    ):
        run_here(MatchJob(store, "two"))
    (receipt,) = Path(store).glob("index/*/receipts/*")
    receipt.unlink()
    assert list(fleet_status(bucket).matched.values()) == [0]
    run_here(FakeIndexJob(store))
    report = run_here(MatchJob(store, "two"))
    assert (report.images, report.failed) == (4, 0)


def test_images_that_fail_to_match_are_counted_and_matched_again(store, tmp_path, monkeypatch, capsys):
    add_manifest(store, add_images(tmp_path / "images", 12, damaged=(1,)))
    run_here(FakeIndexJob(store))
    bucket, match, asked = Bucket(store), Matcher.match, []
    put_bank(bucket, "two", fake_bank())

    def fails_once(self, content):
        asked.append(content)
        if len(asked) == 6:
            raise MemoryError
        return match(self, content)

    monkeypatch.setattr(Matcher, "match", fails_once)
    report = run_here(MatchJob(store, "two"))
    assert (report.images, report.failed) == (12, 2)
    assert list(fleet_status(bucket).match_failed.values()) == [1]
    assert main(["fleet", "status", store]) == 1 and "3 of 3 units matched, 1 image failed" in capsys.readouterr().out
    assert main(["fleet", "status", store, "--rerun"]) == 0 and "1 unit to be matched again" in capsys.readouterr().out
    report = run_here(MatchJob(store, "two"))
    assert (report.units, report.failed) in ((1, 0), (1, 1)) and fleet_status(bucket).match_failed == {}
    assert main(["fleet", "match", store, "--bank", "two"]) == 0


def test_only_units_of_a_view_are_read_and_a_full_disk_is_said(store, tmp_path, monkeypatch):
    add_manifest(store, add_images(tmp_path / "images", 12))
    run_here(FakeIndexJob(store))
    bucket, key = Bucket(store), FakeIndexJob(store).key
    assert [place.number for place in places_of(bucket, key, ["011", "000", "zzz"])] == [0, 2]
    assert places_of(bucket, key, []) == [] and len(places_of(bucket, key, {f"{i:03d}" for i in range(12)})) == 3
    labels = LabelFolder(bucket, "k")
    with pytest.raises(FleetError, match="nowhere.*--spool-dir"):
        Spool(labels, [], folder=str(tmp_path / "nowhere"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LabelFolder, "rows", full)
    with pytest.raises(FleetError, match="disk is full.*--spool-dir"):
        Spool(labels, ["1" * 32])


# ---- shards in a local cache ----


def test_a_damaged_table_of_shards_costs_the_others_nothing(tmp_path, caplog):
    digests = [f"{i:02x}" * 32 for i in range(3)]
    parts = [ShardPart(digest, f"/shards/{i}", 0, 7) for i, digest in enumerate(digests)]
    whole = add_table(tmp_path, "whole", parts[:1])
    short = add_table(tmp_path, "short", parts)
    short.with_suffix(".json").write_text('{"shards": ["/shards/0"]}')
    (tmp_path / FOLDER / "empty.npy").write_bytes(b"")
    (tmp_path / FOLDER / "half.npy").write_bytes(whole.read_bytes()[:-9])
    for name, text in (("list", "[]"), ("none", '{"shards": null}'), ("words", "{")):
        shutil.copy(whole, tmp_path / FOLDER / f"{name}.npy")
        (tmp_path / FOLDER / f"{name}.json").write_text(text)
    tables = tables_in(tmp_path)
    assert len(tables) == 2 and caplog.text.count("passing over") == 5
    found = [next((part for table in tables if (part := table.find(digest))), None) for digest in digests]
    assert found == [parts[0], None, None]


def test_whoever_names_no_models_gets_those_of_the_banks(tmp_path):
    """Indexing ten million images with other models than the bank's would be found out at the end."""
    bucket = Bucket(tmp_path / "store")
    assert preset_of_banks(bucket) is None
    put_bank(bucket, "two", fake_bank().changed(preset="large"))
    assert preset_of_banks(bucket) == "large"
    put_bank(bucket, "other", fake_bank().changed(preset="base"))
    with pytest.raises(InputError, match="base, large; give --preset"):
        preset_of_banks(bucket)
