"""EfficientNet-Lite0 on its real weights, against the package's own forward pass."""

import hashlib

import pytest
import torch

from fiftyone_ntt.errors import InputError, MissingWeightsError, WeightsMismatchError
from fiftyone_ntt.method.backends import CropEncoder, FeatureModel
from fiftyone_ntt.models.efficientnet import EfficientNetLite0
from fiftyone_ntt.models.specs import EFFICIENTNET_LITE0, locate


@pytest.fixture(scope="module")
def path():
    try:
        return locate(EFFICIENTNET_LITE0, preset="lite")
    except MissingWeightsError as error:
        pytest.skip(f"the lite weights are not on this machine: {error}")


def images(count, side):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("stride", "side", "grid", "dim"), [(32, 768, (24, 24), 320), (16, 96, (6, 6), 112), (32, 96, (3, 3), 320)]
)
def test_grid_and_channels(stride, side, grid, dim, path):
    model = EfficientNetLite0(path, input_size=side, stride=stride)
    assert isinstance(model, FeatureModel)
    assert (model.name, model.input_size, model.grid, model.dim) == ("efficientnet_lite0", side, grid, dim)
    tokens = model.encode(images(1, side))
    assert tokens.shape == (1, *grid, dim)
    assert tokens.dtype == torch.float32
    assert not tokens.requires_grad


def test_the_defaults_are_those_of_the_preset(path):
    model = EfficientNetLite0(path)
    assert (model.input_size, model.grid, model.dim) == (768, (24, 24), 320)
    assert model.weights_hash == hashlib.sha256(path.read_bytes()).hexdigest() == EFFICIENTNET_LITE0.sha256


@pytest.mark.parametrize(("stride", "block"), [(16, 10), (32, 15)])
def test_tokens_are_those_of_the_packages_own_forward(stride, block, path):
    from efficientnet_lite_pytorch import EfficientNet

    # Built for another size: its static padding must then be the same for every multiple of 32.
    theirs = EfficientNet.from_name("efficientnet-lite0", image_size=128)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    seen = []
    theirs._blocks[block].register_forward_hook(lambda module, given, result: seen.append(result))
    batch = images(2, 128)
    with torch.inference_mode():
        theirs.eval()((batch * 255 - 127) / 128)
    ours = EfficientNetLite0(path, input_size=128, stride=stride).encode(batch)
    assert torch.allclose(ours, seen[0].permute(0, 2, 3, 1), atol=1e-4)
    assert ours.std() > 0.1


def test_tokens_are_where_the_image_is(path):
    model = EfficientNetLite0(path, input_size=256)
    batch = torch.full((2, 3, 256, 256), 0.5)
    batch[1, :, 160:, :64] = images(1, 256)[0, :, 160:, :64]  # bottom left
    change = (model.encode(batch)[1] - model.encode(batch)[0]).norm(dim=-1)
    row, column = divmod(int(change.argmax()), 8)
    assert row >= 4
    assert column <= 3


def test_a_batch_gives_what_its_images_give(path):
    model = EfficientNetLite0(path, input_size=96)
    batch = images(3, 96)
    alone = torch.cat([model.encode(image[None]) for image in batch])
    assert torch.allclose(model.encode(batch), alone, atol=1e-4)


@pytest.mark.parametrize("given", [{"stride": 8}, {"input_size": 100}, {"input_size": 0}])
def test_impossible_settings_are_refused(given, path):
    with pytest.raises(InputError, match="expected"):
        EfficientNetLite0(path, **given)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran code from a weights file')",))


@pytest.mark.parametrize("content", [{"_conv_stem.weight": torch.zeros(1)}, Evil(), [1, 2], None])
def test_files_of_something_else_are_refused_and_run_nothing(content, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(WeightsMismatchError, match="other.pth"):
        EfficientNetLite0(path)


def test_a_truncated_file_is_refused(path, tmp_path):
    short = tmp_path / "short.pth"
    short.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsMismatchError, match="short.pth"):
        EfficientNetLite0(short)


def test_crops_are_smaller_inputs_of_the_same_network(path):
    model = EfficientNetLite0(path)
    assert isinstance(model, CropEncoder)
    crops = images(2, model.crop_size)
    tokens = model.encode_crops(crops)
    assert tokens.shape == (2, 8, 8, 320)
    assert torch.equal(tokens, EfficientNetLite0(path, input_size=model.crop_size).encode(crops))
    assert EfficientNetLite0(path, input_size=96).crop_size == 96
