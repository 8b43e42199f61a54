"""The benchmark of prompts on a made-up data folder, and the points and scribbles that it makes of masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.colours import MeanColour, SameColour, colour_folder

from benchmarks import prompts
from benchmarks.prompts_made import deepest_point, scribble_line
from fiftyone_ntt.core import ProposalConfig, ReferenceSettings, Segmenter


class Prompted(SameColour):
    """What a box holds in the colour of its centre."""

    def decode_boxes(self, embedding, boxes):
        masks, ious = self.decode_points(embedding, (boxes[:, :2] + boxes[:, 2:]) / 2)
        return masks[:, 0], ious[:, 0]


def segmenter():
    return Segmenter(
        Prompted(), MeanColour(), references=ReferenceSettings(context="image", weights="area"),
        proposals=ProposalConfig(points_per_side=12, grid="centre"), target_via=None,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return colour_folder(tmp_path)


def test_one_row_a_kind(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prompts, "SETS", ((folder.name, "all", None),))
    monkeypatch.setattr(prompts, "SHOTS", 1)
    monkeypatch.setattr(prompts, "load_preset", lambda name: type("Loaded", (), {"segmenter": staticmethod(segmenter)}))
    out = tmp_path / "out.json"
    assert prompts.main(["--data", str(folder), "--seeds", "1,2", "--json", str(out)]) == 0
    (kinds,) = json.loads(out.read_text()).values()
    assert list(kinds) == ["mask", "box", "point", "scribble"]
    assert kinds["mask"]["iou"] == 100 and kinds["mask"]["mask_ap"] > 85 and kinds["mask"]["draws"] == 2
    for figures in kinds.values():  # colours are easy: every prompt finds the object
        assert figures["iou"] > 90 and figures["mask_ap_share"] == pytest.approx(100, abs=2)
    assert capsys.readouterr().out.count("%") == 2 * 4, "two shares a kind"


def test_a_folder_without_sets_is_named(tmp_path, capsys):
    assert prompts.main(["--data", str(tmp_path)]) == 2
    assert "fruits-nuts or coco-mini" in capsys.readouterr().err


def test_the_point_is_where_the_mask_is_deepest():
    mask = np.zeros((50, 60), bool)
    mask[10:31, 20:41] = True
    mask[30:32, :] = True
    np.testing.assert_allclose(deepest_point(mask), [30.5, 20.5], atol=1)


def test_the_scribble_lies_in_the_largest_part():
    mask = np.zeros((60, 90), bool)
    mask[10:20, 5:80], mask[40:45, 5:10] = True, True
    line = scribble_line(mask)
    assert (line[:, 1] > 10).all() and (line[:, 1] < 20).all() and np.ptp(line[:, 0]) > 50
    assert (np.abs(np.diff(line, axis=0)) <= 1).all(), "a path"
    speck = np.zeros((9, 9), bool)
    speck[4, 4] = True
    assert scribble_line(speck).tolist() == [[4.5, 4.5]]


def test_the_overlap_is_intersection_over_union():
    a, b = torch.eye(4).bool().numpy(), np.ones((4, 4), bool)
    assert prompts.overlap(a, b) == 0.25
