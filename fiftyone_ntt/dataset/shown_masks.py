"""Which mask files the labels of any dataset show: a copy of a sample shows the files of what it was made from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fiftyone.core.odm import get_db_conn
from pymongo.errors import ConnectionFailure, PyMongoError

logger = logging.getLogger(__name__)

_WITH_A_FILE = {"Detections": "{}.detections.mask_path", "Detection": "{}.mask_path", "Segmentation": "{}.mask_path"}
"""Kind of a label field -> where its labels name their mask files."""
_PLACES = (("sample_collection_name", "sample_fields"), ("frame_collection_name", "frame_fields"))
KEPT_FILES = "files:"
"""What keys in a dataset's store begin with that list mask files of labels that may come back."""
_LAST = "\U0010ffff"
"""No letter comes after it."""


def files_shown(folder: Path) -> set[str] | None:
    """Files of a folder that are the mask of a label in any dataset of this database: clones, patches, merged samples.

    Those of masks that were refined are among them: undoing that brings them back.

    No index knows paths of masks, so every dataset is gone through once: to be asked only where there are files.

    Returns:
        Their paths; ``None`` where the database does not say, to a user who may not read every dataset.

    Raises:
        ConnectionFailure: if the database does not answer.
    """
    start = f"{folder}{os.sep}"
    try:
        return {path for path in _paths(start) if path.startswith(start)}
    except ConnectionFailure:
        raise
    except PyMongoError as error:
        logger.warning("nobody can tell which mask files below %s other datasets show: %s", folder, error)
        return None


def _paths(start: str) -> Iterator[str]:
    """Paths of masks in documents that have one that begins so."""
    database, begins_so = get_db_conn(), {"$gte": start, "$lt": start + _LAST}
    listed = {"key": {"$gte": KEPT_FILES, "$lt": KEPT_FILES + _LAST}, "value": begins_so}
    for kept in database["execution_store"].find({"store_name": "ntt_refined", **listed}, {"value": 1}):
        yield from _texts_at(kept["value"], [])
    for dataset in database.datasets.find({}, dict.fromkeys((name for place in _PLACES for name in place), 1)):
        for collection, fields in _PLACES:
            keys = [key for field in dataset.get(fields) or () if (key := _key(field)) is not None]
            if not keys or not dataset.get(collection):
                continue
            any_begins = {"$or": [{key: begins_so} for key in keys]}
            for document in database[dataset[collection]].find(any_begins, {"_id": 0, **dict.fromkeys(keys, 1)}):
                for key in keys:
                    yield from _texts_at(document, key.split("."))


def _key(field: dict[str, Any]) -> str | None:
    """Where the labels of a field name their mask files, of which kind it is; ``None`` where they have none."""
    kind = str(field.get("embedded_doc_type") or "").rpartition(".")[2]
    pattern = _WITH_A_FILE.get(kind)
    return None if pattern is None else pattern.format(field.get("db_field") or field["name"])


def _texts_at(value: Any, keys: list[str]) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _texts_at(item, keys)
    elif keys and isinstance(value, dict):
        yield from _texts_at(value.get(keys[0]), keys[1:])
    elif not keys and isinstance(value, str):
        yield value
