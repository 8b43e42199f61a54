"""Previews beside what else is done to a dataset: files that are shown in several places, fields copied and merged."""

from __future__ import annotations

import os
from pathlib import Path

import fiftyone as fo
import pytest
import tifffile
from fiftyone import ViewField as F
from PIL import Image
from support.previews import FIELD, gradient, save, shown

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.previews import FOLDER_VARIABLE
from fiftyone_ntt.errors import InputError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "previews"))


@pytest.fixture
def pair(dataset, tmp_path):
    """Two images that no browser shows."""
    dataset.add_samples([save(tmp_path / "images" / "a.tif", "tiff"), save(tmp_path / "images" / "b.png", "deep")])
    return dataset


def are_there(paths):
    return [os.path.exists(path) for path in paths]


def test_fields_of_one_dataset_share_files(pair):
    ntt.make_previews(pair)
    ntt.make_previews(pair, "second")
    pair.clone_sample_field(FIELD, "third")
    assert ntt.remove_previews(pair, "second") == 2
    assert are_there(pair.values(FIELD)) == [True, True], "the other field shows them"
    assert ntt.remove_previews(pair) == 2
    paths = pair.values("third")
    assert are_there(paths) == [True, True], "so does its copy"
    assert ntt.remove_previews(pair, "third") == 2
    assert are_there(paths) == [False, False]


def test_previews_that_are_images_of_a_dataset_stay(pair):
    ntt.make_previews(pair)
    other = fo.Dataset()
    try:
        other.add_samples([fo.Sample(path) for path in pair.values(FIELD)])
        assert ntt.remove_previews(pair) == 2
        assert are_there(other.values("filepath")) == [True, True]
    finally:
        other.delete()


@pytest.mark.parametrize("folder", [None, "one"])
def test_a_dataset_they_were_merged_into_shows_them(pair, tmp_path, folder):
    folder = None if folder is None else tmp_path / folder
    ntt.make_previews(pair, folder=folder)
    other = fo.Dataset()
    try:
        other.add_collection(pair)
        ntt.make_previews(other, folder=folder)
        assert shown(other) == (["filepath", FIELD], FIELD, FIELD, True)
        assert ntt.remove_previews(other) == 2
        assert shown(other) == (["filepath"], "filepath", "filepath", False)
        assert are_there(pair.values(FIELD)) == [True, True]
    finally:
        other.delete()


def test_no_preview_of_another_image_is_shown(pair, tmp_path):
    """An image that needs a preview gives way to one that needs none."""
    ntt.make_previews(pair)
    sample = pair.match(F("kind") == "tiff").first()
    old = sample[FIELD]
    sample.filepath = str(tmp_path / "saved as.png")
    Image.fromarray(gradient(90, 120)).save(sample.filepath)
    sample.save()
    report = ntt.make_previews(pair)
    assert (report.kept, report.unneeded, report.made) == (1, 1, 0)
    pair.reload()
    assert sorted(pair.exists(FIELD).values("kind")) == ["deep"] and not Path(old).exists()


def test_images_of_the_same_size_and_time_differ(pair, tmp_path):
    """So slices of one stack are, unpacked from an archive."""
    ntt.make_previews(pair)
    sample = pair.match(F("kind") == "tiff").first()
    other = tmp_path / "images" / "other.tif"
    tifffile.imwrite(other, 255 - gradient(90, 120), photometric="rgb", tile=(16, 16), bigtiff=True)
    facts = os.stat(sample.filepath)
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert os.stat(other).st_size == facts.st_size
    sample.filepath = str(other)
    sample.save()
    assert ntt.make_previews(pair).made == 1
    with Image.open(pair[sample.id][FIELD]) as image:
        assert image.getpixel((0, 0))[0] > 200


def test_a_field_that_is_read_only_is_refused_first(pair):
    ntt.make_previews(pair)
    field = pair.get_field(FIELD)
    field.read_only = True
    field.save()
    for call in (ntt.make_previews, ntt.remove_previews):
        with pytest.raises(InputError, match="read-only"):
            call(pair)
    assert are_there(pair.values(FIELD)) == [True, True] and shown(pair)[1] == FIELD
    field.read_only = False
    field.save()
