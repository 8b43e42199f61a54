"""DINOv2 through transformers: which tokens come out, in which order."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from support.tiny_checkpoints import tiny_dinov2_folder

from fiftyone_ntt.errors import InputError, MissingWeightsError, NttError, WeightsMismatchError
from fiftyone_ntt.method.backends import CropEncoder, FeatureModel
from fiftyone_ntt.models.dinov2 import Dinov2
from fiftyone_ntt.models.hub_folders import find_local_folder

REGISTERS = (0, 4)


@pytest.fixture(scope="module", params=REGISTERS, ids=lambda count: f"{count}-registers")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dinov2_folder(tmp_path_factory.mktemp("dinov2"), registers=request.param)


@pytest.fixture(scope="module")
def dinov2(folder: Path) -> Dinov2:
    return Dinov2(folder)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 518, 518, generator=torch.Generator().manual_seed(2))


def test_fulfils_the_protocol(dinov2: Dinov2, folder: Path) -> None:
    assert isinstance(dinov2, FeatureModel)
    assert (dinov2.input_size, dinov2.grid, dinov2.dim) == (518, (37, 37), 32)
    assert dinov2.weights_hash == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert not dinov2.model.training


def test_tokens_are_the_normalised_last_hidden_state(dinov2: Dinov2, images: torch.Tensor) -> None:
    tokens = dinov2.encode(images)
    assert tokens.shape == (2, 37, 37, 32) and tokens.dtype == torch.float32
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shifted = ((images.permute(0, 2, 3, 1) - mean) / std).permute(0, 3, 1, 2)
    model = dinov2.model
    with torch.no_grad():
        hidden = model.embeddings(shifted)
        for layer in model.encoder.layer:
            out = layer(hidden)
            hidden = out[0] if isinstance(out, tuple) else out
        hidden = model.layernorm(hidden)
    plain = hidden[:, -37 * 37 :].reshape(2, 37, 37, 32)
    torch.testing.assert_close(tokens, plain, rtol=0, atol=1e-4)
    norms = tokens.norm(dim=-1)
    assert norms.min() > 1.5, "tokens must not be l2-normalised"


@torch.no_grad()
def test_tokens_are_row_major(tmp_path: Path) -> None:
    """With no attention and no position code a token depends on its own patch alone: paint one and see where."""
    dinov2 = Dinov2(tiny_dinov2_folder(tmp_path, side=518))
    dinov2.model.embeddings.position_embeddings.zero_()
    for layer in dinov2.model.encoder.layer:
        layer.layer_scale1.lambda1.zero_()
    row, column = 5, 21
    image = torch.full((1, 3, 518, 518), 0.5)
    image[:, :, row * 14 : (row + 1) * 14, column * 14 : (column + 1) * 14] = torch.rand(3, 14, 14)
    tokens = dinov2.encode(image)[0]
    changed = (tokens - tokens[0, 0]).abs().amax(dim=-1) > 1e-3
    assert changed.nonzero().tolist() == [[row, column]]


def test_a_batch_gives_what_single_images_give(dinov2: Dinov2, images: torch.Tensor) -> None:
    together = dinov2.encode(images)
    for index, image in enumerate(images):
        torch.testing.assert_close(together[index], dinov2.encode(image[None])[0], rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_half_precision_files_are_run_in_single(tmp_path: Path, images: torch.Tensor) -> None:
    folder = tiny_dinov2_folder(tmp_path)
    half = tmp_path / "half"
    Dinov2(folder).model.half().save_pretrained(half)
    model = Dinov2(half)
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}
    assert model.encode(images[:1]).dtype == torch.float32


def test_other_input_sizes_change_the_grid(folder: Path) -> None:
    assert Dinov2(folder, input_size=112).encode(torch.rand(1, 3, 112, 112)).shape == (1, 8, 8, 32)
    with pytest.raises(InputError, match="patch size 14"):
        Dinov2(folder, input_size=512)


def test_crops_are_encoded_at_a_smaller_input(dinov2: Dinov2, folder: Path) -> None:
    assert isinstance(dinov2, CropEncoder)
    assert dinov2.crop_size == 252 == 18 * 14
    crops = torch.rand(2, 3, 252, 252, generator=torch.Generator().manual_seed(4))
    tokens = dinov2.encode_crops(crops)
    assert tokens.shape == (2, 18, 18, 32)
    torch.testing.assert_close(tokens, Dinov2(folder, input_size=252).encode(crops))
    with pytest.raises(InputError, match=r"crops.*\[B, 3, 252, 252\]"):
        dinov2.encode_crops(crops[..., :-1])


def test_wrong_image_size_is_refused(dinov2: Dinov2) -> None:
    with pytest.raises(InputError, match=r"\[B, 3, 518, 518\]"):
        dinov2.encode(torch.rand(1, 3, 224, 224))


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _of_another_kind(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "dinov2"', '"model_type": "vit"'))


def _of_another_width(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 64'))


def _with_a_weight_too_few(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _as_git_lfs_has_it(folder: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1217522888\n"
    (folder / "model.safetensors").write_text(pointer)


def _of_a_width_in_words(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": "wide"'))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (_without_weights, MissingWeightsError),
        (_without_config, MissingWeightsError),
        (_of_another_kind, WeightsMismatchError),
        (_of_another_width, WeightsMismatchError),
        (_with_a_weight_too_few, WeightsMismatchError),
        (_cut_off, WeightsMismatchError),
        (_as_git_lfs_has_it, WeightsMismatchError),
        (_of_a_width_in_words, WeightsMismatchError),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage, error: type[NttError]) -> None:
    folder = tiny_dinov2_folder(tmp_path)
    damage(folder)
    with pytest.raises(error, match=str(folder)) as caught:
        Dinov2(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_missing_folder_says_what_to_do(tmp_path: Path, as_text: bool) -> None:
    missing = tmp_path / "dinov2-large"
    with pytest.raises(MissingWeightsError) as caught:
        Dinov2(str(missing) if as_text else missing)
    for part in (str(missing), "model.safetensors", "lite"):
        assert part in str(caught.value)


def test_a_repository_is_taken_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache layout of huggingface_hub, filled by hand; offline mode makes sure that nothing is fetched."""
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--someone--tiny-dinov2"
    snapshot = repository / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    tiny_dinov2_folder(tmp_path).rename(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Dinov2("someone/tiny-dinov2").name == "tiny-dinov2"
    with pytest.raises(MissingWeightsError, match="someone/else"):
        Dinov2("someone/else")
    in_two_files(snapshot)
    assert find_local_folder("someone/tiny-dinov2") == snapshot and Dinov2("someone/tiny-dinov2").dim == 32


def in_two_files(folder: Path) -> None:
    """The weights in two files and an index that names them."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in sorted(set(places.values())):
        part = {name: tensors[name] for name in tensors if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("lacking", "index"),
    [
        ("model-00002-of-00002.safetensors", None),
        ("model-00001-of-00002.safetensors", None),
        ("model.safetensors.index.json", None),
        ("config.json", None),
        (None, "{"),
        (None, "[]"),
        (None, '{"weight_map": {}}'),
        (None, '{"weight_map": {"a": 1}}'),
    ],
)
def test_half_a_snapshot_counts_as_none(
    lacking: str | None, index: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_dinov2_folder(tmp_path)
    in_two_files(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: str(folder))
    assert find_local_folder("someone/tiny") == folder
    if lacking is not None:
        (folder / lacking).unlink()
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(index)
    assert find_local_folder("someone/tiny") is None
