"""The plugin's manifest, requirements and wheel say the same as the code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import fiftyone_ntt

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reading pyproject.toml needs Python 3.11, or the package tomli")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def manifest():
    return yaml.safe_load((ROOT / "fiftyone.yml").read_text())


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_requirements_are_the_projects_dependencies(project):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line.strip()] == project["project"]["dependencies"]


def test_one_version_everywhere(manifest, project):
    assert manifest["version"] == project["project"]["version"] == fiftyone_ntt.__version__


def test_the_entry_is_no_package_at_the_root(manifest):
    assert manifest["py_entry"] == "fiftyone_ntt/plugin.py"
    assert (ROOT / manifest["py_entry"]).is_file()
    assert not (ROOT / "__init__.py").exists(), "a root package breaks pytest and the wheel"


def test_the_fiftyone_wanted_is_the_same_in_both_places(manifest, project):
    wanted = next(line for line in project["project"]["dependencies"] if line.startswith("fiftyone"))
    assert wanted == f"fiftyone{manifest['fiftyone']['version']}"


def test_the_wheel_has_one_top_level_name_and_every_package(project):
    packages = project["tool"]["setuptools"]["packages"]
    assert {name.split(".")[0] for name in packages} == {"fiftyone_ntt"}
    inside = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "fiftyone_ntt").rglob("*/__init__.py")}
    mapped = set(project["tool"]["setuptools"]["package-dir"])
    assert set(packages) == inside | mapped | {"fiftyone_ntt"}


def test_the_manifest_lists_what_is_registered(manifest):
    from fiftyone_ntt.operators import OPERATORS
    from fiftyone_ntt.panels import PANELS

    assert sorted(manifest["operators"]) == sorted(operator().config.name for operator in OPERATORS)
    assert sorted(manifest["panels"]) == sorted(panel().config.name for panel in PANELS)
