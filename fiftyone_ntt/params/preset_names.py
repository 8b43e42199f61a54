"""Names of the presets, known here without loading any model code; forms and commands offer them."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from fiftyone_ntt.errors import InputError, as_text, listing

logger = logging.getLogger(__name__)

BUILT_IN = ("lite", "tiny", "base", "large", "paper", "edge", "hq", "sam3", "dinov3", "radio", "tips")
"""Presets of this package."""
GROUP = "fiftyone_ntt.presets"
"""Group of entry points by which other packages offer presets: the preset's name = "module:object"."""
FILE_VARIABLE = "FIFTYONE_NTT_PRESETS"
"""Environment variable that names the file of a user's own presets."""
_LARGEST_FILE = 1 << 20
_LONGEST = 60
NAME = f"texts of at most {_LONGEST} letters in one line, without blanks around them and slashes"
"""What ``is_name`` asks for, in words."""

_registered: dict[str, None] = {}


def preset_names() -> tuple[str, ...]:
    """Every preset there is: of this package, of the user's file, of other packages, and registered in this process."""
    return tuple(dict.fromkeys((*BUILT_IN, *described(), *offered(), *_registered)))


def is_name(name: object) -> bool:
    """Whether something can be the name of a preset, which stands in tables, in messages and beside results."""
    return isinstance(name, str) and bool(name) and name == as_text(name, _LONGEST) and not {*"/\\"} & {*name}


def remember(name: str) -> None:
    """Adds the name of a preset that was registered in this process."""
    _registered[name] = None


# ---- Presets of installed packages ----


@lru_cache(maxsize=1)
def offered() -> dict[str, EntryPoint]:
    """Presets of installed packages by name; nothing is imported. One of a name of this package's is not offered.

    Of two of one name the first counts, as the first of two modules does for Python.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN:
            continue
        first = points.setdefault(point.name, point)
        if first.value != point.value:
            logger.warning(
                "two packages offer a preset %s: %s is taken, %s is not; remove one, or have its author rename it",
                point.name,
                first.value,
                point.value,
            )
    return points


# ---- Presets of the user's file ----


def presets_file() -> Path:
    """The file of a user's own presets; it need not exist.

    It is what ``FIFTYONE_NTT_PRESETS`` names, else ``fiftyone-ntt/presets.yaml`` in ``XDG_CONFIG_HOME`` or
    ``~/.config``.
    """
    if chosen := os.environ.get(FILE_VARIABLE):
        return Path(os.path.expanduser(chosen))
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path(os.path.expanduser("~/.config"))) / "fiftyone-ntt" / "presets.yaml"


def described() -> Mapping[str, Any]:
    """What the user's file says of each of its presets, by name; nothing, with a warning, where it cannot be used.

    The file is looked at every time, and read again when it has changed: the App need not be started again.
    """
    path = presets_file()
    try:
        stat = path.stat()
    except OSError as error:
        if os.environ.get(FILE_VARIABLE):
            _warn_once(f"expected a file of presets at {path} ({FILE_VARIABLE}), got: {error.strerror}; correct it")
        return {}
    return _described(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _warn_once(sentence: str) -> None:
    logger.warning("%s", sentence)


@lru_cache(maxsize=8)
def _described(path: Path, size: int, mtime_ns: int) -> Mapping[str, Any]:
    try:
        return read_presets(path)
    except InputError as error:
        logger.warning("%s", error)
        return {}


def read_presets(path: Path) -> dict[str, Any]:
    """What a file says of presets, by name; what it says is checked when one is loaded.

    Args:
        path: a YAML file: a preset's name, and below it its settings.

    Raises:
        InputError: the file cannot be read, is no YAML, or its names cannot be those of presets.
    """
    if not path.is_file():
        raise InputError(f"expected a file of presets at {path}, got something else; name a YAML file")
    if path.stat().st_size > _LARGEST_FILE:
        raise InputError(f"expected a file of presets of at most {_LARGEST_FILE} bytes, got a larger one: {path}")
    try:
        content = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected presets in YAML in {path}, got: {as_text(error, 300)}; correct the file") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"expected names of presets with their settings in {path}, got no names; see custom-models.md")
    wrong = [name for name in content if not is_name(name)]
    if wrong:
        raise InputError(
            f"expected names of presets in {path}, {NAME}, got {listing(map(repr, wrong))}; put numbers in quotes"
        )
    taken = [name for name in content if name in BUILT_IN]
    if taken:
        raise InputError(f"expected other names than those of this package in {path}, got {listing(taken)}; rename")
    return content


def _parsed(text: str) -> Any:
    """A YAML document of plain values. No anchors, which can stand for endless ones, and no name twice."""
    import yaml  # late: few have such a file

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # of a package without types
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias (*name), which is not understood here; write it out, or use `like`")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            names: set[str] = set()
            if not isinstance(node, yaml.MappingNode):
                raise yaml.YAMLError(f"expected names and values, got something else{node.start_mark}")
            for name in (str(key.value) for key, _ in node.value):
                if name in names:
                    raise yaml.YAMLError(f"{name!r} twice{node.start_mark}")
                names.add(name)
            content: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return content

    try:
        return Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise
    except Exception as error:  # a stranger's tag on a value that is none of it makes the package raise anything
        kind = type(error).__name__
        raise ValueError(f"a value that is not what its tag says ({kind}); leave tags (!!) out") from error
