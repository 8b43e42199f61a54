"""Labels a view with a memory bank and writes detections back. The one service behind App, worker and SDK."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.source import CandidateSource, StageOne, check_second_look, describe_error, outputs_for
from fiftyone_ntt.candidates.stream import Outcome, stream
from fiftyone_ntt.dataset.fields import REFERENCE_TAG, dataset_of, root_dataset_of, whole_images
from fiftyone_ntt.dataset.labels import to_document
from fiftyone_ntt.dataset.storage import check_name
from fiftyone_ntt.errors import InputError, LeaseLostError, RunCancelledError, WrongTypeError
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.referring import ReferringMatcher
from fiftyone_ntt.method.options.second_look import WEIGHT
from fiftyone_ntt.models import Preset
from fiftyone_ntt.models.presets import resolve_preset
from fiftyone_ntt.references.bank_store import load_bank
from fiftyone_ntt.references.build import Progress, without_references
from fiftyone_ntt.runs.applied_thresholds import LeastScores, least_scores
from fiftyone_ntt.runs.estimate import remember_speed
from fiftyone_ntt.runs.record import MODES, REFERRING, RunRecord
from fiftyone_ntt.runs.session import Call, Work, part_in_run
from fiftyone_ntt.runs.workers import Worker
from fiftyone_ntt.runs.writer import LabelWriter

logger = logging.getLogger(__name__)

_MOST_FINISHERS = 4
"""Threads that match and make labels: as many as there are cores, within reason."""


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
        by_others: samples that other workers on the same run did meanwhile.
        references_skipped: samples left out because they are references.
        instances: labels written.
        from_index: samples whose candidates were in the index; no model ran for them.
        indexed: samples whose candidates were computed and added to the index.
        seconds: wall time.
        errors: sample id -> what went wrong.
        notes: what else is worth knowing, e.g. that the index is full.
    """

    run_key: str
    label_field: str
    labelled: int = 0
    empty: int = 0
    failed: int = 0
    resumed: int = 0
    by_others: int = 0
    references_skipped: int = 0
    instances: int = 0
    from_index: int = 0
    indexed: int = 0
    seconds: float = 0.0
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Samples processed by this call, failed ones included."""
        return self.labelled + self.empty + self.failed

    @property
    def counts(self) -> str:
        """The numbers in a sentence, without the notes, which may name folders."""
        text = (
            f"run {self.run_key!r} wrote {self.instances} labels to {self.label_field!r}: {self.labelled} samples "
            f"labelled, {self.empty} empty, {self.failed} failed, {self.resumed} done before, "
            f"{self.references_skipped} references skipped, {self.from_index} from the index, in {self.seconds:.1f} s"
        )
        shared = [f"{self.by_others} samples were done by other workers"] if self.by_others else []
        return "; ".join([text, *shared])

    def __str__(self) -> str:
        return "; ".join([self.counts, *self.notes])


def segment(
    view: SampleCollection,
    bank: MemoryBank | str,
    label_field: str = "ntt",
    *,
    run_key: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    score_threshold: float | None = None,
    thresholds: str | Mapping[str, float] | LeastScores | None = None,
    points_per_side: int | None = None,
    points: str = "grid",
    granularity: str = "best",
    second_look: bool = False,
    mode: str = "generic",
    include_references: bool = False,
    use_index: bool = True,
    index_dir: str | Path | None = None,
    config: MatchConfig | None = None,
    preset: str | Preset | None = None,
    device: str | None = None,
    precision: str = "fp32",
    compile: bool = False,
    progress: Progress | None = None,
) -> SegmentReport:
    """Finds instances of the bank's classes in every image of a view.

    Writes ``Detections`` with in-box masks, ``confidence`` and ``predicted_iou`` to ``label_field``, and what happened
    to each sample to ``<label_field>_status``. Labels are saved in chunks: a run that stops can be resumed by the
    same call, and the same call in several processes or on several machines shares the work.

    Args:
        view: the samples to label: whole images; of grouped samples, those of the active slice.
        bank: a memory bank, or the name of one kept with the dataset.
        label_field: field to write; made if absent.
        run_key: key of the run; ``ntt_<label_field>`` where ``None``.
        resume: go on with a run of the same settings, leaving alone what it has done.
        overwrite: replace what another run or a person wrote in this view. Labels tagged ``ntt:accepted`` or
            ``ntt:edited`` stay even then.
        score_threshold: labels with a score at or below this are not written.
        thresholds: labels with a score at or below the threshold of their class are not written either:
            class -> threshold, what ``fit_thresholds`` returned, or ``"fitted"`` for what was fitted last to labels of
            this memory bank and these settings.
        points_per_side: prompt points along each side of the image; the preset's number where ``None``.
        points: ``"guided"`` prompts only the half of the grid that looks least like the image's border.
        granularity: which of the mask model's three masks of a point become candidates: ``"best"`` by its own
            estimate, as published; the best of the larger ones, ``"whole"``, or of the smaller ones, ``"part"``;
            ``"auto"`` takes what the references chose (``build_memory_bank(..., ask_granularity=True)``).
        second_look: cut out what was found, encode it alone and let that count too: see ``docs/results.md`` for what
            it is worth. Up to 80 small encoder passes more an image.
        mode: ``"generic"`` finds all instances of each class; ``"referring"`` the one best match of each reference,
            which ``reference_id`` names. Nearly every image has one: its ``confidence`` tells whether it is there.
        include_references: label the reference samples too.
        use_index: look candidates up in the candidate index, and add those that are not there. What is in the index
            needs no model, and gives the very same labels.
        index_dir: folder of the index; ``$FIFTYONE_NTT_INDEX``, or else a cache folder, where ``None``.
        config: settings of the match; ``MatchConfig()`` where ``None``.
        preset: the preset that made the bank; only needed where that was a ``Preset`` object of your own.
        device: ``"cuda"``, ``"cuda:0,cuda:1"``, ``"all"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        precision: of the image encoders, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        compile: run the image encoders through ``torch.compile``; the first image then takes minutes.
        progress: called with (done, total, message).

    Returns:
        Counts, and the error of each sample that failed.

    Raises:
        InputError: if the view, bank, field or run key cannot be used, with the choices there are.
        PresetMismatchError: if the bank was made with another preset, or with other weights than those on this machine.
        MissingWeightsError: if the preset's weights are not on this machine.
        RunCancelledError: if someone cancelled the run meanwhile.
        LeaseLostError: if this worker gave no sign of life for so long that another one took over.
        DatabaseGoneError: if the database does not answer for minutes.
    """
    started = time.perf_counter()
    view = whole_images(view)
    bank = _resolve_bank(view, bank)
    config = config or MatchConfig()
    if score_threshold is not None:
        config = replace(config, score_threshold=score_threshold)
    if second_look and not config.second_look:
        config = replace(config, second_look=WEIGHT)
    if config.second_look:
        check_second_look(bank)
    outputs = outputs_for(granularity, bank)
    _check_mode(mode, thresholds)
    stage_one = StageOne(
        _preset_of(bank, preset), points_per_side, points, precision, compile, device, outputs, config.second_look > 0
    )
    source = CandidateSource(stage_one, bank=bank, use_index=use_index, index_dir=index_dir)
    source.open()
    if not isinstance(label_field, str):
        raise WrongTypeError(f"expected label_field to be the name of a field, got {label_field!r}")
    run_key = run_key or f"ntt_{label_field}"
    check_name(run_key)
    side = stage_one.preset.proposals(points_per_side).points_per_side
    record = RunRecord.of(run_key, label_field, bank, config, side, points, precision, outputs, mode)
    least = least_scores(thresholds, dataset_of(view), bank, config)
    record = replace(record, thresholds=least)
    targets = view if include_references else without_references(view.match_tags(REFERENCE_TAG, bool=False), bank)
    report = SegmentReport(run_key, label_field, references_skipped=len(view) - len(targets))
    options = {"use_index": use_index, "index_dir": None if index_dir is None else str(index_dir)}
    options |= {"device": device, "compile": compile}
    with part_in_run(Call(targets, record, bank, resume, overwrite, options)) as (worker, work):
        report.resumed = work.resumed
        try:
            _run(work, worker, source, _labeller(source, bank, config, least, mode), report, progress)
        finally:
            report.from_index, report.indexed, report.notes = source.from_index, source.indexed, source.notes
    report.seconds = time.perf_counter() - started
    if report.indexed > report.from_index and not report.by_others:
        remember_speed(root_dataset_of(view), stage_one, report.seconds, report.indexed)
    logger.info("%s", report.counts)
    return report


def _resolve_bank(view: SampleCollection, bank: MemoryBank | str) -> MemoryBank:
    if isinstance(bank, str):
        return load_bank(dataset_of(view), bank)
    if not isinstance(bank, MemoryBank):
        raise WrongTypeError(f"expected a MemoryBank or the name of one, got {type(bank).__name__}")
    return bank


def _preset_of(bank: MemoryBank, preset: str | Preset | None) -> Preset:
    """The models that made the bank; refuses any other."""
    wanted = preset or bank.preset
    bank.check_preset(wanted.name if isinstance(wanted, Preset) else wanted, bank.weights)
    return resolve_preset(wanted)


def _check_mode(mode: str, thresholds: object) -> None:
    if mode not in MODES:
        raise InputError(f"expected mode to be one of {', '.join(MODES)}, got {mode!r}")
    if mode == REFERRING and isinstance(thresholds, (str, LeastScores)):
        raise InputError(
            "fitted thresholds are for mode='generic', whose scores are others; pass a mapping class -> threshold, or "
            "score_threshold"
        )


@dataclass(frozen=True)
class _Labeller:
    """Stage two, as ``stream`` calls it: candidates in, a document for the label field out.

    Attributes:
        source: where candidates come from.
        matcher: of the bank; in the referring task of each of its references.
        names: what a label of each class, or reference, is called.
        least: of each of them, the score that a label must exceed; ``None`` without any.
        reference_ids: of each of them, in the referring task.
    """

    source: CandidateSource
    matcher: Matcher | ReferringMatcher
    names: Sequence[str]
    least: list[float] | None
    reference_ids: Sequence[str] | None = None

    def __call__(self, sample_id: str, content: CompactImage) -> dict[str, Any]:
        self.source.keep(sample_id, content)
        found = self.matcher.match(content)
        found = found if self.least is None else found.above(self.least)
        return to_document(found, self.names, self.reference_ids)


def _labeller(
    source: CandidateSource, bank: MemoryBank, config: MatchConfig, least: list[float] | None, mode: str
) -> _Labeller:
    if mode != REFERRING:
        return _Labeller(source, Matcher(bank, config), bank.classes, least)
    names = [bank.classes[k] for k in bank.class_index]
    of_each = None if least is None else [least[k] for k in bank.class_index]
    return _Labeller(source, ReferringMatcher(bank, config), names, of_each, bank.reference_ids)


def _run(
    work: Work, worker: Worker, source: CandidateSource, labeller: _Labeller, report: SegmentReport,
    progress: Progress | None,
) -> None:  # fmt: skip
    writer = LabelWriter(work.dataset, report.label_field, report.run_key, guard=worker.renew)
    shown = _Shown(work, report, progress)
    try:
        while True:
            _one_round(work, worker, source, labeller, report, writer, shown)
            if not work.left:
                break
            worker.wait()  # the rest is in other workers' hands: theirs to do, or ours should they die
            work.look_again()
            shown()
    except (LeaseLostError, RunCancelledError):
        raise
    except BaseException:
        writer.save()  # what is computed is kept
        raise


def _one_round(
    work: Work, worker: Worker, source: CandidateSource, labeller: _Labeller, report: SegmentReport,
    writer: LabelWriter, shown: _Shown,
) -> None:  # fmt: skip
    """Labels all samples that no other worker has claimed."""
    finishers = min(os.cpu_count() or 1, _MOST_FINISHERS)
    items = (source.item(sample_id, path) for sample_id, path in work.samples())
    unsaved: list[str] = []
    with closing(stream(source.segmenters, items, labeller, finishers=finishers)) as outcomes:
        for outcome in outcomes:
            worker.check()
            _count(outcome, writer, report)
            unsaved.append(outcome.key)
            worker.processed += 1
            if not writer.unsaved:
                work.written(unsaved)
                unsaved = []
            shown()
    writer.save()
    work.written(unsaved)
    for sample_id in set(writer.refused) - set(report.errors):
        report.errors[sample_id] = writer.refused[sample_id]
        report.labelled, report.failed = report.labelled - 1, report.failed + 1


@dataclass
class _Shown:
    """Tells how far all workers together are."""

    work: Work
    report: SegmentReport
    progress: Progress | None

    def __post_init__(self) -> None:
        if self.progress is not None:
            self.progress(0, self.work.total, "labelling")

    def __call__(self) -> None:
        done, total = self.report.done + self.work.by_others, self.work.total
        self.report.by_others = self.work.by_others
        if self.progress is not None:
            self.progress(done, total, f"labelled {done} of {total}, {self.report.failed} failed")


def _count(outcome: Outcome[dict[str, Any]], writer: LabelWriter, report: SegmentReport) -> None:
    error = None if outcome.error is None else describe_error(outcome.key, outcome.error)
    if error is not None:
        report.errors[outcome.key] = error
    report.instances += len(outcome.value["detections"]) if outcome.value is not None else 0
    state = writer.add(outcome.key, outcome.value, error, outcome.seconds)
    report.labelled += state == "ok"
    report.empty += state == "empty"
    report.failed += state == "error"
