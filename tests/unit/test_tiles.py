"""Large images in tiles: each object once and whole, wherever the tiles lie, and from the cache without a model."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from support.blob_models import BLUE, blob_bank, blob_segmenter, blobs

from fiftyone_ntt.candidates import tiles as subject
from fiftyone_ntt.candidates.stream import stream
from fiftyone_ntt.candidates.tiles import TiledItem, is_tiled, tile_grid, tiles_of, window_of
from fiftyone_ntt.core import Matcher, compact
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.options.referring import ReferringMatcher
from fiftyone_ntt.method.options.tiled import TiledImage, match_image
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.pixels.images import image_size
from fiftyone_ntt.pixels.regions import Tile
from fiftyone_ntt.references.label_kinds import LabelledObject
from fiftyone_ntt.references.reader import ReferenceSample
from fiftyone_ntt.references.reference_items import items_of


class Cache(dict):
    """What a tile of an item is kept under, and what was asked for."""

    def item(self, path, tiles):
        digests = [f"{path} {tile.box} {tile.shrink}" for tile in tiles]
        return TiledItem(str(path), tiles, digests, True, self.get, self.__setitem__, lambda notes: None, self.tell)

    def tell(self, from_index):
        self.told = from_index


def found(path, side=1024, largest=None, cache=None, segmenter=None):
    """What is found in an image file: its instances, and the outcome of the stream."""
    cache = Cache() if cache is None else cache
    tiles = tile_grid(image_size(path), largest, side)
    segmenter = segmenter or blob_segmenter()
    matcher = Matcher(blob_bank(segmenter))
    items = [("image", lambda: cache.item(path, tiles))]
    (outcome,) = stream([segmenter], items, lambda key, content: match_image(matcher, content), finishers=2)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def saved(folder, pixels):
    path = folder / "image.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    return path


def places(instances):
    """Centre and diameter of each instance."""
    boxes = instances.boxes
    return np.column_stack([boxes[:, :2] + boxes[:, 2:], (boxes[:, 2:] - boxes[:, :2]).sum(axis=1)]) / 2


def farthest(rows, others):
    """The largest distance of any of the places to the nearest of the others, both ways."""
    apart = np.abs(rows[:, None] - others[None]).max(axis=2)
    return max(apart.min(axis=0).max(), apart.min(axis=1).max())


def strewn(size, count, radius, seed=0, gap=20):
    """Discs that do not touch each other or the border."""
    random, discs = np.random.default_rng(seed), []
    while len(discs) < count:
        r = random.uniform(*radius)
        x, y = random.uniform(r + gap, size[1] - r - gap), random.uniform(r + gap, size[0] - r - gap)
        if all(np.hypot(x - u, y - v) > r + s + gap for u, v, s in discs):
            discs.append((x, y, r))
    return discs


def true_places(discs):
    return np.array([(x, y, 2 * r) for x, y, r in discs])


@pytest.mark.parametrize(
    ("size", "off", "auto", "on"),
    [
        ((1024, 1024), 0, 0, 0),
        ((900, 1500), 0, 0, 1),
        ((3000, 4000), 0, 0, 1),
        ((480, 7680), 0, 1, 1),
        ((500, 2047), 0, 0, 1),
        ((7000, 6500), 0, 1, 1),
    ],
)
def test_which_images_are_tiled(size, off, auto, on):
    assert [is_tiled(size, mode) for mode in ("off", "auto", "on")] == [bool(off), bool(auto), bool(on)]


@pytest.mark.parametrize("size", [(1025, 1025), (480, 7680), (3000, 4000), (20_000, 20_000), (9000, 700)])
@pytest.mark.parametrize("largest", [None, 100, 700])
def test_every_small_object_is_whole_in_a_tile(size, largest):
    tiles = tile_grid(size, largest)
    assert len({(tile.box, tile.shrink) for tile in tiles}) == len(tiles)
    assert tiles[0].is_whole == (size[0] * size[1] <= 1 << 26)
    finest = [tile for tile in tiles if tile.shrink == 1 and not tile.is_whole]
    random, reach = np.random.default_rng(0), min(tile.size[0] for tile in finest) // 5
    for _ in range(300):
        x, y = random.integers(0, size[1] - reach), random.integers(0, size[0] - reach)
        extent = (int(x), int(y), int(x) + reach, int(y) + reach)
        seen = [
            t for t in finest
            if t.box[0] <= x and t.box[1] <= y and t.box[2] >= extent[2] and t.box[3] >= extent[3]
            and not t.cuts(extent)
        ]  # fmt: skip
        assert seen, extent
    for tile in tiles:
        assert 0 <= tile.box[0] < tile.box[2] <= size[1] and 0 <= tile.box[1] < tile.box[3] <= size[0]
        assert max(tile.shown_size) <= 1024 or tile.is_whole


def test_largest_object_leaves_coarse_levels_out():
    levels = {largest: {tile.shrink for tile in tile_grid((12_000, 12_000), largest)} for largest in (None, 200, 900)}
    assert levels == {None: {1, 2, 4, 8}, 200: {1}, 900: {1, 2}}


def test_small_objects_of_a_panorama_are_found(tmp_path):
    """A grid over the whole image misses most: that is what tiles are for."""
    discs = strewn((500, 6000), 60, (12, 25))
    path = saved(tmp_path, blobs((500, 6000), discs))
    segmenter = blob_segmenter()
    untiled = segmenter.segment(np.asarray(Image.open(path)), blob_bank(segmenter))
    assert len(untiled) < 30
    instances = found(path)
    assert len(instances) == 60
    assert farthest(places(instances), true_places(discs)) < 3


def test_a_crop_by_137_pixels_has_the_same_objects(tmp_path):
    discs = strewn((1500, 2600), 60, (25, 60))
    pixels = blobs((1500, 2600), discs)
    first = places(found(saved(tmp_path, pixels)))
    second = places(found(saved(tmp_path, pixels[137:, 137:])))
    second[:, :2] += 137
    inner = [rows[(rows[:, :2] > 137 + 130).all(axis=1)] for rows in (first, second)]
    assert len(inner[0]) == len(inner[1]) > 30
    assert farthest(*inner) <= 1


@pytest.mark.parametrize("radius", [30, 90, 200])
@pytest.mark.parametrize("place", ["seam", "corner"])
def test_an_object_on_a_border_of_tiles_is_one(tmp_path, radius, place):
    """Also one that is larger than the overlap, which no tile of the finest level sees whole."""
    size = (2048, 2048)
    finest = [tile for tile in tile_grid(size) if tile.shrink == 1 and not tile.is_whole]
    x, y = finest[0].box[2], finest[0].box[3] if place == "corner" else 500
    instances = found(saved(tmp_path, blobs(size, [(x, y, radius)])))
    assert len(instances) == 1
    assert np.abs(places(instances)[0] - (x, y, 2 * radius)).max() < 6
    truth = blobs(size, [(x, y, radius)]).max(axis=2) > 0
    assert (instances.mask(0) & truth).sum() / (instances.mask(0) | truth).sum() > 0.95


@pytest.mark.parametrize("largest", [None, 250])
def test_an_object_larger_than_a_tile_is_one(tmp_path, largest):
    """Whole in a coarser level; or, where these are left out, joined along all of its seams."""
    discs = [(1500, 1400, 800), (300, 300, 60)]
    path = saved(tmp_path, blobs((2900, 3000), discs))
    instances = found(path, largest=largest, segmenter=blob_segmenter(16))
    assert len(instances) == 2
    assert farthest(places(instances), true_places(discs)) < 30


def test_pieces_are_joined_where_nothing_sees_the_whole():
    segmenter = blob_segmenter(8)
    pixels = blobs((2900, 3000), [(1500, 1400, 700)])
    tiles = tuple(tile for tile in tile_grid(pixels.shape[:2]) if tile.shrink == 1 and not tile.is_whole)
    parts = []
    for tile in tiles:
        x1, y1, x2, y2 = tile.box
        parts.append(compact(segmenter.candidates(pixels[y1:y2, x1:x2])))
    instances = match_image(Matcher(blob_bank(segmenter)), TiledImage(pixels.shape[:2], tiles, tuple(parts)))
    assert len(instances) == 1
    assert np.abs(places(instances)[0] - (1500, 1400, 1400)).max() < 10


def test_neighbours_of_two_classes_stay_two(tmp_path):
    """Along a seam nothing is joined that is not one object."""
    pixels = np.maximum(blobs((1500, 2000), [(950, 700, 150)]), blobs((1500, 2000), [(1260, 700, 150)], BLUE))
    instances = found(saved(tmp_path, pixels))
    assert sorted(instances.labels.tolist()) == [0, 1]


def test_two_sides_of_tiles_give_equal_counts(tmp_path):
    discs = strewn((1800, 2500), 60, (25, 80), seed=3)
    path = saved(tmp_path, blobs((1800, 2500), discs))
    counts = [len(found(path, side=side)) for side in (1024, 768)]
    assert counts == [60, 60]


def test_what_is_in_the_cache_needs_no_model(tmp_path):
    path, cache = saved(tmp_path, blobs((700, 2500), strewn((700, 2500), 20, (12, 40)))), Cache()
    first = found(path, cache=cache)
    assert not cache.told and len(cache) == len(tile_grid((700, 2500)))
    path.unlink()  # nor the file
    matcher = Matcher(blob_bank(blob_segmenter()))
    items = [("image", lambda: cache.item(path, tile_grid((700, 2500))))]
    refused = pytest.fail
    (outcome,) = stream(lambda: refused("a model"), items, lambda key, content: match_image(matcher, content))
    assert outcome.from_index and cache.told
    assert np.array_equal(outcome.value.boxes, first.boxes) and np.array_equal(outcome.value.scores, first.scores)
    assert [mask.area for mask in outcome.value.packed] == [mask.area for mask in first.packed]


def test_an_unreadable_tile_is_its_image_s_error(tmp_path, monkeypatch):
    path, cache = saved(tmp_path, blobs((700, 2500), [(500, 300, 30)])), Cache()
    plain = blobs((300, 300), [(150, 150, 40)])

    class Reader:
        size, notes = (700, 2500), ()
        reads = 0

        def read(self, box, out_size):
            Reader.reads += 1
            if Reader.reads == 3:
                raise InputError("a part of it is damaged")
            return np.zeros((*out_size, 3), np.uint8)

    class Opened:
        def __init__(self, *_args, **_options): ...
        def __enter__(self):
            return Reader()

        def __exit__(self, *_args): ...

    monkeypatch.setattr(subject, "open_regions", Opened)
    before = threading.active_count()
    items = [("large", lambda: cache.item(path, tile_grid((700, 2500)))), ("small", lambda: plain)]
    outcomes = list(stream([blob_segmenter()], items, lambda key, content: content))
    assert {outcome.key: str(outcome.error or "") for outcome in outcomes} == {
        "large": "a part of it is damaged", "small": "",
    }  # fmt: skip
    assert threading.active_count() <= before, "whoever read for it has ended"


def test_the_best_match_of_a_reference_is_one_of_all_tiles(tmp_path):
    pixels = blobs((700, 3000), [(300, 300, 40), (2500, 300, 60)])
    pixels = np.maximum(pixels, blobs((700, 3000), [(1400, 400, 50)], BLUE))
    path, segmenter, cache = saved(tmp_path, pixels), blob_segmenter(), Cache()
    matcher = ReferringMatcher(blob_bank(segmenter))
    items = [("image", lambda: cache.item(path, tile_grid((700, 3000))))]
    (outcome,) = stream([segmenter], items, lambda key, content: match_image(matcher, content))
    assert outcome.error is None
    assert sorted(outcome.value.labels.tolist()) == [0, 1]


def test_window_shows_a_reference_as_tiles_show_objects():
    size = (6000, 8000)
    assert window_of((10, 10, 40, 50), size) == (0, 0, 1024, 1024)
    left, top, right, bottom = window_of((4000, 3000, 4900, 3500), size)
    assert (right - left, bottom - top) == (2048, 2048) and left < 4000 < 4900 < right and top < 3000 < 3500 < bottom


def test_tiles_that_lie_elsewhere_are_refused(tmp_path):
    """A file that changed, or whose header says another size: nothing of it must get into the cache."""
    path, cache = saved(tmp_path, blobs((700, 2500), [(500, 300, 30)])), Cache()
    item = cache.item(path, tile_grid((2500, 700)))
    with pytest.raises(InputError, match=r"expected 700 x 2500 pixels .*, got 2500 x 700"):
        list(item.contents())


def test_a_pipe_has_no_tiles(tmp_path):
    """Whoever opened it would wait for ever."""
    os.mkfifo(tmp_path / "image.png")
    assert image_size(tmp_path / "image.png") is None
    assert tiles_of(tmp_path / "image.png", StageOneSettings(large_images="auto")) == []


def test_an_ordinary_png_is_not_decoded_to_know_its_tiles(tmp_path, monkeypatch):
    path = saved(tmp_path, blobs((300, 600), []))
    turned = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(blobs((500, 6500), [])).save(turned, exif=exif)
    monkeypatch.setattr(PngImageFile, "load", lambda *_: pytest.fail("decoded"))
    assert tiles_of(path, StageOneSettings(large_images="auto")) == []
    assert tiles_of(turned, StageOneSettings(large_images="auto"))[0].image_size == (6500, 500)
    assert tiles_of(turned, StageOneSettings(large_images="auto"), upright=False)[0].image_size == (500, 6500)


def test_a_reference_in_a_strip_is_seen_whole():
    assert window_of((3000, 20, 3900, 460), (480, 7680)) == (0, 0, 7680, 480)  # no tile there is so wide


@pytest.mark.parametrize(("size", "most"), [((64, 100_000), 400), ((10, 20_000), 80), ((20_000, 10), 80)])
def test_a_thin_strip_has_few_tiles(size, most):
    assert len(tile_grid(size)) < most


def test_the_same_joined_at_two_levels_is_one():
    """Of an object whose two halves two levels see, each level joins its own."""
    size = (2000, 4000)
    tiles, parts = [], []
    segmenter = blob_segmenter(16)
    pixels = blobs(size, [(2000, 1000, 600)])
    for shrink, edges in ((1, (1900, 2100)), (2, (1850, 2150))):
        for x1, x2 in ((0, edges[1]), (edges[0], size[1])):
            tiles.append(Tile((x1, 0, x2, size[0]), size, shrink))
            parts.append(compact(segmenter.candidates(pixels[::shrink, x1:x2:shrink])))
    instances = match_image(Matcher(blob_bank(segmenter)), TiledImage(size, tuple(tiles), tuple(parts)))
    assert len(instances) == 1
    assert np.abs(places(instances)[0] - (2000, 1000, 1200)).max() < 10


def test_references_of_a_large_image_do_not_hold_it():
    image, mask = blobs((1500, 9000), [(4000, 700, 50)]), np.zeros((1500, 9000), bool)
    mask[650:750, 3950:4050] = True
    objects = [
        LabelledObject("disc", "1", "mask", mask, box=(3950.0, 650.0, 4050.0, 750.0)),
        LabelledObject("disc", "2", "box", box=(3950.0, 650.0, 4050.0, 750.0)),
    ]
    sample = ReferenceSample("sample", image, objects)
    segmenter = blob_segmenter()
    drawn, made = items_of(sample, segmenter, None, True)
    for item in (drawn, made):
        assert item.image.base is None and item.mask.base is None
        assert item.image.shape[:2] == item.mask.shape == (1024, 1024)
        x1, y1, x2, y2 = (round(value) for value in item.box)
        assert item.mask[y1:y2, x1:x2].mean() > 0.7 and item.mask.sum() == item.mask[y1:y2, x1:x2].sum()
        assert item.image[(y1 + y2) // 2, (x1 + x2) // 2].any()
    for whole in items_of(sample, segmenter, None, False):
        assert whole.image is image and whole.mask.shape == image.shape[:2]
