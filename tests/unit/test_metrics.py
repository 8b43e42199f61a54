"""COCO and presence scores against an independent pycocotools run from files, and against numbers worked by hand."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.oracles import encode_mask

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.coco import (
    GroundTruth,
    Prediction,
    Scores,
    coco_scores,
    encode_box,
    encode_crop,
    presence_scores,
)

SIZE = (90, 120)
CLASSES = ["bolt", "nut", "washer", "absent"]


def disc(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx = rng.uniform(15, SIZE[0] - 15), rng.uniform(15, SIZE[1] - 15)
    return ((y - cy) / rng.uniform(5, 14)) ** 2 + ((x - cx) / rng.uniform(5, 14)) ** 2 < 1


def extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def scene(seed: int, *, ties: bool = False, crowds: bool = False) -> tuple[list, list, list[int]]:
    """Objects in 12 images (two of them empty), predictions near them and elsewhere; class "absent" has no truth."""
    rng = np.random.default_rng(seed)
    images = list(range(100, 112))
    truth, found = [], []
    for image_id in images[:-2]:
        for _ in range(rng.integers(1, 6)):
            mask, label = disc(rng), int(rng.integers(0, 3))
            crowd = crowds and rng.random() < 0.3
            truth.append(GroundTruth(image_id, label, extent(mask), encode_mask(mask), bool(crowd)))
            for _ in range(rng.integers(0, 3)):
                near = np.roll(mask, rng.integers(-4, 5, 2), (0, 1))
                label = label if rng.random() < 0.8 else int(rng.integers(0, 4))
                found.append(prediction(rng, image_id, label, near, ties))
    for image_id in images:
        found += [prediction(rng, image_id, int(rng.integers(0, 4)), disc(rng), ties) for _ in range(2)]
    return truth, found, images


def prediction(rng: np.random.Generator, image_id: int, label: int, mask: np.ndarray, ties: bool) -> Prediction:
    score = float(rng.integers(1, 4) / 4 if ties else rng.random())
    return Prediction(image_id, label, extent(mask), score, encode_mask(mask))


def oracle(folder, truth: list, found: list, images: list[int], kind: str) -> COCOeval:
    """The textbook way: two JSON files, ``loadRes``, all area ranges, three maxDets, ``summarize``."""

    def plain(rle):
        return {"size": list(rle["size"]), "counts": rle["counts"].decode()}

    def common(item):
        x1, y1, x2, y2 = item.box
        return {"image_id": item.image_id, "category_id": item.label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": plain(item.rle)}  # fmt: skip

    annotations = [
        {**common(g), "id": i + 1, "iscrowd": int(g.crowd), "area": float(mask_utils.area(g.rle))}
        for i, g in enumerate(truth)
    ]
    dataset = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in images],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(dataset))
    results = [{**common(p), "score": p.score} for p in found]
    if kind == "bbox":
        results = [{k: v for k, v in result.items() if k != "segmentation"} for result in results]
    else:
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("options", [{}, {"ties": True}, {"crowds": True}, {"ties": True, "crowds": True}])
def test_equals_pycocotools_from_files(tmp_path, options):
    truth, found, images = scene(7, **options)
    scores = coco_scores(truth, found, CLASSES, images)
    for kind, mine, per_class in (
        ("bbox", scores.box, scores.box_per_class),
        ("segm", scores.mask, scores.mask_per_class),
    ):
        expected = oracle(tmp_path, truth, found, images, kind)
        assert (mine.ap, mine.ap50, mine.ap75, mine.ar100) == pytest.approx(
            tuple(expected.stats[[0, 1, 2, 8]]), abs=1e-12
        )
        assert 0.05 < mine.ap < 0.95, "a scene that cannot tell right from wrong tests nothing"
        precision = expected.eval["precision"][:, :, :, 0, 2]
        for k, name in enumerate(CLASSES[:3]):
            assert per_class[name].ap == pytest.approx(precision[:, :, k].mean(), abs=1e-12)
            assert per_class[name].ap50 == pytest.approx(precision[0, :, k].mean(), abs=1e-12)
        assert per_class["absent"] == Scores(None, None, None, None)


def test_crowd_regions_matter():
    truth, found, images = scene(7, crowds=True)
    plain = [GroundTruth(g.image_id, g.label, g.box, g.rle) for g in truth]
    assert any(g.crowd for g in truth)
    assert coco_scores(truth, found, CLASSES, images).mask != coco_scores(plain, found, CLASSES, images).mask


def test_a_crowd_forgives_what_lies_inside_it():
    crowd = GroundTruth(0, 0, (0, 0, 60, 60), encode_box((0, 0, 60, 60), SIZE), crowd=True)
    single = GroundTruth(0, 0, (70, 10, 90, 30), encode_box((70, 10, 90, 30), SIZE))
    inside = Prediction(0, 0, (5, 5, 15, 15), 0.9, encode_box((5, 5, 15, 15), SIZE))
    hit = Prediction(0, 0, (70, 10, 90, 30), 0.5, encode_box((70, 10, 90, 30), SIZE))
    scores = coco_scores([crowd, single], [inside, hit], ["thing"], [0])
    assert scores.box.ap == pytest.approx(1) and scores.mask.ap == pytest.approx(1)


def test_by_hand():
    """Two objects; the best-scored prediction is wrong, the next two are right at IoU 0.8 and 1."""
    boxes = [(0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)]
    truth = [GroundTruth("a", 0, box, encode_box(box, SIZE)) for box in boxes]
    tries = [((80.0, 0.0, 90.0, 10.0), 0.9), ((0.0, 0.0, 10.0, 8.0), 0.8), (boxes[1], 0.7)]
    found = [Prediction("a", 0, box, score, encode_box(box, SIZE)) for box, score in tries]
    scores = coco_scores(truth, found, ["thing"], ["a", "b"])
    # IoU <= 0.8: precision 0, 1/2, 2/3, made monotone 2/3 everywhere. Above: one hit as third, 1/3 up to recall 0.5,
    # which 51 of the 101 recall points reach.
    low, high = 2 / 3, 51 / 101 / 3
    for mine in (scores.box, scores.mask):
        assert mine.ap50 == pytest.approx(low)
        assert mine.ap75 == pytest.approx(low)
        assert mine.ap == pytest.approx((7 * low + 3 * high) / 10)
        assert mine.ar100 == pytest.approx((7 * 1 + 3 * 0.5) / 10)
        assert all(type(value) is float for value in (mine.ap, mine.ap50, mine.ap75, mine.ar100))


def test_no_predictions_score_zero_and_no_truth_scores_nothing():
    truth, found, images = scene(3)
    nothing = coco_scores(truth, [], CLASSES, images)
    assert nothing.box == nothing.mask == Scores(0.0, 0.0, 0.0, 0.0)
    assert coco_scores([], found, CLASSES, images).mask == Scores(None, None, None, None)
    assert coco_scores([], [], CLASSES, images).box == Scores(None, None, None, None)


def test_ties_are_decided_by_the_order_of_images():
    """All scores equal: whichever comes first wins, and nothing else plays a part."""
    box, rle = (0.0, 0.0, 10.0, 10.0), encode_box((0, 0, 10, 10), SIZE)
    truth = [GroundTruth("z", 0, box, rle)]
    found = [Prediction("a", 0, box, 0.5, rle), Prediction("z", 0, box, 0.5, rle)]
    for order, expected in ((["z", "a"], 1.0), (["a", "z"], 0.5)):
        for predictions in (found, found[::-1]):
            assert coco_scores(truth, predictions, ["thing"], order).mask.ap == pytest.approx(expected)


def test_boxes_alone():
    truth = [GroundTruth(0, 0, (0, 0, 10, 10))]
    scores = coco_scores(truth, [Prediction(0, 0, (0, 0, 10, 10), 1.0)], ["thing"], [0], masks=False)
    assert scores.box.ap == pytest.approx(1) and scores.mask is None and scores.mask_per_class == {}


def test_says_nothing_even_from_two_threads(capsys):
    truth, found, images = scene(1)
    threads = [threading.Thread(target=coco_scores, args=(truth, found, CLASSES, images)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write("still here")
    assert capsys.readouterr().out == "still here"


@pytest.mark.parametrize(
    ("truth", "found", "classes", "images", "says"),
    [
        ([GroundTruth(9, 0, (0, 0, 1, 1), {})], [], ["a"], [0], "image 9"),
        ([], [Prediction(0, 1, (0, 0, 1, 1), 1.0, {})], ["a"], [0], "class index 1"),
        ([GroundTruth(0, 0, (0, 0, 1, 1))], [], ["a"], [0], "no mask"),
        ([], [], ["a", "a"], [0], "distinct"),
        ([], [], [], [0], "distinct"),
        ([], [], ["a"], [0, 0], "twice"),
    ],
)
def test_refuses_what_makes_no_sense(truth, found, classes, images, says):
    with pytest.raises(InputError, match=says):
        coco_scores(truth, found, classes, images)


@pytest.mark.parametrize("window", [(0, 0, 90, 120), (0, 0, 1, 1), (89, 119, 1, 1), (10, 20, 30, 5), (0, 50, 90, 2)])
@pytest.mark.parametrize("fill", ["random", "full", "empty"])
def test_crop_encodes_like_the_full_mask(window, fill):
    top, left, rows, columns = window
    rng = np.random.default_rng(rows * columns)
    crop = {"random": rng.random((rows, columns)) < 0.5, "full": np.ones((rows, columns), bool),
            "empty": np.zeros((rows, columns), bool)}[fill]  # fmt: skip
    full = np.zeros(SIZE, bool)
    full[top : top + rows, left : left + columns] = crop
    rle = encode_crop(crop, left, top, SIZE)
    assert rle == encode_mask(full)
    assert np.array_equal(mask_utils.decode(rle), full)


def test_crop_outside_the_image_is_refused():
    with pytest.raises(InputError, match="inside the image"):
        encode_crop(np.ones((2, 2), bool), 119, 0, SIZE)


@pytest.mark.parametrize(
    ("box", "area"), [((1.4, 2.6, 10, 10), 9 * 7), ((-5, -5, 3, 3), 9), ((200, 200, 300, 300), 0), ((5, 5, 5, 9), 0)]
)
def test_box_filled(box, area):
    assert mask_utils.area(encode_box(box, SIZE)) == area


def claim(image_id: str, label: int, score: float) -> Prediction:
    return Prediction(image_id, label, (0, 0, 1, 1), score)


def test_presence_by_hand():
    truth = [GroundTruth(image, label, (0, 0, 1, 1)) for image, label in (("a", 0), ("a", 0), ("b", 0), ("b", 1))]
    found = [claim("a", 0, 0.9), claim("a", 0, 0.2), claim("c", 0, 0.5), claim("b", 1, 0.8), claim("c", 1, 0.1)]
    fires = presence_scores(truth, found, ["x", "y", "z"], ["a", "b", "c"])
    assert (fires.micro.precision, fires.micro.recall, fires.micro.f1) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert (fires.micro.images, fires.micro.claimed) == (3, 4)
    assert (fires.per_class["x"].precision, fires.per_class["x"].recall) == (0.5, 0.5)
    assert fires.per_class["z"].f1 is None and fires.per_class["z"].precision is None
    strict = presence_scores(truth, found, ["x", "y", "z"], ["a", "b", "c"], threshold=0.5)
    assert (strict.micro.precision, strict.micro.recall) == (1.0, pytest.approx(2 / 3))
    # Best: claim 0.9 and 0.8 only: 2 of 2 right, 2 of 3 found.
    assert fires.best_f1 == pytest.approx(4 / 5)
    again = presence_scores(truth, found, ["x", "y", "z"], ["a", "b", "c"], fires.best_threshold)
    assert again.micro.f1 == pytest.approx(fires.best_f1)


def test_best_threshold_is_the_best_of_all_thresholds():
    truth, found, images = scene(11, ties=True)
    best = presence_scores(truth, found, CLASSES, images)
    tried = [presence_scores(truth, found, CLASSES, images, t).micro.f1 or 0 for t in (0, 0.1, 0.25, 0.5, 0.75, 1)]
    assert best.best_f1 == pytest.approx(max(tried))
    assert presence_scores(truth, found, CLASSES, images, best.best_threshold).micro.f1 == pytest.approx(max(tried))


def test_presence_of_nothing():
    silent = presence_scores([GroundTruth("a", 0, (0, 0, 1, 1))], [], ["x"], ["a"])
    assert (silent.micro.precision, silent.micro.recall, silent.micro.f1) == (None, 0.0, 0.0)
    assert (silent.best_f1, silent.best_threshold) == (0.0, None)
    false_alarm = presence_scores([], [claim("a", 0, 0.3)], ["x"], ["a"])
    assert (false_alarm.micro.precision, false_alarm.micro.recall, false_alarm.best_f1) == (0.0, None, None)
