"""The published reference sets of seed 33, and whether a draw is one of them.

The lists are those of FSOD-VFM (arXiv 2602.03137), which obey the rules of NTT's sampler.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from fiftyone_ntt.evaluation.protocols.coco_files import Reference

SEED = 33
"""That of the published sets."""


@lru_cache(maxsize=1)
def _lists() -> dict[str, dict[str, str]]:
    content: dict[str, dict[str, str]] = json.loads(
        Path(__file__).with_name("seed33.json").read_text(encoding="utf-8")
    )  # fmt: skip
    return content


def published(name: str) -> dict[str, list[str]]:
    """Class -> ten objects as ``image@x,y``, in the order of the draw: k shots are the first k. Empty without a list.

    Args:
        name: ``"coco-fsod"`` or ``"voc-fsod 1"``, ...
    """
    return {label: entries.split() for label, entries in _lists().get(name, {}).items()}


def entry_of(reference: Reference) -> str:
    """A reference as the lists name it: the image's number or name (VOC: with the year), and where its box begins."""
    stem = reference.path.stem
    if reference.path.parent.parent.name.startswith("VOC20"):
        stem = f"{reference.path.parent.parent.name[5:]}/{stem}"
    elif stem.isdigit():
        stem = str(int(stem))
    return f"{stem}@{round(reference.box[0])},{round(reference.box[1])}"


def differences(name: str, references: Sequence[Reference], shots: int) -> Iterator[str]:
    """What is not as published, a line each; none for a draw that is the published one, or where there is no list."""
    drawn: dict[str, list[str]] = {}
    for one in references:
        drawn.setdefault(one.label, []).append(entry_of(one))
    for label, entries in published(name).items():
        wanted = entries[:shots]
        if drawn.get(label, [])[: len(wanted)] != wanted:
            yield f"{label}: expected {' '.join(wanted)}, got {' '.join(drawn.get(label, []))}"
