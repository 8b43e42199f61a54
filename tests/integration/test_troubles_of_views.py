"""A view says which samples, never which fields there are."""

from __future__ import annotations

import pytest
from fiftyone import ViewField as F
from support.app import PanelSession, form, run
from support.labelled import KEY, PICTURES, fields_of_run, second

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.parts import part_of, raw_samples
from fiftyone_ntt.dataset.storage import raw_values

pytestmark = pytest.mark.pictures(**PICTURES)


def saved(dataset):
    dataset.save_view("chosen", dataset.select_fields("truth").skip(1), overwrite=True)
    return dataset.load_saved_view("chosen")


VIEWS = {
    # voxel51/fiftyone#1167: a view without the field of a run could not be cloned
    "chosen fields": lambda dataset: dataset.select_fields("truth"),
    "chosen fields of some": lambda dataset: dataset.limit(3).select_fields("truth").skip(1),
    # voxel51/fiftyone#799: fields of the dataset were taken for those of the view
    "no fields": lambda dataset: dataset.select_fields().sort_by("filepath", reverse=True),
    "hidden labels": lambda dataset: dataset.exclude_fields(fields_of_run(dataset) or "truth"),
    "saved view": saved,
    # voxel51/fiftyone#910: fields chosen after labels were filtered raise an error
    "filtered labels": lambda dataset: dataset.filter_labels("truth", F("label") == "square").select_fields("truth"),
    # voxel51/fiftyone#1647: labels that a view maps were not among those annotated
    "mapped labels": lambda dataset: dataset.select_fields("truth").map_labels("truth", {"lamp": "disc"}),
    "shuffled": lambda dataset: dataset.exclude_fields("truth").shuffle(),
    "random ones": lambda dataset: dataset.take(3).select_fields("truth"),
}


@pytest.mark.parametrize("what", VIEWS)
def test_a_view_says_which_images_are_labelled(pictures, bank, preset, what):
    ntt.segment(pictures.limit(2), bank, "found", preset=preset)
    view = VIEWS[what](pictures)
    wanted = {*view.values("id"), second(pictures).id} - {pictures.first().id}
    report = ntt.segment(view, bank, "found", preset=preset)
    assert report.resumed + report.done == len({*view.values("id")} - {pictures.first().id}) and not report.failed
    assert set(pictures.exists("found").values("id")) == set(pictures.exists("found_status").values("id")) == wanted
    assert [listed["state"] for listed in ntt.list_runs(pictures)] == ["completed"]
    assert ntt.resume_run(pictures, KEY, preset=preset).done == 0


@pytest.mark.parametrize("what", VIEWS)
def test_every_service_reads_what_a_view_does_not_show(named, preset, tmp_path, what):
    dataset, bank_name = named
    view = VIEWS[what](dataset)
    same = dataset.select(view.values("id"))
    assert len(ntt.doubtful(view, "found")) == len(ntt.doubtful(same, "found"))
    assert ntt.to_segmentation(view, "found").maps == len(view.exclude(dataset.first().id))
    assert ntt.judge_presence(view, "found").images == len(view.exclude(dataset.first().id))
    assert ntt.accept_labels(view, "found") == same.count("found.detections")
    assert ntt.evaluate(view, "found", "truth").images == len(view.exclude(dataset.first().id))
    assert ntt.export_labels(view, tmp_path / "export", "found").labels == same.count("found.detections")
    assert sum(ntt.learn(view, "found").decisions["disc"].values()) > 0
    assert ntt.preview(view, bank_name).count == len(view.exclude(dataset.first().id))
    assert ntt.index(view, preset=preset).failed == 0
    references = dataset.select(dataset.first().id)
    shown = VIEWS[what](references) if what not in ("saved view", "chosen fields of some") else references
    assert len(ntt.describe_references(shown, "truth")) == (1 if what == "filtered labels" else 2)
    assert ntt.build_memory_bank(shown, "truth", preset=preset).shots["square"] == 1


@pytest.mark.parametrize("what", ["chosen fields", "hidden labels", "saved view"])
def test_the_app_reads_what_a_view_does_not_show(named, tmp_path, what):
    dataset, bank_name = named
    view = VIEWS[what](dataset)
    folder = {"export_dir": str(tmp_path / "export")}
    for name, params in (
        ("segment", {"bank": bank_name, "label_field": "found"}),
        ("preview", {"bank": bank_name}),
        ("index_candidates", {}),
        ("selfcheck", {}),
        ("evaluate", {"label_field": "found", "gt_field": "truth"}),
        ("accept_labels", {"label_field": "found"}),
        ("export_labels", {"label_field": "found", **folder}),
        ("to_segmentation", {"label_field": "found"}),
        ("judge_presence", {"label_field": "found"}),
        ("learn", {"label_field": "found"}),
        ("build_memory_bank", {"label_field": "truth", "reference_tag": ""}),
        ("advise_references", {"bank": bank_name, "label_field": "truth", "reviewed": "found"}),
    ):
        assert form(name, view, params)[1] == {}, name
        if name not in ("preview", "index_candidates", "selfcheck", "build_memory_bank"):
            assert run(name, view, params)[0]["summary"], name
    for tab in ("references", "runs", "review", "evaluate"):
        session = PanelSession(dataset, tab)
        session.view = view
        session.send(f"on_{tab}_refresh")
        assert session.shown, tab
    session.view, session.state["tab"] = view, "review"
    session.send("on_review_refresh").send("on_review_threshold", value=0.01)
    assert len(session.view) == len(view) and not session.messages


# voxel51/fiftyone#967, #1217: samples that were chosen or sent elsewhere did not keep the order of their view
ORDERED = {
    "sorted": lambda dataset: dataset.sort_by("filepath", reverse=True),
    "limited": lambda dataset: dataset.limit(3),
    "skipped and shuffled": lambda dataset: dataset.skip(1).shuffle(seed=5),
    "filtered, then limited": lambda dataset: dataset.filter_labels("found", F("confidence") > 0).limit(2),
    "sorted, fields chosen": lambda dataset: dataset.sort_by("filepath").select_fields("found"),
    "labels limited": lambda dataset: dataset.limit_labels("found", 1).sort_by("filepath", reverse=True),
}


@pytest.mark.parametrize("what", ORDERED)
def test_parts_of_a_view_are_what_it_shows(labelled, what):
    """And no part is made by sorting or limiting all samples again."""
    dataset, _ = labelled
    view = ORDERED[what](dataset)
    ids = view.values("id")
    fields = ["id", "found.detections.id"]
    assert list(raw_samples(view, fields)) == list(zip(*raw_values(view, fields), strict=True))
    for some in (ids[:1], list(reversed(ids))):
        part = part_of(view, some, ordered=True)
        assert part.values("id") == some
        kinds = {type(stage).__name__ for stage in part._stages}
        assert not kinds & {"Limit", "SortBy", "Skip", "Shuffle"}
