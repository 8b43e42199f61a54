"""Compilation of the encoders and the decoder: never in the way, checked against the plain ones, warmed up once."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.encodings import IMAGE, encoded, relative
from support.stand_in_device import elsewhere
from support.tiny_checkpoints import tiny_preset

from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.core import Segmenter
from fiftyone_ntt.models import Preset, load_preset
from fiftyone_ntt.models.compiling import Compiled
from fiftyone_ntt.models.dinov2 import Dinov2
from fiftyone_ntt.models.presets import clear_loaded
from fiftyone_ntt.models.sam2 import CompiledPoints, Sam2
from fiftyone_ntt.params.base import StageOneSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    return tiny_preset(tmp_path_factory.mktemp("tiny"), points_per_side=2)


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    clear_loaded()


@pytest.mark.slow
def test_a_compiled_encoder_gives_what_the_plain_one_gives(tiny, caplog):
    """The small one of the two: SAM2's takes a minute to compile."""
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    plain = Dinov2(tiny.features.path, input_size=56).encode(images)
    with caplog.at_level(logging.INFO, "fiftyone_ntt.models.compiling"):
        compiled = Dinov2(tiny.features.path, input_size=56, compile=True).encode(images)
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("fiftyone_ntt")]
    if "is not compiled" in told:
        pytest.skip("no compiler here: " + told[:200])
    assert "first 2 images" in told
    assert relative(compiled, plain) < 1e-4


def failing_compiler(function, **options):
    def call(images):
        raise RuntimeError("no C++ compiler was found")

    return call


def test_without_a_compiler_it_runs_all_the_same(tiny, monkeypatch, caplog):
    plain = encoded(load_preset(tiny, "cpu").segmenter())
    monkeypatch.setattr(torch, "compile", failing_compiler)
    loaded = load_preset(tiny, "cpu", compile=True)
    segmenter = loaded.segmenter()
    assert loaded.compiled and segmenter.static_shapes
    with caplog.at_level(logging.WARNING, "fiftyone_ntt"):
        same = [encoded(segmenter), encoded(segmenter)]
    assert all(torch.equal(one.tokens, plain.tokens) for one in same)
    assert all(torch.equal(one.embedding.image, plain.embedding.image) for one in same)
    assert len(caplog.messages) == 2, "once a model, not once an image"
    assert all("is not compiled" in message and "C++ compiler" in message for message in caplog.messages)


@dataclass(frozen=True)
class Pair:
    """Two tensors, as networks give them: in a dataclass."""

    one: torch.Tensor
    other: torch.Tensor


class Compiler:
    """Stands in for ``torch.compile``: runs the function as it is, or as ``instead`` says, and notes its calls."""

    def __init__(self, monkeypatch, instead=None):
        self.modes, self.calls = [], []
        self.instead = instead
        monkeypatch.setattr(torch, "compile", self)

    def __call__(self, function, *, dynamic, mode):
        assert dynamic is False
        self.modes.append(mode)

        def compiled(*given):
            self.calls.append(given)
            return (self.instead or function)(*given)

        return compiled


def test_compiled_function_logs_and_passes_memory_errors_on(monkeypatch, caplog):
    compiler, plain = Compiler(monkeypatch), []

    def double(images):
        plain.append(len(images))
        if len(images) == 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images * 2

    compiled = Compiled(double, "some-model")
    with caplog.at_level(logging.INFO, "fiftyone_ntt"):
        for count in (1, 1, 4, 1, 4):
            assert torch.equal(compiled(torch.ones(count)), torch.full((count,), 2.0))
        with pytest.raises(torch.OutOfMemoryError):
            compiled(torch.ones(9))
        compiled(torch.ones(1))
    assert len(compiler.calls) == 7, "the compiled one is still in use"
    assert len(plain) == 7 + 2, "once a shape the plain one says what is right"
    assert ["first 1 image took" in caplog.messages[0], "first 4 images" in caplog.messages[1]] == [True, True]
    assert len(caplog.messages) == 2 and compiler.modes == ["default"]


@pytest.mark.parametrize(
    ("instead", "autocast", "kept"),
    [
        (lambda x: x * 2.0001, False, True),
        (lambda x: x * 2.06, False, False),
        (lambda x: x * 2.06, True, True),
        (lambda x: x * 2.2, True, False),
        (lambda x: x * float("nan"), False, False),
    ],
)
def test_what_computes_something_else_is_not_used(instead, autocast, kept, monkeypatch, caplog):
    """A device, a driver or a version that compiles wrongly costs speed, not results."""
    compiler = Compiler(monkeypatch, instead)
    compiled = Compiled(lambda x: x * 2, "some-model")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = [compiled(torch.ones(3)) for _ in range(3)]
    assert len(compiler.calls) == (3 if kept else 1)
    assert all(torch.equal(result, torch.full((3,), 2.0)) for result in results) != kept
    assert any("its results would be" in message for message in caplog.messages) != kept


def test_few_shapes_are_compiled_the_rest_runs_plainly(monkeypatch):
    compiler = Compiler(monkeypatch)
    compiled = Compiled(lambda x: x + 1, "some-model")
    for count in range(1, 20):
        assert torch.equal(compiled(torch.zeros(count)), torch.ones(count))
    assert len(compiler.calls) == 8
    compiled(torch.zeros(1))
    assert len(compiler.calls) == 9, "those that were compiled still are"


def test_many_models_can_be_compiled_beside_each_other():
    """Two shapes on each of eight cards are more than torch allows of one function's code."""
    code = (
        "import torch; from fiftyone_ntt.models.compiling import Compiled;"
        "torch.compile = lambda function, **options: function; Compiled(abs, 'x');"
        "print(torch._dynamo.config.recompile_limit)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) >= 128


def test_cuda_graphs_are_asked_for_and_their_results_copied(monkeypatch):
    """A graph writes its results to the same place each time: who keeps them needs a copy."""
    place = torch.zeros(2)
    compiler = Compiler(monkeypatch, lambda x: Pair(place.copy_(x), place))
    monkeypatch.setenv("FIFTYONE_NTT_CUDA_GRAPHS", "1")
    compiled = Compiled(lambda x: Pair(x, x), "some-model")
    first, second = (compiled(torch.full((2,), value)) for value in (1.0, 2.0))
    assert compiler.modes == ["reduce-overhead"] and isinstance(first, Pair)
    assert len(compiler.calls) == 3 + 1, "recorded by the second call, played by the third"
    assert first.one.tolist() == [1, 1] and second.other.tolist() == [2, 2]
    used_up = Compiled(lambda x: Pair(x, x), "some-model", used_up=True)
    assert used_up(torch.ones(2)).one is place


def test_models_with_and_without_graphs_are_not_one(tiny, monkeypatch):
    Compiler(monkeypatch)
    without = load_preset(tiny, "cpu", compile=True)
    monkeypatch.setenv("FIFTYONE_NTT_CUDA_GRAPHS", "1")
    assert load_preset(tiny, "cpu", compile=True).proposal_model is not without.proposal_model
    plain = load_preset(tiny, "cpu").proposal_model
    monkeypatch.delenv("FIFTYONE_NTT_CUDA_GRAPHS")
    assert load_preset(tiny, "cpu").proposal_model is plain, "what is not compiled does not ask"


# ---- The mask decoder ----


def decoded(segmenter, threshold):
    """Kept prompts, masks and IoUs of sixteen points."""
    model, points = segmenter.proposal_model, torch.rand(16, 2, generator=torch.Generator().manual_seed(3)) * 1024
    with torch.inference_mode():
        return model.decode_among(encoded(segmenter).embedding, points, threshold, (0, 1, 2))


@pytest.mark.parametrize("together", [16, 2])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_compiled_decoder_keeps_what_the_plain_one_keeps(share, together, tiny, monkeypatch):
    """Whatever number of masks is kept; and every call has the same shapes, up to two."""
    plain = load_preset(tiny, "cpu").segmenter()
    ious = decoded(plain, -1.0)[2].sort(descending=True).values
    threshold = -1.0 if share == 1 else float(ious[int(share * len(ious))])
    compiler = Compiler(monkeypatch)
    monkeypatch.setattr("fiftyone_ntt.models.sam2._UPSCALED_TOGETHER", together)
    monkeypatch.setattr("fiftyone_ntt.models.mask_decoder._PROMPTS_AT_ONCE", 16)
    expected = decoded(plain, threshold)
    model = plain.proposal_model
    model.decoder.compiled = CompiledPoints(model.decoder, model.name)
    found = decoded(plain, threshold)
    assert found[0].tolist() == expected[0].tolist() and len(found[0]) == int(share * 16)
    for given, wanted in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
    sizes = {len(given[-1]) for given in compiler.calls if len(given) == 3}
    assert sizes == ({4 if together == 2 else 16} if share else set()), "masks go in parts of one size"
    assert {len(given[-1]) for given in compiler.calls if len(given) == 2} == {16}


def test_prompts_in_any_number_are_not_compiled(tiny, monkeypatch):
    compiler = Compiler(monkeypatch)
    segmenter = load_preset(tiny, "cpu", compile=True).segmenter()
    model = segmenter.proposal_model
    assert model.decoder.compiled is None, "on the CPU it gains nothing"
    model.decoder.compiled = CompiledPoints(model.decoder, model.name)
    segmenter.box_masks(IMAGE, np.array([[5.0, 5.0, 30.0, 30.0]]))
    assert [len(given) for given in compiler.calls] == [1], "only the encoder"


def test_compiled_decoder_stays_on_its_device(tiny, monkeypatch):
    Compiler(monkeypatch)
    monkeypatch.setattr("fiftyone_ntt.models.sam2._UPSCALED_TOGETHER", 2)
    monkeypatch.setattr("fiftyone_ntt.models.sam2.decoder_that_agrees", lambda make, *_: make())
    monkeypatch.setattr("fiftyone_ntt.models.compiling._distance", lambda one, other: 0.0)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # does not know this device
    spec = tiny.proposal
    model = Sam2(spec.path, spec.config, overrides=spec.overrides, device="meta", compile=True)
    with elsewhere():
        embedding = model.encode(torch.zeros(3, 1024, 1024), model.frame((60, 90)))
        steps, image = model.decoder.compiled, embedding.prepared
        predicted = steps.predict(image, model._point_prompts(torch.rand(8, 2))[0])
        for kept in (8, 3, 1):
            which = torch.arange(kept).to("meta")
            logits = steps.upscale_some(image, predicted, which, torch.ones(kept, 1, dtype=torch.long).to("meta"))
            assert logits.device.type == "meta" and logits.shape == (kept, 1, 256, 256)


def test_decoder_is_one_graph(tiny, monkeypatch):
    """Dynamo takes each step as a whole, dataclasses and all: a part that it left out could be in no CUDA graph."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, dynamic, mode: compiler(function, backend="aot_eager", fullgraph=True)
    )
    model = load_preset(tiny, "cpu").proposal_model
    plain = decoded(load_preset(tiny, "cpu").segmenter(), -1.0)
    monkeypatch.setattr("fiftyone_ntt.models.compiling.logger.warning", lambda *given: pytest.fail(str(given)))
    monkeypatch.setattr(model.decoder, "compiled", CompiledPoints(model.decoder, model.name))
    compiled = decoded(load_preset(tiny, "cpu").segmenter(), -1.0)
    for given, wanted in zip(compiled, plain, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)


# ---- Warming up ----


@pytest.fixture
def nothing_warm(monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.method.segmenter._warm", set())


def test_models_are_warmed_up_once_for_their_batches(tiny, monkeypatch, nothing_warm, caplog):
    compiler = Compiler(monkeypatch)
    segmenter = load_preset(tiny, "cpu", compile=True).segmenter()
    decoder = segmenter.proposal_model.decoder
    decoder.compiled = CompiledPoints(decoder, "as on a GPU")
    segmenter.images_per_batch = 2
    with caplog.at_level(logging.INFO, "fiftyone_ntt"):
        segmenter.warm_up()
    assert "were warmed up in" in caplog.messages[-1]
    shapes = [tuple(given[-1].shape) for given in compiler.calls if len(given) == 1]
    assert {shape[0] for shape in shapes} == {1, 2}, "a single image has a shape of its own"
    assert {len(given) for given in compiler.calls} == {1, 2, 3}, "encoders, decoder and up-scaling"
    done = len(compiler.calls)
    again = load_preset(tiny, "cpu", compile=True).segmenter()
    again.images_per_batch = 2
    again.warm_up()
    assert len(compiler.calls) == done, "once a process"
    with caplog.at_level(logging.INFO, "fiftyone_ntt"):
        segmenter.candidates(IMAGE)
    assert "is compiled" not in caplog.messages[-1], "nothing is left for the first image"


def test_plain_models_on_a_cpu_are_not_warmed_up(tiny, lite, monkeypatch, nothing_warm):
    for segmenter in (load_preset(tiny, "cpu").segmenter(), load_preset("lite", compile=True).segmenter()):
        monkeypatch.setattr(segmenter, "encode", None)
        segmenter.warm_up()


def test_a_warm_up_that_fails_is_not_the_end(tiny, monkeypatch, nothing_warm, caplog):
    Compiler(monkeypatch)
    segmenter = load_preset(tiny, "cpu", compile=True).segmenter()

    def fail(*given):
        raise RuntimeError("the card has fallen off the bus")

    monkeypatch.setattr(segmenter, "decode", fail)
    segmenter.warm_up()
    assert "could not be warmed up: RuntimeError: the card" in caplog.messages[-1]


@pytest.mark.parametrize("known", [False, True])
def test_warming_up_comes_before_images(known, tiny, monkeypatch, nothing_warm, tmp_path):
    """Before any image is asked for, where the models must be loaded to begin with; else before the first is taken."""
    Compiler(monkeypatch)
    order = []
    monkeypatch.setattr(Segmenter, "warm_up", lambda segmenter: order.append("warm up"))
    encode = Segmenter.encode
    monkeypatch.setattr(
        Segmenter, "encode", lambda segmenter, images: order.append("image") or encode(segmenter, images)
    )
    source = CandidateSource(StageOne.of(StageOneSettings(preset=tiny, index_dir=str(tmp_path), use_index=not known)))
    if not known:
        source.open()
        assert order == ["warm up"]
    picture = tmp_path / "picture.png"
    Image.fromarray(IMAGE).save(picture)
    (outcome,) = source.outcomes([("a", str(picture))], lambda key, found: len(found.candidates))
    assert outcome.error is None and order[-2:] == ["warm up", "image"]
