"""What decides the content of an index besides the image: the signature of its files, and where they lie."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fiftyone_ntt.errors import InputError

FORMAT_VERSION = 1
"""Raise it whenever the same image and settings would give other files, or the same file another ``CompactImage``."""
FOLDER_VARIABLE = "FIFTYONE_NTT_INDEX"
"""Environment variable that names the index's folder."""
LIMIT_VARIABLE = "FIFTYONE_NTT_INDEX_GB"
"""Environment variable that limits the index's size, in gigabytes (10^9 bytes)."""
DEFAULT_LIMIT_GB = 50.0
_SHOWN = 40


def default_root() -> Path:
    """The index's folder where none is given; it need not exist."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fiftyone-ntt" / "index"


def index_root(index_dir: str | Path | None) -> Path:
    """The index's folder: the one given, else the default one."""
    return default_root() if index_dir is None else Path(index_dir).expanduser()


def limit_in_bytes(gigabytes: float | None = None) -> int:
    """The size limit: the one given, else that of the environment, else 50 GB.

    Raises:
        InputError: if it is no number of at least 0.
    """
    if gigabytes is None:
        text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
        try:
            gigabytes = float(text)
        except ValueError as error:
            raise InputError(f"expected {LIMIT_VARIABLE} to be a number of gigabytes, got {text!r}") from error
    if not (math.isfinite(gigabytes) and gigabytes >= 0):
        raise InputError(f"expected a size limit of 0 GB or more, got {gigabytes!r}")
    return round(gigabytes * 1e9)


@dataclass(frozen=True)
class IndexSettings:
    """Everything besides the image that decides what is in its file. Other settings, other folder.

    Attributes:
        preset: name of the preset. It counts, as it does for memory banks: a bank of one preset fits no other.
        facts: what ``Segmenter.facts`` returned.
        format: version of the files' format.
    """

    preset: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT_VERSION

    @cached_property
    def digest(self) -> str:
        """sha256 of the settings, hex: the name of their folder."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: equal settings give equal text."""
        plain = {"format": self.format, "preset": self.preset, "facts": dict(self.facts)}
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> IndexSettings:
        """The settings of a file or folder, possibly a stranger's.

        Raises:
            InputError: if the text describes no settings.
        """
        try:
            plain = json.loads(text)
            settings = cls(str(plain["preset"]), dict(plain["facts"]), int(plain["format"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"expected the settings of a candidate index, got something else: {error!r}") from error
        return settings

    def differences(self, wanted: IndexSettings) -> list[str]:
        """In what these settings differ from those wanted, e.g. ``["points_per_side 16, wanted 32"]``."""
        mine, theirs = dict(_flat(json.loads(self.to_json()))), dict(_flat(json.loads(wanted.to_json())))
        return [
            f"{name.removeprefix('facts.')} {_short(mine.get(name))}, wanted {_short(theirs.get(name))}"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        ]


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    """A value as a person reads it; of a hash, the beginning."""
    text = "none" if value is None else str(value)
    return text if len(text) < _SHOWN else f"{text[:12]}..."
