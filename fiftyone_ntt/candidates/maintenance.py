"""Looking after an index: what is in it, whether it is sound, and making it smaller. Deletes only when told to.

Only files that carry the index's own names are looked at; whatever else lies in the folder stays.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from fiftyone_ntt.candidates.file_format import (
    SUFFIX,
    DamagedIndexError,
    IndexSettings,
    from_bytes,
    glance,
    read_file,
)
from fiftyone_ntt.candidates.shards import tables_in
from fiftyone_ntt.candidates.store import RECIPES, SETTINGS_FILE, settings_in
from fiftyone_ntt.errors import InputError, counted, listing
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.pixels.files import PART_SUFFIX

logger = logging.getLogger(__name__)

_DAY = 24 * 3600.0
_HASH = "[0-9a-f]{64}"
_OWN = re.compile(
    rf"(?P<digest>{_HASH})/(({SETTINGS_FILE}|{RECIPES}/{_HASH}|(?P<two>..)/(?P<image>(?P=two)[0-9a-f]{{62}}){SUFFIX})"
    rf"(?P<part>\.\w+{re.escape(PART_SUFFIX)})?)"
)


@dataclass(frozen=True)
class IndexFile:
    """A file of the index.

    Attributes:
        path: where it is.
        settings: digest of its settings.
        image: sha256 of the image; ``None`` for the few files that hold no image.
        part: whether it is what a killed worker left of a file.
        bytes: its size.
        used: when it was stored or last read (to a day), seconds since 1970.
    """

    path: Path
    settings: str
    image: str | None
    part: bool
    bytes: int
    used: float


@dataclass
class SettingsInfo:
    """What there is of one set of settings.

    Attributes:
        digest: name of the folder.
        settings: the settings, ``None`` if they cannot be read.
        images: number of images.
        in_shards: images known by reference, in the shards of fleets; some may have files of their own, too.
        bytes: size on disk, leftovers included, shards not.
        leftovers: unfinished files of killed workers.
        first: when the first file was stored or last used, UTC; ``None`` if there is no image.
        last: the same of the last file.
    """

    digest: str
    settings: IndexSettings | None = None
    images: int = 0
    bytes: int = 0
    leftovers: int = 0
    first: datetime | None = None
    last: datetime | None = None
    in_shards: int = 0


@dataclass
class PruneReport:
    """What ``prune`` removed, or would.

    Attributes:
        reasons: path -> why.
        bytes: size of those files.
        kept: images left.
        kept_bytes: size of what is left.
        dry_run: whether nothing was removed.
        stuck: path -> why it could not be removed.
    """

    reasons: dict[Path, str] = field(default_factory=dict)
    bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    dry_run: bool = False
    stuck: dict[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        text = (
            f"{verb} {counted(len(self.reasons), 'file')}, {self.bytes / 1e6:.1f} MB; "
            f"{counted(self.kept, 'image')} kept, {self.kept_bytes / 1e6:.1f} MB"
        )
        first = next(iter(self.stuck.items()), None)
        return text if first is None else f"{text}; {len(self.stuck)} could not be removed, e.g. {first[0]}: {first[1]}"


def files_in(root: Path) -> Iterator[IndexFile]:
    """Every file of an index, nothing else. Links are not followed."""
    for folder in sorted(path for path in root.glob("*") if re.fullmatch(_HASH, path.name) and not path.is_symlink()):
        for path in sorted((*folder.glob("*"), *folder.glob("*/*"))):
            own = _OWN.fullmatch(path.relative_to(root).as_posix())
            if own is None or path.is_symlink() or path.parent.is_symlink():
                continue
            try:
                stat = path.stat()
            except OSError as error:  # renamed or pruned meanwhile, or in a folder that may not be looked into
                logger.debug("passing over %s: %s", path, error)
                continue
            yield IndexFile(
                path, own["digest"], own["image"], own["part"] is not None, stat.st_size, stat.st_mtime
            )  # fmt: skip


def info(root: Path) -> list[SettingsInfo]:
    """What an index holds, one entry for each set of settings."""
    settings = settings_in(root)
    entries: dict[str, SettingsInfo] = {}
    for file in files_in(root):
        entry = entries.setdefault(file.settings, SettingsInfo(file.settings, settings.get(file.settings)))
        entry.bytes += file.bytes
        entry.leftovers += file.part
        if file.image is not None and not file.part:
            used = datetime.fromtimestamp(file.used, timezone.utc)
            entry.images += 1
            entry.first = min(entry.first or used, used)
            entry.last = max(entry.last or used, used)
    for digest, entry in entries.items():
        entry.in_shards = sum(map(len, tables_in(root / digest)))
    return list(entries.values())


def verify(root: Path, *, remove: bool = False, progress: Progress | None = None) -> dict[Path, str]:
    """Reads every file and checks every byte of it.

    Args:
        root: the index's folder.
        remove: delete what is damaged; it is made again when it is needed.
        progress: called with (done, total, message).

    Returns:
        The damaged files, each with what is wrong.
    """
    damaged = _damaged([file for file in files_in(root) if not file.part], progress)
    if remove:
        for path, reason in _remove_files(damaged).items():
            damaged[path] = f"{damaged[path]}; and it cannot be removed: {reason}"
    return damaged


def prune(
    root: Path,
    *,
    older_than: float | None = None,
    settings: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PruneReport:
    """Removes damaged files and what killed workers left, and whatever else is asked for.

    A file counts as damaged here if its beginning or its length tells so, which takes no time worth speaking of;
    ``verify`` reads every byte.

    Args:
        root: the index's folder.
        older_than: also images not used for so many days.
        settings: also everything of these settings: their digest, or its beginning.
        limit: also the images not used for longest, until the index takes no more than so many bytes.
        dry_run: only say what would be removed.
        progress: called with (done, total, message).

    Raises:
        InputError: if ``settings`` names none or several, or ``older_than`` is negative.
    """
    if older_than is not None and not older_than >= 0:
        raise InputError(f"expected a number of days of at least 0, got {older_than!r}")
    files = list(files_in(root))
    digest = None if settings is None else _only(settings, sorted({file.settings for file in files}))
    reasons = {file.path: "left by a killed worker" for file in files if file.part}
    reasons |= {file.path: "of the settings named" for file in files if file.settings == digest}
    reasons |= _damaged([file for file in files if file.path not in reasons], progress, only_glance=True)
    images = sorted((file for file in files if file.image and file.path not in reasons), key=lambda file: file.used)
    if older_than is not None:
        before = time.time() - older_than * _DAY
        reasons |= {file.path: f"not used for {counted(older_than, 'day')}" for file in images if file.used < before}
    if limit is not None:
        size = sum(file.bytes for file in files if file.path not in reasons)
        for file in images:
            if size > limit and file.path not in reasons:
                reasons[file.path] = "not used for longest"
                size -= file.bytes
    stuck = {} if dry_run else _remove(root, reasons)
    reasons = {path: reason for path, reason in reasons.items() if path not in stuck}
    kept = [file for file in files if file.path not in reasons]
    return PruneReport(
        reasons,
        sum(file.bytes for file in files if file.path in reasons),
        sum(file.image is not None for file in kept),
        sum(file.bytes for file in kept),
        dry_run,
        stuck,
    )


def _only(beginning: str, digests: list[str]) -> str:
    matching = [digest for digest in digests if digest.startswith(beginning)]
    if len(matching) != 1 or not beginning:
        raise InputError(
            f"expected the beginning of one settings' digest, got {beginning!r}, which fits {len(matching)}; there "
            f"is: {listing(digest[:12] for digest in digests)}"
        )
    return matching[0]


def _damaged(files: list[IndexFile], progress: Progress | None, *, only_glance: bool = False) -> dict[Path, str]:
    damaged = {}
    for done, file in enumerate(files, start=1):
        reason = None if only_glance and _looks_whole(file) else _what_is_wrong(file)
        if reason is not None:
            damaged[file.path] = reason
        if progress is not None:
            progress(done, len(files), f"{len(damaged)} damaged")
    return damaged


def _looks_whole(file: IndexFile) -> bool:
    """Whether an image's file begins as one of its name does, and is as long as it says."""
    if file.image is None:
        return False
    try:
        signature = glance(file.path)
    except (DamagedIndexError, InputError, OSError):
        return False
    return (signature.image, signature.settings.digest) == (file.image, file.settings)


def _what_is_wrong(file: IndexFile) -> str | None:
    try:
        if file.path.name == SETTINGS_FILE:
            digest = IndexSettings.from_json(read_file(file.path).decode()).digest
            return None if digest == file.settings else "it describes other settings than its folder's name"
        if file.image is None:
            return None
        _, signature = from_bytes(read_file(file.path))
    except FileNotFoundError:
        return None
    except (DamagedIndexError, InputError, OSError, UnicodeDecodeError) as error:
        return str(error)
    if signature.image != file.image:
        return f"it was made of another image, {signature.image[:12]}..."
    if signature.settings.digest != file.settings:
        return f"it was made with other settings, {signature.settings.digest[:12]}..."
    return None


def _remove_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Removes files; returns those that stay, each with the reason."""
    stuck = {}
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            stuck[path] = error.strerror or str(error)
    return stuck


def _remove(root: Path, paths: dict[Path, str]) -> dict[Path, str]:
    stuck = _remove_files(paths)
    for folder in sorted({parent for path in paths for parent in path.relative_to(root).parents}, reverse=True):
        if folder.name:
            with suppress(OSError):  # not empty, or just gone
                (root / folder).rmdir()
    return stuck
