"""Candidates found on a Ray cluster, through the operator: kept in a store, used from the local candidate cache."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from support.app import PanelSession, context, operator, run, uri_of
from support.ray_cluster import two_nodes

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.models.presets import clear_loaded
from fiftyone_ntt.runs import background

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")
pytest.importorskip("ray", reason="Ray is not installed: pip install 'fiftyone-ntt[ray]'")

pytestmark = [pytest.mark.slow, pytest.mark.pictures(count=6)]
NAME = "index_candidates"
POINTS = {"points_per_side": 4, "device": "cpu"}
MOST_SECONDS = 600
"""Until a test gives up; nothing is judged by it."""


@pytest.fixture
def cluster(monkeypatch):
    with two_nodes(monkeypatch) as nodes:
        yield nodes


@pytest.fixture
def asked(tmp_path, index_dir):
    place = {"store": str(tmp_path / "store"), "index_dir": str(index_dir)}
    return {"on_ray": True, "workers": 2, "unit_rows": 2, "preset": "lite", **place, **POINTS}


def receipts(params):
    return sorted(path.name for path in Path(params["store"]).glob("index/*/receipts/*"))


def written(dataset, field):
    """Every label: class, box, score and mask, to the bit."""
    return [
        [(label.label, label.bounding_box, label.confidence, np.packbits(label.mask).tobytes())
         for label in (sample[field].detections if sample[field] else [])]
        for sample in dataset
    ]  # fmt: skip


def until(what, wanted):
    deadline = time.monotonic() + MOST_SECONDS
    while not wanted(answer := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"it still says {answer!r}")
        time.sleep(0.1)
    return answer


def test_operator_indexes_and_the_cache_has_it(pictures, lite, cluster, asked, index_dir, monkeypatch):
    broken = Path(pictures.last().filepath)
    content = broken.read_bytes()
    broken.write_bytes(b"no image".ljust(len(content)))
    result, _ = run(NAME, pictures, asked)
    assert (result["computed"], result["found"], result["failed"]) == (5, 0, 1)
    assert [row["sample"] for row in result["errors"]] == [pictures.last().id]
    assert "not a readable image" in result["errors"][0]["error"] and result["bytes"] > 0
    assert asked["store"] in result["summary"] and len(receipts(asked)) == 3
    manifests = sorted(Path(asked["store"], "manifests").iterdir())
    assert len(manifests) == 1

    broken.write_bytes(content)  # repaired: of the same size, so only it is done again
    result, _ = run(NAME, pictures, asked)
    assert (result["computed"], result["found"], result["failed"]) == (1, 5, 0)
    assert len(receipts(asked)) == 4 and not result["errors"]
    result, _ = run(NAME, pictures, asked)
    assert (result["computed"], result["found"], result["failed"]) == (0, 6, 0)
    assert len(receipts(asked)) == 4 and len(list(Path(asked["store"], "manifests").iterdir())) == 2

    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", device="cpu")
    direct = ntt.segment(pictures, bank, "direct", use_index=False, **POINTS)
    clear_loaded()
    monkeypatch.setattr(candidates, "load_segmenters", lambda *_, **__: pytest.fail("a model was asked for"))
    report = ntt.segment(pictures, bank, "found", index_dir=index_dir, **POINTS)
    assert (report.from_index, report.indexed, report.failed) == (5, 0, 0)
    assert written(pictures, "found") == written(pictures, "direct") and direct.instances > 0
    ntt.accept_labels(pictures, "found", label_ids=[pictures.last()["found"].detections[0].id])
    assert "1" in str(ntt.learn(pictures, "found", index_dir=index_dir))


def test_sdk_and_command_do_the_same(pictures, preset, cluster, asked, tmp_path, monkeypatch, capsys):
    """Part of the dataset through the one, all of it through the other: what is there is not done again."""
    told = []
    first = ntt.index(
        pictures.limit(4), preset, on_ray=True, store=asked["store"], unit_rows=2, index_dir=asked["index_dir"],
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert (first.computed, first.failed) == (4, 0) and len(receipts(asked)) == 2
    assert ("starting 2 workers on the Ray cluster" in [message for _, _, message in told]) and told[-1][:2] == (2, 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in pictures.values("filepath"):
        Image.open(path).save(elsewhere / Path(path).name)
        (elsewhere / Path(path).name).write_bytes(Path(path).read_bytes())
    again = ntt.index(
        pictures, preset, on_ray=True, store=asked["store"], unit_rows=2, index_dir=asked["index_dir"],
        map_root=[f"{tmp_path}={elsewhere}"],
    )  # fmt: skip
    assert (again.computed, again.found, again.failed) == (2, 4, 0) and len(receipts(asked)) == 3

    seen = {}
    monkeypatch.setattr("fiftyone_ntt.fleet.handing.index", lambda view, **given: seen.update(given) or again)
    arguments = ["--on-ray", "--store", asked["store"], "--unit-rows", "2", "--workers", "2", "--map-root", "/a=/b"]
    assert cli.main(["index", "build", pictures.name, *arguments]) == 0
    assert seen["on_ray"] is True and seen["map_root"] == ["/a=/b"] and (seen["workers"], seen["unit_rows"]) == (2, 2)
    assert "4 were in the cache" in capsys.readouterr().out


@pytest.mark.pictures(count=14)
def test_in_the_app_it_is_followed_and_cancelled(pictures, lite, cluster, asked):
    """It runs in a process of its own; once that has ended, nothing on the cluster goes on, and what is done stays."""
    asked = {**asked, "unit_rows": 1}
    ctx = context(NAME, pictures, asked, operator_uri=uri_of(NAME))
    started = operator(NAME).execute(ctx)["started"]
    number = background._workers(pictures).get(started)["owner"]["pid"]
    until(lambda: len(receipts(asked)), lambda units: units >= 2)
    panel = PanelSession(pictures, "runs")
    (row,) = panel.data["runs_table"]
    assert row["run"] == "Precomputing candidates" and row["state"].startswith("running")
    panel.send("on_runs_cancel", row=0)
    until(lambda: psutil.pid_exists(number), lambda there: not there)
    until(actors, lambda there: not there)
    done = len(receipts(asked))
    assert 2 <= done < 14, "it was stopped"
    result, _ = run(NAME, pictures, asked)
    assert (result["computed"], result["found"], result["failed"]) == (14 - done, done, 0)


def actors():
    """Processes of the cluster that work for somebody."""
    names = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    return [name[0] for name in names if name and name[0].startswith("ray::MapWorker")]
