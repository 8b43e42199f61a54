"""Labels a view with a memory bank and writes detections back. The one service behind App, worker and SDK."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.core import MatchConfig, MemoryBank, Segmenter, read_image
from fiftyone_ntt.dataset.banks import load_bank
from fiftyone_ntt.dataset.fields import REFERENCE_TAG, check_images, detections_of
from fiftyone_ntt.dataset.labels import to_detections
from fiftyone_ntt.dataset.references import Progress, without_references
from fiftyone_ntt.dataset.runs import RunRecord, check_free, is_protected, register, status_field
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.models import Preset, load_preset

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_SAVES = 20.0
_LARGEST_CHUNK = 25


@dataclass
class SegmentReport:
    """What a run did.

    Attributes:
        run_key: key of the run.
        label_field: field that holds the labels.
        labelled: samples that got at least one label.
        empty: samples in which nothing was found.
        failed: samples that could not be processed; see ``errors``.
        resumed: samples that were done before and left alone.
        references_skipped: samples left out because they are references.
        instances: labels written.
        seconds: wall time.
        errors: sample id -> what went wrong.
    """

    run_key: str
    label_field: str
    labelled: int = 0
    empty: int = 0
    failed: int = 0
    resumed: int = 0
    references_skipped: int = 0
    instances: int = 0
    seconds: float = 0.0
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Samples processed by this call, failed ones included."""
        return self.labelled + self.empty + self.failed

    def __str__(self) -> str:
        return (
            f"run {self.run_key!r} wrote {self.instances} labels to {self.label_field!r}: {self.labelled} samples "
            f"labelled, {self.empty} empty, {self.failed} failed, {self.resumed} done before, "
            f"{self.references_skipped} references skipped, in {self.seconds:.1f} s"
        )


def segment(
    view: SampleCollection,
    bank: MemoryBank | str,
    label_field: str = "ntt",
    *,
    run_key: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    score_threshold: float | None = None,
    points_per_side: int | None = None,
    include_references: bool = False,
    config: MatchConfig | None = None,
    preset: str | Preset | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> SegmentReport:
    """Finds instances of the bank's classes in every image of a view.

    Writes ``Detections`` with in-box masks, ``confidence`` and ``predicted_iou`` to ``label_field``, and what happened
    to each sample to ``<label_field>_status``. Labels are saved in chunks: a run that stops can be resumed by the
    same call.

    Args:
        view: the samples to label.
        bank: a memory bank, or the name of one kept with the dataset.
        label_field: field to write; made if absent.
        run_key: key of the run; ``ntt_<label_field>`` where ``None``.
        resume: go on with a run of the same settings, leaving alone what it has done.
        overwrite: replace what another run or a person wrote in this view. Labels tagged ``ntt:accepted`` or
            ``ntt:edited`` stay even then.
        score_threshold: labels with a score at or below this are not written.
        points_per_side: prompt points along each side of the image; the preset's number where ``None``.
        include_references: label the reference samples too.
        config: settings of the match; ``MatchConfig()`` where ``None``.
        preset: the preset that made the bank; only needed where that was a ``Preset`` object of your own.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message).

    Returns:
        Counts, and the error of each sample that failed.

    Raises:
        InputError: if the view, bank, field or run key cannot be used, with the choices there are.
        PresetMismatchError: if the bank was made with another preset, or with other weights than those on this machine.
        MissingWeightsError: if the preset's weights are not on this machine.
    """
    started = time.perf_counter()
    check_images(view)
    if view._is_generated:
        raise WrongTypeError("expected whole images, got a view of patches or frames; segment the dataset it came from")
    bank = _resolve_bank(view, bank)
    config = config or MatchConfig()
    if score_threshold is not None:
        config = replace(config, score_threshold=score_threshold)
    segmenter = _segmenter(bank, preset, device, points_per_side)
    run_key = run_key or f"ntt_{label_field}"
    record = RunRecord.of(run_key, label_field, bank, config, segmenter.proposals.points_per_side)
    dataset = view._dataset
    check_free(dataset, record, resume, overwrite)
    targets = view if include_references else without_references(view.match_tags(REFERENCE_TAG, bool=False), bank)
    report = SegmentReport(run_key, label_field, references_skipped=len(view) - len(targets))
    register(dataset, record)
    if overwrite or not resume:
        targets.clear_sample_field(status_field(label_field))
    todo = targets.match(~_is_done(status_field(label_field), run_key))
    report.resumed = len(targets) - len(todo)
    _run(todo, _Labeller(segmenter, bank, config), report, progress)
    report.seconds = time.perf_counter() - started
    logger.info("%s", report)
    return report


def _resolve_bank(view: SampleCollection, bank: MemoryBank | str) -> MemoryBank:
    if isinstance(bank, str):
        return load_bank(view._dataset, bank)
    if not isinstance(bank, MemoryBank):
        raise WrongTypeError(f"expected a MemoryBank or the name of one, got {type(bank).__name__}")
    return bank


def _segmenter(
    bank: MemoryBank, preset: str | Preset | None, device: str | None, points_per_side: int | None
) -> Segmenter:
    """The models that made the bank; refuses any other before loading them."""
    wanted = preset or bank.preset
    bank.check_preset(wanted.name if isinstance(wanted, Preset) else wanted, bank.weights)
    segmenter = load_preset(wanted, device).segmenter(points_per_side)
    bank.check_preset(bank.preset, segmenter.weights)
    return segmenter


def _is_done(status: str, run_key: str) -> F:
    return (F(f"{status}.run_key") == run_key) & F(f"{status}.state").is_in(["ok", "empty"])


@dataclass(frozen=True)
class _Labeller:
    segmenter: Segmenter
    bank: MemoryBank
    config: MatchConfig

    def __call__(self, filepath: str) -> fo.Detections:
        instances = self.segmenter.segment(read_image(filepath), self.bank, self.config)
        return to_detections(instances, self.bank.classes)


@dataclass
class _Chunk:
    """Results not written yet."""

    labels: dict[str, fo.Detections] = field(default_factory=dict)
    statuses: dict[str, fo.DynamicEmbeddedDocument] = field(default_factory=dict)


def _run(todo: SampleCollection, labeller: _Labeller, report: SegmentReport, progress: Progress | None) -> None:
    ids, paths = todo.values(["id", "filepath"])
    chunk, saved_at = _Chunk(), time.monotonic()
    if progress is not None:
        progress(0, len(ids), "labelling")
    try:
        for done, (sample_id, filepath) in enumerate(zip(ids, paths, strict=True), start=1):
            _label_one(sample_id, filepath, labeller, report, chunk)
            if len(chunk.statuses) >= _LARGEST_CHUNK or time.monotonic() - saved_at > _SECONDS_BETWEEN_SAVES:
                _write(todo, chunk, report)
                chunk, saved_at = _Chunk(), time.monotonic()
            if progress is not None:
                progress(done, len(ids), f"labelled {done} of {len(ids)}, {report.failed} failed")
    finally:
        # Also when interrupted: what is computed is kept.
        _write(todo, chunk, report)


def _label_one(sample_id: str, filepath: str, labeller: _Labeller, report: SegmentReport, chunk: _Chunk) -> None:
    started, error = time.perf_counter(), None
    try:
        detections = labeller(filepath)
    except InputError as problem:
        error = str(problem)
    except Exception as problem:  # one bad image must cost one image, whatever is wrong with it
        logger.exception("sample %s failed", sample_id)
        error = f"{type(problem).__name__}: {problem}"
    if error is None:
        chunk.labels[sample_id] = detections
        report.instances += len(detections.detections)
        state = "ok" if detections.detections else "empty"
    else:
        report.errors[sample_id] = error
        state = "error"
    report.labelled += state == "ok"
    report.empty += state == "empty"
    report.failed += state == "error"
    chunk.statuses[sample_id] = fo.DynamicEmbeddedDocument(
        run_key=report.run_key, state=state, error=error, seconds=round(time.perf_counter() - started, 3)
    )


def _write(view: SampleCollection, chunk: _Chunk, report: SegmentReport) -> None:
    """Labels first, then statuses: a sample counts as done only once its labels are there."""
    dataset = view._dataset
    if chunk.labels:
        for sample_id, kept in _decided_labels(dataset, report.label_field, list(chunk.labels)):
            chunk.labels[sample_id].detections.extend(kept)
        dataset.set_values(report.label_field, chunk.labels, key_field="id", validate=False, dynamic=False)
    if chunk.statuses:
        name = status_field(report.label_field)
        dataset.set_values(name, chunk.statuses, key_field="id", validate=False, dynamic=False)


def _decided_labels(
    dataset: fo.Dataset, label_field: str, sample_ids: Sequence[str]
) -> Iterator[tuple[str, list[fo.Detection]]]:
    """Labels of these samples that a person has accepted or edited."""
    view = dataset.select(sample_ids).select_fields(label_field)
    if not view.count_label_tags(label_field):
        return
    for sample in view:
        yield sample.id, [label for label in detections_of(sample[label_field]) if is_protected(label)]
