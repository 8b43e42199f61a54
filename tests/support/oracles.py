"""Plainly written, slow versions of the optimised steps: what the published code computes, line by line."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def pool(mask_logits, tokens):
    """Tokens up-sampled to 256 x 256, averaged under each mask (docs/method.md 3.4)."""
    grid = tokens.permute(2, 0, 1)[None]
    dense = F.interpolate(grid, size=(256, 256), mode="bilinear", align_corners=False, antialias=True)
    dense = dense[0].flatten(1).T
    binary = (mask_logits > 0).float().flatten(1)
    return binary @ dense / binary.sum(dim=1, keepdim=True)


def masks_at_image_size(mask_logits, image_size):
    """All masks at image size at once (docs/method.md 3.6)."""
    full = F.interpolate(mask_logits[None], size=image_size, mode="bilinear", align_corners=False, antialias=True)
    return full[0] > 0


def semantic_overlap(masks, vectors, labels):
    """Double loop over full-size masks in descending priority (docs/method.md 3.6)."""
    overlap = torch.zeros(len(masks))
    for i in range(len(masks)):
        for j in range(i):
            if labels[i] == labels[j]:
                share = (masks[i] & masks[j]).sum() / masks[i].sum()
                overlap[i] = max(overlap[i], share * (vectors[i] @ vectors[j]).clamp(min=0))
    return overlap


def nms_per_label(boxes, priority, labels, threshold):
    """Box by box, as one would explain it (docs/method.md 3.5)."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda k: -priority[k]):
        if all(labels[i] != labels[j] or iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def encode_mask(mask):
    """Compressed RLE of a whole mask, by pycocotools itself."""
    return coco_masks.encode(np.asfortranarray(mask, dtype=np.uint8))


def bridges(rings):
    """Corners (of all rings, numbered through) that bridges join: every pair is looked at, again for every bridge."""
    first = np.cumsum([0, *map(len, rings)]).tolist()
    joined, pairs = [0], []
    while len(joined) < len(rings):
        others = [k for k in range(len(rings)) if k not in joined]
        *_, k, rank, i, j = min(
            (((rings[k][i] - rings[ring][j]) ** 2).sum(), k, rank, i, j)
            for k in others
            for rank, ring in enumerate(joined)
            for i in range(len(rings[k]))
            for j in range(len(rings[ring]))
        )
        pairs.append([first[joined[rank]] + j, first[k] + i])
        joined.append(k)
    return pairs


def coco_pairs(truth, predicted, images, kind, most):
    """Class -> scores, matched, ignored and crowds, as pycocotools pairs image by image (``pairing.paired``)."""

    def annotated(items, numbers):
        entries = [
            {
                "id": i, "image_id": image, "category_id": item.label, "area": 1, "segmentation": item.rle,
                "bbox": [item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]],
                "iscrowd": int(getattr(item, "crowd", False)), "score": getattr(item, "score", None),
            }
            for i, (item, image) in enumerate(zip(items, numbers, strict=True), start=1)
        ]  # fmt: skip
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(max(images, default=0) + 1)],
            "categories": [{"id": k} for k in range(max((item.label for item in [*truth, *predicted]), default=0) + 1)],
            "annotations": entries,
        }
        coco.createIndex()
        coco.annToRLE = lambda annotation: annotation["segmentation"]
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        both = annotated(truth, images[: len(truth)]), annotated(predicted, images[len(truth) :])
        evaluation = COCOeval(*both, kind)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[-np.inf, np.inf]], ["all"]
        evaluation.params.maxDets = [most]
        evaluation.evaluate()
    of_class = {}
    for image in evaluation.evalImgs:
        if image is not None:
            of_class.setdefault(image["category_id"], []).append(image)
    return {
        k: (
            np.concatenate([image["dtScores"] for image in each]),
            np.concatenate([image["dtMatches"] > 0 for image in each], axis=1),
            np.concatenate([image["dtIgnore"] for image in each], axis=1).astype(bool),
            np.concatenate([image["gtIgnore"] for image in each]).astype(bool),
        )
        for k, each in of_class.items()
    }
