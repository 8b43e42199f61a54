"""Presets that a user describes in a file: from plain values to a ``Preset``. The file itself: ``preset_names``.

Its words are those of the dataclasses, so that there is one notation only: what an attribute means is said there.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fiftyone_ntt.errors import InputError, as_text, listing
from fiftyone_ntt.models.hub_specs import Dinov2Spec, HubFeatureSpec, HubMaskSpec
from fiftyone_ntt.models.presets import PRESETS, Preset
from fiftyone_ntt.models.specs import WEIGHTS, EfficientNetSpec, MiniSamSpec, Sam2Spec, WeightsFile
from fiftyone_ntt.pixels.files import expanded

SPECS: dict[str, dict[str, type]] = {
    "proposal": {spec.__name__: spec for spec in (Sam2Spec, HubMaskSpec, MiniSamSpec)},
    "features": {spec.__name__: spec for spec in (Dinov2Spec, HubFeatureSpec, EfficientNetSpec)},
}
"""What a file may name as ``spec`` of each of the two models."""


def preset_from(name: str, given: object, file: Path) -> Preset:
    """The preset that a file describes.

    Args:
        name: of the preset.
        given: what the file says below that name: attributes of ``Preset`` but for the name, and ``like``, the built-in
            preset that everything else is taken from. Of ``proposal`` and ``features``, ``spec`` is the name of a
            class; without it, attributes of the model of ``like`` are changed.
        file: relative paths are meant from its folder.

    Raises:
        InputError: it describes none; the sentence says where and what would.

    Example:
        >>> preset = preset_from("mine", {"like": "base", "points_per_side": 48}, Path("presets.yaml"))
        >>> preset.features == PRESETS["base"].features, preset.points_per_side
        (True, 48)
    """
    where = f"{name} in {file}"
    values = dict(_mapping(given, where))
    if (other := values.pop("name", name)) != name:
        raise InputError(f"expected no other 'name' of {where}, got {_seen(other)}; leave it out")
    like = values.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in PRESETS):
        raise InputError(f"expected 'like' of {where} to be one of {', '.join(PRESETS)}, got {_seen(like)}")
    base = None if like is None else PRESETS[like]
    for part, specs in SPECS.items():
        if part in values:
            old = None if base is None else getattr(base, part)
            values[part] = _spec(values[part], specs, old, f"{part!r} of {where}", file.parent)
    preset: Preset = _made(Preset, {**values, "name": name}, base, where, file.parent)
    try:
        preset.proposals()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return preset


def _spec(given: object, specs: Mapping[str, type], old: object, where: str, folder: Path) -> object:
    """A spec of the class that is named, or else the one of before with other attributes."""
    values = dict(_mapping(given, where))
    kind = values.pop("spec", None)
    _check_harmless(values, where)
    if kind is None and old is not None:
        return _made(type(old), values, old, where, folder)
    if not isinstance(kind, str) or kind not in specs:
        raise InputError(f"expected 'spec' of {where} to be one of {', '.join(specs)}, got {_seen(kind)}")
    return _made(specs[kind], values, None, where, folder)


def _check_harmless(values: Mapping[str, Any], where: str) -> None:
    """A config of SAM2 names the code that it calls: one from elsewhere would let a stranger's file run anything."""
    if "overrides" in values:
        raise InputError(f"expected no 'overrides' of {where}: they are for Python only; see register_preset")
    config = values.get("config", "")
    if not isinstance(config, str) or not re.fullmatch(r"(configs/[\w.+/-]+\.yaml)?", config) or ".." in config:
        raise InputError(f"expected 'config' of {where} to be one of the package sam2, got {_seen(config)}")


def _made(kind: Any, values: Mapping[str, Any], base: Any, where: str, folder: Path) -> Any:
    """An object of a dataclass from plain values, those of ``base`` where the file says nothing."""
    known, hints = {item.name: item for item in fields(kind)}, _hints(kind)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"expected of {where} only {', '.join(known)}, got {listing(unknown)}; correct the name")
    missing = [name for name, item in known.items() if base is None and name not in values and not _has_default(item)]
    if missing:
        raise InputError(f"expected {listing(missing)} of {where}, got nothing; say it, or begin with `like: base`")
    made = {
        name: _value(value, hints[name], f"{name!r} of {where}", folder, getattr(base, name, None))
        for name, value in values.items()
    }
    try:
        return kind(**made) if base is None else replace(base, **made)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _has_default(item: Field[Any]) -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _mapping(given: object, where: str) -> Mapping[str, Any]:
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InputError(f"expected names and values for {where}, got {_seen(given)}; write `name: value` below it")
    return given


def _seen(value: object) -> str:
    """What a file gives, short: a list may be of any length."""
    return f"a {type(value).__name__}" if isinstance(value, (dict, list)) else as_text(repr(value))


def _value(value: object, hint: Any, where: str, folder: Path, old: object) -> Any:
    """A plain value as what a dataclass wants there, where it had ``old`` before."""
    if is_dataclass(value):  # a spec, made already
        return value
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if Path in kinds and isinstance(value, str):
        return folder / expanded(value)  # what is absolute stays
    if WeightsFile in kinds and isinstance(value, str) and value in WEIGHTS:
        return WEIGHTS[value]
    for kind in kinds:
        if is_dataclass(kind) and isinstance(value, dict):
            return _made(kind, _mapping(value, where), old if type(old) is kind else None, where, folder)
        if get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind):
            return value
        if kind is float and type(value) in (int, float):
            return float(value)  # type: ignore[arg-type]
        if kind in (str, bool, int) and type(value) is kind:
            return value
    raise InputError(f"expected {where} to be {_wanted(kinds)}, got {_seen(value)}; correct it")


def _wanted(kinds: tuple[Any, ...]) -> str:
    """What may stand there, in words."""
    words = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", type(None): "empty"}
    texts = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            texts.append(" or ".join(map(repr, get_args(kind))))
        elif kind is WeightsFile:
            texts.append(f"one of {', '.join(WEIGHTS)}, or name and sha256")
        elif kind is not Path:
            texts.append(words.get(kind, "names and values" if is_dataclass(kind) else "a list of texts"))
    return " or ".join(dict.fromkeys(texts))
