"""SAM2 through its package: held to a plain walk through the network, one prompt at a time."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_checkpoints import SAM2_CONFIG, SAM2_OVERRIDES, tiny_sam2_checkpoint
from torch import Tensor

from fiftyone_ntt.errors import InputError, WeightsMismatchError
from fiftyone_ntt.method.backends import ProposalModel
from fiftyone_ntt.models.sam2 import Sam2, Sam2Embedding
from fiftyone_ntt.pixels.frames import ImageFrame

POINTS = torch.tensor([[0.5, 0.5], [300.25, 711.0], [1023.5, 512.0]])
BOXES = torch.tensor([[10.0, 20.0, 500.0, 400.0], [0.0, 0.0, 1024.0, 1024.0]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam2_checkpoint(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def sam2(checkpoint: Path) -> Sam2:
    return Sam2(checkpoint, SAM2_CONFIG, overrides=SAM2_OVERRIDES, name="tiny")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(3, 1024, 1024, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def embedding(sam2: Sam2, pixels: Tensor) -> Sam2Embedding:
    return sam2.encode(pixels, sam2.frame((480, 640)))


def test_fulfils_the_protocol_and_squashes(sam2: Sam2, checkpoint: Path) -> None:
    assert isinstance(sam2, ProposalModel)
    assert sam2.frame((480, 640)) == ImageFrame.squash((480, 640), 1024)
    assert sam2.weights_hash == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert not sam2.model.training


@torch.no_grad()
def plain_features(sam2: Sam2, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Image encoder step by step: trunk, neck, the two convolutions for the fine levels."""
    model = sam2.model
    batch = torch.stack(
        [
            (channel - mean) / std
            for channel, mean, std in zip(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
        ]
    )[None]
    levels, _ = model.image_encoder.neck(model.image_encoder.trunk(batch))
    decoder = model.sam_mask_decoder
    return decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), levels[2]


@torch.no_grad()
def plain_decode(
    sam2: Sam2, features: tuple[Tensor, Tensor, Tensor], prompt: Tensor, labels: list[int], multimask: bool
) -> tuple[Tensor, Tensor]:
    """One prompt: coordinates ``[n, 2]`` in the model frame encoded by hand, then the decoder as Meta calls it."""
    encoder = sam2.model.sam_prompt_encoder
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    tokens = []
    for (x, y), label in zip(prompt.tolist(), labels, strict=True):
        relative = torch.tensor([(x + 0.5) / 1024, (y + 0.5) / 1024])
        phase = 2 * math.pi * ((2 * relative - 1) @ matrix)
        tokens.append(torch.cat([phase.sin(), phase.cos()]) + encoder.point_embeddings[label].weight[0])
    tokens.append(encoder.not_a_point_embed.weight[0])
    fine, middle, image = features
    masks, ious, _, _ = sam2.model.sam_mask_decoder(
        image_embeddings=image,
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=torch.stack(tokens)[None],
        dense_prompt_embeddings=encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(image),
        multimask_output=multimask,
        repeat_image=False,
        high_res_features=[fine, middle],
    )
    return masks[0], ious[0]


def test_points_match_the_plain_route(sam2: Sam2, pixels: Tensor, embedding: Sam2Embedding) -> None:
    masks, ious = sam2.decode_points(embedding, POINTS)
    assert masks.shape == (3, 3, 256, 256) and ious.shape == (3, 3)
    assert masks.dtype == ious.dtype == torch.float32
    features = plain_features(sam2, pixels)
    for index, point in enumerate(POINTS):
        plain_masks, plain_ious = plain_decode(sam2, features, point[None], [1], multimask=True)
        torch.testing.assert_close(masks[index], plain_masks, rtol=0, atol=1e-4)
        torch.testing.assert_close(ious[index], plain_ious, rtol=0, atol=1e-4)
    for among in ((0,), (2,), (0, 1)):
        kept, best, best_iou = sam2.decode_among(embedding, POINTS, 0.0, among)
        place = torch.tensor(among)[ious[:, list(among)].argmax(dim=1)]
        assert kept.tolist() == [0, 1, 2]
        torch.testing.assert_close(best, masks[torch.arange(3), place], rtol=0, atol=1e-4)
        torch.testing.assert_close(best_iou, ious[torch.arange(3), place], rtol=0, atol=1e-4)
    # the points must matter, or the comparison above says nothing about them
    assert (masks[0] - masks[1]).abs().max() > 1e-2
    assert ((ious > 0) & (ious < 1)).all()


def test_sets_of_points_match_the_plain_route(sam2: Sam2, pixels: Tensor, embedding: Sam2Embedding) -> None:
    sets, labels = torch.stack([POINTS[:2], POINTS[1:]]), torch.tensor([[1, 0], [1, 1]])
    masks, ious = sam2.decode_prompts(embedding, sets, labels)
    assert masks.shape == (2, 4, 256, 256) and ious.shape == (2, 4)
    features = plain_features(sam2, pixels)
    for index, points in enumerate(sets):
        marks = labels[index].tolist()
        for multimask, which in ((False, slice(0, 1)), (True, slice(1, 4))):
            plain_masks, plain_ious = plain_decode(sam2, features, points, marks, multimask=multimask)
            torch.testing.assert_close(masks[index, which], plain_masks, rtol=0, atol=1e-4)
            torch.testing.assert_close(ious[index, which], plain_ious, rtol=0, atol=1e-4)


def test_boxes_match_the_plain_route(sam2: Sam2, pixels: Tensor, embedding: Sam2Embedding) -> None:
    masks, ious = sam2.decode_boxes(embedding, BOXES)
    assert masks.shape == (2, 256, 256) and ious.shape == (2,)
    features = plain_features(sam2, pixels)
    for index, box in enumerate(BOXES):
        plain_masks, plain_ious = plain_decode(sam2, features, box.reshape(2, 2), [2, 3], multimask=False)
        torch.testing.assert_close(masks[index], plain_masks[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(ious[index], plain_ious[0], rtol=0, atol=1e-4)
    assert (masks[0] - masks[1]).abs().max() > 1e-2


def test_boxes_are_decoded_in_chunks_without_loss(
    sam2: Sam2, embedding: Sam2Embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = torch.cat([BOXES, BOXES + 3.0, BOXES - 2.0])[:5]
    whole = sam2.decode_boxes(embedding, boxes)
    monkeypatch.setattr("fiftyone_ntt.models.sam2.BOXES_PER_BATCH", 2)
    for chunked, once in zip(sam2.decode_boxes(embedding, boxes), whole, strict=True):
        torch.testing.assert_close(chunked, once, rtol=0, atol=1e-5)


def test_no_prompt_gives_no_mask(sam2: Sam2, embedding: Sam2Embedding) -> None:
    masks, ious = sam2.decode_points(embedding, torch.zeros(0, 2))
    assert masks.shape == (0, 3, 256, 256) and ious.shape == (0, 3)
    masks, ious = sam2.decode_boxes(embedding, torch.zeros(0, 4))
    assert masks.shape == (0, 256, 256) and ious.shape == (0,)


def test_no_mem_embed_is_all_that_its_switch_adds(
    sam2: Sam2, checkpoint: Path, pixels: Tensor, embedding: Sam2Embedding
) -> None:
    switched = Sam2(checkpoint, SAM2_CONFIG, overrides=SAM2_OVERRIDES, add_no_mem_embed=True, name="tiny")
    assert switched.name != sam2.name, "provenance must tell the two apart"
    added = switched.encode(pixels, switched.frame((480, 640)))
    parameter = sam2.model.no_mem_embed.reshape(1, -1, 1, 1)
    assert parameter.abs().max() > 1e-3
    assert torch.equal(added.image, embedding.image + parameter)
    assert all(torch.equal(a, b) for a, b in zip(added.high_res, embedding.high_res, strict=True))


def test_stability_fallback_stays_off(checkpoint: Path, sam2: Sam2, embedding: Sam2Embedding) -> None:
    extra = "model.sam_mask_decoder_extra_args"
    asked = (f"++{extra}.dynamic_multimask_via_stability=true", f"++{extra}.dynamic_multimask_stability_thresh=2.0")
    other = Sam2(checkpoint, SAM2_CONFIG, overrides=(*SAM2_OVERRIDES, *asked))
    assert other.model.sam_mask_decoder.dynamic_multimask_via_stability
    assert torch.equal(other.decode_boxes(embedding, BOXES)[0], sam2.decode_boxes(embedding, BOXES)[0])


def test_wrong_pixels_are_refused(sam2: Sam2) -> None:
    with pytest.raises(InputError, match=r"\[3, 1024, 1024\]"):
        sam2.encode(torch.zeros(3, 512, 512), ImageFrame.squash((480, 640), 512))


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("configs/sam2.1/no_such.yaml", (), "no config"),
        (SAM2_CONFIG, ("model.no_such_setting=1",), "no_such_setting"),
        (SAM2_CONFIG, (*SAM2_OVERRIDES, "model.image_size=512"), "1024 pixel frame"),
    ],
)
def test_impossible_architectures_are_refused(
    checkpoint: Path, config: str, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Sam2(checkpoint, config, overrides=overrides)


def test_a_checkpoint_of_another_architecture_is_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="architecture"):
        Sam2(checkpoint, SAM2_CONFIG, overrides=(*SAM2_OVERRIDES, "model.image_encoder.trunk.stages=[1,2,1,1]"))
    with pytest.raises(WeightsMismatchError, match="architecture"):  # 2.0 has fewer weights
        Sam2(checkpoint, "configs/sam2/sam2_hiera_t.yaml", overrides=SAM2_OVERRIDES)


@pytest.mark.parametrize("content", [b"not a checkpoint", {"weights": {}}, {"model": {"code": print}}])
def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "file.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsMismatchError, match="SAM2 checkpoint"):
        Sam2(path, SAM2_CONFIG, overrides=SAM2_OVERRIDES)


HYDRA_SCRIPT = """
import sys
sys.path.insert(0, "tests")
from hydra import compose, initialize_config_dir
initialize_config_dir(sys.argv[1], version_base="1.2")
from fiftyone_ntt.models.sam2 import build_sam2
from support.tiny_checkpoints import SAM2_CONFIG, SAM2_OVERRIDES
build_sam2(SAM2_CONFIG, SAM2_OVERRIDES)
print(compose("other").greeting)
"""


def test_works_beside_another_user_of_hydra(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("greeting: still here\n")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", HYDRA_SCRIPT, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "still here"
