"""The index on disk: what goes in comes out, or is said to be damaged; whoever else writes, dies or lies."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.fake_models import fake_segmenter
from support.index_settings import GB, settings_of

from fiftyone_ntt.candidates import file_format as index_files
from fiftyone_ntt.candidates import store as index_store
from fiftyone_ntt.candidates.file_format import (
    DamagedIndexError,
    Signature,
    default_root,
    from_bytes,
    index_root,
    limit_in_bytes,
    to_bytes,
)
from fiftyone_ntt.candidates.maintenance import files_in, info, prune, verify
from fiftyone_ntt.candidates.store import IndexStorageError, IndexStore, explain_missing
from fiftyone_ntt.core import CompactImage, compact
from fiftyone_ntt.errors import InputError

TESTS = Path(__file__).resolve().parents[1]
IMAGE, OTHER_IMAGE = "ab" + 62 * "0", "cd" + 62 * "1"


@pytest.fixture(scope="module")
def content() -> CompactImage:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    return compact(fake_segmenter().candidates(pixels))


@pytest.fixture
def store(tmp_path):
    return IndexStore(tmp_path / "index", settings_of(), GB)


def same(one: CompactImage, other: CompactImage) -> bool:
    mine, theirs = one.to_arrays(), other.to_arrays()
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in mine.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in theirs.items()
    }


def test_what_is_stored_is_found_again_by_another_worker(store, content):
    assert store.get(IMAGE) is None
    size = store.put(IMAGE, content)
    again = IndexStore(store.root, settings_of()).get(IMAGE)
    assert same(again, content)
    assert store.path_of(IMAGE).stat().st_size == size
    assert store.get(OTHER_IMAGE) is None
    assert store.damaged == []


def test_an_image_without_candidates_can_be_kept(store):
    empty = compact(
        fake_segmenter(1).candidates(np.zeros((20, 30, 3), np.uint8))
    )  # black: no predicted IoU above the threshold
    assert len(empty.candidates) == 0
    store.put(IMAGE, empty)
    assert same(store.get(IMAGE), empty)


def test_the_same_content_makes_the_same_file(content):
    signature = Signature(IMAGE, settings_of())
    data = to_bytes(content, signature)
    read_back, _ = from_bytes(data)
    assert to_bytes(read_back, signature) == data, "what was read is what another worker computes"


def test_no_bit_of_a_file_can_flip_unseen(content):
    """Every byte near the start, where all that is not tensors lies, and a sample of the rest."""
    data = to_bytes(content, Signature(IMAGE, settings_of()))
    header = 8 + int.from_bytes(data[:8], "little")
    spread = np.linspace(header, len(data) - 1, 200).astype(int)
    unseen = []
    for position in (*range(header), *spread):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        try:
            found, signature = from_bytes(bytes(flipped))
        except DamagedIndexError:
            continue
        if signature != Signature(IMAGE, settings_of()) or not same(found, content):
            unseen.append(position)
    assert not unseen


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_file_that_was_cut_off_is_damaged(content, keep):
    data = to_bytes(content, Signature(IMAGE, settings_of()))
    with pytest.raises(DamagedIndexError):
        from_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])


def lying_layout(data):
    """A file whose checksum is right and whose layout asks for an absurd amount of memory."""
    tensors = {"runs": np.frombuffer(data[-1000:], np.uint8)}
    layout = {"runs": ["uint16", [1 << 40], "zlib"]}
    facts = {"image": IMAGE, "settings": settings_of().to_json(), "layout": layout}
    facts["sha256"] = index_files._checksum(facts, tensors)
    return index_files.save(tensors, {"fiftyone-ntt": json.dumps(facts)})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-40], "cut off"),
        (lambda data: data[:-3] + b"\0\1\2", "checksum"),
        (lambda data: b"", "no file of the index"),
        (lambda data: b"\xff" * len(data), "no file of the index"),
        (lambda data: b"PK\3\4 some other program's file" * 50, "no file of the index"),
        (lambda data: index_files.save({"x": np.zeros(3)}), "no file of the index"),
        (lambda data: index_files.save({"x": np.zeros(3)}, {"fiftyone-ntt": '{"sha256": "0"}'}), "checksum"),
        (lying_layout, "at most"),
    ],
)
def test_a_damaged_file_is_reported_and_made_again(store, content, caplog, spoil, reason):
    store.put(IMAGE, content)
    path = store.path_of(IMAGE)
    path.write_bytes(spoil(path.read_bytes()))
    assert store.get(IMAGE) is None
    assert store.damaged == [path]
    assert reason in caplog.text and "made again" in caplog.text
    assert list(verify(store.root)) == [path]
    store.put(IMAGE, content)
    assert same(store.get(IMAGE), content)
    assert verify(store.root) == {}


def test_a_file_in_anothers_place_is_not_used(store, content, caplog):
    """Copied by hand from another image, or from an index of other settings."""
    store.put(IMAGE, content)
    moved = store.path_of(OTHER_IMAGE)
    moved.parent.mkdir()
    moved.write_bytes(store.path_of(IMAGE).read_bytes())
    assert store.get(OTHER_IMAGE) is None
    assert "made of another image, abababab"[:24] in caplog.text
    denser = IndexStore(store.root, settings_of(8), GB)
    denser.put(OTHER_IMAGE, content)
    store.path_of(IMAGE).write_bytes(denser.path_of(OTHER_IMAGE).read_bytes())
    assert store.get(IMAGE) is None
    assert set(verify(store.root)) == {moved, store.path_of(IMAGE)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"points_per_side": 8}, "points_per_side 8, wanted 4"),
        ({"preset": "other"}, "preset other, wanted fake"),
        ({"precision": ["bf16", "bf16"]}, "precision ['bf16', 'bf16'], wanted ['fp32', 'fp32']"),
        ({"grid": "centre"}, "grid centre, wanted edge"),
        ({"weights": {"fake-sam": "a" * 64, "fake-features": "c" * 64}},
         "weights.fake-features cccccccccccc..., wanted bbbbbbbbbbbb..."),
        ({"weights": {"fake-sam": "a" * 64}}, "weights.fake-features none, wanted bbbbbbbbbbbb..."),
    ],
)  # fmt: skip
def test_other_settings_are_never_used_and_message_says_why(store, content, change, said):
    other = IndexStore(store.root, settings_of(**change), GB)
    other.put(IMAGE, content)
    assert store.get(IMAGE) is None
    assert explain_missing(store.root, store.settings).endswith(f"{other.settings.digest[:12]} has {said}")
    with pytest.raises(DamagedIndexError) as caught:
        index_store.read_checked(other.path_of(IMAGE), Signature(IMAGE, store.settings))
    assert said in str(caught.value)
    store.put(IMAGE, content)
    assert explain_missing(store.root, store.settings) == ""


def test_another_format_is_other_settings(store):
    newer = replace(store.settings, format=store.settings.format + 1)
    assert newer.digest != store.settings.digest
    assert newer.differences(store.settings) == [f"format {newer.format}, wanted {store.settings.format}"]


def test_nothing_there_needs_no_explanation(tmp_path):
    assert explain_missing(tmp_path / "nowhere", settings_of()) == ""
    assert info(tmp_path / "nowhere") == []
    assert verify(tmp_path / "nowhere") == {}
    assert prune(tmp_path / "nowhere").reasons == {}


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "AB" + 62 * "0", "ab" + 61 * "0", f"{IMAGE}\n"])
def test_only_a_hash_names_a_file(store, name):
    with pytest.raises(InputError, match="64 hex digits"):
        store.path_of(name)


def test_recipes_lead_back_to_settings(store, content):
    assert index_store.recalled(store.root, "lite on cpu") == []
    store.remember("lite on cpu")
    assert index_store.recalled(store.root, "lite on cpu") == [store.settings]
    assert index_store.recalled(store.root, "lite on cuda") == []
    assert verify(store.root) == {}


# Workers that die, and workers side by side


def worker(root, body, **environment):
    """A process that has ``store`` and ``content`` and runs ``body``."""
    code = f"""
    import os, signal, sys, time
    sys.path.insert(0, {str(TESTS)!r})
    import numpy as np
    from support.fake_models import fake_segmenter
    from fiftyone_ntt.candidates.file_format import IndexSettings
    from fiftyone_ntt.candidates.store import IndexStore
    from fiftyone_ntt.core import compact
    segmenter = fake_segmenter()
    store = IndexStore({str(root)!r}, IndexSettings("fake", segmenter.facts()), {GB})
    content = compact(segmenter.candidates(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code) + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_worker_killed_in_mid_write_leaves_nothing_half_done(store, content):
    body = f"""
    def stuck(handle):
        print("writing", flush=True)
        time.sleep(60)
    os.fsync = stuck
    store.put({IMAGE!r}, content)
    """
    process = worker(store.root, body)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store.root.joinpath("someone's notes.txt").write_text("not ours")
    assert store.get(IMAGE) is None
    left = [file.path for file in files_in(store.root)]
    assert left and all(path.suffix == ".part" for path in left)
    assert info(store.root)[0].leftovers == len(left)
    assert prune(store.root, dry_run=True).reasons.keys() == set(left)
    assert prune(store.root).reasons.keys() == set(left)
    assert [path.name for path in store.root.iterdir()] == ["someone's notes.txt"]


def test_killing_a_worker_at_any_moment_leaves_whole_files_only(store, content):
    body = """
    print("starting", flush=True)
    for i in range(10**6):
        store.put(f"{i % 7:02x}" + 62 * "e", content)
    """
    process = worker(store.root, body)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    whole = [file for file in files_in(store.root) if file.image and not file.part]
    assert whole and all(same(store.get(file.image), content) for file in whole)


def test_two_workers_at_the_same_images(store, content):
    body = """
    for i in range(40):
        name = f"{i % 4:02x}" + 62 * "e"
        store.get(name)
        store.put(name, content)
    print(len(store.damaged))
    """
    pair = [worker(store.root, body) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in pair] == ["0", "0"]
    assert verify(store.root) == {}
    assert [(entry.images, entry.leftovers) for entry in info(store.root)] == [(4, 0)]


def test_pruning_under_a_writers_hands_costs_nothing(store, content, monkeypatch):
    """The part is removed just before it gets its name; the writer writes it again."""
    real, calls = os.fsync, []

    def prune_once(handle):
        real(handle)
        calls.append(handle)
        if len(calls) <= 1:
            prune(store.root)

    monkeypatch.setattr(os, "fsync", prune_once)
    store.put(IMAGE, content)
    assert same(store.get(IMAGE), content)


# Room


def test_a_full_index_says_so_and_deletes_nothing(tmp_path, content):
    size = len(to_bytes(content, Signature(IMAGE, settings_of())))
    store = IndexStore(tmp_path, settings_of(), int(2.5 * size))
    store.put(IMAGE, content)
    store.put(OTHER_IMAGE, content)
    with pytest.raises(IndexStorageError, match="size_limit_gb"):
        store.put("ee" + 62 * "0", content)
    assert store.get(IMAGE) and store.get(OTHER_IMAGE)
    with pytest.raises(IndexStorageError):
        IndexStore(tmp_path, settings_of(8), int(2.5 * size)).put(IMAGE, content)


def test_other_workers_files_count(tmp_path, content, monkeypatch):
    monkeypatch.setattr(index_store, "_SECONDS_BETWEEN_COUNTS", 0.0)
    size = len(to_bytes(content, Signature(IMAGE, settings_of())))
    mine = IndexStore(tmp_path, settings_of(), 3 * size)
    mine.put(IMAGE, content)
    for i in range(2):
        IndexStore(tmp_path, settings_of(8), GB).put(f"{i:02x}" + 62 * "0", content)
    with pytest.raises(IndexStorageError, match="limit"):
        mine.put(OTHER_IMAGE, content)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_is_a_storage_error(store, content, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(IndexStorageError, match=f"{os.strerror(code)}.*index_dir"):
        store.put(IMAGE, content)
    store.remember("a recipe")  # only a convenience: no error
    assert list(files_in(store.root)) == []


def test_some_of_the_disk_is_left_to_others(store, content, monkeypatch):
    usage = index_store.shutil.disk_usage("/")
    monkeypatch.setattr(index_store.shutil, "disk_usage", lambda _: usage._replace(free=GB))
    with pytest.raises(IndexStorageError, match="1.0 GB"):
        store.put(IMAGE, content)


def test_folder_and_limit_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FIFTYONE_NTT_INDEX", str(tmp_path / "mine"))
    assert default_root() == index_root(None) == index_root("") == tmp_path / "mine"
    monkeypatch.delenv("FIFTYONE_NTT_INDEX")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "fiftyone-ntt" / "index"
    monkeypatch.delenv("FIFTYONE_NTT_INDEX_GB", raising=False)
    assert limit_in_bytes() == 50 * GB
    monkeypatch.setenv("FIFTYONE_NTT_INDEX_GB", "0.5")
    assert (limit_in_bytes(), limit_in_bytes(2)) == (GB // 2, 2 * GB)
    for text in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("FIFTYONE_NTT_INDEX_GB", text)
        with pytest.raises(InputError):
            limit_in_bytes()
