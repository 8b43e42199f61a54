"""A segmenter's stages taken apart: prepare, encode, decode, and the facts that sign an index."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.fake_models import FakeFeatures, FakeProposals, fake_segmenter

from fiftyone_ntt.core import ImageFrame, Matcher, ReferenceItem, compact
from fiftyone_ntt.errors import WrongTypeError
from fiftyone_ntt.pixels.frames import feature_input


def image(seed: int = 0, height: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, 280, 3), dtype=np.uint8)


def same(first, second) -> bool:
    first, second = first.to_arrays(), second.to_arrays()
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k], equal_nan=True) for k in first)


def test_index_is_the_compacted_candidates():
    segmenter = fake_segmenter()
    found = compact(segmenter.candidates(image()))
    assert len(found.candidates) > 0
    assert same(found, compact(segmenter.candidates(image())))


@pytest.mark.parametrize("via", [None, 256, 128])
def test_prepared_pixels_are_those_of_each_model(via):
    segmenter = fake_segmenter()
    segmenter.target_via = via
    prepared = segmenter.prepare(image())
    assert prepared.frame == ImageFrame.squash((300, 280), 256)
    assert (prepared.pixels == prepared.frame.render(image())).all()
    assert (prepared.view == feature_input(image(), 64, via)).all()


class Letterboxed(FakeProposals):
    def frame(self, image_size):
        return ImageFrame.letterbox(image_size, self.side)


class OtherWeights(FakeProposals):
    weights_hash = "c" * 64


class InHalf(FakeFeatures):
    precision = "bf16"


class Finer(FakeFeatures):
    grid = (16, 16)


def changed(**change):
    segmenter = fake_segmenter()
    for name, value in change.items():
        setattr(segmenter, name, value)
    return segmenter


PLAIN = fake_segmenter()


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (changed(proposal_model=OtherWeights()), "weights"),
        (changed(proposal_model=Letterboxed()), "frame"),
        (changed(feature_model=InHalf()), "precision"),
        (changed(feature_model=Finer()), "feature_grid"),
        (changed(target_via=512), "target_via"),
        (changed(proposals=replace(PLAIN.proposals, points_per_side=5)), "points_per_side"),
        (changed(proposals=replace(PLAIN.proposals, grid="centre")), "grid"),
        (changed(proposals=replace(PLAIN.proposals, predicted_iou_threshold=0.5)), "predicted_iou_threshold"),
    ],
)
def test_facts_tell_whatever_changes_the_index(other, what):
    mine, theirs = PLAIN.facts(), other.facts()
    assert [name for name in mine if mine[name] != theirs[name]] == [what]


def test_facts_leave_out_speed_settings_and_survive_json():
    other = changed(images_per_batch=8, proposals=replace(PLAIN.proposals, points_per_batch=3))
    assert other.facts() == PLAIN.facts()
    assert json.loads(json.dumps(PLAIN.facts())) == PLAIN.facts()


@pytest.mark.parametrize(
    ("items", "classes", "text"),
    [
        ([], "ab", "classes as a list of texts"),  # not the classes "a" and "b"
        ([], [1], "classes as a list of texts"),
        ([], 3, "classes as a list of texts"),
        (ReferenceItem(image(), np.ones((300, 280), bool), "a", "b"), None, "list of ReferenceItem"),
        (3, None, "list of ReferenceItem"),
    ],
)
def test_a_bank_is_made_of_lists(items, classes, text):
    with pytest.raises(WrongTypeError, match=text):
        fake_segmenter().build_bank(items, classes)


@pytest.mark.parametrize("segmenter", ["lite", 3, object()])
def test_a_matcher_takes_a_segmenter_and_no_name_of_one(segmenter):
    with pytest.raises(WrongTypeError, match="segmenter.*load_preset"):
        Matcher(np.ones((1, 4), np.float32), segmenter=segmenter)
