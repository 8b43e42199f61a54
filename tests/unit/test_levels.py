"""Granularity: which of three masks become candidates, and how references choose."""

import numpy as np
import pytest
import torch
from support.fake_models import FakeProposals, fake_segmenter
from support.masks import picture_of_shapes

from fiftyone_ntt.core import ImageFrame, ProposalConfig, ReferenceItem
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.backends import AmongDecoder
from fiftyone_ntt.method.options.granularity import AMONG, LEAD, Fit, chosen_by, fit_of, mask_in_frame, points_within
from fiftyone_ntt.method.proposals import kept_of

IOUS = torch.tensor([[0.5, 0.9, 0.7], [0.8, 0.2, 0.3], [0.1, 0.2, 0.3]])
LOGITS = torch.arange(9.0).reshape(3, 3, 1, 1).expand(-1, -1, 256, 256)


@pytest.mark.parametrize(
    ("among", "prompts", "masks"),
    [
        (AMONG["best"], [0, 1], [1, 3]),
        (AMONG["part"], [0, 1], [1, 3]),
        (AMONG["whole"], [0], [1]),
        ((0,), [0, 1], [0, 3]),
        ((2,), [0], [2]),
    ],
)
def test_which_masks_are_kept(among, prompts, masks):
    kept, logits, iou = kept_of(LOGITS, IOUS, 0.4, among)
    assert kept.tolist() == prompts
    assert logits[:, 0, 0].tolist() == masks
    assert iou.tolist() == IOUS.flatten()[masks].tolist()


class Plain(FakeProposals):
    """Offers the long way only."""

    decode_among = None  # a protocol's method must not be ``None``


@pytest.mark.parametrize("granularity", list(AMONG))
def test_the_short_way_gives_the_same(granularity):
    short, plain = fake_segmenter(granularity=granularity), fake_segmenter(granularity=granularity)
    plain.proposal_model = Plain()
    assert isinstance(short.proposal_model, AmongDecoder)
    assert not isinstance(plain.proposal_model, AmongDecoder)
    a, b = plain.candidates(picture_of_shapes()), short.candidates(picture_of_shapes())
    assert len(a.candidates) > 0
    assert torch.equal(a.candidates.mask_logits, b.candidates.mask_logits)
    assert plain.facts().get("outputs", "best") == granularity
    assert ("outputs" in plain.facts()) == (granularity != "best")


def test_an_unknown_granularity_is_refused():
    with pytest.raises(InputError, match="granularity"):
        ProposalConfig(granularity="4")


def disc(radius):
    axis = torch.arange(256) + 0.5
    return radius - ((axis[None] - 128) ** 2 + (axis[:, None] - 128) ** 2).sqrt()


@pytest.mark.parametrize(("radius", "choice"), [(20, "part"), (60, "whole"), (40, "best")])
def test_the_choice_that_fits_the_reference_wins(radius, choice):
    """The model is surest of the middle mask; a reference of another size asks for another one."""
    logits = torch.stack([disc(20), disc(40), disc(60)])[None]
    sure = {"part": [0.9, 0.5, 0.95], "whole": [0.95, 0.5, 0.9], "best": [0.5, 0.9, 0.5]}[choice]
    fit = fit_of("disc", logits, torch.tensor([sure]), (disc(radius) > 0).float().numpy())
    assert chosen_by([fit])[0] == choice
    assert fit.by_choice[choice] > 0.99


def test_published_granularity_stays_unless_another_leads():
    def fit(label, best, part):
        return Fit(label, {"best": best, "part": part, "whole": 0.0})

    assert chosen_by([fit("a", 0.5, 0.5 + LEAD / 2)])[0] == "best"
    assert chosen_by([fit("a", 0.5, 0.5 + 2 * LEAD)])[0] == "part"
    many = [fit("a", 0.5, 0.6)] * 10
    assert chosen_by([*many, fit("b", 0.9, 0.5)])[0] == "best"


@pytest.mark.parametrize("frame", [ImageFrame.squash((200, 100), 1024), ImageFrame.letterbox((200, 100), 1024)])
def test_points_within_a_reference(frame):
    mask = np.zeros((200, 100), bool)
    mask[50:150, 25:75] = True
    grid = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0)) * 64 + 32
    inside = frame.to_image(points_within(grid, mask, frame).numpy())
    assert 1 < len(inside) <= 32
    assert all(mask[int(y), int(x)] for x, y in inside)
    speck = np.zeros((200, 100), bool)
    speck[90:92, 13:15] = True
    ((x, y),) = frame.to_image(points_within(grid[:1], speck, frame).numpy())
    assert abs(x - 14) < 2
    assert abs(y - 91) < 2
    assert mask_in_frame(mask, frame).sum() == pytest.approx(np.prod(frame.mask_content) / 4, rel=0.02)


def test_a_bank_notes_what_its_references_chose():
    image = picture_of_shapes()
    items = [ReferenceItem(image, image[..., 0] > 200, "red", "a"), ReferenceItem(image, image[..., 2] > 200, "b", "b")]
    segmenter = fake_segmenter()
    assert segmenter.build_bank(items, ["red", "b"]).granularity is None
    asked = segmenter.build_bank(items, ["red", "b"], ask_granularity=True)
    assert asked.granularity in ("best", "part", "whole")
    assert set(asked.preprocessing["granularity"]["iou"]) == {"best", "part", "whole"}
