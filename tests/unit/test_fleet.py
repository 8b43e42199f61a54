"""A fleet's manifest, shards, receipts and labels, in one process: what is done is whole, and is done once."""

from __future__ import annotations

import errno
import json
import os
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.fake_models import fake_segmenter
from support.fleet_jobs import FakeIndexJob, add_images, add_manifest, fake_bank, shards_of

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")

from fiftyone_ntt.candidates.file_format import IndexSettings  # noqa: E402
from fiftyone_ntt.candidates.maintenance import info  # noqa: E402
from fiftyone_ntt.candidates.shards import ShardPart, ShardTable, add_table  # noqa: E402
from fiftyone_ntt.candidates.source import StageOne  # noqa: E402
from fiftyone_ntt.candidates.store import IndexStore  # noqa: E402
from fiftyone_ntt.core import MatchConfig, Matcher, compact, read_image  # noqa: E402
from fiftyone_ntt.errors import InputError, PresetMismatchError  # noqa: E402
from fiftyone_ntt.fleet.bucket import Bucket, FleetError  # noqa: E402
from fiftyone_ntt.fleet.jobs import MatchJob, get_bank, put_bank  # noqa: E402
from fiftyone_ntt.fleet.label_parts import ImageLabels, LabelFolder  # noqa: E402
from fiftyone_ntt.fleet.manifest import (  # noqa: E402
    Row,
    check_rows,
    columns_of,
    manifests_of,
    mapped,
    roots_of,
    write_manifest,
)
from fiftyone_ntt.fleet.receipts import ImageStatus, IndexFolder, Receipt  # noqa: E402
from fiftyone_ntt.fleet.runners import part_of, run_here  # noqa: E402
from fiftyone_ntt.fleet.spool import Spool  # noqa: E402
from fiftyone_ntt.fleet.stages import FleetModels, index_unit, match_unit  # noqa: E402
from fiftyone_ntt.fleet.status import adopt, failed_images, fleet_status, rerun_manifest  # noqa: E402
from fiftyone_ntt.params.base import StageOneSettings  # noqa: E402
from fiftyone_ntt.pixels.images import content_digest  # noqa: E402


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    """A store on a disk, and one behind fsspec."""
    return str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/store"


@pytest.fixture
def paths(tmp_path):
    return add_images(tmp_path / "images", 12)


@pytest.fixture
def indexed(store, paths):
    """A store whose twelve images are indexed, in units of five."""
    add_manifest(store, paths)
    run_here(FakeIndexJob(store))
    return store


def folder_of(store):
    return IndexFolder(Bucket(store), FakeIndexJob(store).key)


def same_instances(a, b):
    names = ("boxes", "scores", "labels", "predicted_iou", "similarity", "alternative", "alternative_similarity")
    for name in names:
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype, name
    assert a.image_size == b.image_size and len(a) == len(b)
    for i in range(len(a)):
        assert a.crop(i)[0] == b.crop(i)[0]
        np.testing.assert_array_equal(a.crop(i)[1], b.crop(i)[1])


def direct(path):
    """What stage one finds in an image, as the candidate cache keeps it."""
    return compact(fake_segmenter().candidates(read_image(path)))


# ---- the manifest ----


def test_manifest_is_cut_into_units_and_read_back(store):
    rows = [Row(f"{i:04d}", f"/data/{i}.jpg", i, "ab" * 32 if i % 2 else None) for i in range(23)]
    manifest = write_manifest(Bucket(store), iter(rows), unit_rows=5)
    assert len(manifest) == 23 and [unit.rows for unit in manifest.units] == [5, 5, 5, 5, 3]
    (again,) = manifests_of(Bucket(store))
    assert [row for i in range(5) for row in again.unit(i, "k").rows] == rows
    assert again.units == manifest.units


def test_unit_names_follow_ids_sizes_hashes_and_settings_only(tmp_path):
    def names(rows, key="k", attempt=0):
        manifest = write_manifest(Bucket(tmp_path / uuid.uuid4().hex), rows, unit_rows=2, attempt=attempt)
        return [manifest.unit(unit.number, key).name for unit in manifest.units]

    rows = [Row("a", "/x/a.png", 1), Row("b", "/x/b.png", 2), Row("c", "/x/c.png", 3)]
    first = names(rows)
    assert len(set(first)) == 2 and names(rows) == first
    assert names([row._replace(uri="s3://b" + row.uri) for row in rows]) == first
    assert not set(names(rows, "other")) & set(first) and not set(names(rows, attempt=1)) & set(first)
    assert names([*rows[:2], rows[2]._replace(size=4)])[0] == first[0] != names([*rows[:1], rows[2]])[0]
    assert names([*rows[:2], rows[2]._replace(hash="0" * 64)])[1] != first[1]


PLAIN = [Row(f"{i:024x}", f"/d/{i}.jpg", 200_000 + i, None if i % 3 else f"{i:064x}") for i in range(7)]
WITHOUT = [Row(f"{i:024x}", f"/d/{i}.jpg", None if i % 2 else i) for i in range(5)]
ODD = [Row("a'b", "/x"), Row('c"d', "/y", 3), Row("e\\f\n", "/z"), Row("\u00fc\u200b", "/\u00fc")]


@pytest.mark.parametrize(
    ("rows", "attempt", "names"),
    [
        (
            PLAIN,
            0,
            "1bf421c0f9b05d449779116c126f7c96 a56c7f7af508986327a422a5cc128aec 2bc6084b9c899af7e0c47721c38ccd26",
        ),
        (WITHOUT, 2, "6fbb043663c21e1ccc8f24282af5fd74 90bee3b40029d10524dba95f4f2f0d4d"),
        (ODD, 0, "9e838ca556a58613df9052c9cee783fc 47b2acf4cf78ddfc520da42bed88626c"),
    ],
    ids=["plain", "sizes missing", "odd"],
)
def test_units_are_called_what_they_always_were(tmp_path, monkeypatch, rows, attempt, names):
    """A manifest that is made again must not make a store's candidates another's; however its rows come."""
    monkeypatch.setattr("fiftyone_ntt.fleet.manifest._PIECE", 4)
    columns = [columns_of(*map(list, zip(*rows[i : i + 2], strict=True))) for i in range(0, len(rows), 2)]
    for number, given in enumerate((rows, columns)):
        manifest = write_manifest(Bucket(tmp_path / str(number)), given, unit_rows=3, attempt=attempt)
        assert [unit.name("k") for unit in manifest.units] == names.split()
        assert [row for unit in manifest.units for row in manifest.unit(unit.number, "k").rows] == rows
        assert sum(unit.rows for unit in manifest.units) == len(rows)


def test_a_manifest_of_before_is_read(tmp_path):
    """As they were written first: a unit a call, with dictionaries."""
    write_manifest(Bucket(tmp_path / "new"), PLAIN, unit_rows=3)
    (new,) = (tmp_path / "new" / "manifests").iterdir()
    parquet = pytest.importorskip("pyarrow.parquet")
    old = Path(tmp_path, "old", "manifests", "0000.parquet")
    old.parent.mkdir(parents=True)
    file = parquet.ParquetFile(new)
    with parquet.ParquetWriter(old, file.schema_arrow, write_statistics=False) as writer:
        for number in range(file.num_row_groups):
            writer.write_table(file.read_row_group(number), row_group_size=3)
        writer.add_key_value_metadata({b"fiftyone-ntt": file.metadata.metadata[b"fiftyone-ntt"]})
    (manifest,) = manifests_of(Bucket(tmp_path / "old"))
    assert [row for unit in manifest.units for row in manifest.unit(unit.number, "k").rows] == PLAIN


@pytest.mark.parametrize("ids", ["ba", "aa", ""])
def test_manifest_refuses_rows_out_of_order(store, ids):
    with pytest.raises(InputError, match="sorted|at least one image"):
        write_manifest(Bucket(store), [Row(name, name) for name in ids])
    assert Bucket(store).names("manifests", "") == []


def test_map_root_changes_the_beginning_of_a_path_only():
    roots = roots_of(["/data=s3://bucket/data", "/data/more/=/mnt/more"])
    assert mapped("/data/a.png", roots) == "s3://bucket/data/a.png"
    assert mapped("/data/more/a.png", roots) == "/mnt/more/a.png"
    assert mapped("/database/a.png", roots) == "/database/a.png"
    with pytest.raises(InputError, match="A=B"):
        roots_of(["/data"])


def test_files_are_looked_at_before_anything_starts(tmp_path, paths):
    store = tmp_path / "store"
    add_manifest(store, paths)
    check_rows(manifests_of(Bucket(store)))
    moved = paths[0].parent.rename(tmp_path / "elsewhere")
    with pytest.raises(FleetError, match="map-root"):
        run_here(FakeIndexJob(str(store)))
    roots = [(str(paths[0].parent), str(moved))]
    assert run_here(FakeIndexJob(str(store), roots=roots)).images == 12
    (moved / "003.png").write_bytes(b"another size")  # one of twelve: a matter of this image
    check_rows(manifests_of(Bucket(store)), roots)
    (moved / "004.png").unlink()
    with pytest.raises(FleetError, match="2 of 12 files"):
        check_rows(manifests_of(Bucket(store)), roots)


def test_moved_files_are_where_the_newest_manifest_says(tmp_path, paths):
    store = tmp_path / "store"
    older = add_manifest(store, paths)
    moved = paths[0].parent.rename(tmp_path / "elsewhere")
    newer = add_manifest(store, [moved / path.name for path in paths])
    assert newer.units == older.units and newer.name != older.name
    assert run_here(FakeIndexJob(str(store))).images == 12
    with pytest.raises(FleetError, match="map-root"):  # of the older one alone
        run_here(FakeIndexJob(str(store), manifests=(older.name,), stage_one=StageOneSettings(points_per_side=9)))


def test_no_manifest_is_said_and_how_to_make_one(store):
    with pytest.raises(FleetError, match="fleet manifest"):
        run_here(FakeIndexJob(store))


# ---- indexing ----


def test_every_image_is_indexed_once_and_as_the_cache_has_it(indexed, paths):
    folder = folder_of(indexed)
    status = fleet_status(Bucket(indexed))
    assert (status.units, status.done, status.images, status.indexed, status.failed) == (3, 3, 12, 12, 0)
    assert status.images_per_second > 0 and status.seconds_left == 0 and set(status.device_hours) == {"cpu"}
    records = {image.id: data for unit in sorted(folder.done()) for image, data in folder.records(folder.receipt(unit))}
    assert sorted(records) == [path.stem for path in paths]
    local = IndexStore(None, folder.settings)
    for path in paths:
        local.put(content_digest(path.read_bytes()), direct(path))
        assert local.path_of(content_digest(path.read_bytes())).read_bytes() == records[path.stem]
    assert run_here(FakeIndexJob(indexed)).units == 0


def test_a_unit_made_twice_has_the_same_bytes(tmp_path, paths):
    for name in ("one", "two"):
        add_manifest(tmp_path / name, paths)
        run_here(FakeIndexJob(str(tmp_path / name)))
    assert shards_of(tmp_path / "one") == shards_of(tmp_path / "two")
    assert len(shards_of(tmp_path / "one")) == 3


def test_a_shard_without_a_receipt_is_never_read(tmp_path, paths, monkeypatch):
    """A worker that is killed between shard and receipt, and one that is killed within the shard."""
    store = str(tmp_path / "store")
    add_manifest(store, paths)

    def killed(self, name, data):
        raise KeyboardInterrupt if name.endswith(".parquet") else AssertionError(name)

    with monkeypatch.context() as patch:
        publish = Bucket.publish
        patch.setattr(Bucket, "publish", lambda *a: publish(*a) if "settings" in a[1] else killed(*a))
        with pytest.raises(KeyboardInterrupt):
            run_here(FakeIndexJob(store))
    (orphan,) = Path(store).glob("index/*/shards/*")
    whole = orphan.read_bytes()
    orphan.write_bytes(whole[:100])
    put_bank(Bucket(store), "two", fake_bank())
    assert fleet_status(Bucket(store)).done == 0 and MatchJob(store, "two").missing() == []
    assert run_here(FakeIndexJob(store)).images == 12
    assert orphan.read_bytes() == whole


def test_of_two_workers_at_one_unit_the_first_counts(indexed, paths):
    folder = folder_of(indexed)
    unit = manifests_of(Bucket(indexed))[0].unit(0, folder.key)
    receipt = folder.receipt(unit.name)
    late = folder.publish(unit.name, [b"other bytes"], [ImageStatus("000", "ok", "0" * 64, 0, 11)], receipt.facts)
    assert late == receipt == folder.receipt(unit.name)
    assert index_unit(unit, FleetModels.of([fake_segmenter()], "lite"), folder) == receipt


def test_two_corrupt_files_are_two_rows_and_can_be_run_again(store, tmp_path):
    paths = add_images(tmp_path / "images", 12, damaged=(3, 7))
    add_manifest(store, paths)
    report = run_here(FakeIndexJob(store))
    assert (report.images, report.failed) == (12, 2)
    bucket = Bucket(store)
    failed = list(failed_images(bucket))
    assert [row.id for row, _ in failed] == ["003", "007"]
    assert all("not a readable image" in image.error for _, image in failed)
    assert fleet_status(bucket).kinds == {"InputError": 2} and fleet_status(bucket).indexed == 10

    assert [unit.rows for unit in rerun_manifest(bucket).units] == [2]
    assert run_here(FakeIndexJob(store)).failed == 2
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(paths[3])
    assert rerun_manifest(bucket).attempt == 2
    assert run_here(FakeIndexJob(store)).failed == 1
    assert [row.id for row, _ in failed_images(bucket)] == ["007"]


def test_a_machine_with_other_weights_is_refused(indexed, paths):
    other = FleetModels([fake_segmenter()], IndexSettings("lite", {"weights": {"fake-sam": "c" * 64}}))
    unit = manifests_of(Bucket(indexed))[0].unit(0, "k")
    with pytest.raises(FleetError, match="weights.*fake-sam"):
        index_unit(unit, other, folder_of(indexed))


def test_receipts_come_back_and_damaged_ones_are_named(indexed):
    folder = folder_of(indexed)
    unit = sorted(folder.done())[0]
    receipt = folder.receipt(unit)
    assert Receipt.from_bytes(receipt.to_bytes()) == receipt
    assert next(iter(folder.summaries([unit]))) == receipt.summary
    folder.bucket.write(f"index/{folder.key}/receipts/{unit}.parquet", receipt.to_bytes()[:-20])
    for read in (folder.receipt, lambda name: list(folder.summaries([name]))):
        with pytest.raises(FleetError, match="damaged"):
            read(unit)


@pytest.mark.parametrize("text", ["3", "3/3", "a/b", "-1/4", "1/0", ""])
def test_part_refuses_what_is_no_part(text):
    assert part_of("3/32") == (3, 32)
    with pytest.raises(InputError, match="--part"):
        part_of(text)


def test_parts_share_the_units_and_none_is_done_twice(indexed, store, paths):
    other = store + "-parts"
    add_manifest(other, paths, unit_rows=1)
    reports = [run_here(FakeIndexJob(other), (i, 3)) for i in range(3)]
    assert sum(report.units for report in reports) == 12 and reports[-1].left == 0
    assert all(report.units for report in reports)


# ---- from shards to labels ----


def test_labels_of_a_fleet_are_those_of_the_local_path(indexed, paths):
    bucket, bank = Bucket(indexed), fake_bank()
    put_bank(bucket, "two", bank)
    assert get_bank(bucket, "two").content_hash == bank.content_hash
    assert run_here(MatchJob(indexed, "two")).images == 12
    assert run_here(MatchJob(indexed, "two")).units == 0
    (key,) = fleet_status(bucket).matched
    labels, matcher = LabelFolder(bucket, key), Matcher(bank)
    rows = {row["id"]: row for unit in labels.done() for row in labels.rows(unit)}
    found = 0
    for path in paths:
        expected = matcher.match(direct(path))
        same_instances(ImageLabels.from_row(rows[path.stem]).instances, expected)
        found += len(expected)
    assert found > 12
    assert json.loads(bucket.read(f"labels/{key}/match.json"))["classes"] == ["red", "green"]


def test_labels_made_twice_have_the_same_bytes(indexed):
    folder = folder_of(indexed)
    receipt = folder.receipt(sorted(folder.done())[0])
    made = [match_unit(receipt, Matcher(fake_bank()), folder, LabelFolder(folder.bucket, key)) for key in "ab"]
    assert folder.bucket.read(made[0]["labels"]) == folder.bucket.read(made[1]["labels"])


def test_labels_of_nothing_and_of_failures_come_back():
    empty = Matcher(fake_bank(), MatchConfig(score_threshold=2.0)).match(direct_of_noise())
    same_instances(ImageLabels.from_row(ImageLabels("a", empty).to_row()).instances, empty)
    assert ImageLabels.from_row(ImageLabels("a", None, "why").to_row()) == ImageLabels("a", None, "why")


def direct_of_noise():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return compact(fake_segmenter().candidates(pixels))


def test_matching_says_what_does_not_fit(indexed, paths):
    bucket = Bucket(indexed)
    with pytest.raises(FleetError, match="there is: none"):
        run_here(MatchJob(indexed, "two"))
    put_bank(bucket, "two", fake_bank())
    put_bank(bucket, "other", fake_bank().changed(weights={"fake-sam": "c" * 64, "fake-features": "b" * 64}))
    with pytest.raises(PresetMismatchError, match="fake-sam"):
        run_here(MatchJob(indexed, "other"))
    with pytest.raises(FleetError, match="fleet index"):
        run_here(MatchJob(indexed, "two", StageOneSettings(points_per_side=5)))
    with pytest.raises(InputError, match="published"):
        run_here(MatchJob(indexed, "two", config=MatchConfig.paper()))


def test_spool_finds_the_newest_row_that_did_not_fail(tmp_path):
    labels = LabelFolder(Bucket(tmp_path), "k")
    found = Matcher(fake_bank()).match(direct_of_noise())
    labels.publish("1" * 32, [ImageLabels("a", None, "old"), ImageLabels("b", found), ImageLabels("cc", None, "old")])
    labels.publish("2" * 32, [ImageLabels("a", found), ImageLabels("b", None, "new"), ImageLabels("cc", None, "new")])
    spool = Spool(labels, ["1" * 32, "2" * 32])
    assert len(spool) == 3 and spool.missing(["a", "c", "cc", "zz", ""]) == ["c", "zz", ""]
    for name in "ab":
        same_instances(spool.get(name).instances, found)
    assert spool.get("cc").error == "new" and spool.get("c") is None
    spool.close()
    assert len(Spool(labels, [])) == 0


# ---- shards in a local cache ----


def test_a_local_cache_takes_shards_in_by_reference(indexed, paths, tmp_path):
    settings = StageOneSettings(index_dir=tmp_path / "cache")
    assert adopt(Bucket(indexed), StageOne.of(settings)) == 3
    cache = IndexStore(tmp_path / "cache", folder_of(indexed).settings)
    digests = [content_digest(path.read_bytes()) for path in paths]
    assert all(cache.has(digest) for digest in digests) and not cache.has("0" * 64)
    for path, digest in zip(paths, digests, strict=True):
        expected = direct(path).to_arrays()
        arrays = cache.get(digest).to_arrays()
        assert expected.keys() == arrays.keys()
        for name in expected:
            np.testing.assert_array_equal(arrays[name], expected[name])
    kept = [cache.path_of(digest).is_file() for digest in digests]
    assert kept == [indexed.startswith("memory")] * 12, "what comes from afar is kept, what is here is not copied"
    assert cache.get("0" * 64) is None
    assert [(entry.images, entry.in_shards) for entry in info(tmp_path / "cache")] == [(sum(kept), 12)]


def test_a_shard_that_is_gone_is_as_if_it_was_never_there(tmp_path, paths, caplog):
    store = str(tmp_path / "store")
    add_manifest(store, paths)
    run_here(FakeIndexJob(store))
    adopt(Bucket(store), StageOne.of(StageOneSettings(index_dir=tmp_path / "cache")))
    for shard in Path(store).glob("index/*/shards/*"):
        shard.write_bytes(shard.read_bytes()[:-50]) if shard.name < "8" else shard.unlink()
    cache = IndexStore(tmp_path / "cache", folder_of(store).settings)
    there = [cache.get(content_digest(path.read_bytes())) is not None for path in paths]
    assert not all(there) and "will be made again" in caplog.text


def test_a_table_of_shards_replaces_that_of_its_source(tmp_path):
    digests = [f"{i:02x}" * 31 + "00" for i in (200, 3, 0, 77)]  # bytes that end with a zero, too
    parts = [ShardPart(digest, f"/shards/{i % 2}", 10 * i, 7) for i, digest in enumerate(digests)]
    first = add_table(tmp_path, "a store", parts[:2])
    other = add_table(tmp_path, "another store", parts[:1])
    second = add_table(tmp_path, "a store", [*parts, ShardPart(digests[0], "/later", 0, 1)])
    assert not first.exists() and other.exists() and add_table(tmp_path, "a store", parts[:1]).exists()
    second = ShardTable(add_table(tmp_path, "a store", parts))
    assert len(second) == 4 and [second.find(digest) for digest in digests] == parts
    assert second.find("ff" * 32) is None and second.find("00" * 31 + "01") is None


# ---- what is missing ----


def test_a_disk_without_links_publishes_once_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    bucket = Bucket(tmp_path)
    assert bucket.publish("a/b", b"first") and not bucket.publish("a/b", b"second")
    assert bucket.read("a/b") == b"first" and bucket.names("a", "") == ["b"]


def test_a_missing_package_is_said_with_the_extra_that_has_it(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(FleetError, match=r"pip install 'fiftyone-ntt\[fleet\]'"):
        write_manifest(Bucket(store), [Row("a", "a")])


def test_a_kind_of_url_that_nothing_knows_is_said():
    with pytest.raises(FleetError, match="cannot be used"):
        Bucket("nowhere://folder")
