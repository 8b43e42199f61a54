"""Batches of prompts that shrink when memory runs out, batches of images that keep their shape."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from support.fake_models import FakeFeatures, FakeProposals, fake_segmenter

from fiftyone_ntt.method.backends import BatchEncoder, BatchSize, in_batches

POINTS = torch.arange(20.0).reshape(10, 2)


class Memory:
    """Room for so many prompts at once; notes the shapes it is given."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, points: torch.Tensor, count: int) -> torch.Tensor:
        self.sizes.append(len(points))
        if len(points) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return points[:count] * 2


@pytest.mark.parametrize(
    ("room", "size", "pad", "sizes"),
    [
        (99, 4, False, [4, 4, 2]),
        (99, 4, True, [4, 4, 4]),
        (99, 16, False, [10]),
        (99, 16, True, [16]),
        (3, 8, False, [8, 4, 2, 2, 2, 2, 2]),
        (3, 8, True, [8, 4, 2, 2, 2, 2, 2]),
        (1, 5, False, [5, 2, 1, *[1] * 9]),
    ],
)
def test_every_point_once_in_order(room, size, pad, sizes):
    memory = Memory(room)
    results = in_batches(memory, POINTS, size, pad=pad)
    assert torch.equal(torch.cat(results), POINTS * 2)
    assert memory.sizes == sizes


def test_padding_repeats_the_last_point():
    seen = []
    in_batches(lambda points, count: seen.append(points), POINTS, 4, pad=True)
    assert torch.equal(seen[-1], POINTS[[8, 9, 9, 9]])


def test_no_points_no_calls():
    assert in_batches(Memory(0), POINTS[:0], 4, pad=True) == []


def test_not_even_one_point_fits():
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(Memory(0), POINTS, 4)


def test_a_size_is_remembered_and_the_log_says_so(caplog):
    size = BatchSize(8)
    with caplog.at_level(logging.WARNING, "fiftyone_ntt"):
        in_batches(Memory(3), POINTS, size)
    assert size.size == 2
    assert ["going on with 4" in caplog.messages[0], "going on with 2" in caplog.messages[1]] == [True, True]
    again = Memory(3)
    in_batches(again, POINTS, size)
    assert again.sizes == [2] * 5


def test_other_errors_pass():
    def broken(points, count):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        in_batches(broken, POINTS, 4)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (300, 280, 3), dtype=np.uint8)


class NotedFeatures(FakeFeatures):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, images):
        self.sizes.append(len(images))
        return super().encode(images)


class BatchProposals(FakeProposals):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode_batch(self, pixels, frames):
        self.sizes.append(len(frames))
        return [self.encode(one, frame) for one, frame in zip(pixels, frames, strict=True)]


@pytest.mark.parametrize(
    ("count", "together", "static", "sizes"),
    [
        (5, 2, False, [2, 2, 1]),
        (3, 2, False, [2, 1]),
        (7, 4, False, [4, 3]),
        (7, 4, True, [4, 4]),
        (5, 4, True, [4, 4]),
        (1, 4, True, [1]),
    ],
)
def test_images_go_through_the_encoders_together(count, together, static, sizes):
    segmenter = fake_segmenter()
    segmenter.proposal_model, segmenter.feature_model = BatchProposals(), NotedFeatures()
    segmenter.images_per_batch, segmenter.static_shapes = together, static
    assert isinstance(segmenter.proposal_model, BatchEncoder) and not isinstance(FakeProposals(), BatchEncoder)
    encoded = segmenter.encode([segmenter.prepare(image(seed)) for seed in range(count)])
    assert segmenter.proposal_model.sizes == segmenter.feature_model.sizes == sizes
    plain = fake_segmenter()
    for seed, one in enumerate(encoded):
        (alone,) = plain.encode([plain.prepare(image(seed))])
        assert torch.equal(one.embedding, alone.embedding) and torch.equal(one.tokens, alone.tokens)
        assert one.frame == alone.frame
    assert len(encoded) == count


class ScarceFeatures(NotedFeatures):
    def encode(self, images):
        if len(images) > 2:
            self.sizes.append(len(images))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(images)


def test_fewer_images_at_once_where_memory_runs_out():
    segmenter, plain = fake_segmenter(), fake_segmenter()
    segmenter.feature_model, segmenter.images_per_batch = ScarceFeatures(), 8
    for _ in range(2):
        encoded = segmenter.encode([segmenter.prepare(image(seed)) for seed in range(5)])
        for seed, one in enumerate(encoded):
            assert torch.equal(one.tokens, plain.encode([plain.prepare(image(seed))])[0].tokens)
    assert segmenter.images_per_batch == 2
    assert segmenter.feature_model.sizes == [5, 4, 2, 2, 1, 2, 2, 1]
