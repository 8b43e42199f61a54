"""Options of the match beyond the published one: self-support, nearest references, several labels a mask."""

import numpy as np
import pytest
import torch
from fake_models import fake_segmenter
from test_second_look import candidates

from fiftyone_ntt.core import IndexedImage, MatchConfig, MemoryBank, match_vectors
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.diffusion import redundancy
from fiftyone_ntt.method.nearest import nearest_similarity
from fiftyone_ntt.method.options.self_support import self_supported
from fiftyone_ntt.method.scoring import normalise, similarity
from fiftyone_ntt.pixels.packed_masks import PackedMask

MERGES = ("soft", "diffusion")


def test_self_support_moves_towards_what_the_image_shows():
    features = normalise(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.2, 0.0], [0.0, 0.0, 1.0], [float("nan")] * 3]))
    prototypes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    before = similarity(features, prototypes)
    after = self_supported(features, before, prototypes, 0.5)
    assert (after[:2, 0] > before[:2, 0] + 0.05).all()
    assert torch.allclose(after[2, 1], torch.tensor(1.0))
    unchanged = self_supported(features, before, prototypes, 1.1)
    assert torch.allclose(unchanged, before, equal_nan=True)


def test_nearest_references():
    features = torch.tensor([[1.0, 0.0]])
    references = normalise(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    owner = torch.tensor([0, 0, 1])
    one = nearest_similarity(features, references, owner, 2, 1)
    two = nearest_similarity(features, references, owner, 2, 2)
    assert torch.allclose(one, torch.tensor([[1.0, 0.5**0.5]]))
    assert torch.allclose(two, torch.tensor([[0.5, 0.5**0.5]]))


def labelled(per_mask):
    vectors = torch.tensor([[1.0, 0.4], [1.0, 0.41], [0.2, 1.0], [1.0, 1.0]])
    config = MatchConfig(labels_per_mask=per_mask)
    return match_vectors(candidates(), vectors, torch.eye(2), config)


def test_several_labels_a_mask():
    one, two = labelled(1), labelled(2)
    assert sorted(one.labels) == [0, 1]
    assert sorted(two.labels) == [0, 0, 1, 1]
    best = {(int(label), round(float(score), 5)) for label, score in zip(one.labels, one.scores, strict=True)}
    assert best <= {(int(label), round(float(score), 5)) for label, score in zip(two.labels, two.scores, strict=True)}
    assert len(labelled(5)) == len(two)


def rectangle(left, right):
    return PackedMask.from_crop(np.ones((4, right - left), bool), 0, left)


def test_what_covers_a_mask_counts_with_what_covers_that():
    masks = [rectangle(0, 8), rectangle(4, 12), rectangle(6, 10), rectangle(20, 24), rectangle(0, 8)]
    found = redundancy(masks, np.array([0, 0, 0, 0, 1]))
    half = 0.7 * 0.5  # half of the second lies in the first, which nothing covers
    # The third lies in the second, and half of it in the first.
    np.testing.assert_allclose(found, [0, half, 0.7 + 0.3 * (1.0 * half) / 1.5, 0, 0], rtol=1e-6)


def test_diffusion_keeps_the_best_and_lowers_what_they_cover():
    vectors = torch.tensor([[1.0, 0.4], [1.0, 0.41], [0.2, 1.0], [1.0, 1.0]])
    soft, spread = (match_vectors(candidates(), vectors, torch.eye(2), MatchConfig(merge=m)) for m in MERGES)
    assert len(soft) == len(spread) and (spread.scores <= soft.scores[0]).all()
    assert spread.scores[0] == soft.scores[0]
    assert len(match_vectors(candidates(), vectors, torch.eye(2), MatchConfig(merge="diffusion", max_instances=1))) == 1


@pytest.mark.parametrize("change", [{"nearest": -1}, {"self_support": -0.1}, {"labels_per_mask": 0}, {"merge": "x"}])
def test_values_out_of_bounds_are_refused(change):
    with pytest.raises(InputError):
        MatchConfig(**change)


def test_the_options_reach_the_match():
    bank = MemoryBank(("a",), np.array([[1, 0, 0], [0, 1, 0.5]], np.float32), np.zeros(2, np.int64), ("x", "y"))
    vectors = torch.tensor([[1.0, 0.1, 0], [0.2, 1, 0], [0.5, 0.5, 1], [0, 0, 1]])
    image = IndexedImage(candidates(), vectors, torch.zeros(2, 2, 3))
    plain, nearest, supported = (
        fake_segmenter().match(image, bank, config).scores.tolist()
        for config in (MatchConfig(), MatchConfig(nearest=1), MatchConfig(self_support=0.1))
    )
    assert max(nearest) > max(plain)
    assert supported != plain
