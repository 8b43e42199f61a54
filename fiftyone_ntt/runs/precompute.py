"""Fills the candidate cache for a view ahead of time, on this machine; ``fleet.handing.index`` is its door."""

from __future__ import annotations

import logging
import random
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.file_format import limit_in_bytes
from fiftyone_ntt.candidates.source import CandidateSource, StageOne, describe_error
from fiftyone_ntt.candidates.tiles import Content
from fiftyone_ntt.dataset.fields import NO_IMAGES, root_dataset_of, whole_images
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import (
    Progress,
    StageOneFieldsButPreset,
    StageOneSettings,
    check_arguments,
    stage_one_of,
)
from fiftyone_ntt.params.labelling import IndexParams
from fiftyone_ntt.runs.estimate import remember_speed
from fiftyone_ntt.runs.outcome import all_failed

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)


@dataclass
class IndexReport:
    """What ``index`` did.

    Attributes:
        computed: images whose candidates were computed and stored.
        found: images whose candidates were there already.
        failed: images that could not be processed; see ``errors``.
        bytes: size of what was stored.
        seconds: wall time.
        errors: sample id -> what went wrong.
        notes: what else is worth knowing, e.g. damaged files that were rebuilt.
    """

    computed: int = 0
    found: int = 0
    failed: int = 0
    bytes: int = 0
    seconds: float = 0.0
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> str:
        """The numbers in a sentence, without the notes, which may name folders."""
        return (
            f"{counted(self.computed, 'image')} computed ({self.bytes / 1e6:.1f} MB), {self.found} were in the cache, "
            f"{self.failed} failed, in {self.seconds:.1f} s"
        )

    def __str__(self) -> str:
        return "; ".join([self.counts, *self.notes])


@with_bar
def index(
    view: SampleCollection,
    preset: str | Preset | None = None,
    *,
    size_limit_gb: float | None = None,
    stage_one: StageOneSettings | None = None,
    progress: Progress | bool | None = None,
    **stage_one_fields: Unpack[StageOneFieldsButPreset],
) -> IndexReport:
    """Computes and keeps the candidates of every image of a view, on this machine: see ``fiftyone_ntt.index``.

    Args:
        view: the samples.
        preset: name of a preset, or a ``Preset``; that of ``stage_one``, or else ``"lite"``, where ``None``.
        size_limit_gb: size in 10^9 bytes that all of the cache may reach.
        stage_one: how candidates are made.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.
        **stage_one_fields: fields of ``StageOneSettings``, in place of those of ``stage_one``.

    Returns:
        Counts, and the error of each sample that failed.

    Raises:
        InputError: if the view, preset, device or limit cannot be used.
        IndexStorageError: if the cache is full or cannot be written to; what was stored until then stays.
        MissingWeightsError: if the preset's weights are not on this machine.
    """
    started = time.perf_counter()
    view = whole_images(view)
    progress, size_limit_gb = check_arguments(IndexParams, progress, size_limit_gb=size_limit_gb)
    asked = stage_one_of(stage_one, stage_one_fields)
    if not asked.use_index:
        raise InputError(
            "expected no use_index=False, as filling the candidate cache is what this function does; leave it out, or "
            "give it to segment"
        )
    made_how = StageOne.of(asked.changed(preset=preset or asked.preset))
    source = CandidateSource(made_how, size_limit=limit_in_bytes(size_limit_gb))
    source.open()
    report = IndexReport()
    _run(view, source, report, progress)
    report.found, report.computed, report.bytes = source.from_index, source.indexed, source.bytes
    report.notes = source.notes
    if not len(view):
        report.notes.append(NO_IMAGES)
    elif report.failed == len(view):
        report.notes.append(all_failed(report.errors, "see to the files, then run it again"))
    if report.computed > report.found:
        spent = time.perf_counter() - started - source.ready_after
        remember_speed(root_dataset_of(view), made_how, spent, source.looks)
    report.seconds = time.perf_counter() - started
    logger.info("%s", report.counts)
    return report


def _run(view: SampleCollection, source: CandidateSource, report: IndexReport, progress: Progress | None) -> None:
    samples = list(zip(*view.values(["id", "filepath"]), strict=True))
    random.Random().shuffle(samples)  # workers that start together would otherwise all compute the same images
    if progress is not None:
        progress(0, len(samples), "indexing")
    with closing(source.outcomes(samples, _nothing_more)) as outcomes:
        for done, outcome in enumerate(outcomes, start=1):
            if source.storage_error is not None:
                raise source.storage_error
            error = source.unstored.get(outcome.key)
            if outcome.error is not None:
                error = describe_error(outcome.key, outcome.error)
            if error is not None:
                report.failed += 1
                report.errors[outcome.key] = error
            if progress is not None:
                progress(done, len(samples), f"{done} of {counted(len(samples), 'image')}, {report.failed} failed")


def _nothing_more(key: str, content: Content) -> None:
    """The source has stored it by now."""
