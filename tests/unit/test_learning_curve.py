"""The learning curve from end to end on a made-up data folder, with a colour matcher in place of the networks."""

import json

import numpy as np
import pytest
from support.colours import colour_folder, colour_segmenter

from benchmarks import learning_curve
from benchmarks.across import Contents
from benchmarks.charts import draw_curves
from benchmarks.coco_data import read_references, read_targets
from benchmarks.review_orders import ORDERS, RANDOM, chosen_images
from fiftyone_ntt.core import compact
from fiftyone_ntt.review.head_rows import NONE


@pytest.fixture
def folder(tmp_path):
    return colour_folder(tmp_path)


def test_curve_end_to_end(folder, tmp_path, monkeypatch):
    class Preset:
        segmenter = staticmethod(colour_segmenter)

    monkeypatch.setattr(learning_curve, "load_preset", lambda name, device: Preset())
    monkeypatch.setattr(learning_curve, "SETS", {folder.name: ("all", (0, 2, 4, 40))})
    out = tmp_path / "curve.json"
    arguments = ["--data", str(folder.parent), "--seeds", "1,2", "--json", str(out), "--cache", str(tmp_path / "cache")]
    assert learning_curve.main(arguments) == 0
    result = json.loads(out.read_text())[folder.name]
    assert result["images"] == 6 and result["draws"] == 2 and result["ceiling"] > 85
    for method in ("prototypes", "references", "head", "both"):
        assert list(result[method]) == ["0", "2", "4"], "no more than there are images to review"
        assert result[method]["0"]["mask_ap"] == result["prototypes"]["4"]["mask_ap"] > 85
        assert all(cell["presence_f1"] > 0 for cell in result[method].values())
    assert result["references"]["4"]["seconds"] >= 0 and "share" in result["head"]["4"]


def test_the_person_says_what_the_truth_says(folder):
    targets, segmenter = read_targets(folder, "all"), colour_segmenter()
    bank = segmenter.build_bank(read_references(folder, "all", 1, 1, targets.classes), targets.classes)
    for image in targets.images:
        content = compact(segmenter.candidates(learning_curve_pixels(image)))
        reviewed = learning_curve.review(image, content, targets, bank)
        objects = [item.label for item in targets.truth if item.image_id == image.image_id and not item.crowd]
        good = [targets.classes.index(one.label) for one in reviewed.lessons if one.kind != "rejected"]
        assert sorted(good) == sorted(objects)
        assert set(reviewed.rows.classes[reviewed.rows.classes != NONE]) <= set(objects)


def learning_curve_pixels(image):
    from benchmarks.coco_data import read_target_image

    return read_target_image(image)


def test_figures_are_averaged_and_gains_are_paired():
    def draw(base, gain):
        return {
            "prototypes": {0: {"mask_ap": base, "presence_f1": 1.0}},
            "head": {0: {"mask_ap": base + gain, "presence_f1": 1.0, "seconds": 2.0}},
        }

    table = learning_curve.summary([draw(10, 1), draw(30, 3)])
    assert table["prototypes"]["0"]["mask_ap"] == 20 and table["head"]["0"]["mask_ap"] == 22
    assert table["head"]["0"]["mask_ap_gain_std"] == pytest.approx(np.sqrt(2), abs=1e-3)
    assert table["head"]["0"]["seconds"] == 2


def test_only_cached_images_are_taken(folder, tmp_path, monkeypatch):
    class Preset:
        segmenter = staticmethod(colour_segmenter)

    monkeypatch.setattr(learning_curve, "load_preset", lambda name, device: Preset())
    monkeypatch.setattr(learning_curve, "SETS", {folder.name: ("all", (0, 1))})
    store = Contents(tmp_path / "cache", "lite", colour_segmenter())
    images = read_targets(folder, "all").images
    for image in images[:3]:
        store[image]
    there = {image.path.read_bytes() for image in images[:3]}
    out = tmp_path / "curve.json"
    arguments = ["--data", str(folder.parent), "--seeds", "1", "--cache", str(tmp_path / "cache"), "--cached"]
    assert learning_curve.main([*arguments, "--json", str(out)]) == 0
    count = json.loads(out.read_text())[folder.name]["images"]
    assert count == sum(image.path.read_bytes() in there for image in images) < len(images)


@pytest.mark.parametrize("order", ORDERS)
def test_the_orders_name_each_image_once(folder, order):
    targets, segmenter = read_targets(folder, "all"), colour_segmenter()
    bank = segmenter.build_bank(read_references(folder, "all", 1, 1, targets.classes), targets.classes)
    contents = {
        str(image.path): compact(segmenter.candidates(learning_curve_pixels(image))) for image in targets.images
    }
    known = np.ones(len(bank.classes))
    every = chosen_images(order, 99, targets.images, contents, bank, known)
    assert sorted(image.image_id for image in every) == sorted(image.image_id for image in targets.images)
    assert chosen_images(order, 2, targets.images, contents, bank, known) == every[:2]
    assert chosen_images(order, 0, targets.images, contents, bank, known) == []
    if order == RANDOM:
        assert every == list(targets.images)


def test_rounds_go_on_from_what_was_learned(folder):
    targets, segmenter = read_targets(folder, "all"), colour_segmenter()
    bank = segmenter.build_bank(read_references(folder, "all", 1, 1, targets.classes), targets.classes)
    contents = {
        str(image.path): compact(segmenter.candidates(learning_curve_pixels(image))) for image in targets.images
    }
    steps = list(learning_curve.rounds(targets.images, bank, "references", (0, 2, 4), targets, contents, "gain"))
    assert [n for n, _, _ in steps] == [0, 2, 4] and steps[0][1] is bank
    objects = [len(taught.vectors) - len(bank.vectors) for _, taught, _ in steps]
    assert objects[0] == 0 < objects[1] < objects[2] and steps[1][2]["decisions"] >= objects[1]


def test_curves_are_drawn(tmp_path):
    cell = {"mask_ap": 10.0, "presence_f1": 20.0}
    results = {"a set": {"prototypes": {"0": cell, "5": cell}, "both": {"0": cell, "5": cell}, "images": 6}}
    draw_curves(results, tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert "<svg" in text and "<!-- a set -->" in text and "<!-- both -->" in text
