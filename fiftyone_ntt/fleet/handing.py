"""Where a fleet begins and where it ends: a view becomes a manifest, labels become those of a run. Only this module of
the room knows FiftyOne; it runs near the database.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from fiftyone import ViewField as F
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.candidates.shards import is_remote
from fiftyone_ntt.candidates.source import CandidateSource, StageOne
from fiftyone_ntt.dataset.fields import NO_IMAGES, dataset_of, whole_images
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.fleet import ray_runner
from fiftyone_ntt.fleet.bucket import Bucket, FleetError, read_image_file, size_of
from fiftyone_ntt.fleet.jobs import IndexJob, check_large_images, fleet_parts, fleet_stage_one, places_of
from fiftyone_ntt.fleet.manifest import (
    UNIT_ROWS,
    Manifest,
    OtherSizeError,
    Roots,
    check_rows,
    columns_of,
    kept_once,
    mapped,
    roots_of,
    write_manifest,
)
from fiftyone_ntt.fleet.spool import Spool
from fiftyone_ntt.fleet.status import adopt, failed_in, rerun_manifest
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.results import Instances
from fiftyone_ntt.models import Preset
from fiftyone_ntt.params.base import (
    Progress,
    StageOneFields,
    StageOneFieldsButPreset,
    StageOneSettings,
    check_arguments,
    stage_one_of,
)
from fiftyone_ntt.params.labelling import IndexAnywhereParams, SegmentParams
from fiftyone_ntt.references.tagged_bank import resolve_bank
from fiftyone_ntt.runs import precompute
from fiftyone_ntt.runs import segment as runs
from fiftyone_ntt.runs.applied_thresholds import STARTING, ScoreThresholds
from fiftyone_ntt.runs.mending import default_run_key
from fiftyone_ntt.runs.outcome import all_failed
from fiftyone_ntt.runs.precompute import IndexReport

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

_AT_ONCE = 50_000
"""Samples that are asked for at once."""
_MOST_LEFT_OUT = 300_000
"""Ids that a stage of a view takes: MongoDB's commands have 16 MB at most."""
_NOT_THERE = "this image is in no labels of the fleet; index and match it there, then write again"


def manifest_of_view(
    view: SampleCollection,
    store: str,
    *,
    roots: Roots = (),
    unit_rows: int = UNIT_ROWS,
    hashes: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Writes the manifest of a view into a store.

    Made again after samples were added, it holds the same units for the samples that were there, so only the others
    are indexed: new samples have higher ids.

    Args:
        view: the samples, references included; of grouped samples, those of the active slice.
        store: path or URL of the store.
        roots: how paths begin in the dataset, and where a fleet finds them: ``[("/data", "s3://bucket/data")]``.
        unit_rows: images of a unit.
        hashes: read each file and note its sha256: then other content under the same name is another unit.
        progress: called with (done, total, message).

    Raises:
        FleetError: if, of some files looked at, none is where it should be, or several are not.
        InputError: if the view holds no image.

    Example:
        >>> manifest_of_view(dataset, "s3://bucket/fleet", roots=[("/data", "s3://bucket/data")])  # doctest: +SKIP
    """
    flat, bucket = whole_images(view), Bucket(store)
    # A bucket is asked for ten million sizes only where those in the samples' metadata turn out to be old.
    for ask in (False, True):
        rows = _rows_of(flat, roots, hashes, ask, progress)
        manifest = write_manifest(bucket, rows, unit_rows=unit_rows)
        try:
            check_rows([manifest])
            break
        except FleetError as error:
            bucket.remove(manifest.name)
            if ask or not isinstance(error, OtherSizeError):
                raise
    return manifest


def _rows_of(view: SampleCollection, roots: Roots, hashes: bool, ask: bool, progress: Progress | None) -> Iterator[Any]:
    """The samples in the order of their ids, some thousands at once: ten million are never all in memory.

    Files on disks are asked for their sizes, others where the samples' metadata has none, or where ``ask``.
    """
    total, done, last = len(view), 0, None
    while True:
        rest = view if last is None else view.match(F("_id") > ObjectId(last))
        part = rest.sort_by("id").limit(_AT_ONCE)
        ids, paths, sizes = part.values(["id", "filepath", "metadata.size_bytes"])
        uris = [mapped(path, roots) for path in paths] if roots else paths
        for i, uri in enumerate(uris):
            if sizes[i] is None or ask or not is_remote(uri):
                sizes[i] = known if (known := size_of(uri)) is not None else sizes[i]
        yield columns_of(ids, uris, sizes, [_hash_of(uri) if hashes else None for uri in uris])
        done += len(ids)
        if progress is not None:
            progress(done, total, "samples")
        if len(ids) < _AT_ONCE:
            return
        last = ids[-1]


def _hash_of(uri: str) -> str | None:
    """sha256 of a file; a file that cannot be read is left to the fleet, which says so."""
    try:
        return hashlib.sha256(read_image_file(uri)).hexdigest()
    except InputError:
        return None


@with_bar
def index(
    view: SampleCollection,
    preset: str | Preset | None = None,
    *,
    size_limit_gb: float | None = None,
    on_ray: bool = False,
    store: str | None = None,
    workers: int | None = None,
    cpus: float = 1.0,
    gpus: float | None = None,
    map_root: Sequence[str] | None = None,
    unit_rows: int = UNIT_ROWS,
    stage_one: StageOneSettings | None = None,
    progress: Progress | bool | None = None,
    **stage_one_fields: Unpack[StageOneFieldsButPreset],
) -> IndexReport:
    """Computes and keeps the candidates of every image of a view that are not in the candidate cache yet.

    It needs no references. Afterwards ``segment`` labels these images without a model, with any memory bank of the
    same preset. Several processes may index one dataset at the same time: each takes the images in an order of its
    own and passes over what another has done. Stopped and called again, it goes on where it was.

    With ``on_ray``, a Ray cluster does the work, and the candidates lie in ``store``, to which the candidate cache of
    this machine then refers. Only units that are not in the store are done, and images that had failed.

    Args:
        view: the samples, references included: they may be targets of another bank. Of grouped samples, those of the
            active slice.
        preset: name of a preset, or a ``Preset`` with checkpoint paths of your own; that of ``stage_one``, or else
            ``"lite"``, where ``None``.
        size_limit_gb: size in 10^9 bytes that all of the cache may reach; ``$FIFTYONE_NTT_INDEX_GB``, or else 50, where
            ``None``. What a store holds is not counted.
        on_ray: work on the Ray cluster that the environment variable ``RAY_ADDRESS`` names, or, where it is not set, on
            one that Ray starts on this machine. All that follows is for Ray.
        store: path or URL of a store that this machine and the cluster reach.
        workers: workers with models of their own; as many as the cluster has room for where ``None``.
        cpus: CPUs that Ray sets aside for each.
        gpus: GPUs that Ray sets aside for each; where ``None``, one if the cluster has any.
        map_root: how paths begin in the dataset, and where the cluster finds them: ``["/data=s3://bucket/data"]``.
        unit_rows: images of a unit of work.
        stage_one: how candidates are made, as ``segment`` will be asked for: prompts, device, candidate cache.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.
        **stage_one_fields: fields of ``StageOneSettings``, in place of those of ``stage_one``.

    Returns:
        Counts, and the error of each sample that failed.

    Raises:
        InputError: if the view, preset, device or limit cannot be used.
        IndexStorageError: if the cache is full or cannot be written to; what was stored until then stays.
        MissingWeightsError: if the preset's weights are not on this machine.
        FleetError: if Ray, its cluster or the store cannot be used; what was done until then stays.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> print(ntt.index(dataset, "lite", device="cuda"))  # doctest: +SKIP
        >>> ntt.index(dataset, "large", on_ray=True, store="s3://bucket/fleet")  # doctest: +SKIP
    """
    progress, on_ray, store, workers, cpus, gpus, map_root, unit_rows = check_arguments(
        IndexAnywhereParams, progress, on_ray=on_ray, store=store, workers=workers, cpus=cpus, gpus=gpus,
        map_root=map_root, unit_rows=unit_rows,
    )  # fmt: skip
    if not on_ray:
        return precompute.index(
            view, preset, size_limit_gb=size_limit_gb, stage_one=stage_one, progress=progress, **stage_one_fields
        )
    asked = stage_one_of(stage_one, stage_one_fields)
    asked = asked.changed(preset=preset or asked.preset)
    ray_runner.check_store(store)
    started, crew = time.perf_counter(), {"workers": workers, "cpus": cpus, "gpus": gpus}
    report = _index_on_ray(view, str(store), asked, crew, roots_of(map_root or ()), unit_rows, progress)
    report.seconds = time.perf_counter() - started
    logger.info("%s", report.counts)
    return report


def _index_on_ray(
    view: SampleCollection,
    store: str,
    asked: StageOneSettings,
    crew: Mapping[str, Any],
    roots: Roots,
    unit_rows: int,
    progress: Progress | None,
) -> IndexReport:
    """Manifest, work on the cluster, references in the local cache; what failed is told of all images of the view."""
    flat, bucket, report = whole_images(view), Bucket(store), IndexReport()
    check_large_images(asked)
    made_how = fleet_stage_one(asked)
    if not len(flat):
        report.notes.append(NO_IMAGES)
        return report
    bucket.try_out()
    ray_runner.join_cluster()  # before millions of images are listed for nobody
    manifest = kept_once(manifest_of_view(flat, store, roots=roots, unit_rows=unit_rows, progress=progress))
    job = IndexJob(bucket.url, asked, manifests=(manifest.name,))  # with ~ spelt out for machines that have others
    again = rerun_manifest(bucket, asked, failed_in(manifest, asked, ready=True))
    if again is not None:
        job = IndexJob(bucket.url, asked, manifests=(manifest.name, again.name))
    missing = {place.unit for place in job.missing()}
    done = ray_runner.run_ray(job, progress=progress, **crew)
    adopt(bucket, made_how)
    report.errors = failed_in(manifest, asked)
    report.failed, report.computed = len(report.errors), done.images - done.failed
    report.found = max(0, len(manifest) - report.failed - report.computed)
    report.bytes = sum(summary["bytes"] for summary in job.folder.summaries(sorted(missing & job.folder.done())))
    if report.failed == len(manifest):
        report.notes.append(all_failed(report.errors, "see to the files, then run it again"))
    report.notes.append(f"the candidates lie in {bucket.url}, and must stay there")
    return report


class MatchedSource(CandidateSource):
    """Gives a run what a fleet has matched, in the place of candidates; no model, no image file and no index is asked.

    Args:
        stage_one: how the candidates were made.
        bank: the memory bank.
        spool: the labels.
    """

    def __init__(self, stage_one: StageOne, bank: MemoryBank, spool: Spool) -> None:
        super().__init__(stage_one, bank=bank)
        self._spool, self._counting = spool, threading.Lock()

    def open(self) -> None:
        """Does nothing: there is no cache to find, and no model to load."""

    def item(self, key: str, filepath: str, whole: bool = False) -> tuple[str, Callable[[], Any]]:
        """An image as ``stream`` takes it."""
        return key, partial(self._instances, key)

    def _instances(self, key: str) -> Instances:
        labels = self._spool.get(key)
        if labels is None or labels.instances is None:
            raise InputError(_NOT_THERE if labels is None else str(labels.error))
        with self._counting:
            self.from_index += 1
        return labels.instances


def write(
    view: SampleCollection,
    store: str,
    bank: MemoryBank | str,
    label_field: str = "ntt",
    *,
    run_key: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    score_threshold: float | None = None,
    thresholds: str | Mapping[str, float] | ScoreThresholds | None = None,
    max_instances: int | None = None,
    include_references: bool = False,
    config: MatchConfig | None = None,
    stage_one: StageOneSettings | None = None,
    spool_dir: str | None = None,
    progress: Progress | None = None,
    **stage_one_fields: Unpack[StageOneFields],
) -> runs.SegmentReport:
    """Writes what a fleet has matched to a dataset, as a run like any other.

    ``cancel_run``, ``resume_run``, ``undo_run`` and review work as after ``segment``, and the labels are those that
    ``segment`` would write. The fleet's candidates become part of the local candidate cache, by reference. Called again
    while the fleet is still at work, it adds what has come since.

    Args:
        view: the samples that the manifest was made of, or some of them.
        store: path or URL of the store.
        bank: the memory bank that the fleet matched with, or the name of one kept with the dataset.
        label_field: field to write; made if absent.
        run_key: see ``segment``.
        resume: see ``segment``.
        overwrite: see ``segment``.
        score_threshold: see ``segment``; the fleet must have been told the same.
        thresholds: see ``segment``.
        max_instances: see ``segment``; the fleet must have been told the same.
        include_references: see ``segment``.
        config: settings of the match, as the fleet was told them.
        stage_one: how candidates are made, as the fleet was told it.
        spool_dir: folder for the labels of all images while they are written; that of temporary files where ``None``.
        progress: called with (done, total, message).
        **stage_one_fields: fields of ``StageOneSettings``, in place of those of ``stage_one``.

    Raises:
        FleetError: if the store has no labels of this memory bank and these settings.
        NttError: what ``segment`` raises.

    Example:
        >>> print(write(dataset, "s3://bucket/fleet", "fruits", "found"))  # doctest: +SKIP
    """
    flat = whole_images(view)
    progress, run_key, resume, overwrite, score_threshold, include_references = check_arguments(
        SegmentParams, progress, run_key=run_key, resume=resume, overwrite=overwrite, score_threshold=score_threshold,
        include_references=include_references,
    )  # fmt: skip
    asked = stage_one_of(stage_one, stage_one_fields)
    check_large_images(asked)
    asked = asked.changed(large_images="off")  # each image in one part
    settings, asked = runs.settled(config, score_threshold, max_instances, asked)
    if score_threshold is None and thresholds is None and config is None:
        thresholds = STARTING
    memory_bank = resolve_bank(flat, bank, None, asked, progress)
    bucket, made_how = Bucket(store), fleet_stage_one(asked, memory_bank)
    folder, labels, _ = fleet_parts(bucket, memory_bank, asked, settings)
    matched = labels.done()
    images = flat.values("id")
    units = [place.unit for place in places_of(bucket, folder.key, images) if place.unit in matched]
    if not units:
        raise FleetError(
            f"expected labels of this memory bank and these settings in {store}, got none; `fiftyone-ntt fleet match` "
            "with the same bank and settings makes them"
        )
    adopt(bucket, made_how)
    spool = Spool(labels, units, progress, spool_dir)
    try:
        targets, left = _matched_part(flat, images, spool)
        source = MatchedSource(made_how, memory_bank, spool)
        key = run_key or default_run_key(dataset_of(flat), label_field)
        task = runs.Task(
            targets, memory_bank, label_field, key, settings, asked, resume, overwrite, thresholds=thresholds,
            include_references=include_references, progress=progress, source=source,
        )  # fmt: skip
        report = runs.label(task)
    finally:
        spool.close()
    if left:
        report.notes.append(f"{counted(left, 'image')} not matched by the fleet yet: write again when it is through")
    return report


def _matched_part(view: SampleCollection, images: list[str], spool: Spool) -> tuple[SampleCollection, int]:
    """The samples that the fleet has labels of, and how many are left out."""
    missing = spool.missing(images)
    if not missing:
        return view, 0
    if len(missing) > _MOST_LEFT_OUT:
        raise FleetError(
            f"expected labels of all {counted(len(view), 'image')}, and {len(missing):,} have none: write when the "
            "fleet has matched more, or give the part of the dataset that the manifest was made of"
        )
    return view.exclude(missing), len(missing)
