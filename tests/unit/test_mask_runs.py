"""Runs of pixels against plain ways of counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from fiftyone_ntt.core import Candidates, ImageFrame, IndexedImage, compact
from fiftyone_ntt.pixels.mask_codes import Runs, components, runs_of_lengths
from fiftyone_ntt.pixels.packed_masks import WithoutSmallRegions, are_small_regions

FRAME = ImageFrame.squash((120, 160))


def runs_of_masks(masks):
    """Runs of masks bool ``[N, h, w]``, row by row; the package gets them from packed bits."""
    padded = np.zeros((*masks.shape[:2], masks.shape[2] + 2), np.int8)
    padded[:, :, 1:-1] = masks
    change = np.diff(padded, axis=2)
    owner, row, start = np.nonzero(change > 0)
    stop = np.nonzero(change < 0)[2]
    return Runs(owner, row, start, stop)


def speckled(count=24, side=64, seed=0):
    """Masks with many components; also an empty one, a full one, and ones with a single corner pixel."""
    noise = np.random.default_rng(seed).standard_normal((count, side, side))
    masks = ndimage.gaussian_filter(noise, (0, 2, 2)) > 0.1
    masks[3], masks[4], masks[5], masks[6] = False, True, False, False
    masks[5, -1, -1] = masks[6, 0, 0] = True
    return masks


def painted(runs, shape):
    canvas = np.zeros(shape, bool)
    for owner, row, start, stop in zip(runs.owner, runs.row, runs.start, runs.stop, strict=True):
        canvas[owner, row, start:stop] = True
    return canvas


def lengths_of(masks):
    """Run lengths as the index keeps them."""
    kept = []
    for flat in masks.reshape(len(masks), -1).astype(np.int8):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
        kept.append(np.diff(np.concatenate([[0], edges])))
    return np.concatenate(kept).astype(np.uint16), np.cumsum([len(one) for one in kept])


def test_runs_of_masks_are_their_pixels():
    masks = speckled()
    assert np.array_equal(painted(runs_of_masks(masks), masks.shape), masks)


def test_kept_lengths_give_the_same_runs():
    masks = speckled()
    direct, kept = runs_of_masks(masks), runs_of_lengths(*lengths_of(masks), masks.shape[2])
    for name in ("owner", "row", "start", "stop"):
        np.testing.assert_array_equal(getattr(direct, name), getattr(kept, name))


def test_candidates_and_their_compact_form_have_the_same_runs():
    logits = torch.where(torch.from_numpy(speckled(7, 256)), 3.0, -3.0)
    candidates = Candidates(logits, torch.ones(7), FRAME)
    small = compact(IndexedImage(candidates, torch.rand(7, 4), torch.rand(4, 4, 4))).candidates
    for name in ("owner", "row", "start", "stop"):
        np.testing.assert_array_equal(getattr(candidates.mask_runs, name), getattr(small.mask_runs, name))


@pytest.mark.parametrize("share", [None, 0.1, 0.3, 0.6])
def test_components_are_those_of_a_plain_flood_fill(share):
    masks = speckled() if share is None else np.random.default_rng(3).random((9, 40, 64)) < share
    runs = runs_of_masks(masks)
    found = components(runs)
    for k, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        mine = np.flatnonzero(runs.owner == k)
        expected = labels[runs.row[mine], runs.start[mine]]
        assert len(set(found[mine].tolist())) == count
        assert len(set(zip(found[mine].tolist(), expected.tolist(), strict=True))) == count


@pytest.mark.parametrize("share", [0.02, 0.1, 1.0])
def test_islands_are_the_small_components(share):
    masks = speckled()
    runs = runs_of_masks(masks)
    kept = painted(runs.select(~are_small_regions(runs, share)), masks.shape)
    for mask, left in zip(masks, kept, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        large = 1 + np.flatnonzero(areas >= share * areas.max()) if count else []
        np.testing.assert_array_equal(left, np.isin(labels, large))


def test_boxes_are_the_extents():
    masks = speckled()
    boxes = runs_of_masks(masks).boxes(len(masks))
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0, 0, 0, 0]
        np.testing.assert_array_equal(box, expected)


@pytest.mark.parametrize("form", ["logits", "compact"])
def test_masks_without_islands_at_image_size(form):
    logits = torch.full((2, 256, 256), -4.0)
    logits[:, 40:140, 40:140] = 4.0
    logits[1, 200:206, 220:226] = 4.0  # far away and small
    candidates = Candidates(logits, torch.ones(2), FRAME)
    source = candidates
    if form == "compact":
        source = compact(IndexedImage(candidates, torch.rand(2, 4), torch.rand(4, 4, 4))).candidates
    cleaned = WithoutSmallRegions(source, source.mask_runs, 0.1)
    np.testing.assert_array_equal(cleaned.boxes[0], cleaned.boxes[1])
    whole, freed = (crop[2] for crop in cleaned.crops([0, 1]))
    assert (freed > 0).sum() == (whole > 0).sum() == 100 * 100
    assert (logits[1] > 0).sum() == 100 * 100 + 36, "the candidates themselves are left alone"
