"""The benchmark of refined masks on a made-up data folder, and its boundary IoU."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.colours import MeanColour, SameColour, colour_folder

from benchmarks import refine as benchmark
from fiftyone_ntt.core import ProposalConfig, Segmenter


class Exact(SameColour):
    """What lies at the first point inside, in its colour, four times."""

    def decode_refined(self, embedding, boxes, points, labels, masks):
        logits, ious = self.decode_points(embedding, points[:, 0])
        return logits[:, :1].expand(-1, 4, -1, -1), ious[:, :1].expand(-1, 4) + 0.5


def test_one_row_a_set(tmp_path, monkeypatch, capsys):
    data, out = colour_folder(tmp_path), tmp_path / "out.json"
    segmenter = Segmenter(Exact(), MeanColour(), proposals=ProposalConfig(points_per_side=12), target_via=None)
    loaded = type("Loaded", (), {"segmenter": staticmethod(lambda: segmenter)})
    monkeypatch.setattr(benchmark, "SETS", ((data.name, "all"),))
    monkeypatch.setattr(benchmark, "load_preset", lambda name: loaded)
    assert benchmark.main(["--data", str(data), "--images", "9", "--objects", "1", "--json", str(out)]) == 0
    (figures,) = json.loads(out.read_text()).values()
    assert figures["objects"] == 4, "one of each image that has some"
    assert figures["iou_before"] > 90 and figures["iou_after"] > 90 and figures["refused"] == 0
    assert figures["ms"] > 0 and figures["reasons"] == {}
    assert capsys.readouterr().out.count(data.name) == 1


def test_what_the_guard_refused_counts():
    row = {"iou": (0.8, 0.9), "boundary_iou": (0.5, 0.7), "kept": None, "ms": 10.0}
    kept = {"iou": (0.6, 0.6), "boundary_iou": (0.3, 0.3), "kept": "area", "ms": 30.0}
    figures = benchmark.summary([row, kept, kept])
    assert figures["refused"] == pytest.approx(200 / 3) and figures["reasons"] == {"area": 2}
    assert figures["iou_after"] == pytest.approx(70) and figures["boundary_iou_before"] == pytest.approx(110 / 3)
    assert figures["better_of_refined"] == 100 and figures["ms"] == pytest.approx(70 / 3)
    assert benchmark.summary([]) == {"objects": 0}


def test_the_border_is_a_band_inside_the_mask():
    mask = np.zeros((60, 80), bool)  # a diagonal of 100 pixels
    mask[10:40, 0:30] = True
    band = benchmark.border(mask, 0.02)
    assert band[10:12, 5].all() and not band[12, 5] and not band[9, 5]
    assert band[20, 0:2].all() and not band[20, 2], "the image's edge is a border as well"
    assert (benchmark.border(mask, 0.5) == mask).all(), "all of a small object is border"
    assert benchmark.boundary_iou(mask, mask) == 1
    grown = np.zeros_like(mask)
    grown[10:40, 0:32] = True
    assert benchmark.boundary_iou(mask, grown) < 0.8 < benchmark.overlap(mask, grown)


def test_a_folder_without_sets_is_named(tmp_path, capsys):
    assert benchmark.main(["--data", str(tmp_path)]) == 2
    assert "fruits-nuts or magnetic-tile or coco-mini" in capsys.readouterr().err
