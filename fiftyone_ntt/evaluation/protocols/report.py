"""Results beside what is published, as tables and a curve. Known and unknown presence never share a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.evaluation.protocols.coco_files import digest_of
from fiftyone_ntt.evaluation.protocols.curve import series_of, svg_of, table_of
from fiftyone_ntt.evaluation.protocols.figures import (
    ALL_SHOTS,
    MEAN,
    Figure,
    figures,
    has_figures,
    is_of_another_draw,
)
from fiftyone_ntt.evaluation.protocols.registry import PROTOCOLS
from fiftyone_ntt.pixels.files import plain_file, write_files

TOLERANCE = 0.5
"""Points: a larger difference to what is published is marked; the published table and its CSV differ by as much."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        protocol, part, shots, seed, preset, match, scorer, metric, size: what it is of.
        presence: whether it was said which class to look for.
        measured: points of 0..100.
        data: name of the data folder; with some digits where there are several of one name.
        settings: tells models and settings of both stages apart from others: six digits of their hash.
        whole: whether it is of all images, and none of them failed.
        published: figures of the same thing; the first is the one to be reproduced.
        note: what else a reader must know, why nothing is compared for example.
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
    data: str
    settings: str
    whole: bool
    published: tuple[Figure, ...] = ()
    note: str = ""

    @property
    def expected(self) -> float | None:
        """As published, in points; ``None`` where nothing comparable is."""
        return self.published[0].value if self.published else None

    @property
    def method(self) -> str:
        """Whose figure the expected one is."""
        return self.published[0].method if self.published else "-"

    @property
    def others(self) -> str:
        """What other methods reach, as text."""
        return ", ".join(f"{one.method} {points(one.value)}" for one in self.published[1:])

    @property
    def sources(self) -> list[str]:
        """Where the published figures stand."""
        return [f"{self.protocol}: {one.method}, {one.source}" for one in self.published]

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
        shots = "all shots" if self.shots == ALL_SHOTS else counted(self.shots, "shot")
        run = f"{self.protocol} {self.part}, {shots}{seed}; {self.data}, {self.preset} {self.settings}, {self.match}"
        return f"{run}{size}{note}"

    def cells(self) -> list[str]:
        """For a table."""
        seed = "-" if self.seed is None else str(self.seed)
        shots = "all" if self.shots == ALL_SHOTS else str(self.shots)
        texts = [self.method, points(self.expected), points(self.measured), points(self.difference, "+.1f")]
        facts = [self.protocol, self.part, shots, seed, self.data, self.preset, self.settings, self.match, self.scorer]
        return [*facts, self.metric, self.size, *texts, "!" if self.marked else "", self.others, self.note]


HEADINGS = ("protocol", "part", "shots", "seed", "data", "preset", "settings", "match", "scorer", "metric", "size",
            "published by", "expected", "measured", "difference", "", "others", "note")  # fmt: skip


def points(value: float | None, form: str = ".1f") -> str:
    """A figure as text; a dash where there is none."""
    return "-" if value is None else format(value, form)


def read_results(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Results of files and folders, in order of protocol, part, shots, seed and time."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    results = []
    for file in files:
        try:
            content = json.loads(plain_file(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"expected the result of a protocol in {file}, got {_why_unread(file, error)}; `protocol run` writes "
                "results, into the folder of its --out"
            ) from error
        except ValueError as error:  # no JSON, or no text at all
            raise InputError(
                f"expected the result of a protocol in {file}, got something else; give the JSON that `protocol run` "
                "wrote, or its folder"
            ) from error
        if isinstance(content, dict) and "protocol" in content and "scores" in content:
            if absent := sorted({"part", "shots", "seed"} - set(content)):
                raise InputError(
                    f"expected the result of a protocol in {file}, got one without {', '.join(absent)}; run it again"
                )
            results.append({**content, "path": str(file)})
    if not results:
        raise InputError(f"expected results in {', '.join(map(str, paths))}, got none; `protocol run` makes them")
    return sorted(
        results,
        key=lambda one: (one["protocol"], one["part"], one["shots"], one["seed"] or 0, str(one.get("written"))),
    )


def _why_unread(file: Path, error: OSError) -> str:
    return "a file that cannot be read (" + (error.strerror or "") + ")" if file.exists() else "no such file or folder"


def rows_of(results: Sequence[dict[str, Any]]) -> list[Row]:
    """A row for each of the main figures of results.

    Raises:
        InputError: if something of a result is missing.
    """
    rows: list[Row] = []
    for one, name in zip(results, _data_names(results), strict=True):
        try:
            rows += _rows(one, name)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"expected the result of a protocol in {one.get('path')}, got one without {error}; run it again"
            ) from error
    return rows + _means(rows)


def _rows(one: dict[str, Any], data: str) -> list[Row]:
    subset = one["limit"] is not None
    count = counted(one["images"], "image") if "images" in one else counted(one["episodes"], "episode")
    notes = [f"only {count}"] if subset else []
    notes += ["references not as published"] if one.get("references_as_published") is False else []
    notes += [f"{len(one['failed'])} failed"] if one["failed"] else []
    rows = []
    for scorer, scored in one["scores"].items():
        for metric in _main(one["protocol"], scorer, scored["metrics"]):
            value = scored["metrics"][metric]
            key = (one["protocol"], one["part"], one["shots"], one["seed"], scorer, metric, one["evaluation_size"])
            other = [] if subset or not is_of_another_draw(*key) else ["another draw than published"]
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
                    data=data,
                    settings=_settings(one),
                    whole=not subset and not one["failed"],
                    published=() if subset else tuple(figures(*key)),
                    note="; ".join(notes + other),
                )
            )
    return rows


def _settings(one: dict[str, Any]) -> str:
    """Digits that differ where models, settings of a stage or the version of the package do."""
    models = one["models"]
    facts = [models["weights"], models["stage_one"], one["match"], one.get("code")]
    return digest_of([json.dumps(facts, sort_keys=True)])[:6]


def _data_names(results: Sequence[dict[str, Any]]) -> list[str]:
    """Names of data folders; digits follow where one name is that of several, or of one whose files were changed."""
    paths: dict[str, set[str]] = {}
    contents: dict[tuple[object, ...], set[str]] = {}
    for one in results:
        path = str(one.get("data"))
        paths.setdefault(Path(path).name, set()).add(path)
        if one.get("limit") is None:
            contents.setdefault((path, one["protocol"], one["part"]), set()).add(_content(one))
    names = []
    for one in results:
        path = str(one.get("data"))
        facts = [path] if len(paths[Path(path).name]) > 1 else []
        facts += [_content(one)] if len(contents.get((path, one["protocol"], one["part"]), ())) > 1 else []
        names.append(f"{Path(path).name}{':' + digest_of(facts)[:4] if facts else ''}")
    return names


def _content(one: Mapping[str, Any]) -> str:
    """What the annotation file of a result says, as far as the result knows."""
    return json.dumps([one.get(key) for key in ("items", "classes", "truth")])


def _means(rows: Sequence[Row]) -> list[Row]:
    """Rows of the mean over all parts, where each was measured, and of that over all shots where it is published."""
    means = []
    for row, parts in _groups(rows, "part"):
        if set(parts) == set(PROTOCOLS[row.protocol].parts):
            means.append(_mean_of(replace(row, part=MEAN), list(parts.values()), counted(len(parts), "part")))
    for row, by_shots in _groups(means, "shots"):
        both = _mean_of(replace(row, shots=ALL_SHOTS), list(by_shots.values()), "all parts and shots")
        if set(by_shots) == set(PROTOCOLS[row.protocol].shots) and both.published:
            means.append(both)
    return means


def _groups(rows: Sequence[Row], name: str) -> list[tuple[Row, dict[Any, Row]]]:
    """Rows that differ in one thing only, by that; of two that differ in nothing the later one counts."""
    groups: dict[Row, dict[Any, Row]] = {}
    for row in rows:
        protocol = PROTOCOLS.get(row.protocol)
        if protocol is not None and protocol.mean_of_parts and row.whole and row.measured is not None:
            differing: dict[str, Any] = {name: None, "measured": None, "published": (), "note": ""}
            same = replace(row, **differing)
            groups.setdefault(same, {})[getattr(row, name)] = row
    return [(next(iter(group.values())), group) for group in groups.values()]


def _mean_of(row: Row, rows: Sequence[Row], of: str) -> Row:
    """A row of the mean of some, beside the published mean, or that of what is published of each."""
    size = int(row.size) if row.size.isdigit() else row.size
    published = figures(row.protocol, row.part, row.shots, row.seed, row.scorer, row.metric, size)
    if not published and row.shots != ALL_SHOTS:
        by_method: dict[str, list[Figure]] = {}
        for one in rows:
            for figure in one.published:
                by_method.setdefault(figure.method, []).append(figure)
        complete = [found for found in by_method.values() if len(found) == len(rows)]
        published = [replace(found[0], value=mean(figure.value for figure in found)) for found in complete]
    value = mean(one.measured for one in rows if one.measured is not None)
    return replace(row, measured=value, published=tuple(published), note=f"mean of {of}")


def _main(protocol: str, scorer: str, metrics: dict[str, Any]) -> list[str]:
    """The figures that tables show: AP, or AP50 where the scorer puts that first; others where they are published."""
    if scorer in ("ntt", "fsod-vfm", "voc07"):
        return ["box_ap50"]
    named = ("box_ap", "mask_ap", "boundary_ap", "miou", "fb_iou")
    more = [name for name in ("box_ap50", "box_ap75") if has_figures(protocol, name)]
    return [name for name in (*named, *more) if name in metrics]


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
    sources = sorted({source for row in rows for source in row.sources})
    if sources:
        blocks.append("Published: " + "; ".join(sources) + ".")
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
