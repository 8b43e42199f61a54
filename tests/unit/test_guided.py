"""Guided points: the right part of the grid, in the grid's order, for every frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.fake_models import FakeFeatures, FakeProposals, fake_segmenter

from fiftyone_ntt.core import ImageFrame, ProposalConfig, Segmenter
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.options.guided_points import at_points, guided_index, token_scores
from fiftyone_ntt.method.proposals import grid_points, propose

SQUASH, LETTERBOX = ImageFrame.squash((300, 400)), ImageFrame.letterbox((300, 400))
RED, GREEN, GREY = (1.0, 0.1, 0.1), (0.1, 1.0, 0.1), (0.5, 0.5, 0.5)


def scene(**spots: tuple[slice, slice]) -> torch.Tensor:
    """Tokens [12, 16, 3]: grey with spots of other colours."""
    tokens = torch.tensor(GREY).repeat(12, 16, 1)
    for colour, (rows, columns) in spots.items():
        tokens[rows, columns] = torch.tensor({"red": RED, "green": GREEN}[colour])
    return tokens


def image_positions(points: torch.Tensor, frame: ImageFrame) -> np.ndarray:
    """(x, y) in 0..1 of the image."""
    return frame.to_image(points.numpy()) / np.array(frame.image_size[::-1])


@pytest.mark.parametrize("frame", [SQUASH, LETTERBOX], ids=["squash", "letterbox"])
def test_prompts_go_where_the_object_is(frame):
    tokens = scene(red=(slice(6, 9), slice(2, 6)))
    points = grid_points(frame, ProposalConfig(points_per_side=16, grid="centre"))
    chosen = points[guided_index(points, tokens, frame, 12 / 256)]
    x, y = image_positions(chosen, frame).T
    assert len(chosen) == 12
    assert ((x > 2 / 16) & (x < 6 / 16) & (y > 6 / 12) & (y < 9 / 12)).all()


def test_border_is_background_where_an_object_leaves_the_image():
    scores = token_scores(scene(red=(slice(4, 12), slice(0, 5))))  # reaches two sides
    red = torch.zeros(12, 16, dtype=torch.bool)
    red[4:12, 0:5] = True
    assert scores[red].min() > scores[~red].max() + 0.2


def test_a_map_is_sampled_between_the_centres_of_its_cells():
    scores = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    frame = ImageFrame.squash((10, 10), 8)
    points = torch.tensor([[2.0, 2.0], [6.0, 2.0], [2.0, 6.0], [4.0, 4.0], [0.0, 0.0], [8.0, 8.0], [4.0, 2.0]])
    wanted = torch.tensor([0.0, 1.0, 2.0, 1.5, 0.0, 3.0, 0.5])
    torch.testing.assert_close(at_points(scores, points, frame), wanted)


@pytest.mark.parametrize(
    ("fraction", "count"), [(1.0, 25), (0.5, 13), (0.52, 13), (0.2, 5), (0.28, 7), (0.04, 1), (0.001, 1)]
)
def test_how_many_stay_and_in_which_order(fraction, count):
    points = grid_points(SQUASH, ProposalConfig(points_per_side=5))
    tokens = torch.rand(6, 6, 3, generator=torch.Generator().manual_seed(3))
    at = guided_index(points, tokens, SQUASH, fraction).tolist()
    assert len(at) == count
    assert at == sorted(at)
    scores = at_points(token_scores(tokens), points, SQUASH)
    left_out = [i for i in range(25) if i not in at]
    assert not left_out or scores[at].min() >= scores[left_out].max()


def test_ties_are_broken_by_the_grid():
    points = grid_points(SQUASH, ProposalConfig(points_per_side=4))
    assert guided_index(points, torch.ones(3, 3, 3), SQUASH, 0.5).tolist() == list(range(8))


def test_tokens_that_are_no_numbers_come_last():
    tokens = scene(red=(slice(0, 12), slice(0, 16)))
    tokens[3, 5] = math.nan
    scores = token_scores(tokens)
    assert scores.isfinite().all() and scores[3, 5] == scores.min() == -1


def test_unknown_points_are_refused():
    with pytest.raises(InputError, match="points"):
        ProposalConfig(points="random")


def spotted(seed: int = 0) -> np.ndarray:
    image = np.full((300, 280, 3), 120, np.uint8) + np.random.default_rng(seed).integers(0, 9, (300, 280, 3), np.uint8)
    image[60:140, 150:230] = (250, 240, 20)
    return image


def test_guided_candidates_are_those_at_the_chosen_points():
    plain, guided = fake_segmenter(8), fake_segmenter(8, points="guided")
    encoded = plain.encode([plain.prepare(spotted())])[0]
    points = grid_points(encoded.frame, plain.proposals)
    chosen = points[guided_index(points, encoded.tokens, encoded.frame)]
    wanted = propose(plain.proposal_model, encoded.embedding, encoded.frame, plain.proposals, points=chosen)
    found = guided.candidates(spotted()).candidates
    assert 0 < len(found) == len(wanted) <= 32
    assert torch.equal(found.mask_logits, wanted.mask_logits)
    everything = plain.candidates(spotted()).candidates
    assert len(everything) > len(found)
    best = everything.predicted_iou.argmax()
    assert found.predicted_iou.max() == everything.predicted_iou[best], "the bright spot is among the chosen ones"


def test_facts_tell_how_points_were_chosen():
    plain, guided = fake_segmenter(), fake_segmenter(points="guided")
    assert plain.facts()["points"] == "grid"
    assert guided.facts()["points"] == {"guided": 0.5, "bank": None}


class Scarce(FakeProposals):
    """Room for three prompts at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def decode_points(self, embedding, points):
        self.sizes.append(len(points))
        if len(points) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().decode_points(embedding, points)


def test_proposals_survive_scarce_memory_and_remember_it():
    scarce = Scarce()
    segmenter = Segmenter(scarce, FakeFeatures(), proposals=ProposalConfig(4, points_per_batch=8), target_via=None)
    plain = fake_segmenter()
    for seed in (1, 2):
        found, wanted = segmenter.candidates(spotted(seed)), plain.candidates(spotted(seed))
        assert torch.equal(found.candidates.mask_logits, wanted.candidates.mask_logits)
    assert scarce.sizes == [8, 4, *[2] * 8, *[2] * 8]


@pytest.mark.parametrize("points_per_batch", [3, 5, 16])
def test_padding_leaves_no_trace(points_per_batch):
    segmenter = fake_segmenter(points_per_batch=points_per_batch)
    segmenter.static_shapes = True
    found, wanted = segmenter.candidates(spotted()), fake_segmenter().candidates(spotted())
    assert torch.equal(found.candidates.mask_logits, wanted.candidates.mask_logits)
    assert torch.equal(found.candidates.predicted_iou, wanted.candidates.predicted_iou)
