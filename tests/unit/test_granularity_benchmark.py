"""``benchmarks.granularity``: what a choice would have kept, taken from all three masks of every point."""

from dataclasses import replace

import numpy as np
import pytest
from support.fake_models import FakeFeatures, FakeProposals, fake_segmenter

from benchmarks.granularity import CHOICES, EveryMask, of_each_point
from fiftyone_ntt.core import ProposalConfig, compact, pool


def chosen_alone(image, every, among, each):
    """The candidates above 0.6 of a choice, as the mask model gives them."""
    segmenter = fake_segmenter(predicted_iou_threshold=0.6)
    if each:
        candidates = every.candidates.select(every.candidates.predicted_iou > 0.6)
        return replace(every, candidates=candidates, vectors=pool(candidates, every.tokens))
    model = segmenter.proposal_model
    plain = model.decode_among
    model.decode_among = lambda embedding, points, threshold, _: plain(embedding, points, threshold, among)
    return segmenter.candidates(image)


@pytest.mark.parametrize("outputs", list(CHOICES))
def test_it_is_what_an_index_of_that_choice_holds(outputs):
    bright = np.linspace(0, 255, 256, dtype=np.uint8)
    image = np.repeat(bright, 768).reshape(256, 256, 3)  # darker rows pass the threshold with fewer masks
    every = EveryMask(FakeProposals(), FakeFeatures(), proposals=ProposalConfig(4), target_via=None).candidates(image)
    wanted = compact(chosen_alone(image, every, CHOICES[outputs], outputs == "all"))
    every = compact(every)
    found = of_each_point(every, outputs, 0.6)
    assert 0 < len(wanted.candidates) < len(every.candidates)
    assert np.array_equal(found.vectors, wanted.vectors, equal_nan=True)
    for name, array in wanted.to_arrays().items():
        assert np.array_equal(array, replace(found, tokens=wanted.tokens).to_arrays()[name], equal_nan=True), name
