"""Mask files of a run that labels elsewhere show: they outlive the run that wrote them."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import pytest
from pymongo.errors import OperationFailure
from support.labelled import KEY, PICTURES

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset import shown_masks
from fiftyone_ntt.runs import session

pytestmark = pytest.mark.pictures(**PICTURES)


def merged(dataset):
    """Samples of several datasets in one, as people put together what they train on."""
    other = fo.Dataset()
    other.add_samples([sample.copy() for sample in dataset])
    return other, "found.detections.mask_path"


def segmentation(dataset):
    other = fo.Dataset()
    for path in dataset.values("found.detections.mask_path", unwind=True):
        other.add_sample(fo.Sample(dataset.first().filepath, shown=fo.Segmentation(mask_path=path)))
    return other, "shown.mask_path"


COPIES = {
    "clone": lambda dataset: (dataset.clone(), "found.detections.mask_path"),
    "renamed in the clone": lambda dataset: (renamed(dataset.clone()), "fruit.detections.mask_path"),
    "some": lambda dataset: (dataset.limit(2).clone(), "found.detections.mask_path"),
    "merged": merged,
    "patches": lambda dataset: (dataset.to_patches("found").clone(), "found.mask_path"),
    "segmentation": segmentation,
}


def renamed(dataset):
    dataset.rename_sample_field("found", "fruit")
    return dataset


@pytest.fixture
def with_files(pictures, bank, preset, tmp_path, monkeypatch):
    """A run all of whose masks are in files, and these."""
    monkeypatch.setenv("FIFTYONE_NTT_MASKS", str(tmp_path / "masks"))
    monkeypatch.setattr(session, "COMFORTABLE_DOCUMENT", 0)
    ntt.segment(pictures, bank, "found", preset=preset)
    return pictures, tmp_path / "masks"


@pytest.mark.parametrize("how", COPIES)
def test_masks_of_a_copy_outlive_the_run(with_files, how):
    dataset, root = with_files
    copy, path = COPIES[how](dataset)
    shown = {name for name in copy.values(path, unwind=True) if name}
    ntt.undo_run(dataset, KEY)
    left = {str(file) for file in root.rglob("*.png")}
    copy.delete()
    assert shown and left == shown


def test_masks_that_nothing_shows_go(with_files):
    dataset, root = with_files
    copy = dataset.clone()
    copy.delete_sample_field("found")
    ntt.undo_run(dataset, KEY)
    copy.delete()
    assert not list(root.rglob("*.png"))


def test_masks_stay_where_nobody_can_tell(with_files, monkeypatch):
    dataset, root = with_files
    before = sorted(root.rglob("*.png"))

    def refuse(_start):
        raise OperationFailure("not authorized")

    monkeypatch.setattr(shown_masks, "_paths", refuse)
    ntt.undo_run(dataset, KEY)
    assert before and sorted(root.rglob("*.png")) == before
    assert ntt.list_runs(dataset) == [] and all(map(Path.is_file, before))
