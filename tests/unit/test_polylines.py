"""What closed and open lines of references become: the pixels that they enclose, or what of them lies in the image."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest

from fiftyone_ntt.dataset.geometry import line_inside
from fiftyone_ntt.errors import BadReferenceError
from fiftyone_ntt.pixels.drawing import fill_polygon
from fiftyone_ntt.references.label_kinds import objects_in

SIZE = (60, 80)


def square(x, y, side, height=None):
    below = y + (side if height is None else height)
    return [(x, y), (x + side, y), (x + side, below), (x, below)]


FILLS = {  # rings -> pixels
    "2 px": ([square(10, 10, 2)], 4),
    "4 px": ([square(10, 10, 4)], 16),
    "20 px": ([square(10, 10, 20)], 400),
    "whole image": ([square(0, 0, 80, 60)], 4800),
    "half a pixel off": ([square(10.5, 10.5, 4)], 16),
    "other way round": ([square(10, 10, 4)[::-1]], 16),
    "closed twice": ([[*square(10, 10, 4), (10, 10)]], 16),
    "hole": ([square(8, 6, 64, 48), square(24, 18, 32, 24)], 2304),
    "island in a hole": ([square(0, 0, 30), square(5, 5, 20), square(10, 10, 4)], 900 - 400 + 16),
    "two parts": ([square(0, 0, 5), square(20, 20, 5)], 50),
    "one ring twice": ([square(0, 0, 5), square(0, 0, 5)], 25),
    "beyond all borders": ([square(-100, -100, 300)], 4800),
    "beyond one": ([square(-2, 10, 10)], 80),
    "one point": ([[(3.2, 4.1)]], 1),
    "in the last corner": ([[(80, 60)]], 1),
    "line": ([[(3, 4.5), (9, 4.5)]], 7),
    "sliver": ([square(10.6, 10, 0.3, 20)], 21),
    "speck in a pixel": ([square(10.6, 10.6, 0.3)], 1),
    "sliver beside a part": ([square(0, 0, 5), square(10.6, 10, 0.3, 20)], 25 + 21),
    "outside": ([square(90, 10, 5)], 0),
}


@pytest.mark.parametrize("what", FILLS)
def test_polygons_hold_their_pixels(what):
    rings, pixels = FILLS[what]
    assert fill_polygon([np.array(ring, float) for ring in rings], SIZE).sum() == pixels


def plainly(rings, size):
    """Counts, for each centre of a pixel, the edges to its left."""
    mask = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        x, y, crossings = column + 0.5, row + 0.5, 0
        for ring in rings:
            for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                crossings += (y1 <= y) != (y2 <= y) and x1 + (y - y1) / (y2 - y1) * (x2 - x1) <= x
        mask[row, column] = crossings % 2
    return mask


@pytest.mark.parametrize("seed", range(12))
def test_any_rings_are_filled_by_the_even_odd_rule(seed):
    random = np.random.default_rng(seed)
    rings = [random.uniform(-6, 30, (random.integers(3, 9), 2)) for _ in range(seed % 3 + 1)]
    if seed % 2:
        rings = [np.round(ring * 2) / 2 for ring in rings]  # corners and edges on centres
    expected = plainly(rings, (24, 20))
    assert expected.any() and (fill_polygon(rings, (24, 20)) == expected).all()


def test_a_mask_comes_back_from_its_polyline():
    """What FiftyOne makes of a mask with a hole, and what that was."""
    mask = np.ones((48, 64), bool)
    mask[12:36, 16:48] = False
    label = fo.Detection(label="a", bounding_box=[0.1, 0.1, 0.8, 0.8], mask=mask).to_polyline()
    (shown,) = objects_in(label, SIZE)
    expected = np.zeros(SIZE, bool)
    expected[6:54, 8:72] = mask
    assert len(label.points) == 2 and (shown.mask & expected).sum() / (shown.mask | expected).sum() > 0.9


def polyline(*points, **more):
    return fo.Polyline(label="fig", points=[list(points)], **more)


def corners(left, right, top=0.25, bottom=0.75):
    return (left, top), (right, top), (right, bottom), (left, bottom)


SHOWN = {  # label that leaves the image -> pixels of its mask, or its points on the object
    "a little": (polyline(*corners(-0.02, 0.5), closed=True), 40 * 30),
    "half": (polyline(*corners(-0.5, 0.5), filled=True), 40 * 30),
    "on all sides": (polyline(*corners(-1, 2, -1, 2), closed=True), 80 * 60),
    "line": (polyline((-0.5, 0.5), (0.5, 0.5)), [(4, 30), (12, 30), (20, 30), (28, 30), (36, 30)]),
    "line there and back": (
        polyline((0.25, 0.5), (1.5, 0.5), (1.5, 0.75), (0.25, 0.75)),
        [(35, 30), (65, 30), (65, 45), (35, 45)],
    ),
    "point": (fo.Keypoint(label="fig", points=[(0.5, 0.5), (1.1, 0.5)]), [(40, 30)]),
    "point, by a slip": (fo.Keypoint(label="fig", points=[(1.005, 0.5)]), [(80.4, 30)]),
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_leaves_the_image_is_cut_off(what):
    label, expected = SHOWN[what]
    (shown,) = objects_in(label, SIZE)
    if isinstance(expected, int):
        assert shown.mask.sum() == expected
    else:
        found = shown.prompt.on_object
        assert len(found) >= len(expected) and (found >= 0).all() and (found <= (81, 60)).all()
        assert np.allclose(found, expected, atol=0.01) or what == "line there and back"


REFUSED = {
    "polygon": (polyline(*corners(1.1, 1.5), closed=True), "polygon in the image.*outside"),
    "line": (polyline((1.1, 0.5), (1.5, 0.5)), "line in the image.*outside"),
    "point": (fo.Keypoint(label="fig", points=[(1.1, 0.5)]), "0 missing.*1 outside the image"),
    "polygon in pixels": (polyline((10, 20), (30, 20), (30, 40), closed=True), "not in pixels: divide"),
    "line in pixels": (polyline((10, 20), (30, 20)), "not in pixels: divide"),
    "point in pixels": (fo.Keypoint(label="fig", points=[(10, 20)]), "not in pixels: divide"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_lies_outside_is_refused_for_its_cause(what):
    label, text = REFUSED[what]
    with pytest.raises(BadReferenceError, match=text) as caught:
        list(objects_in(label, SIZE))
    assert ("pixels: divide" in str(caught.value)) == ("pixels" in what)


PIECES = {  # a line in 20 x 20 pixels -> its pieces there
    "inside": ([(1, 1), (2, 5)], [[(1, 1), (2, 5)]]),
    "one point": ([(1, 1)], [[(1, 1)]]),
    "in and out": ([(-5, 5), (5, 5), (5, 30)], [[(0, 5), (5, 5), (5, 20)]]),
    "out and in": ([(5, 5), (5, 30), (7, 30), (7, 5)], [[(5, 5), (5, 20)], [(7, 20), (7, 5)]]),
    "across": ([(-5, -5), (25, 25)], [[(0, 0), (20, 20)]]),
    "past": ([(-5, 5), (-5, 9)], []),
    "past a corner": ([(-5, 3), (3, -6)], []),
}


@pytest.mark.parametrize("what", PIECES)
def test_pieces_of_a_line_inside(what):
    line, pieces = PIECES[what]
    found = line_inside(np.array(line, float), (20, 20))
    assert [np.round(piece, 5).tolist() for piece in found] == [[list(p) for p in piece] for piece in pieces]
