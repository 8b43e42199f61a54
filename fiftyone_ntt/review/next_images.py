"""What to review next: images of which decisions are expected to teach most, none of them like another."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.dataset.fields import DONE_TAG, check_detections_field, dataset_of, every_image, whole_images
from fiftyone_ntt.errors import NttError, counted
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.tiled import TiledImage
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import plain_values
from fiftyone_ntt.params.review import NextImagesParams
from fiftyone_ntt.references.banks import LEARNED
from fiftyone_ntt.review.expected_gain import expected_objects, most_telling
from fiftyone_ntt.review.head_rows import unit
from fiftyone_ntt.review.label_rows import REJECTED, UNDECIDED, decisions
from fiftyone_ntt.review.label_table import LabelTable, table_of
from fiftyone_ntt.review.thresholds import first_threshold
from fiftyone_ntt.runs.control import StoredRun, written_by

logger = logging.getLogger(__name__)

_LARGE_FILE = 1 << 26


def next_images(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    limit: int = 20,
    index_dir: str | Path | None = None,
    preset: str | Preset | None = None,
) -> SampleCollection:
    """The images to review next: those that promise to teach most, the first one most.

    An image counts by the objects that its undecided labels promise, more for classes of which little is known, and
    less where it looks like one that comes before it. Of ten in a row no two are near-duplicates, as long as there are
    others. What images look like is in the candidate cache; no model runs.

    Images marked as done, and those whose labels all have a decision, are not among them. Images without labels come
    last.

    Args:
        view: the dataset, or the images to choose from.
        label_field: the field that a run wrote.
        limit: how many images.
        index_dir: folder of the candidate cache; where the run had it, or else the default one, where ``None``.
        preset: the preset of the run; only needed where that was a ``Preset`` object of your own.

    Returns:
        A view of the images with all their labels; empty where all are reviewed.

    Raises:
        InputError: if no run wrote the field, or an argument cannot be used.
        WrongTypeError: if the view holds no whole images.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> session.view = ntt.next_images(dataset, "ntt")  # doctest: +SKIP
    """
    label_field, limit = plain_values(NextImagesParams, label_field=label_field, limit=limit)
    return images_to_review(view, label_field, limit, index_dir=index_dir, preset=preset)


def images_to_review(
    view: SampleCollection,
    label_field: str,
    limit: int,
    *,
    index_dir: str | Path | None = None,
    preset: str | Preset | None = None,
    seconds: float | None = None,
) -> SampleCollection:
    """``next_images`` for whoever waits for it.

    Args:
        view: see there, as the others.
        label_field: the field.
        limit: how many images.
        index_dir: folder of the candidate cache.
        preset: the preset of the run.
        seconds: look at images for so long, and at none of a large file; what is left is ordered by its labels alone.
    """
    samples = whole_images(view)
    dataset = dataset_of(samples)
    check_detections_field(dataset, label_field)
    run = _run(dataset, written_by(dataset, label_field, "nobody can say what a review of them would teach"))
    table = table_of(dataset, label_field).refreshed()
    ids = _to_review(samples, run, table)
    looks = Looks.of(dataset, run, ids, index_dir, preset)
    looks.seconds = seconds
    expected = _expected(dataset, label_field, table, ids)
    chosen = most_telling(expected, _known(None if run is None else run.bank, table), limit, looks.look)
    if looks.missing:
        logger.warning(
            "not in the candidate cache: %s, so near-duplicates are not told there; run 'NTT: Precompute candidates'",
            counted(looks.missing, "image"),
        )
    return samples.select([ids[place] for place in chosen], ordered=True)


def _run(dataset: fo.Dataset, run_key: str) -> StoredRun | None:
    """The run; ``None`` where it is damaged, or was stopped as it began: then its labels alone say what to review."""
    try:
        return StoredRun.load(dataset, run_key)
    except NttError as error:
        logger.warning(
            "run %r cannot say what it knows of its classes, nor what its images look like: %s", run_key, error
        )
        return None


def _to_review(samples: SampleCollection, run: StoredRun | None, table: LabelTable) -> list[str]:
    """Ids of the images of the run that nobody is through with, in the order of the view."""
    rows, of_sample = table.rows, table.sample_ids
    open_ = decisions(rows) == UNDECIDED
    labelled, unfinished = (
        {of_sample[number] for number in np.unique(some["sample"]).tolist()} for some in (rows, rows[open_])
    )
    targets = set(map(str, unfinished) if run is None else run.targets.values("id"))
    return [
        sample_id
        for sample_id in samples.match_tags(DONE_TAG, bool=False).values("id")
        if sample_id in targets and (ObjectId(sample_id) in unfinished or ObjectId(sample_id) not in labelled)
    ]


def _expected(dataset: fo.Dataset, label_field: str, table: LabelTable, ids: Sequence[str]) -> NDArray[np.float64]:
    """What a review of each image is expected to tell of each class of the labels: float64 ``[I, K]``."""
    rows = table.rows
    place = {ObjectId(sample_id): i for i, sample_id in enumerate(ids)}
    places = np.array([place.get(sample_id, -1) for sample_id in table.sample_ids], np.int64)
    rows = rows[decisions(rows) == UNDECIDED]
    image = places[rows["sample"]] if len(rows) else np.empty(0, np.int64)
    rows, image = rows[image >= 0], image[image >= 0]
    names = table.classes
    thresholds = np.array([first_threshold(dataset, label_field, table, name) for name in names])
    return expected_objects(image, rows["class"], rows["confidence"], thresholds, (len(ids), len(names)))


def _known(bank: MemoryBank | None, table: LabelTable) -> NDArray[np.float64]:
    """References of each class of the table that were given, and objects of it that were decided on: ``[K]``."""
    rows, names = table.rows, table.classes
    wanted = ~np.isin(decisions(rows), (UNDECIDED, REJECTED))
    known = np.bincount(rows["class"][wanted], minlength=len(names)).astype(np.float64)
    references = () if bank is None else zip(bank.references.labels, bank.reference_ids, strict=True)
    for name, reference in references:
        place = table.class_index(str(name))
        if place >= 0 and not reference.startswith(LEARNED):
            known[place] += 1
    return known


class Looks:
    """What images look like, from the candidate cache alone.

    Args:
        dataset: holds the images.
        ids: of their samples.
        source: the cache, with the memory bank that says where the middle of all looks is; ``None`` without one.

    Attributes:
        missing: images that were asked for and are not in the cache.
        seconds: for how long images are looked at, from the first one on; ``None`` for as long as it takes.
    """

    def __init__(
        self, dataset: fo.Dataset, ids: Sequence[str], source: tuple[CandidateSource, MemoryBank] | None
    ) -> None:
        self._dataset, self._ids, self._source = dataset, ids, source
        self.missing = 0
        self.seconds: float | None = None
        self._began: float | None = None

    @classmethod
    def of(
        cls, dataset: fo.Dataset, run: StoredRun | None, ids: Sequence[str], index_dir: str | Path | None,
        preset: str | Preset | None,
    ) -> Looks:  # fmt: skip
        """Those of the images that a run labelled."""
        if run is None:
            return cls(dataset, ids, None)
        settings = run.stage_one.changed(preset=preset)
        settings = settings if index_dir is None else settings.changed(index_dir=index_dir)
        try:
            source = CandidateSource(StageOne.of(settings, run.bank), bank=run.bank)
            return cls(dataset, ids, (source, run.bank) if source.recall() else None)
        except NttError as error:  # e.g. of a preset that is not there any more
            logger.info("the candidate cache of %r cannot be used: %s", run.run_key, error)
            return cls(dataset, ids, None)

    def look(self, place: int) -> NDArray[np.float32] | None:
        """float32 ``[C]`` of length 1; ``None`` where the cache does not have the image, or time is up."""
        self._began = self._began or time.monotonic()
        if self.seconds is not None and time.monotonic() - self._began >= self.seconds:
            return None
        vectors = None
        if self._source is not None:
            (source, bank), sample_id = self._source, self._ids[place]
            path = every_image(self._dataset).select(sample_id).values("filepath")[0]
            if self.seconds is not None and _takes_long(path):
                return None
            try:
                vectors = look_of(source.cached(sample_id, path), bank)
            except NttError as error:  # the file is gone, say
                logger.info("%s", error)
        self.missing += vectors is None
        return vectors


def _takes_long(path: str) -> bool:
    """Whether a file is so large that to know its content, by which the cache knows it, takes long."""
    try:
        return os.path.getsize(path) > _LARGE_FILE
    except (OSError, ValueError):  # the cache will say what is wrong
        return False


def look_of(content: Any, bank: MemoryBank) -> NDArray[np.float32] | None:
    """What an image looks like: the mean of its candidates, each counting alike.

    Args:
        content: what stage one found in it, in one part or in tiles; may be ``None``.
        bank: of the same models.
    """
    if content is None:
        return None
    parts = content.parts if isinstance(content, TiledImage) else (content,)
    vectors = np.concatenate([np.asarray(part.vectors, np.float32) for part in parts])
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    if not len(vectors):
        return None
    mean = unit(vectors, bank.center).mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
