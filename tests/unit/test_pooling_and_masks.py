"""The optimised steps against their plain versions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import oracles
from support.masks import blobs

from fiftyone_ntt.core import Candidates, ImageFrame, pool
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.pooling import bilinear_matrix, pool_mask
from fiftyone_ntt.pixels import packed_masks as packed_masks_module
from fiftyone_ntt.pixels.frames import _torch_weights, _triangle_weights
from fiftyone_ntt.pixels.packed_masks import PackedMask, boxes_of, masks_at_image_size


@pytest.mark.parametrize("grid", [(37, 37), (24, 24), (16, 20), (1, 3)])
def test_pooling_by_the_adjoint_equals_pooling_up_sampled_tokens(grid):
    logits, tokens = blobs(70), torch.randn(*grid, 12, generator=torch.Generator().manual_seed(1))
    candidates = Candidates(logits, torch.ones(70), ImageFrame.squash((100, 100)))
    filled = (logits > 0).flatten(1).any(1)
    torch.testing.assert_close(
        pool(candidates, tokens)[filled], oracles.pool(logits, tokens)[filled], atol=5e-6, rtol=0
    )
    assert pool(candidates, tokens)[~filled].isnan().all()


@pytest.mark.parametrize("size", [(256, 256), (600, 800), (120, 90)])
def test_pooling_a_mask_at_image_size_gives_nearly_its_vector(size):
    tokens = torch.randn(16, 16, 12, generator=torch.Generator().manual_seed(1))
    candidates = Candidates(blobs(30), torch.ones(30), ImageFrame.squash(size))
    vectors = pool(candidates, tokens)
    for mask, vector in zip(masks_at_image_size(candidates, range(30)), vectors, strict=True):
        if mask.area > size[0] * size[1] / 100:
            alike = F.cosine_similarity(torch.from_numpy(pool_mask(mask.full(size), tokens)), vector, dim=0)
            assert alike > (0.9999 if size == (256, 256) else 0.99)
    with pytest.raises(InputError, match="one pixel"):
        pool_mask(np.zeros(size, bool), tokens)


def test_pooling_in_a_letterbox_sees_only_the_image():
    frame = ImageFrame.letterbox((512, 1024), 1024)
    tokens = torch.randn(8, 8, 5)
    whole = torch.full((1, 256, 256), -1.0)
    whole[0, :128] = 1.0
    spilled = torch.ones(1, 256, 256)
    expected = pool(Candidates(spilled, torch.ones(1), ImageFrame.squash((512, 1024))), tokens)
    for logits in (whole, spilled):
        torch.testing.assert_close(pool(Candidates(logits, torch.ones(1), frame), tokens), expected, atol=1e-5, rtol=0)


def test_bilinear_matrix_is_torchs_own():
    expected = F.interpolate(torch.eye(37)[None], size=256, mode="linear", align_corners=False)[0].T
    torch.testing.assert_close(bilinear_matrix(256, 37), expected, atol=1e-6, rtol=0)


def packed_masks(logits, frame):
    candidates = Candidates(logits, torch.ones(len(logits)), frame)
    return masks_at_image_size(candidates, range(len(candidates)))


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (256, 256), (150, 200), (97, 1301), (1, 1), (3, 900)])
def test_masks_at_image_size_equal_the_full_size_stack(size):
    logits = blobs(30, seed=sum(size))
    expected = oracles.masks_at_image_size(logits, size).numpy()
    packed = packed_masks(logits, ImageFrame.squash(size))
    for mask, full in zip(packed, expected, strict=True):
        np.testing.assert_array_equal(mask.full(size), full)
        assert mask.area == mask.full(size).sum()


@pytest.mark.parametrize("make", [ImageFrame.squash, ImageFrame.letterbox])
@pytest.mark.parametrize("size", [(480, 640), (427, 640), (512, 512), (300, 2000), (256, 257)])
def test_masks_by_opencv_are_those_of_the_products(size, make, monkeypatch):
    """To the bit, also where neighbours cancel out, which OpenCV rounds in another way."""
    random = torch.Generator().manual_seed(sum(size))
    logits = 3 * blobs(24, seed=1) + torch.randn(24, 256, 256, generator=random)
    logits[:12] = logits[:12].sign() * 2.0 ** (logits[:12].abs() * 2).round().clamp(max=4)
    logits[13, 100, 100], logits[14, 90, 80], logits[15] = float("nan"), 1e30, logits[15] * 1e6
    logits[16, :120] = -1  # the mask begins amid a period
    by_opencv = []
    monkeypatch.setattr(packed_masks_module, "_enlarged", counting(packed_masks_module._enlarged, by_opencv))
    compiled = packed_masks(logits, make(size))
    monkeypatch.setattr(packed_masks_module, "loops", lambda: None)
    monkeypatch.setattr(packed_masks_module, "_WORTH_IT", 1)
    quick = packed_masks(logits, make(size))
    monkeypatch.setattr(packed_masks_module, "_WORTH_IT", 1 << 60)
    plain = packed_masks(logits, make(size))
    for made in (compiled, quick):
        for one, other in zip(made, plain, strict=True):
            assert one.extent == other.extent and np.array_equal(one.bits, other.bits)
    whole = make(size).mask_content[0] % 1 == 0
    assert len(by_opencv) >= 20 * whole and by_opencv.count(True) >= 15 * whole


def counting(function, calls):
    def call(*arguments):
        made = function(*arguments)
        calls.append(made is not None)
        return made

    return call


def test_triangle_weights_are_torchs_up_to_its_rounding():
    for out in (97, 256, 480, 1301):
        np.testing.assert_allclose(_triangle_weights(256.0, out), _torch_weights(out), atol=5e-5)


def test_letterboxed_masks_lose_their_padding():
    frame = ImageFrame.letterbox((300, 600), 1024)
    logits = torch.full((1, 256, 256), -1.0)
    logits[0, 32:64, 64:128] = 1.0
    (mask,) = packed_masks(logits, frame)
    assert mask.extent == (150, 75, 300, 150)
    spilled = torch.ones(1, 256, 256)
    assert packed_masks(spilled, frame)[0].area == 300 * 600


def test_packed_masks_intersect_like_arrays():
    generator = np.random.default_rng(5)
    size = (61, 93)
    arrays = []
    for _ in range(12):
        y, x = generator.integers(0, 50, 2)
        array = np.zeros(size, bool)
        array[y : y + generator.integers(1, 40), x : x + generator.integers(1, 60)] = True
        arrays.append(array & (generator.random(size) > 0.3))
    packed = [PackedMask.from_crop(array[3:, 5:], 3, 5) for array in arrays]
    arrays = [np.pad(array[3:, 5:], ((3, 0), (5, 0))) for array in arrays]
    for a, one in zip(arrays, packed, strict=True):
        np.testing.assert_array_equal(one.full(size), a)
        for b, other in zip(arrays, packed, strict=True):
            assert one.intersection(other) == (a & b).sum()


def test_boxes_are_inclusive_extents():
    binary = torch.zeros(3, 256, 256, dtype=torch.bool)
    binary[0, 10:21, 3:9] = True
    binary[1, 255, 0] = True
    assert boxes_of(binary).tolist() == [[3, 10, 8, 20], [0, 255, 0, 255], [0, 0, 0, 0]]
