"""Prompts beyond boxes: points along lines, what the mask model is asked, and which of its masks is meant."""

import numpy as np
import pytest
import torch
from support.fake_models import FakeFeatures, FakeProposals

from fiftyone_ntt.core import ImageFrame, Segmenter
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.negatives import image_centres, with_negatives
from fiftyone_ntt.method.options.prompts import (
    MaskOptions,
    Prompt,
    choose_masks,
    decode,
    mask_options,
    points_along,
    possible_masks,
)
from fiftyone_ntt.pixels.packed_masks import PackedMask

SIZE = (100, 100)


def disc(x, y, radius):
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def options(masks, quality, vectors=None, points=((50.5, 50.5),), positive=None, kind="point", single=False):
    points = np.array(points, np.float32)
    marks = np.ones(len(points), bool) if positive is None else np.array(positive, bool)
    vectors = np.eye(len(masks), dtype=np.float32) if vectors is None else np.array(vectors, np.float32)
    packed = tuple(PackedMask.from_crop(mask, 0, 0) for mask in masks)
    return MaskOptions(Prompt(points, marks, kind), packed, np.array(quality, np.float32), vectors, SIZE, single)


@pytest.mark.parametrize(
    ("line", "count", "expected"),
    [
        ([[0, 0], [10, 0]], 5, [[1, 0], [3, 0], [5, 0], [7, 0], [9, 0]]),
        ([[0, 0], [4, 0], [4, 4]], 2, [[2, 0], [4, 2]]),
        ([[3, 7]], 3, [[3, 7]] * 3),
        ([[3, 7], [3, 7]], 2, [[3, 7]] * 2),
    ],
)
def test_points_along_a_line(line, count, expected):
    np.testing.assert_allclose(points_along(np.array(line, float), count), expected)


@pytest.mark.parametrize("line", [np.zeros((0, 2)), np.array([[0.0, np.nan], [1, 1]])])
def test_a_line_of_nothing_is_refused(line):
    with pytest.raises(InputError, match="finite points"):
        points_along(line, 3)


@pytest.mark.parametrize(
    ("points", "positive"), [([[1, 2]], [False]), ([[np.inf, 2]], [True]), ([[1, 2, 3]], [True]), ([], [])]
)
def test_a_prompt_needs_a_point_on_the_object(points, positive):
    with pytest.raises(InputError):
        Prompt(np.array(points, np.float32), np.array(positive, bool))


MASKS = {
    "whole": disc(50, 50, 30), "part": disc(50, 50, 10), "elsewhere": disc(20, 20, 10),
    "everything": np.ones(SIZE, bool),
    "nothing": np.zeros(SIZE, bool),
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "points", "positive", "expected"),
    [
        (["whole", "part", "elsewhere"], [[50, 50]], None, ["whole", "part"]),
        (["whole", "everything", "nothing"], [[50, 50]], None, ["whole"]),
        (["everything", "elsewhere"], [[50, 50]], None, ["everything"]),  # needed: nothing else holds the point
        (["whole", "part"], [[50, 50], [70, 50]], [True, False], ["part"]),
        (["whole", "part"], [[50, 50], [70, 50]], [True, True], ["whole"]),
        (["elsewhere", "nothing"], [[50, 50]], None, []),
    ],
)
def test_possible_masks(names, points, positive, expected):
    one = options([MASKS[name] for name in names], [1.0] * len(names), points=points, positive=positive)
    assert [name for name, flag in zip(names, possible_masks(one), strict=True) if flag] == expected


def test_scribble_may_leave_the_mask_for_less_than_half():
    inside, outside = [50, 50], [95, 95]
    for points, held in (([inside, inside, outside], True), ([inside, outside, outside], False)):
        assert possible_masks(options([MASKS["whole"]], [1], points=points, kind="scribble"))[0] == held


def test_meaning_decides_where_quality_hardly_does():
    masks, quality = [MASKS["part"], MASKS["whole"]], [0.92, 0.90]
    leaf, tree = [1.0, 0.0], [0.0, 1.0]
    point = options(masks, quality, [leaf, tree])
    assert choose_masks([point], ["a"]) == [0], "nothing to compare with: the cleanest"
    assert choose_masks([point], ["a"], {"a": np.array([tree], np.float32)}) == [1]
    assert choose_masks([point], ["a"], {"b": np.array([tree], np.float32)}) == [0], "of another class"
    worse = options(masks, [0.95, 0.3], [leaf, tree])
    assert choose_masks([worse], ["a"], {"a": np.array([tree], np.float32)}) == [0], "a bad mask is none that was meant"


def test_points_alone_agree_among_themselves():
    leaf, tree = [1.0, 0.0], [0.0, 1.0]
    sure = options([MASKS["part"], MASKS["whole"]], [0.2, 0.95], [leaf, tree])
    doubtful = options([MASKS["part"], MASKS["whole"]], [0.91, 0.90], [leaf, tree])
    assert choose_masks([doubtful, sure, sure], ["a"] * 3) == [1, 1, 1]
    assert choose_masks([doubtful, sure, sure], ["b", "a", "a"]) == [0, 1, 1]


def test_several_points_take_the_single_output_if_it_fits():
    points = [[45, 50], [55, 50]]
    masks = [MASKS["part"], MASKS["whole"]]
    assert choose_masks([options(masks, [0.5, 0.9], points=points, single=True)], ["a"]) == [0]
    assert choose_masks([options(masks[::-1], [0.5, 0.9], points=[[45, 50], [75, 50]], single=True)], ["a"]) == [0]
    assert choose_masks([options(masks, [0.5, 0.9], points=[[45, 50], [75, 50]], single=True)], ["a"]) == [1]


def test_no_mask_is_said():
    assert choose_masks([options([MASKS["elsewhere"]], [1.0])], ["a"]) == [None]


def test_a_model_without_point_sets_is_asked_point_by_point():
    model, frame = FakeProposals(), ImageFrame.squash(SIZE, 256)
    embedding = torch.full((256, 256), 0.5)
    prompt = Prompt(np.array([[30, 30], [60, 60], [90, 90]]), np.array([True, True, False]))
    logits, quality = decode(model, embedding, frame, prompt)
    assert logits.shape == (6, 256, 256) and quality.shape == (6,)
    image = np.full((*SIZE, 3), 128, np.uint8)
    segmenter = Segmenter(model, FakeFeatures(), target_via=None)
    found = mask_options(segmenter, segmenter.encode([segmenter.prepare(image)])[0], [prompt])[0]
    assert not found.single_first and len(found.masks) == 6 and found.vectors.shape == (6, 3)
    assert found.masks[0].full(SIZE)[30, 30]


def test_centres_of_an_image_are_what_there_is_to_see():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    tokens = colours[torch.arange(36) % 3].reshape(6, 6, 3)
    centres = image_centres(tokens, 8)
    assert sorted(map(tuple, centres.tolist())) == sorted(map(tuple, colours.tolist()))
    noise = torch.rand(6, 6, 3, generator=torch.Generator().manual_seed(0))
    assert image_centres(noise, 4).shape == (4, 3)
    np.testing.assert_array_equal(image_centres(noise, 4), image_centres(noise, 4))


def test_negatives_are_of_their_class_or_of_none():
    bank = MemoryBank(("a", "b"), np.eye(2, dtype=np.float32), np.array([0, 1]), ("s/1", "s/2"))
    found = with_negatives(bank, np.ones((3, 2), np.float32), ["b", None, "unknown"], ["n/1", "n/2", "n/3"])
    assert found.negatives.labels == (found.classes[1], None, None) and found.negative_ids == ("n/1", "n/2", "n/3")
    more = with_negatives(found, np.zeros((1, 2), np.float32), ["a"], ["n/4"])
    assert more.negatives.labels == (more.classes[1], None, None, more.classes[0]) and len(more.negatives) == 4
    assert with_negatives(bank, np.zeros((0, 2), np.float32), [], []) is bank
