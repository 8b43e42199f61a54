"""Looking after the index: what is pruned, verified and told, and what is never touched."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone

import numpy as np
import pytest
from support.fake_models import fake_segmenter
from support.index_settings import GB, settings_of

from fiftyone_ntt.candidates.file_format import DamagedIndexError, from_bytes
from fiftyone_ntt.candidates.maintenance import files_in, info, prune, verify
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.core import compact
from fiftyone_ntt.errors import InputError


@pytest.fixture
def aged(tmp_path):
    """Four images last used 1, 2, 3 and 40 days ago, the last of them of other settings."""
    store = IndexStore(tmp_path / "index", settings_of(), GB)
    other = IndexStore(store.root, settings_of(8), GB)
    content = compact(
        fake_segmenter().candidates(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    )
    for days, owner in ((1, store), (2, store), (3, store), (40, other)):
        image = f"{days:02x}" + 62 * "0"
        owner.put(image, content)
        then = time.time() - days * 86400
        os.utime(owner.path_of(image), (then, then))
    return store.root


def left(root):
    return sorted(int(file.image[:2], 16) for file in files_in(root) if file.image)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 3, 40]),
        ({"older_than": 30}, [1, 2, 3]),
        ({"older_than": 2.5}, [1, 2]),
        ({"older_than": 2.5, "dry_run": True}, [1, 2, 3, 40]),
        ({"limit": 0}, []),
        ({"limit": GB}, [1, 2, 3, 40]),
        ({"settings": settings_of(8).digest[:8]}, [1, 2, 3]),
        ({"settings": settings_of().digest}, [40]),
    ],
)
def test_prune_removes_what_it_is_asked_to(aged, options, expected):
    report = prune(aged, **options)
    assert left(aged) == expected
    if not options.get("dry_run"):
        assert report.kept == len(expected)
        assert report.kept_bytes == sum(file.bytes for file in files_in(aged))
    assert report.bytes >= 0 and str(report)


def test_prune_to_a_limit_starts_with_what_is_oldest_in_use(aged):
    sizes = [file.bytes for file in files_in(aged)]
    prune(aged, limit=sum(sizes) - 1)
    assert left(aged) == [1, 2, 3]


def test_reading_counts_as_use(aged):
    assert IndexStore(aged, settings_of()).get("03" + 62 * "0") is not None
    prune(aged, older_than=1.5)
    assert left(aged) == [1, 3]


def test_prune_takes_damaged_files_and_empty_folders_along(aged):
    path = IndexStore(aged, settings_of(8)).path_of("28" + 62 * "0")
    path.write_bytes(b"damaged")
    with pytest.raises(DamagedIndexError, match="no file of the index") as caught:
        from_bytes(b"damaged")
    assert prune(aged).reasons == {path: str(caught.value)}
    assert left(aged) == [1, 2, 3]
    assert not path.parent.exists()


@pytest.mark.parametrize("name", ["", "0123456789", "zzz"])
def test_prune_names_the_settings_there_are(aged, name):
    with pytest.raises(InputError, match=settings_of().digest[:12]):
        prune(aged, settings=name)
    assert left(aged) == [1, 2, 3, 40]


@pytest.mark.parametrize("days", [-1, float("nan")])
def test_prune_refuses_an_age_that_is_none(aged, days):
    with pytest.raises(InputError, match="number of days"):
        prune(aged, older_than=days)
    assert left(aged) == [1, 2, 3, 40]


def test_verify_removes_only_when_told(aged):
    damaged = IndexStore(aged, settings_of()).path_of("02" + 62 * "0")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    description = damaged.parents[1] / "settings.json"
    description.write_text("{}")
    seen = []
    assert set(verify(aged, progress=lambda *step: seen.append(step))) == {damaged, description}
    assert seen[-1][:2] == (6, 6) and "2 damaged" in seen[-1][2]
    assert damaged.exists()
    assert set(verify(aged, remove=True)) == {damaged, description}
    assert verify(aged) == {}
    assert left(aged) == [1, 3, 40]


def test_info_tells_images_bytes_and_when(aged):
    entries = {entry.digest: entry for entry in info(aged)}
    mine, other = entries[settings_of().digest], entries[settings_of(8).digest]
    assert (mine.images, other.images) == (3, 1)
    assert mine.settings == settings_of()
    assert mine.bytes == sum(file.bytes for file in files_in(aged) if file.settings == mine.digest)
    age = (datetime.now(timezone.utc) - mine.first).days, (datetime.now(timezone.utc) - mine.last).days
    assert age == (3, 1)


def test_nothing_of_others_is_ever_removed(aged, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / ("00" + 62 * "0" + ".ntt")
    precious.write_text("precious")
    folder = aged / settings_of().digest
    (folder / "00").symlink_to(outside, target_is_directory=True)
    (aged / ("f" * 64)).symlink_to(outside, target_is_directory=True)
    (folder / "readme.txt").write_text("mine")
    (folder / "01" / "x.part").write_text("another program's")
    prune(aged, limit=0, older_than=0)
    assert left(aged) == []
    assert precious.read_text() == "precious"
    assert (folder / "readme.txt").exists() and (folder / "01" / "x.part").exists()
