"""Frames, prompt grids and reading images."""

import numpy as np
import pytest
import torch
from PIL import Image

from fiftyone_ntt.core import Candidates, ImageFrame, ProposalConfig, read_image
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.proposals import grid_points, propose


@pytest.mark.parametrize("make", [ImageFrame.squash, ImageFrame.letterbox])
@pytest.mark.parametrize("size", [(480, 640), (640, 427), (1, 1), (30, 3000)])
def test_points_come_back(make, size):
    frame = make(size, 1024)
    points = np.array([[0, 0], [size[1], size[0]], [size[1] / 3, size[0] / 7]])
    np.testing.assert_allclose(frame.to_image(frame.to_model(points)), points, rtol=1e-4)


def test_squash_fills_the_frame_and_letterbox_keeps_the_shape():
    corner = np.array([640, 480])
    assert ImageFrame.squash((480, 640), 1024).to_model(corner).tolist() == [1024, 1024]
    assert ImageFrame.letterbox((480, 640), 1024).to_model(corner).tolist() == [1024, 768]


def test_letterbox_renders_zeros_outside_its_content():
    pixels = ImageFrame.letterbox((50, 100), 64).render(np.full((50, 100, 3), 200, np.uint8))
    assert pixels.shape == (3, 64, 64)
    assert (pixels[:, :32] > 0.7).all()
    assert (pixels[:, 32:] == 0).all()


def test_an_image_of_another_size_is_refused():
    with pytest.raises(InputError, match="an image of"):
        ImageFrame.squash((10, 10)).render(np.zeros((11, 10, 3), np.uint8))


def test_centred_points_stay_inside_the_content():
    frame = ImageFrame.letterbox((480, 640), 1024)
    points = grid_points(frame, ProposalConfig(points_per_side=4, grid="centre"))
    assert points.shape == (16, 2)
    assert points[0].tolist() == [128, 96]
    assert points[-1].tolist() == [896, 672]


class EveryPoint:
    """A mask model that marks the prompted point: mask k is k + 1 pixels wide, the second is the best."""

    def decode_points(self, embedding, points):
        masks = torch.full((len(points), 3, 256, 256), -1.0)
        for i, (x, y) in enumerate((points / 4).long().clamp(max=255).tolist()):
            for k in range(3):
                masks[i, k, y, x : x + k + 1] = 1.0
        ious = torch.tensor([0.2, 0.8, 0.5]).repeat(len(points), 1)
        ious[points[:, 0] > 900] = 0.4
        return masks, ious


@pytest.mark.parametrize("batch", [1, 7, 16, 64])
def test_every_point_is_prompted_whatever_the_batch(batch):
    frame = ImageFrame.squash((100, 100), 1024)
    config = ProposalConfig(points_per_side=5, grid="centre", points_per_batch=batch)
    candidates = propose(EveryPoint(), None, frame, config)
    assert len(candidates) == 20, "five points at x > 900 are at the threshold and not above it"
    assert (candidates.mask_logits > 0).sum(dim=(1, 2)).tolist() == [2] * 20, "the second mask is the best of three"


def test_candidates_must_fit_each_other():
    with pytest.raises(InputError, match="mask_logits"):
        Candidates(torch.zeros(3, 256, 256), torch.zeros(2), ImageFrame.squash((4, 4)))


def save(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def exif_rotated(tmp_path):
    image = Image.fromarray(np.zeros((10, 30, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    return save(tmp_path, image, "rotated.jpg", exif=exif)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda folder: save(folder, Image.fromarray(np.zeros((10, 30), np.uint8))), (10, 30)),
        (lambda folder: save(folder, Image.fromarray(np.zeros((10, 30, 4), np.uint8))), (10, 30)),
        (lambda folder: save(folder, Image.new("P", (30, 10))), (10, 30)),
        (lambda folder: save(folder, Image.new("CMYK", (30, 10)), "a b ü.jpg"), (10, 30)),
        (exif_rotated, (30, 10)),
    ],
)
def test_any_image_is_read_as_upright_rgb(tmp_path, make, size):
    image = read_image(make(tmp_path))
    assert image.dtype == np.uint8
    assert image.shape == (*size, 3)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 300).astype(np.uint16).reshape(10, 30)
    image = read_image(save(tmp_path, Image.fromarray(values)))
    assert image.max() == 255
    assert 100 < image.mean() < 155


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\nbroken"])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match="bad.png"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="not found.*gone.png"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize(("side", "content"), [(10**9, (1.0, 1.0)), (0, (0.0, 0.0)), (256, (0.5, 256.0))])
def test_a_frame_that_no_model_has_is_refused(side, content):
    """Of a stranger's file: as many steps as the side has pixels would be taken for each row of tokens."""
    with pytest.raises(InputError, match="expected an image and a frame"):
        ImageFrame((90, 120), side, content)
