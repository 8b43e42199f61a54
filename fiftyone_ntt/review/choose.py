"""A good few references out of many labelled objects."""

from __future__ import annotations

from collections.abc import Sequence

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.core.selection import select_references as select
from fiftyone_ntt.dataset.fields import every_image, image_samples
from fiftyone_ntt.dataset.references import Progress, build_memory_bank
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import Preset
from fiftyone_ntt.review.references import use_as_references


def select_references(
    view: SampleCollection,
    n: int,
    label_field: str = "ground_truth",
    *,
    preset: str | Preset = "lite",
    classes: Sequence[str] | None = None,
    tag: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> SampleCollection:
    """Picks ``n`` references of each class out of everything that is labelled: typical ones that complete each other.

    Every labelled object of the view is encoded (about a second an image without a GPU), so give it a view of some
    hundred images rather than all of a large dataset.

    Args:
        view: samples with labels.
        n: references a class; fewer where a class has fewer labels.
        label_field: the ``Detections`` field with the labels.
        preset: name of a preset, or a ``Preset`` with checkpoint paths of your own.
        classes: the classes wanted; all of them where ``None``.
        tag: also tag the chosen labels ``ntt:reference``. What was tagged before stays tagged.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message).

    Returns:
        The samples of the chosen labels; of this field, the view holds no other labels. As references for
        ``build_memory_bank`` it can be used as it is.

    Raises:
        InputError: if ``n`` is less than 1, the field is missing, or there are no samples.
        BadReferenceError: if a label cannot serve as a reference, or there are none.
    """
    if n < 1:
        raise InputError(f"expected at least 1 reference a class, got {n}")
    samples = image_samples(view)
    bank = build_memory_bank(samples, label_field, classes=classes, preset=preset, device=device, progress=progress)
    chosen = select(bank.project(bank.vectors), bank.class_index, n)
    keys = [bank.reference_ids[i].split("/") for i in chosen]
    images = every_image(samples._dataset).select(list(dict.fromkeys(key[0] for key in keys)), ordered=True)
    found = images.select_labels(ids=[key[1] for key in keys], fields=label_field)
    if tag:
        use_as_references(samples._dataset, label_field, label_ids=[key[1] for key in keys])
    return found
