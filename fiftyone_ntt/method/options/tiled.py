"""Large images: each tile of an image is matched as an image of its own, and what was found is put together.

Ownership in place of merging: what a tile's border cuts loses to what another tile, or a coarser level, sees whole.
What remains of it is joined along the seam; what was found twice is kept once. Masks stay in the boxes of the objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.method.matcher import Matcher, to_instances
from fiftyone_ntt.method.merging import CandidateMasks, decay, soft_merge, suppress
from fiftyone_ntt.method.options.referring import ReferringMatcher
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.method.scoring import label
from fiftyone_ntt.pixels.packed_masks import PackedMask, intersection_over_union
from fiftyone_ntt.pixels.regions import MOST_WHOLE, Tile

OWNED, SAME_ALONG_SEAM, ALIKE = 0.5, 0.5, 0.8
"""Share of a cut mask that a whole one has to cover to own it; IoU of two cut masks where both tiles see; cosine."""
_FINER = 1.1
"""Of two levels that see the same, the finer one has the better mask: it wins unless its score is so much lower."""
_LEAST_SHARE = 0.05
"""Overlaps below this share of a mask change no score that anybody would notice."""


@dataclass(frozen=True, eq=False)
class TiledImage:
    """What stage one found in the tiles of an image, level by level; no tile depends on the references.

    Attributes:
        image_size: ``(height, width)`` of the image in pixels.
        tiles: where each part lies.
        parts: what stage one found in each, in the frame of the tile.
    """

    image_size: tuple[int, int]
    tiles: tuple[Tile, ...]
    parts: tuple[Any, ...]

    @property
    def finest(self) -> tuple[int, int]:
        """``(height, width)`` of the smallest tile in image pixels."""
        return min((tile.size for tile in self.tiles), key=max)

    def part_for(self, extent: tuple[int, int, int, int]) -> tuple[Tile, Any]:
        """The finest tile that sees all of an object of this extent, else the one that sees most of it."""

        def fitness(i: int) -> tuple[bool, float, float]:
            tile = self.tiles[i]
            (x1, y1, x2, y2), (u1, v1, u2, v2) = tile.box, extent
            seen = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
            whole = seen == (u2 - u1) * (v2 - v1) and not tile.cuts(extent)
            return whole, -float(np.prod(tile.size)) if whole else float(seen), -float(np.prod(tile.size))

        best = max(range(len(self.tiles)), key=fitness)
        return self.tiles[best], self.parts[best]


def match_image(matcher: Matcher | ReferringMatcher, content: Any) -> Instances:
    """What a matcher finds in an image, whether that came as one part or in tiles.

    Args:
        matcher: of a memory bank.
        content: a ``StageOneResult`` or a ``TiledImage``.
    """
    if not isinstance(content, TiledImage):
        return matcher.match(content)
    if isinstance(matcher, ReferringMatcher):
        return _best_of_each(matcher, content)
    tiles = zip(content.tiles, content.parts, strict=True)
    found = [item for number, (tile, part) in enumerate(tiles) for item in _found(matcher, number, tile, part)]
    return _instances(_put_together(found, content.tiles, matcher), content.image_size, matcher)


@dataclass(eq=False)
class _Found:
    """An instance that a tile shows.

    Attributes:
        tile: number of the tile; below zero, and no other's, of what was joined of several.
        side: the longest side of the tile in image pixels.
        mask: in image pixels.
        cut: whether a border of the tile cuts it.
        label: its class.
        score: after what the tile alone knows.
        feature: float32 ``[C]``, l2-normalised.
        facts: what else ``Instances`` tells: predicted IoU, similarity, runner-up and its similarity.
    """

    tile: int
    side: int
    mask: PackedMask
    cut: bool
    label: int
    score: float
    feature: NDArray[np.float32]
    facts: tuple[float, float, int, float]


def _in_tile(part: Any, tile: Tile) -> Any:
    """What was found in a tile, whose pixels are now those of the image, however small the models saw it."""
    if part.candidates.frame.image_size == tile.size:
        return part
    frame = replace(part.candidates.frame, image_size=tile.size)
    return replace(part, candidates=replace(part.candidates, frame=frame))


def _moved(mask: PackedMask, tile: Tile) -> PackedMask:
    """A mask of a tile's frame in that of the image."""
    x1, y1, _, _ = mask.extent
    return PackedMask.from_crop(mask.crop(), y1 + tile.box[1], x1 + tile.box[0])


def _found(matcher: Matcher, number: int, tile: Tile, part: Any) -> Iterator[_Found]:
    """The instances of one tile: the algorithm as in ``Matcher.match``, whose lines these are."""
    image, config = _in_tile(part, tile), matcher.config
    features, similarities = matcher.compare(image)  # [N, C], [N, K]
    labelled = label(image.candidates, features, similarities, matcher.explained(image), config)
    masks = CandidateMasks.of(image.candidates, config)
    merged = soft_merge(suppress(labelled, masks, config), masks, config)
    instances = to_instances(merged, masks, config)
    for i in range(len(instances)):
        mask = _moved(instances.packed[i], tile)
        facts = _facts(instances, i)
        score, feature = float(instances.scores[i]), merged.features[i].numpy()
        yield _Found(
            number, max(tile.size), mask, tile.cuts(mask.extent), int(instances.labels[i]), score, feature, facts
        )


def _facts(instances: Instances, i: int) -> tuple[float, float, int, float]:
    columns = instances.similarity, instances.alternative, instances.alternative_similarity
    similarity, other, its = (0 if column is None else column[i] for column in columns)
    return float(instances.predicted_iou[i]), float(similarity), int(other), float(its)


def _put_together(found: list[_Found], tiles: Sequence[Tile], matcher: Matcher) -> list[_Found]:
    """What the tiles found, each object once."""
    whole, cut = [item for item in found if not item.cut], [item for item in found if item.cut]
    # ---- Ownership: another tile sees it whole ----
    whole_boxes = _Boxes(whole)
    cut = [item for item in cut if not any(_owns(whole[j], item) for j in whole_boxes.over(item, OWNED))]
    # ---- Seams: two tiles see the same where both look ----
    whole += _joined(cut, tiles)
    # ---- Once each: within a class, the better one stays, and takes score from what it covers ----
    return _once_each(whole, matcher)


class _Boxes:
    """Extents of instances, and which of them may cover some of another."""

    def __init__(self, items: Sequence[_Found]) -> None:
        self._extents = np.array([item.mask.extent for item in items], np.int64).reshape(-1, 4)
        self._areas = np.array([item.mask.area for item in items], np.int64)
        tiles = np.array([item.tile for item in items], np.int64)
        self._numbers = np.unique(tiles)
        self._members = [np.flatnonzero(tiles == number) for number in self._numbers]
        # [T, 4] all that the instances of each tile cover: most tiles are far from an instance.
        hulls = [[*self._extents[own, :2].min(axis=0), *self._extents[own, 2:].max(axis=0)] for own in self._members]
        self._hulls = np.array(hulls, np.int64).reshape(-1, 4)

    def over(self, item: _Found, share: float) -> list[int]:
        """Those of other tiles that may cover at least so much of an instance, by their boxes and areas."""
        near = (_meeting(self._hulls, item.mask.extent) > 0) & (self._numbers != item.tile)
        members = [self._members[k] for k in np.flatnonzero(near)]
        if not members:
            return []
        index = np.sort(np.concatenate(members))
        most = np.minimum(_meeting(self._extents[index], item.mask.extent), self._areas[index])
        enough = most >= max(share * item.mask.area, 1)
        return [int(i) for i in index[enough]]


def _meeting(boxes: NDArray[np.int64], box: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """int64 ``[n]``: pixels that each of the boxes ``[n, 4]`` shares with one."""
    width = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
    height = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
    return np.asarray(np.maximum(width, 0) * np.maximum(height, 0))


def _owns(owner: _Found, item: _Found) -> bool:
    """Whether a whole instance is what a cut one is a piece of; one that is hardly anything itself owns nothing."""
    counts = owner.label == item.label or 2 * owner.score >= item.score
    return counts and owner.mask.intersection(item.mask) >= OWNED * item.mask.area


def _joined(cut: list[_Found], tiles: Sequence[Tile]) -> list[_Found]:
    """Instances that borders cut, joined with what they are part of: the same class, alike, and one along the seam."""
    boxes, group = _Boxes(cut), list(range(len(cut)))

    def first(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, item in enumerate(cut):
        for j in boxes.over(item, 0.0):
            if j > i and first(i) != first(j) and _continues(item, cut[j], tiles):
                group[first(j)] = first(i)
    members: dict[int, list[_Found]] = {}
    for i, item in enumerate(cut):
        members.setdefault(first(i), []).append(item)
    return [item for k, parts in enumerate(members.values(), start=1) for item in _union(parts, -k)]


def _continues(item: _Found, other: _Found, tiles: Sequence[Tile]) -> bool:
    """Whether two instances of neighbouring tiles are one object: what both tiles see of them is the same."""
    a, b = tiles[item.tile], tiles[other.tile]
    if item.label != other.label or a.shrink != b.shrink or float(item.feature @ other.feature) < ALIKE:
        return False
    zone = max(a.box[0], b.box[0]), max(a.box[1], b.box[1]), min(a.box[2], b.box[2]), min(a.box[3], b.box[3])
    shared = item.mask.intersection(other.mask)
    seen = _area_in(item.mask, zone), _area_in(other.mask, zone)
    return shared > 0 and float(intersection_over_union(shared, *seen)) >= SAME_ALONG_SEAM


def _area_in(mask: PackedMask, zone: tuple[int, int, int, int]) -> int:
    """Pixels of a mask within a box."""
    x1, y1, _, _ = mask.extent
    rows = slice(max(zone[1] - y1, 0), max(zone[3] - y1, 0))
    columns = slice(max(zone[0] - x1, 0), max(zone[2] - x1, 0))
    return int(np.count_nonzero(mask.crop()[rows, columns]))


def _union(parts: list[_Found], number: int) -> list[_Found]:
    """One instance of several, as of a tile of that number; apart where its mask would be larger than any may be."""
    if len(parts) == 1:
        return parts
    extents = np.array([item.mask.extent for item in parts])
    (x1, y1), (x2, y2) = extents[:, :2].min(axis=0).tolist(), extents[:, 2:].max(axis=0).tolist()
    if (x2 - x1) * (y2 - y1) > MOST_WHOLE:
        return parts
    mask = np.zeros((y2 - y1, x2 - x1), bool)
    for item in parts:
        left, top, right, bottom = item.mask.extent
        mask[top - y1 : bottom - y1, left - x1 : right - x1] |= item.mask.crop()
    areas = np.array([item.mask.area for item in parts], np.float32)
    feature = areas @ np.stack([item.feature for item in parts])
    best = max(parts, key=lambda item: item.score)
    feature = np.asarray(feature / max(float(np.linalg.norm(feature)), 1e-12), np.float32)
    return [replace(best, tile=number, mask=PackedMask.from_crop(mask, y1, x1), cut=False, feature=feature)]


def _once_each(found: list[_Found], matcher: Matcher) -> list[_Found]:
    """Of instances of one class in different tiles, the better of two that are the same; parts lose score.

    That is what 3.5 and 3.6 do within a tile, where it is done already.
    """
    config = matcher.config
    kept: list[_Found] = []
    for of_class in _by_label(found):
        ranked = sorted(of_class, key=lambda item: -item.score / _FINER ** math.log2(item.side))
        boxes, stays = _Boxes(ranked), np.ones(len(ranked), bool)
        for i, item in enumerate(ranked):
            covered = 0.0
            for j in boxes.over(item, _LEAST_SHARE):
                if j >= i or not stays[j]:
                    continue
                better = ranked[j]
                shared = item.mask.intersection(better.mask)
                same = intersection_over_union(shared, item.mask.area, better.mask.area) > config.nms_threshold
                stays[i] &= not same
                covered = max(covered, shared / item.mask.area * max(float(item.feature @ better.feature), 0.0))
            if stays[i]:
                score = decay(np.array([item.score], np.float32), np.array([min(covered, 1.0)], np.float32),
                              config.merge_exponent)[0]  # fmt: skip
                kept.append(replace(item, score=float(score)))
    return [item for item in kept if item.score > config.score_threshold]


def _by_label(found: list[_Found]) -> list[list[_Found]]:
    members: dict[int, list[_Found]] = {}
    for item in found:
        members.setdefault(item.label, []).append(item)
    return [members[label] for label in sorted(members)]


def _instances(found: list[_Found], image_size: tuple[int, int], matcher: Matcher) -> Instances:
    """Instances of the image in descending score."""
    found = sorted(found, key=lambda item: -item.score)
    facts = np.array([item.facts for item in found], np.float64).reshape(-1, 4)
    boxes = np.array([item.mask.extent for item in found], np.float32).reshape(-1, 4)
    if matcher.config.inclusive_boxes:
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
    return Instances(
        boxes,
        np.array([item.score for item in found], np.float32),
        np.array([item.label for item in found], np.int64),
        facts[:, 0].astype(np.float32),
        tuple(item.mask for item in found),
        image_size,
        facts[:, 1].astype(np.float32),
        facts[:, 2].astype(np.int64),
        facts[:, 3].astype(np.float32),
    )


def _best_of_each(matcher: ReferringMatcher, image: TiledImage) -> Instances:
    """Of each reference the best match in any tile; one that a border cuts only where none is whole."""
    best: dict[int, tuple[bool, float, Tile, Instances, int]] = {}
    for tile, part in zip(image.tiles, image.parts, strict=True):
        instances = matcher.match(_in_tile(part, tile))
        for i, reference in enumerate(instances.labels.tolist()):
            mask = _moved(instances.packed[i], tile)
            rank = (not tile.cuts(mask.extent), float(instances.scores[i]))
            if reference not in best or rank > best[reference][:2]:
                best[reference] = (*rank, tile, instances, i)
    order = sorted(best.values(), key=lambda entry: -entry[1])
    nothing = np.zeros(0, np.float32)
    picked = [
        _Found(
            0, max(tile.size), _moved(own.packed[i], tile), False, int(own.labels[i]), score, nothing, _facts(own, i)
        )
        for _, score, tile, own, i in order
    ]
    return _instances(picked, image.image_size, matcher.matcher)
