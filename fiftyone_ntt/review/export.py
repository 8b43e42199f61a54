"""Takes reviewed labels out of FiftyOne, in a format that something smaller can be trained with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from PIL import Image

from fiftyone_ntt.dataset.documents import Document, class_of, detection_of, single_documents
from fiftyone_ntt.dataset.fields import (
    DECIDED_TAGS,
    check_detections_field,
    count_classes,
    count_labels_in,
    dataset_of,
    is_tagged,
    whole_images,
    with_labels,
)
from fiftyone_ntt.dataset.geometry import box_in_pixels, place_mask
from fiftyone_ntt.dataset.given import class_list
from fiftyone_ntt.dataset.marks import is_crowd, is_ignored
from fiftyone_ntt.dataset.parts import part_of, selections
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.storage import raw_values
from fiftyone_ntt.errors import InputError, as_text, counted
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.review import ExportParams
from fiftyone_ntt.pixels.frames import whole_pixels
from fiftyone_ntt.pixels.images import decode_image, image_size, read_bytes, upright_size
from fiftyone_ntt.review.export_choice import chosen_labels, classes_of, note_of_unlabelled, why_nothing
from fiftyone_ntt.review.export_fiftyone import write_fiftyone
from fiftyone_ntt.review.export_folder import NOTE, checked_folder, files_in, give_name, place_to_fill, write_error
from fiftyone_ntt.review.export_formats import (
    IMAGES,
    CocoWriter,
    PlacedLabel,
    YoloWriter,
    count_on_disk,
    save,
)
from fiftyone_ntt.review.export_names import Names, for_yolo

FORMATS = {"coco": "COCO", "yolo": "YOLO", "fiftyone": "FiftyOne dataset"}
"""Formats, and what they are called."""
ONLY = ("accepted", "done", "all")
MASKS = ("rle", "polygons")
_CHUNK = 100
_MOST_LINES, _LONGEST_PATH = 20, 1000
_ANY_SIZE = (1024, 1024)  # to look at labels of an image whose size nobody needs


@dataclass
class ExportReport:
    """What ``export_labels`` wrote, counted in the files that lie on disk.

    Attributes:
        folder: where it lies.
        format: ``"coco"``, ``"yolo"`` or ``"fiftyone"``.
        images: images written.
        labels: labels written.
        per_class: class -> labels written.
        how_to_load: the lines of Python that read it.
        notes: what whoever trains with it should know.
        files: files in the folder.
        left_out: one line for each image or label that could not be written, with the reason.
        renamed: name of an image in the export -> its path, where the name is not the end of that path.
    """

    folder: str
    format: str
    images: int
    labels: int
    per_class: dict[str, int]
    how_to_load: str
    notes: list[str] = field(default_factory=list)
    files: int = 0
    left_out: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        classes = ", ".join(f"{count} {as_text(name)}" for name, count in self.per_class.items())
        first = (
            f"{counted(self.labels, 'label')} ({classes}) on {counted(self.images, 'image')} written to {self.folder}"
        )
        lines = ["; ".join([first, *self.notes]), *(as_text(line, 2000) for line in self.left_out[:_MOST_LINES])]
        if len(self.left_out) > _MOST_LINES:
            lines.append(f"and {len(self.left_out) - _MOST_LINES} more left out: see left_out in {NOTE}")
        return "\n- ".join(lines)


@with_bar
def export_labels(
    view: SampleCollection,
    export_dir: str | Path,
    label_field: str = "ntt",
    *,
    format: str = "coco",
    only: str = "accepted",
    score_threshold: float | None = None,
    classes: Sequence[str] | None = None,
    masks: str = "rle",
    export_media: bool = True,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
) -> ExportReport:
    """Writes labels and images to a folder. Labels that a person has rejected are always left out.

    COCO keeps masks as they are, as run lengths; ``masks="polygons"`` is for tools that read nothing else. YOLO knows
    one polygon an object: parts and holes are joined by bridges. Polygons run along the edges of pixels, and what they
    still lose is counted in the report. A label without a mask is written as its filled box. The attribute ``iscrowd``
    of a label goes out with it; YOLO knows no crowds, so they are left out there.

    Images are named by their path below the folder that they all share, so that ``left/0.jpg`` and ``right/0.jpg`` stay
    apart; without copies COCO has the images' own paths. What trainers of YOLO models do not read (GIF, say) is written
    as PNG. An image or a label that cannot be read is left out, with a line in the report, and the rest is written.

    Args:
        view: the samples; of grouped samples, those of the active slice.
        export_dir: folder to write; made if absent, must be empty otherwise.
        label_field: ``Detections`` field with the labels.
        format: ``"coco"``, ``"yolo"`` (segmentation) or ``"fiftyone"``.
        only: ``"accepted"`` writes what a person accepted, edited or drew, and the images that have such labels;
            ``"done"`` the same of the images that ``mark_done`` has marked, those without labels included;
            ``"all"`` also what nobody has decided on, and images in which nothing was found. Images that a run has not
            labelled in its field (references that it skipped, failed ones, those added later) are left out and counted;
            in a field that no run wrote, images without labels are background.
        score_threshold: undecided labels at or below this score are left out.
        classes: the classes to write, in this order; those of the run that wrote the labels, else all, where ``None``.
        masks: of COCO: ``"rle"`` (lossless) or ``"polygons"``.
        export_media: copy the images too.
        overwrite: replace an earlier export in this folder; any other folder that holds something is refused.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        What lies on disk now, counted there.

    Raises:
        InputError: if there is nothing to write, a file cannot be written (it is named), or the folder, a field or an
            option cannot be used.
        WrongTypeError: if the field holds something other than detections, or the samples are no images.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> print(ntt.export_labels(dataset, "export", "ntt", format="coco"))  # doctest: +SKIP
    """
    for name, value, allowed in (("format", format, FORMATS), ("only", only, ONLY), ("masks", masks, MASKS)):
        if not isinstance(value, str) or value not in allowed:
            raise InputError(f"expected {name} to be one of {', '.join(allowed)}; got {value!r}")
    progress, score_threshold, export_media, overwrite = check_arguments(
        ExportParams, progress, score_threshold=score_threshold, export_media=export_media, overwrite=overwrite
    )
    view = whole_images(view)
    check_detections_field(view, label_field)
    folder, before = checked_folder(export_dir, overwrite)
    if progress is not None:
        progress(0, 1, "looking for labels to export")
    chosen = chosen_labels(view, label_field, only=only, score_threshold=score_threshold, exact=True)
    names = classes_of(chosen, label_field, class_list(classes))
    labels_there, of_any_name = count_classes(chosen, label_field), count_labels_in(chosen, label_field)
    chosen = with_labels(chosen, label_field, F("label").is_in(names), only_matches=only == "accepted")
    if not any(labels_there[name] for name in names):
        raise InputError(f"nothing to export: {why_nothing(view, label_field, only)}")
    report = ExportReport(str(folder), format, 0, 0, {}, "", _notes(view, chosen, label_field, only))
    if nameless := of_any_name - labels_there.total():
        report.notes.append(f"{counted(nameless, 'label')} without a class left out")
    job = _Job(chosen, label_field, names, format, masks, export_media, report, keep_empty=only != "accepted")
    _write(job, folder, before, progress)
    return report


@dataclass
class _Job:
    """An export that is going on.

    Attributes:
        chosen: the samples with the labels to write.
        label_field: their field.
        names: classes in the order of their numbers.
        format: what to write.
        masks: of COCO, how.
        export_media: copy the images too.
        report: filled on the way.
        keep_empty: also write images without a label.
        unusable: ids of labels that cannot be written.
        boxes: labels without a mask.
        converted: images that had to be written as PNG.
    """

    chosen: SampleCollection
    label_field: str
    names: list[str]
    format: str
    masks: str
    export_media: bool
    report: ExportReport
    keep_empty: bool
    unusable: list[ObjectId | None] = field(default_factory=list)
    boxes: int = 0
    converted: int = 0


def _write(job: _Job, folder: Path, before: set[str], progress: Progress | None) -> None:
    """Writes beside the folder first: what goes wrong half-way leaves nothing, and an earlier export as it was."""
    hidden = place_to_fill(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _export(job, hidden, folder, progress)
        facts = {
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "dataset": dataset_of(job.chosen).name,
        }
        facts |= {"label_field": job.label_field, "classes": job.names, **asdict(job.report)}
        written = sorted(files_in(hidden))
        save(hidden / NOTE, json.dumps({**facts, "written": written}, indent=2, ensure_ascii=False))
        give_name(hidden, folder, before)
    except OSError as error:
        raise write_error(error, hidden, folder) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _export(job: _Job, hidden: Path, folder: Path, progress: Progress | None) -> None:
    """Fills the folder, and the report with what lies in it then."""
    report, namer = job.report, Names(job.chosen.values("filepath"), job.format)
    if job.format == "fiftyone":
        written = {sample_id: name for sample_id, name, _, _ in _images(job, hidden, namer, progress)}
        unusable = {str(key) for key in job.unusable}
        write_fiftyone(job.chosen, job.label_field, hidden, written, export_media=job.export_media, unusable=unusable)
    else:
        writer = CocoWriter(hidden, job.names, job.masks) if job.format == "coco" else YoloWriter(hidden, job.names)
        try:
            for _, name, size, labels in _images(job, hidden, namer, progress):
                writer.add(name, size, labels)
            writer.close()
        finally:
            writer.abandon()
        report.left_out += writer.loss.dropped
    there = count_on_disk(hidden, job.format, job.label_field, job.names)
    report.images, report.per_class, report.files = there.images, there.per_class, there.files + 1  # and the note
    report.labels = sum(there.per_class.values())
    if job.format != "fiftyone":
        report.notes += writer.loss.notes(report.labels)
    if job.boxes:
        report.notes.append(f"{counted(job.boxes, 'label')} without a mask: the filled box stands in for it")
    if job.converted:
        images = counted(job.converted, "image")
        report.notes.append(f"{images} of a kind that trainers of YOLO models pass over: written as PNG")
    if not report.labels:
        lines = "; ".join(report.left_out[:5] + report.notes)
        raise InputError(f"nothing to export: no label could be written ({lines})")
    report.renamed = namer.renamed
    if namer.renamed:
        report.notes.append(
            f"{counted(len(namer.renamed), 'image')} under another name than the file's: see renamed in {NOTE}"
        )
    report.how_to_load = _how_to_load(folder, job, namer.root)


_Row = tuple[str, str, tuple[int, int], list[PlacedLabel]]


def _images(job: _Job, hidden: Path, namer: Names, progress: Progress | None) -> Iterator[_Row]:
    """Sample id, name, size and labels of each image that can be written; copies the images."""
    ids, fields = job.chosen.values("id"), ["filepath", "metadata.width", "metadata.height", job.label_field]
    for start in range(0, len(ids), _CHUNK):
        part = part_of(job.chosen, ids[start : start + _CHUNK], ordered=True)
        for done, row in enumerate(zip(*raw_values(part, ["id", *fields]), strict=True), start=start + 1):
            sample_id, path, width, height, document = row
            try:
                image = _image(job, path, (height, width) if min(height or 0, width or 0) > 0 else None, document)
            except InputError as error:
                job.report.left_out.append(f"left out: {error}")
                image = None
            if image is not None:
                data, size, labels = image
                yield str(sample_id), _put_image(job, hidden, namer, path, data), size, labels
            if progress is not None:
                progress(done, len(ids), f"writing images and labels ({done} of {len(ids)})")


def _put_image(job: _Job, hidden: Path, namer: Names, path: str, data: bytes | None) -> str:
    """Writes an image, if it is to be copied, and says how the export calls it."""
    if data is None:
        return namer.in_place(path) if job.format == "coco" else namer.name(path)
    content, suffix = for_yolo(data, path) if job.format == "yolo" else (data, None)
    job.converted += content is not data
    name = namer.name(path, suffix)
    save(hidden / IMAGES[job.format] / name, content)
    return name


def _image(
    job: _Job, path: str, size: tuple[int, int] | None, document: dict[str, Any] | None
) -> tuple[bytes | None, tuple[int, int], list[PlacedLabel]] | None:
    """Content (where it is to be copied), size and labels of an image; ``None`` where no label is left of it."""
    data = read_bytes(path) if job.export_media else None
    if data is not None:
        size = _checked_size(data, path)
    elif job.format != "fiftyone":  # where the image is no longer there, what is known of it has to do
        size = image_size(path) or size or _checked_size(read_bytes(path), path)
    labels, unusable = [], len(job.unusable)
    for label in single_documents(document):
        try:
            labels.append(_placed(job, label, size or _ANY_SIZE, path))
        except InputError as error:
            job.unusable.append(label.get("_id"))
            name = f"label {label.get('_id')} ({as_text(class_of(label))}) of {as_text(path, _LONGEST_PATH)}"
            job.report.left_out.append(f"left out: {name}: {error}")
    # An image without labels says that there is nothing: not where there was something that could not be read.
    says_nothing = not labels and (not job.keep_empty or len(job.unusable) > unusable)
    return None if says_nothing else (data, size or _ANY_SIZE, labels)


def _checked_size(data: bytes, path: str) -> tuple[int, int]:
    """Height and width of an upright image; raises InputError where it cannot be decoded."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.format != "TIFF":  # of which Pillow does not read every one as it is read for the models
                size = upright_size(image)
                image.draft("RGB", (image.width // 8, image.height // 8))  # an eighth of a JPEG is enough to tell
                image.load()
                return size
    except Exception:  # whatever a decoder raises; what reads images for the models has the last word
        return decode_image(data, path).shape[:2]
    return decode_image(data, path).shape[:2]


def _placed(job: _Job, document: Document, size: tuple[int, int], path: str) -> PlacedLabel:
    """A label in pixels; raises InputError where it cannot be written."""
    label = detection_of(document)
    x1, y1, x2, y2 = box_in_pixels(label, size)
    if label.has_mask:
        left, top, mask = place_mask(label, size)
        if not mask.any():
            raise InputError("its mask is empty")
    else:
        left, top, right, bottom = whole_pixels((x1, y1, x2, y2), size)
        mask = np.ones((bottom - top, right - left), bool)
        job.boxes += 1
    box = round(x1, 6), round(y1, 6), round(x2 - x1, 6), round(y2 - y1, 6)
    name = f"label {label.id} ({as_text(label.label)}) of {as_text(path, _LONGEST_PATH)}"
    return PlacedLabel(
        name, job.names.index(str(label.label)), box, left, top, mask, is_crowd(document), is_ignored(document)
    )


def _notes(view: SampleCollection, chosen: SampleCollection, label_field: str, only: str) -> list[str]:
    if only != "accepted":
        return note_of_unlabelled(view, label_field, only)
    undecided = ~is_tagged(sorted(DECIDED_TAGS)) & F("predicted_iou").exists()
    partly = sum(len(with_labels(images, label_field, undecided)) for images in selections(view, chosen.values("id")))
    also_hold = counted(partly, "image also holds", "images also hold")
    return [f"{also_hold} labels that nobody has decided on: not written"] if partly else []


def _how_to_load(folder: Path, job: _Job, root: str) -> str:
    kinds = {"coco": "COCODetectionDataset", "yolo": "YOLOv5Dataset", "fiftyone": "FiftyOneDataset"}
    extra = {"coco": ', label_types=["segmentations"]', "yolo": ', split="train", label_type="instances"'}
    kind, first = f"dataset_type=fo.types.{kinds[job.format]}{extra.get(job.format, '')}", ""
    if job.format == "coco" and not job.export_media:
        kind += f", data_path={(root if root != os.sep and os.path.isdir(root) else str(folder))!r}"
    if job.format == "yolo" and not job.export_media:
        first = (
            f"# first put the images into {str(folder / IMAGES['yolo'])!r}, each named as its text file in labels/\n"
        )
    return f"{first}import fiftyone as fo\ndataset = fo.Dataset.from_dir({str(folder)!r}, {kind})"
