"""Looking after an index of many files: which files are opened, and how often all of them are looked at."""

import builtins
import io
import os
import re

import numpy as np
import pytest
from support.fake_models import fake_segmenter
from support.index_settings import GB, settings_of

from fiftyone_ntt.candidates import maintenance, store
from fiftyone_ntt.candidates.compact import compact
from fiftyone_ntt.candidates.maintenance import prune
from fiftyone_ntt.candidates.store import IndexStorageError, IndexStore

IMAGES = [f"{i:02x}" + 62 * "0" for i in range(6)]


@pytest.fixture
def index(tmp_path):
    kept = IndexStore(tmp_path / "index", settings_of(), GB)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    content = compact(fake_segmenter().candidates(pixels))
    for image in IMAGES:
        kept.put(image, content)
    return kept


@pytest.fixture
def read(monkeypatch):
    """How many bytes of which files of images have been read."""
    counts = {}
    real = io.open

    class Counting(io.FileIO):
        def readinto(self, buffer):
            count = super().readinto(buffer)
            counts[str(self.name)] = counts.get(str(self.name), 0) + (count or 0)
            return count

    def opened(path, mode="r", *rest, **options):
        if str(path).endswith(".ntt") and "b" in mode:
            return io.BufferedReader(Counting(path), 512)
        return real(path, mode, *rest, **options)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)
    return counts


def test_prune_reads_the_beginnings_only(index, read):
    size = index.path_of(IMAGES[0]).stat().st_size
    assert prune(index.root).reasons == {}
    assert len(read) == len(IMAGES)
    assert max(read.values()) < size / 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:5],
        lambda data: b"",
        lambda data: b"\xff" * 64,
        lambda data: data.replace(IMAGES[1].encode(), b"9" * 64),
        lambda data: with_offsets(data, "Infinity"),
        lambda data: with_offsets(data, "-1e400"),
    ],
    ids=["cut off", "longer", "only the length", "empty", "other bytes", "another image", "endless", "before itself"],
)
def test_prune_tells_damage_from_the_beginning(index, damage):
    path = index.path_of(IMAGES[1])
    path.write_bytes(damage(path.read_bytes()))
    assert prune(index.root).reasons.keys() == {path}


def with_offsets(data, end):
    """A file whose tensors would end at ``end``, a number as JSON may have it."""
    length = int.from_bytes(data[:8], "little")
    header = re.sub(rb'("data_offsets":\[\d+,)\d+', rb"\g<1>" + end.encode(), data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def test_prune_does_not_wait_for_a_pipe(index):
    path = index.path_of(IMAGES[1])
    path.unlink()
    os.mkfifo(path)
    assert prune(index.root).reasons.keys() == {path}


def test_the_room_is_counted_once_for_many_files(index, monkeypatch):
    counts = []
    monkeypatch.setattr(store, "used_bytes", lambda root: counts.append(root) or 0)
    monkeypatch.setattr(store, "_SECONDS_BETWEEN_COUNTS", 0.0)
    room = store._Room(index.root, 1_000_000)
    for _ in range(60):
        room.take(1000)
    assert len(counts) == 1  # a sixteenth of the room is not filled yet
    for _ in range(5):
        room.take(1000)
    assert len(counts) == 2


def test_the_room_ends_where_the_limit_is(index, monkeypatch):
    monkeypatch.setattr(store, "used_bytes", lambda root: 400)
    room = store._Room(index.root, 1000)
    room.take(500)
    with pytest.raises(IndexStorageError, match="limit"):
        room.take(200)
    room.take(100)


def test_maintenance_agrees_with_itself(index):
    assert maintenance.verify(index.root) == {} and prune(index.root).kept == len(IMAGES)
