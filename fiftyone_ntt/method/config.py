"""Settings of the method. Stage one (proposals) and stage two (matching) each have one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from fiftyone_ntt.errors import InputError

Outputs: TypeAlias = Literal["best", "part", "whole", "1", "2", "3", "all"]
AMONG: dict[str, tuple[int, ...]] = {
    "best": (0, 1, 2),
    "part": (0, 1),
    "whole": (1, 2),
    "1": (0,),
    "2": (1,),
    "3": (2,),
    "all": (0, 1, 2),
}
"""Among which of the three masks the one of highest predicted IoU is taken; ``"all"`` takes each of them."""


@dataclass(frozen=True)
class ProposalConfig:
    """Stage one: which points are prompted and which of their masks are kept (ntt-algorithm 3.3).

    Attributes:
        points_per_side: the grid has this many points along each side of the image.
        grid: ``"edge"`` puts the outer points on the image border, as published; ``"centre"`` puts each point in
            the middle of its cell, which wastes none on the border when the grid is coarse.
        points_per_batch: prompts decoded at once; any number, a remainder is not lost. Only memory depends on it.
        predicted_iou_threshold: masks with a predicted IoU at or below this are not kept.
        points: ``"grid"`` prompts the whole grid, as published; ``"guided"`` only its most promising part, see
            ``guided``.
        guided_fraction: how much of the grid that part is.
        outputs: which of a point's three masks become candidates: the ``"best"`` by predicted IoU, as published, the
            best of the two smaller (``"part"``) or larger ones (``"whole"``), only ``"1"``, ``"2"`` or ``"3"``, or
            ``"all"`` of them; see ``levels``.
    """

    points_per_side: int = 32
    grid: Literal["edge", "centre"] = "edge"
    points_per_batch: int = 64
    predicted_iou_threshold: float = 0.4
    points: Literal["grid", "guided"] = "grid"
    guided_fraction: float = 0.5
    outputs: Outputs = "best"

    def __post_init__(self) -> None:
        _at_least("points_per_side", self.points_per_side, 1)
        _at_least("points_per_batch", self.points_per_batch, 1)
        if self.outputs not in AMONG:
            raise InputError(f"expected outputs to be one of {', '.join(AMONG)}, got {self.outputs!r}")
        if self.points not in ("grid", "guided"):
            raise InputError(f"expected points to be 'grid' or 'guided', got {self.points!r}")
        if not 0 < self.guided_fraction <= 1:
            raise InputError(f"expected guided_fraction above 0 and at most 1, got {self.guided_fraction}")
        if self.grid not in ("edge", "centre"):
            raise InputError(f"expected grid to be 'edge' or 'centre', got {self.grid!r}")


@dataclass(frozen=True)
class MatchConfig:
    """Stage two: from candidates and prototypes to labelled instances (ntt-algorithm 3.4 to 3.7).

    ``MatchConfig()`` scores wholes above parts and clean masks above ragged ones, which the published score cannot
    tell apart; ``docs/results.md`` has what that is worth. ``MatchConfig.published()`` has the published scores, and
    differs only where that code breaks. ``MatchConfig.paper()`` reproduces it, quirks included: see
    ``docs/differences.md``.

    Attributes:
        predicted_iou_threshold: candidates with a predicted IoU at or below this are ignored.
        nms_threshold: within a label, a box that overlaps a more confident one by more than this IoU is dropped.
        merge_exponent: the score is multiplied by ``(1 - overlap) ** merge_exponent`` (semantic-aware soft merge).
        max_instances: how many instances are returned at most.
        premerge_factor: at most ``premerge_factor * max_instances`` candidates enter the soft merge.
        score_threshold: instances with a score at or below this are not returned.
        guard_degenerate: drop empty masks before matching and masks that vanish at image size, and keep the overlap
            within 0..1. Off, such masks give NaN scores that sort first, as in the published code.
        inclusive_boxes: boxes end *on* the last mask column and row, one pixel short as a width, as published.
            Otherwise ``x2`` and ``y2`` are the outer edges of the last pixels.
        coverage: similarities are multiplied by the share of the local evidence for the class that the mask explains,
            to this power (see ``coverage.py``); 0, as published, leaves that out.
        order: which of two overlapping candidates suppresses or decays the other: the one of higher
            ``"predicted_iou"``, as published, or of higher ``"combined"`` score x predicted IoU x stability.
        quality_exponent: the final score is multiplied by the predicted IoU (at most 1) to this power; 0 as published.
        island_share: components of a mask smaller than this share of its largest one are not part of it; 0 keeps all,
            as published.
        second_look: similarities are blended with those of crops encoded alone, which count this much (0..1; see
            ``second_look.py``), for candidates and classes that have them; 0, as published, leaves that out.
        nearest: similarity to a class is the mean of that to so many of its nearest references; 0, as published, takes
            the prototype.
        self_support: prototypes lean towards the image's own candidates above this similarity (see
            ``self_support.py``); 0, as published, leaves that out.
        labels_per_mask: with how many of its best labels each candidate takes part; 1 as published.
        merge: how a mask that better ones cover loses: ``"soft"``, as published, or by ``"diffusion"`` over all of them
            (see ``diffusion.py``).
    """

    predicted_iou_threshold: float = 0.4
    nms_threshold: float = 0.5
    merge_exponent: float = 0.5
    max_instances: int = 100
    premerge_factor: int = 8
    score_threshold: float = 0.0
    guard_degenerate: bool = True
    inclusive_boxes: bool = False
    coverage: float = 0.25
    order: Literal["predicted_iou", "combined"] = "combined"
    quality_exponent: float = 2.0
    island_share: float = 0.1
    second_look: float = 0.0
    nearest: int = 0
    self_support: float = 0.0
    labels_per_mask: int = 1
    merge: Literal["soft", "diffusion"] = "soft"

    def __post_init__(self) -> None:
        for name in ("coverage", "quality_exponent", "island_share", "nearest", "self_support"):
            _at_least(name, getattr(self, name), 0)
        if not 0 <= self.second_look <= 1:
            raise InputError(f"expected second_look between 0 and 1, got {self.second_look}")
        if self.order not in ("predicted_iou", "combined"):
            raise InputError(f"expected order to be 'predicted_iou' or 'combined', got {self.order!r}")
        if self.merge not in ("soft", "diffusion"):
            raise InputError(f"expected merge to be 'soft' or 'diffusion', got {self.merge!r}")
        _at_least("labels_per_mask", self.labels_per_mask, 1)
        _at_least("max_instances", self.max_instances, 1)
        _at_least("premerge_factor", self.premerge_factor, 1)
        _at_least("merge_exponent", self.merge_exponent, 0)
        if not 0 <= self.nms_threshold <= 1:
            raise InputError(f"expected nms_threshold between 0 and 1, got {self.nms_threshold}")

    @classmethod
    def published(cls) -> MatchConfig:
        """The published constants, without the quirks on which the published code breaks."""
        return cls(**_PUBLISHED_SCORES)

    @classmethod
    def paper(cls) -> MatchConfig:
        """Every constant and quirk of the published code."""
        return cls(**_PUBLISHED_SCORES, guard_degenerate=False, inclusive_boxes=True)


class _Scores(TypedDict):
    coverage: float
    order: Literal["predicted_iou"]
    quality_exponent: float
    island_share: float


_PUBLISHED_SCORES: _Scores = {
    "coverage": 0.0,
    "order": "predicted_iou",
    "quality_exponent": 0.0,
    "island_share": 0.0,
}


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(f"expected {name} of at least {least}, got {value}")
