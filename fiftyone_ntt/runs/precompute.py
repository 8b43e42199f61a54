"""Builds the candidate index of a view ahead of time. The one service behind App, worker and SDK."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.settings import limit_in_bytes
from fiftyone_ntt.candidates.source import CandidateSource, StageOne, describe_error, outputs_for
from fiftyone_ntt.candidates.stream import stream
from fiftyone_ntt.dataset.fields import root_dataset_of, whole_images
from fiftyone_ntt.models import Preset
from fiftyone_ntt.models.presets import resolve_preset
from fiftyone_ntt.runs.estimate import remember_speed

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]


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
        notes: what else is worth knowing, e.g. damaged files that were made again.
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
            f"{self.computed} images indexed ({self.bytes / 1e6:.1f} MB), {self.found} were indexed before, "
            f"{self.failed} failed, in {self.seconds:.1f} s"
        )

    def __str__(self) -> str:
        return "; ".join([self.counts, *self.notes])


def index(
    view: SampleCollection,
    preset: str | Preset = "lite",
    *,
    points_per_side: int | None = None,
    points: str = "grid",
    granularity: str = "best",
    second_look: bool = False,
    device: str | None = None,
    precision: str = "fp32",
    compile: bool = False,
    index_dir: str | Path | None = None,
    size_limit_gb: float | None = None,
    progress: Progress | None = None,
) -> IndexReport:
    """Computes the candidates of every image of a view that the index does not have yet.

    It needs no references. Afterwards ``segment`` labels these images without a model, with any memory bank of the
    same preset. Several processes may index one dataset at the same time: each takes the images in an order of its
    own and passes over what another has done. Stopped and called again, it goes on where it was.

    Args:
        view: the samples, references included: they may be targets of another bank. Of grouped samples, those of the
            active slice.
        preset: name of a preset, or a ``Preset`` with checkpoint paths of your own.
        points_per_side: prompt points along each side of an image; the preset's number where ``None``.
        points: ``"guided"`` prompts only the half of the grid that looks least like the image's border.
        granularity: ``"best"``, ``"whole"`` or ``"part"``, as ``segment`` will be asked for; of ``"auto"`` what
            ``bank.granularity`` says.
        second_look: also cut out what was found and encode it alone, for ``segment(..., second_look=True)``.
        device: ``"cuda"``, ``"cuda:0,cuda:1"``, ``"all"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        precision: of the image encoders, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        compile: run the image encoders through ``torch.compile``; the first image then takes minutes.
        index_dir: folder of the index; ``$FIFTYONE_NTT_INDEX``, or else a cache folder, where ``None``.
        size_limit_gb: size in 10^9 bytes that all of the index may reach; ``$FIFTYONE_NTT_INDEX_GB``, or else 50, where
            ``None``.
        progress: called with (done, total, message).

    Returns:
        Counts, and the error of each sample that failed.

    Raises:
        InputError: if the view, preset, device or limit cannot be used.
        IndexStorageError: if the index is full or cannot be written to; what was stored until then stays.
        MissingWeightsError: if the preset's weights are not on this machine.
    """
    started = time.perf_counter()
    view = whole_images(view)
    stage_one = StageOne(
        resolve_preset(preset),
        points_per_side,
        points,
        precision,
        compile,
        device,
        outputs_for(granularity),
        second_look,
    )
    source = CandidateSource(
        stage_one,
        index_dir=index_dir,
        size_limit=limit_in_bytes(size_limit_gb),
    )
    source.open()
    report = IndexReport()
    _run(view, source, report, progress)
    report.found, report.computed, report.bytes = source.from_index, source.indexed, source.bytes
    report.notes = source.notes
    if report.computed > report.found:
        remember_speed(root_dataset_of(view), stage_one, time.perf_counter() - started, report.computed)
    report.seconds = time.perf_counter() - started
    logger.info("%s", report.counts)
    return report


def _run(view: SampleCollection, source: CandidateSource, report: IndexReport, progress: Progress | None) -> None:
    samples = list(zip(*view.values(["id", "filepath"]), strict=True))
    random.Random().shuffle(samples)  # workers that start together would otherwise all compute the same images
    items = [source.item(sample_id, filepath) for sample_id, filepath in samples]
    if progress is not None:
        progress(0, len(items), "indexing")
    with closing(stream(source.segmenters, items, source.keep)) as outcomes:
        for done, outcome in enumerate(outcomes, start=1):
            if source.storage_error is not None:
                raise source.storage_error
            if outcome.error is not None:
                report.failed += 1
                report.errors[outcome.key] = describe_error(outcome.key, outcome.error)
            if progress is not None:
                progress(done, len(items), f"{done} of {len(items)} images, {report.failed} failed")
