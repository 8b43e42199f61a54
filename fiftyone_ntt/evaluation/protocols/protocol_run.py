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
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fiftyone_ntt.candidates.compact import CompactImage
from fiftyone_ntt.candidates.source import CandidateSource, StageOne, describe_error
from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, EpisodeProtocol, Protocol
from fiftyone_ntt.evaluation.protocols.coco_files import Reference, Targets, digest_of
from fiftyone_ntt.evaluation.protocols.episode_run import EpisodeWork
from fiftyone_ntt.evaluation.protocols.facts import models_of, peak_memory, versions
from fiftyone_ntt.evaluation.protocols.journal import Journal
from fiftyone_ntt.evaluation.protocols.oracles import SEED, differences, published
from fiftyone_ntt.evaluation.protocols.predictions import from_row, to_predictions, to_row
from fiftyone_ntt.evaluation.protocols.samplers import list_digest
from fiftyone_ntt.evaluation.protocols.scorers import SCORERS, Scored, best_of_images, scorer_of
from fiftyone_ntt.evaluation.protocols.shelf import BoxMasks, Shelf
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.results import IndexedImage
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.params.base import Progress, StageOneSettings
from fiftyone_ntt.pixels.files import write_file

logger = logging.getLogger(__name__)

FORMAT = 1
FINISHERS = min(4, os.cpu_count() or 1)
"""Threads of stage two: a curve of many draws matches each image many times while the GPU is at the next."""
EPISODE_SCORERS = ("miou",)
"""What episodes are scored by."""
MATCHES: dict[str, Callable[[], MatchConfig]] = {
    "default": MatchConfig, "published": MatchConfig.published, "paper": MatchConfig.paper,
}  # fmt: skip
"""Settings of stage two by name. ``"paper"`` copies the quirks of the published code, those of its references too."""


@dataclass(frozen=True)
class Order:
    """What to run.

    Attributes:
        data: the data folder.
        out: where results go.
        part: a split, set or fold; the protocol's default where ``None``.
        shots: references a class.
        seeds: of the draws; 33 where empty, or that of the protocol.
        match: settings of stage two, a name of ``MATCHES``.
        scorers: names; the protocol's where empty.
        limit: only so many images or episodes.
        evaluation_size: side in pixels to which semantic masks are resized before they are compared; ``None`` compares
            at the image's own size.
        stage_one: models, device, candidate cache.
    """

    data: Path
    out: Path
    part: str | None = None
    shots: tuple[int, ...] = (1,)
    seeds: tuple[int, ...] = ()
    match: str = "default"
    scorers: tuple[str, ...] = ()
    limit: int | None = None
    evaluation_size: int | None = None
    stage_one: StageOneSettings = field(default_factory=lambda: StageOneSettings(preset="lite"))

    def __post_init__(self) -> None:
        if self.match not in MATCHES:
            raise InputError(f"expected match to be one of {', '.join(MATCHES)}, got {self.match!r}")
        if not self.shots or any(shots < 1 for shots in self.shots) or (self.limit is not None and self.limit < 1):
            raise InputError(f"expected shots and limit of at least 1, got {self.shots} and {self.limit}")
        if any(seed < 0 for seed in self.seeds):
            raise InputError(f"expected seeds of at least 0, got {self.seeds}")
        if self.evaluation_size is not None and self.evaluation_size < 1:
            raise InputError(f"expected an evaluation size of at least 1 pixel, got {self.evaluation_size}")
        for name in self.scorers:
            if name not in EPISODE_SCORERS:
                scorer_of(name)

    def check(self, protocol: Protocol) -> None:
        """Raises InputError where a protocol can do nothing with what was chosen: no choice is passed over."""
        episodes = isinstance(protocol, EpisodeProtocol)
        usable = protocol.scorers if episodes else tuple(SCORERS)
        if others := [name for name in self.scorers if name not in usable]:
            raise InputError(f"expected scorers of {protocol.name} ({', '.join(usable)}), got {', '.join(others)}")
        if self.evaluation_size is not None and not episodes:
            raise InputError(
                f"expected no evaluation size for {protocol.name}, whose objects are compared at the image's own size, "
                f"got {self.evaluation_size}; leave it out"
            )
        if self.seeds and not protocol.seeds:
            raise InputError(
                f"expected no seed for {protocol.name}, whose references are fixed, got "
                f"{', '.join(map(str, self.seeds))}; leave it out"
            )

    @property
    def whole(self) -> bool:
        """Whether what the models gave is matched as it is: to the bit as published, and not from the cache."""
        return self.match == "paper"

    def config(self, protocol: Protocol) -> MatchConfig:
        """Settings of stage two for a protocol."""
        return replace(MATCHES[self.match](), max_instances=protocol.max_instances)

    def cases(self, protocol: Protocol) -> list[Case]:
        """Every combination of shots and seed; fixed references have no seed."""
        part, paper = protocol.checked_part(self.part, self.data), self.match == "paper"
        usual = (SEED,) if SEED in protocol.seeds else protocol.seeds[:1]
        seeds = (self.seeds or usual) if protocol.seeds else (0,)
        return [Case(self.data, part, shots, seed, paper) for seed in seeds for shots in self.shots]


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
    protocol.check(order.data, cases[0].part)
    stage_one = StageOne.of(order.stage_one)
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

    def header(self, case: Case, reference_digest: str, items: Sequence[object]) -> dict[str, Any]:
        """All that decides what comes out of a case."""
        return {
            "protocol": self.protocol.name,
            "data": str(case.data.resolve()),
            "part": case.part,
            "shots": case.shots,
            "seed": case.seed if self.protocol.seeds else None,
            "references": reference_digest,
            "items": digest_of(str(item) for item in items),
            "limit": self.order.limit,
            "match": asdict(self.order.config(self.protocol)),
            "models": {**models_of(self.stage_one, self.segmenter)},
            "evaluation_size": self.order.evaluation_size,
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
            "notes": self.source.notes,
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **facts,
        }
        write_file(path, json.dumps(content, indent=1) + "\n")
        return path


# ---- Objects ----


def _run_detection(context: Context, protocol: DetectionProtocol, cases: Sequence[Case]) -> list[Path]:
    targets = protocol.targets(context.order.data, cases[0].part).limited(context.order.limit)
    references = [protocol.checked_references(case, targets) for case in cases]
    headers, journals, matchers = [], [], []
    for number, (case, chosen) in enumerate(zip(cases, references, strict=True), start=1):
        headers.append(context.header(case, list_digest(chosen), [image.path.name for image in targets.images]))
        journals.append(context.journal(headers[-1]))
        bank = context.shelf.bank(chosen, targets.classes)
        matchers.append(Matcher(bank, context.order.config(protocol)))
        context.progress(
            number, len(cases), f"references of {case.part}, {counted(case.shots, 'shot')}, seed {case.seed}"
        )
    _label(context, targets, journals, matchers)
    return [
        context.write(journal, header, _detection_facts(context, protocol, targets, case, chosen, journal))
        for case, chosen, header, journal in zip(cases, references, headers, journals, strict=True)
    ]


def _label(context: Context, targets: Targets, journals: Sequence[Journal], matchers: Sequence[Matcher]) -> None:
    """Every image that a journal lacks through stage one, then through stage two once a case."""
    images = {str(image.image_id): image for image in targets.images}
    missing = [key for key in images if any(key not in journal.done for journal in journals)]
    started = time.perf_counter()

    def finish(key: str, found: CompactImage | IndexedImage) -> None:
        image = images[key]
        if found.candidates.frame.image_size != image.size:
            raise InputError(f"{image.path.name} is {found.candidates.frame.image_size}, its json says {image.size}")
        for journal, matcher in zip(journals, matchers, strict=True):
            if key not in journal.done:
                predictions = to_predictions(matcher.match(found), image.image_id)
                journal.put(key, {"file": str(image.path), "found": [to_row(one) for one in predictions]})

    try:
        samples = ((key, str(images[key].path)) for key in missing)
        found = context.source.outcomes(samples, finish, finishers=FINISHERS, whole=context.order.whole)
        with closing(found) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                if outcome.error is not None:
                    for journal in journals:
                        if outcome.key not in journal.done:
                            journal.fail(outcome.key, describe_error(outcome.key, outcome.error))
                context.progress(done, len(missing), images[outcome.key].path.name)
    finally:
        for journal in journals:
            journal.spent(time.perf_counter() - started)


def _detection_facts(
    context: Context,
    protocol: DetectionProtocol,
    targets: Targets,
    case: Case,
    references: Sequence[Reference],
    journal: Journal,
) -> dict[str, Any]:
    items = journal.items()
    predictions = [
        from_row(row, image.image_id)
        for image in targets.images
        for row in items.get(str(image.image_id), {}).get("found", [])
    ]
    scores, left_out = {}, {}
    for name in context.order.scorers or protocol.scorers:
        most = protocol.most_labels.get(name)
        try:
            counted_ones = predictions if most is None else best_of_images(predictions, most)
            scores[name] = _as_json(scorer_of(name)(targets, counted_ones))
        except InputError as error:  # one scorer that cannot be had costs no other
            left_out[name] = str(error)
    list_name = case_name(context.protocol.name, case.part)
    known = published(list_name) and case.seed == SEED
    return {
        "images": len(targets.images),
        "objects": len(targets.truth),
        "classes": list(targets.classes),
        "evaluation_size": "image",
        "reference_list": [one.key for one in references],
        "references_as_published": not list(differences(list_name, references, case.shots)) if known else None,
        "scores": scores,
        "scorers_left_out": left_out,
        "failed": dict(journal.failed),
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
    episodes = episodes[: context.order.limit]
    header = context.header(case, digest, [one.number for one in episodes])
    journal = context.journal(header)
    work = EpisodeWork(protocol, case, context.shelf, context.order.config(protocol), context.order.evaluation_size)
    missing = [one for one in episodes if str(one.number) not in journal.done]
    started = time.perf_counter()
    try:
        work.answer(missing, context.source, journal, context.progress, whole=context.order.whole)
    finally:
        journal.spent(time.perf_counter() - started)
    scored = work.score(episodes, journal)
    wanted = (protocol.digests or {}).get((case.part, case.shots))
    facts = {
        "episodes": len(episodes),
        "classes": [protocol.class_names[k] for k in protocol.fold_classes(int(case.part))],
        "evaluation_size": context.order.evaluation_size or "image",
        "references_as_published": None if wanted is None else digest.startswith(wanted),
        "scores": {"miou": _as_json(scored)},
        "scorers_left_out": {},
        "failed": dict(journal.failed),
    }
    return context.write(journal, header, facts)
