"""Views that show a sample more than once: nothing is counted, labelled or written twice, and a sentence says why."""

from __future__ import annotations

import pytest
from support.labelled import PICTURES

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError

pytestmark = pytest.mark.pictures(**PICTURES)

CALLS = {
    "evaluate": lambda view, bank, preset, folder: ntt.evaluate(view, "found", "truth"),
    "evaluate_semantic": lambda view, bank, preset, folder: ntt.to_segmentation(view, "found", "maps"),
    "segment": lambda view, bank, preset, folder: ntt.segment(view, bank, "other", preset=preset),
    "build_memory_bank": lambda view, bank, preset, folder: ntt.build_memory_bank(view, "truth", preset=preset),
    "export_labels": lambda view, bank, preset, folder: ntt.export_labels(view, folder / "out", "found", only="all"),
    "accept_labels": lambda view, bank, preset, folder: ntt.accept_labels(view, "found"),
    "judge_presence": lambda view, bank, preset, folder: ntt.judge_presence(view, "found"),
    "index": lambda view, bank, preset, folder: ntt.index(view, preset=preset, index_dir=folder / "i"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_view_with_copies_is_refused_and_nothing_is_written(labelled, bank, preset, tmp_path, call):
    dataset, before = labelled
    view = dataset.limit(3).concat(dataset.skip(2))  # one of four twice
    with pytest.raises(InputError, match=r"expected a view of each sample once, got 1 sample of 4 more than once"):
        CALLS[call](view, bank, preset, tmp_path)
    assert not (tmp_path / "out").exists() and not dataset.has_field("other") and not dataset.has_field("maps")
    assert not dataset.count_label_tags("found")


def test_a_pipeline_of_ones_own_is_looked_at_too(labelled):
    dataset, _ = labelled
    twice = dataset.mongo([{"$addFields": {"t": [1, 2]}}, {"$unwind": "$t"}, {"$project": {"t": 0}}])
    with pytest.raises(InputError, match=r"got 4 samples of 4 more than once"):
        ntt.evaluate(twice, "found", "truth")
    once = dataset.mongo([{"$match": {"tags": {"$ne": "none"}}}])
    assert ntt.evaluate(once, "found", "truth").images == ntt.evaluate(dataset, "found", "truth").images


def test_joined_views_of_different_samples_are_views(labelled):
    dataset, _ = labelled
    view = dataset.skip(2).concat(dataset.limit(2))
    assert ntt.evaluate(view, "found", "truth").images == ntt.evaluate(dataset, "found", "truth").images
    twice = dataset.concat(dataset)
    assert len(ntt.evaluate(dataset.select(list(set(twice.values("id")))), "found", "truth").notes) < 9
