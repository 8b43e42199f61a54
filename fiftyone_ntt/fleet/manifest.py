"""The manifest: which images a fleet is to work at, as a Parquet file that is cut into units.

One row an image, sorted by id; one row group a unit, so that a worker reads its own rows and no others. What is needed
to plan (the units, their sizes, a hash of what is in each) stands in the file's footer: ten million images are planned
from a few hundred kilobytes.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.fleet.bucket import Bucket, FleetError, needed, size_of

FOLDER, SUFFIX = "manifests", ".parquet"
UNIT_ROWS = 1000
"""Images of a unit: what a machine that is taken away loses at most, a minute or two of a GPU."""
CHECKED = 20
_KEY = b"fiftyone-ntt"
_FORMAT = 1
_PIECE = 50_000
"""Rows that are worked at together while a manifest is written; whole units of them."""
_PLAIN = r"^[ -&(-\[\]-~]*$"
"""A text that ``repr`` puts between single quotes as it is."""
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")

Roots = Sequence[tuple[str, str]]
"""How paths begin in the manifest, and how they begin here: ``[("/data", "s3://bucket/data")]``."""


class Row(NamedTuple):
    """An image.

    Attributes:
        id: what it is called where the labels go: the id of its sample.
        uri: path or URL of its file.
        size: bytes of the file; ``None`` where nobody knows.
        hash: sha256 of the file, hex; ``None`` where nobody asked.
    """

    id: str
    uri: str
    size: int | None = None
    hash: str | None = None


@dataclass(frozen=True)
class Unit:
    """Images that are worked at together.

    Attributes:
        name: hash of their ids, sizes and hashes and of the settings, 32 hex digits. Where the files are has no part
            in it: two mounts of the same files make the same unit.
        rows: the images, sorted by id.
    """

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class UnitFacts:
    """What the footer says of a unit: its number in the file, a hash of what is in it, and how many rows."""

    number: int
    content: str
    rows: int

    def name(self, key: str) -> str:
        """Its name under settings of a key."""
        return hashlib.sha256(f"{self.content} {key}".encode()).hexdigest()[:32]


class Manifest:
    """A manifest in a store.

    Args:
        bucket: the store.
        name: name of the file.

    Attributes:
        units: what the footer says of each unit.
        attempt: 0, or how often the images in it were given to a fleet before and failed.

    Raises:
        FleetError: if there is none of that name, or it is another kind of file.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        self.bucket, self.name = bucket, name
        parquet = needed("pyarrow.parquet")
        try:
            with bucket.opened(name) as stream:
                self._footer = parquet.ParquetFile(stream).metadata
            facts = json.loads(self._footer.metadata[_KEY])
            self.attempt = int(facts["attempt"])
            self.units = [UnitFacts(i, content, rows) for i, (content, rows) in enumerate(facts["units"])]
        except FileNotFoundError as error:
            raise FleetError(f"expected a manifest at {bucket.url_of(name)}, got no such file") from error
        except (needed("pyarrow").ArrowInvalid, LookupError, ValueError, TypeError) as error:
            raise FleetError(f"expected a manifest at {bucket.url_of(name)}, got something else: {error!r}") from error

    def __len__(self) -> int:
        return sum(unit.rows for unit in self.units)

    def unit(self, number: int, key: str, roots: Roots = ()) -> Unit:
        """A unit with its rows; paths as they are here, see ``mapped``."""
        with self.bucket.opened(self.name) as stream:
            file = needed("pyarrow.parquet").ParquetFile(stream, metadata=self._footer)
            table = file.read_row_group(number)
        ids, uris, sizes, hashes = (table.column(name).to_pylist() for name in ("id", "uri", "size", "hash"))
        placed = zip(ids, (mapped(uri, roots) for uri in uris), sizes, hashes, strict=True)
        return Unit(self.units[number].name(key), tuple(Row(*values) for values in placed))

    def ids(self) -> Iterator[tuple[UnitFacts, list[str]]]:
        """Each unit and the ids in it; nothing else is read."""
        for unit, column in self._columns("id"):
            yield unit, column.to_pylist()

    def says_what(self, other: Manifest) -> bool:
        """Whether another manifest has the same units, at the same paths."""
        if (self.attempt, self.units) != (other.attempt, other.units):
            return False
        pairs = zip(self._columns("uri"), other._columns("uri"), strict=True)
        return all(ours.equals(theirs) for (_, ours), (_, theirs) in pairs)

    def _columns(self, name: str) -> Iterator[tuple[UnitFacts, Any]]:
        """Each unit and a column of it; nothing else is read."""
        with self.bucket.opened(self.name) as stream:
            file = needed("pyarrow.parquet").ParquetFile(stream, metadata=self._footer)
            for unit in self.units:
                yield unit, file.read_row_group(unit.number, columns=[name]).column(name)

    def some_rows(self, count: int = CHECKED, seed: int = 51) -> list[Row]:
        """A few rows from all over the manifest, always the same ones."""
        chosen = random.Random(seed)
        facts = chosen.sample(self.units, min(count, len(self.units)))
        picked = []
        for place, unit in enumerate(facts):
            rows = self.unit(unit.number, "").rows
            share = count // len(facts) + (place < count % len(facts))
            picked += chosen.sample(rows, min(share, len(rows)))
        return picked


def columns_of(ids: Any, uris: Any, sizes: Any, hashes: Any) -> Any:
    """Many rows at once, as an Arrow table: four columns as ``Row`` has them, lists or what Arrow makes arrays of."""
    return needed("pyarrow").table([ids, uris, sizes, hashes], schema=_schema())


def write_manifest(
    bucket: Bucket, rows: Iterable[Row] | Iterable[Any], *, unit_rows: int = UNIT_ROWS, attempt: int = 0
) -> Manifest:
    """Writes the next manifest of a store, piece by piece: the rows are never all in memory.

    Args:
        bucket: the store.
        rows: the images, sorted by id, one by one or many at once, see ``columns_of``.
        unit_rows: how many make a unit.
        attempt: how often they were given to a fleet before and failed.

    Raises:
        InputError: if there is no row, or they are not sorted, or two have one id.
    """
    if unit_rows < 1:
        raise InputError(f"expected at least one image in a unit, got {unit_rows}")
    units, parquet = list[tuple[str, int]](), needed("pyarrow.parquet")
    with (
        bucket.filling(_next_names(bucket)) as file,
        parquet.ParquetWriter(file.stream, _schema(), write_statistics=False, use_dictionary=False) as writer,
    ):
        for piece in _pieces(rows, unit_rows):
            writer.write_table(piece, row_group_size=unit_rows)
            contents = _contents(piece, attempt, unit_rows)
            units += [(text, min(unit_rows, len(piece) - i * unit_rows)) for i, text in enumerate(contents)]
        if not units:
            raise InputError("expected at least one image, got none; a manifest is made of a view with images")
        facts = {"format": _FORMAT, "attempt": attempt, "units": units}
        writer.add_key_value_metadata({_KEY: json.dumps(facts).encode()})
    return Manifest(bucket, file.name)


def manifests_of(bucket: Bucket) -> list[Manifest]:
    """The manifests of a store, the oldest first.

    Raises:
        FleetError: if there is none.
    """
    numbers = _numbers(bucket)
    if not numbers:
        raise FleetError(f"expected a manifest in {bucket.url}, got none; `fiftyone-ntt fleet manifest` makes one")
    return [Manifest(bucket, _name_of(number)) for number in numbers]


def kept_once(manifest: Manifest) -> Manifest:
    """A manifest that was just written, or, where an older one of its store says the same, that one in its place."""
    for older in manifests_of(manifest.bucket):
        if older.name != manifest.name and older.says_what(manifest):
            manifest.bucket.remove(manifest.name)
            return older
    return manifest


def mapped(uri: str, roots: Roots) -> str:
    """A path with another beginning, where one of the roots is its beginning; the longest counts."""
    for here, there in sorted(roots, key=lambda pair: -len(pair[0])):
        path = uri
        if _WINDOWS.match(here):
            here, path = here.replace("\\", "/"), uri.replace("\\", "/")
        here, there = here.rstrip("/"), there.rstrip("/")
        if path == here or path.startswith(f"{here}/"):
            return there + path[len(here) :]
    return uri


def roots_of(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Roots as a command line gives them: ``["/data=s3://bucket/data"]``.

    Raises:
        InputError: if one is no ``A=B``.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (here, _, there) in zip(texts, pairs, strict=True):
        if not here or not there:
            raise InputError(f"expected --map-root A=B, how paths begin in the manifest and here, got {text!r}")
    return [(here, there) for here, _, there in pairs]


class OtherSizeError(FleetError):
    """Files are there, but not of the size that a manifest says."""


def check_rows(manifests: Iterable[Manifest], roots: Roots = (), count: int = CHECKED) -> None:
    """Looks whether a few files are where they should be, before a fleet finds out that none is.

    Raises:
        OtherSizeError: if all that is wrong is the size that the manifest says.
        FleetError: if none, or more than one and more than a tenth, is as the manifest says; fewer are a matter of
            these images.
    """
    for manifest in manifests:
        wrong: list[str] = []
        kind: type[FleetError] = OtherSizeError
        rows = manifest.some_rows(count) if not manifest.attempt else []  # those have failed: some may well be gone
        for row in rows:
            uri = mapped(row.uri, roots)
            size = size_of(uri)
            if size is None:
                kind = FleetError
            if size is None or row.size not in (None, size):
                wrong.append(f"{uri} ({'not there' if size is None else f'{size} bytes, expected {row.size}'})")
        # One of few is one image that is gone, not a wrong root.
        if wrong and (len(wrong) == len(rows) or 10 * len(wrong) > max(10, len(rows))):
            raise kind(
                f"{len(wrong)} of {counted(len(rows), 'file')} looked at are not as the manifest says, e.g. "
                f"{wrong[0]}; say where the files are here with --map-root A=B, or make the manifest again"
            )


def _schema() -> Any:
    pyarrow = needed("pyarrow")
    text, number = pyarrow.string(), pyarrow.int64()
    return pyarrow.schema([("id", text), ("uri", text), ("size", number), ("hash", text)])


def _numbers(bucket: Bucket) -> list[int]:
    """Numbers of the manifests, ascending; files of other names are somebody else's."""
    names = bucket.names(FOLDER, SUFFIX)
    return sorted(int(name[: -len(SUFFIX)]) for name in names if re.fullmatch(rf"[0-9]{{4,}}\{SUFFIX}", name))


def _name_of(number: int) -> str:
    return f"{FOLDER}/{number:04d}{SUFFIX}"


def _next_names(bucket: Bucket) -> Iterator[str]:
    """Names for the next manifest: after the first one come those to take where others are quicker."""
    return map(_name_of, count(max(_numbers(bucket), default=-1) + 1))


def _pieces(rows: Iterable[Row] | Iterable[Any], unit_rows: int) -> Iterator[Any]:
    """Rows as Arrow tables of whole units, but for the last one.

    Raises:
        InputError: if they are not in ascending order of their ids.
    """
    pyarrow, kept, last = needed("pyarrow"), list[Any](), ""
    for table in _tables(rows):
        last = _ascending(table.column("id"), last)
        kept.append(table)
        count = sum(map(len, kept))
        if count >= max(_PIECE, unit_rows):
            whole, cut = pyarrow.concat_tables(kept).combine_chunks(), count // unit_rows * unit_rows
            yield whole.slice(0, cut)
            kept = [whole.slice(cut)] if cut < count else []
    if kept:
        yield pyarrow.concat_tables(kept).combine_chunks()


def _tables(rows: Iterable[Row] | Iterable[Any]) -> Iterator[Any]:
    """Rows as Arrow tables, however they come."""
    source = iter(rows)
    for first in source:
        if isinstance(first, Row):
            yield columns_of(*map(list, zip(first, *islice(source, _PIECE - 1), strict=True)))
        elif len(first):
            yield first


def _ascending(ids: Any, last: str) -> str:
    """The last of some ids; refuses any that does not come after the one before it."""
    compute = needed("pyarrow.compute")
    before = needed("pyarrow").chunked_array([[last], *ids.slice(0, len(ids) - 1).chunks], type=ids.type)
    wrong = compute.less(before, ids).index(False).as_py()
    if wrong >= 0:
        raise InputError(
            f"expected rows sorted by their ids, each of them once; they are not about id {ids[wrong].as_py()!r}"
        )
    end: str = ids[-1].as_py()
    return end


def _contents(piece: Any, attempt: int, unit_rows: int) -> list[str]:
    """A hash of what is in each unit of a piece. Where the files are has no part in it.

    Of ``repr((attempt, ids, sizes, hashes))`` with lists, as names of units have always been made, a column at a time.
    """
    pyarrow, compute = needed("pyarrow"), needed("pyarrow.compute")
    starts = pyarrow.array([*range(0, len(piece), unit_rows), len(piece)], pyarrow.int32())
    numbers = compute.fill_null(compute.cast(piece.column("size"), pyarrow.string()), "None")
    columns = (_quoted(piece.column("id")), numbers, _quoted(piece.column("hash")))
    joined = [
        compute.binary_join(pyarrow.ListArray.from_arrays(starts, column.combine_chunks()), ", ").to_pylist()
        for column in columns
    ]
    texts = (f"({attempt}, [{ids}], [{sizes}], [{hashes}])" for ids, sizes, hashes in zip(*joined, strict=True))
    return [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]


def _quoted(texts: Any) -> Any:
    """What ``repr`` makes of each text of a column."""
    compute = needed("pyarrow.compute")
    if compute.all(compute.match_substring_regex(texts, _PLAIN), min_count=0).as_py():
        quoted = compute.binary_join_element_wise("'", texts, "'", "")
    else:
        quoted = needed("pyarrow").chunked_array([[None if text is None else repr(text) for text in texts.to_pylist()]])
    return compute.fill_null(quoted, "None")
