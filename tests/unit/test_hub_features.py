"""Feature models through transformers: which tokens come out, in which order, and what belongs to their name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.hub_models import tiny_hub_features
from torch import Tensor

from fiftyone_ntt.errors import InputError, WeightsMismatchError
from fiftyone_ntt.method.backends import CropEncoder, FeatureModel
from fiftyone_ntt.models.hub_features import KINDS, HubFeatures
from fiftyone_ntt.pixels.frames import normalize


def images_of(model: HubFeatures, count: int = 2) -> Tensor:
    side = model.input_size
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HubFeatures:
    return HubFeatures(tiny_hub_features(tmp_path_factory.mktemp(request.param), request.param))


def test_hub_features_fulfil_the_protocols(model: HubFeatures) -> None:
    assert isinstance(model, FeatureModel) and isinstance(model, CropEncoder)
    tokens = model.encode(images_of(model))
    assert tokens.shape == (2, *model.grid, model.dim) and tokens.dtype == torch.float32
    side = model.crop_size
    assert model.encode_crops(torch.rand(1, 3, side, side)).shape == (1, side // model.patch, side // model.patch, 32)


@torch.no_grad()
def test_a_painted_patch_changes_its_own_token_most(model: HubFeatures) -> None:
    """A wrong order of tokens, a class token too many, or rows for columns would show elsewhere."""
    row, column = 5, 11
    images = torch.full((1, 3, model.input_size, model.input_size), 0.5)
    painted = images.clone()
    rows, columns = (slice(place * model.patch, (place + 1) * model.patch) for place in (row, column))
    painted[:, :, rows, columns] = torch.rand(3, model.patch, model.patch, generator=torch.Generator().manual_seed(1))
    changed = (model.encode(painted) - model.encode(images))[0].norm(dim=-1)
    assert divmod(int(changed.argmax()), model.grid[1]) == (row, column)


# Which normalisation the authors' processors apply, and how many tokens their models put before the patches.
OWN = {
    "dinov3_vit": ("imagenet", 5),
    "dinov3_convnext": ("imagenet", 1),
    "tipsv2_vision_model": ("none", 2),
    "siglip_vision_model": ("half", 0),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", OWN)
def test_tokens_are_the_models_own_hidden_state(kind: str, tmp_path: Path) -> None:
    model = HubFeatures(tiny_hub_features(tmp_path, kind))
    normalisation, before = OWN[kind]
    images = images_of(model, 1)
    extra = {"interpolate_pos_encoding": True} if kind.startswith("siglip") else {}
    hidden = model.model(pixel_values=normalize(images, normalisation), **extra).last_hidden_state
    tokens = model.encode(images)
    assert hidden.shape[1] == before + model.grid[0] * model.grid[1]
    torch.testing.assert_close(tokens.flatten(1, 2), hidden[:, before:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_radio_is_given_plain_pixels(tmp_path: Path) -> None:
    model = HubFeatures(tiny_hub_features(tmp_path, "radio"))
    images = images_of(model, 1)
    assert model.normalisation == "none", "C-RADIO normalises by itself"
    torch.testing.assert_close(model.encode(images).flatten(1, 2), model.model(pixel_values=images).features)


@pytest.mark.parametrize("kind", ["siglip2_vision_model", "siglip_vision_model"])
def test_siglip_equals_its_processor(kind: str, tmp_path: Path) -> None:
    """The processor of each gives the same pixels, in the same order, for an image of the model's own side."""
    import numpy as np
    import transformers

    model = HubFeatures(tiny_hub_features(tmp_path, kind))
    side = model.input_size
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ours = model.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    if kind == "siglip2_vision_model":
        processor = transformers.Siglip2ImageProcessor(patch_size=model.patch, max_num_patches=model.grid[0] ** 2)
        given = dict(processor(image, return_tensors="pt"))
    else:
        processor = transformers.SiglipImageProcessor(size={"height": side, "width": side})
        given = {**processor(image, return_tensors="pt"), "interpolate_pos_encoding": True}
    with torch.no_grad():
        theirs = model.model(**given).last_hidden_state
    torch.testing.assert_close(ours.flatten(1, 2), theirs, rtol=0, atol=1e-4)


def test_dinov3_takes_any_multiple_of_its_patch(tmp_path: Path) -> None:
    folder = tiny_hub_features(tmp_path, "dinov3_vit")
    model = HubFeatures(folder, input_size=80)
    assert model.grid == (5, 5) and model.encode(torch.rand(1, 3, 80, 80)).shape == (1, 5, 5, 32)
    with pytest.raises(InputError, match="multiple of the patch size 16, got 90"):
        HubFeatures(folder, input_size=90)
    with pytest.raises(InputError, match="images"):
        model.encode(torch.rand(1, 3, 96, 96))


def test_removed_positions_are_those_of_a_black_image(tmp_path: Path) -> None:
    folder = tiny_hub_features(tmp_path, "dinov3_vit")
    plain, removed = HubFeatures(folder, input_size=160), HubFeatures(folder, input_size=160, positions_removed=8)
    black = plain.encode(torch.zeros(1, 3, 160, 160)).flatten(0, 2)
    centred = F.normalize(black, dim=-1) - F.normalize(black, dim=-1).mean(dim=0)
    basis = torch.linalg.eigh(centred.T @ centred)[1][:, -8:]  # by another way than the code's: rising values
    images = images_of(plain, 1)
    tokens = plain.encode(images)
    expected = tokens - (tokens @ basis) @ basis.T
    torch.testing.assert_close(removed.encode(images), expected, rtol=0, atol=1e-4)
    assert (expected - tokens).abs().max() > 0.1
    assert removed.name == f"{plain.name}+8_positions_removed"
    with pytest.raises(InputError, match="positions_removed"):
        HubFeatures(folder, input_size=160, positions_removed=32)


def test_another_normalisation_is_another_model(tmp_path: Path) -> None:
    folder = tiny_hub_features(tmp_path, "dinov3_vit")
    plain, other = HubFeatures(folder, input_size=80), HubFeatures(folder, input_size=80, normalisation="satellite")
    assert other.name == f"{plain.name}+satellite" and other.weights_hash == plain.weights_hash
    images = images_of(plain, 1)
    assert (plain.encode(images) - other.encode(images)).abs().max() > 1e-3
    assert HubFeatures(folder, input_size=80, normalisation="imagenet").name == plain.name
    with pytest.raises(InputError, match="normalisation of imagenet"):
        HubFeatures(folder, input_size=80, normalisation="other")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    from support.tiny_checkpoints import tiny_dinov2_folder

    with pytest.raises(WeightsMismatchError, match="found 'dinov2'"):
        HubFeatures(tiny_dinov2_folder(tmp_path))


def changed(folder: Path, before: str, after: str) -> None:
    config = folder / "config.json"
    assert before in config.read_text()
    config.write_text(config.read_text().replace(before, after))


@torch.no_grad()
def test_another_config_is_another_model(tmp_path: Path) -> None:
    """The same weights with another epsilon give other tokens: no bank and no cache may take one for the other."""
    folder = tiny_hub_features(tmp_path, "dinov3_vit")
    plain = HubFeatures(folder, input_size=80)
    changed(folder, '"layer_norm_eps": 1e-05', '"layer_norm_eps": 0.5')
    other = HubFeatures(folder, input_size=80)
    images = images_of(plain, 1)
    assert (plain.encode(images) - other.encode(images)).abs().max() > 1e-3
    assert other.weights_hash != plain.weights_hash and len(other.weights_hash) == 64


@pytest.mark.parametrize("damage", ["cut off", "git lfs", "config"])
def test_damaged_files_are_one_sentence(damage: str, tmp_path: Path) -> None:
    folder = tiny_hub_features(tmp_path, "dinov3_vit")
    weights = folder / "model.safetensors"
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "git lfs":
        weights.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1212559808\n")
    else:
        changed(folder, '"hidden_size": 32', '"hidden_size": "wide"')
    with pytest.raises(WeightsMismatchError, match=str(folder)) as caught:
        HubFeatures(folder)
    assert "\n" not in str(caught.value) and "fetch the files again" in str(caught.value)
