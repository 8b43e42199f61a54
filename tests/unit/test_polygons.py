"""Polygons of masks: drawn again they are the mask, and their bridges are as short as can be."""

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from support import oracles

from fiftyone_ntt.pixels import compiled, polygons
from fiftyone_ntt.pixels.polygons import one_polygon, polygons_of, rings_of


@pytest.fixture
def by_numpy(monkeypatch):
    """Calling it leaves numpy alone; before that there are compiled loops."""
    assert compiled.loops() is not None, "numba is a dependency: these tests are about it"
    return lambda: monkeypatch.setattr(compiled, "_loaded", [None])


def ragged(count, most=14, seed=0):
    """Masks of noise, sparse to full: many parts and holes that touch in corners, or in nothing."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield random.random(random.integers(1, most, 2)) < random.choice([0.05, 0.2, 0.5, 0.8, 0.95, 1])


def shapes():
    """What noise does not have: long edges, rings in rings, many holes in a large part, equally near ones."""
    board = np.zeros((60, 90), bool)
    board[3:57, 4:86] = True
    board[6:50:4, 7:80:4] = board[20:30, 30:70] = False
    board[23:27, 40:60] = True
    bars = np.zeros((40, 70), bool)
    bars[::3] = bars[:, 50] = True
    dots = np.zeros((40, 40), bool)
    dots[::5, ::5] = True
    noise = np.random.default_rng(3).random((50, 70)) < 0.7
    return [board, ~board, bars, dots, noise, np.eye(30, dtype=bool), np.zeros((4, 5), bool)]


def everything(mask):
    """Rings and polygons of a mask, by name."""
    for inset in (0.0, 0.02):
        rings = rings_of(mask, inset)
        yield f"parts {inset}", np.array([ring.part for ring in rings])
        yield from ((f"ring {i} {inset}", ring.points) for i, ring in enumerate(rings))
        if rings:
            yield f"one {inset}", one_polygon(rings)
            yield from ((f"polygon {i} {inset}", points) for i, points in enumerate(polygons_of(rings)))


def test_compiled_rings_and_bridges_are_those_of_numpy(by_numpy, monkeypatch):
    monkeypatch.setattr(polygons, "_PAIRS", 500)  # so that numpy works out some corners of a ring at a time
    masks = [*shapes(), *ragged(250)]
    loops = [dict(everything(mask)) for mask in masks]
    by_numpy()
    plain = [dict(everything(mask)) for mask in masks]
    assert sum(map(len, plain)) > 3000 and [each.keys() for each in loops] == [each.keys() for each in plain]
    assert not [
        (i, name)
        for i, arrays in enumerate(plain)
        for name, array in arrays.items()
        if array.dtype != loops[i][name].dtype or array.tobytes() != loops[i][name].tobytes()
    ]


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("inset", [0.0, 0.02])
def test_bridges_are_the_shortest(compile, inset, by_numpy):
    if not compile:
        by_numpy()
    bridges = 0
    for mask in ragged(150, most=12, seed=1):
        rings = [ring.points for ring in rings_of(mask, inset)]
        if len(rings) > 1:
            first = np.cumsum([0, *map(len, rings)])
            expected = oracles.bridges(rings)
            assert polygons._bridges(np.concatenate(rings), first).tolist() == expected
            bridges += len(expected)
    assert bridges > 200


@pytest.mark.parametrize("compile", [True, False])
def test_polygons_drawn_again_are_the_mask(compile, by_numpy):
    if not compile:
        by_numpy()
    for mask in [*shapes()[:4], *ragged(150, seed=2)]:
        height, width = mask.shape
        parts = [part.ravel().tolist() for part in polygons_of(rings_of(mask))]
        drawn = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(parts, height, width))) if parts else 0 * mask
        assert (drawn == mask).all()
