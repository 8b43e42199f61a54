"""Our arrangement of SAM's mask decoder against the package's own, on the same random weights at the real size."""

import copy

import pytest
import torch

from fiftyone_ntt.models import devices as threads
from fiftyone_ntt.models.devices import autocast, parallel_map
from fiftyone_ntt.models.sam2 import Sam2Embedding, build_sam2, fast_decoder, stock_decode

CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_sam2(CONFIG).eval().requires_grad_(False)
        for parameter in model.sam_mask_decoder.parameters():  # no norm is the identity, no bias zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def image(model):
    noise = torch.Generator().manual_seed(1)
    high_res = (torch.randn(1, 32, 256, 256, generator=noise), torch.randn(1, 64, 128, 128, generator=noise))
    embedding = torch.randn(1, 256, 64, 64, generator=noise)
    return Sam2Embedding(embedding, model.sam_prompt_encoder.get_dense_pe(), high_res)


@pytest.fixture(scope="module")
def decoder(model):
    return fast_decoder(model)


def prompts(model, count, points, label):
    coordinates = torch.rand(count, points, 2, generator=torch.Generator().manual_seed(2)) * 1024
    labels = torch.full((count, points), label)
    return model.sam_prompt_encoder(points=(coordinates, labels), boxes=None, masks=None)


def prepared(decoder, model, image):
    return decoder.prepare(image.image, image.position, model.sam_prompt_encoder.no_mask_embed.weight, image.high_res)


@pytest.mark.parametrize(("count", "points", "label"), [(9, 1, 1), (3, 2, 2), (1, 5, 0)])
def test_masks_and_ious_are_the_stock_ones(count, points, label, decoder, model, image):
    sparse, dense = prompts(model, count, points, label)
    expected_masks, expected = stock_decode(model, image, sparse, dense)
    masks, ious = decoder.outputs(prepared(decoder, model, image), sparse, range(4))
    torch.testing.assert_close(ious, expected, atol=1e-5, rtol=0)
    assert ((masks > 0) != (expected_masks > 0)).float().mean() < 1e-5
    assert 0.05 < (masks > 0).float().mean() < 0.95, "the example must have both signs"


@pytest.mark.parametrize("passing", [0, 4, 9])
def test_the_best_masks_are_those_of_all_masks(passing, decoder, model, image):
    ready = prepared(decoder, model, image)
    sparse, _ = prompts(model, 9, 1, 1)
    masks, ious = decoder.outputs(ready, sparse, range(1, 4))
    best, which = ious.max(dim=1)
    threshold = float(best.sort(descending=True).values[passing - 1]) - 1e-6 if passing else 2.0
    kept, logits, iou = decoder.best(ready, sparse, threshold)
    wanted = (best > threshold).nonzero()[:, 0]
    assert kept.tolist() == wanted.tolist() and len(kept) == passing
    torch.testing.assert_close(logits, masks[wanted, which[wanted]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, best[wanted])


def test_autocast_of_the_caller_changes_nothing(decoder, model, image):
    """As notebooks switch it on for all that follows."""
    sparse, _ = prompts(model, 5, 1, 1)
    expected = decoder.best(prepared(decoder, model, image), sparse, 0.0)
    expected_masks = decoder.outputs(prepared(decoder, model, image), sparse, range(4))[0]
    with torch.autocast("cpu", torch.bfloat16):
        ready = prepared(decoder, model, image)
        got, masks = decoder.best(ready, sparse, 0.0), decoder.outputs(ready, sparse, range(4))[0]
        with autocast(torch.device("cpu"), "fp32"):
            assert not torch.is_autocast_enabled("cpu")
    assert all(map(torch.equal, got, expected)) and torch.equal(masks, expected_masks)


def test_another_architecture_is_left_to_the_package(model, caplog):
    other = copy.deepcopy(model)
    other.sam_mask_decoder.output_upscaling[2] = torch.nn.ReLU()
    assert fast_decoder(other) is None
    assert "speed" in caplog.text


def test_missing_parameters_are_left_to_the_package(model, caplog):
    other = copy.deepcopy(model)
    del other.sam_mask_decoder.transformer.norm_final_attn.weight
    assert fast_decoder(other) is None
    assert "norm_final_attn" in caplog.text


def test_threads_give_the_same_in_the_same_order(decoder, model, image):
    ready = prepared(decoder, model, image)
    sparse, _ = prompts(model, 9, 1, 1)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(decoder.best(ready, sparse, 0.0))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_error_in_one_part_is_raised(monkeypatch):
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 2)

    def fail_on_three(value):
        if value == 3:
            raise ValueError("three")
        return -value

    assert parallel_map(fail_on_three, [1, 2]) == [-1, -2]
    with pytest.raises(ValueError, match="three"):
        parallel_map(fail_on_three, range(5))
