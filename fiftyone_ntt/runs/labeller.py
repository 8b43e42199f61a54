"""Stage two of a run: from the candidates of an image to the document of its labels."""

from __future__ import annotations

import os
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
from fiftyone_ntt.runs.record import REFERRING

_MOST_FINISHERS = 16


def finishers() -> int:
    """How many threads match and make labels: as many as there are cores for this process, within reason."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_FINISHERS)


@dataclass
class Labeller:
    """Stage two, as ``stream`` calls it: candidates in, a document for the label field out.

    Attributes:
        matcher: of the bank; in the referring task of each of its references.
        names: what a label of each class, or reference, is called.
        least: of each of them, the score that a label must exceed; ``None`` without any.
        reference_ids: of each of them, in the referring task.
        left_out: labels that were not above that score so far.
    """

    matcher: Matcher | ReferringMatcher
    names: Sequence[str]
    least: list[float] | None
    reference_ids: Sequence[str] | None = None
    left_out: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def most(self) -> int | None:
        """How many labels an image may have; ``None`` where that is no limit of the settings."""
        return self.matcher.config.max_instances if isinstance(self.matcher, Matcher) else None

    def __call__(self, sample_id: str, content: StageOneResult | TiledImage | Instances) -> dict[str, Any]:
        return to_document(self.instances(content), self.names, self.reference_ids)

    def instances(self, content: StageOneResult | TiledImage | Instances) -> Instances:
        """What a run keeps of what is found in an image; a fleet may have matched it already."""
        instances = content if isinstance(content, Instances) else match_image(self.matcher, content)
        if self.least is not None:
            every = len(instances)
            instances = instances.above(self.least)
            with self._lock:
                self.left_out += every - len(instances)
        return instances


def labeller_of(bank: MemoryBank, config: MatchConfig, least: list[float] | None, mode: str) -> Labeller:
    """The labeller of a bank; ``least`` has the score that labels of each of its classes must exceed."""
    if mode != REFERRING:
        return Labeller(Matcher(bank, config), bank.classes, least)
    names = [bank.classes[k] for k in bank.class_index]
    of_each = None if least is None else [least[k] for k in bank.class_index]
    return Labeller(ReferringMatcher(bank, config), names, of_each, bank.reference_ids)
