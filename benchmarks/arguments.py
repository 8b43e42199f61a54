"""Kinds of arguments of the benchmarks: what does not fit is refused with a sentence, before any work."""

from __future__ import annotations

import argparse
from pathlib import Path


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1 with commas between, each one once, in their order."""
    return tuple(dict.fromkeys(count(part) for part in _parts(text)))


def seeds(text: str) -> tuple[int, ...]:
    """Whole numbers, 0 among them, with commas between, each one once, in their order."""
    parts = _parts(text)
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas between, got {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def names(text: str) -> tuple[str, ...]:
    """Names with commas between, each one once, in their order."""
    return tuple(dict.fromkeys(_parts(text)))


def folder(text: str) -> Path:
    """A folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, got {text!r}, which is none")
    return path


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"expected values with commas between, got {text!r}")
    return parts
