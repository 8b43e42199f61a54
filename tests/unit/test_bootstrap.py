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
    assert "no virtual environment" in done.stderr
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
