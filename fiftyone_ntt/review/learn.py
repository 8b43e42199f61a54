"""A person's decisions teach the memory bank, and everything is matched again from the candidate cache."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
from bson import ObjectId
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.source import describe_error
from fiftyone_ntt.dataset.documents import can_be_tagged, make_tag_lists, tags_of
from fiftyone_ntt.dataset.fields import DECIDED_TAGS, EDITED_TAG, NO_IMAGES, check_name, every_image, whole_images
from fiftyone_ntt.dataset.labels import to_document, without_contradictions
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.storage import edit_label_tags, patiently, store
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.tiled import TiledImage, match_image
from fiftyone_ntt.method.results import StageOneResult
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.review import HEAD, REFERENCES, LearnParams
from fiftyone_ntt.references.banks import METHOD as BANK
from fiftyone_ntt.references.banks import list_banks, save_bank
from fiftyone_ntt.review.head_fit import HeadReport
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.review.lessons import (
    ClassChange,
    ReviewedRun,
    changes_of,
    decided_labels,
    is_no_example,
    labels_in_chunks,
    stays,
)
from fiftyone_ntt.review.teaching import done_images, teach
from fiftyone_ntt.review.thresholds import first_threshold
from fiftyone_ntt.runs.control import segment_again
from fiftyone_ntt.runs.history import LEARNING, last_pass, passes
from fiftyone_ntt.runs.mending import LEARNED_STORE
from fiftyone_ntt.runs.outcome import all_failed
from fiftyone_ntt.runs.segment import SegmentReport

logger = logging.getLogger(__name__)

MOST_IDS = 5000
"""Changed samples that are noted: nobody looks at more, and the App would be slow to show them."""
Document = dict[str, Any]


ALL_DECIDED = (
    "Every label has a decision already, so none of them can change: learning can only bring labels where there were "
    "none. It pays before everything is decided, after some twenty decisions."
)


@dataclass
class LearnReport:
    """What was learned, and what it changes.

    Attributes:
        run_key: the run that wrote the labels.
        label_field: their field.
        threshold: only labels with a score above this are counted below.
        decisions: class -> how many labels were ``accepted``, ``edited`` and ``rejected``.
        changes: class -> what becomes of its labels.
        kept: labels that stay since a person decided on them.
        undecided: labels that nobody has decided on; only these can change.
        changed: ids of the samples whose labels change.
        seconds: wall time.
        from_index: samples whose candidates were in the index; no model ran for them.
        errors: sample id -> what went wrong.
        bank: the memory bank with what was learned.
        applied: what writing it did; ``None`` where nothing was written.
        bank_name: name under which the bank is kept with the dataset; ``None`` where nothing was written.
        notes: what else is worth knowing.
        head: what came of training a head; ``None`` where none was asked for.
        learned: whether the bank holds something of the decisions: a head that is not used teaches nothing.
    """

    run_key: str
    label_field: str
    threshold: float
    decisions: dict[str, dict[str, int]]
    bank: MemoryBank
    changes: dict[str, ClassChange] = field(default_factory=dict)
    kept: int = 0
    undecided: int = 0
    changed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    from_index: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    applied: SegmentReport | None = None
    bank_name: str | None = None
    notes: list[str] = field(default_factory=list)
    head: HeadReport | None = None
    learned: bool = True

    def total(self, what: str) -> int:
        """Sum over classes of ``gained``, ``lost``, ``relabelled`` or ``unchanged``."""
        return sum(int(getattr(change, what)) for change in self.changes.values())

    def rows(self) -> list[dict[str, Any]]:
        """The changes as a table, a row a class."""
        return [{"class": name, **asdict(change)} for name, change in self.changes.items()]

    @property
    def what_changes(self) -> str:
        """The changes in one line; whoever speaks of them later says the same."""
        return (
            f"{counted(len(self.changed), 'image')}: {counted(self.total('gained'), 'label')} gained, "
            f"{self.total('lost')} lost, {self.total('relabelled')} of another class"
        )

    def __str__(self) -> str:
        learned = Counter[str]()
        for counts in self.decisions.values():
            learned.update(counts)
        text = (
            f"Learned{'' if self.learned else ' nothing'} from {learned['accepted']} accepted, "
            f"{learned['edited']} edited and {counted(learned['rejected'], 'rejected label')}. "
            f"{'Changed' if self.applied else 'Would change'} {self.what_changes}, {self.total('unchanged')} unchanged "
            f"(of those with a score above {self.threshold:.2f}), {self.kept} kept as you decided."
        )
        text += "" if self.head is None else f" {self.head}"
        if not sum(learned.values()):
            return f"{text} {'; '.join(self.notes)}"
        return text if self.undecided else f"{text} {ALL_DECIDED}"


@with_bar
def learn(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    method: str = REFERENCES,
    apply: bool = False,
    bank_name: str | None = None,
    threshold: float | None = None,
    index_dir: str | Path | None = None,
    preset: str | Preset | None = None,
    progress: Progress | bool | None = None,
) -> LearnReport:
    """Learns from a review: accepted and edited labels become references, rejected ones examples of what is not wanted.

    Or they train a head: a small classifier of the candidates, which takes part in the scores where it is better than
    the matcher on reviewed images that it was not trained on; the report has both figures. It takes some images, and
    those marked as done (``mark_done``) teach it most: only they say what is not there.

    Then all samples of the run are matched again, from the candidate cache where they are in it. Without ``apply``
    nothing is written. With it, a new pass of the same run writes the labels, which ``undo_run`` takes back; decisions
    stay, and what contradicts them is not written.

    Args:
        view: the dataset, or the samples whose decisions to learn from.
        label_field: the field that a run wrote and a person reviewed.
        method: ``"references"``, ``"head"``, or ``"auto"`` for both: references, and a head where it is better than
            they are alone.
        apply: write the new labels.
        bank_name: name under which to keep the memory bank when it is applied; ``<label_field>_learned`` where
            ``None``.
        threshold: only labels with a score above this count in the report, those above which a review begins where
            ``None``: the fitted or the suggested one. All above those of the run are written.
        index_dir: folder of the candidate cache; where the run had it, or else the default one, where ``None``.
        preset: the preset of the run; only needed where that was a ``Preset`` object of your own.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        What was learned and what it changes.

    Raises:
        InputError: if no run wrote the field, nothing was decided, or a name is unusable.
        MissingWeightsError: if a model is needed and its weights are not on this machine.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> report = ntt.learn(dataset, "ntt")  # doctest: +SKIP
        >>> report = ntt.learn(dataset, "ntt", apply=True, bank_name="learned")  # doctest: +SKIP
    """
    progress, method, apply, threshold = check_arguments(
        LearnParams, progress, method=method, apply=apply, threshold=threshold
    )
    started = time.perf_counter()
    reviewed = whole_images(view)
    review = ReviewedRun.of(reviewed, label_field, index_dir, preset)
    name = bank_name or f"{label_field}_learned"
    _check_bank_name(review.dataset, name)
    decided = decided_labels(reviewed, label_field)
    done = done_images(reviewed, review.targets, label_field) if method != REFERENCES else {}
    if not decided and not len(reviewed):
        raise InputError(NO_IMAGES)
    if not decided and decided_labels(review.targets, label_field):
        raise InputError(
            f"none of the labels in {label_field!r} that somebody has decided on is in this view; choose the dataset, "
            "or a view that holds some"
        )
    if not decided:
        raise InputError(
            f"nobody has decided on a label in {label_field!r} yet: accept what is right, reject what is wrong "
            "(twenty labels are enough to begin with), then learn"
        )
    if threshold is None:
        threshold = first_threshold(review.dataset, label_field, table_of(review.dataset, label_field).refreshed())
    learned = teach(review, decided, done, method, progress)
    bank, decisions, errors = learned.bank, learned.decisions, learned.errors
    report = LearnReport(review.run_key, label_field, threshold, decisions, bank, errors=errors, head=learned.head)
    report.learned = method != HEAD or bank.head is not None or bank.classes != review.bank.classes
    report.changes = {name: ClassChange() for name in bank.classes}
    if apply:
        _mark_edited(review, decided)
        _write(review, report, progress)
        this = last_pass(review.dataset, review.run_key)
        # What somebody kept under that name before is replaced, as asked for, and not to be lost by an undo.
        if name not in list_banks(review.dataset) or name in _made_by(review):
            patiently(this.name_bank, name, bank.content_hash)
        save_bank(review.dataset, name, bank)
        report.bank_name = name
        patiently(this.tell, report.what_changes)
    else:
        _compare(review, report, progress)
        report.from_index, report.notes = review.source.from_index, review.source.notes
    report.notes += _left_out(decided)
    if learned.in_tiles:
        report.notes.append(f"{counted(learned.in_tiles, 'image')} looked at in tiles taught the head nothing")
    if not any(sum(counts.values()) for counts in decisions.values()):
        failed = all_failed(errors, "see to the files, then learn again") if errors else "see the notes"
        report.notes.insert(0, f"nothing was learned: {failed}")
    report.seconds = time.perf_counter() - started
    _keep_outcome(review.dataset, report)
    logger.info("%s", report)
    return report


def _check_bank_name(dataset: fo.Dataset, name: str) -> None:
    """Before anything is written, see ``save_bank``."""
    check_name(name)
    if dataset.has_run(name) and dataset.get_run_info(name).config.method != BANK:
        raise InputError(f"{name!r} is the key of another run; choose another name for the memory bank")


def _made_by(review: ReviewedRun) -> set[str]:
    """Names of the memory banks that learning on this run has kept with the dataset."""
    return {run_pass.bank for run_pass in passes(review.dataset, review.run_key) if run_pass.bank}


def _left_out(decided: dict[str, tuple[str, list[Document]]]) -> list[str]:
    """A line where labels that a person wants taught nothing, as they are marked as no examples."""
    count = sum(is_no_example(label) for _, labels in decided.values() for label in labels)
    why = "taught nothing, as marked for a crowd, difficult or to be ignored"
    return [f"{counted(count, 'label')} {why}"] if count else []


def _compare(review: ReviewedRun, report: LearnReport, progress: Progress | None) -> None:
    """Matches all samples again and counts what would be different; writes nothing."""
    total, done = len(review.targets), 0
    matcher, (thresholds, _) = Matcher(report.bank, review.config), review.thresholds_for(report.bank)

    def match(sample_id: str, content: StageOneResult | TiledImage) -> list[Document]:
        instances = match_image(matcher, content)
        if thresholds is not None:
            instances = instances.above(list(thresholds.values()))
        labels: list[Document] = to_document(instances, report.bank.classes)["detections"]
        return labels

    for paths, labels in labels_in_chunks(review.targets, review.label_field):
        found = review.source.outcomes(paths.items(), match, finishers=2, whole=review.config.to_the_bit)
        with closing(found) as outcomes:
            for outcome in outcomes:
                done += 1
                if outcome.error is not None:
                    report.errors[outcome.key] = describe_error(outcome.key, outcome.error)
                elif outcome.value is not None:
                    _count(report, outcome.key, labels[outcome.key], outcome.value)
        if progress is not None:
            progress(done, total, f"matched {done} of {counted(total, 'image')} again")


def _write(review: ReviewedRun, report: LearnReport, progress: Progress | None) -> None:
    """Makes a new pass of the run with the bank that has learned, and counts what is different as it is written."""
    seen: set[str] = set()

    def written(sample_id: str, before: list[Document], new: list[Document]) -> None:
        seen.add(sample_id)
        _count(report, sample_id, before, new)

    thresholds, suggested = review.thresholds_for(report.bank)
    applied = segment_again(
        review,
        bank=report.bank,
        overwrite=True,
        what=LEARNING,
        thresholds=thresholds,
        suggested=suggested,
        progress=progress,
        written=written,
    )
    report.errors |= applied.errors
    if applied.resumed or applied.by_others:  # an earlier call was stopped, or another worker shared the work
        for _, labels in labels_in_chunks(review.targets, review.label_field):
            for sample_id in labels.keys() - seen - applied.errors.keys():
                new = [label for label in labels[sample_id] if not stays(label)]
                _count(report, sample_id, labels[sample_id], new)
    report.applied, report.from_index = applied, review.source.from_index + applied.from_index
    report.notes = list(dict.fromkeys([*review.source.notes, *applied.notes]))


def _count(report: LearnReport, sample_id: str, before: list[Document], new: list[Document]) -> None:
    """Counts what becomes of the labels of one image."""
    stay = [label for label in before if stays(label)]
    old = [label for label in before if not stays(label)]
    report.kept, report.undecided = report.kept + len(stay), report.undecided + len(old)
    if changes_of(old, without_contradictions(new, stay), report.threshold, report.changes):
        report.changed.append(sample_id)


def _mark_edited(review: ReviewedRun, decided: dict[str, tuple[str, list[Document]]]) -> None:
    """Tags what a person edited or drew without saying so: it must outlive the pass that overwrites, and be counted."""
    which: dict[ObjectId, list[ObjectId]] = {}
    for sample_id, (_, labels) in decided.items():
        for label in filter(can_be_tagged, labels):
            if not DECIDED_TAGS & tags_of(label):
                which.setdefault(ObjectId(sample_id), []).append(label["_id"])
    if which:
        images = every_image(review.dataset)
        make_tag_lists(images, review.label_field, which)
        patiently(edit_label_tags, images, review.label_field, which, EDITED_TAG, add=True)


def _keep_outcome(dataset: fo.Dataset, report: LearnReport) -> None:
    """Keeps what a panel shows of a report, in place of what was kept for this field."""
    outcome = {
        "summary": str(report),
        "rows": report.rows(),
        "changed": report.changed[:MOST_IDS],
        "applied": report.applied is not None,
        "threshold": report.threshold,
    }
    patiently(store(dataset, LEARNED_STORE).set, report.label_field, outcome)


def last_outcome(dataset: fo.Dataset, label_field: str) -> dict[str, Any] | None:
    """What the last learning on a field came to; ``None`` if there is nothing."""
    outcome: dict[str, Any] | None = store(dataset, LEARNED_STORE).get(label_field)
    return outcome
