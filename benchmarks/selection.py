"""Chosen references against drawn ones: mask AP of ``select_references`` and of random draws from the same pool.

    python -m benchmarks.selection --data DIR/coco-mini --classes voc20 --images 60 --index FOLDER

The pool is every reference instance of all reference sets of a folder, encoded once. Two comparisons, each with the
same candidates of the same images: the subset chosen from the whole pool against random draws from it, and, seed by
seed, the subset chosen from a random half of the pool against a random draw from that half.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import count, counts, folder
from benchmarks.coco_data import Targets, default_classes, read_references, read_target_image, read_targets
from benchmarks.tables import write_json
from fiftyone_ntt.candidates.file_format import IndexSettings
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.core import CompactImage, MemoryBank, ReferenceItem, Segmenter, compact
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.evaluation.coco import Prediction, coco_scores
from fiftyone_ntt.evaluation.protocols.predictions import to_predictions
from fiftyone_ntt.method.references import ReferenceEncoder
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.references.selection import select_rows

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pool:
    """Labelled objects to choose references from.

    Attributes:
        classes: names.
        vectors: float32 ``[M, C]``, not centred.
        class_index: int64 ``[M]``.
        image: int64 ``[M]``, the image of each.
        mean_tokens: float32 ``[I, C]``, mean token of each image; their mean is what a bank subtracts.
        centred: whether it does.
    """

    classes: tuple[str, ...]
    vectors: NDArray[np.float32]
    class_index: Index
    image: Index
    mean_tokens: NDArray[np.float32]
    centred: bool

    def bank(self, chosen: Index) -> MemoryBank:
        """The memory bank of some of them, as if it had been built from them alone."""
        images = np.unique(self.image[chosen])
        center = self.mean_tokens[images].mean(axis=0) if self.centred else None
        ids = tuple(str(i) for i in chosen)
        return MemoryBank(self.classes, self.vectors[chosen], self.class_index[chosen], ids, center)

    def choose(self, among: Index, n: int) -> Index:
        """What ``select_references`` takes of some of them."""
        bank = self.bank(among)
        return among[select_rows(bank.project(bank.vectors), bank.class_index, n)]

    def save(self, path: Path) -> None:
        """Writes the arrays, so that they need not be computed again."""
        index = {"class_index": self.class_index, "image": self.image}
        np.savez(path, vectors=self.vectors, mean_tokens=self.mean_tokens, **index)

    @classmethod
    def load(cls, path: Path, names: Sequence[str], centred: bool) -> Pool:
        """What ``save`` wrote, with the same preset and set."""
        with np.load(path, allow_pickle=False) as kept:
            arrays = [kept[name] for name in ("vectors", "class_index", "image", "mean_tokens")]
        return cls(tuple(names), *arrays, centred)

    def draw(self, among: Index, n: int, random: np.random.Generator) -> Index:
        """``n`` of each class by chance, fewer where there are fewer."""
        shuffled = random.permutation(among)
        classes = self.class_index[shuffled]
        return np.concatenate([shuffled[classes == k][:n] for k in range(len(self.classes))])

    def half(self, random: np.random.Generator) -> Index:
        """Half of each class, rounded up."""
        shuffled = random.permutation(len(self.vectors))
        classes = self.class_index[shuffled]
        mine = [shuffled[classes == k] for k in range(len(self.classes))]
        return np.concatenate([one[: -(-len(one) // 2)] for one in mine])


def read_pool(root: Path, classes: str, names: Sequence[str]) -> dict[str, list[ReferenceItem]]:
    """Image -> its reference instances, of all reference sets of a folder, each instance once."""
    found: dict[str, list[ReferenceItem]] = {}
    seen: set[str] = set()
    for path in sorted((root / "refs").glob(f"{classes}_*shot_seed*.json")):
        shots, seed = re.findall(r"(\d+)shot_seed(\d+)", path.name)[0]
        for item in read_references(root, classes, int(shots), int(seed), names):
            if item.reference_id not in seen:
                seen.add(item.reference_id)
                others = found.setdefault(item.reference_id.rpartition("/")[0], [])
                others.append(replace(item, image=others[0].image) if others else item)
    if not found:
        raise InputError(f"expected reference sets of {classes!r} in {root / 'refs'}, got none")
    return found


def encode_pool(segmenter: Segmenter, items: dict[str, list[ReferenceItem]], names: Sequence[str]) -> Pool:
    """Every image is encoded once."""
    vectors, labels, images, means = [], [], [], []
    for i, (image, instances) in enumerate(items.items()):
        encoder = ReferenceEncoder(segmenter.feature_model, segmenter.references, segmenter.target_via)
        vectors.append(np.stack([encoder.encode(item) for item in instances]))
        means.append(encoder.mean_token)
        labels += [names.index(item.label) for item in instances]
        images += [i] * len(instances)
        _say(f"encoded {image}, {i + 1} of {len(items)}")
    index = np.array(labels, np.int64), np.array(images, np.int64)
    return Pool(tuple(names), np.concatenate(vectors), *index, np.stack(means), segmenter.references.centre)


def read_contents(targets: Targets, segmenter: Segmenter, preset: str, folder: Path) -> list[CompactImage]:
    """What stage one finds in every target image, from a candidate cache, to which it adds what is not there."""
    store = IndexStore(folder, IndexSettings(preset, segmenter.facts()))
    contents = []
    for image in targets.images:
        digest = hashlib.sha256(image.path.read_bytes()).hexdigest()
        content = store.get(digest)
        if content is None:
            content = compact(segmenter.candidates(read_target_image(image)))
            store.put(digest, content)
        contents.append(content)
    return contents


def mask_ap(targets: Targets, contents: Sequence[CompactImage], bank: MemoryBank) -> float:
    """Mask AP in points of 0..100."""
    found: list[Prediction] = []
    for image, content in zip(targets.images, contents, strict=True):
        found += to_predictions(Segmenter.match(content, bank), image.image_id)
    scores = coco_scores(targets.truth, found, targets.classes, [image.image_id for image in targets.images])
    return 100 * ((scores.mask.ap if scores.mask else None) or 0.0)


@dataclass(frozen=True)
class Outcome:
    """Mask AP for one number of shots.

    Attributes:
        chosen: of the subset chosen from the whole pool.
        drawn: of a random draw a seed from the whole pool.
        chosen_of_half: of the subset chosen from a random half, a seed.
        drawn_of_half: of a random draw from the same half, a seed.
    """

    chosen: float
    drawn: list[float]
    chosen_of_half: list[float]
    drawn_of_half: list[float]

    @property
    def rank(self) -> int:
        """1 where no draw is better than the subset chosen."""
        return 1 + sum(one > self.chosen for one in self.drawn)

    @property
    def differences(self) -> list[float]:
        """Chosen minus drawn, a half each."""
        return [a - b for a, b in zip(self.chosen_of_half, self.drawn_of_half, strict=True)]

    def __str__(self) -> str:
        paired, better = self.differences, sum(one > 0 for one in self.differences)
        return (
            f"chosen {self.chosen:.1f}, drawn {mean(self.drawn):.1f} +- {_std(self.drawn):.1f} "
            f"({min(self.drawn):.1f} to {max(self.drawn):.1f}), rank {self.rank} of {len(self.drawn) + 1}"
            + (
                f"; of a random half: chosen {mean(self.chosen_of_half):.1f}, drawn {mean(self.drawn_of_half):.1f}, "
                f"difference {mean(paired):+.1f} +- {_std(paired):.1f}, better in {better} of {len(paired)}"
                if paired
                else ""
            )
        )


def compare(
    pool: Pool, targets: Targets, contents: Sequence[CompactImage], shots: int, seeds: int, halves: bool
) -> Outcome:
    """Chosen against drawn references."""
    everything = np.arange(len(pool.vectors))

    def score(chosen: Index) -> float:
        value = mask_ap(targets, contents, pool.bank(np.sort(chosen)))
        _say(f"{shots} shot: {value:.1f}")
        return value

    outcome = Outcome(score(pool.choose(everything, shots)), [], [], [])
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        outcome.drawn.append(score(pool.draw(everything, shots, random)))
        if halves:
            half = pool.half(random)
            outcome.chosen_of_half.append(score(pool.choose(half, shots)))
            outcome.drawn_of_half.append(score(pool.draw(half, shots, random)))
    return outcome


def _std(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is by default")
    parser.add_argument("--data", type=folder, required=True, help="folder with refs/, annotations/ and images")
    parser.add_argument("--classes", help="class list: voc20, all80 or all; what the folder has by default")
    parser.add_argument("--shots", type=counts, default="1,3", help="references a class, separated by commas")
    parser.add_argument("--seeds", type=count, default=10, help="how many random draws")
    parser.add_argument("--images", type=count, help="how many target images; all by default")
    parser.add_argument("--points", type=count, help="prompt points along each side; the preset's by default")
    parser.add_argument("--index", type=Path, required=True, help="folder of the candidate cache")
    parser.add_argument("--pool", type=Path, help="file that keeps the pool's vectors (.npz): encoding takes longest")
    parser.add_argument("--whole", action="store_true", help="leave out the comparison on random halves")
    parser.add_argument("--json", type=Path, help="writes every score")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        result = _measure(options)
    except NttError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(options.json, result)
    return 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    classes = options.classes or default_classes(options.data)
    targets = read_targets(options.data, classes, options.images)
    segmenter = load_preset(options.preset, options.device).segmenter(options.points)
    if options.pool is not None and options.pool.is_file():
        pool = Pool.load(options.pool, targets.classes, segmenter.references.centre)
    else:
        pool = encode_pool(segmenter, read_pool(options.data, classes, targets.classes), targets.classes)
        if options.pool is not None:
            pool.save(options.pool)
    contents = read_contents(targets, segmenter, options.preset, options.index)
    print(
        f"{options.data.name}: {len(targets.classes)} classes, {len(contents)} images, {len(targets.truth)} objects; "
        f"pool of {len(pool.vectors)} references in {len(pool.mean_tokens)} images; mask AP"
    )
    result = {}
    for shots in options.shots:
        outcome = compare(pool, targets, contents, shots, options.seeds, not options.whole)
        print(f"{shots} shot: {outcome}", flush=True)
        result[str(shots)] = {**asdict(outcome), "rank": outcome.rank}
    return result


if __name__ == "__main__":
    raise SystemExit(main())
