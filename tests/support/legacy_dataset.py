"""A dataset as an earlier version of this package left it behind, put back into whatever database FiftyOne uses.

The folder holds ``database.json.gz``, the dataset's documents of every collection as MongoDB's extended JSON, with
``FOLDER`` for the folder itself in all paths; ``images/``; ``index/``, the candidate index of that time; and
``facts.json``, what that version said of it.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
from bson import ObjectId, json_util

DUMP, FACTS = "database.json.gz", "facts.json"
FOLDER = "@FOLDER@"
_SHARED = ("datasets", "runs", "views", "fs.files")
"""Collections in which the documents of all datasets lie, and are found by their id: each load gets ids of its own."""


def load_fixture(folder: Path, name: str) -> fo.Dataset:
    """Restores the dataset, with runs, memory banks, thresholds and states.

    Args:
        folder: a copy of the fixture; the images of the dataset are those in it.
        name: what to call the dataset.

    Returns:
        The dataset; persistent.
    """
    text = gzip.decompress((folder / DUMP).read_bytes()).decode()
    text = text.replace(FOLDER, json.dumps(str(folder))[1:-1])
    dump = json_util.loads(_with_new_ids(text))
    (document,) = dump["datasets"]
    document |= {"name": name, "slug": fo.core.utils.to_slug(name)}
    database = foo.get_db_conn()
    for collection, documents in dump.items():
        if documents:
            database[collection].insert_many(documents)
    return fo.load_dataset(name)


def facts_of(folder: Path) -> dict[str, Any]:
    """What the earlier version said of the dataset."""
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return facts


def _with_new_ids(text: str) -> str:
    """The dump with other ids of the documents in shared collections, wherever they are named."""
    for collection in _SHARED:
        for document in json_util.loads(text)[collection]:
            text = text.replace(str(document["_id"]), str(ObjectId()))
    return text
