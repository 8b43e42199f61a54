"""Stage two of a run: from the candidates of an image to the document of its labels."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fiftyone_ntt.dataset.labels import to_document
from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import Matcher
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.referring import ReferringMatcher
from fiftyone_ntt.method.options.tiled import TiledImage, match_image
from fiftyone_ntt.method.results import Instances, StageOneResult
from fiftyone_ntt.runs.match_processes import MatchProcesses, cores
from fiftyone_ntt.runs.record import REFERRING

_MOST_FINISHERS = 16


def finishers() -> int:
    """How many threads match and make labels: as many as there are cores for this process, within reason."""
    return min(cores(), _MOST_FINISHERS)


@dataclass
class Labeller:
    """Stage two, as ``stream`` calls it: candidates in, a document for the label field out.

    Attributes:
        matcher: of the bank; in the referring task of each of its references.
        names: what a label of each class, or reference, is called.
        least: of each of them, the score that a label must exceed; ``None`` without any.
        reference_ids: of each of them, in the referring task.
        left_out: labels that were not above that score so far.
        processes: which match as well, where images come fast.
    """

    matcher: Matcher | ReferringMatcher
    names: Sequence[str]
    least: list[float] | None
    reference_ids: Sequence[str] | None = None
    left_out: int = 0
    processes: MatchProcesses | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def most(self) -> int | None:
        """How many labels an image may have; ``None`` where that is no limit of the settings."""
        return self.matcher.config.max_instances if isinstance(self.matcher, Matcher) else None

    def __call__(self, sample_id: str, content: StageOneResult | TiledImage | Instances) -> dict[str, Any]:
        return to_document(self.instances(content), self.names, self.reference_ids)

    def instances(self, content: StageOneResult | TiledImage | Instances) -> Instances:
        """What a run keeps of what is found in an image; a fleet may have matched it already."""
        instances = content if isinstance(content, Instances) else self._matched(content)
        if self.least is not None:
            every = len(instances)
            instances = instances.above(self.least)
            with self._lock:
                self.left_out += every - len(instances)
        return instances

    def close(self) -> None:
        """Ends what was started for this labeller."""
        if self.processes is not None:
            self.processes.close()

    def _matched(self, content: StageOneResult | TiledImage) -> Instances:
        found = None if self.processes is None else self.processes.match(content)
        return match_image(self.matcher, content) if found is None else found


def labeller_of(
    bank: MemoryBank, config: MatchConfig, least: list[float] | None, mode: str, *, images: int = 0
) -> Labeller:
    """The labeller of a bank; ``close`` it after use.

    Args:
        bank: the memory bank.
        config: settings of the match.
        least: the score that labels of each of its classes must exceed.
        mode: of the run.
        images: how many there are to label; for many, processes are started that match beside this one.
    """
    processes = MatchProcesses(bank, config, referring=mode == REFERRING, images=images)
    if mode != REFERRING:
        return Labeller(Matcher(bank, config), bank.classes, least, processes=processes)
    names = [bank.classes[k] for k in bank.class_index]
    of_each = None if least is None else [least[k] for k in bank.class_index]
    return Labeller(ReferringMatcher(bank, config), names, of_each, bank.reference_ids, processes=processes)
