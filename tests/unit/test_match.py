"""Stage two: oracles, and every row of the table of inputs on which the published code breaks."""

import dataclasses

import numpy as np
import pytest
import torch
from support import oracles
from support.masks import blobs

from fiftyone_ntt.core import (
    Candidates,
    ImageFrame,
    IndexedImage,
    MatchConfig,
    MemoryBank,
    Segmenter,
    match,
    match_vectors,
)
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.merging import nms_per_label, semantic_overlap
from fiftyone_ntt.method.options.negatives import NEGATIVE_SCALE, less_negatives
from fiftyone_ntt.method.scoring import normalise
from fiftyone_ntt.pixels.packed_masks import ImageMasks, masks_at_image_size

FRAME = ImageFrame.squash((120, 160))
MAKE = ImageMasks.make


def candidates_of(logits, ious=None, frame=FRAME):
    return Candidates(logits, torch.full((len(logits),), 0.9) if ious is None else torch.as_tensor(ious), frame)


def square(top, left, side=60):
    logits = torch.full((256, 256), -4.0)
    logits[top : top + side, left : left + side] = 4.0
    return logits


def nothing():
    return torch.full((256, 256), -4.0)


def test_nms_equals_the_plain_loop():
    generator = np.random.default_rng(1)
    corner = generator.integers(0, 200, (150, 2))
    boxes = np.concatenate([corner, corner + generator.integers(0, 80, (150, 2))], axis=1).astype(np.float32)
    priority = generator.random(150).astype(np.float32).round(1)  # many ties
    labels = generator.integers(0, 4, 150)
    kept = nms_per_label(boxes, priority, labels, 0.3)
    assert kept.tolist() == oracles.nms_per_label(boxes, priority, labels, 0.3)


def test_semantic_overlap_equals_the_double_loop():
    logits = blobs(40)
    logits = logits[(logits > 0).flatten(1).any(1)]
    labels = torch.arange(len(logits)) % 3
    vectors = normalise(torch.rand(len(logits), 6, generator=torch.Generator().manual_seed(2)))
    masks = oracles.masks_at_image_size(logits, (120, 160))
    expected = oracles.semantic_overlap(masks, vectors, labels)
    packed = masks_at_image_size(Candidates(logits, torch.ones(len(logits)), FRAME), range(len(logits)))
    actual = semantic_overlap(packed, vectors.numpy(), labels.numpy())
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)
    assert (actual > 0.5).any(), "the example must overlap"


@pytest.mark.parametrize("config", [MatchConfig(), MatchConfig.paper()])
def test_no_candidate_above_the_threshold_gives_an_empty_result(config):
    candidates = candidates_of(torch.stack([square(0, 0), square(50, 50)]), [0.4, 0.1])
    result = match(candidates, torch.randn(4, 4, 3), torch.randn(2, 3), config)
    assert len(result) == 0
    assert result.boxes.shape == (0, 4)
    assert result.masks.shape == (0, 120, 160)


@pytest.mark.parametrize("config", [MatchConfig(), MatchConfig.paper()])
def test_no_candidates_at_all_give_an_empty_result(config):
    result = match(candidates_of(torch.zeros(0, 256, 256)), torch.randn(4, 4, 3), torch.randn(2, 3), config)
    assert len(result) == 0


@pytest.mark.parametrize("config", [MatchConfig(), MatchConfig.paper()])
def test_nothing_left_after_nms_gives_an_empty_result(config):
    candidates = candidates_of(torch.stack([square(0, 0)]))
    result = match_vectors(candidates, torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), config)
    assert len(result) == 0


def test_an_empty_mask_is_dropped_before_matching():
    candidates = candidates_of(torch.stack([nothing(), square(10, 10)]), [0.99, 0.8])
    result = match(candidates, torch.rand(4, 4, 3), torch.rand(2, 3))
    assert len(result) == 1
    assert result.predicted_iou[0] == pytest.approx(0.8)


VANISHING = torch.full((256, 256), -4.0)
VANISHING[100, 100] = 0.01  # one weak pixel: gone in an image of 20 x 20


def test_a_mask_that_vanishes_at_image_size_is_dropped():
    frame = ImageFrame.squash((20, 20))
    candidates = candidates_of(torch.stack([square(50, 50, 150), VANISHING]), [0.9, 0.8], frame)
    vectors, prototypes = torch.tensor([[1.0, 0.1], [1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    result = match_vectors(candidates, vectors, prototypes)
    assert len(result) == 1
    assert np.isfinite(result.scores).all()
    published = match_vectors(candidates, vectors, prototypes, MatchConfig.paper())
    assert np.isnan(published.scores[0]), "the published code ranks the vanished mask first"


def test_rounding_above_one_is_clamped():
    same = torch.stack([square(0, 0), square(0, 30), square(60, 0)])
    same[1:] = same[0]
    vectors = torch.tensor([[0.3, 0.9, 0.11]]).repeat(3, 1)
    config = dataclasses.replace(MatchConfig.published(), nms_threshold=1.0)
    result = match_vectors(candidates_of(same, [0.9, 0.8, 0.7]), vectors, vectors[:1], config)
    assert len(result) == 3
    assert np.isfinite(result.scores).all()
    assert result.scores[0] == pytest.approx(1, abs=1e-6)
    assert result.scores[1:].max() < 1e-2


def test_only_the_best_hundred_come_back_and_descending():
    positions = [(y, x) for y in range(0, 250, 20) for x in range(0, 250, 20)]
    logits = torch.stack([square(y, x, 6) for y, x in positions])
    vectors = torch.rand(len(logits), 8)
    result = match_vectors(candidates_of(logits), vectors, torch.rand(3, 8))
    assert len(positions) > 100
    assert len(result) == 100
    assert (np.diff(result.scores) <= 0).all()
    assert len(match_vectors(candidates_of(logits), vectors, torch.rand(3, 8), MatchConfig(max_instances=7))) == 7


def test_score_threshold_drops_what_is_at_or_below_it():
    candidates = candidates_of(torch.stack([square(0, 0), square(100, 100)]))
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    config = dataclasses.replace(MatchConfig.published(), score_threshold=0.7)
    result = match_vectors(candidates, vectors, torch.tensor([[1.0, 0.0]]), config)
    assert result.scores.tolist() == [1.0]


def test_boxes_are_outer_edges_and_inclusive_as_published():
    candidates = candidates_of(torch.stack([square(64, 64, 64)]), frame=ImageFrame.squash((256, 256)))
    vectors = prototypes = torch.ones(1, 2)
    assert match_vectors(candidates, vectors, prototypes).boxes.tolist() == [[64, 64, 128, 128]]
    published = match_vectors(candidates, vectors, prototypes, MatchConfig.paper())
    assert published.boxes.tolist() == [[64, 64, 127, 127]]


@pytest.mark.parametrize(
    ("vectors", "prototypes"),
    [(torch.ones(2, 4), torch.ones(1, 4)), (torch.ones(1, 4), torch.ones(1, 3)), (torch.ones(1, 4), torch.ones(0, 4))],
)
def test_shapes_that_do_not_fit_are_refused(vectors, prototypes):
    with pytest.raises(InputError, match="expected"):
        match_vectors(candidates_of(torch.stack([square(0, 0)])), vectors, prototypes)


@pytest.mark.parametrize(
    "bad", [{"max_instances": 0}, {"nms_threshold": 2}, {"merge_exponent": -1}, {"coverage": -1}, {"order": "x"}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(InputError, match="expected"):
        MatchConfig(**bad)


def many_candidates(n=500, seed=3):
    """Discs that overlap a lot, with few classes and vectors that resemble each other."""
    random = torch.Generator().manual_seed(seed)
    axis = torch.arange(256) + 0.5
    x, y, radius = (torch.rand(3, n, generator=random) * torch.tensor([[256.0], [256.0], [20.0]]))[..., None, None]
    logits = radius - ((axis - x) ** 2 + (axis[:, None] - y) ** 2).sqrt()
    logits[::17] = -1.0
    candidates = Candidates(logits, 0.4 + 0.6 * torch.rand(n, generator=random), FRAME)
    vectors = torch.rand(n, 8, generator=random) + 0.2
    vectors[::17] = float("nan")
    return candidates, vectors, torch.rand(4, 8, generator=random)


def test_merging_equals_the_plain_merge():
    candidates, vectors, prototypes = many_candidates()
    many = {"max_instances": 1000, "premerge_factor": 10, "nms_threshold": 0.9}
    config = dataclasses.replace(MatchConfig.published(), **many)
    found = match_vectors(candidates, vectors, prototypes, config)
    filled = vectors.isfinite().all(dim=1)
    candidates, features = candidates.select(filled), normalise(vectors[filled])
    scores, labels = (features @ normalise(prototypes).T).max(dim=1)
    keep = oracles.nms_per_label(candidates.boxes, candidates.predicted_iou.numpy(), labels.numpy(), 0.9)
    masks = oracles.masks_at_image_size(candidates.mask_logits[keep], FRAME.image_size)
    overlap = oracles.semantic_overlap(masks, features[keep], labels[keep]).nan_to_num().clamp(0, 1)
    merged = (scores[keep] * (1 - overlap) ** 0.5)[masks.flatten(1).any(dim=1)]
    assert len(found) > 200 and (overlap > 0.5).sum() > 30
    np.testing.assert_allclose(found.scores, merged.sort(descending=True).values, atol=2e-5)


@pytest.mark.parametrize("count", [1, 5, 30, 100])
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_merging_only_for_the_best_gives_the_whole_merges_best(count, threshold, monkeypatch):
    candidates, vectors, prototypes = many_candidates()
    config = MatchConfig(max_instances=1000, premerge_factor=1000, nms_threshold=0.9, score_threshold=threshold)
    whole = match_vectors(candidates, vectors, prototypes, config)
    assert len(whole) > 5
    made = []
    monkeypatch.setattr(ImageMasks, "make", lambda self, wanted: made.extend(wanted) or MAKE(self, wanted))
    best = match_vectors(candidates, vectors, prototypes, dataclasses.replace(config, max_instances=count))
    assert len(best) == min(count, len(whole))
    for name in ("boxes", "scores", "labels", "predicted_iou", "masks"):
        np.testing.assert_array_equal(getattr(best, name), getattr(whole, name)[: len(best)])
    assert len(set(map(int, made))) < 0.9 * len(vectors), "no mask was spared"


@pytest.mark.parametrize("config", [MatchConfig(), MatchConfig.paper()])
def test_instances_tell_similarity_and_the_next_class(config):
    candidates, vectors, prototypes = many_candidates()
    filled = vectors.isfinite().all(dim=1)
    candidates, vectors = candidates.select(filled), vectors[filled]
    found = match_vectors(candidates, vectors, prototypes, config)
    ious = candidates.predicted_iou.tolist()
    own = [ious.index(pytest.approx(iou, abs=1e-9)) for iou in found.predicted_iou.tolist()]
    best = (normalise(vectors) @ normalise(prototypes).T)[own].sort(dim=1, descending=True)
    np.testing.assert_allclose(found.similarity, best.values[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.alternative_similarity, best.values[:, 1], atol=1e-6)
    assert found.alternative.tolist() == best.indices[:, 1].tolist()
    merged, before = (part[np.isfinite(found.scores)] for part in (found.scores, found.similarity))  # paper: may be NaN
    assert (merged <= before + 1e-6).all() and (merged < before - 0.05).any()


def test_with_one_class_nothing_comes_next():
    found = match_vectors(candidates_of(torch.stack([square(0, 0)])), torch.ones(1, 2), torch.ones(1, 2))
    assert found.alternative.tolist() == [-1] and found.alternative_similarity.tolist() == [0]


UP, RIGHT, BETWEEN = [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]


@pytest.mark.parametrize(
    ("candidate", "against", "factors"),
    [
        (UP, 0, [1, 1]),  # a reference of class 0 itself, at a negative that is no nearer
        (BETWEEN, 0, [np.exp(-0.2 / NEGATIVE_SCALE), 1]),
        (BETWEEN, 1, [1, np.exp(-0.4 / NEGATIVE_SCALE)]),
        (BETWEEN, -1, [np.exp(-0.2 / NEGATIVE_SCALE), np.exp(-0.4 / NEGATIVE_SCALE)]),
    ],
)
def test_negative_lowers_what_looks_more_like_it(candidate, against, factors):
    positives = torch.tensor([UP, RIGHT]), torch.tensor([0, 1])
    features = torch.tensor([candidate])
    plain = (features @ positives[0].T).clamp(min=0)
    negative = torch.tensor([BETWEEN if candidate == BETWEEN else UP]), torch.tensor([against])
    lowered = less_negatives(plain, features, positives, negative)
    np.testing.assert_allclose(lowered[0], plain[0] * torch.tensor(factors), atol=1e-6)


def test_bank_without_negatives_matches_bit_for_bit():
    candidates, vectors, prototypes = many_candidates()
    tokens = torch.zeros(2, 2, 8)
    bank = MemoryBank(tuple("abcd"), prototypes.numpy(), np.arange(4), tuple("abcd"))
    plain = match_vectors(candidates, vectors, bank.prototypes)
    same = Segmenter.match(IndexedImage(candidates, vectors, tokens), bank)
    for name in ("boxes", "scores", "labels", "predicted_iou"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(same, name))
    taught = bank.changed(negatives=VectorSet(vectors[1:2].numpy(), (None,), ("x",)))
    lowered = Segmenter.match(IndexedImage(candidates, vectors, tokens), taught)
    assert lowered.scores.sum() < plain.scores.sum()
