"""Figures as text for people and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in Markdown, first one left-aligned, the others right: what is printed can be pasted into the docs."""
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [heading, rule, *rows]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |" for line in lines
    )


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, no exponent; a dash for what was not measured."""
    if value is None or value != value:
        return "-"
    if value == 0:
        return "0"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(digits - magnitude, 0)}f}" if abs(value) >= 1e-3 else f"{value:.1e}"


def write_json(path: Path | None, figures: Any) -> None:
    """Writes the figures, folders included; nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
