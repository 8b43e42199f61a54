"""Which devices are chosen, what fits them, and one segmenter for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support.fake_models import FakeFeatures, FakeProposals

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import Preset, load_preset, load_segmenters, presets
from fiftyone_ntt.models.devices import choose_devices, free_memory


@dataclass(frozen=True)
class FakeSpec:
    model: type
    cpu_only: ClassVar[bool] = False

    def load(self, device: torch.device, *, preset: str = "") -> Any:
        model = self.model()
        model.device = device
        return model


@dataclass(frozen=True)
class CpuSpec(FakeSpec):
    cpu_only: ClassVar[bool] = True


FAKE = Preset("fake", FakeSpec(FakeProposals), FakeSpec(FakeFeatures))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch believe in so many CUDA devices, each with so many free bytes."""

    def pretend(count: int, free: float = 100e9) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(free)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    yield pretend
    presets.clear_loaded()


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (None, ["cuda"]),
        ("cpu", ["cpu"]),
        ("all", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:2, cuda:0", ["cuda:2", "cuda:0"]),
        ("cuda:1,cuda:1", ["cuda:1"]),
        ("cuda,cuda:0", ["cuda"]),
    ],
)
def test_several_devices(asked, given, gpus):
    gpus(3)
    assert choose_devices(asked) == [torch.device(name) for name in given]


@pytest.mark.parametrize("asked", ["cuda:0,cuda:3", "cuda:0,", "cuda:0;cuda:1", "", "everything"])
def test_devices_that_are_not_there_are_refused(asked, gpus):
    gpus(3)
    with pytest.raises(InputError, match="device"):
        choose_devices(asked)


def test_all_devices_without_a_gpu_is_the_cpu(gpus):
    gpus(0)
    assert choose_devices("all") == [torch.device("cpu")]


def test_one_segmenter_a_device_each_with_models_of_its_own(gpus):
    gpus(2)
    first, second = load_segmenters(FAKE, "all", 5)
    assert first.proposals.points_per_side == 5 and first.facts() == second.facts()
    for segmenter, device in ((first, "cuda:0"), (second, "cuda:1")):
        assert segmenter.proposal_model.device == segmenter.feature_model.device == torch.device(device)
    again = load_segmenters(FAKE, "cuda:1,cuda:0")
    assert again[0].proposal_model is second.proposal_model and again[1].feature_model is first.feature_model
    assert load_preset(FAKE, "cuda:1,cuda:0").proposal_model is second.proposal_model


def test_a_card_under_two_names_holds_its_models_once(gpus):
    """Banks are built on "cuda", runs go over "all"."""
    gpus(2)
    built, run = load_preset(FAKE, "cuda"), load_segmenters(FAKE, "all")
    assert run[0].proposal_model is built.proposal_model and run[0].feature_model is built.feature_model
    assert run[1].proposal_model is not built.proposal_model


def test_models_of_many_devices_are_all_kept(gpus):
    gpus(8)
    before = load_segmenters(FAKE, "all")
    after = load_segmenters(FAKE, "all")
    assert all(a.proposal_model is b.proposal_model for a, b in zip(before, after, strict=True))


def test_preset_for_the_cpu_has_one_segmenter(gpus):
    gpus(3)
    lite = Preset("fake-lite", CpuSpec(FakeProposals), CpuSpec(FakeFeatures))
    assert len(load_segmenters(lite, "all")) == 1
    mixed = replace(lite, features=FakeSpec(FakeFeatures))
    assert len(load_segmenters(mixed, "all")) == 3


@pytest.mark.parametrize(("free", "points", "images"), [(200e9, 256, 8), (20e9, 128, 2), (3e9, 32, 1), (1e6, 1, 1)])
def test_batches_follow_the_free_memory(free, points, images, gpus):
    gpus(1, free)
    segmenter = load_preset(FAKE, "cuda").segmenter()
    assert (segmenter.proposals.points_per_batch, segmenter.images_per_batch) == (points, images)
    chosen = load_preset(replace(FAKE, points_per_batch=48), "cuda").segmenter()
    assert chosen.proposals.points_per_batch == 48, "a number in the preset is what its author wants"


def test_what_is_compiled_keeps_its_sizes(gpus):
    """Another size would be compiled again, for minutes, because other programs took memory meanwhile."""
    gpus(1, 20e9)
    plain = load_preset(FAKE, "cuda")
    compiled = replace(plain, compiled=True)
    before = compiled.segmenter()
    gpus(1, 3e9)
    after, other = compiled.segmenter(), plain.segmenter()
    assert after.proposals == before.proposals and after.images_per_batch == before.images_per_batch == 2
    assert (other.proposals.points_per_batch, other.images_per_batch) == (32, 1)


def test_batches_on_the_cpu():
    segmenter = load_preset(FAKE, "cpu").segmenter()
    presets.clear_loaded()
    assert (segmenter.proposals.points_per_batch, segmenter.images_per_batch) == (64, 1)
    assert free_memory(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_free_memory_of_a_real_device():
    device = torch.device("cuda")
    before = free_memory(device)
    kept = torch.empty(64 << 20, dtype=torch.uint8, device=device)
    assert before is not None and before - (free_memory(device) or 0) >= kept.numel()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_prepared_images_lie_where_a_gpu_can_fetch_them():
    segmenter = load_preset(FAKE, "cuda").segmenter()
    prepared = segmenter.prepare(np.zeros((40, 60, 3), np.uint8))
    assert prepared.pixels.is_pinned() and prepared.view.is_pinned()
    presets.clear_loaded()


def test_without_a_gpu_nothing_is_pinned():
    prepared = load_preset(FAKE, "cpu").segmenter().prepare(np.zeros((40, 60, 3), np.uint8))
    presets.clear_loaded()
    assert not prepared.pixels.is_pinned() and not prepared.view.is_pinned()
