"""What to run of a protocol, and whether it can be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.base import Case, EpisodeProtocol, Protocol
from fiftyone_ntt.evaluation.protocols.oracles import SEED
from fiftyone_ntt.evaluation.protocols.scorers import OF_OWN_LISTS, SCORERS, scorer_of
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.params.base import StageOneSettings

EPISODE_SCORERS = ("miou",)
"""What episodes are scored by."""
MATCHES: dict[str, Callable[[], MatchConfig]] = {
    "default": MatchConfig, "published": MatchConfig.published, "paper": MatchConfig.paper,
}  # fmt: skip
"""Settings of stage two by name. ``"paper"`` copies the quirks of the published code, those of its references too."""


ALL_PARTS = "all"
"""In place of a part: every one."""


@dataclass(frozen=True)
class Order:
    """What to run.

    Attributes:
        data: the data folder.
        out: where results go.
        part: a split, set or fold; the protocol's default where ``None``; ``"all"`` takes each in turn, unless the
            protocol itself has a part of that name.
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
        known = [name for name in SCORERS if name not in OF_OWN_LISTS or name in protocol.scorers]
        usable = protocol.scorers if episodes else tuple(known)
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
        count = protocol.max_instances
        if self.match == "paper":  # it also decides how many candidates are merged: eight times as many
            count = protocol.published_instances or count
        return replace(MATCHES[self.match](), max_instances=count)

    def parts(self, protocol: Protocol) -> tuple[str, ...]:
        """The parts to run."""
        if self.part == ALL_PARTS and ALL_PARTS not in protocol.parts:
            return protocol.parts
        return (protocol.checked_part(self.part, self.data),)

    def cases(self, protocol: Protocol) -> list[Case]:
        """Every combination of part, seed and shots; fixed references have no seed."""
        usual = (SEED,) if SEED in protocol.seeds else protocol.seeds[:1]
        seeds = (self.seeds or usual) if protocol.seeds else (0,)
        return [
            Case(self.data, part, shots, seed, self.match == "paper")
            for part in self.parts(protocol)
            for seed in seeds
            for shots in self.shots
        ]
