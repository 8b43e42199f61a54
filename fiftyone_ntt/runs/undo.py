"""Takes a labelling run back: what it wrote goes, what it replaced (see ``history``) comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F
from pymongo.errors import DocumentTooLarge

from fiftyone_ntt.dataset.documents import documents_of, set_documents, stamp_of_now
from fiftyone_ntt.dataset.fields import every_image, has_labels
from fiftyone_ntt.dataset.labels import ATTRIBUTES
from fiftyone_ntt.dataset.parts import in_threads
from fiftyone_ntt.dataset.schema import declare_labels, declare_status
from fiftyone_ntt.dataset.shown_masks import files_shown
from fiftyone_ntt.dataset.storage import masks_folder, patiently, remove_masks
from fiftyone_ntt.errors import InputError, NttError, counted, listing
from fiftyone_ntt.params.base import plain_values
from fiftyone_ntt.params.labelling import UndoParams
from fiftyone_ntt.references.banks import bank_of_run, bank_summaries, list_banks, save_bank
from fiftyone_ntt.runs.history import Document, Pass, last_pass, passes
from fiftyone_ntt.runs.listing import layer_in_words, layers_of, list_runs
from fiftyone_ntt.runs.mending import check_nobody_is_at, forget_lost_labels, forget_review, forget_statuses
from fiftyone_ntt.runs.presence_fields import forget_presence
from fiftyone_ntt.runs.record import has_statuses, note_provenance, run_of_field, status_field
from fiftyone_ntt.runs.restored import Restored
from fiftyone_ntt.runs.states import delete_state
from fiftyone_ntt.runs.workers import Origin, Worker, forget_claims

_CHUNK = 50


def undo_run(dataset: fo.Dataset, run_key: str, *, keep_edited: bool = True) -> int:
    """Takes a labelling run back: its labels, mask files, image-level labels, statuses, new fields and record.

    Labels that a person has accepted or edited (tags ``ntt:accepted``, ``ntt:edited``, or another class, box or mask
    than the run wrote) stay unless told otherwise, and with them the field; labels that a person drew always stay, and
    so do mask files that labels of other datasets, of a copy for example, show.
    What ``overwrite=True`` replaced comes back. A run that has overwritten its own labels goes back by one such pass;
    with one of ``learn`` goes the memory bank that it kept with the dataset, unless another run uses that one.
    If this is interrupted, call it again.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.
        keep_edited: leave what a person has accepted or edited.

    Returns:
        Number of labels removed.

    Raises:
        InputError: if there is no such run, if it is at work or another run is writing to its field, or if another run
            has overwritten its labels since.
        DatabaseGoneError: if the database does not answer for minutes.
        NttError: if the database refuses to take some samples back; all others are restored.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> removed = ntt.undo_run(dataset, "ntt_ntt")  # doctest: +SKIP
    """
    run_key, keep_edited = plain_values(UndoParams, run_key=run_key, keep_edited=keep_edited)
    name, undoing = patiently(_check, dataset, run_key), f"undo of {run_key}"  # no run has a name like that
    worker = patiently(Worker, dataset, undoing, Origin())
    try:
        with worker.alone(name):  # no run begins on the field meanwhile
            removed = _undo(dataset, run_key, keep_edited, worker.renew)
    finally:
        worker.end()
    patiently(forget_claims, dataset, undoing)
    return removed


@dataclass(frozen=True)
class Undone:
    """What ``undo_last_layer`` took back, and what it would take back next.

    Attributes:
        run_key: the run.
        layer: what was taken back, in words.
        removed: number of labels removed.
        told: whether ``layer`` says what had changed: the number of labels that were replaced would only confuse then.
        bank: what became of the memory bank that the layer had made, in words; empty where there was none.
        left: what is left of the run, in words; empty where nothing is.
        stays: of a run of which nothing is left, whose labels are in its field; empty where there are none.
    """

    run_key: str
    layer: str
    removed: int
    told: bool
    bank: str = ""
    left: str = ""
    stays: str = ""

    def __str__(self) -> str:
        number = "" if self.told else f" ({counted(self.removed, 'label')} removed)"
        left = f"Nothing of it is left{f'; {self.stays}' if self.stays else ''}."
        if self.left:
            left = f"Left of it is {self.left}; undo_run would take that back next."
        return " ".join([f"Run {self.run_key!r}: took back {self.layer}{number}.", *filter(None, [self.bank]), left])


def undo_last_layer(dataset: fo.Dataset, run_key: str, *, keep_edited: bool = True) -> Undone:
    """``undo_run``, and what to say of it."""
    layers, this = layers_of(dataset, run_key), last_pass(dataset, run_key)
    removed = undo_run(dataset, run_key, keep_edited=keep_edited)
    last = layers[-1] if layers else None
    told, left = bool(last and last["told"]), layer_in_words(layers[-2]) if len(layers) > 1 else ""
    bank, stays = _fate_of_bank(dataset, this), _stays(dataset, this)
    return Undone(run_key, layer_in_words(last), removed, told, bank, left, stays)


def _fate_of_bank(dataset: fo.Dataset, this: Pass) -> str:
    """What became of the memory bank of a pass that was taken back, see ``_forget_bank``."""
    if not this.bank:
        return ""
    if this.bank not in list_banks(dataset):
        return f"The memory bank {this.bank!r}, which only that had made, went with it."
    uses = bank_summaries(dataset)[this.bank].content_hash == this.bank_hash
    return f"The memory bank {this.bank!r} {'stays: another run uses it' if uses else 'is that of before again'}."


def _stays(dataset: fo.Dataset, this: Pass) -> str:
    """Which labels are there after the last pass of a run was taken back, in words."""
    name = this.label_field
    if not name or not dataset.has_field(name) or not every_image(dataset).count(f"{name}.detections"):
        return ""
    whose = "those that it had replaced" if this.overwrites else "those that people accepted, edited or drew"
    return f"the labels in {name!r} are {whose}"


def _undo(dataset: fo.Dataset, run_key: str, keep_edited: bool, guard: Callable[[], None]) -> int:
    """Labels removed; ``guard`` is called before each chunk of samples and keeps one that lost its claim from it."""
    name = patiently(_check, dataset, run_key)  # again: others may have been at it until now
    this, removed = patiently(last_pass, dataset, run_key), 0
    if not dataset.has_field(name):
        patiently(forget_lost_labels, dataset, name)
        if this.overwrites:  # the labels of the run are gone, those that it replaced come back
            patiently(declare_labels, dataset, name)
            if not dataset.has_field(status_field(name)):
                patiently(declare_status, dataset, name, status_field(name))
    # Where this was interrupted, the field already says what it said before.
    owners = (None, run_key, (this.previous or {}).get("run_key"))
    if dataset.has_field(name) and run_of_field(dataset, name) in owners:
        removed, refused = _restore_samples(dataset, name, run_key, this, keep_edited, guard)
        if refused:
            sample_id, reason = next(iter(refused.items()))
            raise NttError(
                f"run {run_key!r} is undone but for {counted(len(refused), 'sample')} that cannot be taken back, e.g. "
                f"sample {sample_id}: {reason}; see to that, then call undo_run again"
            )
        forget_presence(dataset, name, run_key)
        patiently(forget_review, dataset, name)  # it is about labels that are gone
        patiently(_restore_provenance, dataset, name, run_key, this)
        patiently(_remove_fields, dataset, name, this)
    elif dataset.has_field(name):
        patiently(forget_statuses, dataset, name, run_key)  # labels of another run, in a field that was made anew since
    folder = masks_folder(dataset, run_key, this.number)
    shown = patiently(files_shown, folder) if folder.is_dir() else set()
    if shown is not None:
        remove_masks(folder, shown)
    _forget(dataset, run_key, name, this)
    return removed


def _forget_bank(dataset: fo.Dataset, run_key: str, this: Pass) -> None:
    """A memory bank that was kept for this pass alone goes, or is that of the pass before again."""
    kept = bank_summaries(dataset).get(this.bank) if this.bank else None
    if kept is None or kept.content_hash != this.bank_hash:
        return  # somebody has put another one in its place
    earlier = {run_pass.bank_hash for run_pass in passes(dataset, run_key) if run_pass.number < this.number}
    before = bank_of_run(dataset, run_key)  # the run's record is that of before by now
    if before.content_hash in earlier:
        save_bank(dataset, this.bank, before)
    elif not any(run.get("bank_hash") == this.bank_hash for run in list_runs(dataset) if run["run_key"] != run_key):
        dataset.delete_run(this.bank)


def _forget(dataset: fo.Dataset, run_key: str, name: str, this: Pass) -> None:
    """Last of all, and in this order: as long as they are there, ``undo_run`` can be called again."""
    if this.config is not None:
        patiently(_restore_record, dataset, run_key, name, this, this.config)
        patiently(_forget_bank, dataset, run_key, this)
        patiently(this.delete)
    else:
        patiently(this.delete)
        patiently(forget_claims, dataset, run_key)
        patiently(delete_state, dataset, run_key)
        patiently(_delete_record, dataset, run_key)


def _check(dataset: fo.Dataset, run_key: str) -> str:
    """The run's label field; refuses what cannot be undone."""
    # A run that waits for a worker to begin it has written nothing yet.
    runs = {run["run_key"]: run for run in list_runs(dataset) if dataset.has_run(run["run_key"])}
    if run_key not in runs:
        there = listing(map(repr, runs), like=repr(run_key))
        raise InputError(f"no labelling run {run_key!r} in {dataset.name!r}; there is: {there}")
    if runs[run_key].get("workers"):  # one that was cancelled may take a second to stop
        raise InputError(f"run {run_key!r} is at work; cancel it first, see cancel_run, and wait for it to stop")
    name = str(runs[run_key]["label_field"])
    if not name:
        raise InputError(f"run {run_key!r} cannot be undone: {runs[run_key]['error']}")
    others = [key for key, run in runs.items() if key != run_key and run["label_field"] == name]
    check_nobody_is_at(dataset, name, others)
    other = _run_above(dataset, name, run_key, others)
    if other is not None:
        raise InputError(f"run {other!r} has overwritten labels of run {run_key!r}; undo {other!r} first")
    return name


def _run_above(dataset: fo.Dataset, name: str, run_key: str, others: list[str]) -> str | None:
    """The run whose labels lie on those of another one, which is therefore to be undone before.

    The labels in the field tell: each pass knows whose labels it has replaced. A clock that was set back knows nothing.
    """
    left = {key: list(passes(dataset, key)) for key in (run_key, *others)}
    owner, over = run_of_field(dataset, name), None
    while owner is not None and owner != run_key and left.get(owner):
        over, owner = owner, _replaced(left[owner].pop())
    if owner == run_key and over is not None:
        return over
    while owner is not None and left.get(owner):
        owner = _replaced(left[owner].pop())
    # Passes of which the field knows nothing: of a run that is half undone, or of a field that was made anew since.
    last = last_pass(dataset, run_key).begun
    later = {key: [_replaced(one) for one in left[key] if one.begun > last] for key in others}
    return next((key for key, replaced in later.items() if run_key in replaced), None)


def _replaced(run_pass: Pass) -> str | None:
    """The run whose labels a pass has found in its field."""
    return (run_pass.previous or {}).get("run_key")


def _restore_samples(
    dataset: fo.Dataset, name: str, run_key: str, this: Pass, keep_edited: bool, guard: Callable[[], None]
) -> tuple[int, dict[str, str]]:
    """Labels removed, and the samples that could not be restored, each with the reason."""
    status, old_statuses = status_field(name), patiently(this.statuses)
    ids = patiently(_samples, dataset, name, run_key, this, old_statuses)
    removed, refused = 0, dict[str, str]()
    left = [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]

    def read(some: list[str]) -> Restored:
        there = patiently(documents_of, dataset, some, [name, "last_modified_at"])
        lost: dict[str, str] = {}
        replaced = patiently(this.kept, some, lost) if this.overwrites else {}  # other passes have kept nothing
        refused.update(lost)
        there = {sample_id: document for sample_id, document in there.items() if sample_id not in lost}
        return Restored.of(there, replaced, name, old_statuses, this.overwrites, keep_edited)

    while left:
        chunks, left = left, []
        # Some chunks are read while those before are written; what changes in between is known by its stamp.
        for chunk in in_threads(read, chunks):
            patiently(guard)
            changed, not_taken = _set(dataset, name, chunk.labels, chunk.stamps)
            if changed:  # somebody decided on labels there since they were read: once more, with that
                left.append(changed)
            removed += sum(count for sample_id, count in chunk.gone.items() if sample_id not in changed)
            # A status stays where the labels did: it is by the status that the next call finds the sample.
            kept = {*changed, *not_taken} if has_statuses(dataset, name) else chunk.statuses.keys()
            statuses = {key: value for key, value in chunk.statuses.items() if key not in kept}
            refused |= not_taken | _set(dataset, status, statuses)[1]
    return removed, refused


def _samples(
    dataset: fo.Dataset, name: str, run_key: str, this: Pass, old_statuses: dict[str, Document]
) -> list[str]:  # fmt: skip
    """The samples that a pass has written, or whose status it has cleared."""
    if this.overwrites:
        return sorted({*this.sample_ids(), *old_statuses})
    status = status_field(name)
    labelled = has_labels(dataset, name)
    if not has_statuses(dataset, name):
        return list(every_image(dataset).match(labelled).values("id"))
    # A run that was killed between labels and statuses leaves labels without a status.
    of_this_run = (F(f"{status}.run_key") == run_key) | (labelled & ~F(f"{status}.run_key").exists())
    return list(every_image(dataset).match(of_this_run).values("id"))


def _set(
    dataset: fo.Dataset,
    field: str,
    documents: dict[str, Document | None],
    stamps: dict[str, Any] | None = None,
    now: datetime | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Writes documents.

    Returns:
        The samples left alone, as they are not as their stamps say any more, and those that the database refuses, each
        with the reason.
    """
    if not documents or not dataset.has_field(field):
        return [], {}
    values, now = {key: {field: document} for key, document in documents.items()}, now or stamp_of_now()
    try:
        return patiently(set_documents, dataset, values, stamps, now), {}
    except (ValueError, DocumentTooLarge) as error:  # FiftyOne turns what MongoDB refuses into a ValueError
        if len(documents) == 1:
            return [], dict.fromkeys(documents, str(error))
    changed, refused = list[str](), dict[str, str]()
    for key in documents:
        own = None if stamps is None else {key: stamps[key]}
        left_alone, reasons = _set(dataset, field, {key: documents[key]}, own, now)
        changed, refused = [*changed, *left_alone], {**refused, **reasons}
    return changed, refused


def _restore_record(dataset: fo.Dataset, run_key: str, name: str, this: Pass, facts: dict[str, Any]) -> None:
    plain = {key: value for key, value in facts.items() if key not in ("cls", "type")}
    config = dataset.init_run(**{**plain, "record": {**plain["record"], "label_field": name}})
    dataset.register_run(run_key, config, overwrite=True)
    results = this.results(config, run_key)
    if results is not None:
        dataset.save_run_results(run_key, results, cache=False)


def _delete_record(dataset: fo.Dataset, run_key: str) -> None:
    if dataset.has_run(run_key):
        dataset.delete_run(run_key)


def _restore_provenance(dataset: fo.Dataset, name: str, run_key: str, this: Pass) -> None:
    """The field names the run before; where there was none, the labels that stay are a person's now."""
    if this.previous or run_of_field(dataset, name) == run_key:
        note_provenance(dataset, name, {**this.previous, "label_field": name} if this.previous else None)


def _remove_fields(dataset: fo.Dataset, name: str, this: Pass) -> None:
    """Removes the fields that the run has made, unless something is in them."""
    status = status_field(name)
    created = [name, status]  # of runs of earlier versions, and in copies of a dataset, no pass is known
    if this.exists:  # its field may be called otherwise now
        created = [name + path.removeprefix(this.label_field or name) for path in this.made]
    if name in created and not every_image(dataset).count(f"{name}.detections"):
        dataset.delete_sample_field(name)
    else:
        for path in (f"{name}.detections.{attribute}" for attribute in ATTRIBUTES):
            if path in created and dataset.get_field(path) is not None and not every_image(dataset).count(path):
                dataset.delete_sample_field(path)
    if status in created and has_statuses(dataset, name) and not every_image(dataset).count(f"{status}.run_key"):
        dataset.delete_sample_field(status)  # and its index
