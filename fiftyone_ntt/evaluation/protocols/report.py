"""Results beside what is published, as tables and a curve. Known and unknown presence never share a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.evaluation.protocols.curve import series_of, svg_of, table_of
from fiftyone_ntt.pixels.files import write_files

TOLERANCE = 0.5
"""Points: a larger difference to what is published is marked; the published table and its CSV differ by as much."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        protocol, part, shots, seed, preset, match, scorer, metric, size: what it is of.
        presence: whether it was said which class to look for.
        measured: points of 0..100.
        expected: as published, in points; ``None`` where nothing comparable is.
        source: of the expected figure.
        note: why nothing is compared.
    """

    protocol: str
    part: str
    shots: int
    seed: int | None
    preset: str
    match: str
    scorer: str
    metric: str
    size: str
    presence: str
    measured: float | None
    expected: float | None
    source: str = ""
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Measured minus expected."""
        return None if self.measured is None or self.expected is None else self.measured - self.expected

    @property
    def marked(self) -> bool:
        """Whether it differs by more than the tolerance."""
        return self.difference is not None and abs(self.difference) > TOLERANCE + 1e-9

    @property
    def title(self) -> str:
        """What run it is of, in a line."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        size = "" if self.size == "image" else f", at {self.size} pixels"
        note = f" ({self.note})" if self.note else ""
        run = f"{self.protocol} {self.part}, {counted(self.shots, 'shot')}{seed}; {self.preset}, {self.match}"
        return f"{run}{size}{note}"

    def cells(self) -> list[str]:
        """For a table."""
        seed = "-" if self.seed is None else str(self.seed)
        texts = [points(self.expected), points(self.measured), points(self.difference, "+.1f")]
        facts = [self.protocol, self.part, str(self.shots), seed, self.preset, self.match, self.scorer, self.metric]
        return [*facts, self.size, *texts, "!" if self.marked else "", self.note]


HEADINGS = ("protocol", "part", "shots", "seed", "preset", "match", "scorer", "metric", "size", "expected", "measured",
            "difference", "", "note")  # fmt: skip


def points(value: float | None, form: str = ".1f") -> str:
    """A figure as text; a dash where there is none."""
    return "-" if value is None else format(value, form)


@lru_cache(maxsize=1)
def _published() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return content


def expected(
    protocol: str, part: str, shots: int, seed: int | None, scorer: str, metric: str, size: int | str = "image"
) -> float | None:
    """What is published for a figure, in points; ``None`` where nothing is, or at another size of masks."""
    table = _published().get(protocol, {})
    if size != table.get("size", "image"):
        return None
    by_seed = table.get("by_seed")
    if by_seed is not None:
        values = by_seed.get(metric, {}).get(str(shots))
        there = scorer == table["scorer"] and values is not None and seed in by_seed["seeds"]
        return float(values[by_seed["seeds"].index(seed)]) if there else None
    row = table.get("rows", {}).get(scorer)
    if row is None or row["metric"] != metric or part not in row or shots not in table["shots"]:
        return None
    return float(row[part][table["shots"].index(shots)])


def read_results(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Results of files and folders, in order of protocol, part, shots and seed."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    results = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"expected the result of a protocol in {file}, got none ({error})") from error
        if isinstance(content, dict) and "protocol" in content and "scores" in content:
            if absent := sorted({"part", "shots", "seed"} - set(content)):
                raise InputError(
                    f"expected the result of a protocol in {file}, got one without {', '.join(absent)}; run it again"
                )
            results.append({**content, "path": str(file)})
    if not results:
        raise InputError(f"expected results in {', '.join(map(str, paths))}, got none; `protocol run` makes them")
    return sorted(results, key=lambda one: (one["protocol"], one["part"], one["shots"], one["seed"] or 0))


def rows_of(results: Sequence[dict[str, Any]]) -> list[Row]:
    """A row for each of the main figures of results.

    Raises:
        InputError: if something of a result is missing.
    """
    rows = []
    for one in results:
        try:
            rows += _rows(one)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"expected the result of a protocol in {one.get('path')}, got one without {error}; run it again"
            ) from error
    return rows


def _rows(one: dict[str, Any]) -> list[Row]:
    subset = one["limit"] is not None
    count = counted(one["images"], "image") if "images" in one else counted(one["episodes"], "episode")
    notes = [f"only {count}"] if subset else []
    notes += ["references not as published"] if one.get("references_as_published") is False else []
    notes += [f"{len(one['failed'])} failed"] if one["failed"] else []
    source = _published().get(one["protocol"], {}).get("source", "")
    rows = []
    for scorer, scored in one["scores"].items():
        for metric in _main(scorer, scored["metrics"]):
            value = scored["metrics"][metric]
            key = (one["protocol"], one["part"], one["shots"], one["seed"], scorer, metric, one["evaluation_size"])
            figure = None if subset else expected(*key)
            rows.append(
                Row(
                    protocol=one["protocol"],
                    part=one["part"],
                    shots=one["shots"],
                    seed=one["seed"],
                    preset=one["models"]["preset"],
                    match=one["match_name"],
                    scorer=scorer,
                    metric=metric,
                    size=str(one["evaluation_size"]),
                    presence=one["presence"],
                    measured=None if value is None else 100 * value,
                    expected=figure,
                    source="" if figure is None else source,
                    note="; ".join(notes),
                )
            )
    return rows


def _main(scorer: str, metrics: dict[str, Any]) -> list[str]:
    """The figures that tables show: AP, or AP50 where the scorer puts that first."""
    if scorer in ("ntt", "fsod-vfm", "voc07"):
        return ["box_ap50"]
    named = ("box_ap", "mask_ap", "boundary_ap", "miou", "fb_iou")
    return [name for name in named if name in metrics]


def by_presence(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows with unknown presence, and apart from them those with given presence."""
    return {kind: [row for row in rows if row.presence == kind] for kind in ("unknown", "given")
            if any(row.presence == kind for row in rows)}  # fmt: skip


TITLES = {
    "unknown": "Presence unknown: every class may or may not be in an image",
    "given": "Presence given: it is said which class to look for (not comparable with the above)",
}


def markdown(rows: Sequence[Row], pictures: Mapping[str, str] | None = None) -> str:
    """Tables and curves for a page; ``pictures``: presence -> file that is shown with its curve."""
    blocks = []
    for presence, group in by_presence(rows).items():
        blocks += [f"### {TITLES[presence]}", _table(HEADINGS, [row.cells() for row in group])]
        series = series_of(group)
        if series:
            blocks += ["Mean and sample standard deviation over the draws, by shots:", _table(*table_of(series))]
        if series and pictures and presence in pictures:
            blocks.append(f"![shots against accuracy, presence {presence}]({pictures[presence]})")
    sources = sorted({f"{row.protocol}: {row.source}" for row in rows if row.source})
    if sources:
        blocks.append("Expected: " + "; ".join(sources) + ".")
    return "\n\n".join(blocks) + "\n"


def write_page(rows: Sequence[Row], path: Path) -> list[Path]:
    """Writes tables and curves as Markdown, and a picture of each curve beside it.

    Raises:
        InputError: if one of the files is there already.
    """
    groups = by_presence(rows)
    pictures = {kind: f"{path.stem}_presence_{kind}.svg" for kind, group in groups.items() if series_of(group)}
    files: dict[Path, str | bytes] = {path.with_name(name): svg_of(series_of(groups[kind]))
                                      for kind, name in pictures.items()}  # fmt: skip
    files[path] = markdown(rows, pictures)
    there = [str(one) for one in files if one.exists()]
    if there:
        raise InputError(f"expected files that are not there yet, got {', '.join(there)}; give another name")
    write_files(files)
    return list(files)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
