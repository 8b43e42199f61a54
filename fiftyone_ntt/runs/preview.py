"""A look at what a memory bank finds in a few images, before a run over all of them. Nothing is written to samples."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray
from PIL import Image

from fiftyone_ntt.candidates.source import CandidateSource, StageOne, describe_error
from fiftyone_ntt.candidates.tiles import Content
from fiftyone_ntt.dataset.fields import NO_IMAGES, REFERENCE_TAG, root_dataset_of, whole_images
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.errors import InputError, as_text, counted
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.params.base import Progress, StageOneFields, StageOneSettings, check_arguments, stage_one_of
from fiftyone_ntt.params.review import PreviewParams
from fiftyone_ntt.pixels.drawing import Shape, draw_shapes
from fiftyone_ntt.pixels.regions import open_regions
from fiftyone_ntt.references.banks import notes_of, without_references
from fiftyone_ntt.references.tagged_bank import resolve_bank
from fiftyone_ntt.runs.applied_thresholds import ScoreThresholds, check_mode, score_thresholds
from fiftyone_ntt.runs.estimate import Estimate, estimate, remember_speed
from fiftyone_ntt.runs.labeller import Labeller, labeller_of
from fiftyone_ntt.runs.outcome import all_failed, all_weak, nothing_found, only_references
from fiftyone_ntt.runs.segment import settled

if TYPE_CHECKING:
    from typing_extensions import Unpack

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
        weak: labels that are too weak to be drawn, by themselves or beside the best of the image; a run writes
            those of them that are above the starting threshold of their class.
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
            return f"{as_text(self.name)}: {self.error}"
        objects = ", ".join(f"{count} × {as_text(label)}" for label, count in sorted(self.counts.items())) or (
            "nothing clear" if self.weak else "nothing found"
        )
        weak = f" ({counted(self.weak, 'weaker one')} not drawn)" if self.weak else ""
        how = "from the candidate cache" if self.from_index else f"{self.seconds:.1f} s"
        return f"{as_text(self.name)}: {objects}{weak}, {how}"


@dataclass(frozen=True, eq=False)
class Preview(Iterable[PreviewImage]):
    """The images of a preview, each as soon as it is done; iterate over it, once.

    Attributes:
        targets: all that a run over the same view would label.
        count: how many images there will be.
        notes: what to know of the references, e.g. labels that were left out; once all images are done, also why none
            of them shows anything.
    """

    targets: SampleCollection
    count: int
    _images: Iterator[PreviewImage]
    _stage_one: StageOneSettings
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[PreviewImage]:
        return self._images

    def estimate(self) -> Estimate:
        """What a run over the same view costs; measured by this preview, once all its images are done."""
        return estimate(self.targets, self._stage_one)


@with_bar
def preview(
    view: SampleCollection,
    bank: MemoryBank | str | SampleCollection | None = None,
    label_field: str | None = None,
    *,
    images: int = 4,
    score_threshold: float | None = None,
    thresholds: str | Mapping[str, float] | ScoreThresholds | None = None,
    mode: str = "generic",
    max_instances: int | None = None,
    include_references: bool = False,
    stage_one: StageOneSettings | None = None,
    progress: Progress | bool | None = None,
    **stage_one_fields: Unpack[StageOneFields],
) -> Preview:
    """Labels a few images of a view and draws what was found. Writes nothing to the dataset's samples.

    The images are spread evenly over the view, the same ones each time. What is computed goes into the candidate cache,
    so a run that follows does not compute it again.

    Args:
        view: where to take the images from.
        bank: a memory bank, the name of one kept with the dataset, or reference samples; the references as they are
            tagged now where ``None``, as for ``segment``, which finds the bank ready then.
        label_field: the field with the reference labels, where there is no bank yet; the one that the last bank was
            built from, or else the one with tagged labels, where ``None``.
        images: how many.
        score_threshold: labels with a score at or below this do not count.
        thresholds: nor do those at or below the score threshold of their class, as for ``segment``.
        mode: ``"generic"`` or ``"referring"``, as for ``segment``.
        max_instances: at most so many labels in an image, the best; 100 where ``None``.
        include_references: look at the reference samples too.
        stage_one: how candidates are made, as for ``segment``. Without a bank the models are ``"lite"`` where none are
            named, and the references are asked what ``"auto"`` granularity is.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.
        **stage_one_fields: fields of ``StageOneSettings``, in place of those of ``stage_one``.

    Returns:
        The images, each as soon as it is done, and afterwards what a run over the whole view would take.

    Raises:
        InputError: if there is no image to show, no reference, or an argument cannot be used.
        MissingWeightsError: if the preset's weights are not on this machine.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> for image in ntt.preview(dataset, "ntt_bank", images=2, device="cuda"):  # doctest: +SKIP
        ...     print(image)
    """
    within = min(max(images, 1), 20) if isinstance(images, Integral) else images  # a form has its own bounds
    progress, _, score_threshold, include_references = check_arguments(
        PreviewParams, progress, images=within, score_threshold=score_threshold, include_references=include_references
    )
    check_mode(mode, thresholds)
    images = int(images)
    if images < 1:
        raise InputError(f"expected at least 1 image to look at, got {images}")
    flat = whole_images(view)
    config, asked = settled(None, score_threshold, max_instances, stage_one_of(stage_one, stage_one_fields))
    bank = resolve_bank(flat, bank, label_field, asked, progress)
    made_how = StageOne.of(asked, bank)
    targets = flat
    if not include_references:
        targets = without_references(targets.match_tags(REFERENCE_TAG, bool=False), bank)
    least = score_thresholds(thresholds, root_dataset_of(flat), bank, config)
    labeller = labeller_of(bank, config, least, mode)
    chosen, notes = _spread(targets, images), notes_of(bank)
    if not chosen:
        raise InputError(f"there is no image to look at: {only_references(len(flat)) if len(flat) else NO_IMAGES}")
    source = CandidateSource(made_how, bank=bank)
    source.open()
    drawer = _Drawer(bank.classes, labeller, config.score_threshold, dict(chosen))
    pictures = _previews(targets, chosen, source, drawer, made_how, progress, notes)
    settings = made_how.settings.changed(preset=made_how.preset)
    return Preview(targets, len(chosen), pictures, settings, notes)


def _spread(view: SampleCollection, images: int) -> list[tuple[str, str]]:
    """Ids and paths of some samples, evenly spread over a view, the same ones each time."""
    total = len(view)
    count = min(images, total)
    # The middle of each of `count` equal parts: the first images of a view are often alike.
    places = [int((i + 0.5) * total / count) for i in range(count)]
    columns = [view.skip(place).limit(1).values(["id", "filepath"]) for place in places]
    return [(ids[0], paths[0]) for ids, paths in columns]


@dataclass(frozen=True)
class _Drawer:
    """Stage two as ``stream`` calls it, and the picture of what it finds."""

    classes: Sequence[str]
    labeller: Labeller
    score_threshold: float
    paths: dict[str, str]

    def __call__(self, sample_id: str, content: Content) -> PreviewImage:
        instances, names = self.labeller.instances(content), self.labeller.names
        best = float(instances.scores.max()) if len(instances) else 0.0
        # A score threshold below the floor lowers it: what the user asked to see is drawn.
        least = max(_CLEAR * best, min(_FLOOR, self.score_threshold or 1.0))
        clear = [i for i in range(len(instances)) if instances.scores[i] >= least]
        counts = Counter(names[int(instances.labels[i])] for i in clear)
        path = self.paths[sample_id]
        picture = _picture(path, instances, clear, names, self.classes)
        return PreviewImage(
            sample_id, Path(path).name, dict(counts), len(instances) - len(clear), best, picture=picture
        )


def _picture(
    path: str, instances: Instances, clear: Sequence[int], names: Sequence[str], classes: Sequence[str]
) -> bytes:
    """Drawn small: masks at the size of a large photograph would take gigabytes."""
    height, width = instances.image_size
    scale = min(1.0, _WIDTH / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    with open_regions(path) as reader:
        small = reader.read((0, 0, width, height), (size[1], size[0]))
    shapes = [
        Shape(names[int(instances.labels[i])], _small_mask(instances, i, size), float(instances.scores[i]))
        for i in clear
    ]
    data = io.BytesIO()
    wide = _WIDTH if width >= height else max(1, round(_WIDTH * width / height))
    draw_shapes(small, shapes, classes, wide).save(data, "JPEG", quality=85)
    return data.getvalue()


def _small_mask(instances: Instances, i: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask ``i`` in a picture of ``(width, height)``: bool ``[height, width]``; only its own box is ever made."""
    (x1, y1, x2, y2), crop = instances.crop(i)
    across, down = size[0] / instances.image_size[1], size[1] / instances.image_size[0]
    left, top = int(x1 * across), int(y1 * down)
    right, bottom = max(left + 1, round(x2 * across)), max(top + 1, round(y2 * down))
    mask = np.zeros((size[1], size[0]), bool)
    inside = Image.fromarray(crop.view(np.uint8) * 255).resize((right - left, bottom - top), Image.Resampling.BOX)
    mask[top:bottom, left:right] = (np.asarray(inside) > 127)[: size[1] - top, : size[0] - left]
    return mask


def _previews(
    view: SampleCollection, chosen: list[tuple[str, str]], source: CandidateSource, drawer: _Drawer,
    stage_one: StageOne, progress: Progress | None, notes: list[str],
) -> Iterator[PreviewImage]:  # fmt: skip
    spent: list[float] = []
    errors: dict[str, str] = {}
    labels = 0
    if progress is not None:
        progress(0, len(chosen), "loading the models")
    with closing(source.outcomes(chosen, drawer)) as outcomes:
        for done, outcome in enumerate(outcomes, start=1):
            key = outcome.key
            if outcome.value is None:
                error = describe_error(key, outcome.error or RuntimeError())
                errors[key] = error
                yield PreviewImage(key, Path(drawer.paths[key]).name, {}, error=error)
            else:
                labels += sum(outcome.value.counts.values()) + outcome.value.weak
                spent += [] if outcome.from_index else [outcome.seconds]
                yield replace(outcome.value, seconds=outcome.seconds, from_index=outcome.from_index)
            if progress is not None:
                progress(done, len(chosen), f"{done} of {counted(len(chosen), 'image')}")
    remember_speed(root_dataset_of(view), stage_one, sum(spent), source.looks)
    if len(errors) == len(chosen):
        notes.append(all_failed(errors, "see to the files, or choose a view that holds others"))
    elif not labels and drawer.labeller.left_out:
        notes.append(f"{all_weak(drawer.labeller.left_out)}; choose others")
    elif not labels:
        notes.append(nothing_found(len(chosen) - len(errors), drawer.score_threshold))
