"""The published method's own numbers (an upstream run on a CPU in float32), reproduced to the digit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fiftyone_ntt.core import Candidates, ImageFrame, MatchConfig, match, pool
from fiftyone_ntt.method.merging import nms_per_label, semantic_overlap
from fiftyone_ntt.method.scoring import assign_labels, normalise, similarity
from fiftyone_ntt.pixels.packed_masks import boxes_of, masks_at_image_size

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "after_sam_small.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def prototypes(golden):
    return torch.from_numpy(golden["mem_ins"]).mean(dim=1)


@pytest.fixture(scope="module")
def candidates(golden):
    height, width = golden["ori_hw"]
    logits = torch.from_numpy(golden["lr_masks"].astype(np.float32))
    return Candidates(logits, torch.from_numpy(golden["pred_ious"]), ImageFrame.squash((height, width), 1024))


@pytest.fixture(scope="module")
def tokens(golden):
    return torch.from_numpy(golden["tokens"]).reshape(37, 37, -1)


@pytest.fixture(scope="module")
def kept(candidates):
    return candidates.select(candidates.predicted_iou > 0.4)


@pytest.fixture(scope="module")
def features(kept, tokens):
    return normalise(pool(kept, tokens))


def test_pooled_features(golden, features):
    np.testing.assert_allclose(features.numpy(), golden["obj_feats"], atol=1e-5, equal_nan=True)


def test_similarities(golden, features, prototypes):
    np.testing.assert_allclose(similarity(features, normalise(prototypes)).numpy(), golden["sim"], atol=1e-5)


def test_nms_keeps_the_same_candidates_in_the_same_order(golden, kept, features, prototypes):
    _, labels = assign_labels(similarity(features, normalise(prototypes)))
    boxes = boxes_of(kept.mask_logits > 0).numpy()
    keep = nms_per_label(boxes, kept.predicted_iou.numpy(), labels.numpy(), 0.5)
    np.testing.assert_array_equal(keep, golden["nms_keep"])


def test_semantic_overlap(golden, kept, features, prototypes):
    scores, labels = assign_labels(similarity(features, normalise(prototypes)))
    keep = torch.from_numpy(golden["nms_keep"])
    keep = keep[scores[keep] > 0]
    packed = masks_at_image_size(kept, keep.tolist())
    overlap = semantic_overlap(packed, features[keep].numpy(), labels[keep].numpy())
    np.testing.assert_allclose(overlap, golden["ios"], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_final_result(golden, candidates, tokens, prototypes, dtype):
    stored = Candidates(candidates.mask_logits.to(dtype), candidates.predicted_iou, candidates.frame)
    result = match(stored, tokens, prototypes, MatchConfig.paper())
    np.testing.assert_array_equal(result.labels, golden["out_labels"])
    np.testing.assert_allclose(result.scores, golden["out_scores"], atol=1e-5)
    np.testing.assert_array_equal(result.boxes, golden["out_boxes"])
    packed = np.packbits(result.masks.reshape(len(result), -1), axis=1)
    np.testing.assert_array_equal(packed, golden["out_masks_packed"])


def test_published_scores_differ_only_in_the_box_convention_here(golden, candidates, tokens, prototypes):
    paper = match(candidates, tokens, prototypes, MatchConfig.paper())
    guarded = match(candidates, tokens, prototypes, MatchConfig.published())
    np.testing.assert_allclose(guarded.scores, paper.scores, atol=1e-5)
    np.testing.assert_array_equal(guarded.masks, paper.masks)
    np.testing.assert_array_equal(guarded.boxes - [0, 0, 1, 1], paper.boxes)
