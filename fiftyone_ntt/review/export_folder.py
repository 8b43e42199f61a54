"""The folder of an export: filled under another name first, so that it is whole or as it was before."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

from bson import ObjectId

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.files import expanded, plain_file, write_problem

NOTE = "ntt_export.json"
"""File that tells what lies in the folder; only a folder with it is ever replaced."""
_OF_EXPORTS = {"data", "images", "labels", "fields", "labels.json", "dataset.yaml", "samples.json", "metadata.json"}
"""What lies in the folder of an export of a version that did not list its files."""
_HIDDEN = ".ntt-export-"


def checked_folder(export_dir: str | Path, overwrite: bool) -> tuple[Path, set[str]]:
    """The folder as a full path, and the files of an earlier export in it.

    Raises:
        InputError: if it cannot be written to, or holds anything that no export wrote.
    """
    if not str(export_dir).strip() or "\0" in str(export_dir):
        raise InputError("expected the name of a folder to write to, got an empty one")
    try:
        folder = expanded(export_dir).resolve()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"expected a folder to write to, and {folder} is a file; choose another name")
        if not folder.exists() or not any(folder.iterdir()):
            return folder, set()
        return folder, _of_earlier_export(folder, overwrite)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise InputError(write_problem(error, str(export_dir))) from error


def _of_earlier_export(folder: Path, overwrite: bool) -> set[str]:
    if not (folder / NOTE).is_file():
        raise InputError(f"the folder {folder} is not empty and holds no earlier export; choose another one")
    if not overwrite:
        raise InputError(f"the folder {folder} holds an earlier export; choose another one, or pass overwrite=True")
    there = files_in(folder)
    if others := not_written(folder / NOTE, there):
        names = ", ".join(name.lstrip("/\\") for name in others[:3]) + (" and more" if len(others) > 3 else "")
        raise InputError(f"the folder {folder} also holds what no export wrote ({names}); move that, or choose another")
    return there


def files_in(folder: Path) -> set[str]:
    """Every file below a folder, as the end of its path."""
    return {os.path.join(parent, name)[len(str(folder)) :] for parent, _, names in os.walk(folder) for name in names}


def not_written(note: Path, there: set[str]) -> list[str]:
    """Files beside an export's note that no export wrote; caches of what trains with it aside.

    Args:
        note: the export's note; one of an earlier version names no files: then only the folders tell.
        there: every file, as ``files_in`` gives them.
    """
    try:
        written = set(json.loads(plain_file(note).read_text(encoding="utf-8"))["written"])
    except (OSError, ValueError, LookupError, TypeError):
        written = {name for name in there if name.strip("/\\").replace("\\", "/").split("/")[0] in _OF_EXPORTS}
    return sorted(name for name in there - written if not name.endswith((note.name, ".cache")))


def place_to_fill(folder: Path) -> Path:
    """Where an export is made before it is whole: beside the folder, or in it where nothing can be put beside it.

    A folder that another disk is mounted on cannot be renamed, and one's own folder may lie in somebody else's.
    """
    name = f"{_HIDDEN}{ObjectId()}"
    is_own = folder.is_dir() and (folder.is_mount() or not os.access(folder.parent, os.W_OK | os.X_OK))
    return folder / name if is_own else folder.with_name(name)


def give_name(hidden: Path, folder: Path, before: set[str]) -> None:
    """Puts what was written in the place of the earlier export; what came to lie there meanwhile is not touched.

    Args:
        hidden: what was written, at ``place_to_fill(folder)``.
        folder: where it belongs.
        before: the files of the earlier export, as ``checked_folder`` gives them.
    """
    aside = hidden.with_name(f"{hidden.name}-replaced")
    meanwhile = f"expected {folder} as it was when the export began, and other files are in it now; choose another one"
    try:
        if hidden.parent == folder:
            _give_content(hidden, folder, aside, before, meanwhile)
        else:
            _give_folder(hidden, folder, aside, before, meanwhile)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InputError(meanwhile) from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _give_folder(hidden: Path, folder: Path, aside: Path, before: set[str], meanwhile: str) -> None:
    try:
        if before:
            folder.rename(aside)  # so that nothing can come to lie in it while it is looked at
            if files_in(aside) - before:
                aside.rename(folder)
                raise InputError(meanwhile)
        elif folder.exists():
            folder.rmdir()
        hidden.rename(folder)  # fails where something is there
    except OSError:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise


def _give_content(hidden: Path, folder: Path, aside: Path, before: set[str], meanwhile: str) -> None:
    """The same entry by entry, in a folder that has to stay."""
    old = [path for path in folder.iterdir() if path != hidden]
    own = os.sep + hidden.name + os.sep
    if {name for name in files_in(folder) if not name.startswith(own)} - before:
        raise InputError(meanwhile)
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in ((old, aside), (list(hidden.iterdir()), folder)):
            for path in source:
                path.rename(target / path.name)
                moved.append((target / path.name, path))
    except OSError:
        for now, then in reversed(moved):
            now.rename(then)
        raise


def write_error(error: OSError, hidden: Path, folder: Path) -> InputError:
    """The error for a file that could not be written; ``hidden`` is where ``folder`` is made."""
    path = str(error.filename or folder)
    if path == str(hidden) and hidden.parent != folder:
        return InputError(write_problem(error, folder.parent))  # it is the folder above that nothing may be put into
    return InputError(write_problem(error, path.replace(str(hidden), str(folder))))
