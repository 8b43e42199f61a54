"""One damaged label document costs one label, on every path that reads labels (``support/damaged.py`` has the tables).

Two datasets are alike but for the damages: what a path says of healthy labels is the same of both, and the healthy
labels that it leaves behind are those that were there.
"""

from __future__ import annotations

import bson
import pytest
from support.app import PanelSession
from support.damaged import (
    DAMAGES,
    FIELD,
    LABELS,
    READING,
    TRUTH,
    World,
    evaluate,
    exports,
    learn_and_apply,
    overwrite,
    undo,
    weaker,
)  # fmt: skip
from support.hostile import small_models

import fiftyone_ntt as ntt

UNREADABLE = [name for name in LABELS if not name.startswith("name")]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The twin without damages, and the damaged dataset."""
    with small_models(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("fiftyone_ntt.runs.segment.STARTING", None)
        folder = tmp_path_factory.mktemp("worlds")
        both = World(folder / "twin", False), World(folder / "damaged", True)
        yield both
        for world in both:
            world.dataset.delete()


def kept(world):
    """What nothing may change of the healthy labels: all but their tags and what an evaluation notes on them."""
    return {
        name: {
            place: {key: value for key, value in label.items() if key not in ("tags", "ev", "ev_id", "ev_iou")}
            for place, label in world.labels(name).items()
        }
        for name in (FIELD, TRUTH)
    }


@pytest.mark.parametrize("path", READING, ids=lambda path: path.__name__)
def test_healthy_labels_are_read_as_without_the_damage(worlds, path):
    before = kept(worlds[1])
    assert path(worlds[1]) == path(worlds[0])
    assert kept(worlds[1]) == before


def test_what_is_left_out_is_named(worlds):
    damaged = worlds[1]
    evaluate(damaged)
    exports(damaged)
    (note,) = [note for note in damaged.notes["evaluate"] if "cannot be used" in note]
    assert note.startswith(f"{2 * len(UNREADABLE)} labels"), "one of the predictions and one of the truth each"
    for kind in ("coco", "yolo", "fiftyone"):
        lines, notes = damaged.notes[f"export {kind} all"]
        assert len(lines) == len(UNREADABLE), kind
        assert any("7 labels without a class" in text for text in notes), kind
    assert len(LABELS) - len(UNREADABLE) == 6
    report = ntt.to_segmentation(damaged.dataset, FIELD, "maps")
    assert {damaged.rows[key] for key in report.errors} == set(UNREADABLE)
    damaged.dataset.delete_sample_field("maps")


@pytest.mark.parametrize("tab", ["references", "runs", "review", "evaluate"])
def test_the_panel_opens(worlds, tab):
    assert PanelSession(worlds[1].dataset, tab).drawn


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_by_itself(worlds, damage):
    """Beside one good image: one damage may not hide behind another."""
    results = []
    for world in worlds:
        view = world.dataset.match({"row": {"$in": [damage, "good"]}})
        scores = ntt.evaluate(view, FIELD, TRUTH).to_dict()
        del scores["notes"]
        folder = world.folder / f"by itself {damage}"
        report = ntt.export_labels(view, folder, FIELD, only="all", export_media=False)
        results.append((scores, report.labels, report.per_class))
    assert results[0] == results[1]


def raw(world):
    """What stands in the field, byte by byte: not a number is not equal to itself."""
    return {row: bson.encode({"value": value}) for row, value in world.documents().items()}


def test_what_is_written_and_taken_back(worlds):
    """In one test, as each step stands on the one before."""
    before = raw(worlds[1])
    assert overwrite(worlds[1]) == overwrite(worlds[0])
    assert undo(worlds[1]) == undo(worlds[0])
    assert raw(worlds[1]) == before, "the damaged ones included: they are nobody's to change"
    assert weaker(worlds[1]) == weaker(worlds[0])
    assert kept(worlds[1])[FIELD].keys() == kept(worlds[0])[FIELD].keys()
    assert undo(worlds[1]) == undo(worlds[0])
    assert raw(worlds[1]) == before
    assert learn_and_apply(worlds[1]) == learn_and_apply(worlds[0])
    assert undo(worlds[1]) == undo(worlds[0])
    assert undo(worlds[1]) == undo(worlds[0]), "what the run wrote first; what was accepted stays"
    assert [ntt.list_runs(world.dataset) for world in worlds] == [[], []]
