"""What the candidate cache keeps of an image, against the full-precision candidates."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fiftyone_ntt.candidates.compact import CompactTokens, _compact_bits, _compact_on_device, reduced_tokens
from fiftyone_ntt.core import Candidates, CompactImage, ImageFrame, IndexedImage, MatchConfig, compact, match_vectors
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models.devices import _together, fetched
from fiftyone_ntt.pixels.frames import outline_radius
from fiftyone_ntt.pixels.outlines import _BORDERS, LEVELS, codes_of, to_codes
from fiftyone_ntt.pixels.packed_masks import masks_at_image_size

SIZES = [(480, 640), (256, 256), (900, 333), (64, 100), (30, 2000)]


def candidates_of(size, n=20, seed=0, frame=ImageFrame.squash):
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 9, 9, generator=random) - torch.linspace(-1, 2, n)[:, None, None, None]
    logits = 8 * F.interpolate(coarse, size=(256, 256), mode="bicubic")[:, 0]
    return Candidates(logits, torch.rand(n, generator=random) * 0.5 + 0.5, frame(size))


def indexed_of(candidates, channels=48, grid=(7, 7), seed=1):
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(candidates), channels, generator=random)
    return IndexedImage(candidates, vectors, torch.randn(*grid, channels, generator=random))


@pytest.mark.parametrize("make", [ImageFrame.squash, ImageFrame.letterbox])
@pytest.mark.parametrize("size", SIZES)
def test_masks_at_image_size_hardly_change(size, make):
    candidates = candidates_of(size, frame=make)
    kept = compact(indexed_of(candidates)).candidates
    every = range(len(candidates))
    changed = outline = 0
    for full, small in zip(masks_at_image_size(candidates, every), masks_at_image_size(kept, every), strict=True):
        difference = full.full(size) ^ small.full(size)
        changed += int(difference.sum())
        outline += sum(int((full.full(size)[a] != full.full(size)[b]).sum()) for a, b in _neighbours())
    enlarged = max(size[axis] / candidates.frame.mask_content[axis] for axis in (0, 1))
    assert changed <= 0.05 * max(enlarged, 1) * outline + 2  # some hundredths of a mask pixel


def _neighbours():
    return [(np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])]


@pytest.mark.parametrize("size", SIZES)
def test_signs_are_exact_and_what_is_cut_away_is_negative(size):
    candidates = candidates_of(size, n=70)
    kept = compact(indexed_of(candidates)).candidates
    order = list(range(69, -1, -1))
    for i, (top, left, logits) in zip(order, kept.crops(order), strict=True):
        whole = np.full((256, 256), -1.0)
        whole[top : top + logits.shape[0], left : left + logits.shape[1]] = logits
        assert np.array_equal(whole > 0, (candidates.mask_logits[i] > 0).numpy())


def test_odd_masks():
    """Empty, full, a single pixel in each corner, tiny and huge logits: none is lost, none is made up."""
    logits = torch.full((7, 256, 256), -5.0)
    logits[1] = 1e30
    logits[2, 0, 0] = logits[3, 255, 255] = 1e-30
    logits[4, 0, 255] = float("inf")
    logits[5, 255, 0] = 3.0
    logits[6, 100] = 0.0  # exactly zero is not inside
    candidates = Candidates(logits, torch.ones(7), ImageFrame.squash((256, 256)))
    kept = compact(indexed_of(candidates)).candidates
    assert np.array_equal(kept.boxes, candidates.boxes)
    areas = [mask.area for mask in masks_at_image_size(kept, range(7))]
    assert areas == [mask.area for mask in masks_at_image_size(candidates, range(7))] == [0, 65536, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_packed_bits_give_what_torch_gives(radius):
    """On a CPU masks are reduced as packed bits, on a device by torch: the same file, to the bit."""
    logits = candidates_of((480, 640), n=20).mask_logits
    logits += 3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))  # ragged
    logits[0], logits[1], logits[2], logits[3] = -5, 5, -5, 0
    logits[2, 255, 255] = logits[2, 0, 0] = logits[3, 100, 63:65] = 1e-30
    logits[4] = float("nan")
    bits, plain = _compact_bits(logits, radius), _compact_on_device(logits, radius)
    assert bits.keys() == plain.keys()
    for name, array in plain.items():
        assert bits[name].dtype == array.dtype and torch.equal(bits[name], array), name


def by_logarithm(values):
    """The nearest of the sixteen levels on a logarithmic scale, in float64."""
    magnitudes = np.abs(values.astype(np.float64)).clip(LEVELS[0], LEVELS[-1])
    return np.log(magnitudes / LEVELS[0]) / np.log(float(LEVELS[1]) / float(LEVELS[0]))


def test_codes_are_the_nearest_levels():
    """Borders are written out: but for rounding they are where the logarithm is half-way."""
    random = np.random.default_rng(0)
    values = random.integers(0, 1 << 32, 1 << 20, np.uint32).view(np.float32)
    values = np.concatenate([values[~np.isnan(values)], 9 * LEVELS - 1])
    off = by_logarithm(values) - to_codes(torch.from_numpy(values)).numpy()
    assert np.abs(off).max() < 0.5 + 1e-5


def test_codes_from_the_table_are_those_of_the_borders():
    """Also right at a border, and of what is no number."""
    random = np.random.default_rng(0)
    odd = np.array([0.0, np.nan, np.inf, 1e-30, 1e30], np.float32)
    values = np.concatenate([random.integers(0, 1 << 32, 1 << 20, np.uint32).view(np.float32), odd])
    values = np.concatenate([values, _BORDERS, np.nextafter(_BORDERS, np.float32(0)), -_BORDERS, -values])
    codes = codes_of(values)
    assert np.array_equal(codes, to_codes(torch.from_numpy(values)).numpy())
    assert set(codes.tolist()) == set(range(16))


def test_the_outline_is_as_wide_as_the_resize_can_see():
    assert outline_radius(ImageFrame.squash((480, 640))) == 1
    assert outline_radius(ImageFrame.squash((128, 640))) == 4


def test_arrays_there_and_back_give_the_same_match():
    candidates = candidates_of((480, 640), n=60)
    kept = compact(indexed_of(candidates))
    back = CompactImage.from_arrays(kept.to_arrays())
    prototypes = torch.randn(3, 48, generator=torch.Generator().manual_seed(5))
    first, second = (match_vectors(image.candidates, image.vectors, prototypes) for image in (kept, back))
    assert len(first) > 3
    for name in ("boxes", "scores", "labels", "predicted_iou", "masks"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_match_agrees_with_the_full_precision_one():
    candidates = candidates_of((480, 640))
    indexed = indexed_of(candidates)
    kept = compact(indexed)
    prototypes = torch.randn(3, 48, generator=torch.Generator().manual_seed(5))
    for config in (MatchConfig(), MatchConfig.paper()):
        full = match_vectors(candidates, indexed.vectors, prototypes, config)
        small = match_vectors(kept.candidates, kept.vectors, prototypes, config)
        assert np.array_equal(full.labels, small.labels)
        assert np.allclose(full.scores, small.scores, atol=2e-3)
        assert (full.masks ^ small.masks).mean() < 1e-3


@pytest.mark.parametrize("size", [(20, 30), (480, 640)])
def test_no_candidate_at_all(size):
    candidates = Candidates(torch.zeros(0, 256, 256), torch.zeros(0), ImageFrame.squash(size))
    kept = CompactImage.from_arrays(compact(indexed_of(candidates)).to_arrays())
    assert len(match_vectors(kept.candidates, kept.vectors, torch.ones(2, 48))) == 0


def test_an_empty_mask_keeps_its_place():
    candidates = candidates_of((480, 640), n=3)
    candidates.mask_logits[1] = -1
    indexed = indexed_of(candidates)
    indexed.vectors[1] = float("nan")
    kept = compact(indexed)
    assert np.isnan(kept.vectors[1]).all() and np.isfinite(kept.vectors[[0, 2]]).all()
    assert len(match_vectors(kept.candidates, kept.vectors, torch.ones(1, 48), MatchConfig())) <= 2


def test_stability_is_the_share_of_the_mask_that_is_sure():
    logits = torch.full((1, 256, 256), -9.0)
    logits[0, :10, :10] = 0.5
    logits[0, :10, :5] = 2.0
    kept = compact(indexed_of(Candidates(logits, torch.ones(1), ImageFrame.squash((480, 640)))))
    assert kept.candidates.stability.tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("runs", lambda a: a[:-1]),
        ("outline_ends", lambda a: a[::-1].copy()),
        ("vectors", lambda a: a[:, :-1]),
        ("vectors", lambda a: a.astype(np.float32)),
        ("predicted_iou", lambda a: a[1:]),
        ("token_weights", lambda a: a[1:]),
        ("image_size", lambda a: a[:1]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, damage):
    arrays = compact(indexed_of(candidates_of((480, 640)))).to_arrays()
    with pytest.raises(InputError):
        CompactImage.from_arrays({**arrays, name: damage(arrays[name])})
    del arrays[name]
    with pytest.raises(InputError):
        CompactImage.from_arrays(arrays)


@pytest.mark.parametrize(
    ("name", "damage"), [("boxes", lambda a: a // np.uint8(2)), ("runs", lambda a: a + np.uint16(9000))]
)
def test_masks_that_do_not_fit_are_refused(name, damage):
    arrays = compact(indexed_of(candidates_of((480, 640)))).to_arrays()
    with pytest.raises(InputError, match="index.*image"):
        CompactImage.from_arrays({**arrays, name: damage(arrays[name])})


def compact_tokens(tokens):
    return CompactTokens.from_arrays(fetched(reduced_tokens(tokens)))


def test_tokens_of_low_rank_come_back_almost_as_they_were():
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(37 * 37, 40, generator=random) @ torch.randn(40, 256, generator=random) + 3
    tokens = tokens.reshape(37, 37, 256)
    kept = compact_tokens(tokens)
    error = torch.from_numpy(kept.full()) - tokens
    assert kept.full().shape == (37, 37, 256)
    assert error.norm() / tokens.norm() < 0.01
    assert np.array_equal(kept.full(), compact_tokens(tokens).full())


def test_few_tokens_keep_all_their_directions():
    tokens = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert np.allclose(compact_tokens(tokens).full(), tokens, atol=0.05)


def test_tensors_of_a_device_come_in_one_row_of_bytes():
    """Odd sizes of every kind, so that one that begins at a wrong place would be seen, and empty ones."""
    random = torch.Generator().manual_seed(0)
    tensors = {
        "bytes": torch.randint(0, 200, (3, 7), generator=random).to(torch.uint8),
        "halves": torch.rand(5, generator=random).half(),
        "none": torch.zeros(0, 4),
        "floats": torch.rand(3, 1, generator=random),
        "numbers": torch.randint(0, 1 << 40, (3,), generator=random),
        "every second": torch.arange(9, dtype=torch.int16)[::2],
    }
    arrays = _together(tensors)
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        array = arrays[name]
        assert array.dtype == tensor.numpy().dtype and np.array_equal(array, tensor.numpy()), name
        assert array.flags.aligned, name
