"""How this package talks to FiftyOne's database, beyond what FiftyOne's own interface offers.

Patience where the database does not answer; stores, raw documents and views as documents; and files for masks that
are too large: MongoDB takes 16 MB a document, and a sample is one document with all its fields.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from fiftyone.core.odm import get_db_conn
from fiftyone.core.runs import Run
from fiftyone.core.stages import ViewStage
from fiftyone.operators import ExecutionStore
from pymongo.collection import Collection
from pymongo.errors import ConnectionFailure

from fiftyone_ntt.dataset.fields import check_name, dataset_of, every_image, is_generated
from fiftyone_ntt.dataset.given import checked_dataset
from fiftyone_ntt.errors import DatabaseGoneError, InputError
from fiftyone_ntt.pixels.drawing import encode_png
from fiftyone_ntt.pixels.files import write_file

logger = logging.getLogger(__name__)

PATIENCE_VARIABLE = "FIFTYONE_NTT_DATABASE_PATIENCE"
_PATIENCE = 300.0  # seconds, where the variable does not say
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0
FOLDER_VARIABLE = "FIFTYONE_NTT_MASKS"
LARGEST_DOCUMENT = 16 * 2**20 - 2**17
"""What a sample may take in all; some bytes less than MongoDB allows."""
COMFORTABLE_DOCUMENT = 12 * 2**20
"""Masks go to files above this, so that a sample keeps room for what comes later (evaluations, tags, a second run)."""

_KEYS_AT_ONCE = 1000
T = TypeVar("T")


def patiently(call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """Calls what talks to the database; where that does not answer, again and again for some minutes.

    Args:
        call: must be safe to call again after it failed half-way.
        *arguments: its arguments.
        **keywords: its keyword arguments.

    Returns:
        What it returns.

    Raises:
        DatabaseGoneError: if the database has not come back in time. ``$FIFTYONE_NTT_DATABASE_PATIENCE`` says how many
            seconds that is, 300 unless told.
    """
    wait, failed_at = _FIRST_WAIT, None
    while True:
        try:
            return call(*arguments, **keywords)
        except ConnectionFailure as error:
            failed_at = failed_at or time.monotonic()
            patience = _patience()
            if time.monotonic() + wait > failed_at + patience:
                raise DatabaseGoneError(
                    f"expected the database to answer, and it did not for {patience:g} seconds; what is saved stays "
                    "saved: see that MongoDB runs and can be reached, then start the same run again to resume it"
                ) from error
            logger.warning("the database does not answer; trying again in %g seconds", wait)
            logger.debug("%s", error)
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


def _patience() -> float:
    text = os.environ.get(PATIENCE_VARIABLE) or str(_PATIENCE)
    try:
        return float(text)
    except ValueError:
        raise InputError(f"expected {PATIENCE_VARIABLE} to be a number of seconds, got {text!r}") from None


def dataset_id(dataset: fo.Dataset) -> ObjectId:
    """What identifies a dataset for good: its name can change, and go to another."""
    identity: ObjectId = checked_dataset(dataset)._doc.id
    return identity


class JsonStore(ExecutionStore):  # type: ignore[misc]  # FiftyOne has no types
    """An execution store that writes only what JSON can hold.

    FiftyOne's server reads all stores again and again to tell its clients what changed, as JSON: a date or bytes in one
    of them ends each of these readings with a traceback, for every other store too. Dates, ids and bytes become small
    documents here, and are themselves again when they are read. What earlier versions wrote is read as it is.
    """

    def get(self, key: str) -> Any:
        return _from_json(super().get(key))

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """What lies under some keys, asked for at once; those without anything are left out."""
        query = {"store_name": self.store_name, "dataset_id": self._store_service._dataset_id}
        found: dict[str, Any] = {}
        for some in in_parts(keys, _KEYS_AT_ONCE):
            rows = get_db_conn()["execution_store"].find({**query, "key": {"$in": list(some)}}, {"key": 1, "value": 1})
            found |= {row["key"]: _from_json(row["value"]) for row in rows}
        return found

    def set(self, key: str, value: Any, ttl: int | None = None, policy: str | None = None) -> None:
        super().set(key, _to_json(value), ttl=ttl, policy=policy)

    def set_if_absent(self, key: str, value: Any, ttl: int | None = None, policy: str | None = None) -> bool:
        return bool(super().set_if_absent(key, _to_json(value), ttl=ttl, policy=policy))

    def compare_and_set(
        self, key: str, expected: Any, value: Any, ttl: int | None = None, policy: str | None = None
    ) -> bool:
        new, wanted = _to_json(value), _to_json(expected)
        if super().compare_and_set(key, wanted, new, ttl=ttl, policy=policy):
            return True
        # An earlier version wrote it, with the dates themselves.
        return wanted != expected and bool(super().compare_and_set(key, expected, new, ttl=ttl, policy=policy))

    def delete_below(self, start: str) -> None:
        """Deletes all keys that begin so."""
        query = {"store_name": self.store_name, "dataset_id": self._store_service._dataset_id}
        get_db_conn()["execution_store"].delete_many({**query, "key": {"$gte": start, "$lt": start + "\U0010ffff"}})


_KIND, _VALUE = "ntt_kind", "ntt_value"
_READ: dict[str, Callable[[str], Any]] = {
    "date": datetime.fromisoformat,
    "id": ObjectId,
    "bytes": base64.b64decode,
}


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, datetime):
        return {_KIND: "date", _VALUE: value.isoformat()}
    if isinstance(value, ObjectId):
        return {_KIND: "id", _VALUE: str(value)}
    if isinstance(value, bytes):
        return {_KIND: "bytes", _VALUE: base64.b64encode(value).decode()}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_KIND, _VALUE}:
            return _READ[value[_KIND]](value[_VALUE])
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value


def store(dataset: fo.Dataset, name: str) -> JsonStore:
    """A dataset's own store of small documents by key; FiftyOne deletes it with the dataset."""
    plain = ExecutionStore.create(name, dataset_id=dataset_id(dataset))
    return JsonStore(name, plain._store_service)


def has_results(dataset: fo.Dataset, run_key: str) -> bool:
    """Whether anything is kept with a run; nothing is read of it."""
    return bool(Run._get_run_doc(dataset, run_key).results)


def check_results_size(dataset: fo.Dataset, run_key: str, most: int) -> None:
    """Raises InputError if what is kept with a run has more than ``most`` bytes: FiftyOne reads all of it at once."""
    results = Run._get_run_doc(dataset, run_key).results
    size = results.length if results else 0
    if size > most:
        raise InputError(f"expected at most {most} bytes with run {run_key!r}, got {size}; build the memory bank again")


def refresh(dataset: fo.Dataset) -> bool:
    """Takes over what other processes did to a dataset's fields and runs since this one loaded it.

    Samples in memory stay as they are, with what somebody may have changed on them and not saved yet.

    Returns:
        Whether there was anything.
    """
    wanted = {"name": 1, "runs": 1, "sample_fields.name": 1, "sample_fields.info": 1}
    there = get_db_conn().datasets.find_one({"_id": dataset_id(dataset)}, wanted)
    if there is None:
        raise InputError(f"dataset {dataset.name!r} has been deleted; load another one")
    before, schema = dataset._doc.to_dict(), dataset.get_field_schema(include_private=True)
    fields = {field["name"]: getattr(schema.get(field["name"]), "info", None) for field in before["sample_fields"]}
    fields = {name: info or None for name, info in fields.items()}
    # Renamed by this process: FiftyOne's object of the field goes by the old name until it is loaded again.
    renamed = any(field.path not in (None, name) for name, field in schema.items())
    in_database = {field["name"]: field.get("info") or None for field in there["sample_fields"]}
    now = there["name"], there.get("runs") or {}, in_database
    if not renamed and (before["name"], before["runs"], fields) == now:
        return False
    dataset._reload()  # first what it is called now: that is how the rest is found
    dataset._reload(hard=True)
    return True


def database_collection(dataset: fo.Dataset) -> Collection[dict[str, Any]]:
    """The samples as MongoDB holds them, for what FiftyOne's own queries would read whole documents for."""
    samples: Collection[dict[str, Any]] = dataset._sample_collection
    return samples


def raw_values(view: SampleCollection, fields: str | Sequence[str]) -> list[Any]:
    """``view.values`` without objects: labels come as the documents that the database holds, ids as they are there."""
    return list(view.values(fields, _raw=True))


def in_parts(items: Sequence[T], size: int = 50_000) -> Iterator[Sequence[T]]:
    """A long list in parts; of ids, as many as a query takes."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def tag_images(images: SampleCollection, tag: str, *, add: bool = True) -> None:
    """Tags samples, or takes the tag away, and touches nothing else of them.

    FiftyOne, asked to tag samples of which one has no list of tags, writes the samples as the view shows them: labels
    that it hides are gone.

    Args:
        images: a dataset or view; filters on its labels do not matter.
        tag: the tag.
        add: whether they are to have it.
    """
    dataset = dataset_of(images)
    for some in in_parts(list(images.values("_id"))):
        database_collection(dataset).update_many({"_id": {"$in": some}, "tags": None}, {"$set": {"tags": []}})
        chosen = every_image(dataset).select(some)
        (chosen.tag_samples if add else chosen.untag_samples)(tag)


def edit_label_tags(
    view: SampleCollection,
    label_field: str,
    labels: Mapping[ObjectId, list[ObjectId]],
    tags: str | list[str],
    *,
    add: bool,
) -> None:
    """What ``tag_labels`` and ``untag_labels`` do, without looking for the labels again.

    Args:
        view: where the labels lie.
        label_field: their field.
        labels: id of a sample -> ids of its labels.
        tags: what to add or to remove.
        add: whether to add.
    """
    which: dict[str, Any] = {"ids": list(labels), "label_ids": list(labels.values())}
    if is_generated(view):  # patches are written to the dataset too: FiftyOne wants all of the view's labels for that
        view = view.select_labels(ids=[str(label) for ids in labels.values() for label in ids], fields=label_field)
        which = {}
    (view._tag_labels if add else view._untag_labels)(tags, label_field, **which)


def stages_of(view: SampleCollection) -> list[ViewStage]:
    """The stages that make a view out of its dataset; none of a dataset."""
    return [] if isinstance(view, fo.Dataset) else list(view._stages)


def stage_document(stage: ViewStage) -> dict[str, Any]:
    """A stage as the App and the database know it, without the id that is another each time."""
    return {key: value for key, value in stage._serialize().items() if key != "_uuid"}


def view_documents(view: fo.DatasetView) -> list[dict[str, Any]]:
    """A view's stages as ``view_from_documents`` takes them."""
    return list(view._serialize(include_uuids=False))


def view_from_documents(dataset: fo.Dataset, documents: list[dict[str, Any]]) -> fo.DatasetView:
    """The view that ``view_documents`` told of."""
    return fo.DatasetView._build(dataset, documents)


def app_view(
    dataset: fo.Dataset,
    request: Mapping[str, Any],
    filters: Mapping[str, Any],
    base: Sequence[ViewStage] | None = None,
) -> fo.DatasetView:
    """The view that the App shows, with other filters in its sidebar.

    Args:
        dataset: the open dataset.
        request: what the App tells an operator or a panel (``ctx.request_params``).
        filters: path -> filter, as the App's sidebar holds them; these count instead of the request's own.
        base: stages instead of those in the view bar.
    """
    from fiftyone.server.view import get_view  # late: it brings the App's server along

    name = request.get("view_name")
    if base is not None:
        documents = [stage._serialize() for stage in base]
    else:
        documents = view_documents(dataset.load_saved_view(name)) if name else list(request.get("view") or [])
    view: fo.DatasetView = get_view(
        dataset, stages=documents, filters=dict(filters), extended_stages=dict(request.get("extended") or {})
    )
    return view


def masks_folder(dataset: fo.Dataset, run_key: str, number: int) -> Path:
    """Where a pass of a run keeps its mask files; not made yet.

    ``$FIFTYONE_NTT_MASKS`` is the root, or else a folder beside FiftyOne's datasets; every machine that runs the App
    or a worker must see it under the same path.

    Args:
        dataset: the dataset.
        run_key: key of the run.
        number: of the pass.

    Raises:
        InputError: if the key is no key of a run.
    """
    check_name(run_key)  # letters, digits and underscores: nothing that leads out of the root
    root = os.environ.get(FOLDER_VARIABLE) or os.path.join(fo.config.default_dataset_dir, "ntt_masks")
    # A hundred letters that are not ASCII could be more bytes than a file name may have.
    name = run_key if run_key.isascii() else hashlib.sha256(run_key.encode()).hexdigest()[:32]
    return Path(root).expanduser().absolute() / str(dataset_id(dataset)) / name / str(number)


def move_masks(labels: list[dict[str, Any]], excess: int, folder: Path) -> int:
    """Moves masks from labels to files, the largest first, until the labels are ``excess`` bytes smaller.

    Args:
        labels: documents of detections; changed in place, once all files are there.
        excess: bytes to get rid of.
        folder: where the files go; made if absent.

    Returns:
        The bytes that the labels are smaller now: fewer than ``excess`` if that was all there was.

    Raises:
        OSError: if a file cannot be written, with its name; labels and folder are as before then.
    """
    moved, paths = 0, {}
    try:
        for i in sorted(range(len(labels)), key=lambda i: len(labels[i].get("mask") or b""), reverse=True):
            if moved >= excess or not labels[i].get("mask"):
                break
            path = folder / f"{labels[i]['_id']}.png"  # an ObjectId: 24 hexadecimal digits
            # Not FiftyOne's export_mask: on a full disk it leaves an empty file and says nothing.
            write_file(path, encode_png(np.asarray(fo.Detection.from_dict(labels[i]).mask) > 0))
            paths[i] = str(path)
            moved += len(labels[i]["mask"]) - len(paths[i])
    except BaseException:
        for written in paths.values():
            with suppress(OSError):
                os.unlink(written)
        raise
    for i, written in paths.items():
        labels[i]["mask"], labels[i]["mask_path"] = None, written
    return moved


def remove_masks(folder: Path, in_use: Container[str]) -> int:
    """Removes a run's mask files, and its folder once it is empty.

    Args:
        folder: see ``masks_folder``.
        in_use: paths of files that must stay.

    Returns:
        Number of files removed.
    """
    unused = [path for path in folder.glob("*.png") if str(path) not in in_use]
    for path in list(unused):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("a mask file that nothing uses any more stays: %s", error)
            unused.remove(path)
    for empty in (folder, *list(folder.parents)[:2]):  # the pass, the run, the dataset
        try:
            empty.rmdir()
        except OSError:  # absent, or something is left in it
            break
    return len(unused)
