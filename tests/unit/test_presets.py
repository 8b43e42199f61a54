"""Presets: what they hold, how they load, and that importing them costs nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_checkpoints import SAM2_OVERRIDES, tiny_preset

from fiftyone_ntt.core import FeatureModel, ProposalModel, ReferenceItem, ReferenceSettings
from fiftyone_ntt.errors import InputError, MissingWeightsError, WeightsMismatchError
from fiftyone_ntt.models import PRESETS, Preset, load_preset
from fiftyone_ntt.models.devices import choose_device
from fiftyone_ntt.models.presets import Dinov2Spec, EfficientNetSpec, MiniSamSpec, Sam2Spec, clear_loaded
from fiftyone_ntt.models.specs import LITE_FILES, PULL_COMMAND, WEIGHTS, WeightsFile, find_local, sha256_of

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("fiftyone", "hydra", "onnx", "onnxruntime", "sam2", "torchvision", "transformers")


WEIGHTLESS = Sam2Spec("configs/sam2.1/sam2.1_hiera_t.yaml", WeightsFile("nobody-has-this.pt", "0" * 64))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    return tiny_preset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    clear_loaded()


@pytest.mark.parametrize("module", ["fiftyone_ntt.models", "fiftyone_ntt.models.sam2", "fiftyone_ntt.models.dinov2"])
def test_importing_loads_no_model_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_names() -> None:
    assert list(PRESETS)[:5] == ["lite", "tiny", "base", "large", "paper"]
    assert all(preset.name == name for name, preset in PRESETS.items())
    with pytest.raises(FrozenInstanceError):
        PRESETS["lite"].name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "config", "checkpoint", "repo"),
    [
        ("tiny", "sam2.1/sam2.1_hiera_t", "sam2.1_hiera_tiny", "dinov2-small"),
        ("base", "sam2.1/sam2.1_hiera_b+", "sam2.1_hiera_base_plus", "dinov2-base"),
        ("large", "sam2.1/sam2.1_hiera_l", "sam2.1_hiera_large", "dinov2-large"),
        ("paper", "sam2/sam2_hiera_l", "sam2_hiera_large", "dinov2-large"),
    ],
)
def test_the_presets_with_sam2_and_dinov2(name: str, config: str, checkpoint: str, repo: str) -> None:
    preset = PRESETS[name]
    assert preset.proposal == Sam2Spec(f"configs/{config}.yaml", WEIGHTS[f"{checkpoint}.pt"])
    assert preset.features == Dinov2Spec(f"facebook/{repo}")
    assert (preset.points_per_side, preset.grid, preset.target_via) == (32, "edge", 1024)
    assert preset.references == ReferenceSettings("crop", 0.2, "corner", centre=False)
    assert not preset.proposal.add_no_mem_embed
    assert resources.files("sam2").joinpath(preset.proposal.config).is_file()


def test_the_offline_preset() -> None:
    lite = PRESETS["lite"]
    assert lite.references == ReferenceSettings(context="image", weights="area", centre=True)
    assert lite.proposal == MiniSamSpec() and lite.features == EfficientNetSpec(input_size=768, stride=32)
    assert (lite.points_per_side, lite.grid) == (16, "centre")


def test_the_offline_preset_loads_and_stays_on_the_cpu() -> None:
    missing = [file.name for file in LITE_FILES if find_local(file) is None]
    if missing:
        pytest.skip(f"weights are missing: {', '.join(missing)}; run `{PULL_COMMAND}`")
    loaded = load_preset("lite", "cpu")
    assert isinstance(loaded.proposal_model, ProposalModel) and isinstance(loaded.feature_model, FeatureModel)
    assert loaded.device == torch.device("cpu")
    assert (loaded.feature_model.input_size, loaded.feature_model.grid, loaded.feature_model.dim) == (
        768,
        (24, 24),
        320,
    )
    assert loaded.segmenter().references.centre


def test_settings_reach_the_segmenter(tiny: Preset) -> None:
    settings = ReferenceSettings(context="image", weights="area", centre=True)
    preset = replace(tiny, references=settings, target_via=None, points_per_batch=7, grid="centre")
    segmenter = load_preset(preset, "cpu").segmenter()
    assert segmenter.references == settings and segmenter.target_via is None
    proposals = segmenter.proposals
    assert (proposals.points_per_side, proposals.points_per_batch, proposals.grid) == (4, 7, "centre")
    assert load_preset(preset, "cpu").segmenter(points_per_side=9).proposals.points_per_side == 9


def test_both_stages_run_on_a_sam2_and_dinov2_pair(tiny: Preset) -> None:
    loaded = load_preset(tiny, "cpu")
    assert loaded.preset is tiny and loaded.device == torch.device("cpu")
    assert loaded.weights == {
        "tiny_sam2": sha256_of(Path(str(tiny.proposal.path))),
        "tiny_dinov2_0": sha256_of(Path(str(tiny.features.path)) / "model.safetensors"),
    }
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[10:40, 20:60] = True
    segmenter = loaded.segmenter()
    bank = segmenter.build_bank([ReferenceItem(image, mask, "thing", "r0")], ["thing"])
    assert bank.preset == tiny.name and len(repr(bank)) < 100, "so it goes with every service that asks for its models"
    assert bank.vectors.shape == (1, 32) and bank.weights == loaded.weights
    indexed = segmenter.candidates(image)
    assert indexed.vectors.shape == (16, 32), "every prompt of a random SAM2 has a predicted IoU near 0.5"
    instances = segmenter.match(indexed, bank)
    assert len(instances) and instances.masks.shape[1:] == (60, 90)
    assert segmenter.box_masks(image, np.array([[10.0, 10.0, 50.0, 50.0]]))[0].shape == (60, 90)


def test_models_stay_loaded_and_are_shared(tiny: Preset) -> None:
    first, again = load_preset(tiny, "cpu"), load_preset(replace(tiny, name="other", points_per_side=8), "cpu")
    assert again.proposal_model is first.proposal_model and again.feature_model is first.feature_model
    assert again.preset.name == "other"
    switched = replace(tiny, proposal=replace(tiny.proposal, add_no_mem_embed=True))
    assert load_preset(switched, "cpu").proposal_model is not first.proposal_model
    clear_loaded()
    assert load_preset(tiny, "cpu").proposal_model is not first.proposal_model


def test_only_so_many_models_are_kept(tiny: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fiftyone_ntt.models.presets.MODELS_KEPT", 2)
    first = load_preset(tiny, "cpu")
    load_preset(replace(tiny, features=replace(tiny.features, input_size=112)), "cpu")  # pushes out one model
    again = load_preset(tiny, "cpu")
    assert again.proposal_model is first.proposal_model, "used last, so it stays"
    assert again.feature_model is not first.feature_model


@pytest.mark.parametrize("wrong", ["huge", "", None, 3])
def test_unknown_names_list_the_known_ones(wrong: object) -> None:
    with pytest.raises(InputError, match="lite, tiny, base, large, paper"):
        load_preset(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [lambda: Sam2Spec("configs/sam2/sam2_hiera_l.yaml"), lambda: Dinov2Spec()])
def test_a_spec_without_a_source_is_refused(spec) -> None:
    with pytest.raises(InputError, match="got neither"):
        spec()


def test_missing_weights_name_the_file_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Preset
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("FIFTYONE_NTT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeightsError) as caught:
        load_preset("large", "cpu")
    for part in ("sam2.1_hiera_large.pt", "'large'", str(tmp_path), "lite"):
        assert part in str(caught.value)
    with pytest.raises(MissingWeightsError, match=r"facebook/dinov2-large.*'lite'"):
        load_preset(replace(PRESETS["paper"], proposal=tiny.proposal), "cpu")


def test_a_local_checkpoint_is_held_to_its_hash(tiny: Preset) -> None:
    path = Path(str(tiny.proposal.path))
    config = tiny.proposal.config
    other = Sam2Spec(config, WEIGHTS["sam2.1_hiera_tiny.pt"], path=path, overrides=SAM2_OVERRIDES)
    with pytest.raises(WeightsMismatchError, match="sam2.1_hiera_tiny.pt"):
        load_preset(replace(tiny, proposal=other), "cpu")
    own = replace(other, checkpoint=WeightsFile("mine.pt", sha256_of(path)))
    assert load_preset(replace(tiny, proposal=own), "cpu").proposal_model.name == "mine"


def test_a_preset_with_its_masks_from_the_zoo(tiny: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same names and hashes as of the same file elsewhere, so that banks fit; and the tables say where it is."""
    from fiftyone_ntt.cli import doctor
    from fiftyone_ntt.cli import presets as command
    from fiftyone_ntt.models import preset_registry

    path, zoo = Path(str(tiny.proposal.path)), tmp_path / "zoo"
    file = replace(WEIGHTS["sam2.1_hiera_tiny.pt"], sha256=sha256_of(path))
    spec = replace(tiny.proposal, checkpoint=file, path=None)
    for name, folder in (("NTT_WEIGHTS", tmp_path / "weights"), ("MODEL_ZOO_DIR", zoo)):
        monkeypatch.setenv(f"FIFTYONE_{name}", str(folder))
    zoo.mkdir()
    (zoo / "sam2.1_hiera_tiny_image.pt").write_bytes(path.read_bytes())
    found = load_preset(replace(tiny, proposal=spec), "cpu")
    same = load_preset(replace(tiny, proposal=replace(spec, path=path)), "cpu")
    assert found.proposal_model is not same.proposal_model and found.weights == same.weights
    absent = Dinov2Spec("nobody/has-this")
    presets = {
        name: replace(tiny, name=name, proposal=masks, features=features)
        for name, masks, features in (
            ("zoo", spec, tiny.features), ("half", spec, absent), ("here", tiny.proposal, tiny.features),
            ("nowhere", WEIGHTLESS, absent),
        )
    }  # fmt: skip
    monkeypatch.setattr(preset_registry, "all_presets", lambda: presets)
    assert {row.name: row.weights for row in command.preset_rows()} == {
        "zoo": "on this machine (FiftyOne's zoo)",
        "half": "partly on this machine (FiftyOne's zoo), else Hugging Face",
        "here": "on this machine",
        "nowhere": "Hugging Face",
    }
    assert str(zoo) in doctor._weights_check(doctor._weights_of(presets["zoo"])).found


def test_the_device_is_chosen_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
    for device, message in (
        ("cuda", "machine.*cpu"),
        ("mps", "machine.*cpu"),
        ("cpu:3", "machine.*cpu"),
        ("meta", "machine.*cpu"),
        ("gpu", "device such as"),
    ):
        with pytest.raises(InputError, match=message):
            choose_device(device)


def test_better_devices_are_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device() == torch.device("cuda") and choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="cpu, cuda:0, cuda:1, mps"):
        choose_device("cuda:2")


def test_no_preset_loads_on_a_device_that_is_not_there(tiny: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="machine offers"):
        load_preset(tiny, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_what_the_cpu_gives(tiny: Preset) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    on_cpu, on_cuda = (load_preset(tiny, device).segmenter().candidates(image) for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_cuda.tokens.cpu(), on_cpu.tokens, rtol=0, atol=2e-2)
    torch.testing.assert_close(on_cuda.vectors.cpu(), on_cpu.vectors, rtol=0, atol=2e-2)
