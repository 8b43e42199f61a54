"""The masks made from boxes, points and scribbles as labels that a person can look at and correct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import fiftyone as fo
import numpy as np
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.documents import Document, label_parts, single_documents, tags_of
from fiftyone_ntt.dataset.fields import (
    NEGATIVE_TAG,
    REFERENCE_TAG,
    dataset_of,
    every_image,
    field_names,
    whole_images,
)
from fiftyone_ntt.dataset.given import class_list
from fiftyone_ntt.dataset.labels import fingerprint, is_kept
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.schema import activate_schema, check_lists_field
from fiftyone_ntt.dataset.storage import raw_values
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import Preset, load_preset
from fiftyone_ntt.params.base import Progress, check_arguments
from fiftyone_ntt.params.references import MADE_FIELD, MakeMasksFormParams, MakeMasksParams
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.references.label_kinds import LabelledObject
from fiftyone_ntt.references.prompted_masks import Key, PromptedMask, make_masks
from fiftyone_ntt.references.reader import ReferenceReader, ReferenceSample
from fiftyone_ntt.references.tagging import tagged_references

MADE_ATTRIBUTES = {
    "reference_kind": "what the mask was made from: box, point, scribble; or mask, where it was drawn",
    "source": "id of the label that the mask was made from",
    "written": "fingerprint of class, box and mask as they were made; tells what was edited since",
}
"""What a made mask carries beside FiftyOne's own attributes."""


@dataclass
class MadeMasks:
    """What ``make_reference_masks`` did.

    Attributes:
        out_field: where the masks are.
        kinds: ``"box"``, ``"point"``, ``"scribble"`` or ``"mask"`` -> how many were written.
        kept: masks that a person accepted, edited or drew, and that stayed as they are.
        samples: samples with a mask written.
        notes: what was left out of the references.
    """

    out_field: str
    kinds: dict[str, int]
    kept: int = 0
    samples: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        listed = ", ".join(f"{count} from a {kind}" for kind, count in sorted(self.kinds.items())) or "nothing new"
        kept = f"; {self.kept} that a person accepted, edited or drew stayed" if self.kept else ""
        return "; ".join([f"masks in {self.out_field!r}: {listed}{kept}", *self.notes])


@with_bar
def make_reference_masks(
    references: SampleCollection,
    label_field: str | Sequence[str] = "ground_truth",
    out_field: str = MADE_FIELD,
    *,
    classes: Sequence[str] | None = None,
    preset: str | Preset = "lite",
    overwrite: bool = False,
    device: str | None = None,
    progress: Progress | bool | None = None,
) -> MadeMasks:
    """Writes the masks of references as detections that can be edited in the App, and be learned from.

    A label of each reference goes into ``out_field``, with its class, its mask, the kind of label it was made from and
    that label's id, and the tags ``ntt:reference`` and ``ntt:negative`` if the label has them. Then
    ``build_memory_bank(references, out_field)`` builds the bank from what is there. Another call rebuilds the masks,
    but for those that a person has accepted, edited or drawn.

    Args:
        references: the reference samples; a patches view will not do.
        label_field: the field, or fields, with the labels; see ``build_memory_bank``.
        out_field: a field of detections; made if absent.
        classes: the classes wanted; all labels found where ``None``.
        preset: name of a preset, or a ``Preset`` with checkpoint paths of your own.
        overwrite: also rebuild masks that a person accepted or edited. Those without a source always stay.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Raises:
        InputError: if a field is missing, there are no samples, or the masks would go where the labels are.
        BadReferenceError: if a class has no label that can be used (names samples and labels); others that cannot are
            left out, with a line in ``notes``.

    Example:
        >>> references = dataset.match_tags("ntt:reference")  # doctest: +SKIP
        >>> print(ntt.make_reference_masks(references, "clicks"))  # doctest: +SKIP
        masks in 'ntt_references': 3 from a point
        >>> bank = ntt.build_memory_bank(references, "ntt_references")  # doctest: +SKIP
    """
    progress, out_field, overwrite = check_arguments(
        MakeMasksParams, progress, out_field=out_field, overwrite=overwrite
    )
    fields = field_names(label_field)
    if out_field in fields:
        raise InputError(f"expected another field to write to than {out_field!r}, which holds the labels")
    references = whole_images(references)
    dataset = dataset_of(references)
    if dataset.get_field(out_field) is not None:
        check_lists_field(dataset, out_field)
    reader = ReferenceReader(references, fields, class_list(classes))
    segmenter = load_preset(preset, device).segmenter()
    masks = make_masks(reader, segmenter, progress)
    _declare(dataset, out_field)
    report = MadeMasks(out_field, {})
    tags, labels = _tags(references, fields), set[str]()
    for sample in reader.samples():
        if sample is not None and sample.objects:
            _write(dataset, sample, masks, tags, fields, overwrite, report)
            labels |= {item.label for item in sample.positives if item.label}
    activate_schema(dataset, out_field, reader.drop_bare(labels))
    report.notes += reader.notes
    return report


def make_tagged_masks(
    target: SampleCollection, params: MakeMasksFormParams, progress: Progress | None = None
) -> MadeMasks:
    """``make_reference_masks`` of what is tagged in a target, as forms and the command line ask for it.

    Raises:
        InputError: see ``tagged_references`` and ``make_reference_masks``.
    """
    arguments, fields, reference_tag = params.split()
    return make_reference_masks(
        tagged_references(target, reference_tag, fields), fields, progress=progress, **arguments
    )


def _declare(dataset: fo.Dataset, out_field: str) -> None:
    dataset.add_sample_field(out_field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    for name, description in MADE_ATTRIBUTES.items():
        dataset.add_sample_field(f"{out_field}.detections.{name}", fo.StringField, description=description)


def _tags(references: SampleCollection, fields: Sequence[str]) -> dict[str, list[str]]:
    """Label id -> those of its tags that matter here."""
    by_id: dict[str, list[str]] = {}
    for name in fields:
        for _, labels in label_parts(references, name, ["_id", "tags"]):
            by_id |= {str(label.get("_id")): sorted(tags_of(label) & {REFERENCE_TAG, NEGATIVE_TAG}) for label in labels}
    return by_id


def _write(
    dataset: fo.Dataset, read: ReferenceSample, masks: dict[Key, PromptedMask], tags: dict[str, list[str]],
    fields: Sequence[str], overwrite: bool, report: MadeMasks,
) -> None:  # fmt: skip
    # As documents: what a person drew stays as it is, also where its mask cannot be read.
    values = raw_values(every_image(dataset).select(read.sample_id), [report.out_field, *fields])
    made, *sources_there = ([label for value in column for label in single_documents(value)] for column in values)
    others = {str(label.get("_id")) for labels in sources_there for label in labels}  # what this call is not about
    others -= {item.label_id.split(".")[0] for item in read.objects}
    kept = [label for label in made if _stays(label, overwrite) or str(label["source"]).split(".")[0] in others]
    sources = {label["source"] for label in kept if _is_made(label)}
    new = []
    for item in read.objects:
        if item.label_id in sources:
            continue
        mask = masks[read.sample_id, item.label_id].mask if item.mask is None else PackedMask.from_crop(item.mask, 0, 0)
        new.append(_label(item, mask, read.size))
        new[-1].tags = list(tags.get(item.label_id.split(".")[0], []))  # of a part of a map, those of the map
    document = {**fo.Detections().to_dict(), "detections": [*kept, *(label.to_dict() for label in new)]}
    try:
        dataset.set_values(report.out_field, {read.sample_id: document}, key_field="id", validate=False, dynamic=False)
    except ValueError as error:  # FiftyOne turns what MongoDB refuses into this
        report.notes.append(f"sample {read.sample_id}: the database refuses to save its masks: {error}")
        return
    for label in new:
        report.kinds[label["reference_kind"]] = report.kinds.get(label["reference_kind"], 0) + 1
    report.kept += sum(_stays(label, overwrite) for label in kept)
    report.samples += bool(new)


def _stays(label: Document, overwrite: bool) -> bool:
    return not _is_made(label) or (not overwrite and is_kept(dict(label)))


def _is_made(label: Document) -> bool:
    """Whether a call of before made this mask. Others also call something of their labels a source."""
    return isinstance(label.get("reference_kind"), str) and isinstance(label.get("source"), str)


def _label(item: LabelledObject, mask: PackedMask, size: tuple[int, int]) -> fo.Detection:
    x1, y1, x2, y2 = mask.extent
    height, width = size
    box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
    pixels: NDArray[np.bool_] = mask.crop()
    return fo.Detection(
        label=item.label, bounding_box=box, mask=pixels, reference_kind=item.kind, source=item.label_id,
        written=fingerprint(item.label, box, pixels),
    )  # fmt: skip
