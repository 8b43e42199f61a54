"""Previews: small copies of images that the App cannot show, as a second media field of the dataset."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection
from fiftyone.core.odm import get_db_conn

from fiftyone_ntt.dataset.fields import NO_IMAGES, dataset_of, every_image, whole_images
from fiftyone_ntt.dataset.given import checked_dataset
from fiftyone_ntt.dataset.parts import in_threads
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.schema import (
    ORIGINAL,
    PREVIEWS,
    declare_errors,
    declare_previews,
    delete_fields,
    error_field_of,
    forget_previews,
    info_of,
    show_originals,
)
from fiftyone_ntt.dataset.storage import dataset_id, in_parts, patiently, raw_values, refresh
from fiftyone_ntt.errors import InputError, NttError, as_text, counted
from fiftyone_ntt.params.base import Progress, check_arguments, plain_values
from fiftyone_ntt.params.labelling import MakePreviewsParams, RemovePreviewsParams
from fiftyone_ntt.pixels.files import expanded, write_file, write_problem
from fiftyone_ntt.pixels.small_copies import SUFFIXES, is_preview, needs_preview, preview_file

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "FIFTYONE_NTT_PREVIEWS"
_FORMAT = 1
"""Another number makes all previews again."""
_AT_ONCE = 32
_NAME = re.compile(r"[0-9a-f]{24}-[0-9a-f]{16}\.(?:jpg|png)")


@dataclass
class PreviewsReport:
    """What ``make_previews`` did.

    Attributes:
        preview_field: field that holds the paths.
        folder: where the files are.
        made: previews made.
        kept: previews that were there already.
        unneeded: images that the App shows as they are.
        foreign: samples with a path in the field that something else wrote, which stays.
        errors: sample id -> why it has no preview.
        notes: what else is worth knowing.
    """

    preview_field: str
    folder: str
    made: int = 0
    kept: int = 0
    unneeded: int = 0
    foreign: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = (
            (self.kept, "preview", "there already"),
            (self.unneeded, "image", "that the App shows as it is"),
            (self.foreign, "sample", "with a preview of somebody else, left as it is"),
            (len(self.errors), "image", "failed"),
        )
        parts = [f"{counted(count, what)} {why}" for count, what, why in more if count]
        return "; ".join([f"{counted(self.made, 'preview')} made in {self.folder}", *parts, *self.notes])


@with_bar
def make_previews(
    view: SampleCollection,
    preview_field: str = "ntt_preview",
    *,
    folder: str | Path | None = None,
    longest_side: int = 2048,
    larger_than: int = 4096,
    progress: Progress | bool | None = None,
) -> PreviewsReport:
    """Makes small copies of images that the App cannot show, and lets it show these.

    A browser shows no TIFF, nothing of more than 8 bits a value and no slide of 20,000 pixels. The preview of such an
    image is what the models look at, made smaller; labels lie on it as on the image, as their places are relative.
    Images that a browser shows well get none, and the App goes on showing themselves. Nothing that computes looks at
    previews. The same call again makes those that are missing or whose image has changed since, and takes that of an
    image which another one, that needs none, has replaced.

    Args:
        view: the samples; of grouped samples, those of the active slice.
        preview_field: field for the paths of the previews; made if absent.
        folder: where the files go, named after the ids of their samples; ``$FIFTYONE_NTT_PREVIEWS``, or else a folder
            beside FiftyOne's datasets, where ``None``. The machine that runs the App must see it under the same path.
        longest_side: pixels that a preview has at most.
        larger_than: images with a longer side get a preview, and all that a browser cannot show.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        Counts, and the error of each image that cannot be read, which also stands on the sample.

    Raises:
        InputError: if the field is another one's, or the folder cannot be written to.
        WrongTypeError: if the samples are no images.

    Example:
        >>> print(ntt.make_previews(dataset))  # doctest: +SKIP
        12 previews made in /data/ntt_previews/665f...; 340 images that the App shows as they are
        >>> ntt.remove_previews(dataset)  # doctest: +SKIP
        12
    """
    progress, preview_field, longest_side, larger_than = check_arguments(
        MakePreviewsParams,
        progress,
        preview_field=preview_field,
        longest_side=longest_side,
        larger_than=larger_than,
    )
    view = whole_images(view)
    dataset = dataset_of(view)
    refresh(dataset)
    info = info_of(dataset, preview_field)
    place = _folder(dataset, folder)
    maker = _Maker(place, longest_side, larger_than, frozenset([str(place), *info.get("folders", ())]))
    report = PreviewsReport(preview_field, str(place))
    rows = _rows(view, preview_field)
    if not rows:
        report.notes.append(NO_IMAGES)
    for done, some in _in_turn(rows):
        _write(dataset, report, list(in_threads(maker, some)), place)
        if progress is not None:
            progress(done, len(rows), f"{done} of {counted(len(rows), 'image')}, {report.made} previews made")
    logger.info("%s", report)
    return report


def remove_previews(dataset: fo.Dataset, preview_field: str = "ntt_preview") -> int:
    """Takes previews back: the App shows the images themselves, and the files are deleted.

    Paths that something else wrote to the field stay, and so do files that another field or dataset shows, such as a
    copy of this one.

    Args:
        dataset: the dataset.
        preview_field: field that ``make_previews`` filled.

    Returns:
        How many samples have no preview any more.

    Raises:
        InputError: if the field holds no previews.

    Example:
        >>> ntt.remove_previews(dataset)  # doctest: +SKIP
        12
    """
    dataset = checked_dataset(dataset)
    refresh(dataset)
    (preview_field,) = plain_values(RemovePreviewsParams, preview_field=preview_field)
    info = info_of(dataset, preview_field)
    if not info.get("folders"):
        raise InputError(f"expected a field of previews, got {preview_field!r}; make_previews fills one")
    show_originals(dataset, preview_field, info)
    rows = _rows(every_image(dataset).exists(preview_field), preview_field)
    folders = frozenset(info["folders"])
    own = {sample_id: str(path) for sample_id, _, path in rows if _is_ours(path, folders)}
    for path in set(own.values()) - _shown_elsewhere(dataset, preview_field, list(own.values())):
        _delete(Path(path))
    for folder in folders:
        if Path(folder).name == str(dataset_id(dataset)):
            with suppress(OSError):  # something else is in it, or it is gone
                Path(folder).rmdir()
    if len(own) == len(rows):
        delete_fields(dataset, preview_field)
    else:
        _set(dataset, preview_field, dict.fromkeys(own))
        forget_previews(dataset, preview_field)
    logger.info("%s taken back from %r", counted(len(own), "preview"), dataset.name)
    return len(own)


# Rows


def _rows(view: SampleCollection, preview_field: str) -> list[tuple[str, str, str | None]]:
    """Id, file and preview of each sample."""
    there = dataset_of(view).has_field(preview_field)
    fields = ["id", ORIGINAL, *([preview_field] if there else [])]
    # One query: of two, a view by this very field may show the second one other samples.
    ids, files, *previews = patiently(raw_values, view, fields)
    return list(zip(map(str, ids), files, previews[0] if there else [None] * len(ids), strict=True))


def _in_turn(rows: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Some rows at a time, and how many that makes."""
    done = 0
    for some in in_parts(rows, _AT_ONCE):
        done += len(some)
        yield done, some


def _set(dataset: fo.Dataset, name: str, values: dict[str, Any]) -> None:
    """Writes a field of some samples, by their ids."""
    if values:
        images = every_image(dataset)
        patiently(images.set_values, name, values, key_field="id", validate=False, dynamic=False)


# Files


def _folder(dataset: fo.Dataset, folder: str | Path | None) -> Path:
    """The folder for the files of a dataset; not made yet.

    Raises:
        InputError: if it is no full path.
    """
    root = os.environ.get(FOLDER_VARIABLE) or os.path.join(fo.config.default_dataset_dir, "ntt_previews")
    place = expanded(folder) if folder else expanded(root) / str(dataset_id(dataset))
    if not place.is_absolute():
        raise InputError(f"expected the full path of a folder, got {str(place)!r}; others would look for it elsewhere")
    return Path(os.path.normpath(place))


def _is_ours(path: object, folders: frozenset[str]) -> bool:
    """Whether a path is that of a preview that was made here."""
    return isinstance(path, str) and os.path.dirname(path) in folders and bool(_NAME.fullmatch(os.path.basename(path)))


def _shown_elsewhere(dataset: fo.Dataset, preview_field: str, paths: Sequence[str]) -> set[str]:
    """Of some files, those that something else in this database shows.

    A clone has the paths of its original, a copied field those of the field; and somebody may have made the previews
    images of a dataset.
    """
    if not paths:
        return set()
    database, shown = get_db_conn(), set[str]()
    parts = {"sample_fields": 1, "sample_collection_name": 1, "app_config.media_fields": 1}
    for other in database.datasets.find({}, parts):
        keys = _media_keys(other, preview_field)
        if other["_id"] == dataset_id(dataset):
            keys.pop(preview_field, None)
        for some in in_parts(paths, 1000):
            for key in keys.values():
                found = database[other["sample_collection_name"]].find({key: {"$in": list(some)}}, {key: 1})
                shown |= {row[key] for row in found}
    return shown


def _media_keys(document: dict[str, Any], preview_field: str) -> dict[str, str]:
    """Fields of a dataset whose files the App shows, or may show; each with its name in the database."""
    media = {ORIGINAL, preview_field, *((document.get("app_config") or {}).get("media_fields") or ())}
    return {
        each["name"]: each.get("db_field") or each["name"]
        for each in document.get("sample_fields") or ()
        if each["name"] in media or PREVIEWS in (each.get("info") or {})
    }


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("a preview that nothing shows any more stays: %s", error)


@dataclass(frozen=True)
class _Outcome:
    """What became of an image: ``path`` is that of its preview, ``old`` that of the one before it.

    Without ``path`` an ``old`` one goes if the image needs none, and stays where it could not be made again.
    """

    sample_id: str
    state: str
    path: str | None = None
    old: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Maker:
    """Makes the preview of one sample; called in several threads.

    Attributes:
        folder: where to.
        longest_side: of a preview, in pixels.
        larger_than: longest side of images that need none.
        folders: where files of ours may be.
    """

    folder: Path
    longest_side: int
    larger_than: int
    folders: frozenset[str]

    def __call__(self, row: tuple[str, str, str | None]) -> _Outcome:
        sample_id, filepath, old = row
        if old is not None and not _is_ours(old, self.folders):
            return _Outcome(sample_id, "foreign")
        try:
            is_needed = needs_preview(filepath, self.larger_than)
            if old is None and not is_needed:
                return _Outcome(sample_id, "unneeded")
            stem = self._stem(sample_id, filepath)
            if not is_needed:  # the preview of another image, which lay here before, would be shown in its place
                is_current = os.path.splitext(os.path.basename(str(old)))[0] == stem
                return _Outcome(sample_id, "kept" if is_current else "unneeded", None, None if is_current else old)
            path = next((path for path in map(self._path, (stem, stem), SUFFIXES) if self._is_there(path)), None)
            if path is not None:
                return _Outcome(sample_id, "kept" if str(path) == old else "made", str(path), old)
            preview = preview_file(filepath, self.longest_side)
        except NttError as error:
            return _Outcome(sample_id, "failed", error=str(error))
        except Exception as error:  # whatever a stranger's file brings about: it costs this image
            logger.warning("no preview of sample %s: %r", sample_id, error)
            return _Outcome(sample_id, "failed", error=f"no preview of {filepath}: {as_text(repr(error))}")
        path = self._path(stem, preview.suffix)
        try:
            write_file(path, preview.content, durable=False)
        except OSError as error:
            raise InputError(write_problem(error, path)) from error
        return _Outcome(sample_id, "made", str(path), old)

    def _stem(self, sample_id: str, filepath: str) -> str:
        """Name of a preview's file: whose it is, and a fingerprint of what it is made of.

        The path is part of that: slices of one stack have the same size and, out of an archive, the same time.
        """
        try:
            facts = os.stat(filepath)
        except (OSError, TypeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its path is none"
            raise InputError(f"not a readable image: {filepath} ({reason})") from error
        made_of = f"{filepath} {facts.st_size} {facts.st_mtime_ns} {self.longest_side} {_FORMAT}"
        return f"{sample_id}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"

    def _path(self, stem: str, suffix: str) -> Path:
        return self.folder / f"{stem}{suffix}"

    def _is_there(self, path: Path) -> bool:
        """Whether the preview is there, from this call's past or another worker.

        Raises:
            InputError: if something else lies there.
        """
        if not os.path.lexists(path):
            return False
        if is_preview(path, self.longest_side):
            return True
        raise InputError(f"expected nothing or a preview at {path}, got something else; choose another folder")


def _write(dataset: fo.Dataset, report: PreviewsReport, outcomes: Sequence[_Outcome], folder: Path) -> None:
    """Writes the paths and errors of some samples, and counts them."""
    name, errors = report.preview_field, error_field_of(report.preview_field)
    paths = {each.sample_id: each.path for each in outcomes if each.state == "made"}
    paths |= {each.sample_id: None for each in outcomes if each.state == "unneeded" and each.old is not None}
    failed = {each.sample_id: each.error for each in outcomes if each.error is not None}
    if any(each.path for each in outcomes):
        declare_previews(dataset, name, folder)
    _set(dataset, name, paths)
    if failed:
        declare_previews(dataset, name, folder)
        declare_errors(dataset, name)
    if dataset.has_field(errors):
        _set(dataset, errors, {each.sample_id: each.error for each in outcomes})
    replaced = [
        each.old for each in outcomes if each.old is not None and paths.get(each.sample_id, each.old) != each.old
    ]
    for path in set(replaced) - _shown_elsewhere(dataset, name, replaced):
        _delete(Path(path))
    states = Counter(each.state for each in outcomes)
    report.made += states["made"]
    report.kept += states["kept"]
    report.unneeded += states["unneeded"]
    report.foreign += states["foreign"]
    report.errors |= {key: str(error) for key, error in failed.items()}
