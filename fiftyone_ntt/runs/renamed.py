"""Runs follow their label fields to new names: records, the fields beside the labels, and what review keeps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import fiftyone as fo

from fiftyone_ntt.dataset.storage import database_collection, refresh, store
from fiftyone_ntt.runs.presence_fields import absent_field, is_presence_field, judged_run, present_field
from fiftyone_ntt.runs.record import (
    has_statuses,
    labelled_fields,
    note_provenance,
    provenance_of,
    run_of_field,
    status_field,
)

logger = logging.getLogger(__name__)

Moves: TypeAlias = dict[str, tuple[str, str]]
"""Key of each run whose field was renamed -> the field's name before, and its name now."""
_WAITING = "_waiting"
"""Follows the name of a label field while what lies beside it waits for that name to be free."""


def renamed(dataset: fo.Dataset, records: Mapping[str, Mapping[str, Any]]) -> Moves:
    """The runs that are to go by another name, the newest first: what is beside the labels is the last one's."""
    moves: Moves = {}
    fields = labelled_fields(dataset)
    for run_key, record in sorted(records.items(), key=lambda item: item[1]["started"], reverse=True):
        old = record["label_field"]
        if run_of_field(dataset, old) != run_key:
            # Which field says that this run wrote it when it had another name?
            noted = ((name, provenance_of(dataset, name)) for name in fields)
            said = [name for name, what in noted if (what.get("run_key"), what.get("label_field")) == (run_key, old)]
            if said:
                moves[run_key] = old, said[0]
    return moves


def follow(
    dataset: fo.Dataset, moves: Moves, records: Mapping[str, Mapping[str, Any]], kept: Sequence[tuple[str, str]]
) -> None:
    """Lets runs go by the new names of their fields, all at once: one's old name may be another's new one.

    Can be called again where it was interrupted.

    Args:
        dataset: the dataset.
        moves: see ``renamed``.
        records: key of each run -> its record.
        kept: names of stores, and what follows a label field's name in their keys: what else is kept by that name.
    """
    _rename_fields(dataset, moves)
    refresh(dataset)
    _move_kept(dataset, moves, kept)
    for run_key, (old, new) in moves.items():
        for key in (*_runs_below(dataset, run_key, old, moves, records), run_key):
            config = dataset.get_run_info(key).config
            config.record = {**config.record, "label_field": new}
            dataset.update_run_config(key, config)
        note_provenance(dataset, new, config.record)  # last of all: as long as it says the old name, this goes on
        logger.info("field %r of run %r is called %r now; the run follows", old, run_key, new)


def _runs_below(
    dataset: fo.Dataset, run_key: str, old: str, moves: Moves, records: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The runs whose labels a run has replaced in the field that was renamed: they come back in it."""
    from fiftyone_ntt.runs.history import passes  # late: it asks runs/mending.py, which asks this module

    below, above = list[str](), [run_key]
    while above:
        replaced = {str((run_pass.previous or {}).get("run_key")) for run_pass in passes(dataset, above.pop())}
        more = [key for key in replaced - {run_key, *below, *moves} if records.get(key, {}).get("label_field") == old]
        below, above = [*below, *more], [*above, *more]
    return below


def _move_kept(dataset: fo.Dataset, moves: Moves, kept: Sequence[tuple[str, str]]) -> None:
    """Moves what is kept by a field's name; all is read before any is written."""
    names = {old: new for old, new in moves.values() if not _is_taken(dataset, moves, old)}
    for name, ending in kept:
        this = store(dataset, name)
        contents = {old: content for old in names if (content := this.get(old + ending)) is not None}
        for old in contents:
            this.delete(old + ending)
        for old, content in contents.items():
            this.set(names[old] + ending, content)


def _is_taken(dataset: fo.Dataset, moves: Moves, old: str) -> bool:
    """Whether a field of the old name is another run's, which goes by that name already."""
    owner = run_of_field(dataset, old)
    return owner is not None and owner not in moves


def _rename_fields(dataset: fo.Dataset, moves: Moves) -> None:
    """Renames the fields beside label fields as these were renamed, one after the other."""
    for beside in (status_field, present_field, absent_field):
        with suppress(AttributeError, ValueError):  # another process is quicker
            while (step := _next_rename(dataset, moves, beside)) is not None:
                dataset.rename_sample_field(*map(beside, step))
                refresh(dataset)


def _next_rename(dataset: fo.Dataset, moves: Moves, beside: Callable[[str], str]) -> tuple[str, str] | None:
    """The label field whose name a field beside it has, and the one whose name it gets next.

    Args:
        dataset: the dataset.
        moves: the runs whose fields were renamed.
        beside: name of a label field -> that of the field beside it.

    Returns:
        ``None`` once all have their names, or other fields have them.
    """
    wanted: dict[str, str] = {}
    for run_key, (_, new) in moves.items():
        source = _base_beside(dataset, moves, run_key, beside)
        if source not in (None, new):
            wanted.setdefault(str(source), new)
    free = [(source, target) for source, target in wanted.items() if not dataset.has_field(beside(target))]
    # Of names that go round in a ring, one has to wait under another name.
    ring = [(target, wanted[target] + _WAITING) for target in wanted.values() if target in wanted]
    return next(iter([*free, *ring]), None)


def _base_beside(dataset: fo.Dataset, moves: Moves, run_key: str, beside: Callable[[str], str]) -> str | None:
    """The label field by whose name the field beside a run's labels is called now; ``None`` without such a field."""
    old, new = moves[run_key]
    for base in [new, new + _WAITING, *([] if _is_taken(dataset, moves, old) else [old])]:
        if _is_about(dataset, base, beside, run_key):
            return base
    # Nothing in it may say whose it is: a run may have cleared it, or a person.
    is_ours = has_statuses(dataset, old) if beside is status_field else is_presence_field(dataset, beside(old))
    return old if is_ours and not dataset.has_field(old) else None


def _is_about(dataset: fo.Dataset, base: str, beside: Callable[[str], str], run_key: str) -> bool:
    """Whether the field beside a label field is there, and about a run."""
    if beside is not status_field:
        return judged_run(dataset, beside(base)) == run_key
    query = {f"{status_field(base)}.run_key": run_key}
    return has_statuses(dataset, base) and database_collection(dataset).find_one(query, {"_id": 1}) is not None
