"""Takes reviewed labels out of FiftyOne, in a format that something smaller can be trained with."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fiftyone as fo
from bson import ObjectId
from fiftyone import ViewExpression
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from fiftyone.utils.yolo import YOLOv5DatasetExporter

from fiftyone_ntt.dataset.fields import (
    DECIDED_TAGS,
    PROTECTED_TAGS,
    REJECTED_TAG,
    check_detections_field,
    dataset_of,
    image_samples,
    whole_images,
)
from fiftyone_ntt.dataset.labels import is_edited
from fiftyone_ntt.dataset.storage import raw_values
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.runs.record import PROVENANCE

FORMATS = {"coco": "COCO", "yolo": "YOLO", "fiftyone": "FiftyOne dataset"}
"""Formats, and what they are called."""
ONLY = ("accepted", "all")
NOTE = "ntt_export.json"
"""File that tells what lies in the folder; only a folder with it is ever replaced."""
_TOLERANCE = 0.5  # pixels between a mask's border and its outline
_CHUNK = 100


@dataclass
class ExportReport:
    """What ``export_labels`` wrote.

    Attributes:
        folder: where it lies.
        format: ``"coco"``, ``"yolo"`` or ``"fiftyone"``.
        images: images written.
        labels: labels written.
        per_class: class -> labels written.
        how_to_load: the lines of Python that read it.
        notes: what whoever trains with it should know.
    """

    folder: str
    format: str
    images: int
    labels: int
    per_class: dict[str, int]
    how_to_load: str
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        classes = ", ".join(f"{count} {name}" for name, count in self.per_class.items())
        first = f"{self.labels} labels ({classes}) on {self.images} images written to {self.folder}"
        return "; ".join([first, *self.notes])


def export_labels(
    view: SampleCollection,
    export_dir: str | Path,
    label_field: str = "ntt",
    *,
    format: str = "coco",
    only: str = "accepted",
    score_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    export_media: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes labels and images to a folder. Labels that a person has rejected are always left out.

    COCO and YOLO keep outlines of masks: within a pixel, with holes filled, and in YOLO of the largest part only. The
    FiftyOne format keeps the masks as they are.

    Args:
        view: the samples; of grouped samples, those of the active slice.
        export_dir: folder to write; made if absent, must be empty otherwise.
        label_field: ``Detections`` field with the labels.
        format: ``"coco"``, ``"yolo"`` (segmentation) or ``"fiftyone"``.
        only: ``"accepted"`` writes what a person accepted, edited or drew, and the images that have such labels;
            ``"all"`` also what nobody has decided on, and images without labels.
        score_threshold: undecided labels at or below this score are left out.
        classes: the classes to write, in this order; those of the run that wrote the labels, else all, where ``None``.
        export_media: copy the images too.
        overwrite: replace an earlier export in this folder; any other folder that holds something is refused.
        progress: called with (done, total, message).

    Raises:
        InputError: if there is nothing to write, or the folder, a field or an option cannot be used.
        WrongTypeError: if the field holds something other than detections, or the samples are no images.
    """
    for name, value, allowed in (("format", format, FORMATS), ("only", only, ONLY)):
        if value not in allowed:
            raise InputError(f"expected {name} to be one of {', '.join(allowed)}; got {value!r}")
    view = whole_images(view)
    check_detections_field(view, label_field)
    folder = _checked_folder(export_dir, overwrite)
    if progress is not None:
        progress(0, 2, "looking for labels to export")
    chosen = chosen_labels(view, label_field, only=only, score_threshold=score_threshold, exact=True)
    names = _classes_of(chosen, label_field, classes)
    chosen = chosen.filter_labels(label_field, F("label").is_in(names), only_matches=only == "accepted")
    found = Counter(chosen.count_values(f"{label_field}.detections.label"))
    counts = {name: found[name] for name in names if found[name]}
    if not counts:
        raise InputError(f"nothing to export: {_why_nothing(view, label_field, only)}")
    if progress is not None:
        progress(1, 2, f"writing {sum(counts.values())} labels on {len(chosen)} images")
    report = ExportReport(str(folder), format, len(chosen), sum(counts.values()), counts, _how_to_load(folder, format))
    report.notes = _notes(view.select(chosen.values("id")), label_field, only)
    _write(chosen, folder, label_field, names, export_media, report)
    if progress is not None:
        progress(2, 2, "exported")
    return report


def chosen_labels(
    view: SampleCollection, label_field: str, *, only: str, score_threshold: float | None = None, exact: bool = False
) -> SampleCollection:
    """The view reduced to the labels that would be exported.

    Args:
        view: the samples.
        label_field: field of detections.
        only: ``"accepted"`` or ``"all"``.
        score_threshold: undecided labels at or below this score are left out.
        exact: also finds labels that a person edited without saying so, which takes reading every mask.
    """
    kept = F("tags").contains(list(PROTECTED_TAGS))
    if PROVENANCE in (dataset_of(view).get_field(label_field).info or {}):
        kept |= ~F("predicted_iou").exists()  # drawn by a person: no run leaves this out
    edited = _edited(view, label_field) if exact else []
    if edited:
        kept |= F("_id").is_in(edited)
    if only == "all":
        kept |= _true() if score_threshold is None else F("confidence") > score_threshold
    return view.filter_labels(label_field, ~F("tags").contains(REJECTED_TAG) & kept, only_matches=only == "accepted")


def count_chosen(
    view: SampleCollection, label_field: str, *, only: str, score_threshold: float | None = None
) -> tuple[int, int]:
    """How many labels on how many images ``export_labels`` would write, about: no mask is read."""
    chosen = chosen_labels(image_samples(view), label_field, only=only, score_threshold=score_threshold)
    return chosen.count(f"{label_field}.detections"), len(chosen)


def _true() -> ViewExpression:
    return F("_id").exists()


def _edited(view: SampleCollection, label_field: str) -> list[ObjectId]:
    """Labels without a decision's tag that are no longer as a run wrote them."""
    ids, found = view.values("id"), []
    for start in range(0, len(ids), _CHUNK):
        for document in raw_values(view.select(ids[start : start + _CHUNK]), label_field):
            for label in (document or {}).get("detections") or []:
                if not DECIDED_TAGS & set(label.get("tags") or ()) and is_edited(label):
                    found.append(label["_id"])
    return found


def _classes_of(view: SampleCollection, label_field: str, classes: Sequence[str] | None) -> list[str]:
    if isinstance(classes, str) or (classes is not None and (not classes or len(set(classes)) < len(classes))):
        raise InputError(f"expected a list of distinct class names, got {classes!r}")
    there = [name for name in view.distinct(f"{label_field}.detections.label") if name]
    if classes is not None:
        missing = sorted(set(classes) - set(there))
        if missing and len(missing) == len(classes):
            raise InputError(
                f"nothing to export: no label of {missing} among them; there is: {sorted(there) or 'none'}"
            )
        return list(classes)
    info = dataset_of(view).get_field(label_field).info or {}
    of_run = list((info.get(PROVENANCE) or {}).get("classes") or [])
    return [*of_run, *sorted(set(there) - set(of_run))]


def _why_nothing(view: SampleCollection, label_field: str, only: str) -> str:
    count = view.count(f"{label_field}.detections")
    if not count:
        return f"none of the {len(view)} samples has labels in {label_field!r}"
    if only == "accepted":
        return (
            f"none of the {count} labels in {label_field!r} has been accepted; accept some, or export all (only='all')"
        )
    return f"all {count} labels in {label_field!r} were rejected, have another class, or too low a score"


def _checked_folder(export_dir: str | Path, overwrite: bool) -> Path:
    """The folder as a full path; an earlier export in it is removed. Refuses to touch anything else that is there."""
    if not str(export_dir).strip() or "\0" in str(export_dir):
        raise InputError("expected the name of a folder to write to, got an empty one")
    folder = Path(export_dir).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder to write to, and {folder} is a file; choose another name")
    if not folder.exists() or not any(folder.iterdir()):
        return folder
    if not (folder / NOTE).is_file():
        raise InputError(f"the folder {folder} is not empty and holds no earlier export; choose another one")
    if not overwrite:
        raise InputError(f"the folder {folder} holds an earlier export; choose another one, or set overwrite")
    return folder


def _write(
    chosen: SampleCollection, folder: Path, label_field: str, names: list[str], export_media: bool, report: ExportReport
) -> None:
    """Writes beside the folder first: what goes wrong half-way leaves nothing, and an earlier export as it was."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{ObjectId()}")
    try:
        _export(chosen, made, label_field, report.format, names, export_media)
        facts = {"made": datetime.now(timezone.utc).isoformat(timespec="seconds"), "dataset": dataset_of(chosen).name}
        facts |= {"label_field": label_field, "classes": names, **asdict(report)}
        (made / NOTE).write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error}; choose a folder with room that you may write to"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _export(
    chosen: SampleCollection, folder: Path, label_field: str, format: str, names: list[str], export_media: bool
) -> None:
    common: dict[str, Any] = {"label_field": label_field, "progress": False}
    if format == "fiftyone":
        chosen.select_fields(label_field).export(
            export_dir=str(folder), dataset_type=fo.types.FiftyOneDataset, export_media=export_media, progress=False
        )
    elif format == "coco":
        categories = [{"id": i, "name": name, "supercategory": None} for i, name in enumerate(names, start=1)]
        chosen.export(
            export_dir=str(folder), dataset_type=fo.types.COCODetectionDataset, export_media=export_media,
            classes=names, categories=categories, extra_attrs=False, tolerance=_TOLERANCE, info={}, **common,
        )  # fmt: skip
    else:
        exporter = _OneOutline(
            export_dir=str(folder), split="train", classes=names, export_media=export_media, include_path=False
        )
        chosen.export(dataset_exporter=exporter, **common)
        if not export_media:  # FiftyOne writes no list of classes without images
            (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


class _OneOutline(YOLOv5DatasetExporter):  # type: ignore[misc]
    """YOLO knows one outline an object; FiftyOne would make an object of every part and of every hole of a mask."""

    def export_sample(self, image_or_path: Any, label: Any, metadata: Any = None) -> None:
        if isinstance(label, fo.Detections):
            label = fo.Polylines(polylines=[_outline(one) for one in label.detections])
        super().export_sample(image_or_path, label, metadata)


def _outline(label: fo.Detection) -> fo.Polyline:
    whole = label.to_polyline(tolerance=_TOLERANCE)
    if not whole.points:  # a speck: its box will do
        whole = fo.Detection(label=label.label, bounding_box=label.bounding_box).to_polyline()
    return fo.Polyline(label=label.label, points=[max(whole.points, key=_area)])


def _area(points: list[list[float]]) -> float:
    following = [*points[1:], points[0]]
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, following, strict=True)))


def _notes(images: SampleCollection, label_field: str, only: str) -> list[str]:
    if only != "accepted":
        return []
    undecided = ~F("tags").contains(list(DECIDED_TAGS)) & F("predicted_iou").exists()
    partly = len(images.filter_labels(label_field, undecided))
    return [f"{partly} of the images also hold labels that nobody has decided on: not written"] if partly else []


def _how_to_load(folder: Path, format: str) -> str:
    kinds = {"coco": "COCODetectionDataset", "yolo": "YOLOv5Dataset", "fiftyone": "FiftyOneDataset"}
    extra = {"coco": ', label_types=["segmentations"]', "yolo": ', split="train", label_type="instances"'}
    kind = f"dataset_type=fo.types.{kinds[format]}{extra.get(format, '')}"
    return f"import fiftyone as fo\ndataset = fo.Dataset.from_dir({str(folder)!r}, {kind})"
