"""A fleet's labels in a dataset: those of the local path, in a run like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.core import MatchConfig
from fiftyone_ntt.errors import InputError, RunCancelledError
from fiftyone_ntt.references.banks import save_bank

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")

from fiftyone_ntt.fleet.bucket import Bucket, FleetError  # noqa: E402
from fiftyone_ntt.fleet.handing import manifest_of_view, write  # noqa: E402
from fiftyone_ntt.fleet.jobs import IndexJob, MatchJob, put_bank  # noqa: E402
from fiftyone_ntt.fleet.manifest import manifests_of  # noqa: E402
from fiftyone_ntt.fleet.runners import run_here  # noqa: E402
from fiftyone_ntt.params.base import StageOneSettings  # noqa: E402

pytestmark = pytest.mark.pictures(count=6)


def written(dataset, field):
    """Every label: image, class, box, score, predicted IoU and mask, to the bit."""
    return [
        [
            (label.label, label.bounding_box, label.confidence, label.predicted_iou, label.similarity,
             label.written, np.packbits(label.mask).tobytes())
            for label in (sample[field].detections if sample[field] else [])
        ]
        for sample in dataset
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def starting(monkeypatch):
    """All labels are written here, see the fixture of this name that this one stands in for."""
    monkeypatch.setattr("fiftyone_ntt.runs.segment.STARTING", None)
    monkeypatch.setattr("fiftyone_ntt.fleet.handing.STARTING", None)


@pytest.fixture
def fleet(pictures, bank, preset, tmp_path):
    """A dataset, its memory bank, and a store where both were indexed and matched in units of two."""
    store, stage_one = str(tmp_path / "store"), StageOneSettings(preset=preset)
    manifest_of_view(pictures, store, unit_rows=2)
    assert run_here(IndexJob(store, stage_one)).images == 6
    put_bank(Bucket(store), "shapes", bank)
    assert run_here(MatchJob(store, "shapes", stage_one)).images == 6
    return pictures, bank, store


@pytest.fixture
def no_models(monkeypatch):
    def refuse(*_arguments, **_keywords):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(candidates, "load_segmenters", refuse)


@pytest.fixture
def where(preset, index_dir):
    return {"preset": preset, "index_dir": index_dir}


@pytest.mark.parametrize("remote", [False, True])
def test_old_sizes_in_the_metadata_are_looked_up(pictures, tmp_path, remote):
    """A file was replaced after its metadata were computed: made again, the manifest would say the same."""
    store, roots = str(tmp_path / "store"), []
    paths = [Path(path) for path in pictures.sort_by("id").values("filepath")]
    if remote:
        fsspec, folder = pytest.importorskip("fsspec"), f"memory://{tmp_path.name}-{pictures.name}"
        for path in paths:
            with fsspec.open(f"{folder}/{path.name}", "wb") as stream:
                stream.write(path.read_bytes())
        roots = [(str(paths[0].parent), folder)]
    pictures.set_values("metadata.size_bytes", [7] * len(pictures))
    manifest = manifest_of_view(pictures, store, roots=roots)
    assert [row.size for row in manifest.unit(0, "k").rows] == [path.stat().st_size for path in paths]
    assert len(manifests_of(Bucket(store))) == 1


def test_labels_are_those_of_the_local_path(fleet, preset, where, request):
    dataset, bank, store = fleet
    direct = ntt.segment(dataset, bank, "direct", preset=preset, use_index=False)
    request.getfixturevalue("no_models")
    report = write(dataset, store, bank, "found", **where)
    assert (report.done, report.failed, report.from_index, report.indexed) == (5, 0, 5, 0)
    assert report.instances == direct.instances > 0 and report.references_skipped == 1
    assert written(dataset, "found") == written(dataset, "direct")
    again = write(dataset, store, bank, "found", **where)
    assert (again.done, again.resumed) == (0, 5), "what is written is not written again"


def test_cancel_resume_review_and_undo_work_as_for_any_run(fleet, preset, where, no_models, monkeypatch):
    """From the local cache, which has the fleet's candidates by reference: no model is there."""
    from fiftyone_ntt.models import PRESETS

    monkeypatch.setitem(PRESETS, preset.name, preset)
    dataset, bank, store = fleet
    told = []

    def cancel(done, total, message):
        if message.startswith("labelled") and not told:
            told.append(ntt.cancel_run(dataset, "ntt_found"))

    with pytest.raises(RunCancelledError):
        write(dataset, store, bank, "found", progress=cancel, **where)
    (run,) = ntt.list_runs(dataset)
    assert run["state"] == "cancelled" and run["counts"]["left"] > 0 and told == [1]
    resumed = ntt.resume_run(dataset, "ntt_found")
    assert resumed.done == resumed.from_index == run["counts"]["left"] and resumed.indexed == 0
    (run,) = ntt.list_runs(dataset)
    assert run["state"] == "completed" and run["counts"]["left"] == 0
    again = ntt.segment(dataset, bank, "other", **where)
    assert (again.from_index, again.indexed) == (5, 0)
    assert written(dataset, "other") == written(dataset, "found")

    accepted = dataset.last()["found"].detections[0].id
    ntt.accept_labels(dataset, "found", label_ids=[accepted])
    ntt.undo_run(dataset, "ntt_found")
    assert [label.id for label in dataset.last()["found"].detections] == [accepted], "a decision stays"
    assert dataset.count("found.detections") == 1


def test_what_came_since_is_added(fleet, preset, where, tmp_path, no_models, request):
    dataset, bank, store = fleet
    for part in sorted(Path(store).glob("labels/*/*.parquet"))[:1]:
        part.unlink()
    report = write(dataset, store, bank, "found", **where)
    assert "2 images not matched by the fleet yet" in str(report) and 3 <= report.done <= 4
    before = report.done
    run_here(MatchJob(store, "shapes", StageOneSettings(preset=preset)))
    report = write(dataset, store, bank, "found", **where)
    assert report.done == 5 - before and report.resumed == before and "not matched" not in str(report)


def test_a_corrupt_file_is_a_status_row(pictures, bank, preset, where, tmp_path):
    path, store = Path(pictures.last().filepath), str(tmp_path / "store")
    manifest_of_view(pictures, store, unit_rows=2)
    content = path.read_bytes()
    path.write_bytes(content[:100].ljust(len(content)))
    stage_one = StageOneSettings(preset=preset)
    assert run_here(IndexJob(store, stage_one)).failed == 1
    put_bank(Bucket(store), "shapes", bank)
    run_here(MatchJob(store, "shapes", stage_one))
    report = write(pictures, store, bank, "found", **where)
    assert (report.done, report.failed) == (5, 1) and "not a readable image" in report.errors[pictures.last().id]
    assert pictures.last().found_status.state == "error"


def test_more_samples_leave_the_units_of_before(fleet, preset, tmp_path, bank, where):
    import fiftyone as fo
    from PIL import Image

    dataset, bank, store = fleet
    for i in range(3):
        path = tmp_path / f"more {i}.png"
        Image.fromarray(np.random.default_rng(50 + i).integers(0, 255, (60, 70, 3), dtype=np.uint8)).save(path)
        dataset.add_sample(fo.Sample(str(path)))
    assert len(manifest_of_view(dataset, store, unit_rows=2)) == 9
    stage_one = StageOneSettings(preset=preset)
    report = run_here(IndexJob(store, stage_one))
    assert (report.units, report.images) == (2, 3), "only what is new is indexed"
    run_here(MatchJob(store, "shapes", stage_one))
    assert write(dataset, store, bank, "found", **where).done == 8


def test_write_says_what_is_missing(fleet, where):
    dataset, bank, store = fleet
    with pytest.raises(FleetError, match="fleet match"):
        write(dataset, store, bank, "found", score_threshold=0.4, **where)
    with pytest.raises(FleetError, match="fleet index"):
        write(dataset, store, bank, "found", points_per_side=7, **where)
    with pytest.raises(InputError, match="published"):
        write(dataset, store, bank, "found", config=MatchConfig.paper(), **where)
    assert not dataset.has_field("found")


def test_manifest_of_a_view_has_hashes_and_mapped_paths(pictures, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for path in pictures.values("filepath"):
        (there / Path(path).name).write_bytes(Path(path).read_bytes())
    manifest = manifest_of_view(pictures.limit(4), str(tmp_path / "store"), roots=[(str(tmp_path), str(there))],
                                unit_rows=3, hashes=True)  # fmt: skip
    rows = [row for unit in manifest.units for row in manifest.unit(unit.number, "k").rows]
    assert [row.id for row in rows] == sorted(pictures.limit(4).values("id"))
    assert all(Path(row.uri).parent == there and len(row.hash) == 64 for row in rows)
    assert [row.size for row in rows] == [Path(row.uri).stat().st_size for row in rows]


def test_a_manifest_of_files_that_are_not_there_is_not_kept(pictures, tmp_path):
    store = str(tmp_path / "store")
    with pytest.raises(FleetError, match="map-root"):
        manifest_of_view(pictures, store, roots=[(str(tmp_path), "/nowhere")], hashes=True)
    assert Bucket(store).names("manifests", ".parquet") == []


def test_commands_go_through_all_of_it(pictures, preset, tmp_path, index_dir, monkeypatch, capsys):
    from fiftyone_ntt.models import PRESETS

    small = replace(preset, name="lite")
    monkeypatch.setitem(PRESETS, "lite", small)
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=small)
    save_bank(pictures, "shapes", bank)
    store, name = str(tmp_path / "store"), pictures.name
    assert main(["fleet", "manifest", store, name, "--unit", "2", "--bank", "shapes"]) == 0
    assert main(["fleet", "index", store, "--part", "0/2"]) == 0
    assert main(["fleet", "index", store, "--part", "1/2"]) == 0
    assert main(["fleet", "match", store, "--bank", "shapes"]) == 0
    capsys.readouterr()
    assert main(["fleet", "status", store]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 units done: 6 of 6 images indexed, 0 failed" in shown and "3 of 3 units matched" in shown
    arguments = ["--bank", "shapes", "--field", "found", "--index-dir", str(index_dir)]
    assert main(["fleet", "write", store, name, *arguments]) == 0
    assert "wrote" in capsys.readouterr().out and pictures.count("found.detections") > 0
    assert main(["fleet", "status", store, "--rerun"]) == 0
    assert "0 images to be tried again" in capsys.readouterr().out and len(manifests_of(Bucket(store))) == 1
    assert main(["fleet", "index", store, "--part", "2/2"]) == 2
