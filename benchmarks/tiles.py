"""Mosaics of photographs: how well tiles find in them what is found in the photographs one by one.

    python -m benchmarks.tiles --data DIR --photos 12 --json FILE

Photographs of one size are laid side by side at their native size: 2 x 2, 4 x 4, 12 x 1. What is found in a mosaic is
cut back into its photographs, whose truth is known, and scored there. The photographs alone are the measure; the same
mosaic without tiles is what there was before.

Photographs of less than 1,024 pixels are seen smaller in a tile of 2 x 2 and 4 x 4 than alone, as alone they fill what
the models see; tiles of 12 x 1 are about as large as a photograph, and differ in nothing but their borders.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.arguments import count, folder
from benchmarks.coco_data import SHARED, default_classes, read_references, read_target_image, read_targets
from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.candidates.stream import stream
from fiftyone_ntt.candidates.tiles import TiledItem, digests_of, tile_grid
from fiftyone_ntt.core import Instances, Matcher, compact
from fiftyone_ntt.evaluation.coco import Prediction, coco_scores
from fiftyone_ntt.evaluation.protocols.coco_files import TargetImage, Targets
from fiftyone_ntt.method.options.tiled import match_image
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.pixels.mask_codes import encode_crop
from fiftyone_ntt.pixels.regions import file_digest

LAYOUTS = {"12x1": (1, 12), "2x2": (2, 2), "4x4": (4, 4)}
"""Rows and columns."""


def same_size(images: Sequence[TargetImage], most: int) -> list[TargetImage]:
    """The first images of the size that most have."""
    ((size, _),) = Counter(image.size for image in images).most_common(1)
    return [image for image in images if image.size == size][:most]


def mosaics(photos: Sequence[TargetImage], layout: tuple[int, int]) -> Iterator[list[TargetImage]]:
    """Photographs for one mosaic after the other; of too few for one, the first ones come again."""
    wanted = layout[0] * layout[1]
    for start in range(0, len(photos), wanted):
        some = list(photos[start : start + wanted])
        if len(some) == wanted or start == 0:
            yield (some * wanted)[:wanted]


def laid_out(photos: Sequence[TargetImage], layout: tuple[int, int]) -> NDArray[np.uint8]:
    """The mosaic, uint8 ``[H, W, 3]``."""
    pixels = [read_target_image(image) for image in photos]
    rows = [np.concatenate(pixels[k * layout[1] : (k + 1) * layout[1]], axis=1) for k in range(layout[0])]
    return np.concatenate(rows)


def cut_back(instances: Instances, photos: Sequence[TargetImage], layout: tuple[int, int]) -> Iterator[Prediction]:
    """Each instance as one of the photograph that most of its mask lies in, where that is first in the mosaic."""
    height, width = photos[0].size
    first = {image.image_id: photos.index(image) for image in photos}
    for i in range(len(instances)):
        (x1, y1, x2, y2), crop = instances.crop(i)
        shares = {}
        for row in range(y1 // height, (y2 - 1) // height + 1):
            for column in range(x1 // width, (x2 - 1) // width + 1):
                top, left = row * height, column * width
                part = crop[max(top - y1, 0) : top + height - y1, max(left - x1, 0) : left + width - x1]
                shares[row, column] = int(part.sum()), part, max(y1, top) - top, max(x1, left) - left
        (row, column), (area, part, top, left) = max(shares.items(), key=lambda item: item[1][0])
        image = photos[row * layout[1] + column]
        if not area or first[image.image_id] != row * layout[1] + column:
            continue
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        part = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # what goes on in the next one is cut off
        left, top = left + int(columns[0]), top + int(rows[0])
        box = (left, top, left + part.shape[1], top + part.shape[0])
        rle = encode_crop(np.ascontiguousarray(part), left, top, image.size)
        yield Prediction(image.image_id, int(instances.labels[i]), box, float(instances.scores[i]), rle)


class Store:
    """Candidates of photographs and tiles on disk: a run that was stopped goes on.

    Attributes:
        computed: how many the models were asked for, in so many ``seconds`` and ``cpu_seconds``, with matching.
    """

    def __init__(self, folder: Path, preset: str, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.index = IndexStore(folder, IndexSettings(preset, segmenter.facts()))
        self.computed, self.seconds, self.cpu_seconds = 0, 0.0, 0.0

    def tiles_of(self, path: Path) -> tuple[TiledItem, int]:
        """An image file in tiles, and how many there are."""
        with Image.open(path) as image:
            tiles = tile_grid((image.height, image.width))
        digests = digests_of(file_digest(path), tiles)
        nothing = (lambda _: None, lambda _: None)
        return TiledItem(str(path), tiles, digests, True, self.index.get, self.keep, *nothing), len(tiles)

    def keep(self, digest: str, content: CompactImage) -> None:
        """Takes what was found in a tile."""
        self.index.put(digest, content)
        self.computed += 1

    def whole(self, path: Path) -> CompactImage:
        """An image file in one part."""
        digest = file_digest(path)
        content = self.index.get(digest)
        if content is None:
            content = compact(self.segmenter.candidates(read_image(path)))
            self.keep(digest, content)
        return content

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What is done inside counts."""
        started, started_cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - started_cpu

    def times(self, what: str) -> dict[str, float | None]:
        """Seconds for each that was computed since the last call; none where all were there."""
        count, seconds, cpu = self.computed, self.seconds, self.cpu_seconds
        self.computed, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        return {
            f"seconds_a_{what}": seconds / count if count else None,
            f"cpu_seconds_a_{what}": cpu / count if count else None,
        }


def tiled(path: Path, store: Store, matcher: Matcher) -> tuple[Instances, int]:
    """What tiles find in an image file, and how many there were."""
    item, count = store.tiles_of(path)
    (outcome,) = stream([store.segmenter], [("", lambda: item)], lambda _, content: match_image(matcher, content))
    if outcome.value is None:
        raise outcome.error or RuntimeError("nothing came back")
    return outcome.value, count


def scores(found: list[Prediction], photos: Sequence[TargetImage], targets: Targets) -> dict[str, Any]:
    """AP of boxes and masks over the photographs."""
    ids = [image.image_id for image in photos]
    result = coco_scores([item for item in targets.truth if item.image_id in ids], found, targets.classes, ids)
    return {"box_ap": result.box.ap, "mask_ap": result.mask and result.mask.ap, "labels": len(found)}


def measure(
    data: Path, preset: str, most: int, shots: int, seed: int, points: int | None, layouts: Sequence[str], cache: Path
) -> dict[str, Any]:
    """Every figure of one set."""
    classes = default_classes(data)
    targets = read_targets(data, classes)
    photos = same_size(targets.images, most)
    segmenter = load_preset(preset).segmenter(points)
    bank = segmenter.build_bank(read_references(data, classes, shots, seed, targets.classes), targets.classes)
    matcher, store = Matcher(bank), Store(cache, preset, segmenter)
    found: list[Prediction] = []
    with store.timed():
        for image in photos:
            found += cut_back(matcher.match(store.whole(image.path)), [image], (1, 1))
    facts: dict[str, Any] = {"photos": len(photos), "size": photos[0].size, **store.times("photo"),
                             "alone": scores(found, photos, targets), "mosaics": {}}  # fmt: skip
    print(json.dumps({data.name: facts}), flush=True)
    for name in layouts:
        facts["mosaics"][name] = of_layout(LAYOUTS[name], photos, targets, found, store, matcher)
        print(json.dumps({name: facts["mosaics"][name]}), flush=True)
    return facts


def of_layout(
    layout: tuple[int, int], photos: Sequence[TargetImage], targets: Targets, found: Sequence[Prediction],
    store: Store, matcher: Matcher,
) -> dict[str, Any]:  # fmt: skip
    """The figures of mosaics of one layout, beside what was ``found`` in the photographs alone."""
    with_tiles, without, tiles = list[Prediction](), list[Prediction](), 0
    once: dict[TargetImage, None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "mosaic.png"
        for group in mosaics(photos, layout):
            Image.fromarray(laid_out(group, layout)).save(path, compress_level=1)
            with store.timed():
                instances, number = tiled(path, store, matcher)
            tiles += number
            with_tiles += cut_back(instances, group, layout)
            without += cut_back(matcher.match(store.whole(path)), group, layout)
            once |= dict.fromkeys(group)
    ids = {image.image_id for image in once}
    return {
        "photos": len(once), "tiles": tiles, **store.times("tile"),
        "alone": scores([item for item in found if item.image_id in ids], list(once), targets),
        "tiles_scores": scores(with_tiles, list(once), targets), "untiled": scores(without, list(once), targets),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=folder, nargs="+", default=[SHARED / "fruits-nuts", SHARED / "coco-mini"])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--photos", type=count, default=12, help="photographs of one size, of each set")
    parser.add_argument("--shots", type=count, default=5)
    parser.add_argument("--seed", type=int, default=33)
    parser.add_argument("--points", type=count, help="points per side; the preset's number where left out")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="the mosaics")
    parser.add_argument("--cache", type=Path, help="folder for candidates: a run that was stopped goes on there")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        how = options.shots, options.seed, options.points, options.layouts, options.cache or Path(scratch)
        figures = {data.name: measure(data, options.preset, options.photos, *how) for data in options.data}
    options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
