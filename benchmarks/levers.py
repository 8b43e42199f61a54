"""The settings of stage two that ``benchmarks.accuracy`` compares, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fiftyone_ntt.core import MatchConfig

_ADDED: dict[str, dict[str, Any]] = {
    "coverage .5": {"coverage": 0.5},
    "coverage .25": {"coverage": 0.25},
    "order": {"order": "combined"},
    "quality 2": {"quality_exponent": 2.0},
    "quality 4": {"quality_exponent": 4.0},
    "quality 2, stability 2": {"quality_exponent": 2.0, "stability_exponent": 2.0},
    "quality 4, stability 4": {"quality_exponent": 4.0, "stability_exponent": 4.0},
    "no islands": {"island_share": 0.1},
}
_CHANGED: dict[str, dict[str, Any]] = {
    "default, coverage 0": {"coverage": 0.0},
    "default, coverage .15": {"coverage": 0.15},
    "default, coverage .35": {"coverage": 0.35},
    "default, coverage .5": {"coverage": 0.5},
    "default, order as published": {"order": "predicted_iou"},
    "default, quality 0": {"quality_exponent": 0.0},
    "default, quality 3": {"quality_exponent": 3.0},
    "default, quality 4": {"quality_exponent": 4.0},
    "default, stability 1": {"stability_exponent": 1.0},
    "default, stability 2": {"stability_exponent": 2.0},
    "default, stability 3": {"stability_exponent": 3.0},
    "default, stability 4": {"stability_exponent": 4.0},
    "default, quality 4, stability 4": {"quality_exponent": 4.0, "stability_exponent": 4.0},
    "default, islands": {"island_share": 0.0},
}

_OPTIONS: dict[str, dict[str, Any]] = {
    "self-support .3": {"self_support": 0.3},
    "self-support .5": {"self_support": 0.5},
}
_LOOKS: dict[str, MatchConfig] = {
    f"{name}look {weight}": replace(config, second_look=weight)
    for name, config in (("", MatchConfig.published()), ("default, ", MatchConfig()))
    for weight in (0.2, 0.3, 0.4, 0.5, 0.7)
}
"""Only with ``--second-look``: without, candidates have no second vectors, and these do nothing. Not among "all"."""

VARIANTS: dict[str, MatchConfig] = {
    "paper": MatchConfig.paper(),
    "published": MatchConfig.published(),
    "default": MatchConfig(),
    **{name: replace(MatchConfig.published(), **change) for name, change in _ADDED.items()},
    **{name: replace(MatchConfig(), **change) for name, change in _CHANGED.items()},
    **{name: replace(MatchConfig.published(), **change) for name, change in _OPTIONS.items()},
    **{f"default, {name}": replace(MatchConfig(), **change) for name, change in _OPTIONS.items()},
    **_LOOKS,
}
"""Name -> settings. ``paper`` is what the others are compared with."""
