"""Commands ``fiftyone-ntt fleet ...``: many machines. ``index``, ``match`` and ``status`` need no FiftyOne."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fiftyone_ntt.cli.common import (
    add_command,
    add_option,
    console,
    dataset_of,
    narrow_table,
    plain,
    progress_bar,
    say,
    say_report,
    view_of,
)
from fiftyone_ntt.cli.runs import duration
from fiftyone_ntt.errors import InputError, as_text, counted
from fiftyone_ntt.params.base import Params, StageOneSettings
from fiftyone_ntt.params.labelling import SegmentParams

if TYPE_CHECKING:
    from fiftyone_ntt.fleet.jobs import Job
    from fiftyone_ntt.fleet.runners import FleetReport

_STAGE_ONE = (
    "preset", "points_per_side", "points", "granularity", "second_look", "large_images", "precision", "device",
    "compile",
)  # fmt: skip
_MATCH = ("score_threshold", "max_instances")
_WRITE = ("label_field", "run_key", "resume", "overwrite", *_MATCH, "include_references")
_SHOWN = 20


def add_commands(commands: Any) -> None:
    """Adds the commands of the group ``fleet``."""
    manifest = add_command(commands, "manifest", fleet_manifest, "list the images of a dataset for a fleet")
    index = add_command(commands, "index", fleet_index, "find the candidates of all images in the manifests")
    match = add_command(commands, "match", fleet_match, "match what is indexed with a memory bank; needs no model")
    write = add_command(commands, "write", fleet_write, "write what is matched to the dataset, as a run")
    status = add_command(commands, "status", fleet_status, "how far the fleet is, and what failed")
    for parser in (manifest, index, match, write, status):
        parser.add_argument("store", help="folder or URL that all machines reach, e.g. s3://bucket/fleet")
    for parser in (manifest, write):
        parser.add_argument("dataset", help="name of a FiftyOne dataset")
        parser.add_argument("--tag", help="only samples with this tag")
        parser.add_argument("--saved-view", help="only this saved view")
    manifest.add_argument("--unit", type=int, default=1000, help="images of a unit of work (default: %(default)s)")
    manifest.add_argument("--hash", action="store_true", help="read every file and note its sha256")
    manifest.add_argument("--bank", help="also put this memory bank of the dataset into the store, for `fleet match`")
    for parser in (manifest, index):
        parser.add_argument("--map-root", action="append", default=[], metavar="A=B",
                            help="paths that begin with A begin with B for the machines of the fleet")  # fmt: skip
    index.add_argument("--missing-ok", action="store_true",
                       help="make errors of images that cannot be reached, however many they are")  # fmt: skip
    for parser in (match, write):
        parser.add_argument("--bank", required=True, help="name of the memory bank")
    for parser in (index, match):
        _add_runner(parser)
    _add_options(match, SegmentParams, _MATCH)
    _add_options(write, SegmentParams, _WRITE)
    write.add_argument("--index-dir", help="folder of the candidate cache that learns of the fleet's candidates")
    write.add_argument("--spool-dir", help="folder for the labels of all images while they are written (default: that "
                       "of temporary files)")  # fmt: skip
    for parser in (index, match, write, status):
        _add_options(parser, StageOneSettings, _STAGE_ONE)
    status.add_argument(
        "--rerun",
        action="store_true",
        help="list the images that failed as the next manifest, and forget matches that failed",
    )


def _add_runner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", default="0/1", metavar="I/N",
                        help="this machine's share of the units: 0/32 to 31/32 (default: all)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0,
                        help="processes with models of their own; on Ray, actors (default: this process)")  # fmt: skip
    parser.add_argument("--ray", action="store_true", help="run on the Ray cluster that RAY_ADDRESS names")
    parser.add_argument("--cpus", type=float, default=1.0, help="CPUs of each Ray actor (default: %(default)g)")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs of each Ray actor (default: %(default)g)")


def _add_options(parser: argparse.ArgumentParser, params: type[Params], names: tuple[str, ...]) -> None:
    for info in params.infos():
        if info.name in names:
            add_option(parser, info)


def _stage_one(options: dict[str, Any]) -> StageOneSettings:
    return StageOneSettings.from_mapping({name: options.pop(name) for name in _STAGE_ONE})


def _of_banks(store: str, stage_one: StageOneSettings) -> StageOneSettings:
    """With the models of the memory banks in the store, where no others were asked for."""
    from fiftyone_ntt.fleet.bucket import Bucket
    from fiftyone_ntt.fleet.jobs import preset_of_banks

    return stage_one if stage_one.preset else stage_one.changed(preset=preset_of_banks(Bucket(store)))


def fleet_manifest(
    store: str, dataset: str, tag: str | None, saved_view: str | None, unit: int, hash: bool, bank: str | None,
    map_root: list[str],
) -> int:  # fmt: skip
    """Writes a manifest, and a memory bank where one is named."""
    from fiftyone_ntt.fleet.bucket import Bucket
    from fiftyone_ntt.fleet.handing import manifest_of_view
    from fiftyone_ntt.fleet.jobs import put_bank
    from fiftyone_ntt.fleet.manifest import roots_of
    from fiftyone_ntt.references.banks import load_bank

    view, roots = view_of(dataset, tag, saved_view), roots_of(map_root)
    if bank is not None:
        put_bank(Bucket(store), bank, load_bank(dataset_of(dataset), bank))
    with progress_bar("samples") as progress:
        manifest = manifest_of_view(view, store, roots=roots, unit_rows=unit, hashes=hash, progress=progress)
    images, units = counted(len(manifest), "image"), counted(len(manifest.units), "unit")
    say(f"{manifest.bucket.url_of(manifest.name)}: {images} in {units}")
    if bank is not None:
        say(f"memory bank {bank!r} is in the store")
    return 0


def fleet_index(store: str, map_root: list[str], missing_ok: bool, **options: Any) -> int:
    """Indexes this machine's share."""
    from fiftyone_ntt.fleet.jobs import IndexJob
    from fiftyone_ntt.fleet.manifest import roots_of

    job = IndexJob(store, _of_banks(store, _stage_one(options)), tuple(roots_of(map_root)), missing_ok)
    return _run(job, **options)


def fleet_match(store: str, bank: str, score_threshold: float | None, max_instances: int | None, **options: Any) -> int:
    """Matches this machine's share."""
    from fiftyone_ntt.fleet.jobs import MatchJob
    from fiftyone_ntt.method.config import MatchConfig
    from fiftyone_ntt.method.options.second_look import WEIGHT

    stage_one = _stage_one(options)
    config = MatchConfig(second_look=WEIGHT) if stage_one.second_look else MatchConfig()
    if score_threshold is not None:
        config = replace(config, score_threshold=score_threshold)
    if max_instances is not None:
        config = replace(config, max_instances=max_instances)
    return _run(MatchJob(store, bank, stage_one, config), **options)


def _run(job: Job, part: str, workers: int, ray: bool, cpus: float, gpus: float) -> int:
    """Runs a job; 1 where images failed."""
    from fiftyone_ntt.fleet.runners import part_of, run_here, run_local

    if workers < 0:
        raise InputError(f"expected at least one worker, got {workers}")
    share = part_of(part)
    with progress_bar("units") as progress:
        if ray:
            from fiftyone_ntt.fleet.ray_runner import run_ray

            report: FleetReport = run_ray(job, workers or 1, cpus=cpus, gpus=gpus, part=share, progress=progress)
        elif workers:
            report = run_local(job, workers, share, progress)
        else:
            report = run_here(job, share, progress)
    say(report)
    return 1 if report.failed else 0


def fleet_write(
    store: str, dataset: str, tag: str | None, saved_view: str | None, bank: str, index_dir: str | None, **options: Any
) -> int:
    """Writes labels to a dataset."""
    from fiftyone_ntt.fleet.handing import write
    from fiftyone_ntt.runs.workers import Origin, through

    stage_one = _stage_one(options).changed(index_dir=index_dir)
    view = view_of(dataset, tag, saved_view)
    with progress_bar("images") as progress, through(Origin("cli")):
        report = write(view, store, bank, stage_one=stage_one, progress=progress, **options)
    return say_report(report)


def fleet_status(store: str, rerun: bool, **options: Any) -> int:
    """Prints how far a fleet is; 1 where images failed and nothing was done about it."""
    from fiftyone_ntt.fleet import status as states
    from fiftyone_ntt.fleet.bucket import Bucket

    bucket, stage_one = Bucket(store), _of_banks(store, _stage_one(options))
    status = states.fleet_status(bucket, stage_one)
    say(status)
    if status.images_per_second is not None:
        left = status.seconds_left or 0.0
        say(f"{status.images_per_second:.2f} images/s of all machines; {duration(left)} left at that speed")
    for device, hours in sorted(status.device_hours.items()):
        say(f"{device}: {hours:.2f} h so far")
    for key, units in status.matched.items():
        troubled = status.match_failed.get(key)
        further = f", {counted(troubled, 'image')} failed" if troubled else ""
        say(f"labels {key[:12]}: {units} of {counted(status.done, 'unit')} matched{further}")
    if rerun:
        if status.match_failed:
            say(f"{counted(states.forget_failed_matches(bucket, stage_one), 'unit')} to be matched again")
        manifest = states.rerun_manifest(bucket, stage_one)
        images = counted(0 if manifest is None else len(manifest), "image")
        say(f"{images} to be tried again" + ("" if manifest is None else f": {bucket.url_of(manifest.name)}"))
        return 0
    failed = list(states.failed_images(bucket, stage_one)) if status.failed else []
    if failed:
        table = narrow_table()
        for name in ("image", "what went wrong"):
            table.add_column(name, overflow="fold")
        for row, image in failed[:_SHOWN]:
            table.add_row(plain(as_text(row.id)), plain(image.error))
        console().print(table)
        kinds = ", ".join(f"{kind} {count}" for kind, count in status.kinds.items())
        say(f"{counted(len(failed), 'image')} failed ({kinds}); --rerun lists them as the next manifest")
    if status.failed > len(failed):
        say(f"{counted(status.failed - len(failed), 'failure')} made good since, or given to the fleet again")
    return 1 if failed or status.match_failed else 0
