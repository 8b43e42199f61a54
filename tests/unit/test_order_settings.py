"""The benchmark of orders of review on made-up vectors."""

import json

import numpy as np
import pytest

from benchmarks import order_settings
from fiftyone_ntt.review.head_rows import NONE


@pytest.fixture
def rows(tmp_path):
    """A frequent class in every image; in every tenth one six rare ones with many looks, and no one alike."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(7, 4, 24))
    found = [(centres[0, i % 4], 0, i) for i in range(90)]
    found += [(centres[k, rng.integers(4)], k, i) for i in range(0, 90, 6) for k in range(1, 7)]
    found += [(rng.normal(size=24), NONE, i) for i in range(90) for _ in range(4)]
    means, classes, images = (np.array(part) for part in zip(*found, strict=True))
    vectors = (means + 0.4 * rng.normal(size=means.shape)).astype(np.float32)
    path = tmp_path / "rows.npz"
    np.savez(path, vectors=vectors, classes=classes, counts=np.ones(len(classes), np.float32), images=images)
    return path


def figures_of(rows, tmp_path, *more):
    arguments = ["--rows", str(rows), "--data", str(tmp_path), "--test", "30", "--seeds", "0,1,2", "--reviewed", "4,8"]
    assert order_settings.main([*arguments, "--json", str(tmp_path / "out.json"), *more]) == 0
    return json.loads((tmp_path / "out.json").read_text())


def test_images_with_rare_classes_come_first(rows, tmp_path):
    figures = figures_of(rows, tmp_path)
    assert list(figures) == ["random", "gain", "threshold", "classes"]
    for cells in figures.values():
        assert list(cells) == ["0", "4", "8"] and cells["0"] == figures["random"]["0"]
        assert cells["4"]["objects"] < cells["8"]["objects"]
    assert figures["gain"]["8"]["objects"] > 2 * figures["random"]["8"]["objects"]
    assert figures["gain"]["8"]["precision"] > figures["random"]["8"]["precision"]


def test_a_head_may_be_trained_besides(rows, tmp_path):
    with_head = figures_of(rows, tmp_path, "--head", "--orders", "gain")
    assert list(with_head) == ["gain"] and "gain_std" not in with_head["gain"]["8"]


def test_an_unknown_order_is_refused(rows, tmp_path, capsys):
    assert order_settings.main(["--rows", str(rows), "--data", str(tmp_path), "--orders", "best"]) == 1
    assert "random, gain" in capsys.readouterr().err
