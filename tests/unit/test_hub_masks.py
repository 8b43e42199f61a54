"""Mask models through transformers: equal to SAM2's own package, and to what each model's own classes compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.hub_models import tiny_hub_edgetam, tiny_hub_hq, tiny_hub_sam2, tiny_hub_sam3, tiny_video
from support.sam2_names import transformers_state
from support.tiny_checkpoints import SAM2_CONFIG, SAM2_OVERRIDES, tiny_sam2_checkpoint
from torch import Tensor

from fiftyone_ntt.errors import InputError, WeightsMismatchError
from fiftyone_ntt.method.backends import AmongDecoder, BatchEncoder, PromptDecoder, ProposalModel
from fiftyone_ntt.models.hub_hq import HubSamHq
from fiftyone_ntt.models.hub_masks import HubSam2
from fiftyone_ntt.models.sam2 import Sam2
from fiftyone_ntt.pixels.frames import MASK_SIDE, ImageFrame, normalize, to_mask_frame

IMAGE_SIZE = (480, 640)
POINTS = torch.tensor([[0.5, 0.5], [300.25, 711.0], [900.5, 512.0]])
BOXES = torch.tensor([[10.0, 20.0, 500.0, 400.0], [0.0, 0.0, 1000.0, 1000.0]])


def pixels_of(model: Any, seed: int = 1) -> Tensor:
    """Noise in the model frame, zero where the frame has no content."""
    frame = model.frame(IMAGE_SIZE)
    pixels = torch.rand(3, frame.side, frame.side, generator=torch.Generator().manual_seed(seed))
    pixels[:, int(frame.content[0]) :] = 0
    pixels[:, :, int(frame.content[1]) :] = 0
    return pixels


# ---- SAM2, SAM3, EdgeTAM ----


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sam2, HubSam2]:
    """SAM2 from Meta's package and from transformers, with the same random weights."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("both")
    checkpoint = tiny_sam2_checkpoint(folder)
    hub = tiny_hub_sam2(folder / "hub")
    state = transformers_state(torch.load(checkpoint, weights_only=True)["model"])
    save_file({name: value.clone().contiguous() for name, value in state.items()}, hub / "model.safetensors")
    return Sam2(checkpoint, SAM2_CONFIG, overrides=SAM2_OVERRIDES), HubSam2(hub)


def test_sam2_equals_its_package(both: tuple[Sam2, HubSam2]) -> None:
    package, hub = both
    pixels, frame = pixels_of(hub), hub.frame(IMAGE_SIZE)
    assert frame == package.frame(IMAGE_SIZE) == ImageFrame.squash(IMAGE_SIZE, 1024)
    theirs, ours = package.encode(pixels, frame), hub.encode(pixels, frame)
    for expected, got in zip((theirs.image, *theirs.high_res), (ours.image, *ours.high_res), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    sets, labels = torch.stack([POINTS[:2], POINTS[1:]]), torch.tensor([[1, 0], [1, 1]])
    for expected, got in (
        (package.decode_points(theirs, POINTS), hub.decode_points(ours, POINTS)),
        (package.decode_boxes(theirs, BOXES), hub.decode_boxes(ours, BOXES)),
        (package.decode_prompts(theirs, sets, labels), hub.decode_prompts(ours, sets, labels)),
        (package.decode_among(theirs, POINTS, 0.0, (0, 2)), hub.decode_among(ours, POINTS, 0.0, (0, 2))),
    ):
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
    assert ours.prepared is not None and theirs.image.abs().max() > 1e-2, "nothing was compared"


@pytest.fixture(scope="module", params=["sam2", "sam3", "edgetam"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HubSam2:
    if request.param == "edgetam":
        pytest.importorskip("timm", reason="EdgeTAM's backbone is timm's")
    make = {"sam2": tiny_hub_sam2, "sam3": tiny_hub_sam3, "edgetam": tiny_hub_edgetam}[request.param]
    return HubSam2(make(tmp_path_factory.mktemp(request.param)))


@torch.no_grad()
def own_outputs(model: HubSam2, pixels: Tensor, **prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Masks and IoUs as the model's own ``forward`` gives them, but for the memory that this package leaves out."""
    memory = model.model.no_memory_embedding.clone()
    model.model.no_memory_embedding.zero_()
    output = model.model(pixel_values=normalize(pixels[None], model.normalisation), **prompt)
    model.model.no_memory_embedding.copy_(memory)
    return to_mask_frame(output.pred_masks[0]), output.iou_scores[0]


def test_hub_masks_equal_their_own_forward(hub: HubSam2) -> None:
    assert isinstance(hub, (ProposalModel, PromptDecoder)) and isinstance(hub, (AmongDecoder, BatchEncoder))
    assert hub.decoder is not None, "the fast decoder is not used"
    pixels = pixels_of(hub)
    embedding = hub.encode(pixels, hub.frame(IMAGE_SIZE))
    marks = torch.ones(1, 3, 1, dtype=torch.int32)
    boxes = tuple(part[:, None] for part in hub.decode_boxes(embedding, BOXES))
    own_points = own_outputs(hub, pixels, input_points=POINTS[None, :, None], input_labels=marks)
    own_boxes = own_outputs(hub, pixels, input_boxes=BOXES[None], multimask_output=False)
    for got, expected in ((hub.decode_points(embedding, POINTS), own_points), (boxes, own_boxes)):
        assert got[0].shape[-2:] == (MASK_SIDE, MASK_SIDE) and expected[0].std() > 0.1
        torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(got[1], expected[1], rtol=0, atol=1e-5)


def test_the_stock_decoder_gives_the_same(hub: HubSam2, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = pixels_of(hub)
    fast = hub.encode(pixels, hub.frame(IMAGE_SIZE))
    expected = hub.decode_points(fast, POINTS), hub.decode_boxes(fast, BOXES)
    monkeypatch.setattr(hub, "decoder", None)
    stock = hub.encode(pixels, hub.frame(IMAGE_SIZE))
    assert stock.prepared is None
    for one, other in zip(expected, (hub.decode_points(stock, POINTS), hub.decode_boxes(stock, BOXES)), strict=True):
        torch.testing.assert_close(other[0], one[0], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(other[1], one[1], rtol=0, atol=1e-5)
    assert hub.decode_points(stock, POINTS[:0])[0].shape == (0, 3, MASK_SIDE, MASK_SIDE)


def test_sam3_has_its_own_side_and_range(tmp_path: Path) -> None:
    model = HubSam2(tiny_hub_sam3(tmp_path))
    assert (model.side, model.mask_side, model.normalisation) == (1008, 288, "half")
    assert model.frame(IMAGE_SIZE) == ImageFrame.squash(IMAGE_SIZE, 1008)


@pytest.mark.parametrize("kind", ["sam2_video", "sam3_video", "edgetam_video"])
def test_the_hubs_video_models_hold_the_image_model(kind: str, tmp_path: Path) -> None:
    """Repositories on the hub are of this kind; every weight of the image model is one of theirs."""
    from safetensors.torch import load_file

    if kind == "edgetam_video":
        pytest.importorskip("timm", reason="EdgeTAM's backbone is timm's")
    folder = tiny_video(tmp_path, kind)
    model, theirs = HubSam2(folder), load_file(folder / "model.safetensors")
    ours = model.model.state_dict()
    assert model.decoder is not None and len(ours) > 100
    for name, value in ours.items():
        places = [name]
        if kind == "sam3_video":
            neck = name.replace("vision_encoder.neck.", "tracker_neck.")
            places = (
                [f"detector_model.{name}", neck] if name.startswith("vision_encoder") else [f"tracker_model.{name}"]
            )
        assert any(torch.equal(theirs[place], value) for place in places if place in theirs), name


def test_memory_is_added_only_when_asked(tmp_path: Path) -> None:
    folder = tiny_hub_sam2(tmp_path)
    plain, added = HubSam2(folder), HubSam2(folder, add_no_mem_embed=True)
    pixels, frame = pixels_of(plain), plain.frame(IMAGE_SIZE)
    memory = plain.model.no_memory_embedding.reshape(1, -1, 1, 1)
    torch.testing.assert_close(added.encode(pixels, frame).image, plain.encode(pixels, frame).image + memory)
    assert memory.abs().max() > 0.01
    assert added.name == f"{plain.name}+no_mem_embed"


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="sam_hq.*found 'sam2'"):
        HubSamHq(tiny_hub_sam2(tmp_path))


def test_pixels_of_another_side_are_refused(hub: HubSam2) -> None:
    with pytest.raises(InputError, match="expected pixels"):
        hub.encode(torch.zeros(3, 64, 64), hub.frame(IMAGE_SIZE))


# ---- SAM-HQ ----


@pytest.fixture(scope="module")
def hq(tmp_path_factory: pytest.TempPathFactory) -> HubSamHq:
    return HubSamHq(tiny_hub_hq(tmp_path_factory.mktemp("hq")))


@torch.no_grad()
def authors_masks(hq: HubSamHq, pixels: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    """One prompt ``[1, n, C]`` as the authors' decoder computes it (SysCV/sam-hq, ``MaskDecoderHQ.predict_masks``)."""
    model, decoder, frame = hq.model, hq.model.mask_decoder, hq.frame(IMAGE_SIZE)
    batch = normalize(pixels[None], "imagenet")
    batch[:, :, int(frame.content[0]) :] = 0
    batch[:, :, :, int(frame.content[1]) :] = 0
    image, early = model.get_image_embeddings(batch)
    late = decoder.encoder_conv2(decoder.activation(decoder.encoder_norm(decoder.encoder_conv1(image))))
    vit = decoder.compress_vit_conv1(early[0].permute(0, 3, 1, 2))
    fine = late + decoder.compress_vit_conv2(decoder.activation(decoder.compress_vit_norm(vit)))
    tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight, sparse[0]]
    dense = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(image)
    position = model.get_image_wide_positional_embeddings()
    out, keys = decoder.transformer(torch.cat(tokens)[None, None], image + dense, position, None)
    source = keys[0, 0].T.reshape(image.shape)
    coarse = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(source)))
    coarse = decoder.activation(decoder.upscale_conv2(coarse))
    sharp = decoder.mask_conv2(decoder.activation(decoder.mask_norm(decoder.mask_conv1(coarse)))) + fine
    quality = (decoder.hq_mask_mlp(out[0, 0, 5]) @ sharp[0].flatten(1)).reshape(sharp.shape[-2:])
    masks = [
        (mlp(out[0, 0, 1 + i]) @ coarse[0].flatten(1)).reshape(coarse.shape[-2:]) + quality
        for i, mlp in enumerate(decoder.output_hypernetworks_mlps)
    ]
    return torch.stack(masks), decoder.iou_prediction_head(out[0, 0, 0])


@torch.no_grad()
def test_hq_masks_are_those_of_the_authors(hq: HubSamHq) -> None:
    pixels = pixels_of(hq)
    embedding = hq.encode(pixels, hq.frame(IMAGE_SIZE))
    masks, ious = hq.decode_points(embedding, POINTS)
    boxes = hq.decode_boxes(embedding, BOXES)
    for i, point in enumerate(POINTS):
        mark = torch.ones(1, 1, 1)
        sparse, _ = hq.model.prompt_encoder(point.reshape(1, 1, 1, 2), mark, None, None)
        expected = authors_masks(hq, pixels, sparse[0])
        torch.testing.assert_close(masks[i], expected[0][1:], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ious[i], expected[1][1:], rtol=0, atol=1e-5)
    sparse, _ = hq.model.prompt_encoder(None, None, BOXES[None, :1], None)
    torch.testing.assert_close(boxes[0][0], authors_masks(hq, pixels, sparse[0])[0][0], rtol=1e-5, atol=1e-4)
    assert (masks[0] - masks[1]).abs().max() > 1e-2 and masks.std() > 0.1


@torch.no_grad()
def test_hq_predicts_the_packages_ious_in_its_own_order(hq: HubSamHq) -> None:
    """The package sorts them, and its masks (of transformers 5.24) skip the transformer: only IoUs can be compared."""
    pixels, frame = pixels_of(hq), hq.frame(IMAGE_SIZE)
    _, ious = hq.decode_points(hq.encode(pixels, frame), POINTS)
    batch = normalize(pixels[None], "imagenet")
    batch[:, :, int(frame.content[0]) :] = 0
    marks = torch.ones(1, 3, 1, dtype=torch.int32)
    output = hq.model(pixel_values=batch, input_points=POINTS[None, :, None], input_labels=marks)
    torch.testing.assert_close(ious.sort(dim=1, descending=True).values, output.iou_scores[0], rtol=0, atol=1e-5)


def test_hq_decodes_in_parts_without_loss(hq: HubSamHq) -> None:
    embedding = hq.encode(pixels_of(hq), hq.frame(IMAGE_SIZE))
    many = torch.rand(19, 2, generator=torch.Generator().manual_seed(3)) * 700
    masks, ious = hq.decode_points(embedding, many)
    kept, logits, best = hq.decode_among(embedding, many, float(ious.median()), (0, 2))
    place = torch.tensor([0, 2])[ious[:, [0, 2]].argmax(dim=1)]
    wanted = (ious[:, [0, 2]].amax(dim=1) > ious.median()).nonzero()[:, 0]
    assert kept.tolist() == wanted.tolist() and 0 < len(kept) < 19
    torch.testing.assert_close(logits, masks[wanted, place[wanted]], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(best, ious[wanted, place[wanted]], rtol=0, atol=1e-5)
    assert hq.decode_points(embedding, many[:0])[0].shape == (0, 3, MASK_SIDE, MASK_SIDE)
    assert hq.decode_among(embedding, many[:0], 0.0, (0,))[1].shape == (0, MASK_SIDE, MASK_SIDE)
