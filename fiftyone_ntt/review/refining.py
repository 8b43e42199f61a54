"""Crisp borders for labels that are there: their masks are shown to the mask model once more, close up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from bson import Binary, ObjectId
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.candidates.source import describe_error
from fiftyone_ntt.dataset.documents import (
    class_of,
    detection_of,
    documents_of,
    has_mask,
    sample_documents,
    tags_of,
)
from fiftyone_ntt.dataset.fields import REJECTED_TAG, image_samples, root_dataset_of
from fiftyone_ntt.dataset.geometry import place_mask
from fiftyone_ntt.dataset.given import checked_ids
from fiftyone_ntt.dataset.labels import (
    ATTRIBUTES,
    OF_REFINED,
    fingerprint_of_refined,
    is_edited,
    is_from_run,
    is_right,
    serialised,
)
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.schema import check_lists_field
from fiftyone_ntt.dataset.storage import database_collection, move_masks, patiently
from fiftyone_ntt.errors import DatabaseGoneError, InputError, LeaseLostError, counted, empty_list, listing
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.refine import Looks, Refined, refine
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.models import Preset, load_preset
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.review import RefineParams
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.review.decisions import check_classes
from fiftyone_ntt.review.refine_history import (
    SHAPE,
    RefineHistory,
    Replaced,
    check_no_run_at,
    labels_in,
    refining_alone,
    rewrite,
    shape_of,
)
from fiftyone_ntt.runs.history import kept_bank
from fiftyone_ntt.runs.record import provenance_of, run_of_field
from fiftyone_ntt.runs.workers import Worker

Document = dict[str, Any]
REASONS = {
    "small": "too small",
    "blank": "the old one has no pixel",
    "empty": "nothing came back",
    "overlap": "another shape came back",
    "area": "another size came back",
    "pieces": "it came back in more pieces",
    "quality": "the mask model was less sure of the new one",
    "similarity": "the new one looked less like its class",
    "unreadable": "the old one cannot be read",
}
"""Why an old mask stays, in words."""
KEPT = "kept: "
"""What the attribute ``refined`` of a label begins with whose old mask stays."""


@dataclass
class RefineReport:
    """What became of masks.

    Attributes:
        label_field: their field.
        refined: labels with a new mask.
        kept: why the old mask stays -> of how many labels; see ``REASONS``.
        of_person: labels that were left alone, as a person drew or edited their masks, or as they come from elsewhere.
        images: images with a new mask.
        errors: sample id -> what went wrong.
        advice: what to do where there is nothing to refine.
    """

    label_field: str
    refined: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    of_person: int = 0
    images: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    advice: str = "accept some labels first, or ask for all (only='all')"

    def rows(self) -> list[dict[str, Any]]:
        """A row for the new masks, and one for each reason why old ones stay."""
        kept = [{"what": f"kept: {REASONS[key]}", "labels": count} for key, count in self.kept.most_common()]
        return [{"what": "refined", "labels": self.refined}, *kept]

    def __str__(self) -> str:
        asked = self.refined + self.kept.total()
        text = f"Refined {self.refined} of {counted(asked, 'mask')} in {self.label_field!r}, in "
        text += counted(self.images, "image")
        if not asked and not self.errors:
            text = f"No mask in {self.label_field!r} to refine{'' if self.of_person else f': {self.advice}'}"
        reasons = "; ".join(f"{count} as {REASONS[key]}" for key, count in self.kept.most_common())
        text += f"; old masks stay: {reasons}" if reasons else ""
        if self.of_person:
            text += (
                f"; {counted(self.of_person, 'mask')} that a person drew or edited, or that no run wrote, stayed "
                "(edited=True refines these, too)"
            )
        text += f"; {counted(len(self.errors), 'image')} failed" if self.errors else ""
        return f"{text}."


@with_bar
def refine_labels(
    view: SampleCollection,
    label_field: str = "ntt",
    *,
    only: str = "accepted",
    label_ids: Iterable[str] | None = None,
    classes: Collection[str] | None = None,
    edited: bool = False,
    preset: str | Preset | None = None,
    device: str | None = None,
    progress: Progress | bool | None = None,
) -> RefineReport:
    """Gives labels crisper masks: the mask model sees each object close up, with its box, points and mask as prompts.

    A new mask must be the same object: of about the same size and place, in no more pieces, of no lower predicted IoU,
    and no less like its class where a run's memory bank tells. Otherwise the old one stays, and the label's attribute
    ``refined`` says why (``"kept: area"``); of a new mask it names the mask model. Class, score, tags and id stay: a
    refined mask is no edit of a person. ``undo_refinement`` takes it all back.

    Args:
        view: the samples, or patches; labels that the view filters out are left alone.
        label_field: field of the labels.
        only: ``"accepted"``, or ``"all"``: also those that nobody has decided on. Rejected ones are never refined.
        label_ids: only these labels, accepted or not.
        classes: only labels of these classes.
        edited: also masks that a person drew or edited, or that no run wrote; they stay a person's.
        preset: the models: a name or a ``Preset``, e.g. ``"hq"``; those of the field's run, or else ``"lite"``.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        How many masks were refined, and why others stay. An image that cannot be read is among its ``errors``.

    Raises:
        InputError: if there is no such field, a class or id is none or not there, an attribute of somebody else's is
            called as one that this writes, or a run or another call is writing to the field.
        WrongTypeError: if the field holds something else than ``Detections``.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> print(ntt.refine_labels(dataset, "ntt", classes=["cat"]))  # doctest: +SKIP
    """
    progress, label_field, only, classes, edited, preset, device = check_arguments(
        RefineParams, progress, label_field=label_field, only=only, classes=classes, edited=edited, preset=preset,
        device=device,
    )  # fmt: skip
    ids = None if label_ids is None else set(map(ObjectId, checked_ids(label_ids, "labels")))
    for name, given in (("label_ids", ids), ("classes", classes)):
        if given is not None and not len(given):
            raise InputError(empty_list(name))
    check_classes(view, label_field, classes)
    dataset = root_dataset_of(view)
    check_lists_field(dataset, label_field)
    _check_attributes(dataset, label_field)
    names = tuple(provenance_of(dataset, label_field).get("classes") or ())
    choice, report = _Choice(only, ids, classes, edited, names), RefineReport(label_field)
    if only == "all" or ids is not None:
        report.advice = "those asked for are rejected, or have no mask"
    wanted = _chosen(view, choice, report)
    if not wanted:
        patiently(check_no_run_at, dataset, label_field)
        return report
    with refining_alone(dataset, label_field) as worker:
        refiner = _Refiner.load(dataset, preset, device, report, choice, worker)
        for done, (sample_id, label_ids_there) in enumerate(wanted.items(), start=1):
            refiner.take(sample_id, label_ids_there)
            if progress is not None:
                progress(done, len(wanted), f"refined masks in {done} of {counted(len(wanted), 'image')}")
    return report


def _check_attributes(dataset: fo.Dataset, label_field: str) -> None:
    """Raises InputError where an attribute that refining writes is somebody else's."""
    root = f"{label_field}.detections"
    for name, (kind, description) in {**ATTRIBUTES, **OF_REFINED}.items():
        declared = dataset.get_field(f"{root}.{name}")
        is_others = declared is not None and not isinstance(declared, kind)
        if name in OF_REFINED and not is_others:
            is_ours = declared is not None and declared.description == description
            there: dict[str, Any] = {"$ne": None, **({"$not": {"$type": "string"}} if is_ours else {})}
            holds_others = database_collection(dataset).find_one({root: {"$elemMatch": {name: there}}}, {"_id": 1})
            is_others = holds_others is not None or (declared is not None and not is_ours)
        if is_others:
            raise InputError(
                f"labels in {label_field!r} have an attribute {name!r} of somebody else's, and refining writes one of "
                f"that name; call yours otherwise: dataset.rename_sample_field({root + '.' + name!r}, ...)"
            )


@dataclass(frozen=True)
class _Choice:
    """Which labels are wanted; ``names`` are the classes of the run that wrote the field."""

    only: str
    label_ids: Collection[ObjectId] | None
    classes: Collection[str] | None
    edited: bool
    names: tuple[str, ...]

    def takes(self, label: Mapping[str, Any]) -> bool:
        """Whether a label is one of those, whoever made its mask."""
        if not isinstance(label.get("_id"), ObjectId) or not has_mask(label) or REJECTED_TAG in tags_of(label):
            return False
        if self.classes is not None and class_of(label) not in self.classes:
            return False
        if self.label_ids is not None:
            return label["_id"] in self.label_ids
        return self.only == "all" or is_right(dict(label), self.names)

    def is_of_person(self, label: Mapping[str, Any]) -> bool:
        """Whether a mask is not as a run wrote it."""
        return not is_from_run(label) or is_edited(label, self.names)


def _chosen(view: SampleCollection, choice: _Choice, report: RefineReport) -> dict[str, set[ObjectId]]:
    """Sample id -> ids of the labels that are to be refined."""
    wanted: dict[str, set[ObjectId]] = {}
    seen: set[Any] = set()
    for sample in sample_documents(image_samples(view), [report.label_field]):
        if choice.label_ids is not None:
            seen.update(label["_id"] for label in sample.labels if isinstance(label.get("_id"), ObjectId))
        taken = [label for label in sample.labels if choice.takes(label)]
        of_person = [label for label in taken if not choice.edited and choice.is_of_person(label)]
        report.of_person += len(of_person)
        if left := {label["_id"] for label in taken} - {label["_id"] for label in of_person}:
            wanted.setdefault(sample.source_id, set()).update(left)
    if choice.label_ids is not None and seen.isdisjoint(choice.label_ids):
        raise InputError(
            f"expected ids of labels in {report.label_field!r} that are in the view, got "
            f"{listing(choice.label_ids, most=3)}; none of these is in it"
        )
    return wanted


@dataclass(eq=False)
class _Refiner:
    """Refines the labels of one sample after another; one that goes wrong is noted in the report."""

    dataset: fo.Dataset
    segmenter: Segmenter
    bank: MemoryBank | None
    report: RefineReport
    choice: _Choice
    worker: Worker
    history: RefineHistory
    folder: Path

    @classmethod
    def load(
        cls, dataset: fo.Dataset, preset: str | Preset | None, device: str | None, report: RefineReport,
        choice: _Choice, worker: Worker,
    ) -> _Refiner:  # fmt: skip
        """Loads the models; the memory bank of the field's run only helps where it was made with these."""
        run_key = run_of_field(dataset, report.label_field)
        bank = kept_bank(dataset, run_key) if run_key and dataset.has_run(run_key) else None
        chosen = preset or (bank.preset if bank is not None else "lite")
        segmenter = load_preset(chosen, device).segmenter()
        model = segmenter.feature_model
        knows = bank is not None and bank.weights.get(model.name) == model.weights_hash
        for name, (kind, description) in OF_REFINED.items():
            path = f"{report.label_field}.detections.{name}"
            dataset.add_sample_field(path, kind, description=description)
        history = RefineHistory(dataset, report.label_field)
        patiently(history.adopt, worker)
        folder = patiently(history.begin)
        return cls(dataset, segmenter, bank if knows else None, report, choice, worker, history, folder)

    def take(self, sample_id: str, label_ids: Collection[ObjectId]) -> None:
        """Refines some labels of a sample."""
        try:
            self._refine(sample_id, label_ids)
        except (DatabaseGoneError, LeaseLostError):
            raise
        except Exception as error:  # whatever one image does, the others go on
            self.report.errors[sample_id] = describe_error(sample_id, error)

    def _refine(self, sample_id: str, label_ids: Collection[ObjectId]) -> None:
        name = self.report.label_field
        there = patiently(documents_of, self.dataset, [sample_id], [name, "filepath"]).get(sample_id)
        if there is None:  # somebody has deleted the sample
            return
        labels = {label["_id"]: dict(label) for label in labels_in(there, name)
                  if isinstance(label.get("_id"), ObjectId) and label["_id"] in label_ids}  # fmt: skip
        image = read_image(str(there["filepath"]))
        tokens = self.segmenter.image_tokens(image) if self.bank is not None else None
        after: dict[ObjectId, Document] = {}
        kept: dict[ObjectId, str | None] = {}
        failed: list[str] = []
        for label_id, label in labels.items():
            try:
                refined = self._refined(label, image, tokens)
                after[label_id] = self._changes(label, refined, (image.shape[0], image.shape[1]))
                kept[label_id] = refined.kept
            except Exception as error:  # whatever one label does, the others of its image go on
                failed.append(f"label {label_id}: {describe_error(sample_id, error)}")
        if failed:
            self.report.errors[sample_id] = "; ".join(failed)
        written = [kept[label_id] for label_id in self._write(sample_id, labels, after)]
        count = written.count(None)
        self.report.refined, self.report.images = self.report.refined + count, self.report.images + bool(count)
        self.report.kept.update(reason for reason in written if reason is not None)

    def _refined(self, label: Document, image: NDArray[np.uint8], tokens: Any) -> Refined:
        """What becomes of a label's mask."""
        try:
            left, top, crop = place_mask(detection_of(label), (image.shape[0], image.shape[1]))
        except InputError:
            return Refined(PackedMask.from_crop(np.zeros((0, 0), bool), 0, 0), None, "unreadable")
        looks, class_name = None, class_of(label)
        if self.bank is not None and class_name in self.bank.classes:
            prototype = self.bank.prototypes[self.bank.classes.index(class_name)]
            looks = Looks(tokens, prototype, self.bank.center)
        estimate = None if self.choice.is_of_person(label) else _estimate_of(label)
        model, mask = self.segmenter.proposal_model, PackedMask.from_crop(crop, top, left)
        return refine(model, image, mask, predicted_iou=estimate, looks=looks)

    def _changes(self, label: Document, refined: Refined, size: tuple[int, int]) -> Document:
        """The attributes that a label gets."""
        if refined.kept is not None:
            earlier = label.get("refined")
            names_a_model = isinstance(earlier, str) and not earlier.startswith(KEPT)
            return {} if names_a_model else {"refined": KEPT + refined.kept}
        (x1, y1, x2, y2), crop, (height, width) = refined.mask.extent, refined.mask.crop(), size
        box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
        new: Document = {"bounding_box": box, "mask": Binary(serialised(crop)), "mask_path": None}
        if label.get("mask_path") is not None:  # where masks had no room in the database
            moved = {**label, **new}
            move_masks([moved], len(new["mask"]), self.folder)
            new |= {key: moved[key] for key in ("mask", "mask_path")}
        new["refined"] = self.segmenter.proposal_model.name
        if not self.choice.is_of_person(label):
            if _estimate_of(label) is not None:
                new["predicted_iou"] = refined.predicted_iou
            new["written"] = fingerprint_of_refined(label, box, crop, self.choice.names)
        return new

    def _write(
        self, sample_id: str, labels: Mapping[ObjectId, Document], after: Mapping[ObjectId, Document]
    ) -> Collection[ObjectId]:
        """What is replaced is kept first; a label that somebody reshaped or rejected meanwhile stays as it is.

        Returns:
            The labels that were as they had been read.
        """
        replaced = {}
        for label_id, new in after.items():
            label = labels[label_id]
            shapes = (shape_of({**label, **new}),) if "bounding_box" in new else ()
            if new:
                replaced[label_id] = Replaced({key: label[key] for key in new if key in label}, tuple(new), shapes)
        patiently(self.worker.renew)
        patiently(self.history.keep, sample_id, labels, replaced)

        def change(label: Document) -> Document | None:
            is_meant = label["_id"] in after and _is_as_read(label, labels) and self.choice.takes(label)
            return {**label, **after[label["_id"]]} if is_meant else None

        return rewrite(self.dataset, self.report.label_field, sample_id, change, self.worker.renew)


def _estimate_of(label: Mapping[str, Any]) -> float | None:
    """What a label says of the quality of its mask; ``None`` where it is no number."""
    value = label.get("predicted_iou")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def _is_as_read(label: Document, labels: Mapping[ObjectId, Document]) -> bool:
    """Whether a label is one of those that were read, of the same shape still."""
    read = labels[label["_id"]]
    return all(label.get(name) == read.get(name) for name in SHAPE)
