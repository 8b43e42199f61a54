"""Presets of one's own: registered in a process, described in a file, or offered by an installed package."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

from fiftyone_ntt.errors import InputError, WrongTypeError, as_text
from fiftyone_ntt.models.preset_file import preset_from
from fiftyone_ntt.models.presets import PRESETS, Preset
from fiftyone_ntt.params.preset_names import (
    GROUP,
    NAME,
    described,
    is_name,
    offered,
    preset_names,
    presets_file,
    remember,
)

logger = logging.getLogger(__name__)


def register_preset(preset: Preset) -> Preset:
    """Makes a preset known by its name in this process: to calls, commands and forms alike.

    A file offers presets to every process that sees it, the App's among them: ``FIFTYONE_NTT_PRESETS``. So does a
    package, by entry points of the group ``fiftyone_ntt.presets``: the preset's name = ``"module:object"``, where the
    object is a ``Preset`` or a function that returns one.

    Args:
        preset: a mask model, a feature model, and their settings. To register an equal one again does nothing.

    Returns:
        The same preset.

    Raises:
        WrongTypeError: it is no ``Preset``.
        InputError: the name cannot be one, or another preset has it.

    Example:
        >>> from fiftyone_ntt.models import PRESETS, register_preset
        >>> from dataclasses import replace
        >>> mine = register_preset(replace(PRESETS["tiny"], name="tiny-dense", points_per_side=48))
        >>> PRESETS["tiny-dense"].points_per_side
        48
    """
    if not isinstance(preset, Preset):
        raise WrongTypeError(f"expected a Preset, got {preset!r} ({type(preset).__name__})")
    name = preset.name
    if not is_name(name):
        raise InputError(f"expected a preset with a name ({NAME}), got {as_text(repr(name))}; give it another")
    if name in PRESETS and PRESETS[name] != preset:
        raise InputError(f"expected a name that no other preset has, got {name!r}; there is: {', '.join(PRESETS)}")
    PRESETS[name] = preset
    remember(name)
    return preset


def find_preset(name: object) -> Preset:
    """The preset of a name, loaded from the user's file or from the package that offers it if need be.

    Raises:
        InputError: there is none of that name, or the file or the package that offers it gives something else.
    """
    if isinstance(name, str):
        if name in PRESETS:
            return PRESETS[name]
        if name in described():
            return preset_from(name, described()[name], presets_file())
        if name in offered():
            return _from_package(name, offered()[name])
    raise InputError(f"expected a Preset or one of the presets {', '.join(preset_names())}, got {name!r}")


def _from_package(name: str, point: EntryPoint) -> Preset:
    try:
        given = point.load()
        preset = given() if callable(given) else given
    except Exception as error:  # another's code
        raise InputError(
            f"the preset {name!r} cannot be loaded from {point.value!r}: {type(error).__name__}: {error}; repair or "
            "remove the package that offers it"
        ) from error
    if not isinstance(preset, Preset) or preset.name != name:
        raise InputError(f"expected a Preset of the name {name!r} from {point.value!r} ({GROUP}), got {preset!r}")
    logger.info("the preset %s comes from %s", name, point.value)
    return register_preset(preset)


def all_presets() -> dict[str, Preset]:
    """Every preset that can be loaded, by name; what cannot be given is left out, with a warning."""
    presets = {}
    for name in preset_names():
        try:
            presets[name] = find_preset(name)
        except InputError as error:
            logger.warning("%s", error)
    return presets
