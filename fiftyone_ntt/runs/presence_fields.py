"""The fields beside a run's labels that say which classes are in an image and which are not."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import count_classes, dataset_of, every_image
from fiftyone_ntt.dataset.storage import patiently
from fiftyone_ntt.errors import InputError

JUDGED_FROM = "ntt_verdicts"
"""Key of a presence field's ``info`` under which lies what it was judged from."""


def present_field(label_field: str) -> str:
    """Name of the field for the classes that are there."""
    return f"{label_field}_present"


def absent_field(label_field: str) -> str:
    """Name of the field for the classes that are not there."""
    return f"{label_field}_absent"


def presence_field_names(label_field: str) -> tuple[str, str]:
    """Names of the fields for the classes that are there, and for those that are not."""
    return present_field(label_field), absent_field(label_field)


def is_presence_field(dataset: fo.Dataset, name: str) -> bool:
    """Whether image-level labels were ever written to a field; any other of such a name is a person's own."""
    return bool(_facts(dataset, name))


def judged_run(dataset: fo.Dataset, name: str) -> str | None:
    """Key of the run that image-level labels in a field are about; ``None`` where it holds none."""
    run_key: str | None = (_facts(dataset, name) or {}).get("run_key")
    return run_key


def declare_presence_fields(dataset: fo.Dataset, label_field: str, run_key: str) -> None:
    """Makes the fields, and notes the run that they are about.

    Raises:
        InputError: if a field of that name is there which no image-level label was ever written to.
    """
    texts = ("classes that are judged to be in this image", "classes that are judged not to be in this image")
    names = presence_field_names(label_field)
    for name in names:
        if dataset.has_field(name) and not is_presence_field(dataset, name):
            raise InputError(
                f"field {name!r} holds something else, so image-level labels cannot be written to it; rename it with "
                "dataset.rename_sample_field, then try again"
            )
    for name, text in zip(names, texts, strict=True):
        if not dataset.has_field(name):
            dataset.add_sample_field(
                name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Classifications,
                description=f"{text}, from the labels in {label_field!r}; the confidence is the probability of that",
            )  # fmt: skip
        _note(dataset, name, {"label_field": label_field, "run_key": run_key})


def note_counts(dataset: fo.Dataset, label_field: str) -> None:
    """Counts images with and without each class, and keeps that with the fields: too slow for every look at it."""
    names = presence_field_names(label_field)
    present, absent = (count_classes(every_image(dataset), name) for name in names)
    # Names of classes need not do as keys in the database.
    counts = [[label, present.get(label, 0), absent.get(label, 0)] for label in sorted({*present, *absent})]
    _note(dataset, names[1], {"counts": counts})


def presence_counts(dataset: fo.Dataset, label_field: str) -> dict[str, tuple[int, int]]:
    """Class -> images with it and without it, as judged last; nothing where labels were replaced since."""
    facts = _facts(dataset, presence_field_names(label_field)[1]) or {}
    return {name: (there, not_there) for name, there, not_there in facts.get("counts") or []}


def clear_presence(samples: SampleCollection, label_field: str) -> None:
    """Removes the image-level labels of some samples, whose labels are about to be others."""
    for name in presence_field_names(label_field):
        if _facts(dataset_of(samples), name):
            samples.clear_sample_field(name)
            _note(dataset_of(samples), name, {"counts": None})


def forget_presence(dataset: fo.Dataset, label_field: str, run_key: str | None = None) -> None:
    """Removes the image-level labels that are about a run (any run where ``None``), fields and all."""
    for name in presence_field_names(label_field):
        facts = _facts(dataset, name)
        if facts and run_key in (None, facts.get("run_key")):
            patiently(dataset.delete_sample_field, name)


def _note(dataset: fo.Dataset, name: str, facts: dict[str, Any]) -> None:
    field = dataset.get_field(name)
    field.info = {**(field.info or {}), JUDGED_FROM: {**(_facts(dataset, name) or {}), **facts}}
    field.save()


def _facts(dataset: fo.Dataset, name: str) -> dict[str, Any] | None:
    field = dataset.get_field(name)
    facts: dict[str, Any] | None = ((field.info if field is not None else None) or {}).get(JUDGED_FROM)
    return facts
