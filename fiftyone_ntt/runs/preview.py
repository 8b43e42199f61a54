"""A look at what a memory bank finds in a few images, before a run over all of them. Nothing is written to samples."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.source import CandidateSource, StageOne, check_second_look, describe_error, outputs_for
from fiftyone_ntt.candidates.stream import stream
from fiftyone_ntt.dataset.fields import REFERENCE_TAG, image_samples, root_dataset_of, whole_images
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.second_look import WEIGHT
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.models import Preset
from fiftyone_ntt.models.presets import resolve_preset
from fiftyone_ntt.pixels.drawing import Shape, draw_shapes
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.references.bank_store import load_bank
from fiftyone_ntt.references.build import Progress, build_memory_bank, tagged_references, without_references
from fiftyone_ntt.runs.estimate import Estimate, estimate, remember_speed

_WIDTH = 640
"""Of the pictures, in pixels, and at most their height."""
_CLEAR = 0.5
"""Labels with less than this share of the image's best score are counted, but not drawn: they would hide the rest."""
_FLOOR = 0.15
"""So are those below: the method never says "not in this image", and a cat is a motorcycle with a score of 0.05."""


@dataclass(frozen=True, eq=False)
class PreviewImage:
    """What was found in one image.

    Attributes:
        sample_id: the sample.
        name: its file's name.
        counts: labels of each class that are drawn.
        weak: labels that are too weak to be drawn, by themselves or beside the best of the image; a run would
            write them too.
        best: the highest score; 0 where nothing was found.
        seconds: time spent on this image.
        from_index: whether its candidates were in the index.
        picture: the image with masks and scores drawn on it, a JPEG file; empty where there is an error.
        error: what went wrong with this image.
    """

    sample_id: str
    name: str
    counts: dict[str, int]
    weak: int = 0
    best: float = 0.0
    seconds: float = 0.0
    from_index: bool = False
    picture: bytes = b""
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.name}: {self.error}"
        found = ", ".join(f"{count} × {label}" for label, count in sorted(self.counts.items())) or (
            "nothing clear" if self.weak else "nothing found"
        )
        weak = f" ({self.weak} weaker ones not drawn)" if self.weak else ""
        how = "indexed before" if self.from_index else f"{self.seconds:.1f} s"
        return f"{self.name}: {found}{weak}, {how}"


@dataclass(frozen=True, eq=False)
class Preview(Iterable[PreviewImage]):
    """The images of a preview, each as soon as it is done; iterate over it, once.

    Attributes:
        targets: all that a run over the same view would label.
        count: how many images there will be.
    """

    targets: SampleCollection
    count: int
    _images: Iterator[PreviewImage]
    _stage_one: StageOne
    _index_dir: str | Path | None

    def __iter__(self) -> Iterator[PreviewImage]:
        return self._images

    def estimate(self) -> Estimate:
        """What a run over the same view costs; measured by this preview, once all its images are done."""
        return estimate(self.targets, self._stage_one, index_dir=self._index_dir)


def preview(
    view: SampleCollection,
    bank: MemoryBank | str | None = None,
    label_field: str = "ground_truth",
    *,
    images: int = 4,
    score_threshold: float | None = None,
    preset: str | Preset | None = None,
    points_per_side: int | None = None,
    points: str = "grid",
    granularity: str = "best",
    second_look: bool = False,
    device: str | None = None,
    precision: str = "fp32",
    index_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Preview:
    """Labels a few images of a view and draws what was found. Writes nothing to the dataset's samples.

    The images are spread evenly over the view, the same ones each time; references are left out. What is computed goes
    into the candidate index, so a run that follows does not compute it again.

    Args:
        view: where to take the images from.
        bank: a memory bank, or the name of one kept with the dataset; made from the tagged references, and not kept,
            where ``None``.
        label_field: the field with the reference labels; only used where ``bank`` is ``None``.
        images: how many.
        score_threshold: labels with a score at or below this do not count.
        preset: the models; the bank's where ``None``, ``"lite"`` without a bank.
        points_per_side: prompt points along each side of the image; the preset's number where ``None``.
        points: ``"guided"`` prompts only the half of the grid that looks least like the image's border.
        granularity: as in ``segment``; for ``"auto"`` without a bank the references are asked.
        second_look: as in ``segment``.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        precision: of the image encoders, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        index_dir: folder of the index; ``$FIFTYONE_NTT_INDEX``, or else a cache folder, where ``None``.
        progress: called with (done, total, message).

    Returns:
        The images, each as soon as it is done, and afterwards what a run over the whole view would take.

    Raises:
        InputError: if there is no image to show, no reference, or an argument cannot be used.
        MissingWeightsError: if the preset's weights are not on this machine.
    """
    if images < 1:
        raise InputError(f"expected at least 1 image to look at, got {images}")
    flat = whole_images(view)
    made = _bank(flat, bank, label_field, preset, device, progress, granularity == "auto")
    stage_one = StageOne(
        resolve_preset(preset or made.preset), points_per_side, points, precision, device=device,
        outputs=outputs_for(granularity, made), second_look=second_look,
    )  # fmt: skip
    made.check_preset(stage_one.preset.name, made.weights)
    targets = without_references(flat.match_tags(REFERENCE_TAG, bool=False), made)
    chosen = _spread(targets, images)
    if not chosen:
        raise InputError("there is no image to look at besides the references; choose a view that holds others")
    config = MatchConfig() if score_threshold is None else replace(MatchConfig(), score_threshold=score_threshold)
    if second_look:
        check_second_look(made)
        config = replace(config, second_look=WEIGHT)
    source = CandidateSource(stage_one, bank=made, index_dir=index_dir)
    source.open()
    found = _previews(targets, chosen, _Drawer(source, made, Matcher(made, config), dict(chosen)), stage_one, progress)
    return Preview(targets, len(chosen), found, stage_one, index_dir)


def _bank(
    view: SampleCollection, bank: MemoryBank | str | None, label_field: str, preset: str | Preset | None,
    device: str | None, progress: Progress | None, ask_granularity: bool,
) -> MemoryBank:  # fmt: skip
    if isinstance(bank, str):
        return load_bank(root_dataset_of(view), bank)
    if bank is not None:
        if not isinstance(bank, MemoryBank):
            raise WrongTypeError(f"expected a MemoryBank or the name of one, got {type(bank).__name__}")
        return bank
    references = tagged_references(image_samples(root_dataset_of(view)), REFERENCE_TAG, label_field)
    return build_memory_bank(
        references, label_field, preset=preset or "lite", ask_granularity=ask_granularity, device=device,
        progress=progress,
    )  # fmt: skip


def _spread(view: SampleCollection, images: int) -> list[tuple[str, str]]:
    """Ids and paths of some samples, evenly spread over a view, the same ones each time."""
    total = len(view)
    count = min(images, total)
    places = [int((i + 0.5) * total / count) for i in range(count)]
    found = [view.skip(place).limit(1).values(["id", "filepath"]) for place in places]
    return [(ids[0], paths[0]) for ids, paths in found]


@dataclass(frozen=True)
class _Drawer:
    """Stage two as ``stream`` calls it, and the picture of what it finds."""

    source: CandidateSource
    bank: MemoryBank
    matcher: Matcher
    paths: dict[str, str]

    def __call__(self, sample_id: str, content: CompactImage) -> PreviewImage:
        self.source.keep(sample_id, content)
        found = self.matcher.match(content)
        best = float(found.scores.max()) if len(found) else 0.0
        least = max(_CLEAR * best, min(_FLOOR, self.matcher.config.score_threshold or 1.0))
        clear = [i for i in range(len(found)) if found.scores[i] >= least]
        counts = Counter(self.bank.classes[int(found.labels[i])] for i in clear)
        path = self.paths[sample_id]
        picture = _picture(read_image(path), found, clear, self.bank.classes)
        return PreviewImage(sample_id, Path(path).name, dict(counts), len(found) - len(clear), best, picture=picture)


def _picture(pixels: NDArray[np.uint8], found: Instances, clear: Sequence[int], classes: Sequence[str]) -> bytes:
    """Drawn small: masks at the size of a large photograph would take gigabytes."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _WIDTH / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX if scale < 1 else None))
    shapes = []
    for i in clear:
        mask = Image.fromarray(found.mask(i).view(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        shapes.append(Shape(classes[int(found.labels[i])], np.asarray(mask) > 127, float(found.scores[i])))
    data = io.BytesIO()
    wide = _WIDTH if width >= height else max(1, round(_WIDTH * width / height))
    draw_shapes(small, shapes, classes, wide).save(data, "JPEG", quality=85)
    return data.getvalue()


def _previews(
    view: SampleCollection, chosen: list[tuple[str, str]], drawer: _Drawer, stage_one: StageOne,
    progress: Progress | None,
) -> Iterator[PreviewImage]:  # fmt: skip
    indexed: set[str] = set()

    def noting(key: str, load: Callable[[], NDArray[np.uint8] | CompactImage]) -> NDArray[np.uint8] | CompactImage:
        loaded = load()
        if isinstance(loaded, CompactImage):
            indexed.add(key)
        return loaded

    items = [drawer.source.item(*one) for one in chosen]
    noted = [(key, lambda key=key, load=load: noting(key, load)) for key, load in items]
    spent = []
    if progress is not None:
        progress(0, len(items), "loading the models")
    with closing(stream(drawer.source.segmenters, noted, drawer)) as outcomes:
        for done, outcome in enumerate(outcomes, start=1):
            key = outcome.key
            if outcome.value is None:
                error = describe_error(key, outcome.error or RuntimeError())
                yield PreviewImage(key, Path(drawer.paths[key]).name, {}, error=error)
            else:
                spent += [] if key in indexed else [outcome.seconds]
                yield replace(outcome.value, seconds=outcome.seconds, from_index=key in indexed)
            if progress is not None:
                progress(done, len(items), f"{done} of {len(items)} images")
    remember_speed(root_dataset_of(view), stage_one, sum(spent), len(spent))
