"""Reads tagged samples as references, and builds the memory bank from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.core import MemoryBank, ReferenceItem, Segmenter, read_image
from fiftyone_ntt.dataset.banks import check_name, save_bank
from fiftyone_ntt.dataset.fields import check_detections_field, detections_of, image_samples, is_detections_field
from fiftyone_ntt.dataset.geometry import box_in_pixels, full_mask
from fiftyone_ntt.errors import BadReferenceError, InputError
from fiftyone_ntt.models import Preset, load_preset

Progress = Callable[[int, int, str], None]


def build_memory_bank(
    references: SampleCollection,
    label_field: str = "ground_truth",
    *,
    classes: Sequence[str] | None = None,
    preset: str | Preset = "lite",
    name: str | None = None,
    ask_granularity: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> MemoryBank:
    """Turns labelled reference samples into a memory bank.

    Every detection of the wanted classes counts as one reference, several an image included. A detection without a mask
    gets one from its box, by prompting the mask model with it.

    Args:
        references: any sample collection: tagged samples, a saved view, selected samples, a patches view.
        label_field: the ``Detections`` field that holds the reference labels.
        classes: the classes wanted, in this order; all labels found, sorted, where ``None``.
        preset: name of a preset, or a ``Preset`` with checkpoint paths of your own.
        name: keeps the bank with the dataset under this name, where the App and ``segment`` find it. A bank of the same
            name is replaced.
        ask_granularity: find out which of the mask model's masks fit the references best, for ``granularity="auto"``;
            the answer is ``bank.granularity``. Encodes every reference image with the mask model too.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message).

    Returns:
        The memory bank.

    Raises:
        InputError: if the field is missing, there are no samples, or a name is unusable.
        BadReferenceError: if a label cannot serve as a reference (names sample and label), or a class has none.
        MissingWeightsError: if the preset's weights are not on this machine.
    """
    references = image_samples(references)
    check_detections_field(references, label_field)
    if name is not None:
        check_name(name)
    names = _class_names(references, label_field, classes)
    loaded = load_preset(preset, device)
    segmenter = loaded.segmenter()
    items = read_references(references, label_field, names, segmenter, progress)
    bank = segmenter.build_bank(items, names, preset=loaded.preset.name, ask_granularity=ask_granularity)
    if name is not None:
        save_bank(references._dataset, name, bank)
    return bank


def _class_names(references: SampleCollection, label_field: str, classes: Sequence[str] | None) -> list[str]:
    if not len(references):
        raise InputError("expected reference samples, got an empty view; tag samples or select a view that holds some")
    found = [name for name in references.distinct(_label_path(references, label_field)) if _is_class_name(name)]
    if classes is None:
        if not found:
            raise BadReferenceError(
                f"the {len(references)} reference samples have no labels with a class name in {label_field!r}; give "
                "each reference the name of its class"
            )
        return sorted(found)
    if isinstance(classes, str) or not all(map(_is_class_name, classes)) or not 0 < len(classes) == len(set(classes)):
        raise InputError(f"expected a list of distinct class names, got {classes!r}")
    missing = [name for name in classes if name not in found]
    if missing:
        raise BadReferenceError(
            f"no reference labelled {', '.join(map(repr, missing))} in {label_field!r}; labels there: "
            f"{', '.join(map(repr, sorted(found))) or 'none'}"
        )
    return list(classes)


def _is_class_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _label_path(collection: SampleCollection, label_field: str) -> str:
    return str(collection._get_label_field_path(label_field, "label")[1])


def read_references(
    references: SampleCollection,
    label_field: str,
    classes: Sequence[str],
    segmenter: Segmenter,
    progress: Progress | None = None,
) -> Iterator[ReferenceItem]:
    """Yields every reference instance; those of one image follow each other and share its pixels.

    Args:
        references: samples with a ``label_field`` of detections.
        label_field: the field's name.
        classes: labels of other classes are passed over.
        segmenter: makes masks from boxes where a label has no mask.
        progress: called with (done, total, message) after each sample.
    """
    total = len(references)
    fields = ["filepath", label_field]
    for done, sample in enumerate(references.select_fields(fields).iter_samples(), start=1):
        wanted = [label for label in detections_of(sample[label_field]) if label.label in classes]
        if wanted:
            yield from _items(sample, wanted, segmenter)
        if progress is not None:
            progress(done, total, f"encoding references ({done} of {total})")


def _items(sample: fo.Sample, labels: Sequence[fo.Detection], segmenter: Segmenter) -> Iterator[ReferenceItem]:
    try:
        image = read_image(sample.filepath)
    except InputError as error:
        raise BadReferenceError(f"reference sample {sample.id}: {error}") from error
    for label, mask in zip(labels, _masks(sample, labels, image, segmenter), strict=True):
        height, width = image.shape[:2]
        yield ReferenceItem(
            image=image,
            mask=mask,
            label=label.label,
            reference_id=f"{_source_id(sample)}/{label.id}",
            box=box_in_pixels(label, (height, width)),
        )


def _source_id(sample: fo.Sample) -> str:
    """The id of the sample itself, also where the collection is a patches view."""
    return str(getattr(sample, "sample_id", None) or sample.id)


def _masks(
    sample: fo.Sample, labels: Sequence[fo.Detection], image: NDArray[np.uint8], segmenter: Segmenter
) -> list[NDArray[np.bool_]]:
    size = (int(image.shape[0]), int(image.shape[1]))
    masks: list[NDArray[np.bool_] | None] = []
    for label in labels:
        try:
            box_in_pixels(label, size)
            masks.append(full_mask(label, size) if label.has_mask else None)
        except InputError as error:
            raise BadReferenceError(
                f"reference sample {sample.id}, label {label.id} ({label.label}): {error}"
            ) from error
    boxes = np.array([box_in_pixels(label, size) for label, mask in zip(labels, masks, strict=True) if mask is None])
    made = iter(segmenter.box_masks(image, boxes) if len(boxes) else [])
    return [
        _or_box(next(made), label, size) if mask is None else mask for label, mask in zip(labels, masks, strict=True)
    ]


def _or_box(mask: NDArray[np.bool_], label: fo.Detection, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask made from a box; the box itself if the model found nothing in it."""
    if mask.any():
        return mask
    x1, y1, x2, y2 = (round(value) for value in box_in_pixels(label, size))
    mask[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
    return mask


def tagged_references(target: SampleCollection, tag: str, label_field: str) -> SampleCollection:
    """The references in a target: all labels of tagged samples, and the tagged labels of others.

    Args:
        target: where to look.
        tag: the tag; empty takes the target as it is.
        label_field: field in which labels may be tagged.

    Raises:
        InputError: if nothing carries the tag.
    """
    if not tag:
        return target
    tagged = target.match_tags(tag)
    labels = is_detections_field(target, label_field) and tag in target.count_label_tags(label_field)
    if labels and len(tagged):
        label_is_tagged = (F("tags") != None).if_else(F("tags").contains(tag), False)  # noqa: E711 - an expression
        return target.filter_labels(label_field, F("$tags").contains(tag) | label_is_tagged)
    if labels:
        return target.select_labels(tags=tag, fields=label_field)
    if len(tagged):
        return tagged
    raise InputError(
        f"none of the {len(target)} samples is tagged {tag!r}: tag your references, or clear 'reference_tag' to use "
        "every sample of the target (select the references first)"
    )


def without_references(view: SampleCollection, bank: MemoryBank) -> SampleCollection:
    """The view without the samples that the bank's references came from."""
    used = {reference.split("/")[0] for reference in bank.reference_ids}
    return view.exclude(sorted(sample_id for sample_id in used if ObjectId.is_valid(sample_id)))
