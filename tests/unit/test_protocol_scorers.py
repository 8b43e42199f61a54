"""Scorers against pycocotools as people call it, and against cases that are counted by hand."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.coco import Prediction, coco_scores, encode_box
from fiftyone_ntt.evaluation.protocols.coco_files import Annotated, TargetImage, Targets
from fiftyone_ntt.evaluation.protocols.episode_scores import episode_scores, overlap
from fiftyone_ntt.evaluation.protocols.scorers import SCORERS, _faster, score, scorer_of

SIZE = (200, 300)
CLASSES = ("cat", "dog", "none")


def truth(image, label, box, *, mask=True, **marks):
    x1, y1, x2, y2 = box
    return Annotated(image, label, box, encode_box(box, SIZE) if mask else None, area=(x2 - x1) * (y2 - y1), **marks)


def guess(image, label, box, score, *, mask=True):
    return Prediction(image, label, box, score, encode_box(box, SIZE) if mask else None)


def targets(*items, images=3, facts=None, **more):
    pictures = tuple(TargetImage(i, Path(f"{i}.jpg"), SIZE) for i in range(images))
    return Targets(CLASSES, pictures, tuple(items), facts, **more)


def scattered(seed=0):
    """Objects of all sizes, a crowd, an image without any, and predictions that hit them more or less."""
    stream = np.random.default_rng(seed)
    objects, guesses = [], []
    for i in range(60):
        x, y = stream.integers(0, 150), stream.integers(0, 60)
        w, h = stream.choice([12, 40, 120], 2)
        box = (float(x), float(y), float(x + w), float(y + h))
        objects.append(truth(int(i % 2), int(i % 2), box, crowd=i % 15 == 0))
        moved = tuple(float(v) for v in np.clip(np.array(box) + stream.integers(-6, 7, 4), 0, [299, 199, 300, 200]))
        guesses.append(guess(int(i % 2), int(i % 2), moved, round(float(stream.random()), 1)))
    guesses += [guess(2, 1, (10.0, 10.0, 60.0, 60.0), 0.5), guess(0, 2, (1.0, 1.0, 9.0, 9.0), 0.9)]
    return targets(*objects), guesses


def by_pycocotools(wanted, guesses, kind, folder):
    """As everybody calls it: files, ``loadRes``, ``summarize``."""
    images = [{"id": one.image_id, "height": SIZE[0], "width": SIZE[1]} for one in wanted.images]
    categories = [{"id": k + 5, "name": name} for k, name in enumerate(CLASSES)]

    def row(item):
        rle = {**item.rle, "counts": item.rle["counts"].decode()}
        box = [item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]]
        return {"image_id": item.image_id, "category_id": item.label + 5, "segmentation": rle, "bbox": box}

    annotations = [
        {**row(item), "id": i + 1, "area": item.area, "iscrowd": int(item.crowd)} for i, item in enumerate(wanted.truth)
    ]
    results = [{**row(item), "score": item.score} for item in guesses if item.score > 0]
    if kind == "segm":  # or loadRes takes the areas of boxes
        results = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
    (folder / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories, "info": {}})
    )
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        file = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(file, file.loadRes(str(folder / "results.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_is_pycocotools_to_the_digit(kind, tmp_path):
    wanted, guesses = scattered()
    scored = SCORERS["coco"](wanted, guesses)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium",
             "ar_large")  # fmt: skip
    prefix = "box" if kind == "bbox" else "mask"
    assert [scored.metrics[f"{prefix}_{name}"] for name in names] == by_pycocotools(
        wanted, guesses, kind, tmp_path
    ).tolist()
    assert scored.per_class["none"] == dict.fromkeys(scored.per_class["none"]), "a class without objects does not count"
    plain = coco_scores(wanted.truth, [one for one in guesses if one.score > 0], CLASSES, range(3))
    assert scored.metrics["box_ap"] == plain.box.ap and scored.metrics["mask_ap"] == plain.mask.ap


def test_order_of_equal_scores_is_kept():
    """pycocotools sorts stably: of two with one score the first given is the one that counts."""
    one = truth(0, 0, (10, 10, 60, 60))
    right, wrong = guess(0, 0, (10, 10, 60, 60), 0.5), guess(0, 0, (100, 10, 160, 60), 0.5)
    for name in ("coco", "voc07"):
        first, last = (
            SCORERS[name](targets(one), pair).metrics["box_ap50"] for pair in ([right, wrong], [wrong, right])
        )
        assert first == pytest.approx(1.0) and last == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "found", "twice", "missed"),
    [("ntt", 1.0, 1.0, 1.0), ("voc07", 1.0, 1.0, 1.0), ("fsod-vfm", 1.0, 253 / 303, 51 / 101)],
)
def test_difficult_objects_count_as_the_scorer_says(name, found, twice, missed):
    """An easy object, found last, and a difficult one that is found once, twice, or not at all."""
    wanted = targets(truth(0, 0, (10, 10, 60, 60)), truth(0, 0, (100, 10, 160, 60), difficult=True))
    easy, hard = guess(0, 0, (10, 10, 60, 60), 0.2), guess(0, 0, (100, 10, 160, 60), 0.9)
    values = [SCORERS[name](wanted, guesses).metrics["box_ap50"]
              for guesses in ([hard, easy], [hard, replace(hard, score=0.8), easy], [easy])]  # fmt: skip
    assert values == pytest.approx([found, twice, missed], abs=0.01)


def test_part_of_a_difficult_object_is_ignored_as_crowd_only():
    """pycocotools divides by the detection's area there; VOC divides by the union."""
    wanted = targets(truth(0, 0, (10, 10, 60, 60)), truth(0, 0, (100, 10, 200, 110), difficult=True))
    guesses = [guess(0, 0, (100, 10, 150, 60), 0.9), guess(0, 0, (10, 10, 60, 60), 0.2)]
    values = {name: SCORERS[name](wanted, guesses).metrics["box_ap50"] for name in ("ntt", "fsod-vfm", "voc07")}
    assert values["ntt"] == pytest.approx(1.0)
    assert values["voc07"] == pytest.approx(0.5), "one wrong before the right one"
    assert values["fsod-vfm"] < 0.5


def test_eleven_points_by_hand():
    """Four objects; right, wrong, right, then nothing: precision 1 up to recall .25, 2/3 up to .5, 0 beyond."""
    boxes = [(10 + 60 * i, 10, 50 + 60 * i, 60) for i in range(4)]
    wanted = targets(*(truth(0, 0, box, mask=False) for box in boxes))
    guesses = [guess(0, 0, boxes[0], 0.9), guess(0, 0, (10, 100, 60, 160), 0.8), guess(0, 0, boxes[1], 0.7)]
    expected = (3 * 1 + 3 * 2 / 3) / 11
    assert SCORERS["voc07"](wanted, guesses).metrics["box_ap50"] == pytest.approx(expected)
    assert SCORERS["voc07"](wanted, []).metrics["box_ap50"] == 0.0
    assert SCORERS["voc07"](targets(), guesses).metrics["box_ap50"] is None


@pytest.mark.parametrize("inclusive_truth", [True, False])
@pytest.mark.parametrize("inclusive_labels", [True, False])
def test_voc_counts_the_last_pixel(inclusive_truth, inclusive_labels):
    """An object of 2 x 2 pixels, and what ends on its last pixel or after it: found by itself alone."""
    whole, short = (10.0, 10.0, 12.0, 12.0), (10.0, 10.0, 11.0, 11.0)
    wanted = targets(truth(0, 0, short if inclusive_truth else whole, mask=False), inclusive_boxes=inclusive_truth)
    exact = short if inclusive_labels else whole
    missed = (*exact[:2], exact[2] - 1, exact[3] - 1)
    found, lost = (
        score("voc07", wanted, [guess(0, 0, box, 0.5, mask=False)], inclusive=inclusive_labels).metrics["box_ap50"]
        for box in (exact, missed)
    )
    assert (found, lost) == (1.0, 0.0)


def test_voc_ignores_what_lies_in_a_crowd():
    """A crowd is no object; a label inside is neither right nor wrong, and its own object counts before the crowd."""
    crowd = truth(0, 0, (0, 0, 200, 150), crowd=True)
    wanted = targets(truth(0, 0, (10, 10, 60, 60)), crowd)
    inside, outside = guess(0, 0, (100, 50, 130, 90), 0.9), guess(0, 0, (230, 50, 290, 90), 0.9)
    right = guess(0, 0, (10, 10, 60, 60), 0.2)
    values = [SCORERS["voc07"](wanted, guesses).metrics["box_ap50"] for guesses in ([inside, right], [outside, right])]
    assert values == pytest.approx([1.0, 0.5])
    assert SCORERS["voc07"](targets(crowd), [inside]).metrics["box_ap50"] is None


def test_masks_that_are_left_out_are_named():
    """One object without a mask is enough; boxes alone are nothing to speak of."""
    whole, bare = truth(0, 0, (10, 10, 60, 60)), truth(1, 1, (10, 10, 60, 60), mask=False)
    for name in ("coco", "ntt", "fsod-vfm"):
        scored = SCORERS[name](targets(whole, bare), [])
        assert "mask_ap" not in scored.metrics and "1 object without, e.g. of class 'dog'" in scored.left_out
        assert "mask_ap" in SCORERS[name](targets(whole), []).metrics and not SCORERS[name](targets(whole), []).left_out
        assert not SCORERS[name](targets(bare), []).left_out
    with pytest.raises(InputError, match="1 object without"):
        SCORERS["boundary"](targets(whole, bare), [])


def test_lvis_needs_the_lists_of_lvis():
    """Without them a wrong label on an image without the class would vanish."""
    one = truth(0, 0, (10, 10, 60, 60))
    for facts in (None, {"frequency": ["f", "f", "f"]}):
        with pytest.raises(InputError, match="neg_category_ids"):
            SCORERS["lvis"](targets(one, facts=facts), [guess(2, 0, (10, 10, 60, 60), 0.9)])


@pytest.mark.parametrize("name", ["coco", "voc07"])
def test_zero_and_nan_scores_are_dropped(name):
    one = truth(0, 0, (10, 10, 60, 60))
    bad = [guess(0, 0, (10, 10, 60, 60), score) for score in (0.0, math.nan, -1.0)]
    assert SCORERS[name](targets(one), bad).metrics["box_ap50"] == 0.0
    assert SCORERS[name](targets(one), [*bad, guess(0, 0, (10, 10, 60, 60), 0.1)]).metrics["box_ap50"] == pytest.approx(
        1
    )


def test_only_a_hundred_detections_count():
    one = truth(0, 0, (10, 10, 60, 60))
    many = [guess(0, 0, (100, 10, 160, 60), 0.9 - i / 1000) for i in range(100)]
    right = guess(0, 0, (10, 10, 60, 60), 0.1)
    assert SCORERS["coco"](targets(one), [*many, right]).metrics["box_ap50"] == 0.0
    assert SCORERS["coco"](targets(one), [*many[:99], right]).metrics["box_ap50"] > 0.0
    assert SCORERS["voc07"](targets(one), [*many, right]).metrics["box_ap50"] == pytest.approx(1 / 101)


def test_images_without_objects_cost_precision():
    one = truth(0, 0, (10, 10, 60, 60))
    guesses = [guess(2, 0, (10, 10, 60, 60), 0.9), guess(0, 0, (10, 10, 60, 60), 0.5)]
    for name in ("coco", "voc07"):
        assert SCORERS[name](targets(one), guesses).metrics["box_ap50"] == pytest.approx(0.5)


def test_boundary_is_never_above_mask_iou():
    pytest.importorskip("faster_coco_eval")
    wanted, guesses = scattered(3)
    masks, borders = SCORERS["coco"](wanted, guesses).metrics, SCORERS["boundary"](wanted, guesses).metrics
    assert 0 < borders["boundary_ap"] < masks["mask_ap"]
    exact = [guess(item.image_id, item.label, item.box, 0.9) for item in wanted.truth if not item.crowd]
    perfect = SCORERS["boundary"](wanted, exact).metrics
    assert perfect["boundary_ap"] == pytest.approx(SCORERS["coco"](wanted, exact).metrics["mask_ap"])
    with pytest.raises(InputError, match="masks"):
        SCORERS["boundary"](targets(truth(0, 0, (1, 1, 9, 9), mask=False)), [])


def lvis_case():
    """Class 0 is looked for in images 0 and 1, and not exhaustively in image 1; nobody looked in image 2."""
    facts = {
        "frequency": ["r", "f", "c"],
        "neg_category_ids": {0: [], 1: [0], 2: []},
        "not_exhaustive_category_ids": {0: [], 1: [], 2: []},
    }
    return targets(truth(0, 0, (10, 10, 60, 60)), truth(0, 1, (100, 10, 160, 60)), facts=facts), facts


def test_lvis_judges_only_where_a_class_was_looked_for():
    pytest.importorskip("faster_coco_eval")
    wanted, facts = lvis_case()
    right = [guess(0, 0, (10, 10, 60, 60), 0.5), guess(0, 1, (100, 10, 160, 60), 0.5)]
    elsewhere, at_negative = guess(2, 0, (10, 10, 60, 60), 0.9), guess(1, 0, (10, 10, 60, 60), 0.9)
    values = [SCORERS["lvis"](wanted, [*right, one]).metrics for one in (elsewhere, at_negative)]
    assert values[0]["box_ap"] == pytest.approx(1.0) and values[0]["mask_ap_rare"] == pytest.approx(1.0)
    assert values[1]["box_ap_rare"] == pytest.approx(0.5) and values[1]["box_ap_frequent"] == pytest.approx(1.0)
    assert values[1]["box_ap_common"] is None
    facts["not_exhaustive_category_ids"][0] = [0]
    extra = guess(0, 0, (200, 100, 260, 160), 0.9)
    assert SCORERS["lvis"](wanted, [*right, extra]).metrics["box_ap_rare"] == pytest.approx(1.0)


def test_lvis_takes_300_detections_of_all_classes_together():
    pytest.importorskip("faster_coco_eval")
    wanted, _ = lvis_case()
    many = [guess(0, 1, (100, 100, 160, 160), 0.9 - i / 1000) for i in range(300)]
    right = guess(0, 0, (10, 10, 60, 60), 0.1)
    assert SCORERS["lvis"](wanted, [*many, right]).metrics["box_ap_rare"] == 0.0
    assert SCORERS["lvis"](wanted, [*many[:299], right]).metrics["box_ap_rare"] == pytest.approx(1.0)


def test_unknown_scorer_is_an_error_with_the_names():
    with pytest.raises(InputError, match="voc07"):
        scorer_of("voc12")


def test_mean_iou_sums_over_a_class_before_it_divides():
    """Two episodes of one class, 100 of 100 and 0 of 300 pixels: 0.25, not the 0.5 of a mean over images."""
    full, none, ignored = np.zeros((20, 20), bool), np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    full[:10, :10] = True
    large = np.zeros((20, 20), bool)
    large[:15] = True
    ignored[19] = True
    overlaps = [overlap(3, full, full, ignored), overlap(3, none, large, ignored), overlap(7, full, full, ~full)]
    scored = episode_scores(overlaps, [3, 7], [str(k) for k in range(8)])
    assert scored.per_class == {"3": {"iou": 100 / 400}, "7": {"iou": 1.0}}
    assert scored.metrics["miou"] == pytest.approx((0.25 + 1) / 2)
    objects, ground = (100 + 0 + 100) / (100 + 300 + 100), (280 + 80 + 0) / (280 + 380 + 0)
    assert scored.metrics["fb_iou"] == pytest.approx((objects + ground) / 2)


def test_masks_of_truth_are_encoded_once():
    assert mask_utils.area(truth(0, 0, (10, 10, 60, 60)).rle) == 2500


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)  # an import of it fails
    with pytest.raises(InputError, match=r"faster-coco-eval for the scorers .*`pip install faster-coco-eval"):
        _faster(Targets((), (), ()), [], "boundary")
