"""Options of the match beyond the published one: self-support; and settings that once were there."""

from dataclasses import asdict, fields

import numpy as np
import pytest
import torch
from support.fake_models import fake_segmenter
from support.masks import three_shapes

from fiftyone_ntt.core import (
    Candidates,
    ImageFrame,
    IndexedImage,
    MatchConfig,
    MemoryBank,
    ProposalConfig,
    match_vectors,
)
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.method.config import OptionSettings, PaperSettings, ScoringSettings
from fiftyone_ntt.method.options.self_support import self_supported
from fiftyone_ntt.method.scoring import normalise, similarity


def test_self_support_moves_towards_what_the_image_shows():
    features = normalise(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.2, 0.0], [0.0, 0.0, 1.0], [float("nan")] * 3]))
    prototypes = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    before = similarity(features, prototypes)
    after = self_supported(features, before, prototypes, 0.5)
    assert (after[:2, 0] > before[:2, 0] + 0.05).all()
    assert torch.allclose(after[2, 1], torch.tensor(1.0))
    unchanged = self_supported(features, before, prototypes, 1.1)
    assert torch.allclose(unchanged, before, equal_nan=True)


@pytest.mark.parametrize("change", [{"self_support": -0.1}, {"second_look": 1.1}, {"coverage": -1}, {"order": "x"}])
def test_values_out_of_bounds_are_refused(change):
    with pytest.raises(InputError):
        MatchConfig(**change)


@pytest.mark.parametrize("value", ["0.3", None, True, float("nan"), []])
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        *((MatchConfig, item.name) for item in fields(MatchConfig) if item.type in ("int", "float")),
        *((ProposalConfig, item.name) for item in fields(ProposalConfig) if item.type in ("int", "float")),
    ],
)
def test_what_is_no_number_is_refused(settings, name, value):
    with pytest.raises(WrongTypeError, match=f"{name}.*number"):
        settings(**{name: value})


@pytest.mark.parametrize("value", [1.5, float("inf")])
@pytest.mark.parametrize("name", ["max_instances", "premerge_factor"])
def test_numbers_of_things_are_whole(name, value):
    with pytest.raises(WrongTypeError, match="whole number"):
        MatchConfig(**{name: value})


def test_the_options_reach_the_match():
    bank = MemoryBank(("a",), np.array([[1, 0, 0], [0, 1, 0.5]], np.float32), np.zeros(2, np.int64), ("x", "y"))
    vectors = torch.tensor([[1.0, 0.1, 0], [0.2, 1, 0], [0.5, 0.5, 1], [0, 0, 1]])
    image = IndexedImage(three_shapes(), vectors, torch.zeros(2, 2, 3))
    plain, supported = (
        fake_segmenter().match(image, bank, config).scores.tolist()
        for config in (MatchConfig(), MatchConfig(self_support=0.1))
    )
    assert supported != plain


def test_a_mask_whose_border_is_unsure_scores_less():
    """Alike in all else: the score falls by the powers of predicted IoU and stability."""
    logits = torch.full((2, 256, 256), -8.0)
    logits[0, 20:60, 20:60] = logits[1, 20:60, 120:140] = 8.0
    logits[1, 20:60, 140:160] = 0.5  # inside, but only just: half of the mask is sure
    candidates = Candidates(logits, torch.tensor([0.9, 0.9]), ImageFrame.squash((256, 256)))
    vectors, prototypes = torch.tensor([[1.0, 0.1], [1.0, 0.1]]), torch.tensor([[1.0, 0.0]])
    alike = float(similarity(normalise(vectors[:1]), prototypes))
    for exponents, lowered in (({}, 1), ({"stability_exponent": 1}, 0.5), ({"stability_exponent": 2}, 0.25)):
        found = match_vectors(candidates, vectors, prototypes, MatchConfig(**exponents))
        np.testing.assert_allclose(found.scores, [alike * 0.81, alike * 0.81 * lowered], rtol=1e-5)
    logits[1, 20:60, 120:140] = 0.5  # no pixel is sure: no score vanishes for that
    found = match_vectors(candidates, vectors, prototypes, MatchConfig(stability_exponent=1))
    assert found.scores[-1] > 0
    published = match_vectors(candidates, vectors, prototypes, MatchConfig.published())
    np.testing.assert_allclose(published.scores, [alike, alike], rtol=1e-5)


def test_settings_are_three_groups_that_taken_together_are_flat():
    names = [[setting.name for setting in fields(group)] for group in (PaperSettings, ScoringSettings, OptionSettings)]
    assert [setting.name for setting in fields(MatchConfig)] == sum(names, [])
    assert MatchConfig.paper() == MatchConfig(
        coverage=0, order="predicted_iou", quality_exponent=0, island_share=0, guard_degenerate=False,
        inclusive_boxes=True,
    )  # fmt: skip


def test_settings_that_were_stored_come_back():
    """Also those of before that are no more, as long as they were off."""
    stored = {**asdict(MatchConfig(nms_threshold=0.3)), "nearest": 0, "labels_per_mask": 1, "merge": "soft"}
    assert MatchConfig.from_stored(stored) == MatchConfig(nms_threshold=0.3)
    assert MatchConfig.from_stored({}) == MatchConfig.published()


@pytest.mark.parametrize(
    "change", [{"nearest": 3}, {"labels_per_mask": 2}, {"merge": "diffusion"}, {"tiles": True}, {"coverage": None}]
)
def test_stored_settings_that_this_version_lacks_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        MatchConfig.from_stored({**asdict(MatchConfig()), **change})
