"""Looking at a dataset's fields before trusting them."""

from __future__ import annotations

from collections.abc import Iterable

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.errors import InputError, WrongTypeError

REFERENCE_TAG = "ntt:reference"
"""Marks samples (or labels) that serve as references."""
PROTECTED_TAGS = frozenset({"ntt:accepted", "ntt:edited"})
"""Marks labels a person has decided on; nothing overwrites them unasked."""


def check_images(collection: SampleCollection) -> None:
    """Raises WrongTypeError unless the collection holds images."""
    if collection.media_type not in (fo.core.media.IMAGE, None):
        raise WrongTypeError(
            f"expected images, got a collection of {collection.media_type!r}; select one image slice of a group, or "
            "turn a video into frames with to_frames() first"
        )


def check_whole_images(collection: SampleCollection) -> None:
    """Raises WrongTypeError unless the collection holds images, and not patches or frames of something."""
    check_images(collection)
    if collection._is_generated:
        raise WrongTypeError("expected whole images, got a view of patches or frames; use the dataset it came from")


def check_detections_field(collection: SampleCollection, field_name: str) -> None:
    """Raises unless ``field_name`` is a field of detections.

    Raises:
        InputError: if there is no such field; names the fields that would do.
        WrongTypeError: if the field holds something else.
    """
    usable = [name for name in collection.get_field_schema() if is_detections_field(collection, name)]
    field = collection.get_field(field_name) if field_name else None
    if field is None:
        raise InputError(
            f"no field {field_name!r} in {collection._dataset.name!r}; fields with detections: {_listed(usable)}"
        )
    if not is_detections_field(collection, field_name):
        raise WrongTypeError(
            f"expected field {field_name!r} to hold Detections, got {_type_name(field)}; "
            f"fields with detections: {_listed(usable)}"
        )


def is_detections_field(collection: SampleCollection, field_name: str) -> bool:
    """Whether the field holds ``Detections`` (or single ``Detection`` labels, as patches views do)."""
    field = collection.get_field(field_name)
    document = getattr(field, "document_type", None)
    return isinstance(document, type) and issubclass(document, (fo.Detections, fo.Detection))


def detections_of(label: fo.Detections | fo.Detection | None) -> list[fo.Detection]:
    """The detections of one sample's field."""
    if label is None:
        return []
    return [label] if isinstance(label, fo.Detection) else list(label.detections or [])


def _type_name(field: fo.Field) -> str:
    document = getattr(field, "document_type", None)
    return document.__name__ if isinstance(document, type) else type(field).__name__


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
