"""Half precision of the encoders: close to float32, switched off by default, never in the way."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from support.encodings import IMAGE, encoded, relative
from support.tiny_checkpoints import tiny_preset

from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.fleet.jobs import fleet_stage_one
from fiftyone_ntt.models import Preset, load_preset, load_segmenters
from fiftyone_ntt.models.devices import matmul
from fiftyone_ntt.models.presets import clear_loaded
from fiftyone_ntt.params.base import StageOneSettings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    return tiny_preset(tmp_path_factory.mktemp("tiny"), points_per_side=2)


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    clear_loaded()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_comes_out_in_float32(tiny, precision):
    plain = encoded(load_preset(tiny, "cpu").segmenter())
    segmenter = load_preset(tiny, "cpu", precision=precision).segmenter()
    half = encoded(segmenter)
    pairs = [(half.tokens, plain.tokens), (half.embedding.image, plain.embedding.image)]
    pairs += zip(half.embedding.high_res, plain.embedding.high_res, strict=True)
    for given, wanted in pairs:
        assert given.dtype == torch.float32
        assert 0 < relative(given, wanted) < 0.05, "changed, but only a little"
    assert segmenter.facts()["precision"] == [precision, precision]
    assert len(segmenter.candidates(IMAGE).candidates) == 4


def test_precisions_do_not_share_a_model(tiny):
    plain, half = load_preset(tiny, "cpu"), load_preset(tiny, "cpu", precision="bf16")
    assert plain.proposal_model is not half.proposal_model and plain.weights == half.weights
    assert load_preset(tiny, "cpu", precision="bf16").proposal_model is half.proposal_model
    assert plain.segmenter().facts()["precision"] == ["fp32", "fp32"]


def test_models_that_know_one_precision_keep_it(lite):
    plain, half = load_preset("lite", "cpu"), load_preset("lite", "cpu", precision="bf16", compile=True)
    assert half.proposal_model is plain.proposal_model
    assert half.segmenter().facts()["precision"] == ["fp32", "fp32"]


@pytest.mark.parametrize("load", [load_preset, load_segmenters])
def test_unknown_precisions_are_refused(load, tiny):
    with pytest.raises(InputError, match="fp32, bf16, fp16, auto"):
        load(tiny, "cpu", precision="int8")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_gives_what_its_images_give(tiny, precision):
    segmenter = load_preset(tiny, "cpu", precision=precision).segmenter()
    images = [np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8) for seed in range(2)]
    prepared = [segmenter.prepare(image) for image in images]
    alone = segmenter.encode(prepared)
    segmenter.images_per_batch = 2
    for one, other in zip(segmenter.encode(prepared), alone, strict=True):
        tensors = zip(
            (one.tokens, one.embedding.image, *one.embedding.high_res),
            (other.tokens, other.embedding.image, *other.embedding.high_res),
            strict=True,
        )
        tolerance = 1e-4 if precision == "fp32" else 3e-2
        assert all(relative(given, wanted) < tolerance for given, wanted in tensors)
        assert one.embedding.image.shape[0] == 1
    assert not torch.equal(alone[0].tokens, alone[1].tokens)


def test_tf32_is_on_inside_and_back_when_the_last_has_left():
    cuda, flags = torch.device("cuda"), torch.backends.cuda.matmul
    before = flags.allow_tf32
    first_inside, first_may_leave = threading.Event(), threading.Event()

    def first():
        with matmul(cuda, "bf16"):
            first_inside.set()
            first_may_leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_inside.wait(10)
    with matmul(cuda, "fp16"):
        first_may_leave.set()
        thread.join()
        assert flags.allow_tf32, "the other thread has left, this one has not"
    assert flags.allow_tf32 == before
    for device, precision in ((cuda, "fp32"), (torch.device("cpu"), "bf16")):
        with matmul(device, precision):
            assert flags.allow_tf32 == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_cuda_is_close_to_the_cpu(tiny, precision):
    on_cpu = encoded(load_preset(tiny, "cpu").segmenter())
    on_cuda = encoded(load_preset(tiny, "cuda", precision=precision).segmenter())
    assert relative(on_cuda.tokens.cpu(), on_cpu.tokens) < 0.05
    assert relative(on_cuda.embedding.image.cpu(), on_cpu.embedding.image) < 0.05


# ---- "auto" ----


class CudaDevices:
    """CUDA devices of some compute capabilities; those of a number beyond them are not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index or 0])


@pytest.mark.parametrize(
    ("device", "capabilities", "precision"),
    [
        ("cuda", [(8, 0)], "bf16"),
        ("cuda", [(9, 0)], "bf16"),
        ("cuda", [(7, 5)], "fp32"),
        ("cuda:1", [(9, 0), (7, 0)], "fp32"),
        ("cuda:0", [(9, 0), (7, 0)], "bf16"),
        ("all", [(9, 0), (7, 0)], "fp32"),
        (None, [(8, 6)], "bf16"),
        ("cpu", [(9, 0)], "fp32"),
    ],
)
def test_auto_is_bf16_where_every_device_has_it(device, capabilities, precision, monkeypatch):
    CudaDevices(monkeypatch, *capabilities)
    made_how = StageOne.of(StageOneSettings(preset="base", device=device, precision="auto"))
    assert made_how.settings.precision == precision
    named = StageOne.of(StageOneSettings(preset="base", device=device, precision=precision))
    assert made_how.recipe == named.recipe, "candidates of the one are those of the other"
    of_cpu_models = StageOne.of(StageOneSettings(preset="lite", device=device, precision="auto"))
    assert of_cpu_models.settings.precision == "fp32"


def test_auto_is_float32_on_the_cpu_to_the_bit(tiny):
    plain, auto = load_preset(tiny, "cpu"), load_preset(tiny, "cpu", precision="auto")
    assert auto.proposal_model is plain.proposal_model and auto.feature_model is plain.feature_model
    (segmenter,) = load_segmenters(tiny, "cpu", precision="auto")
    assert segmenter.facts() == load_segmenters(tiny, "cpu")[0].facts()
    with pytest.raises(InputError, match="cuda"):
        StageOne.of(StageOneSettings(preset="base", device="cuda:7", precision="auto"))


def test_a_fleet_wants_one_precision_for_all_machines():
    with pytest.raises(InputError, match="got 'auto': each machine of a fleet"):
        fleet_stage_one(StageOneSettings(preset="base", precision="auto"))
