"""What refining masks has replaced, kept with the dataset until it is taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
import fiftyone as fo
import numpy as np
from bson import ObjectId

from fiftyone_ntt.dataset.documents import (
    detection_of,
    documents_of,
    mask_of,
    set_documents,
    single_documents,
)
from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.dataset.labels import OF_REFINED, fingerprint, is_edited
from fiftyone_ntt.dataset.schema import check_lists_field
from fiftyone_ntt.dataset.shown_masks import files_shown
from fiftyone_ntt.dataset.storage import JsonStore, masks_folder, patiently, remove_masks, store
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.params.base import plain_values
from fiftyone_ntt.params.review import UndoRefinementParams
from fiftyone_ntt.runs.history import delete_large, get_large, set_large
from fiftyone_ntt.runs.mending import check_nobody_is_at
from fiftyone_ntt.runs.record import run_records

Document = dict[str, Any]
_SAMPLE, _CALLS = "sample:", "calls"
_FILES = "ntt_refined"
"""Where masks lie that are too large for the database, in place of the key of a run."""
_AT_ONCE, _ATTEMPTS = 50, 5


@dataclass(frozen=True)
class Replaced:
    """What was replaced on one label.

    Attributes:
        before: what stood there, by attribute; what was not there is not in it.
        names: the attributes that were written.
        shape: fingerprints of the box and the mask that the label had afterwards.
    """

    before: Document
    names: tuple[str, ...]
    shape: str

    def is_still(self, label: Mapping[str, Any]) -> bool:
        """Whether a label is as it was left: nobody has edited its shape since."""
        return not is_edited({**label, "written": self.shape})

    def over(self, earlier: Replaced | None) -> Replaced:
        """The same of two refinements: what was there before both comes back."""
        if earlier is None:
            return self
        before = {**{key: self.before[key] for key in self.before if key not in earlier.names}, **earlier.before}
        return Replaced(before, tuple(dict.fromkeys((*earlier.names, *self.names))), self.shape)

    def restored(self, label: Mapping[str, Any]) -> Document:
        """The label with what stood there before."""
        return {**{key: value for key, value in label.items() if key not in self.names}, **self.before}


def shape_of(label: Mapping[str, Any]) -> str:
    """Fingerprints of a label's box and mask. Raises InputError where it has none that can be read."""
    detection = detection_of(label)
    mask = mask_of(detection)
    return fingerprint(None, detection.bounding_box, np.zeros((0, 0), bool) if mask is None else np.asarray(mask) > 0)


class RefineHistory:
    """What was replaced on the labels of a dataset; of a label that was refined twice, what was there first.

    Labels are known by their ids: a field that was renamed since is found under its new name.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: fo.Dataset) -> None:
        self.dataset = dataset
        self._store: JsonStore = store(dataset, "ntt_refined")

    def begin(self) -> Path:
        """Counts a call, and returns the folder for its mask files; not made yet."""
        number = int(self._store.get(_CALLS) or 0)
        self._store.set(_CALLS, number + 1)
        return masks_folder(self.dataset, _FILES, number)

    def folders(self) -> Iterator[Path]:
        """The folder of each call."""
        for number in range(int(self._store.get(_CALLS) or 0)):
            yield masks_folder(self.dataset, _FILES, number)

    def keep(self, sample_id: str, labels: Mapping[ObjectId, Document], replaced: Mapping[ObjectId, Replaced]) -> None:
        """Notes what is about to be replaced.

        Args:
            sample_id: the sample.
            labels: its labels by id, as they are.
            replaced: what is replaced on them.
        """
        kept = self.kept([sample_id]).get(sample_id, {})
        for label_id, item in replaced.items():
            earlier = kept.get(label_id)
            # What a person edited in between is what comes back.
            kept[label_id] = item.over(earlier if earlier and earlier.is_still(labels[label_id]) else None)
        self._set(sample_id, kept)

    def kept(self, sample_ids: Sequence[str]) -> dict[str, dict[ObjectId, Replaced]]:
        """Sample id -> label id -> what was replaced on it."""
        found = get_large(self._store, [_SAMPLE + sample_id for sample_id in sample_ids])
        return {
            key.removeprefix(_SAMPLE): {
                ObjectId(label_id): Replaced(item["before"], tuple(item["names"]), item["shape"])
                for label_id, item in bson.decode(data).items()
            }
            for key, data in found.items()
        }

    def sample_ids(self) -> list[str]:
        """The samples of which something is kept."""
        return [key.removeprefix(_SAMPLE) for key in self._store.list_keys() if key.startswith(_SAMPLE)]

    def forget(self, sample_id: str, label_ids: Sequence[ObjectId]) -> None:
        """Forgets what was replaced on some labels."""
        kept = self.kept([sample_id]).get(sample_id, {})
        left = {label_id: item for label_id, item in kept.items() if label_id not in label_ids}
        if left:
            self._set(sample_id, left)
        else:
            delete_large(self._store, _SAMPLE + sample_id)

    def _set(self, sample_id: str, kept: Mapping[ObjectId, Replaced]) -> None:
        set_large(self._store, _SAMPLE + sample_id, bson.encode({str(key): vars(item) for key, item in kept.items()}))


def rewrite(
    dataset: fo.Dataset, label_field: str, sample_id: str, change: Callable[[list[Document]], list[Document]]
) -> None:
    """Changes the labels of a sample as they are in the database; again where somebody changed them meanwhile.

    Args:
        dataset: the dataset.
        label_field: the field.
        sample_id: the sample.
        change: makes the new labels of those that are there; the same ones where there is nothing to do.

    Raises:
        NttError: if others change the sample all the time.
    """
    for _ in range(_ATTEMPTS):
        there = patiently(documents_of, dataset, [sample_id], [label_field, "last_modified_at"]).get(sample_id)
        if there is None or not isinstance(there.get(label_field), dict):
            return
        labels = [dict(label) for label in single_documents(there[label_field])]
        new = change(labels)
        if new == labels:
            return
        values = {sample_id: {label_field: {**there[label_field], "detections": new}}}
        if not patiently(set_documents, dataset, values, {sample_id: there.get("last_modified_at")}):
            return
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
        InputError: if there is no such field, or a run is writing to it.
        WrongTypeError: if it holds something else than ``Detections``.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> restored = ntt.undo_refinement(dataset, "ntt")  # doctest: +SKIP
    """
    (label_field,) = plain_values(UndoRefinementParams, label_field=label_field)
    check_lists_field(dataset, label_field)
    patiently(check_no_run_at, dataset, label_field)
    history, restored = RefineHistory(dataset), 0
    ids = patiently(history.sample_ids)
    for start in range(0, len(ids), _AT_ONCE):
        kept = patiently(history.kept, ids[start : start + _AT_ONCE])
        for sample_id, replaced in kept.items():
            restored += _restore(history, label_field, sample_id, replaced)
    for folder in patiently(lambda: list(history.folders())):
        shown = patiently(files_shown, folder) if folder.is_dir() else set()
        if shown is not None:
            remove_masks(folder, shown)
    path = f"{label_field}.detections.{next(iter(OF_REFINED))}"
    if dataset.get_field(path) is not None and not every_image(dataset).count(path):
        dataset.delete_sample_field(path)
    return restored


def _restore(
    history: RefineHistory, label_field: str, sample_id: str, replaced: Mapping[ObjectId, Replaced]
) -> int:  # fmt: skip
    """Gives the labels of a sample back what was replaced on them; returns how many masks that were."""
    masks: set[ObjectId] = set()
    present: set[ObjectId] = set()

    def change(labels: list[Document]) -> list[Document]:
        masks.clear()
        present.clear()
        new = []
        for label in labels:
            item = replaced.get(label.get("_id"))  # type: ignore[arg-type]
            present.update([label["_id"]] if item else [])
            is_still = item is not None and item.is_still(label)
            new.append(item.restored(label) if item is not None and is_still else label)
            if item is not None and is_still and "bounding_box" in item.names:
                masks.add(label["_id"])
        return new

    rewrite(history.dataset, label_field, sample_id, change)
    if present:
        patiently(history.forget, sample_id, sorted(present))
    return len(masks)
