"""What a collection is and holds: its dataset, its images, its fields, the images whose size is known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import fiftyone as fo
from bson import json_util
from fiftyone import ViewExpression
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.given import add_sizes, checked_collection, each_once
from fiftyone_ntt.errors import InputError, WrongTypeError, counted, listing
from fiftyone_ntt.pixels.images import is_plain_file

REFERENCE_TAG = "ntt:reference"
"""Marks samples (or labels) that serve as references."""
NEGATIVE_TAG = "ntt:negative"
"""Marks labels that show what their class is not, and samples that show none of the wanted classes."""
ACCEPTED_TAG, REJECTED_TAG, EDITED_TAG = "ntt:accepted", "ntt:rejected", "ntt:edited"
"""Mark what a person decided on a label."""
PROTECTED_TAGS = frozenset({ACCEPTED_TAG, EDITED_TAG})
"""Marks labels a person wants to keep; nothing overwrites them unasked."""
DECIDED_TAGS = frozenset({*PROTECTED_TAGS, REJECTED_TAG})
"""Marks labels a person has decided on, one way or the other."""
DONE_TAG = "ntt:done"
"""Marks samples that a person has gone through: what nobody accepted, edited or drew there is not wanted."""
REFERENCE_TYPES = (
    fo.Detections, fo.Detection, fo.Keypoints, fo.Keypoint, fo.Polylines, fo.Polyline, fo.Segmentation,
)  # fmt: skip
"""What a field of references may hold."""
_MOST_NAMED = 5
NO_CLASS = "(no class)"  # stands for the class of labels that have none
NO_IMAGES = "the view holds no images; choose another one, or clear its filters"
_UNKNOWN = "files of unknown endings (before slides are added, call mimetypes.add_type('image/tiff', '.svs'))"
_KINDS = {"3d": "3D scenes", "point-cloud": "point clouds", "unknown": _UNKNOWN}


def dataset_of(collection: SampleCollection) -> fo.Dataset:
    """The dataset that a collection's samples belong to; of patches or frames, the one that FiftyOne made for them."""
    dataset: fo.Dataset = checked_collection(collection)._dataset
    return dataset


def root_dataset_of(collection: SampleCollection) -> fo.Dataset:
    """The dataset that a collection was made from, also where it shows patches or frames of it."""
    dataset: fo.Dataset = checked_collection(collection)._root_dataset
    return dataset


def is_generated(collection: SampleCollection) -> bool:
    """Whether the samples are parts of others: patches, frames or clips."""
    return bool(collection._is_generated)


def is_patches(collection: SampleCollection) -> bool:
    """Whether the samples are patches of others."""
    return bool(collection._is_patches)


def with_all_fields(collection: SampleCollection) -> SampleCollection:
    """The same samples and labels with every field of their dataset: what a view does not show is not gone."""
    checked_collection(collection)
    hiding = (fo.SelectFields, fo.ExcludeFields)
    if isinstance(collection, fo.Dataset) or not any(isinstance(stage, hiding) for stage in collection._stages):
        return collection
    whole = copy(collection)
    whole._stages[:] = [stage for stage in collection._stages if not isinstance(stage, hiding)]
    return whole


def label_fields(collection: SampleCollection) -> list[str]:
    """Names of all fields with labels, those of a view's samples included that the view does not show."""
    return list(collection._label_fields)


def label_path(collection: SampleCollection, field_name: str, attribute: str | None = None) -> str:
    """Where a field keeps its labels, or an attribute of them: ``ground_truth.detections.label``."""
    path: str = collection._get_label_field_path(field_name, attribute)[1]
    return path


def label_root(collection: SampleCollection, field_name: str) -> tuple[str, bool]:
    """Where a field keeps its labels, and whether each sample has a list of them there."""
    root, is_list = collection._get_label_field_root(field_name)
    return str(root), bool(is_list)


def has_label_tag(collection: SampleCollection, field_name: str, tag: str) -> bool:
    """Whether a label in a field has a tag.

    The index of ``schema.index_tags`` answers where no label of the dataset has. FiftyOne's ``count_label_tags`` reads
    every sample with all its masks.
    """
    dataset = dataset_of(collection)
    whole = label_path(dataset, field_name, "tags") if dataset.has_field(field_name) else None
    if whole is not None and not dataset._sample_collection.find_one({whole: tag}, {"_id": 1}):
        return False
    if isinstance(collection, fo.Dataset) and collection.media_type != fo.core.media.GROUP:
        return whole is not None
    return bool(len(collection.match({label_path(collection, field_name, "tags"): tag}).limit(1)))


def image_samples(collection: SampleCollection) -> SampleCollection:
    """The images of a collection: those of the active slice where samples are grouped, all where a view groups them.

    Args:
        collection: what someone is looking at; patches may pass, see ``whole_images``.

    Returns:
        The collection, with all fields of its dataset; itself where it holds nothing but images and hides no field.

    Raises:
        WrongTypeError: if it holds videos, 3D scenes or something else.
        InputError: if it shows a sample more than once.
    """
    whole = with_all_fields(collection)
    flat = whole.flatten() if whole._is_dynamic_groups else whole
    if flat.media_type == fo.core.media.GROUP:
        flat = _active_slice(flat)
    kind = flat.media_type
    if kind in (fo.core.media.IMAGE, None):
        return each_once(flat)
    if kind == fo.core.media.VIDEO:
        raise WrongTypeError(
            "expected images, got videos; make a dataset of their frames, "
            "dataset.to_frames(sample_frames=True).clone(), and use that"
        )
    if kind == fo.core.media.MIXED:
        raise WrongTypeError("expected images, got samples of several kinds; choose one slice that holds images")
    raise WrongTypeError(f"expected images, got {_KINDS.get(kind, repr(kind))}; only images can be used here")


def _active_slice(collection: SampleCollection) -> SampleCollection:
    chosen, kinds = collection.group_slice, collection.group_media_types
    if not kinds:
        raise WrongTypeError("expected images, got groups without a sample; add images to them first")
    if kinds.get(chosen) != fo.core.media.IMAGE:
        images = [name for name, kind in kinds.items() if kind == fo.core.media.IMAGE]
        advice = f"choose another slice: {_listed(images)}" if images else "no slice of this dataset holds images"
        raise WrongTypeError(f"expected images, got group slice {chosen!r}, which holds {kinds.get(chosen)}; {advice}")
    return collection.select_group_slices(chosen)


def whole_images(collection: SampleCollection) -> SampleCollection:
    """``image_samples`` that can be labelled: raises WrongTypeError where they are patches or frames of something."""
    flat = image_samples(collection)
    if is_generated(flat):
        raise WrongTypeError("expected whole images, got a view of patches or frames; use the dataset it came from")
    return flat


def steady(samples: SampleCollection, label_field: str) -> SampleCollection:
    """The same samples, whatever becomes of a label field and of the fields beside it while a run is at work.

    A view such as that of the images whose status is an error is empty once the run has cleared the statuses.

    Args:
        samples: a dataset or view of images.
        label_field: the field; its status and its image-level labels go by its name and something more.

    Returns:
        ``samples`` where no stage asks for such a field; otherwise a view that names each sample.
    """
    stages = [] if isinstance(samples, fo.Dataset) else samples._stages
    # As a stage of its own a name stands in quotes, in an expression behind a dollar.
    asked = re.compile(rf'["$]{re.escape(label_field)}(_\w+)?["\\.]')
    if not any(asked.search(json_util.dumps(stage._serialize())) for stage in stages):
        return samples
    return every_image(dataset_of(samples)).select(samples.values("id"), ordered=True)


def sound_lists(collection: SampleCollection, field_name: str) -> SampleCollection:
    """The same samples with nothing but documents in a field's lists of labels, and empty lists for what is no list.

    The database refuses a query that finds something else in place of a list. To be called before labels are chosen by
    a stage. What is not of the field's declared kind, which FiftyOne does not load, counts as no labels.
    """
    root, is_list = label_root(collection, field_name)
    if not is_list:
        return collection
    name, _, last = root.rpartition(".")
    kind = dataset_of(collection).get_field(name).document_type.__name__
    whole = {"$mergeObjects": [f"${name}", {last: labels_at(collection, field_name)}]}
    return collection.mongo([{"$set": {name: {"$cond": [{"$eq": [f"${name}._cls", kind]}, whole, None]}}}])


def with_labels(
    collection: SampleCollection, field_name: str, condition: ViewExpression, *, only_matches: bool = True
) -> SampleCollection:
    """FiftyOne's ``filter_labels``, whatever stands in place of lists of labels."""
    return sound_lists(collection, field_name).filter_labels(field_name, condition, only_matches=only_matches)


def is_labelled(field_name: str) -> ViewExpression:
    """For the database: whether a sample has been labelled in a field, if only with an empty list; by an index."""
    return F(f"{field_name}._cls").exists()


def has_labels(collection: SampleCollection, field_name: str) -> ViewExpression:
    """For the database: whether a sample has a label in a field, whatever stands in place of a list of labels."""
    root, is_list = label_root(collection, field_name)
    return F(root).is_array().if_else(F(root).length() > 0, False) if is_list else F(root).exists()


def has_masks(collection: SampleCollection, field_name: str) -> bool:
    """Whether any label in a field has a mask, in the database or in a file, readable or not."""
    is_masked = [{"$gt": [f"$$this.{name}", None]} for name in ("mask", "mask_path")]
    masked = {"$anyElementTrue": {"$map": {"input": labels_at(collection, field_name), "in": {"$or": is_masked}}}}
    some = collection._aggregate(post_pipeline=[{"$match": {"$expr": masked}}, {"$limit": 1}, {"$project": {"_id": 1}}])
    return bool(list(some))


def count_labels_in(collection: SampleCollection, field_name: str) -> int:
    """How many labels there are in a field: documents only."""
    return int(sound_lists(collection, field_name).count(label_root(collection, field_name)[0]))


def count_classes(collection: SampleCollection, field_name: str) -> Counter[str]:
    """Class -> labels of it in a field; those without the name of a class do not count. No mask is read."""
    pipeline = [
        {"$project": {"name": {"$map": {"input": labels_at(collection, field_name), "in": "$$this.label"}}}},
        {"$unwind": "$name"},
        {"$match": {"name": {"$ne": ""}, "$expr": {"$eq": [{"$type": "$name"}, "string"]}}},
        {"$group": {"_id": "$name", "labels": {"$sum": 1}}},
    ]
    return Counter({row["_id"]: row["labels"] for row in collection._aggregate(post_pipeline=pipeline)})


def labels_at(collection: SampleCollection, field_name: str) -> dict[str, Any]:
    """For the database: the documents of a sample's labels in a field, as a list; whatever else is there is none."""
    root, is_list = label_root(collection, field_name)
    if not is_list:
        return {"$cond": [{"$eq": [{"$type": f"${root}"}, "object"]}, [f"${root}"], []]}
    documents = {"$filter": {"input": f"${root}", "cond": {"$eq": [{"$type": "$$this"}, "object"]}}}
    return {"$cond": [{"$isArray": [f"${root}"]}, documents, []]}


def is_tagged(tags: str | Sequence[str]) -> ViewExpression:
    """For the database: whether a label has this tag, or one of these, whatever stands where tags should."""
    wanted = tags if isinstance(tags, str) else list(tags)
    return F("tags").is_array().if_else(F("tags").contains(wanted), False)


def every_image(dataset: fo.Dataset) -> SampleCollection:
    """All images of a dataset. Of a grouped one FiftyOne shows one slice at a time, and finds no sample of another."""
    if dataset.media_type != fo.core.media.GROUP:
        return dataset
    return dataset.select_group_slices(media_type=fo.core.media.IMAGE)


def check_detections_field(collection: SampleCollection, field_name: str) -> None:
    """Raises unless ``field_name`` is a field of detections.

    Raises:
        InputError: if there is no such field; names the fields that would do.
        WrongTypeError: if the field holds something else.
    """
    usable = detections_fields(collection)
    field = _field(collection, field_name)
    if field is None:
        raise InputError(
            f"no field {field_name!r} in {dataset_of(collection).name!r}; fields with detections: {_listed(usable)}"
        )
    if not is_detections_field(collection, field_name):
        raise WrongTypeError(
            f"expected field {field_name!r} to hold Detections, got {_type_name(field)}; "
            f"fields with detections: {_listed(usable)}"
        )


def is_detections_field(collection: SampleCollection, field_name: str) -> bool:
    """Whether the field holds ``Detections`` (or single ``Detection`` labels, as patches views do)."""
    document = getattr(_field(collection, field_name), "document_type", None)
    return isinstance(document, type) and issubclass(document, (fo.Detections, fo.Detection))


def is_reference_field(collection: SampleCollection, field_name: str) -> bool:
    """Whether the labels of a field can be references; see ``reference_kinds``."""
    document = getattr(_field(collection, field_name), "document_type", None)
    return isinstance(document, type) and issubclass(document, REFERENCE_TYPES)


def is_map_field(collection: SampleCollection, field_name: str) -> bool:
    """Whether the field holds segmentation maps, whose classes only a look at the maps tells."""
    document = getattr(_field(collection, field_name), "document_type", None)
    return isinstance(document, type) and issubclass(document, fo.Segmentation)


def _field(collection: SampleCollection, name: str) -> fo.Field | None:
    """A field of the dataset, whether or not a view shows it."""
    if name is not None and not isinstance(name, str):
        raise WrongTypeError(f"expected the name of a field, got {name!r} ({type(name).__name__})")
    return dataset_of(collection).get_field(name) if name else None


def reference_fields(collection: SampleCollection) -> list[str]:
    """Names of the fields whose labels can be references."""
    return [name for name in dataset_of(collection).get_field_schema() if is_reference_field(collection, name)]


def detections_fields(collection: SampleCollection) -> list[str]:
    """Names of the fields that hold detections."""
    return [name for name in dataset_of(collection).get_field_schema() if is_detections_field(collection, name)]


def map_fields(collection: SampleCollection) -> list[str]:
    """Names of the fields that hold segmentation maps."""
    return [name for name in dataset_of(collection).get_field_schema() if is_map_field(collection, name)]


def field_names(label_field: str | Sequence[str]) -> list[str]:
    """One field name, or several, as a list.

    Raises:
        InputError: if there is none, or one comes twice.
        WrongTypeError: if it is neither.
    """
    if not isinstance(label_field, Iterable):
        raise WrongTypeError(f"expected the name of a field, or a list of distinct names, got {label_field!r}")
    names = [label_field] if isinstance(label_field, str) else list(label_field)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise InputError(f"expected the name of a field, or a list of distinct names, got {label_field!r}")
    return names


def check_reference_field(collection: SampleCollection, label_field: str | Sequence[str]) -> list[str]:
    """Raises unless every field named holds labels that can be references; returns the names.

    Raises:
        InputError: if there is no such field; names the fields that would do.
        WrongTypeError: if a field holds something else.
    """
    names = field_names(label_field)
    for name in names:
        if is_reference_field(collection, name):
            continue
        usable = f"fields with labels that can be: {_listed(reference_fields(collection))}"
        field = _field(collection, name)
        if field is None:
            raise InputError(f"no field {name!r} in {dataset_of(collection).name!r}; {usable}")
        raise WrongTypeError(
            f"expected field {name!r} to hold Detections, Keypoints, Polylines or a Segmentation, got "
            f"{_type_name(field)}; {usable}"
        )
    return names


def _type_name(field: fo.Field) -> str:
    document = getattr(field, "document_type", None)
    return document.__name__ if isinstance(document, type) else type(field).__name__


def _listed(names: Iterable[str]) -> str:
    return listing(map(repr, names), 20)


def with_sizes(view: SampleCollection, notes: list[str]) -> SampleCollection:
    """The samples whose image size is known, after computing what is missing.

    Args:
        view: the samples.
        notes: gets a line where some are left out.

    Raises:
        InputError: if no image can be read.
    """
    if not len(view):
        raise InputError(NO_IMAGES)
    has_size = (F("metadata.width") >= 1) & (F("metadata.height") >= 1)  # some tools write 0 for "not known"
    unsized = view.match(~has_size)
    if len(unsized):
        files = zip(*unsized.values(["id", "filepath"]), strict=True)
        unreadable = [sample_id for sample_id, path in files if not is_plain_file(path)]  # FiftyOne waits for pipes
        readable = unsized.exclude(unreadable) if unreadable else unsized
        if len(readable):
            readable.compute_metadata(overwrite=True, progress=False)
            add_sizes(readable.match(~has_size))
    sized = view.match(has_size)
    if not len(sized):
        raise InputError("no image of the view could be read; check the samples' filepath")
    if len(sized) < len(view):
        ids, paths = view.match(~has_size).values(["id", "filepath"])
        named = ", ".join(f"{key} ({path})" for key, path in zip(ids[:_MOST_NAMED], paths, strict=False))
        more = ", ..." if len(ids) > _MOST_NAMED else ""
        notes.append(f"{counted(len(ids), 'sample')} left out, whose image cannot be read: {named}{more}")
    return sized


def check_name(name: str) -> None:
    """Raises InputError unless ``name`` can be a run key."""
    if not isinstance(name, str) or not name.isidentifier() or len(name) > 100:
        raise InputError(
            f"expected a name of letters, digits and underscores that does not start with a digit, got {name!r}"
        )
