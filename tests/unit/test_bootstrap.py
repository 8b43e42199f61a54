"""tools/bootstrap.py: what it reads, what it decides, and how it fails. Nothing is installed here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["demo", "dev"])
def test_extras_are_read_as_tomllib_reads_them(bootstrap, name):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib to compare with")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert bootstrap.extra(name) == project["optional-dependencies"][name]


def test_extras_may_have_brackets_and_several_lines(bootstrap):
    text = '[project.optional-dependencies]\nx = ["a[b]>=1",\n  "c",\n]\ny = ["d"]\n[tool.z]\nx = ["no"]\n'
    assert bootstrap.extra("x", text) == ["a[b]>=1", "c"]
    with pytest.raises(bootstrap.SetupError, match="`z`"):
        bootstrap.extra("z", text)


def test_requirements_leave_torch_and_sam2_to_their_own_steps(bootstrap):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    left_out = set(lines) - set(bootstrap.requirements())
    assert {bootstrap.package_name(line) for line in left_out} == {"torch", "sam2"}
    assert bootstrap.sam2_requirement().startswith("sam2")


@pytest.mark.parametrize(
    ("line", "name"), [("Torch>=2", "torch"), ("a_b[c]==1", "a-b"), ("x ; python_version<'3'", "x"), ("y~=1", "y")]
)
def test_package_names(bootstrap, line, name):
    assert bootstrap.package_name(line) == name


def test_an_unsupported_python_looks_for_another(bootstrap, monkeypatch):
    versions = {sys.executable: (3, 13), "python3": None, "python3.12": (3, 12), "python3.11": (3, 11)}
    monkeypatch.setattr(bootstrap, "python_version", versions.get)
    assert bootstrap.find_python() == "python3.12"
    monkeypatch.setattr(bootstrap, "python_version", lambda command: (3, 9))
    with pytest.raises(bootstrap.SetupError, match="Python 3.10, 3.11 or 3.12"):
        bootstrap.find_python()


def test_python_version_of_real_and_of_missing_commands(bootstrap):
    assert bootstrap.python_version(sys.executable) == sys.version_info[:2]
    assert bootstrap.python_version("no-such-python") is None


def test_a_folder_of_the_users_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    command = [sys.executable, str(ROOT / "tools" / "bootstrap.py"), "--no-weights", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "virtual environment" in done.stderr
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_failing_step_says_what_failed_and_what_to_do(bootstrap, tmp_path):
    environment = bootstrap.Environment(tmp_path)
    environment.python = Path(sys.executable)
    with pytest.raises(bootstrap.SetupError) as caught:
        environment.run("counting sheep", ["-c", "raise SystemExit('no sheep')"], "buy sheep.")
    text = str(caught.value)
    assert "counting sheep" in text
    assert "no sheep" in text
    assert "What to do: buy sheep." in text


@pytest.mark.parametrize("on_path", [True, False])
def test_a_missing_mongod_is_linked_or_installed(bootstrap, tmp_path, monkeypatch, on_path):
    """FiftyOne looks in its own folder only; a mongod on the PATH has to be brought there."""
    place = tmp_path / "site" / "fiftyone" / "db" / "bin" / "mongod"
    working = tmp_path / "mongod"
    working.write_text("#!/bin/sh\necho db version v6\n")
    working.chmod(0o755)
    environment = bootstrap.Environment(tmp_path / "venv")
    monkeypatch.setattr(environment, "mongod_place", lambda: place)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: str(working) if on_path else None)
    installed = []

    def pip(what, arguments, advice="", **variables):
        installed.extend(arguments)
        place.parent.mkdir(parents=True)
        shutil.copy(working, place)

    monkeypatch.setattr(environment, "pip", pip)
    environment.ensure_mongod()
    assert bootstrap.runs(place)
    assert installed == ([] if on_path else [bootstrap.DATABASE])
    environment.ensure_mongod()  # nothing more to do
    assert len(installed) <= 1


def test_the_fingerprint_follows_its_inputs(bootstrap, tmp_path, monkeypatch):
    for name in bootstrap.INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    environment = bootstrap.Environment(tmp_path / "venv")
    before = environment.fingerprint()
    assert environment.fingerprint() == before
    (tmp_path / "requirements.txt").write_text("two")
    assert environment.fingerprint() != before


@pytest.fixture
def no_browser(bootstrap, monkeypatch):
    """A machine without a browser; returns what ``apt-get`` was asked, and where a browser appears when it is."""
    asked: list[str] = []
    monkeypatch.setattr(bootstrap, "find_browser", lambda: "chromium" if "--no-download" in asked else None)
    monkeypatch.setattr(bootstrap, "apt", lambda arguments, seconds: asked.extend(arguments) or True)
    return asked


@pytest.mark.parametrize(
    ("release", "root", "apt_get", "why"),
    [
        ("NAME=x\nID=debian\n", True, True, ""),
        ("ID=debian", False, True, "root"),
        ("ID=debian", True, False, "not Debian"),
        ("ID=ubuntu\nID_LIKE=debian\n", True, True, "not Debian"),
        (None, True, True, "not Debian"),
    ],
)
def test_where_a_browser_can_be_installed(bootstrap, tmp_path, monkeypatch, release, root, apt_get, why):
    place = tmp_path / "os-release"
    if release is not None:
        place.write_text(release)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "/usr/bin/apt-get" if apt_get else None)
    found = bootstrap.why_no_apt(place)
    assert (why in found) if why else (found == "")


def test_missing_browser_is_installed_without_a_question(bootstrap, no_browser, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "why_no_apt", lambda: "")
    bootstrap.ensure_browser()
    assert no_browser == ["update", "install", "--download-only", "install", "--no-download"]
    assert "skipped" not in capsys.readouterr().out
    bootstrap.ensure_browser()
    assert len(no_browser) == 5, "nothing more to do"


def test_no_browser_is_one_plain_line_and_no_error(bootstrap, no_browser, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "why_no_apt", lambda: "this needs root")
    bootstrap.ensure_browser()
    monkeypatch.setattr(bootstrap, "why_no_apt", lambda: "")
    monkeypatch.setattr(bootstrap, "apt", lambda arguments, seconds: False)
    bootstrap.ensure_browser()
    told = capsys.readouterr().out.splitlines()
    assert no_browser == []
    assert ["skipped" in line for line in told] == [True, False, True]
    assert "this needs root" in told[0]


def test_a_browser_counts_only_if_it_starts(bootstrap, tmp_path, monkeypatch):
    for name, status in (("chromium", 1), ("google-chrome", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert bootstrap.find_browser() == str(tmp_path / "google-chrome")
    (tmp_path / "google-chrome").unlink()
    assert bootstrap.find_browser() is None


def test_apt_that_takes_too_long_is_given_up(bootstrap, tmp_path, monkeypatch):
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexec sleep 5\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert not bootstrap.apt(("update",), 0.2)
