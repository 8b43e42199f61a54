"""Runs a protocol: references, candidates, labels, scores, and one JSON a case. Needs no FiftyOne.

All cases of a call share the candidates: a curve over shots and seeds encodes each image once, and what the candidate
cache holds is not encoded at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fiftyone_ntt import __version__
from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.source import CandidateSource, StageOne, describe_error
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, EpisodeProtocol, Protocol
from fiftyone_ntt.evaluation.protocols.coco_files import Reference, TargetImage, Targets, digest_of
from fiftyone_ntt.evaluation.protocols.episode_run import EpisodeWork
from fiftyone_ntt.evaluation.protocols.facts import models_of, peak_memory, versions
from fiftyone_ntt.evaluation.protocols.journal import Journal, stamp_of
from fiftyone_ntt.evaluation.protocols.oracles import SEED, differences, published
from fiftyone_ntt.evaluation.protocols.orders import Order
from fiftyone_ntt.evaluation.protocols.predictions import from_row, to_predictions, to_row
from fiftyone_ntt.evaluation.protocols.samplers import list_digest
from fiftyone_ntt.evaluation.protocols.scorers import Scored, score
from fiftyone_ntt.evaluation.protocols.shelf import BoxMasks, Shelf
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.results import IndexedImage
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.pixels.files import plain_file, write_file

logger = logging.getLogger(__name__)

FORMAT = 1
FINISHERS = min(4, os.cpu_count() or 1)
"""Threads of stage two: a curve of many draws matches each image many times while the GPU is at the next."""


def run(protocol: Protocol, order: Order, progress: Progress | None = None) -> list[Path]:
    """Runs the cases of an order and writes a JSON for each.

    What was labelled by an earlier call with the same order is not labelled again.

    Args:
        protocol: what to measure.
        order: with which references, models and settings.
        progress: called with done, total and a message.

    Returns:
        The JSON files, in the order of the cases.

    Raises:
        InputError: if files are missing, the references cannot be drawn, or the protocol has no use for a choice.
        MissingWeightsError: if the weights of the preset are not there.
    """
    order.check(protocol)
    cases = order.cases(protocol)
    for part in dict.fromkeys(case.part for case in cases):
        protocol.check(order.data, part)
    stage_one = StageOne.of(order.stage_one.changed(large_images="off"))  # as published
    source = CandidateSource(stage_one, upright=False)
    source.open()
    segmenter = source.segmenters()[0]
    shelf = Shelf(segmenter, stage_one.preset.name, BoxMasks(order.out, segmenter))
    context = Context(protocol, order, stage_one, source, segmenter, shelf, progress or (lambda *_: None))
    if isinstance(protocol, EpisodeProtocol):
        return [_run_episodes(context, protocol, case) for case in cases]
    if isinstance(protocol, DetectionProtocol):
        return _run_detection(context, protocol, cases)
    raise InputError(f"expected a protocol of objects or of episodes, got {type(protocol).__name__}")


@dataclass(frozen=True, eq=False)
class Context:
    """What the cases of one call share."""

    protocol: Protocol
    order: Order
    stage_one: StageOne
    source: CandidateSource
    segmenter: Segmenter
    shelf: Shelf
    progress: Progress

    def header(
        self,
        case: Case,
        reference_digest: str,
        items: Iterable[str],
        classes: Sequence[str],
        limit: int | None,
        reference_files: Iterable[str] = (),
    ) -> dict[str, Any]:
        """All that decides what comes out of a case, and what the rows of its journal mean.

        Args:
            case: part, shots, seed.
            reference_digest: of the list of references, or of the episodes.
            items: what is to be answered: ids, names and sizes of the images.
            classes: names, which the rows have by number.
            limit: so many items only; ``None`` where these are all.
            reference_files: content of their images, where it is the same for all items.
        """
        return {
            "protocol": self.protocol.name,
            "data": str(case.data.resolve()),
            "part": case.part,
            "shots": case.shots,
            "seed": case.seed if self.protocol.seeds else None,
            "references": reference_digest,
            "reference_files": digest_of(reference_files),
            "items": digest_of(items),
            "classes": list(classes),
            "limit": limit,
            "match": asdict(self.order.config(self.protocol)),
            "models": {**models_of(self.stage_one, self.segmenter)},
            "evaluation_size": self.order.evaluation_size,
            "code": __version__,
        }

    def journal(self, header: Mapping[str, Any]) -> Journal:
        """The journal of a case; its name tells what was chosen, and a digest tells the rest."""
        digest = hashlib.sha256(json.dumps(header, sort_keys=True, default=str).encode()).hexdigest()[:10]
        seed = "" if header["seed"] is None else f"_seed{header['seed']}"
        name = f"{header['protocol']}_{header['part']}_{header['shots']}shot{seed}_{self.stage_one.preset.name}"
        return Journal(self.order.out / f"{name}_{digest}.labels.jsonl", header)

    def write(self, journal: Journal, header: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
        """Writes the result beside its journal."""
        path = journal.path.with_name(journal.path.name.replace(".labels.jsonl", ".json"))
        content = {
            "format": FORMAT,
            **header,
            "match_name": self.order.match,
            "presence": self.protocol.presence,
            "labels": journal.path.name,
            "versions": versions(),
            "seconds": journal.seconds,  # of labelling, with all cases of the same call
            "peak_memory_bytes": peak_memory(),
            "candidates": {"stored": self.source.indexed, "from_cache": self.source.from_index},
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **facts,
            "notes": [*self.source.notes, *facts.get("notes", ())],
        }
        earlier = earlier_scores(path, {key: content[key] for key in (*header, *_SCORED)})
        for key in ("scores", "scorers_left_out"):
            content[key] = {**earlier[key], **content[key]}
        write_file(path, json.dumps(content, indent=1) + "\n")
        return path


_SCORED = ("truth", "files", "versions", "failed")
"""Facts that decide the scores, besides the header."""


def earlier_scores(path: Path, wanted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What other scorers said of the same labels and the same truth in an earlier call; nothing where that differs."""
    nothing: dict[str, dict[str, Any]] = {"scores": {}, "scorers_left_out": {}}
    try:
        content = json.loads(plain_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none there, or a damaged one, which is written over
        return nothing
    plain = json.loads(json.dumps(wanted))
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in plain.items()):
        return nothing
    return {key: content.get(key) or {} for key in nothing}


# ---- Objects ----


@dataclass(frozen=True, eq=False)
class Job:
    """A case with all that is needed to label images for it."""

    case: Case
    targets: Targets
    references: list[Reference]
    header: dict[str, Any]
    journal: Journal
    matcher: Matcher

    def has(self, image: TargetImage, stamp: str) -> bool:
        """Whether its journal has the labels of an image, and of the file that is there now."""
        return self.journal.has(str(image.image_id), stamp)


def _run_detection(context: Context, protocol: DetectionProtocol, cases: Sequence[Case]) -> list[Path]:
    order = context.order
    every = {part: protocol.read_targets(order.data, part) for part in dict.fromkeys(case.part for case in cases)}
    targets = {part: whole.limited(order.limit) for part, whole in every.items()}
    # All references first: what cannot be drawn is said before anything is encoded.
    references = [protocol.checked_references(case, targets[case.part]) for case in cases]
    contents = {path: file_digest(path) for path in {one.path for chosen in references for one in chosen}}
    jobs = []
    for number, (case, chosen) in enumerate(zip(cases, references, strict=True), start=1):
        wanted = targets[case.part]
        limit = order.limit if len(wanted.images) < len(every[case.part].images) else None
        items = (f"{one.image_id} {os.path.relpath(one.path, order.data)} {one.size}" for one in wanted.images)
        files = (contents[path] for path in sorted({one.path for one in chosen}))
        header = context.header(case, list_digest(chosen), items, wanted.classes, limit, files)
        journal = context.journal(header)
        matcher = Matcher(context.shelf.bank(chosen, wanted.classes), order.config(protocol))
        jobs.append(Job(case, wanted, chosen, header, journal, matcher))
        context.progress(
            number, len(cases), f"references of {case.part}, {counted(case.shots, 'shot')}, seed {case.seed}"
        )
    _label(context, jobs)
    return [context.write(job.journal, job.header, _detection_facts(context, protocol, job)) for job in jobs]


def file_digest(path: Path) -> str:
    """sha256 of a file, hex; nothing of one that is not there, which fails where it is read."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _label(context: Context, jobs: Sequence[Job]) -> None:
    """Every image that a journal lacks through stage one, then through stage two once a case; parts share images."""
    wanted: dict[str, list[tuple[Job, TargetImage]]] = {}
    stamps = {path: stamp_of(path) for path in {image.path for job in jobs for image in job.targets.images}}
    for job in jobs:
        for image in job.targets.images:
            if not job.has(image, stamps[image.path]):
                wanted.setdefault(str(image.path), []).append((job, image))
    started = time.perf_counter()

    def finish(path: str, found: CompactImage | IndexedImage) -> None:
        for job, image in wanted[path]:
            if found.candidates.frame.image_size != image.size:
                raise InputError(
                    f"{image.path.name} is {found.candidates.frame.image_size}, its json says {image.size}"
                )
            predictions = to_predictions(job.matcher.match(found), image.image_id)
            item = {"file": path, "found": [to_row(one) for one in predictions]}
            job.journal.put(str(image.image_id), item, stamps[image.path])

    try:
        samples = ((path, path) for path in wanted)
        found = context.source.outcomes(samples, finish, finishers=FINISHERS, whole=context.order.whole)
        with closing(found) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                if outcome.error is not None:
                    for job, image in wanted[outcome.key]:
                        if not job.has(image, stamps[image.path]):
                            job.journal.fail(str(image.image_id), describe_error(outcome.key, outcome.error))
                context.progress(done, len(wanted), Path(outcome.key).name)
    finally:
        for job in jobs:
            job.journal.spent(time.perf_counter() - started)


def _detection_facts(context: Context, protocol: DetectionProtocol, job: Job) -> dict[str, Any]:
    targets, case, references = job.targets, job.case, job.references
    items = job.journal.items()
    predictions = [
        from_row(row, image.image_id)
        for image in targets.images
        for row in items.get(str(image.image_id), {}).get("found", [])
    ]
    scores, left_out = {}, {}
    inclusive = context.order.config(protocol).inclusive_boxes
    for name in context.order.scorers or protocol.scorers:
        try:
            scored = score(name, targets, predictions, most=protocol.most_labels.get(name), inclusive=inclusive)
        except InputError as error:  # one scorer that cannot be had costs no other
            left_out[name] = str(error)
            continue
        scores[name] = _as_json(scored)
        if scored.left_out:
            left_out[f"{name} in part"] = scored.left_out
    list_name = case_name(context.protocol.name, case.part)
    known = published(list_name) and case.seed == SEED
    return {
        "images": len(targets.images),
        "objects": len(targets.truth),
        "truth": targets.truth_digest,
        "files": digest_of(sorted(f"{key} {job.journal.stamps[key]}" for key in job.journal.done)),
        "notes": list(targets.notes),
        "evaluation_size": "image",
        "reference_list": [one.key for one in references],
        "references_as_published": not list(differences(list_name, references, case.shots)) if known else None,
        "scores": scores,
        "scorers_left_out": left_out,
        "failed": dict(job.journal.failed),
    }


def case_name(protocol: str, part: str) -> str:
    """What the list of published references of a part is called."""
    return f"{protocol} {part}" if protocol == "voc-fsod" else protocol


def _as_json(scored: Scored) -> dict[str, Any]:
    return {"metrics": scored.metrics, "per_class": scored.per_class}


# ---- Episodes ----


def _run_episodes(context: Context, protocol: EpisodeProtocol, case: Case) -> Path:
    episodes = list(protocol.episodes(case))
    digest = digest_of(one.line(protocol.short) for one in episodes)
    limit = None if context.order.limit is None or context.order.limit >= len(episodes) else context.order.limit
    episodes = episodes[:limit]
    classes = [protocol.class_names[k] for k in protocol.fold_classes(int(case.part))]
    header = context.header(case, digest, (str(one.number) for one in episodes), classes, limit)
    journal = context.journal(header)
    work = EpisodeWork(protocol, case, context.shelf, context.order.config(protocol), context.order.evaluation_size)
    missing = [one for one in episodes if not journal.has(str(one.number), work.stamp(one))]
    started = time.perf_counter()
    try:
        work.answer(missing, context.source, journal, context.progress, whole=context.order.whole)
    finally:
        journal.spent(time.perf_counter() - started)
    scored = work.score(episodes, journal)
    wanted = (protocol.digests or {}).get((case.part, case.shots))
    facts = {
        "episodes": len(episodes),
        "truth": None,  # its overlaps are in the journal, and there is one scorer
        "files": None,
        "evaluation_size": context.order.evaluation_size or "image",
        "references_as_published": None if wanted is None else digest.startswith(wanted),
        "scores": {"miou": _as_json(scored)},
        "scorers_left_out": {},
        "failed": dict(journal.failed),
    }
    return context.write(journal, header, facts)
