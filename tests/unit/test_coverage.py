"""The coverage factor against a plainly written one, and what it is for: a whole beats its part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fiftyone_ntt.core import Candidates, ImageFrame, IndexedImage, MatchConfig, compact, match
from fiftyone_ntt.method.scoring import coverage, grown, normalise, token_weights

GRID = (16, 16)


def scene(frame):
    """A whole object, its left half and something elsewhere; tokens that look like the class on the object only."""
    logits = torch.full((3, 256, 256), -4.0)
    logits[0, 64:128, 64:192] = logits[1, 64:128, 64:128] = logits[2, 160:180, 20:60] = 4.0
    tokens = torch.randn(*GRID, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens[..., 1] += 1
    tokens[4:8, 4:12] = torch.tensor([1.0] + [0.0] * 7)
    prototypes = torch.eye(8)[:2]
    return Candidates(logits, torch.tensor([0.9, 0.95, 0.9]), frame), tokens, prototypes


@pytest.mark.parametrize("frame", [ImageFrame.squash((256, 256)), ImageFrame.letterbox((200, 256), 256)])
def test_the_weights_are_the_covered_shares(frame):
    candidates, _, _ = scene(frame)
    weights = token_weights(candidates.mask_runs, len(candidates), frame, GRID)
    height, width = (round(extent) for extent in frame.mask_content)
    inside = (candidates.mask_logits[:, None, :height, :width] > 0).float()
    fine = F.interpolate(inside, size=(height * GRID[0], width * GRID[1]), mode="nearest")
    np.testing.assert_allclose(weights, F.avg_pool2d(fine, (height, width))[:, 0], atol=1e-5)


@pytest.mark.parametrize("grid", [(16, 16), (37, 23), (3, 300)])
@pytest.mark.parametrize("frame", [ImageFrame.squash((256, 256)), ImageFrame.letterbox((137, 256), 256)])
def test_weights_of_ragged_masks_are_the_covered_shares(frame, grid):
    """Against the shares of each token's area that each pixel takes, pixel by pixel."""
    logits = torch.randn(70, 256, 256, generator=torch.Generator().manual_seed(1))
    logits[0], logits[1] = -1, 1
    candidates = Candidates(logits, torch.ones(70), frame)
    down, across = (
        (np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)).clip(0) / edges[1]
        for pixel, edges in (
            (np.arange(256)[:, None], np.linspace(0, extent, cells + 1))
            for extent, cells in zip(frame.mask_content, grid, strict=True)
        )
    )
    expected = down.T @ (logits.numpy() > 0) @ across
    np.testing.assert_allclose(token_weights(candidates.mask_runs, 70, frame, grid), expected, atol=1e-6)


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_grown_is_the_largest_around(reach):
    weights = torch.rand(5, 9, 6, generator=torch.Generator().manual_seed(0)).numpy()
    expected = F.max_pool2d(torch.from_numpy(weights)[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
    np.testing.assert_array_equal(grown(weights, reach), expected)


def test_the_factor_is_that_of_a_plain_loop():
    candidates, tokens, prototypes = scene(ImageFrame.squash((256, 256)))
    tokens, prototypes = normalise(tokens), normalise(prototypes)
    found = coverage(candidates, tokens, prototypes)
    weights = F.avg_pool2d((candidates.mask_logits[:, None] > 0).float(), 16)[:, 0]
    for k in range(2):
        evidence = (tokens @ prototypes[k]).clamp(min=0)
        evidence = (evidence - evidence.median()).clamp(min=0)
        for n in range(3):
            around = torch.zeros(GRID)
            for y in range(16):
                for x in range(16):
                    around[y, x] = weights[n, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].max()
            plain = ((weights[n] * evidence).sum() + 1e-3) / ((around * evidence).sum() + 1e-3)
            assert found[n, k] == pytest.approx(float(plain), abs=1e-5)
    assert found[0, 0] > 0.9 and found[1, 0] < 0.75, "the half leaves evidence unexplained"


@pytest.mark.parametrize("form", ["logits", "compact"])
def test_the_whole_comes_before_its_part(form):
    """By cosine alone both are alike, and the part, whose predicted IoU is higher, would come first."""
    candidates, tokens, prototypes = scene(ImageFrame.squash((256, 256)))
    if form == "compact":
        vectors = torch.tensor([[1.0] + [0.0] * 7] * 3)
        small = compact(IndexedImage(candidates, vectors, tokens))
        candidates, tokens = small.candidates, torch.from_numpy(small.tokens.full())
    result = [_match(candidates, tokens, prototypes, config) for config in (MatchConfig(), MatchConfig.published())]
    areas = [[mask.area for mask, label in zip(one.packed, one.labels, strict=True) if label == 0] for one in result]
    assert areas[0][0] == 64 * 128 and areas[1][0] == 64 * 64


def _match(candidates, tokens, prototypes, config):
    from fiftyone_ntt.core import match_vectors

    if isinstance(candidates, Candidates):
        return match(candidates, tokens, prototypes, config)
    vectors = torch.tensor([[1.0] + [0.0] * 7] * 2 + [[0.0, 1.0] + [0.0] * 6])
    return match_vectors(candidates, vectors, prototypes, config, tokens=tokens)
