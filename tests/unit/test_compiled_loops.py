"""Compiled loops give the bits that numpy gives; where there is no numba, or no folder for its cache, numpy does it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from torch.nn.functional import interpolate

from fiftyone_ntt.candidates.compact import CompactImage, compact
from fiftyone_ntt.core import Candidates, ImageFrame, IndexedImage, MatchConfig, Matcher
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.merging import CandidateMasks
from fiftyone_ntt.method.scoring import grown, token_weights
from fiftyone_ntt.pixels import compiled
from fiftyone_ntt.pixels.mask_codes import encode_crop
from fiftyone_ntt.pixels.packed_masks import masks_at_image_size

ROOT = Path(__file__).resolve().parents[2]
FRAMES = {
    "squashed": ImageFrame.squash((120, 160)),
    "enlarged much": ImageFrame.squash((480, 1300)),
    "padded": ImageFrame.letterbox((333, 517)),
    "as it is": ImageFrame.squash((256, 256)),
    "one axis shrunk": ImageFrame.squash((200, 700)),
}


def logits():
    """float32 [14, 256, 256]: smooth, ragged, noise, empty, full, nothing but zeros, single pixels, borders, huge."""
    random = torch.Generator().manual_seed(0)
    smooth = interpolate(torch.randn(4, 1, 6, 6, generator=random), size=256, mode="bicubic")[:, 0] * 3
    noise = torch.randn(4, 256, 256, generator=random)
    masks = torch.cat([smooth, smooth + 0.7 * noise, torch.full((6, 256, 256), -1.0)])
    masks[7] = 9 * noise[0]
    masks[9], masks[10] = 2, 0
    masks[11, 0, 0] = masks[11, 255, 255] = masks[11, 128, 63] = masks[11, 129, 64] = 5
    masks[12, :, 255] = masks[12, 255] = 0.3
    masks[13] = noise[1] * 1e4
    return masks


def image(frame):
    random = torch.Generator().manual_seed(1)
    masks = logits()
    candidates = Candidates(masks, torch.rand(len(masks), generator=random), frame)
    tokens = torch.randn(9, 13, 8, generator=random)
    return IndexedImage(candidates, torch.randn(len(masks), 8, generator=random), tokens)


def everything(frame):
    """All that depends on a compiled loop, by name."""
    found = image(frame)
    small = compact(found)
    count = len(small.candidates)
    yield from small.to_arrays().items()
    for form, result in (("compact", small), ("whole", found)):
        candidates = result.candidates
        runs = candidates.mask_runs
        yield from ((f"{form} {name}", getattr(runs, name)) for name in ("owner", "row", "start", "stop"))
        weights = token_weights(runs, count, frame, (9, 13))
        yield from ((f"{form} weights", weights), (f"{form} grown", grown(weights, 2)))
        for share in (0, 0.1, 0.8):
            masks = CandidateMasks.of(candidates, MatchConfig(island_share=share))
            yield f"{form} boxes {share}", masks.source.boxes
            for i, (top, left, values) in enumerate(masks.source.crops(range(count))):
                yield f"{form} crop {i} {share}", np.concatenate([[top, left], values.ravel()])
            for i, mask in enumerate(masks_at_image_size(masks.source, range(count))):
                yield f"{form} mask {i} {share}", mask.bits
                yield f"{form} place {i} {share}", np.array([mask.top, mask.left, *mask.extent, mask.area])
        instances = Matcher(torch.eye(8)[:3], MatchConfig()).match(result)
        yield from ((f"{form} {name}", getattr(instances, name)) for name in ("boxes", "scores", "labels"))


@pytest.fixture
def by_numpy(monkeypatch):
    """Calling it leaves numpy alone; before that there are compiled loops."""
    assert compiled.loops() is not None, "numba is a dependency: these tests are about it"
    return lambda: monkeypatch.setattr(compiled, "_loaded", [None])


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_loops_give_the_bits_of_numpy(frame, by_numpy):
    loops = dict(everything(frame))
    by_numpy()
    plain = dict(everything(frame))
    assert len(plain) > 200 and loops.keys() == plain.keys()
    different = [
        name
        for name, array in plain.items()
        if array.dtype != loops[name].dtype
        or array.shape != loops[name].shape
        or array.tobytes() != loops[name].tobytes()
    ]
    assert not different


@pytest.mark.parametrize("compile", [True, False])
def test_run_lengths_of_windows_are_those_of_pycocotools(compile, by_numpy):
    """Windows of every kind of place in small images, and one in an image of many pixels."""
    if not compile:
        by_numpy()
    random = np.random.default_rng(2)
    for _ in range(600):
        height, width = (int(side) for side in random.integers(1, 24, 2))
        rows = height if random.random() < 0.5 else int(random.integers(0, height + 1))
        columns = width if random.random() < 0.5 else int(random.integers(0, width + 1))
        top, left = int(random.integers(0, height - rows + 1)), int(random.integers(0, width - columns + 1))
        crop = random.random((rows, columns)) < random.choice([0, 0.1, 0.5, 0.9, 1])
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[top : top + rows, left : left + columns] = crop
        assert encode_crop(crop, left, top, (height, width)) == mask_utils.encode(whole)
    large = encode_crop(np.ones((3, 2), bool), 15_000, 9_000, (12_000, 20_000))
    assert mask_utils.area(large) == 6 and mask_utils.toBbox(large).tolist() == [15_000, 9_000, 2, 3]


def test_no_mask_at_all(by_numpy):
    frame = FRAMES["squashed"]
    none = IndexedImage(
        Candidates(torch.zeros(0, 256, 256), torch.zeros(0), frame), torch.zeros(0, 8), torch.ones(4, 4, 8)
    )
    for _ in range(2):
        assert len(Matcher(torch.eye(8)).match(CompactImage.from_arrays(compact(none).to_arrays()))) == 0
        by_numpy()


@pytest.mark.parametrize("damage", ["runs too long", "codes missing", "box too small"])
def test_damaged_masks_are_refused(damage, by_numpy):
    arrays = compact(image(FRAMES["squashed"])).to_arrays()
    if damage == "runs too long":
        arrays["runs"] = np.full_like(arrays["runs"], 60000)
    elif damage == "codes missing":
        arrays["outline"], arrays["outline_ends"] = (
            arrays["outline"][:-9],
            arrays["outline_ends"].clip(max=len(arrays["outline"]) - 9),
        )
    else:
        arrays["boxes"] = np.zeros_like(arrays["boxes"])
    for _ in range(2):
        damaged = CompactImage.from_arrays(arrays)
        with pytest.raises(InputError, match="do not belong together"):
            masks_at_image_size(damaged.candidates, range(len(damaged.candidates)))
        by_numpy()


def test_compiling_does_not_fill_a_debug_log():
    code = "import logging; logging.basicConfig(level=logging.DEBUG)\nfrom fiftyone_ntt.pixels import compiled"
    one = "compiled._load(); from numba import njit; njit('i8(i8)')(lambda x: x + 1)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{one}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert len(done.stderr.splitlines()) < 50


SAY = "from fiftyone_ntt.pixels.compiled import loops, why_none; print(loops() is not None, bool(why_none()))"


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        ("", "True False"),
        ("import sys; sys.modules['numba'] = None", "False True"),
        ("import os; os.environ['FIFTYONE_NTT_NO_COMPILE'] = '1'", "False True"),
        ("from numba.core.caching import CompileResultCacheImpl as c; c._locator_classes = []", "False True"),
    ],
    ids=["as installed", "no numba", "switched off", "no folder for a cache"],
)
def test_whether_loops_are_compiled(setup, expected):
    done = subprocess.run(
        [sys.executable, "-c", f"{setup}\n{SAY}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == expected
