"""Boundary AP: against faster-coco-eval from start to end, and against shares counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from support.oracles import encode_mask

from fiftyone_ntt.evaluation import borders
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores

CLASSES = ["bolt", "nut", "absent"]
SIZES = [(90, 120), (60, 200), (300, 400)]  # bands of 3, 4 and 10 pixels


def square(size, left, top, side):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def item(kind, image, label, mask, *rest):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (0.0, 0.0, 0.0, 0.0) if not len(rows) else (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    box = tuple(map(float, box))
    rle = encode_mask(mask)
    return kind(image, label, box, *rest, rle) if kind is Prediction else kind(image, label, box, rle, *rest)


def scattered(seed):
    """Objects, some of them crowds, and predictions near and far, on 12 images; the last two have no object."""
    rng, truth, found = np.random.default_rng(seed), [], []
    for image in range(12):
        size = SIZES[image % 3]
        for _ in range(int(rng.integers(1, 6)) if image < 10 else 0):
            mask = square(size, *rng.integers(0, 40, 2), int(rng.integers(8, 45)))
            label = int(rng.integers(0, 2))
            truth.append(item(GroundTruth, image, label, mask, bool(rng.random() < 0.25)))
            for _ in range(int(rng.integers(0, 4))):
                near = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
                found.append(item(Prediction, image, label, near, float(rng.random())))
        far = square(size, *rng.integers(0, 40, 2), int(rng.integers(0, 30)))  # some are empty
        found.append(item(Prediction, image, int(rng.integers(0, 3)), far, float(rng.random())))
    return truth, found


def by_the_package(truth, found):
    """``[IoU, recall, class]`` precision and ``[IoU, class]`` recall of faster-coco-eval, all images at once."""
    import faster_coco_eval as package

    sets = []
    for items in (truth, found):
        annotations = []
        for number, one in enumerate(items, start=1):
            (x1, y1, x2, y2), area = one.box, float(mask_utils.area(one.rle))
            annotation = {"id": number, "image_id": one.image_id, "category_id": one.label, "segmentation": one.rle}
            annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": int(getattr(one, "crowd", 0))}
            annotations.append(annotation | ({"score": one.score} if isinstance(one, Prediction) else {}))
        images = [{"id": i, "height": SIZES[i % 3][0], "width": SIZES[i % 3][1]} for i in range(12)]
        categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
        sets.append(package.COCO({"images": images, "annotations": annotations, "categories": categories}))
    evaluation = package.COCOeval_faster(*sets, "boundary", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., 0, -1], np.asarray(evaluation.eval["recall"])[..., 0, -1]


@pytest.mark.parametrize("seed", range(4))
def test_boundary_ap_is_that_of_faster_coco_eval(seed):
    truth, found = scattered(seed)
    scores = coco_scores(truth, found, CLASSES, list(range(12)), boundary=True)
    precision, recall = by_the_package(truth, found)
    there = precision[precision > -1]
    assert scores.boundary.ap == pytest.approx(there.mean(), abs=1e-12)
    assert scores.boundary.ap50 == pytest.approx(precision[0][precision[0] > -1].mean(), abs=1e-12)
    assert scores.boundary.ap75 == pytest.approx(precision[5][precision[5] > -1].mean(), abs=1e-12)
    assert scores.boundary.ar100 == pytest.approx(recall[recall > -1].mean(), abs=1e-12)
    for k, name in enumerate(CLASSES[:2]):
        assert scores.boundary_per_class[name].ap == pytest.approx(precision[:, :, k].mean(), abs=1e-12)
    assert scores.boundary_per_class["absent"].ap is None
    assert 0.02 < scores.boundary.ap < scores.mask.ap - 0.05, "not the AP of masks again"


def test_the_other_scores_do_not_change():
    truth, found = scattered(7)
    plain, more = (coco_scores(truth, found, CLASSES, list(range(12)), boundary=on) for on in (False, True))
    assert (plain.box, plain.mask, plain.mask_per_class) == (more.box, more.mask, more.mask_per_class)
    assert plain.boundary is None and plain.boundary_per_class == {}


@pytest.mark.parametrize(("shift", "mask_ap", "boundary_ap"), [(0, 1.0, 1.0), (1, 1.0, 0.5), (3, 0.8, 0.0)])
def test_a_mask_that_is_shifted_counted_by_hand(shift, mask_ap, boundary_ap):
    """A square of 40 pixels on 90 x 120: the band is 3 wide (2 % of 150) and has 40^2 - 34^2 = 444 pixels.

    Shifted by one column the squares share 1560 of 1640 pixels (0.951), and the bands 2 * 3 * 39 of their rows and
    2 * 2 * 34 of their columns: 370 of 518, 0.714, which five of ten thresholds let pass. Shifted by three: 1480 of
    1720 (0.860), and 2 * 3 * 37 with nothing of the columns but where these cross rows: less than half.
    """
    mask = square(SIZES[0], 20, 20, 40)
    truth = [item(GroundTruth, 0, 0, mask)]
    found = [item(Prediction, 0, 0, np.roll(mask, shift, 1), 0.9)]
    scores = coco_scores(truth, found, ["bolt"], [0], boundary=True)
    assert (scores.mask.ap, scores.boundary.ap) == pytest.approx((mask_ap, boundary_ap))


def test_the_edge_of_the_image_is_a_border():
    """Halves of an image that differ by one column: the bands along three edges of the image agree."""
    size, whole = SIZES[0], np.zeros(SIZES[0], bool)
    whole[:, :60] = True
    less = whole.copy()
    less[:, 59] = False
    truth, found = [item(GroundTruth, 0, 0, whole)], [item(Prediction, 0, 0, less, 0.9)]
    # Bands: 90 * 60 - 84 * 54 = 864 and 90 * 59 - 84 * 53 = 858 pixels; they share 2 * 3 * 59 + 84 * (3 + 2) = 774.
    assert 774 / (864 + 858 - 774) > 0.8 > 2 * 84 / (4 * 84), "without the edges it would be a half"
    assert coco_scores(truth, found, ["bolt"], [0], boundary=True).boundary.ap == pytest.approx(0.7)
    assert size == whole.shape


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong():
    crowd, bolt = square(SIZES[0], 0, 0, 60), square(SIZES[0], 70, 20, 40)
    truth = [item(GroundTruth, 0, 0, crowd, True), item(GroundTruth, 0, 0, bolt, False)]
    inside = item(Prediction, 0, 0, square(SIZES[0], 20, 20, 20), 0.9)  # shares no border with the crowd
    found = [inside, item(Prediction, 0, 0, bolt, 0.5)]
    assert coco_scores(truth, found, ["bolt"], [0], boundary=True).boundary.ap == pytest.approx(1.0)
    assert coco_scores(truth[1:], found, ["bolt"], [0], boundary=True).boundary.ap == pytest.approx(0.5)


def test_images_and_masks_without_anything():
    bolt, empty = square(SIZES[0], 20, 20, 40), np.zeros(SIZES[0], bool)
    truth = [item(GroundTruth, 0, 0, bolt)]
    found = [item(Prediction, 3, 0, bolt, 0.9), item(Prediction, 0, 0, empty, 0.8), item(Prediction, 0, 0, bolt, 0.5)]
    scores = coco_scores(truth, found, ["bolt"], [0, 3, 6], boundary=True)
    assert scores.boundary.ap == pytest.approx(1 / 3), "wrong labels on an empty image and of nothing come first"
    assert coco_scores(truth, [], ["bolt"], [0], boundary=True).boundary.ap == 0
    assert coco_scores([], found[:1], ["bolt"], [3], boundary=True).boundary.ap is None


def test_borders_are_drawn_only_where_masks_overlap(monkeypatch):
    drawn, real = [], borders._borders
    monkeypatch.setattr(borders, "_borders", lambda masks: drawn.extend(some := list(masks)) or real(some))
    bolt = square(SIZES[0], 20, 20, 40)
    truth = [item(GroundTruth, 0, 0, bolt), item(GroundTruth, 0, 0, square(SIZES[0], 70, 40, 40))]
    found = [item(Prediction, 0, 0, np.roll(bolt, shift, 1), 0.9 - shift / 100) for shift in (0, 1, 30)]
    coco_scores(truth, found, ["bolt"], [0], boundary=True)
    assert len(drawn) == 3, "two predictions and the object that they lie on"


@pytest.mark.parametrize(
    "size",
    [(225, 300), (405, 540), (525, 700), (45, 60), (375, 500), (480, 640), (30, 4000), (4000, 30), (8, 1000), (1, 1)],
)
def test_a_border_is_that_of_the_published_code(size):
    """Half-way widths are rounded to even, and long strips are border throughout: a whole image, and a blob in it."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    blob = (rows / size[0] - 0.4) ** 2 + (columns / size[1] - 0.6) ** 2 < 0.09
    for mask in (np.ones(size, bool), blob, np.zeros(size, bool)):
        found = mask_utils.decode(borders.border_of(encode_mask(mask)))
        np.testing.assert_array_equal(found.astype(bool), published_border(mask))


def published_border(mask):
    """Eroded pixel by pixel as often as the band is wide, in an image with an empty frame around it."""
    left = np.pad(mask, 1)
    for _ in range(max(1, int(round(0.02 * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2))))):
        padded = np.pad(left, 1, constant_values=True)
        shifted = [np.roll(padded, (i, j), (0, 1))[1:-1, 1:-1] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        left = np.logical_and.reduce(shifted)
    return mask & ~left[1:-1, 1:-1]
