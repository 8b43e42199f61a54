"""A class that is renamed is no word on a mask."""

from __future__ import annotations

import numpy as np
import pytest
from support.labelled import KEY, PICTURES, all_labels, content, second

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError

pytestmark = pytest.mark.pictures(**PICTURES)


# In bulk: voxel51/fiftyone#1573 (saving a view of mapped labels), cvat-ai/cvat#8540 and #8761 (merging classes).
# One at a time: cvat-ai/cvat#2186 (a label is put right once somebody knows what it is). Labels that are lost by it:
# Labelbox/labelbox-custom-labeling-apps#145.


def rename_with_a_view(dataset):
    dataset.map_labels("found", {"disc": "lamp", "square": "tile"}).save("found")


def rename_with_values(dataset):
    dataset.set_values("found.detections.label", [
        None if names is None else ["lamp" for _ in names] for names in dataset.values("found.detections.label")
    ])  # fmt: skip


def rename_one(dataset):
    """As the App's editor does it."""
    sample = second(dataset)
    sample.found.detections[0].label = "lamp"
    sample.save()


@pytest.mark.parametrize("rename", [rename_with_a_view, rename_with_values, rename_one])
def test_renamed_labels_are_protected_and_undecided(named, bank, preset, tmp_path, rename):
    dataset, _ = named
    rename(dataset)
    renamed = {label.id for label in all_labels(dataset) if label.label not in ("square", "disc")}
    before = {label.id: content(label) for label in all_labels(dataset) if label.id in renamed}
    assert renamed
    assert sum(scores.decided for scores in ntt_scores(dataset)) == 0
    assert ntt.fit_thresholds(dataset, KEY).guessed
    with pytest.raises(InputError, match="decided"):
        ntt.learn(dataset, "found")
    with pytest.raises(InputError, match="none accepted"):
        ntt.export_labels(dataset, tmp_path / "export", "found")
    assert ntt.export_labels(dataset, tmp_path / "all", "found", only="all").labels == dataset.count("found.detections")
    assert ntt.to_segmentation(dataset, "found", only="accepted").maps == 0
    assert len(ntt.doubtful(dataset, "found").values("found.detections.id", unwind=True)) == len(all_labels(dataset))
    ntt.segment(dataset, bank, "found", preset=preset, overwrite=True)
    there = {label.id: content(label) for label in all_labels(dataset)}
    assert {key: there.get(key) for key in renamed} == before, "protected"
    ntt.undo_run(dataset, KEY)
    ntt.undo_run(dataset, KEY)
    assert {label.id for label in all_labels(dataset)} == renamed, "and kept by undo unless told otherwise"


def test_a_renamed_label_counts_once_accepted_or_edited(named, tmp_path):
    dataset, _ = named
    rename_with_values(dataset)
    accepted, edited, rejected = all_labels(dataset)[:3]
    ntt.accept_labels(dataset, "found", label_ids=[accepted.id])
    ntt.reject_labels(dataset, "found", label_ids=[rejected.id])
    for sample in dataset.match_labels(ids=[edited.id]):
        label = next(label for label in sample.found.detections if label.id == edited.id)
        label.mask = np.eye(*label.mask.shape, dtype=bool)
        sample.save()
    (lamp,) = ntt_scores(dataset)
    assert (lamp.accepted, lamp.rejected, lamp.edited) == (1, 1, 1)
    fit = ntt.fit_thresholds(dataset, KEY)
    assert (fit.overall.right, fit.overall.wrong) == (2, 1)
    assert ntt.learn(dataset, "found").decisions["lamp"] == {"accepted": 1, "edited": 1, "rejected": 1}
    assert ntt.export_labels(dataset, tmp_path / "export", "found").labels == 2


def ntt_scores(dataset):
    from fiftyone_ntt.review.label_table import summarise_scores

    return summarise_scores(dataset, "found")
