"""How the App shows a run's field: editable (the tab "Annotate" shows fields with an active label schema only), and in
the colours of its classes. And what it shows in place of an image: a second media field, of paths of previews.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection
from fiftyone.core.odm import get_db_conn
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from fiftyone_ntt.dataset.documents import Document, can_be_tagged, class_of, tags_of
from fiftyone_ntt.dataset.fields import check_detections_field, dataset_of, label_path, label_root
from fiftyone_ntt.dataset.labels import ATTRIBUTES, OF_REFERENCES, OF_REFINED
from fiftyone_ntt.dataset.storage import dataset_id
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.pixels.drawing import hex_colour

logger = logging.getLogger(__name__)

HIDDEN = frozenset({"mask_path", "index", "source", *ATTRIBUTES, *OF_REFERENCES, *OF_REFINED})
"""Attributes that nobody edits by hand, or that mean something to review only: the App's sidebar still filters by them.

An attribute that the editor does not show keeps its value when a label is edited.
"""
_READ_ONLY = frozenset({"confidence", "reference_kind"})
_RADIO_BUTTONS = 5
_SHOWN_CLASSES = 1000  # FiftyOne takes no longer list of choices


def check_lists_field(collection: SampleCollection, field_name: str) -> None:
    """Raises unless a field holds ``Detections``: what is written to or matched by FiftyOne is a list of labels.

    Raises:
        InputError: if there is no such field.
        WrongTypeError: if it holds something else, or single ``Detection`` labels, which are enough to be read.
    """
    check_detections_field(collection, field_name)
    if not label_root(collection, field_name)[1]:
        raise WrongTypeError(
            f"expected field {field_name!r} to hold Detections, got Detection; wrap each label in fo.Detections, in a "
            "field of its own, or choose another field"
        )


def declare_labels(dataset: fo.Dataset, name: str, *, of_references: bool = False) -> None:
    """Makes a label field, where it is not there, and declares what runs write on labels."""
    if not dataset.has_field(name):
        dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    for attribute, (kind, description) in {**ATTRIBUTES, **(OF_REFERENCES if of_references else {})}.items():
        dataset.add_sample_field(f"{name}.detections.{attribute}", kind, description=description)


def declare_status(dataset: fo.Dataset, label_field: str, status: str) -> None:
    """Makes the status field of a label field, where it is not there, and the index for whoever follows runs."""
    if not dataset.has_field(status):
        dataset.add_sample_field(
            status,
            fo.EmbeddedDocumentField,
            embedded_doc_type=fo.DynamicEmbeddedDocument,
            description=f"what the last labelling run of {label_field!r} did with this sample",
        )
    for part in ("run_key", "state", "error", "note"):
        dataset.add_sample_field(f"{status}.{part}", fo.StringField)
    dataset.add_sample_field(f"{status}.seconds", fo.FloatField)
    # Counted often: how many samples are done, and whether their labels are there, without reading a document.
    dataset.create_index([(f"{status}.run_key", 1), (f"{status}.state", 1), (f"{label_field}._cls", 1)])


_MOST_INDEXES = 40
"""MongoDB takes 64 of a collection; the rest is for statuses, and for what people make themselves."""


def index_tags(dataset: fo.Dataset, label_fields: Sequence[str]) -> None:
    """Makes the indexes that tell which samples, and which of them by their labels, have a tag; see ``has_label_tag``.

    All in one command: the database goes through the samples once. A user who may only read goes on without.

    Args:
        dataset: the dataset.
        label_fields: fields of labels; those that are not there are passed over.
    """
    paths = ["tags", *(label_path(dataset, name, "tags") for name in label_fields if dataset.has_field(name))]
    there = {index["key"][0][0] for index in dataset._sample_collection.index_information().values()}
    new = [path for path in dict.fromkeys(paths) if path not in there][: max(_MOST_INDEXES - len(there), 0)]
    if new:
        try:
            dataset._sample_collection.create_indexes([IndexModel([(path, 1)]) for path in new])
        except OperationFailure as error:
            logger.info("no indexes are made of the tags in %r: %s", dataset.name, error)


def activate_schema(dataset: fo.Dataset, label_field: str, classes: Sequence[str] | None = None) -> bool:
    """Lets people edit a field's masks, boxes and classes in the App, in the tab "Annotate" of an open sample.

    FiftyOne's label schema is made from the classes and the declared attributes; nothing is scanned. A schema that is
    there already stays as it is, also where a person switched it off; classes it does not offer yet are added, and
    attributes that mean nothing to whoever annotates are taken off it.

    Args:
        dataset: the dataset.
        label_field: a field of detections.
        classes: what to offer as classes; those of the run that wrote the field where left out.

    Returns:
        Whether anything was changed.

    Raises:
        InputError: if there is no such field.
        WrongTypeError: if the field holds something else.
    """
    check_detections_field(dataset, label_field)
    wanted = list(dict.fromkeys(classes if classes is not None else _classes_of_run(dataset, label_field)))
    schema = dataset.label_schemas.get(label_field)
    try:
        if schema is not None:
            return _renew(dataset, label_field, schema, wanted)
        dataset.update_label_schema(label_field, _schema(dataset, label_field, wanted))
        dataset.activate_label_schemas([label_field])
    except ValueError as error:  # media that the editor does not take, say
        logger.info("labels of %r cannot be edited in the App: %s", label_field, error)
        return False
    return True


def colour_by_class(dataset: fo.Dataset, label_field: str, classes: Sequence[str]) -> bool:
    """Gives the classes of a field the colours in the App that they have in this plugin's pictures and plots.

    Colours that a person chose stay.

    Returns:
        Whether anything was changed.
    """
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    fields = [dict(entry) for entry in scheme.fields or []]
    own = next((entry for entry in fields if entry.get("path") == label_field), None)
    if own is None:
        own = {"path": label_field, "colorByAttribute": "label", "valueColors": []}
        fields.append(own)
    if own.get("colorByAttribute") != "label":
        return False
    there = list(own.get("valueColors") or [])
    coloured = {entry.get("value") for entry in there}
    new = [name for name in classes[:_SHOWN_CLASSES] if name not in coloured]
    if not new:
        return False
    own["valueColors"] = [*there, *({"value": name, "color": hex_colour(name, classes)} for name in new)]
    scheme.fields, scheme.color_by = fields, scheme.color_by or "value"
    dataset.app_config.color_scheme = scheme
    dataset.save()
    return True


def _classes_of_run(dataset: fo.Dataset, label_field: str) -> Iterable[str]:
    run = (dataset.get_field(label_field).info or {}).get("ntt")
    classes = run.get("classes") if isinstance(run, Mapping) else None
    return [name for name in classes if isinstance(name, str)] if isinstance(classes, Sequence) else []


def _schema(dataset: fo.Dataset, label_field: str, classes: list[str]) -> dict[str, Any]:
    declared = getattr(dataset.get_field(f"{label_field}.detections"), "field", dataset.get_field(label_field)).fields
    if "confidence" not in {field.name for field in declared}:
        dataset._reload(hard=True)  # a field declared just now shows its built-in attributes only once it is read back
    schema = dict(dataset.generate_label_schemas(fields=label_field, scan_samples=False))
    schema["attributes"] = [
        {**attribute, **({"read_only": True} if attribute["name"] in _READ_ONLY else {})}
        for attribute in schema["attributes"]
        if attribute["name"] not in HIDDEN
    ]
    return {**schema, **_offered(classes)}


def _offered(classes: list[str]) -> dict[str, Any]:
    if not classes or len(classes) > _SHOWN_CLASSES:
        return {"component": "text"}
    return {"component": "radio" if len(classes) <= _RADIO_BUTTONS else "dropdown", "classes": classes}


def _renew(dataset: fo.Dataset, label_field: str, schema: dict[str, Any], wanted: list[str]) -> bool:
    shown = [attribute for attribute in schema.get("attributes") or [] if not _is_of_no_use(attribute)]
    fewer = {} if len(shown) == len(schema.get("attributes") or []) else {"attributes": shown}
    offered = list(schema.get("classes") or [])
    new = [name for name in wanted if name not in offered]
    if not new or schema.get("component") == "text" or len(offered) + len(new) > _SHOWN_CLASSES:
        component: dict[str, Any] = {}
    elif schema.get("component") == "radio":
        component = _offered(offered + new)
    else:
        component = {"classes": offered + new}
    if not (component or fewer):
        return False
    dataset.update_label_schema(label_field, {**schema, **fewer, **component})
    return True


def _is_of_no_use(attribute: dict[str, Any]) -> bool:
    """Whether an attribute is one that earlier versions showed, to be read only."""
    return attribute.get("name") in ATTRIBUTES and bool(attribute.get("read_only"))


def is_field_in_database(dataset: fo.Dataset, name: str) -> bool:
    """Whether the dataset has a field now, whatever this process remembers of it."""
    query = {"_id": dataset_id(dataset), "sample_fields.name": name}
    return get_db_conn().datasets.find_one(query, {"_id": 1}) is not None


def declared_attributes(collection: SampleCollection, field_name: str) -> dict[str, fo.Field]:
    """What a dataset declares of the detections in a field, beside FiftyOne's own attributes."""
    field = dataset_of(collection).get_field(label_root(collection, field_name)[0])
    return {of.name: of for of in getattr(field, "field", field).fields if of.name not in fo.Detection._fields}


def can_be_loaded(document: Document, declared: Mapping[str, fo.Field]) -> bool:
    """Whether FiftyOne makes a label of a detection's document: otherwise it cannot load the whole sample.

    Args:
        document: a detection that ``detection_of`` can read.
        declared: ``declared_attributes`` of its field.
    """
    try:
        for name, field in declared.items():
            if document.get(name) is not None:
                field.validate(document[name])
    except Exception:  # whatever it raises where something else stands than was declared
        return False
    is_plain = can_be_tagged(document) and len(tags_of(document)) == len(document.get("tags") or ())
    if is_plain and class_of(document) and not any(map(document.get, ("attributes", "index", "instance"))):
        return True  # as nearly all are: asking FiftyOne takes long
    try:
        fo.Detection.from_dict({key: value for key, value in document.items() if key != "mask"}).validate()
    except Exception:  # whatever it makes of what it does not expect
        return False
    return True


# The second media field

PREVIEWS = "ntt_previews"
"""What the ``info`` of a field of previews is known by."""
ORIGINAL = "filepath"


def error_field_of(preview_field: str) -> str:
    """Name of the field that says why a sample has no preview; it is there once one has none."""
    return f"{preview_field}_error"


def info_of(dataset: fo.Dataset, name: str) -> dict[str, Any]:
    """What is known of a field of previews; nothing of one that is not there.

    Raises:
        InputError: if it, or the field of its errors, is somebody else's, or it is no name for a field.
    """
    if not name.isidentifier() or name.startswith("_"):
        raise InputError(f"expected preview_field to be a name of letters, digits and underscores, got {name!r}")
    info: Any = (dataset.get_field(name).info or {}).get(PREVIEWS) if dataset.has_field(name) else {}
    if not isinstance(info, dict):
        raise InputError(f"field {name!r} exists and make_previews did not make it; choose another preview_field")
    errors = error_field_of(name)
    if dataset.has_field(errors) and PREVIEWS not in (dataset.get_field(errors).info or {}):
        raise InputError(f"field {errors!r} exists and make_previews did not make it; choose another preview_field")
    for own in filter(dataset.has_field, (name, errors)):
        if dataset.get_field(own).read_only:
            raise InputError(f"expected a field that can be written to, got {own!r}, which is read-only in the dataset")
    return dict(info)


def declare_previews(dataset: fo.Dataset, preview_field: str, folder: Path) -> None:
    """Makes a field of previews, where it is not there, has the App show them, and says where their files are."""
    if not dataset.has_field(preview_field):
        dataset.add_sample_field(
            preview_field,
            fo.StringField,
            description="path of a small copy of the image, which the App shows in its place",
            info={PREVIEWS: {}},
        )
    field = dataset.get_field(preview_field)
    own = field.info[PREVIEWS]
    folders = own.get("folders", [])
    # A dataset that the samples were merged into got the field with its info, and not what the App shows.
    is_shown = "before" in own and preview_field in dataset.app_config.media_fields
    if not is_shown or str(folder) not in folders:
        before = own["before"] if is_shown else _show_previews(dataset, preview_field)
        known = [*dict.fromkeys([*folders, str(folder)])]
        field.info = {**field.info, PREVIEWS: {"folders": known, "before": before}}
        field.save()


def forget_previews(dataset: fo.Dataset, preview_field: str) -> None:
    """Keeps a field of previews, in which somebody else's are, without what was known of ours."""
    field = dataset.get_field(preview_field)
    field.info = {**field.info, PREVIEWS: {}}
    field.save()
    if dataset.has_field(errors := error_field_of(preview_field)):
        dataset.delete_sample_field(errors)


def declare_errors(dataset: fo.Dataset, preview_field: str) -> None:
    """Makes the field that says why samples have no preview, where it is not there."""
    name = error_field_of(preview_field)
    if not dataset.has_field(name):
        description = "why the image has no preview"
        dataset.add_sample_field(name, fo.StringField, description=description, info={PREVIEWS: preview_field})


def delete_fields(dataset: fo.Dataset, preview_field: str) -> None:
    """Deletes a field of previews, and that of its errors."""
    names = [preview_field, error_field_of(preview_field)]
    dataset.delete_sample_fields([name for name in names if dataset.has_field(name)])


def _show_previews(dataset: fo.Dataset, preview_field: str) -> dict[str, Any]:
    """Has the App show previews where it shows the images themselves; returns what it showed before."""
    app = dataset.app_config
    before: dict[str, Any] = {"grid": app.grid_media_field, "modal": app.modal_media_field}
    before = {place: ORIGINAL if name == preview_field else name for place, name in before.items()}
    before["fallback"] = bool(app.media_fallback)
    app.media_fields = [*dict.fromkeys([*app.media_fields, preview_field])]
    if app.grid_media_field == ORIGINAL:
        app.grid_media_field = preview_field
    if app.modal_media_field == ORIGINAL:
        app.modal_media_field = preview_field
    app.media_fallback = True  # images without a preview show themselves
    dataset.save()
    return before


def show_originals(dataset: fo.Dataset, preview_field: str, info: dict[str, Any]) -> None:
    """Takes that back, as far as nobody has chosen something else since."""
    app, before = dataset.app_config, info.get("before") or {}
    if app.grid_media_field == preview_field:
        app.grid_media_field = before.get("grid", ORIGINAL)
    if app.modal_media_field == preview_field:
        app.modal_media_field = before.get("modal", ORIGINAL)
    app.media_fields = [name for name in app.media_fields if name != preview_field]
    if not before.get("fallback") and {app.grid_media_field, app.modal_media_field} == {ORIGINAL}:
        app.media_fallback = False
    dataset.save()


def preview_fields(dataset: fo.Dataset) -> list[str]:
    """Names of the fields of previews."""
    schema = dataset.get_field_schema()
    return [name for name, field in schema.items() if isinstance((field.info or {}).get(PREVIEWS), dict)]
