"""What refining masks has replaced, kept with the dataset until it is taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
import fiftyone as fo
import numpy as np
from bson import ObjectId

from fiftyone_ntt.dataset.documents import detection_of, documents_of, mask_of, set_documents, single_documents
from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.dataset.labels import OF_REFINED, fingerprint, is_edited
from fiftyone_ntt.dataset.schema import check_lists_field
from fiftyone_ntt.dataset.shown_masks import KEPT_FILES, files_shown
from fiftyone_ntt.dataset.storage import JsonStore, in_parts, masks_folder, patiently, remove_masks, store
from fiftyone_ntt.errors import DatabaseGoneError, InputError, LeaseLostError, NttError, counted
from fiftyone_ntt.params.base import plain_values
from fiftyone_ntt.params.review import UndoRefinementParams
from fiftyone_ntt.runs.history import delete_large, get_large, passes, set_large
from fiftyone_ntt.runs.mending import check_nobody_is_at
from fiftyone_ntt.runs.record import run_records
from fiftyone_ntt.runs.workers import Origin, Worker, forget_claims

Document = dict[str, Any]
SHAPE = ("bounding_box", "mask", "mask_path")
"""The attributes of a label that say where it lies."""
_SAMPLE, _CALLS = "sample:", "calls"
_FILES = "ntt_refined"
"""Where masks lie that are too large for the database, in place of the key of a run."""
_AT_ONCE, _ATTEMPTS = 50, 5


@dataclass(frozen=True)
class Replaced:
    """What was replaced on one label, or may have been: it is noted before it is done.

    Attributes:
        before: what stood there, by attribute; what was not there is not in it.
        names: the attributes that were written.
        shapes: fingerprints of each box and mask that refining may have left on the label; none where it left those.
    """

    before: Document
    names: tuple[str, ...]
    shapes: tuple[str, ...] = ()

    def is_still(self, label: Mapping[str, Any]) -> bool:
        """Whether a label is as it was left: nobody has edited its shape since."""
        return not self.shapes or any(not is_edited({**label, "written": shape}) for shape in self.shapes)

    def over(self, earlier: Replaced | None) -> Replaced:
        """The same of two refinements: what was there before both comes back, whether or not the second is written."""
        if earlier is None:
            return self
        before = {**{key: self.before[key] for key in self.before if key not in earlier.names}, **earlier.before}
        both = (dict.fromkeys((*a, *b)) for a, b in ((earlier.names, self.names), (earlier.shapes, self.shapes)))
        return Replaced(before, *map(tuple, both))

    def restored(self, label: Mapping[str, Any]) -> Document:
        """The label with what stood there before, its attributes in the order that they had."""
        left = {key: value for key, value in label.items() if key in self.before or key not in self.names}
        return {**left, **self.before}


def shape_of(label: Mapping[str, Any]) -> str:
    """Fingerprints of a label's box and mask. Raises InputError where it has none that can be read."""
    detection = detection_of(label)
    mask = mask_of(detection)
    return fingerprint(None, detection.bounding_box, np.zeros((0, 0), bool) if mask is None else np.asarray(mask) > 0)


class RefineHistory:
    """What was replaced on the labels of a field; of a label that was refined twice, what was there first.

    Its methods change what one sample has replaced in several steps: only one process at a time may do so on a field,
    see ``refining_alone``.

    Args:
        dataset: the dataset.
        label_field: the field.
    """

    def __init__(self, dataset: fo.Dataset, label_field: str) -> None:
        self.dataset, self.label_field = dataset, label_field
        self._store: JsonStore = store(dataset, "ntt_refined")

    def begin(self) -> Path:
        """Counts a call, and returns the folder for its mask files; not made yet. No two calls get the same one."""
        while True:
            number = self._store.get(_CALLS)
            if number is None and self._store.set_if_absent(_CALLS, 1):
                return masks_folder(self.dataset, _FILES, 0)
            if number is not None and self._store.compare_and_set(_CALLS, number, number + 1):
                return masks_folder(self.dataset, _FILES, int(number))

    def folders(self) -> Iterator[Path]:
        """The folder of each call, on whatever field."""
        for number in range(int(self._store.get(_CALLS) or 0)):
            yield masks_folder(self.dataset, _FILES, number)

    def keep(self, sample_id: str, labels: Mapping[ObjectId, Document], replaced: Mapping[ObjectId, Replaced]) -> None:
        """Notes what is about to be replaced.

        Args:
            sample_id: the sample.
            labels: its labels by id, as they are.
            replaced: what is replaced on them.

        Raises:
            NttError: if what was replaced there before cannot be read.
        """
        kept = self.kept([sample_id]).get(sample_id, {})
        for label_id, item in replaced.items():
            earlier = kept.get(label_id)
            # What a person edited in between is what comes back.
            kept[label_id] = item.over(earlier if earlier and earlier.is_still(labels[label_id]) else None)
        if replaced:
            self._set(sample_id, kept)

    def kept(
        self, sample_ids: Sequence[str], unreadable: dict[str, str] | None = None
    ) -> dict[str, dict[ObjectId, Replaced]]:
        """Sample id -> label id -> what was replaced on it.

        Args:
            sample_ids: the samples.
            unreadable: gets the samples of which that cannot be read, each with a sentence; they raise NttError where
                it is left out.
        """
        found = {}
        for key, data in get_large(self._store, [self._key(sample_id) for sample_id in sample_ids]).items():
            sample_id = key.rpartition(":")[2]
            try:
                found[sample_id] = {
                    ObjectId(label_id): Replaced(item["before"], tuple(item["names"]), tuple(item["shapes"]))
                    for label_id, item in bson.decode(data).items()
                }
            except Exception as error:  # whatever bytes may be there
                text = f"what refining replaced in sample {sample_id} cannot be read ({type(error).__name__}): it stays"
                if unreadable is None:
                    raise NttError(text) from error
                unreadable[sample_id] = text
        return found

    def sample_ids(self) -> list[str]:
        """The samples of which something is kept."""
        return self._sample_ids().get(self.label_field, [])

    def forget(self, sample_id: str, label_ids: Sequence[ObjectId]) -> None:
        """Forgets what was replaced on some labels."""
        kept = self.kept([sample_id]).get(sample_id, {})
        self._set(sample_id, {label_id: item for label_id, item in kept.items() if label_id not in label_ids})

    def adopt(self, worker: Worker) -> None:
        """Takes over what was kept under another name: people rename fields with FiftyOne's own tools.

        A label that is in this field and no longer in that one has moved. A copy of a field has no history.
        """
        for name, ids in self._sample_ids().items():
            if name == self.label_field:
                continue
            with worker.if_free(_place(name)) as is_free:
                for some in in_parts(ids if is_free else [], _AT_ONCE):
                    self._adopt(RefineHistory(self.dataset, name), some)

    def _adopt(self, other: RefineHistory, sample_ids: Sequence[str]) -> None:
        there = documents_of(self.dataset, sample_ids, [self.label_field, other.label_field])
        for sample_id, kept in other.kept(sample_ids, {}).items():
            here, left = (
                {label.get("_id") for label in labels_in(there.get(sample_id, {}), history.label_field)}
                for history in (self, other)
            )
            if moved := {key: item for key, item in kept.items() if key in here and key not in left}:
                self._set(sample_id, moved | self.kept([sample_id]).get(sample_id, {}))
                other.forget(sample_id, list(moved))

    def files_in_use(self, folder: Path) -> set[str] | None:
        """Mask files of a call that labels show, or that some may show once more; ``None`` where nobody can tell."""
        shown, unreadable = files_shown(folder), dict[str, str]()
        if shown is None or not {str(path) for path in folder.glob("*.png")} - shown:
            return shown
        # A label that is kept may be of the past of a run, or come back from somewhere.
        for name, ids in self._sample_ids().items():
            for some in in_parts(ids, _AT_ONCE):
                for kept in RefineHistory(self.dataset, name).kept(some, unreadable).values():
                    shown |= {str(folder / f"{label_id}.png") for label_id in kept}
        of_runs = self._files_of_runs(unreadable)
        return None if unreadable else shown | of_runs

    def _files_of_runs(self, unreadable: dict[str, str]) -> set[str]:
        """Mask files of labels that runs have replaced, and that come back when these are undone."""
        each = [run_pass for run_key in run_records(self.dataset) for run_pass in passes(self.dataset, run_key)]
        return {
            str(label.get("mask_path"))
            for run_pass in each
            for some in in_parts(run_pass.sample_ids(), _AT_ONCE)
            for labels, _ in run_pass.kept(some, unreadable).values()
            for label in single_documents(labels)
        }

    def _sample_ids(self) -> dict[str, list[str]]:
        """Name of each field, as it was called then -> the samples of which something is kept."""
        ids: dict[str, list[str]] = {}
        for key in self._store.list_keys():
            if key.startswith(_SAMPLE):
                name, _, sample_id = key.removeprefix(_SAMPLE).rpartition(":")
                ids.setdefault(name, []).append(sample_id)
        return ids

    def _key(self, sample_id: str) -> str:
        return f"{_SAMPLE}{self.label_field}:{sample_id}"

    def _set(self, sample_id: str, kept: Mapping[ObjectId, Replaced]) -> None:
        key = self._key(sample_id)
        # What comes back may show files of a run: undoing that run leaves them.
        if files := [path for item in kept.values() if (path := item.before.get("mask_path"))]:
            self._store.set(KEPT_FILES + key, files)
        if kept:
            set_large(self._store, key, bson.encode({str(label_id): vars(item) for label_id, item in kept.items()}))
        else:
            delete_large(self._store, key)
        if not files:
            self._store.delete(KEPT_FILES + key)


def _place(label_field: str) -> str:
    """What a process holds that refines the masks of a field, or takes that back; runs go on meanwhile."""
    return f"refining {label_field}"


@contextmanager
def refining_alone(dataset: fo.Dataset, label_field: str) -> Iterator[Worker]:
    """What is done inside, only one process at a time does to the masks of a field.

    Yields:
        Whose lease is to be renewed before each write.

    Raises:
        InputError: if another process is at it, or a run is writing to the field.
        LeaseLostError: if this process was taken for dead.
    """
    name = _place(label_field)  # no run is called so
    worker = patiently(Worker, dataset, name, Origin())
    try:
        with worker.if_free(name) as is_free:
            if not is_free:
                raise InputError(
                    f"masks in {label_field!r} are being refined, or that is being undone, right now; wait until it is "
                    "through, then call this again"
                )
            patiently(check_no_run_at, dataset, label_field)
            yield worker
    except LeaseLostError as error:
        raise LeaseLostError(
            f"this process gave no sign of life for so long that another one may be at the masks in {label_field!r}: "
            "it stops, what it has written stays; call this again for the rest"
        ) from error
    finally:
        worker.end()
    patiently(forget_claims, dataset, name)


def labels_in(document: Mapping[str, Any], label_field: str) -> list[Document]:
    """The labels of a sample's document in a field, which may lie in another one: ``"predictions.ntt"``."""
    return single_documents(_value_in(document, label_field))


def _value_in(document: Any, label_field: str) -> Any:
    for name in label_field.split("."):
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def rewrite(
    dataset: fo.Dataset,
    label_field: str,
    sample_id: str,
    change: Callable[[Document], Document | None],
    guard: Callable[[], None],
) -> dict[ObjectId, tuple[Document, Document]]:
    """Changes labels of a sample as they are in the database; again where somebody changed them meanwhile.

    Args:
        dataset: the dataset.
        label_field: the field.
        sample_id: the sample.
        change: what becomes of a label that has an id; ``None`` where it is none of those that are meant.
        guard: called before each write.

    Returns:
        Id of each label that was meant -> the label before, and now.

    Raises:
        NttError: if others change the sample all the time.
    """
    for _ in range(_ATTEMPTS):
        there = patiently(documents_of, dataset, [sample_id], [label_field, "last_modified_at"]).get(sample_id, {})
        value, changed = _value_in(there, label_field), dict[ObjectId, tuple[Document, Document]]()
        labels = value.get("detections") if isinstance(value, Mapping) else None
        new = list(labels) if isinstance(labels, list) else []
        for i, label in enumerate(new):
            if isinstance(label, dict) and isinstance(label.get("_id"), ObjectId):
                becomes = change(label)
                if becomes is not None:
                    new[i], changed[label["_id"]] = becomes, (label, becomes)
        if all(before == after for before, after in changed.values()):
            return changed
        values = {sample_id: {f"{label_field}.detections": new}}
        patiently(guard)
        if not patiently(set_documents, dataset, values, {sample_id: there.get("last_modified_at")}):
            return changed
    raise NttError(f"expected sample {sample_id} to stay as it is for a moment, and others write to it; try again")


def check_no_run_at(dataset: fo.Dataset, label_field: str) -> None:
    """Raises InputError where a run is writing to a field."""
    runs = run_records(dataset).items()
    check_nobody_is_at(dataset, label_field, [key for key, run in runs if run.get("label_field") == label_field])


def undo_refinement(dataset: fo.Dataset, label_field: str = "ntt") -> int:
    """Takes all refinements of a field's masks back: ``refine_labels`` was never called.

    A mask that a person edited since stays, and so do decisions. If this is interrupted, call it again.

    Args:
        dataset: the dataset.
        label_field: field of the labels.

    Returns:
        Number of labels that have their old mask again.

    Raises:
        InputError: if there is no such field, or a run or another call is writing to it.
        WrongTypeError: if it holds something else than ``Detections``.
        NttError: if some samples cannot be restored; all others are.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> restored = ntt.undo_refinement(dataset, "ntt")  # doctest: +SKIP
    """
    (label_field,) = plain_values(UndoRefinementParams, label_field=label_field)
    check_lists_field(dataset, label_field)
    with refining_alone(dataset, label_field) as worker:
        return _undo(RefineHistory(dataset, label_field), worker)


def _undo(history: RefineHistory, worker: Worker) -> int:
    dataset, restored, failed = history.dataset, 0, dict[str, str]()
    patiently(history.adopt, worker)
    for some in in_parts(patiently(history.sample_ids), _AT_ONCE):
        for sample_id, replaced in patiently(history.kept, some, failed).items():
            try:
                restored += _restore(history, sample_id, replaced, worker.renew)
            except (DatabaseGoneError, LeaseLostError):
                raise
            except Exception as error:  # whatever one sample does, the others are restored
                failed[sample_id] = f"sample {sample_id}: {error}"
    for folder in patiently(lambda: list(history.folders())):
        in_use = patiently(history.files_in_use, folder) if folder.is_dir() else set()
        if in_use is not None:
            remove_masks(folder, in_use)
    for name, (_, description) in OF_REFINED.items():
        path = f"{history.label_field}.detections.{name}"
        field = dataset.get_field(path)
        is_ours = field is not None and field.description == description
        # Labels of which something is kept may come back, as those that a run has replaced do.
        if is_ours and not patiently(history.sample_ids) and not every_image(dataset).count(path):
            dataset.delete_sample_field(path)
    if failed:
        raise NttError(
            f"{counted(restored, 'mask')} as before refining; {counted(len(failed), 'sample')} could not be restored, "
            f"e.g. {next(iter(failed.values()))}"
        )
    return restored


def _restore(
    history: RefineHistory, sample_id: str, replaced: Mapping[ObjectId, Replaced], guard: Callable[[], None]
) -> int:
    """Gives the labels of a sample back what was replaced on them; returns how many masks that were."""

    def change(label: Document) -> Document | None:
        item = replaced.get(label["_id"])
        restored = None if item is None else item.restored(label)
        # What somebody edited since stays; what was never written, or is restored already, is as it was.
        return restored if item is None or restored == label or item.is_still(label) else None

    changed = rewrite(history.dataset, history.label_field, sample_id, change, guard)
    if changed:
        patiently(guard)
        patiently(history.forget, sample_id, list(changed))
    return sum(any(before.get(key) != now.get(key) for key in SHAPE) for before, now in changed.values())
