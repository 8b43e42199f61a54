"""What the encoders see, against the published code's own arrays (skips where the parity folder is absent)."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from fiftyone_ntt.core import ImageFrame, ProposalConfig, ReferenceItem, read_image
from fiftyone_ntt.method.proposals import grid_points
from fiftyone_ntt.method.references import crop_with_context, patch_weights
from fiftyone_ntt.pixels.frames import feature_input

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def parity(shared_dir):
    with np.load(shared_dir / "parity" / "preprocess.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def references(shared_dir, parity):
    facts = json.loads((shared_dir / "parity" / "refs.json").read_text())
    images = {image["id"]: image for image in facts["images"]}
    first = {}
    for annotation in facts["annotations"]:
        first.setdefault(annotation["image_id"], annotation)
    return [
        _item(shared_dir, images[int(image_id)], first[int(image_id)], str(label))
        for image_id, label in zip(parity["ref_image_id"], parity["ref_class_index"], strict=True)
    ]


def _item(shared_dir, image, annotation, label):
    rles = coco_mask.frPyObjects(annotation["segmentation"], image["height"], image["width"])
    x, y, w, h = annotation["bbox"]
    return ReferenceItem(
        image=read_image(shared_dir / "parity" / "images" / image["file_name"]),
        mask=coco_mask.decode(coco_mask.merge(rles)).astype(bool),
        label=label,
        reference_id=str(annotation["id"]),
        box=(x, y, x + w, y + h),
    )


def test_reference_crops(parity, references):
    for i, item in enumerate(references):
        pixels, mask = crop_with_context(item, 0.2, 518)
        np.testing.assert_allclose(pixels.numpy()[:, ::7, ::7], parity["ref_crop_stride7"][i], atol=1e-5)
        np.testing.assert_allclose(mask.numpy()[::7, ::7], parity["ref_crop_mask_stride7"][i], atol=1e-5)
        seen = (pixels.numpy() - MEAN[:, None, None]) / STD[:, None, None]
        np.testing.assert_allclose(seen[:, ::7, ::7], parity["ref_encoder_in_stride7"][i], atol=1e-5)


def test_reference_patch_weights(parity, references):
    weights = [patch_weights(crop_with_context(item, 0.2, 518)[1], (37, 37), "corner", 518) for item in references]
    expected = parity["ref_patch_weights"].reshape(len(references), 37, 37)
    np.testing.assert_allclose(torch.stack(weights).numpy(), expected, atol=1e-5)


def test_target_images(shared_dir, parity):
    facts = json.loads((shared_dir / "parity" / "targets.json").read_text())
    names = {image["id"]: image["file_name"] for image in facts["images"]}
    for i, image_id in enumerate(parity["target_image_ids"]):
        image = read_image(shared_dir / "parity" / "images" / names[int(image_id)])
        assert image.shape[:2] == tuple(parity["target_hw"][i])
        pixels = ImageFrame.squash(image.shape[:2], 1024).render(image)
        np.testing.assert_allclose(pixels.numpy()[:, ::7, ::7], parity["target_image_stride7"][i], atol=1e-5)
        seen = (feature_input(image, 518).numpy() - MEAN[:, None, None]) / STD[:, None, None]
        np.testing.assert_allclose(seen[:, ::7, ::7], parity["target_encoder_in_stride7"][i], atol=1e-5)


@pytest.mark.parametrize("side", [8, 16])
def test_grid_points(parity, side):
    points = grid_points(ImageFrame.squash((480, 640), 1024), ProposalConfig(points_per_side=side))
    np.testing.assert_allclose(points.numpy(), parity[f"grid_points_{side}"], atol=1e-5)
