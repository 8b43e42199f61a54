"""The benchmark of a head's settings on made-up vectors and on a made-up data folder."""

import json

import numpy as np
import pytest
from support.colours import colour_folder, colour_segmenter

from benchmarks import head_settings
from benchmarks.coco_data import read_targets
from fiftyone_ntt.review.head_rows import NONE, Rows


def vectors(images=44, looks=3):
    rng = np.random.default_rng(0)
    centres, other = rng.normal(size=(2, looks, 12)), rng.normal(size=(4, 12))
    rows = [(centres[k, rng.integers(looks)], k, i) for i in range(images) for k in (0, 1)]
    rows += [(other[i % 4], NONE, i) for i in range(images) for _ in range(8)]
    means, classes, numbers = (np.array(part) for part in zip(*rows, strict=True))
    noisy = (means + 0.5 * rng.normal(size=means.shape)).astype(np.float32)
    return Rows(noisy, classes, np.ones(len(classes), np.float32), numbers)


def test_a_head_pays_where_a_class_has_several_looks(tmp_path, capsys):
    rows = vectors()
    np.savez(tmp_path / "rows.npz", vectors=rows.vectors, classes=rows.classes, counts=rows.counts, images=rows.images)
    out = tmp_path / "figures.json"
    arguments = ["--rows", str(tmp_path / "rows.npz"), "--reviewed", "2,16", "--seeds", "0,1", "--json", str(out)]
    assert head_settings.main([*arguments, "--data", str(tmp_path)]) == 0
    figures = json.loads(out.read_text())
    few, many = figures["2 images, pull 0.03"], figures["16 images, pull 0.03"]
    assert few["head_gain"] == 0 and few["head_used"] == 0, "two images train nothing"
    assert many["head_gain"] > 10 and many["head_used"] == 1 and many["prototypes"] == few["prototypes"]
    assert many["head_gain_worst"] <= many["head_gain"]


def test_rows_of_images_are_objects_parts_and_ellipses(tmp_path):
    targets = read_targets(colour_folder(tmp_path), "all")
    rows = head_settings.rows_of_images(colour_segmenter(), targets)
    wanted = rows.classes != NONE
    assert int(wanted.sum()) == sum(not item.crowd for item in targets.truth)
    assert 0 < (~wanted).sum() <= len(targets.images) * (head_settings.ELLIPSES + 3)


@pytest.mark.parametrize("side", [4, 40])
def test_a_quarter_is_much_less_than_its_object(side):
    mask = np.zeros((128, 128), bool)
    mask[10 : 10 + side, 20 : 20 + side] = True
    part = head_settings.quarter(mask)
    assert (part & ~mask).sum() == 0 and part.sum() == (0 if side == 4 else part.sum()) < 0.3 * mask.sum()
