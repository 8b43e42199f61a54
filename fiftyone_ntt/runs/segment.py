"""Labels a view with a memory bank and writes detections back. The one service behind App, worker and SDK."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.source import CandidateSource, StageOne, describe_error
from fiftyone_ntt.candidates.stream import Outcome
from fiftyone_ntt.dataset.fields import REFERENCE_TAG, check_name, dataset_of, root_dataset_of, whole_images
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.errors import InputError, LeaseLostError, RunCancelledError, WrongTypeError, counted
from fiftyone_ntt.method.config import MatchConfig, checked_config
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.second_look import WEIGHT
from fiftyone_ntt.method.options.tiled import TiledImage
from fiftyone_ntt.method.results import Instances, StageOneResult
from fiftyone_ntt.params.base import Progress, StageOneFields, StageOneSettings, check_arguments, stage_one_of
from fiftyone_ntt.params.labelling import SegmentParams
from fiftyone_ntt.references.banks import notes_of, without_references
from fiftyone_ntt.references.tagged_bank import resolve_bank, with_lessons_of
from fiftyone_ntt.runs.applied_thresholds import STARTING, ScoreThresholds, applied, check_mode, named
from fiftyone_ntt.runs.estimate import remember_speed
from fiftyone_ntt.runs.history import LABELLING, kept_bank
from fiftyone_ntt.runs.labeller import Labeller, finishers, labeller_of
from fiftyone_ntt.runs.mending import as_begun, default_run_key, said_of_lost
from fiftyone_ntt.runs.outcome import ended_silently
from fiftyone_ntt.runs.record import GENERIC, RunRecord, options_of, run_of_field
from fiftyone_ntt.runs.run_samples import is_whole
from fiftyone_ntt.runs.session import Call, LabelWriter, Written, part_in_run
from fiftyone_ntt.runs.workers import Work, Worker

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)


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
        indexed: samples whose candidates were computed and added to the candidate cache.
        thresholds: class -> the score that its labels had to exceed to be written; ``None`` where all were.
        suggested: class -> the score above which its labels are probably right; ``None`` where nothing was guessed.
        left_out: labels that were found and are not written, as they are below these thresholds.
        seconds: wall time.
        errors: sample id -> what went wrong.
        notes: what else is worth knowing, e.g. that the candidate cache is full.
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
    thresholds: dict[str, float] | None = None
    suggested: dict[str, float] | None = None
    left_out: int = 0
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
            f"run {self.run_key!r} wrote {counted(self.instances, 'label')} to {self.label_field!r}: "
            f"{counted(self.labelled, 'image')} labelled, {self.empty} empty, {self.failed} failed, {self.resumed} "
            f"done before, {counted(self.references_skipped, 'reference')} skipped, {self.from_index} from the "
            f"candidate cache, in {self.seconds:.1f} s"
        )
        further = [f"{counted(self.by_others, 'image')} done by other workers"] if self.by_others else []
        if self.left_out and self.suggested:
            weak = f"{counted(self.left_out, 'weak label')} left out"
            further.append(f"{weak} (lower_threshold brings what is left out back from the candidate cache)")
        return "; ".join([text, *further])

    def __str__(self) -> str:
        return "; ".join([self.counts, *self.notes])


@dataclass(frozen=True)
class Task:
    """What a call of ``segment`` asks for, once its arguments were read.

    Attributes:
        view: the samples to label.
        bank: the memory bank.
        label_field: field to write.
        run_key: key of the run.
        config: settings of the match.
        stage_one: how candidates are made.
        resume: go on with a run of the same settings.
        overwrite: replace what another run or a person wrote.
        again: replace what this run wrote before with other references or settings.
        what: what this is for, see ``listing.layers_of``.
        thresholds: as ``segment`` takes them; ``STARTING`` where nothing was said on which labels to write.
        mode: of ``MODES``.
        include_references: label the reference samples too.
        progress: called with (done, total, message).
        written: called with a sample's id, its labels of before and those found, as documents, once they are written.
        suggested: class -> where review begins, of a run whose thresholds were once guessed.
        source: where candidates come from; the cache, else the models, where ``None``.
    """

    view: SampleCollection
    bank: MemoryBank
    label_field: str
    run_key: str
    config: MatchConfig
    stage_one: StageOneSettings
    resume: bool = True
    overwrite: bool = False
    again: bool = False
    what: str = LABELLING
    thresholds: str | Mapping[str, float] | ScoreThresholds | None = None
    mode: str = GENERIC
    include_references: bool = False
    progress: Progress | None = None
    written: Written | None = None
    suggested: Mapping[str, float] | None = None
    source: CandidateSource | None = None


@with_bar
def segment(
    view: SampleCollection,
    bank: MemoryBank | str | SampleCollection | None = None,
    label_field: str = "ntt",
    *,
    reference_field: str | None = None,
    run_key: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    score_threshold: float | None = None,
    thresholds: str | Mapping[str, float] | ScoreThresholds | None = None,
    mode: str = "generic",
    max_instances: int | None = None,
    include_references: bool = False,
    config: MatchConfig | None = None,
    stage_one: StageOneSettings | None = None,
    progress: Progress | bool | None = None,
    **stage_one_fields: Unpack[StageOneFields],
) -> SegmentReport:
    """Finds instances of the references' classes in every image of a view.

    Without a bank, the references as they are tagged now make one, kept with the dataset and built again only where
    they changed. What the same call wrote with others is replaced then, but for what a person decided or drew.

    Writes ``Detections`` with in-box masks, ``confidence`` and ``predicted_iou`` to ``label_field``, and what happened
    to each sample to ``<label_field>_status``. Labels are saved in chunks: a run that stops can be resumed by the
    same call, and the same call in several processes or on several machines shares the work.

    Args:
        view: the samples to label: whole images; of grouped samples, those of the active slice.
        bank: a memory bank, the name of one kept with the dataset, or reference samples; the references as they are
            tagged now (and what was learned from a review of ``label_field``) where ``None``.
        label_field: field to write; made if absent.
        reference_field: field with the reference labels, where there is no bank yet; the one that the last bank was
            built from, or else the one with tagged labels, where ``None``.
        run_key: key of the run; ``ntt_<label_field>`` where ``None``, numbered where a renamed field's run has that.
        resume: go on with a run of the same settings, leaving alone what it has done.
        overwrite: replace what another run or a person wrote in this view. What a person decided stays even then, and
            in a field that a run wrote also what a person drew.
        score_threshold: labels with a score at or below this are not written; 0 writes all. Where this, ``thresholds``
            and ``config`` are ``None``, labels up to the *starting threshold* of their class are left out, a low guess
            from the references (a run that goes on keeps to its own); ``lower_threshold`` brings them back.
        thresholds: labels with a score at or below the score threshold of their class are not written either:
            class -> score threshold, what ``fit_thresholds`` returned, or ``"fitted"`` for what was fitted last to
            labels of this memory bank and these settings.
        mode: ``"generic"`` finds all instances of each class; ``"referring"`` the one best match of each reference,
            which ``reference_id`` names. Nearly every image has one: its ``confidence`` tells whether it is there.
        max_instances: at most so many labels in an image, the best; 100 where ``None``. Notes say where it is reached.
        include_references: label the reference samples too.
        config: settings of the match, which labels are written among them; ``MatchConfig()`` where ``None``. With
            ``MatchConfig.paper()`` every image goes through the models, also if it is in the candidate cache.
        stage_one: how candidates are made: models, prompts, device, candidate cache.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.
        **stage_one_fields: fields of ``StageOneSettings``, in place of those of ``stage_one``: ``points_per_side``,
            ``points``, ``granularity``, ``second_look``, ``large_images``, ``largest_object``, ``precision``,
            ``device``, ``compile``, ``use_index``, ``index_dir``, and ``preset``: the models where a bank has to be
            built, or a ``Preset`` of your own that made it.

    Returns:
        Counts, and the error of each sample that failed.

    Raises:
        InputError: if the view, bank, field or run key cannot be used, with the choices there are.
        WrongTypeError: if an argument is of the wrong type, or there is none of that name.
        PresetMismatchError: if the bank was made with another preset, or with other weights than those on this machine.
        MissingWeightsError: if the preset's weights are not on this machine.
        RunCancelledError: if someone cancelled the run meanwhile.
        LeaseLostError: if this worker gave no sign of life for so long that another one took over.
        DatabaseGoneError: if the database does not answer for minutes.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> bank = ntt.build_memory_bank(dataset.match_tags("ntt:reference"), "ground_truth")  # doctest: +SKIP
        >>> print(ntt.segment(dataset, bank, "ntt", points_per_side=16, device="cuda"))  # doctest: +SKIP
    """
    flat = whole_images(view)
    if not isinstance(label_field, str):
        raise WrongTypeError(f"expected label_field to be the name of a field, got {label_field!r}")
    progress, run_key, resume, overwrite, score_threshold, include_references = check_arguments(
        SegmentParams, progress, run_key=run_key, resume=resume, overwrite=overwrite, score_threshold=score_threshold,
        include_references=include_references,
    )  # fmt: skip
    check_mode(mode, thresholds)
    asked = stage_one_of(stage_one, stage_one_fields)
    settings, asked = settled(config, score_threshold, max_instances, asked)
    if score_threshold is None and thresholds is None and config is None and mode == GENERIC:
        thresholds = STARTING
    memory_bank = resolve_bank(flat, bank, reference_field, asked, progress)
    if bank is None:
        memory_bank = taught(flat, memory_bank, label_field)
    run_key = run_key or default_run_key(dataset_of(flat), label_field)
    task = Task(
        flat, memory_bank, label_field, run_key, settings, asked, resume, overwrite,
        bank is None, LABELLING, thresholds, mode, include_references, progress,
    )  # fmt: skip
    return label(task)


def label(task: Task) -> SegmentReport:
    """Does what ``segment`` was asked for."""
    started = time.perf_counter()
    bank, config, dataset = task.bank, task.config, dataset_of(task.view)
    record, stage_one = record_of(task)
    source = task.source or CandidateSource(stage_one, bank=bank)
    ready = source.ready_after
    source.open()
    targets = task.view
    if not task.include_references:
        targets = without_references(targets.match_tags(REFERENCE_TAG, bool=False), bank)
    report = SegmentReport(task.run_key, task.label_field, references_skipped=len(task.view) - len(targets))
    report.thresholds = named(record.thresholds, bank.classes)
    report.suggested = named(record.suggested, bank.classes)
    options, whole = options_of(stage_one.settings), not task.include_references and is_whole(task.view)
    call = Call(targets, record, bank, task.resume, task.overwrite, task.again, task.what, options, whole)
    with part_in_run(call) as (worker, work):
        report.resumed = work.resumed
        writer = LabelWriter(dataset, task.label_field, task.run_key, worker.renew, task.written, task.overwrite)
        labeller = labeller_of(bank, config, record.thresholds, task.mode, images=work.total)
        part = _Part(work, worker, source, labeller, writer, report, task.progress, config.to_the_bit)
        try:
            part.run()
        finally:
            labeller.close()
            report.from_index, report.indexed, report.left_out = source.from_index, source.indexed, labeller.left_out
            report.notes = [*notes_of(bank), *said_of_lost(work.lost, task.label_field), *source.notes]
    report.notes += ended_silently(report, len(task.view), config.score_threshold)
    report.seconds = time.perf_counter() - started
    if report.indexed > report.from_index and not report.by_others and not config.to_the_bit:
        spent = report.seconds - (source.ready_after - ready)  # a run of many images loads its models once, too
        remember_speed(root_dataset_of(task.view), stage_one, spent, source.looks)
    logger.info("%s", report.counts)
    return report


def record_of(task: Task) -> tuple[RunRecord, StageOne]:
    """What decides the labels of a task, as its run notes it; no model is loaded for that."""
    check_name(task.run_key)
    dataset, goes_on = dataset_of(task.view), None if task.overwrite else task.run_key
    bank, config, asked = task.bank, task.config, as_begun(task.stage_one, dataset, goes_on)
    stage_one = StageOne.of(asked, bank)
    least, suggested = applied(task.thresholds, task.suggested, dataset, bank, config, goes_on)
    record = RunRecord.of(task.run_key, task.label_field, bank, config, stage_one, task.mode, least, suggested)
    return record, stage_one


def taught(view: SampleCollection, bank: MemoryBank, label_field: str) -> MemoryBank:
    """The bank of the references with what was learned from a review of a field."""
    dataset = dataset_of(view)
    run_key = run_of_field(dataset, label_field)
    kept = kept_bank(dataset, run_key) if run_key and dataset.has_run(run_key) else None
    return bank if kept is None else with_lessons_of(bank, kept)


def settled(
    config: MatchConfig | None, score_threshold: float | None, max_instances: int | None, asked: StageOneSettings
) -> tuple[MatchConfig, StageOneSettings]:
    """The settings of both stages, which must agree on whether there is a second look."""
    config = checked_config(config)
    if config.to_the_bit and asked.large_images == "on":
        raise InputError("expected no large_images='on' with MatchConfig.paper(), which knows no tiles; leave it out")
    if score_threshold is not None:
        config = replace(config, score_threshold=score_threshold)
    if max_instances is not None:
        config = replace(config, max_instances=max_instances)
    if asked.second_look and not config.second_look:
        config = replace(config, second_look=WEIGHT)
    return config, asked.changed(second_look=config.second_look > 0)


@dataclass
class _Part:
    """This worker's part in a run, from its first claim until nothing of the run is left."""

    work: Work
    worker: Worker
    source: CandidateSource
    labeller: Labeller
    writer: LabelWriter
    report: SegmentReport
    progress: Progress | None
    whole: bool

    def run(self) -> None:
        if self.progress is not None:
            self.progress(0, self.work.total, "labelling")
        try:
            while True:
                self._label_all()
                if not self.work.left:
                    break
                self.worker.wait()  # the rest is in other workers' hands: theirs to do, or ours should they die
                self.work.look_again()
                self._tell()
        except (LeaseLostError, RunCancelledError):
            raise
        except BaseException:
            self.writer.save()  # what is computed is kept
            raise

    def _label_all(self) -> None:
        """Labels all samples that no other worker has claimed."""
        unsaved: list[str] = []
        found = self.source.outcomes(self.work.samples(), self._finish, finishers=finishers(), whole=self.whole)
        with closing(found) as outcomes:
            for outcome in outcomes:
                self.worker.check()
                self._count(outcome)
                unsaved.append(outcome.key)
                self.worker.processed += 1
                if not self.writer.unsaved:  # it has just saved: their chunks may go back
                    self.work.written(unsaved)
                    unsaved = []
                self._tell()
        self.writer.save()
        self.work.written(unsaved)
        report, refused = self.report, self.writer.refused
        for sample_id in set(refused) - set(report.errors):  # counted as labelled until the database said no
            report.errors[sample_id] = refused[sample_id]
            report.labelled, report.failed = report.labelled - 1, report.failed + 1
        report.instances, self.writer.unwritten = report.instances - self.writer.unwritten, 0

    def _finish(self, sample_id: str, content: StageOneResult | TiledImage | Instances) -> dict[str, Any]:
        labels = self.labeller(sample_id, content)
        self.source.about.labelled(sample_id, content, len(labels["detections"]), self.labeller.most)
        return labels

    def _count(self, outcome: Outcome[dict[str, Any]]) -> None:
        report = self.report
        error = None if outcome.error is None else describe_error(outcome.key, outcome.error)
        if error is not None:
            report.errors[outcome.key] = error
        report.instances += len(outcome.value["detections"]) if outcome.value is not None else 0
        note = self.source.about.noted.get(outcome.key)
        state = self.writer.add(outcome.key, outcome.value, error, outcome.seconds, note)
        report.labelled += state == "ok"
        report.empty += state == "empty"
        report.failed += state == "error"

    def _tell(self) -> None:
        """Tells how far all workers together are."""
        done, total = self.report.done + self.work.by_others, self.work.total
        self.report.by_others = self.work.by_others
        if self.progress is not None:
            self.progress(done, total, f"labelled {done} of {total}, {self.report.failed} failed")
