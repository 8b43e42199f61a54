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
from fiftyone_ntt.pixels.outlines import LEVELS
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
    noise = np.asfortranarray(random.random((300, 203)) < 0.5)  # more runs than most masks have
    assert encode_crop(noise, 0, 0, noise.shape) == mask_utils.encode(noise.astype(np.uint8))
    large = encode_crop(np.ones((3, 2), bool), 15_000, 9_000, (12_000, 20_000))
    truth = np.array([[0, 2, 2], [2, 0, 255]], np.uint8)  # a stranger's bytes, taken for truth values as they are
    whole = np.asfortranarray(truth > 0, np.uint8)
    assert encode_crop(truth.view(bool), 0, 0, (2, 3)) == mask_utils.encode(whole)
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
        with pytest.raises(InputError, match="do not belong together"):
            damaged = CompactImage.from_arrays(arrays)
            masks_at_image_size(damaged.candidates, range(len(damaged.candidates)))
        by_numpy()


def with_an_island():
    """The arrays of one mask: columns 0 to 39 of 100 rows, and a pixel at column 45 of the last."""
    masks = torch.full((1, 256, 256), -1.0)
    masks[0, :100, :40] = masks[0, 99, 45] = 1
    candidates = Candidates(masks, torch.ones(1), FRAMES["enlarged much"])
    return compact(IndexedImage(candidates, torch.ones(1, 8), torch.ones(4, 4, 8))).to_arrays()


# Boxes that the mask leaves, and lengths behind its own that lead out of them.
BEYOND = {
    "sideways": {"boxes": np.array([[0, 0, 5, 99]], np.uint8)},
    "to the left": {"boxes": np.array([[44, 0, 45, 99]], np.uint8)},
    "below": {"boxes": np.array([[0, 0, 45, 90]], np.uint8)},
    "no number": {"boxes": np.array([[0, 0, np.nan, 99]])},
    "open end": [9],
    "out of the mask": [60000, 9],
    "nothing": [0, 9],
}


@pytest.mark.parametrize("name", BEYOND)
def test_masks_that_leave_their_box_are_refused(name, by_numpy):
    arrays = with_an_island()
    assert CompactImage.from_arrays(arrays).candidates.boxes.tolist() == [[0, 0, 45, 99]] and arrays["run_ends"] == 202
    damage = BEYOND[name]
    if isinstance(damage, list):
        damage = {"runs": np.append(arrays["runs"], np.uint16(damage)), "run_ends": arrays["run_ends"] + len(damage)}
    for _ in range(2):
        with pytest.raises(InputError, match="do not belong together"):
            CompactImage.from_arrays({**arrays, **damage})
        by_numpy()


@pytest.mark.parametrize("ends", [[2**63 - 1, -(2**63), -1, 202], [0, 203, 202, 202], [-5, 0, 1, 202]])
def test_ends_outside_of_the_runs_are_refused(ends):
    """The first rise by 1 and by 2^63 - 1 where numbers of 64 bits overflow."""
    arrays = with_an_island()
    four = {name: np.repeat(arrays[name], 4, axis=0) for name in ("predicted_iou", "stability", "boxes", "vectors")}
    four["outline_ends"] = np.repeat(arrays["outline_ends"], 4)
    with pytest.raises(InputError, match="run_ends to rise to 202"):
        CompactImage.from_arrays({**arrays, **four, "run_ends": np.array(ends)})


@pytest.mark.parametrize(("left", "last", "goes_on"), [(0, 5, False), (44, 45, False), (0, 45, True)])
def test_a_part_refuses_runs_that_leave_it(left, last, goes_on):
    """The loop itself, whatever was checked before: the codes are as many as it asks for, the runs are elsewhere."""
    arrays, read = with_an_island(), compiled.loops().bits.read_outlined
    lengths = arrays["runs"][:-1] if goes_on else arrays["runs"]
    found = []
    for many in range(1200):
        values = np.empty((101, last - left + 2), np.float32)
        found.append(read(lengths, np.zeros(many, np.uint8), LEVELS, 0, left, 1, values))
    assert not any(found)
    values = np.empty((101, 47), np.float32)
    assert read(arrays["runs"], arrays["outline"], LEVELS, 0, 0, 1, values) and (values[99, 44:47] > 0).sum() == 1


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
        ("import os; os.environ['NUMBA_DISABLE_JIT'] = '1'", "False True"),
        ("from numba.core.caching import CompileResultCacheImpl as c; c._locator_classes = []", "False True"),
    ],
    ids=["as installed", "no numba", "switched off", "numba switched off", "no folder for a cache"],
)
def test_whether_loops_are_compiled(setup, expected):
    done = subprocess.run(
        [sys.executable, "-c", f"{setup}\n{SAY}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == expected
