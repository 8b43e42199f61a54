"""From detections to semantic segmentation masks, called maps here for short."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import class_of, detection_of, score_of, single_documents
from fiftyone_ntt.dataset.fields import (
    check_detections_field,
    count_classes,
    dataset_of,
    every_image,
    is_map_field,
    whole_images,
    with_sizes,
)
from fiftyone_ntt.dataset.given import class_list
from fiftyone_ntt.dataset.marks import left_out_mark
from fiftyone_ntt.dataset.parts import part_of, selections, shows_whole_lists
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.storage import in_parts, patiently, raw_values
from fiftyone_ntt.errors import InputError, WrongTypeError, as_text, counted, listing
from fiftyone_ntt.evaluation.map_documents import (
    Document,
    Ranking,
    check_map_size,
    is_as_written,
    maps_info,
    piece_of,
    to_map_document,
)
from fiftyone_ntt.evaluation.objects import size_of
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.review import ToSegmentationParams
from fiftyone_ntt.pixels.semantic_maps import Piece
from fiftyone_ntt.runs.record import MAPS, provenance_of

logger = logging.getLogger(__name__)

ONLY = ("all", "accepted")
_CHUNK = 20
"""Samples whose labels and maps are in memory at once."""


@dataclass
class MapsReport:
    """What ``to_segmentation`` did.

    Attributes:
        label_field: field that the maps were made from.
        out_field: field that holds them.
        classes: class names; the value of class i is i + 1.
        maps: maps written.
        unlabelled: samples without a map, since they have no labels (or none that was accepted).
        kept: maps left as they were, since a person changed or drew them.
        boxes: labels without a mask, whose filled box stands in for it.
        empty: maps of nothing but background.
        marked: labels marked as a crowd, as difficult or as to be ignored, which are painted like others.
        errors: sample id -> why it has no map, or which of its labels are not in it.
        notes: what else is worth knowing.
    """

    label_field: str
    out_field: str
    classes: tuple[str, ...]
    maps: int = 0
    unlabelled: int = 0
    kept: int = 0
    boxes: int = 0
    marked: int = 0
    empty: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        masks, classes = counted(self.maps, "segmentation mask"), counted(len(self.classes), "class", "classes")
        more = (
            (self.unlabelled, "sample", f"without labels in {self.label_field!r} to make a mask from"),
            (self.kept, "mask", "kept, as changed by a person (pass overwrite=True to replace them)"),
            (self.boxes, "label", "without a mask: the filled box stands in for it"),
            (self.marked, "label", "marked as a crowd, as difficult or to be ignored, painted like others (evaluate "
             "against the labels to leave their pixels out)"),
            (len(self.errors), "sample", "failed, or with labels that cannot be used"),
        )  # fmt: skip
        parts = [f"{counted(count, what)} {why}" for count, what, why in more if count]
        if self.maps and self.empty == self.maps:
            parts.append("all of them are background: no label counts; lower score_threshold, or choose other classes")
        if not (self.maps or self.kept or self.errors):
            parts.append("label images first, or choose a view that holds labelled ones")
        return "; ".join([f"{masks} of {classes} written to {self.out_field!r}", *parts, *self.notes])


@with_bar
def to_segmentation(
    view: SampleCollection,
    label_field: str = "ntt",
    out_field: str = "ntt_semantic",
    *,
    score_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    only: str = "all",
    overwrite: bool = False,
    progress: Progress | bool | None = None,
) -> MapsReport:
    """Paints the labels of each image into one semantic segmentation mask.

    Where labels overlap the surest is on top: what a person accepted, edited or drew, then by score; of equal ones the
    smaller. The value of a class is 1 + its place among the classes, 0 is background; the dataset's mask targets say
    so. Labels that a person has rejected never count. The same call again rebuilds the masks, e.g. after a review.

    Args:
        view: the samples, with the labels that it shows; of grouped samples, those of the active slice. One that was
            never labelled gets no map.
        label_field: ``Detections`` field to read.
        out_field: ``Segmentation`` field to write; made if absent.
        score_threshold: undecided labels at or below this score are left out.
        classes: the classes, in the order of their values, all others being background. Where ``None``, those of the
            run that wrote the labels, and after them what else there is in the dataset.
        only: ``"accepted"`` paints what a person accepted, edited or drew, and only images that have such labels;
            ``"all"`` also what nobody has decided on.
        overwrite: also replace maps that something else wrote, or that a person changed.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Raises:
        InputError: if a field, class or option cannot be used, or ``out_field`` holds what would be lost.
        WrongTypeError: if a field is of the wrong type, or the samples are no images.

    Example:
        >>> print(ntt.to_segmentation(dataset, "ntt", "ntt_semantic", only="accepted"))  # doctest: +SKIP
        12 segmentation masks of 3 classes written to 'ntt_semantic'
        >>> dataset.mask_targets["ntt_semantic"]  # doctest: +SKIP
        {1: 'coin', 2: 'stamp', 3: 'note'}
    """
    if only not in ONLY:
        raise InputError(f"expected only to be one of {', '.join(ONLY)}; got {only!r}")
    progress, score_threshold, overwrite = check_arguments(
        ToSegmentationParams, progress, score_threshold=score_threshold, overwrite=overwrite
    )
    view = whole_images(view)
    check_detections_field(view, label_field)
    names = _class_names(view, label_field, class_list(classes))
    _check_out_field(view, out_field, names, overwrite)
    report = MapsReport(label_field, out_field, tuple(names))
    samples = with_sizes(view, report.notes)
    choice = {"only": only, "score_threshold": score_threshold}
    _declare(dataset_of(view), report, choice)
    painter = _Painter(report, only, Ranking.of(view, label_field, score_threshold), overwrite)
    total, done = len(samples), 0
    for some in _chunks(samples, label_field, out_field):
        painted = {each[0]: painter(*each) for each in some}
        _write(dataset_of(view), report, {key: new for key, (changes, new) in painted.items() if changes})
        done += len(some)
        if progress is not None:
            progress(done, total, f"painted {done} of {counted(total, 'image')}")
    logger.info("%s", report)
    return report


def _class_names(view: SampleCollection, label_field: str, classes: Sequence[str] | None) -> list[str]:
    if isinstance(classes, str) or (classes is not None and (not classes or len(set(classes)) < len(classes))):
        raise InputError(f"expected a list of distinct class names, got {classes!r}")
    dataset = dataset_of(view)
    there = set(count_classes(every_image(dataset), label_field))
    # A view may call classes by other names: behind those that there are, whose values stay what they are.
    renamed = set() if shows_whole_lists(view, label_field) else set(count_classes(view, label_field)) - there
    if classes is not None:
        if not (there | renamed) & set(classes):
            raise InputError(
                f"expected classes of the labels in {label_field!r}, got {listing(map(repr, classes))}; there is: "
                f"{listing(sorted(there | renamed), like=classes[0])}"
            )
        return list(classes)
    # Of the whole dataset, not of the view: the values must mean the same in every call.
    of_run = list(provenance_of(dataset, label_field).get("classes") or [])
    names = [*of_run, *sorted(there - set(of_run)), *sorted(renamed - set(of_run))]
    if not names:
        raise InputError(f"expected labels to paint, and {label_field!r} holds none; label some images first")
    return names


def _check_out_field(view: SampleCollection, name: str, classes: list[str], overwrite: bool) -> None:
    """Refuses to lose what something else wrote, and to give values another meaning behind the back of other maps."""
    dataset = dataset_of(view)
    choices = "choose another out_field, or pass overwrite=True"
    is_text = isinstance(name, str)
    if not is_text or not dataset.has_field(name):
        if not is_text or not name.isidentifier() or name.startswith("_"):
            raise InputError(f"expected out_field to be a name of letters, digits and underscores, got {name!r}")
        return
    if not is_map_field(dataset, name):
        raise WrongTypeError(
            f"field {name!r} exists and does not hold semantic segmentation masks; choose another out_field"
        )
    maps, before = every_image(dataset).exists(name), maps_info(dataset, name).get("classes")
    count = len(maps)
    if not count or (before is not None and classes[: len(before)] == before):
        return
    if not overwrite:
        reason = "that something else wrote" if before is None else f"of the classes {before}, not {classes}"
        raise InputError(f"field {name!r} holds {counted(count, 'mask')} {reason}; {choices}")
    others = count - sum(map(len, selections(maps, view.values("id"))))
    if others:
        meant = before or dataset.mask_targets.get(name) or "unknown"
        raise InputError(
            f"field {name!r} holds {counted(others, 'more mask')} outside of this view, whose values mean {meant}; "
            "choose another out_field, or rebuild the masks of all images"
        )


def _declare(dataset: fo.Dataset, report: MapsReport, choice: dict[str, Any]) -> None:
    """Makes the field, and says what its values mean and where they come from."""
    name = report.out_field
    if not dataset.has_field(name):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Segmentation)
    description = "fingerprint of the map as it was written; tells what was changed since"
    dataset.add_sample_field(f"{name}.written", fo.StringField, description=description)
    made_from = {
        "label_field": report.label_field,
        "classes": list(report.classes),
        **choice,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "run": provenance_of(dataset, report.label_field),
    }
    out = dataset.get_field(name)
    out.info = {**(out.info or {}), MAPS: made_from}
    out.save()
    dataset.mask_targets = {**dataset.mask_targets, name: dict(enumerate(report.classes, start=1))}
    dataset.save()


def _chunks(
    samples: SampleCollection, label_field: str, out_field: str
) -> Iterator[list[tuple[str, Document | None, Document | None, tuple[int, int]]]]:
    """Id, labels (as the view shows them), map and image size of each of some samples at a time."""
    ids, images = patiently(samples.values, "id"), every_image(dataset_of(samples))
    names = ["id", "filepath", "metadata.height", "metadata.width"]
    for some in in_parts(ids, _CHUNK):
        rows = zip(*patiently(raw_values, part_of(samples, some), [*names, label_field]), strict=True)
        # A map that the view hides is there nevertheless, and perhaps a person's.
        maps = dict(zip(*patiently(raw_values, part_of(images, some), ["id", out_field]), strict=True))
        sized = ((key, labels, size_of(*where)) for key, *where, labels in rows)
        yield [(str(key), labels, maps.get(key), size) for key, labels, size in sized if size is not None]


@dataclass(frozen=True)
class _Painter:
    """Makes the map of a sample.

    Attributes:
        report: is told what happened.
        only: of ``ONLY``.
        ranking: of the labels.
        overwrite: replace what a person changed.
    """

    report: MapsReport
    only: str
    ranking: Ranking
    overwrite: bool

    def __call__(
        self, sample_id: str, labels: Document | None, old: Document | None, size: tuple[int, int]
    ) -> tuple[bool, Document | None]:
        """Whether the sample's map changes, and the new one; ``None`` for no map."""
        if old is not None and not self.overwrite and not is_as_written(old):
            self.report.kept += 1
            return False, None
        chosen = None if labels is None else self._chosen(labels)
        if chosen is None or (self.only == "accepted" and not chosen):
            self.report.unlabelled += 1
            return old is not None, None
        try:
            check_map_size(size, len(self.report.classes))
        except InputError as error:
            self.report.errors[sample_id] = str(error)
            return old is not None, None
        pieces, unusable = [], []
        for label, rank in chosen:
            try:
                pieces.append(self._piece(label, rank, size))
            except InputError as error:
                unusable.append(f"label {label.get('_id')} ({as_text(class_of(label))}): {error}")
        if unusable:  # the others are painted
            self.report.errors[sample_id] = "; ".join(unusable)
        if unusable and not pieces:
            return old is not None, None
        self.report.maps += 1
        self.report.empty += not pieces
        return True, to_map_document(pieces, size, len(self.report.classes))

    def _chosen(self, labels: Document) -> list[tuple[Document, tuple[float, ...]]]:
        """The labels that count, and their ranks."""
        ranked = (
            (label, self.ranking.rank(label))
            for label in single_documents(labels)
            if class_of(label) in self.report.classes
        )
        return [(label, rank) for label, rank in ranked if rank is not None and (self.only == "all" or rank[0])]

    def _piece(self, document: Document, rank: tuple[float, ...], size: tuple[int, int]) -> Piece:
        score_of(document)
        label = detection_of(document)
        self.report.boxes += not label.has_mask
        self.report.marked += left_out_mark(document) is not None
        return piece_of(label, 1 + self.report.classes.index(document["label"]), rank, size)


def _write(dataset: fo.Dataset, report: MapsReport, maps: dict[str, Document | None]) -> None:
    def save(some: dict[str, Document | None]) -> None:
        if some:
            dataset.set_values(report.out_field, some, key_field="id", validate=False, dynamic=False)

    try:
        patiently(save, maps)
    except ValueError:  # FiftyOne turns what MongoDB refuses into this; one sample must not cost the others theirs
        for sample_id, document in maps.items():
            try:
                patiently(save, {sample_id: document})
            except ValueError as error:
                report.maps -= document is not None
                report.errors[sample_id] = f"the database refuses to save the mask: {error}"
