"""Takes a labelling run back."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F

from fiftyone_ntt.dataset.database import patiently
from fiftyone_ntt.dataset.decided import is_from_run, is_kept
from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.dataset.labels import ATTRIBUTES
from fiftyone_ntt.dataset.leases import forget_claims
from fiftyone_ntt.dataset.masks_on_disk import masks_folder, remove_masks
from fiftyone_ntt.dataset.replaced import Document, Pass, last_pass, passes
from fiftyone_ntt.dataset.runs import PROVENANCE, list_runs, status_field
from fiftyone_ntt.dataset.states import delete_state
from fiftyone_ntt.dataset.verdict_fields import forget_verdicts
from fiftyone_ntt.errors import InputError

_CHUNK = 25


def undo_run(dataset: fo.Dataset, run_key: str, *, keep_edited: bool = True) -> int:
    """Takes a labelling run back: its labels, mask files and verdicts, its statuses, the fields it made, its record.

    Labels that a person has accepted or edited (tags ``ntt:accepted``, ``ntt:edited``, or another class, box or mask
    than the run wrote) stay unless told otherwise, and with them the field; labels that a person drew always stay.
    What ``overwrite=True`` replaced comes back. A run that has overwritten its own labels goes back by one such pass.
    If this is interrupted, call it again.

    Args:
        dataset: the dataset.
        run_key: key of the run, see ``list_runs``.
        keep_edited: leave what a person has accepted or edited.

    Returns:
        Number of labels removed.

    Raises:
        InputError: if there is no such run, if it is at work, or if another run has overwritten its labels since.
        DatabaseGoneError: if the database does not answer for minutes.
    """
    name = patiently(_check, dataset, run_key)
    this = patiently(last_pass, dataset, run_key)
    removed = 0
    if dataset.has_field(name):
        removed = _restore_samples(dataset, name, run_key, this, keep_edited)
        forget_verdicts(dataset, name, run_key)
        patiently(_restore_provenance, dataset, name, run_key, this)
        patiently(_remove_fields, dataset, name, this)
    remove_masks(masks_folder(dataset, run_key, this.number), patiently(_mask_paths, dataset, name))
    # Last of all, and in this order: as long as they are there, this can be called again.
    if this.config is not None:
        patiently(_restore_record, dataset, run_key, this, this.config)
        patiently(this.delete)
    else:
        patiently(this.delete)
        patiently(forget_claims, dataset, run_key)
        patiently(delete_state, dataset, run_key)
        patiently(_delete_record, dataset, run_key)
    return removed


def _check(dataset: fo.Dataset, run_key: str) -> str:
    """The run's label field; refuses what cannot be undone."""
    # A run that waits for a worker to begin it has written nothing yet.
    runs = {run["run_key"]: run for run in list_runs(dataset) if dataset.has_run(run["run_key"])}
    if run_key not in runs:
        raise InputError(f"no labelling run {run_key!r} in {dataset.name!r}; there is: {', '.join(runs) or 'none'}")
    if runs[run_key].get("workers"):  # one that was cancelled may take a second to stop
        raise InputError(f"run {run_key!r} is at work; cancel it first, see cancel_run, and wait for it to stop")
    name = str(runs[run_key]["label_field"])
    for other in (key for key, run in runs.items() if key != run_key and run["label_field"] == name):
        if any((one.previous or {}).get("run_key") == run_key for one in passes(dataset, other)):
            raise InputError(f"run {other!r} has overwritten labels of run {run_key!r}; undo {other!r} first")
    return name


def _restore_samples(dataset: fo.Dataset, name: str, run_key: str, this: Pass, keep_edited: bool) -> int:
    status, old_statuses = status_field(name), patiently(this.statuses)
    ids = patiently(_samples, dataset, name, run_key, this, old_statuses)
    removed = 0
    for start in range(0, len(ids), _CHUNK):
        chunk = every_image(dataset).select(ids[start : start + _CHUNK])
        found, current = patiently(chunk.values, ["id", name], _raw=True)
        labels: dict[str, Document | None] = {}
        statuses: dict[str, Document | None] = {}
        for sample_id, now in zip(found, current, strict=True):
            before = patiently(this.kept, sample_id)
            statuses[sample_id] = old_statuses.get(sample_id) or (before[1] if before else None)
            if before is None and this.overwrites:
                continue  # the run has not come to this sample
            labels[sample_id] = _restored(now, before[0] if before else None, keep_edited)
            removed += len(_ids(now) - _ids(labels[sample_id]))
        _set(dataset, name, labels)
        _set(dataset, status, statuses)
    return removed


def _samples(
    dataset: fo.Dataset, name: str, run_key: str, this: Pass, old_statuses: dict[str, Document]
) -> list[str]:  # fmt: skip
    """The samples that a pass has written, or whose status it has cleared."""
    if this.overwrites:
        return sorted({*this.sample_ids(), *old_statuses})
    status = status_field(name)
    has_labels = F(f"{name}.detections").exists() & (F(f"{name}.detections").length() > 0)
    if not dataset.has_field(status):
        return list(every_image(dataset).match(has_labels).values("id"))
    # A run that was killed between labels and statuses leaves labels without a status.
    mine = (F(f"{status}.run_key") == run_key) | (has_labels & ~F(f"{status}.run_key").exists())
    return list(every_image(dataset).match(mine).values("id"))


def _restored(now: Document | None, before: Document | None, keep_edited: bool) -> Document | None:
    """A sample's labels without those of the run, with those that it replaced."""
    stay = {
        label["_id"]: label
        for label in (now or {}).get("detections") or []
        if not is_from_run(label) or (keep_edited and is_kept(label))
    }
    # What was there before and outlived the run was a person's: with what was done to it since, it stays as it is now.
    current = {label["_id"]: label for label in (now or {}).get("detections") or []} if keep_edited else stay
    old = [current.get(label["_id"], label) for label in (before or {}).get("detections") or []]
    for label in old:
        stay.pop(label["_id"], None)
    if not old and not stay:
        return before
    return {**(before or now or {}), "detections": [*old, *stay.values()]}


def _ids(labels: Document | None) -> set[Any]:
    return {label["_id"] for label in (labels or {}).get("detections") or []}


def _set(dataset: fo.Dataset, field: str, documents: dict[str, Document | None]) -> None:
    if documents and dataset.has_field(field):
        patiently(dataset.set_values, field, documents, key_field="id", validate=False, dynamic=False)


def _mask_paths(dataset: fo.Dataset, name: str) -> set[str]:
    """Mask files of the labels that are there now."""
    if not dataset.has_field(name):
        return set()
    return set(every_image(dataset).values(f"{name}.detections.mask_path", unwind=True))


def _restore_record(dataset: fo.Dataset, run_key: str, this: Pass, facts: dict[str, Any]) -> None:
    config = dataset.init_run(**{key: value for key, value in facts.items() if key not in ("cls", "type")})
    dataset.register_run(run_key, config, overwrite=True)
    results = this.results(config, run_key)
    if results is not None:
        dataset.save_run_results(run_key, results, cache=False)


def _delete_record(dataset: fo.Dataset, run_key: str) -> None:
    if dataset.has_run(run_key):
        dataset.delete_run(run_key)


def _restore_provenance(dataset: fo.Dataset, name: str, run_key: str, this: Pass) -> None:
    """The field names the run before; where there was none, the labels that stay are a person's now."""
    field = dataset.get_field(name)
    info = dict(field.info or {})
    if info.get(PROVENANCE, {}).get("run_key") != run_key:
        return
    del info[PROVENANCE]
    field.info = {**info, **({PROVENANCE: this.previous} if this.previous else {})} or None
    field.save()


def _remove_fields(dataset: fo.Dataset, name: str, this: Pass) -> None:
    """Removes the fields that the run has made, unless something is in them."""
    status = status_field(name)
    made = this.made if this.exists else [name, status]  # runs of earlier versions noted no pass
    if name in made and not every_image(dataset).count(f"{name}.detections"):
        dataset.delete_sample_field(name)
    else:
        for path in (f"{name}.detections.{attribute}" for attribute in ATTRIBUTES):
            if path in made and dataset.get_field(path) is not None and not every_image(dataset).count(path):
                dataset.delete_sample_field(path)
    if status in made and dataset.has_field(status) and not every_image(dataset).count(f"{status}.run_key"):
        for index in set(dataset.list_indexes()) & {f"{status}.run_key_1_{status}.state_1"}:
            dataset.drop_index(index)
        dataset.delete_sample_field(status)
