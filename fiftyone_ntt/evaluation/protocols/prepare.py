"""Looks whether all is there that a protocol reads, and makes masks of reference boxes. Downloads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fiftyone_ntt.candidates.source import StageOne
from fiftyone_ntt.errors import InputError, counted, listing
from fiftyone_ntt.evaluation.protocols.base import Case, DetectionProtocol, EpisodeProtocol, Needed, Protocol
from fiftyone_ntt.evaluation.protocols.coco_files import digest_of
from fiftyone_ntt.evaluation.protocols.oracles import SEED, differences, published
from fiftyone_ntt.evaluation.protocols.orders import ALL_PARTS
from fiftyone_ntt.evaluation.protocols.protocol_run import case_name
from fiftyone_ntt.evaluation.protocols.samplers import list_digest
from fiftyone_ntt.evaluation.protocols.shelf import BoxMasks, read_items
from fiftyone_ntt.params.base import Progress, StageOneSettings

_MOST_CLASSES = 100
"""So many are listed."""


@dataclass(frozen=True)
class Prepared:
    """What was found.

    Attributes:
        part: of the protocol.
        files: all that the part reads.
        lines: what the content of the files is, where all are there.
    """

    part: str
    files: list[Needed]
    lines: list[str]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return all(needed.there or needed.optional for needed in self.files)


def prepare(protocol: Protocol, data: Path, part: str | None = None) -> list[Prepared]:
    """Checks the files of a part (of all parts where ``None``), and what they hold."""
    every = part == ALL_PARTS and ALL_PARTS not in protocol.parts
    own = protocol.default_part is not None
    parts = [protocol.checked_part(part, data)] if (part is not None or own) and not every else list(protocol.parts)
    prepared = []
    for one in parts:
        files = protocol.files(data, one)
        complete = all(needed.there or needed.optional for needed in files)
        prepared.append(Prepared(one, files, list(_content(protocol, data, one)) if complete else []))
    return prepared


def _content(protocol: Protocol, data: Path, part: str) -> Iterator[str]:
    """Lines for people; what is wrong is one of them, so that the rest is still said."""
    try:
        if isinstance(protocol, DetectionProtocol):
            yield from _detection_content(protocol, data, part)
        elif isinstance(protocol, EpisodeProtocol):
            yield from _episode_content(protocol, data, part)
    except InputError as error:
        yield f"problem: {error}"


def _detection_content(protocol: DetectionProtocol, data: Path, part: str) -> Iterator[str]:
    targets = protocol.read_targets(data, part)
    # The ids are another set's in no two data sets: whoever mixes them up sees it here.
    table = [f"{k} {name}" for k, name in zip(targets.category_ids, targets.classes, strict=True)]
    yield (
        f"{counted(len(targets.images), 'image')}, {counted(len(targets.truth), 'object')}, classes by name: "
        f"{listing(table, _MOST_CLASSES)}"
    )
    yield from targets.notes
    absent = [image.path for image in targets.images if not image.path.is_file()]
    if absent:
        yield f"problem: {counted(len(absent), 'image file')} missing, e.g. {absent[0]}"
    for case in standard_cases(protocol, data, part):
        try:
            references = protocol.checked_references(case, targets)
        except InputError as error:
            yield f"problem: {error}"
            continue
        absent = sorted({one.path for one in references if not one.path.is_file()})
        if absent:
            where = f"{counted(case.shots, 'shot')}, seed {case.seed}"
            yield f"problem: {counted(len(absent), 'image file')} of references ({where}) missing, e.g. {absent[0]}"
        name, line = (
            case_name(protocol.name, part),
            f"{counted(case.shots, 'shot')}, seed {case.seed}: {list_digest(references)[:16]}",
        )
        if published(name) and case.seed == SEED:
            wrong = list(differences(name, references, case.shots))
            line += ", as published" if not wrong else f", not as published, e.g. {wrong[0]}"
        yield line


def standard_cases(protocol: DetectionProtocol, data: Path, part: str) -> list[Case]:
    """The published draws: of nested ones only the largest a seed, of fixed ones all."""
    if not protocol.seeds:
        return [Case(data, part, shots, 0) for shots in protocol.shots]
    if protocol.usual_cases is not None:
        return protocol.usual_cases(data, part)
    return [Case(data, part, protocol.shots[-1], seed) for seed in protocol.seeds]


def _episode_content(protocol: EpisodeProtocol, data: Path, part: str) -> Iterator[str]:
    for shots in protocol.shots:
        episodes = list(protocol.episodes(Case(data, part, shots, 0)))
        names = {name for one in episodes for name in (one.query, *one.supports)}
        absent = sorted(str(path) for name in names for path in protocol.paths(data, name) if not path.is_file())
        wanted = (protocol.digests or {}).get((part, shots), "")
        same = digest_of(one.line(protocol.short) for one in episodes).startswith(wanted)
        yield (
            f"{counted(shots, 'shot')}: {counted(len(episodes), 'episode')} of {counted(len(names), 'image')}, "
            f"{'as published' if same else 'NOT as published: get the lists again'}"
        )
        if absent:
            yield f"problem: {counted(len(absent), 'file')} missing, e.g. {absent[0]}"


def make_masks(
    protocol: Protocol, data: Path, out: Path, part: str, stage_one: StageOneSettings, progress: Progress | None = None
) -> int:
    """Makes the masks of all published references that are boxes, with the mask model of a preset.

    Returns:
        How many masks there are now.
    """
    if not isinstance(protocol, DetectionProtocol):
        return 0
    cases = standard_cases(protocol, data, part)
    drawn = [one for case in cases for one in protocol.read_references(case)]
    references = {one.identity: one for one in drawn if one.segmentation is None}
    if not references:
        return 0
    masks = BoxMasks(out, StageOne.of(stage_one).load()[0])
    ordered = sorted(references.values(), key=lambda one: str(one.path))
    try:
        for done, _ in enumerate(read_items(ordered, masks), start=1):
            if progress is not None:
                progress(done, len(ordered), "masks of boxes")
    finally:
        masks.save()  # what was made before an image failed is not made again
    return len(masks)
