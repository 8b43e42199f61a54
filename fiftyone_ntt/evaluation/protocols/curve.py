"""Accuracy over shots, as a table and as a picture (SVG): mean and sample standard deviation over the draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from fiftyone_ntt.errors import counted
from fiftyone_ntt.evaluation.protocols.figures import ALL_SHOTS

if TYPE_CHECKING:
    from fiftyone_ntt.evaluation.protocols.report import Row

Series = dict[tuple[str, ...], dict[int, list[float]]]
"""What is measured -> shots -> points of each draw."""
HEADINGS = ("protocol", "part", "data", "preset", "settings", "match", "scorer", "metric", "size")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LINE = 720, 400, 50, 20, 40, 18
_COLOURS = ("#1b6ca8", "#c8553d", "#2e8b57", "#7a4fa3", "#b8860b", "#444444")


def series_of(rows: Sequence[Row]) -> Series:
    """Measured points by what they are of and by shots; empty where there is only one number of shots.

    Only runs of all images in which none failed are draws of one thing, and a draw that was run twice is one: the
    later run of it counts.
    """
    draws: dict[tuple[str, ...], dict[int, dict[int | None, float]]] = {}
    for row in rows:
        if row.measured is not None and row.whole and row.shots != ALL_SHOTS:
            key = (row.protocol, row.part, row.data, row.preset, row.settings, row.match, row.scorer, row.metric,
                   row.size)  # fmt: skip
            draws.setdefault(key, {}).setdefault(row.shots, {})[row.seed] = row.measured
    series = {key: {shots: list(by_seed.values()) for shots, by_seed in group.items()} for key, group in draws.items()}
    return series if len({shots for group in series.values() for shots in group}) > 1 else {}


def table_of(series: Series) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, a column a number of shots."""
    shots = shots_of(series)
    cells = [[*key, *(_spread(values.get(count, [])) for count in shots)] for key, values in series.items()]
    return [*HEADINGS, *(counted(count, "shot") for count in shots)], cells


def shots_of(series: Series) -> list[int]:
    """All numbers of shots."""
    return sorted({count for values in series.values() for count in values})


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def svg_of(series: Series) -> str:
    """A picture: shots from left to right at equal distances, points upwards from 0, a bar for the deviation."""
    shots = shots_of(series)
    top = max(10.0, 10.0 * -(-max(max(v) for values in series.values() for v in values.values()) // 10))
    x = {count: LEFT + (i + 0.5) * (WIDTH - LEFT - 20) / len(shots) for i, count in enumerate(shots)}
    height = HEIGHT + LINE * len(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13"><rect width="{WIDTH}" height="{height}" fill="white"/>'
    ]
    for value in range(0, int(top) + 1, 10):
        y = _y(value, top)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
    for count in shots:
        parts.append(f'<text x="{x[count]:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{counted(count, "shot")}</text>')
    for number, (key, values) in enumerate(series.items()):
        colour, y = _COLOURS[number % len(_COLOURS)], HEIGHT + LINE * number
        parts.append(_line(values, x, top, colour))
        parts.append(f'<rect x="{LEFT}" y="{y - 9}" width="14" height="9" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 22}" y="{y}">{escape(" ".join(key))}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)


def _line(values: Mapping[int, Sequence[float]], x: Mapping[int, float], top: float, colour: str) -> str:
    places = [(x[count], mean(values[count]), values[count]) for count in sorted(values)]
    line = " ".join(f"{place:.1f},{_y(middle, top):.1f}" for place, middle, _ in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for place, middle, draws in places:
        parts.append(f'<circle cx="{place:.1f}" cy="{_y(middle, top):.1f}" r="3" fill="{colour}"/>')
        if len(draws) > 1:
            low, high = _y(middle - stdev(draws), top), _y(middle + stdev(draws), top)
            parts.append(f'<path d="M{place:.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>')
    return "\n".join(parts)
