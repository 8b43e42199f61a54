"""``benchmarks.granularity``: what a choice would have kept, taken from all three masks of every point."""

from dataclasses import replace

import numpy as np
import pytest
from fake_models import fake_segmenter

from benchmarks.granularity import of_each_point
from fiftyone_ntt.core import compact
from fiftyone_ntt.method.config import AMONG


@pytest.mark.parametrize("outputs", list(AMONG))
def test_it_is_what_an_index_of_that_choice_holds(outputs):
    bright = np.linspace(0, 255, 256, dtype=np.uint8)
    image = np.repeat(bright, 768).reshape(256, 256, 3)  # darker rows pass the threshold with fewer masks
    every = compact(fake_segmenter(outputs="all", predicted_iou_threshold=-1.0).candidates(image))
    wanted = compact(fake_segmenter(outputs=outputs, predicted_iou_threshold=0.6).candidates(image))
    found = of_each_point(every, outputs, 0.6)
    assert 0 < len(wanted.candidates) < len(every.candidates)
    assert np.array_equal(found.vectors, wanted.vectors, equal_nan=True)
    for name, array in wanted.to_arrays().items():
        assert np.array_equal(array, replace(found, tokens=wanted.tokens).to_arrays()[name], equal_nan=True), name
