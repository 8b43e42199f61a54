"""Settings of the method. Stage one (proposals) and stage two (matching) each have one frozen dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

from fiftyone_ntt.errors import InputError, WrongTypeError

Granularity: TypeAlias = Literal["best", "part", "whole"]


@dataclass(frozen=True)
class ProposalConfig:
    """Stage one: which points are prompted and which of their masks are kept (docs/method.md 3.3).

    Attributes:
        points_per_side: the grid has this many points along each side of the image.
        grid: ``"edge"`` puts the outer points on the image border, as published; ``"centre"`` puts each point in
            the middle of its cell, which wastes none on the border when the grid is coarse.
        points_per_batch: prompts decoded at once; any number, a remainder is not lost. Only memory depends on it.
        predicted_iou_threshold: masks with a predicted IoU at or below this are not kept.
        points: ``"grid"`` prompts the whole grid, as published; ``"guided"`` only its most promising half, see
            ``options.guided_points``.
        granularity: which of a point's three masks becomes a candidate: the ``"best"`` by predicted IoU, as published,
            or the best of the two smaller (``"part"``) or larger ones (``"whole"``), see ``options.granularity``.
    """

    points_per_side: int = 32
    grid: Literal["edge", "centre"] = "edge"
    points_per_batch: int = 64
    predicted_iou_threshold: float = 0.4
    points: Literal["grid", "guided"] = "grid"
    granularity: Granularity = "best"

    def __post_init__(self) -> None:
        _whole("points_per_side", self.points_per_side, 1)
        _whole("points_per_batch", self.points_per_batch, 1)
        _number("predicted_iou_threshold", self.predicted_iou_threshold)
        _one_of("granularity", self.granularity, get_args(Granularity))
        _one_of("points", self.points, ("grid", "guided"))
        _one_of("grid", self.grid, ("edge", "centre"))
        _make_plain(self)


@dataclass(frozen=True)
class PaperSettings:
    """What the published method has (docs/method.md 3.4 to 3.7); the defaults are its constants, but for two quirks.

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
    """

    predicted_iou_threshold: float = 0.4
    nms_threshold: float = 0.5
    merge_exponent: float = 0.5
    max_instances: int = 100
    premerge_factor: int = 8
    score_threshold: float = 0.0
    guard_degenerate: bool = True
    inclusive_boxes: bool = False

    def __post_init__(self) -> None:
        _number("predicted_iou_threshold", self.predicted_iou_threshold)
        _number("score_threshold", self.score_threshold)
        _whole("max_instances", self.max_instances, 1)
        _whole("premerge_factor", self.premerge_factor, 1)
        _at_least("merge_exponent", self.merge_exponent, 0)
        _share("nms_threshold", self.nms_threshold)


@dataclass(frozen=True)
class ScoringSettings:
    """What the default adds to the published score, so that wholes beat parts and clean masks beat ragged ones.

    Attributes:
        coverage: similarities are multiplied by the share of the local evidence for the class that the mask explains,
            to this power (see ``scoring.coverage``); 0, as published, leaves that out.
        order: which of two overlapping candidates suppresses or decays the other: the one of higher
            ``"predicted_iou"``, as published, or of higher ``"combined"`` score x predicted IoU x stability.
        quality_exponent: the final score is multiplied by the predicted IoU (at most 1) to this power; 0 as published.
        stability_exponent: and by the stability, how much of the mask stays where its logits are cut a little higher
            or lower, to this power; 0 as published, and until it has been measured on whole sets.
        island_share: disconnected regions of a mask that are smaller than this share of its largest one are not part
            of it; 0 keeps all, as published.
    """

    coverage: float = 0.25
    order: Literal["predicted_iou", "combined"] = "combined"
    quality_exponent: float = 2.0
    stability_exponent: float = 0.0
    island_share: float = 0.1

    def __post_init__(self) -> None:
        _at_least("coverage", self.coverage, 0)
        _at_least("quality_exponent", self.quality_exponent, 0)
        _at_least("stability_exponent", self.stability_exponent, 0)
        _at_least("island_share", self.island_share, 0)
        _one_of("order", self.order, ("predicted_iou", "combined"))


@dataclass(frozen=True)
class OptionSettings:
    """What is past the paper and off by default; each has a file in ``options``.

    Attributes:
        second_look: similarities are blended with those of crops encoded alone, which count this much (0..1; see
            ``options.second_look``), for candidates and classes that have them; 0 leaves that out.
        self_support: prototypes lean towards the image's own candidates above this similarity (see
            ``options.self_support``); 0 leaves that out.
    """

    second_look: float = 0.0
    self_support: float = 0.0

    def __post_init__(self) -> None:
        _at_least("self_support", self.self_support, 0)
        _share("second_look", self.second_look)


@dataclass(frozen=True)
class MatchConfig(OptionSettings, ScoringSettings, PaperSettings):
    """Stage two: from candidates and prototypes to labelled instances. All settings of the three groups, as keywords.

    ``MatchConfig()`` scores wholes above parts and clean masks above ragged ones, which the published score cannot
    tell apart; ``docs/results.md`` has what that is worth. ``MatchConfig.published()`` has the published scores, and
    differs only where that code breaks. ``MatchConfig.paper()`` reproduces it, quirks included: see
    ``docs/differences.md``.

    Example:
        >>> MatchConfig(max_instances=10).nms_threshold
        0.5
    """

    def __post_init__(self) -> None:
        for group in (PaperSettings, ScoringSettings, OptionSettings):
            group.__post_init__(self)
        _make_plain(self)

    @property
    def to_the_bit(self) -> bool:
        """Whether the published code is followed quirks included, so that what goes in must be what the models gave.

        Everything else may be matched with what the candidate cache keeps of that.
        """
        return not self.guard_degenerate

    @classmethod
    def published(cls) -> MatchConfig:
        """The published constants, without the quirks on which the published code breaks."""
        return cls(coverage=0.0, order="predicted_iou", quality_exponent=0.0, island_share=0.0)

    @classmethod
    def paper(cls) -> MatchConfig:
        """Every constant and quirk of the published code.

        ``segment`` matches what the models gave then, never what the candidate cache keeps of it.
        """
        return replace(cls.published(), guard_degenerate=False, inclusive_boxes=True)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> MatchConfig:
        """The settings that an older version, or this one, wrote as a mapping; what it does not name was as published.

        Args:
            stored: what ``dataclasses.asdict`` gave.

        Raises:
            InputError: if an option was on that is no more, or that this version does not know.
        """
        settings = dict(stored)
        for name, off in REMOVED_OPTIONS.items():
            if (value := settings.pop(name, off)) != off:
                raise InputError(
                    f"expected settings of the match that this version has, got {name}={value!r}, an option that was "
                    "taken out as it did not pay; label again with a run of its own"
                )
        unknown = sorted(settings.keys() - {setting.name for setting in fields(cls)})
        if unknown:
            raise InputError(
                f"expected settings of the match that this version knows, got {', '.join(unknown)}; use the version "
                "that wrote them, or a newer one"
            )
        try:
            return replace(cls.published(), **settings)
        except WrongTypeError as error:
            raise InputError(
                f"the stored settings of the match are damaged ({error}); label again with a run of its own"
            ) from error


def checked_config(config: MatchConfig | None) -> MatchConfig:
    """The settings that a caller gave, or the defaults; raises WrongTypeError if they are something else."""
    if config is not None and not isinstance(config, MatchConfig):
        raise WrongTypeError(f"expected config to be a MatchConfig, got {type(config).__name__}; see MatchConfig(...)")
    return MatchConfig() if config is None else config


REMOVED_OPTIONS: dict[str, Any] = {"nearest": 0, "labels_per_mask": 1, "merge": "soft"}
"""Settings that ``MatchConfig`` once had, and the values at which they did nothing: stored records hold them."""
LATER_SETTINGS: dict[str, Any] = {"stability_exponent": 0.0}
"""Settings that came after thresholds were first kept, and the values at which they do nothing: at these, what people
fitted before still belongs to the same settings."""


def _make_plain(settings: ProposalConfig | MatchConfig) -> None:
    """Makes numbers of numpy's, and whole ones such as 2.0, those of Python that a record and an index can hold."""
    for item in fields(settings):
        value: Any = getattr(settings, item.name)
        kind: type[Any] = type(item.default)
        if type(value) is not kind and not (kind is float and type(value) is int):  # 2 goes into a record as it was
            if kind is bool and value not in (True, False):
                raise WrongTypeError(f"expected {item.name} to be true or false, got {value!r}")
            object.__setattr__(settings, item.name, kind(value))


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise WrongTypeError(f"expected {name} to be a number, got {value!r} ({type(value).__name__})")


def _whole(name: str, value: float, least: int) -> None:
    _at_least(name, value, least)
    if value % 1 != 0:  # also infinity
        raise WrongTypeError(f"expected {name} to be a whole number, got {value!r}")


def _at_least(name: str, value: float, least: float) -> None:
    _number(name, value)
    if not value >= least:
        raise InputError(f"expected {name} of at least {least}, got {value}")


def _share(name: str, value: float) -> None:
    _number(name, value)
    if not 0 <= value <= 1:
        raise InputError(f"expected {name} between 0 and 1, got {value}")


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")
