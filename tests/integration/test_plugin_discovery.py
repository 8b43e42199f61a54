"""FiftyOne finds the plugin where people put it, in a process that has nothing of ours installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
MANIFEST = yaml.safe_load((ROOT / "fiftyone.yml").read_text())
NAMES = sorted([*MANIFEST["operators"], *MANIFEST["panels"]])
HEAVY = ["onnxruntime", "sam2", "torch", "transformers"]

SCRIPT = """
import json, sys
libraries, first, heavy = json.loads(sys.argv[1])
sys.path[:0] = first
sys.path.extend(libraries)  # with -S no .pth file is read: an editable install of ours stays invisible
from fiftyone.operators.registry import OperatorRegistry
registry = OperatorRegistry()
registry = OperatorRegistry()  # FiftyOne builds it again for every request
operators = {o.name: o for o in registry.list_operators() if o.uri.startswith("@fiftyone-ntt/ntt/")}
placements = sorted(name for name, o in operators.items() if o.resolve_placement(None) is not None)
import fiftyone_ntt
print("RESULT", json.dumps({
    "names": sorted(operators),
    "errors": registry.list_errors(),
    "file": fiftyone_ntt.__file__,
    "heavy": sorted(set(heavy) & set(sys.modules)),
    "top_level": sorted({"operators", "panels", "tests"} & set(sys.modules)),
    "placements": placements,
}))
"""


def discover(plugins: Path, cwd: Path, first: list[str] | None = None) -> dict:
    """What FiftyOne registers from a plugins folder, in a fresh process."""
    if PathFinder.find_spec("fiftyone_ntt", LIBRARIES) is not None:
        pytest.skip("the package itself is installed here: nothing can show that the plugin runs without it")
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, json.dumps([LIBRARIES, first or [], HEAVY])],
        env={**os.environ, "FIFTYONE_PLUGINS_DIR": str(plugins)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    line = next(line for line in run.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def copy_repository(target: Path) -> Path:
    """A plain copy, as ``fiftyone plugins download`` makes it."""

    def unwanted(_folder: str, names: list[str]) -> list[str]:
        return [
            name for name in names if name.startswith(".") or name in ("__pycache__", "build", "dist", "demo_output")
        ]

    return Path(shutil.copytree(ROOT, target, ignore=unwanted))


def check(found: dict, package: Path) -> None:
    assert found["errors"] == []
    assert found["names"] == NAMES
    assert Path(found["file"]) == package / "fiftyone_ntt" / "__init__.py"
    assert found["heavy"] == [], "registration happens at every request of the App"
    assert found["top_level"] == [], "no generic module name leaks into the App's server"
    assert {"build_memory_bank", "index_candidates", "segment"} <= set(found["placements"])


def test_a_link_in_the_plugins_folder(database, tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "fiftyone-ntt").symlink_to(ROOT, target_is_directory=True)
    check(discover(plugins, tmp_path), ROOT)


@pytest.mark.parametrize("name", ["@fiftyone-ntt/ntt", "fiftyone_ntt"])
def test_a_copy_in_the_plugins_folder(database, tmp_path, name):
    copy = copy_repository(tmp_path / "plugins" / name)
    check(discover(tmp_path / "plugins", tmp_path), copy)


def test_folder_of_the_packages_name_does_not_hide_it(database, tmp_path):
    """A process started in the folder above a checkout sees ``fiftyone_ntt`` as an empty namespace package."""
    copy = copy_repository(tmp_path / "plugins" / "fiftyone_ntt")
    check(discover(tmp_path / "plugins", tmp_path, first=[str(tmp_path / "plugins")]), copy)


def test_the_command_line_lists_the_operators(database):
    code = "from fiftyone.core.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "operators", "list", "--names-only"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ours = run.stdout.partition("@fiftyone-ntt/ntt\n")[2].split()
    assert sorted(ours[: len(NAMES)]) == NAMES
