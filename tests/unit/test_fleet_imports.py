"""What a fleet's machines run knows neither FiftyOne nor MongoDB: they have no database to reach."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.fleet_jobs import add_images, add_manifest, fake_bank

pytest.importorskip("pyarrow", reason="fleets need pyarrow: pip install 'fiftyone-ntt[fleet]'")

from fiftyone_ntt.fleet.bucket import Bucket  # noqa: E402
from fiftyone_ntt.fleet.jobs import put_bank  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = ("fiftyone", "pymongo", "bson", "mongoengine", "motor")
CODE = f"""
import importlib.abc, sys

class Refuses(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN}:
            raise AssertionError(f"{{name}} was imported")

sys.meta_path.insert(0, Refuses())
from support.fleet_jobs import FakeIndexJob
from fiftyone_ntt.fleet import ray_runner, spool
from fiftyone_ntt.fleet.bucket import Bucket
from fiftyone_ntt.fleet.jobs import MatchJob
from fiftyone_ntt.fleet.runners import run_here
from fiftyone_ntt.fleet.status import fleet_status
from fiftyone_ntt.cli.main import main

store = sys.argv[1]
assert run_here(FakeIndexJob(store)).images == 4
assert run_here(MatchJob(store, "two")).images == 4
assert fleet_status(Bucket(store)).indexed == 4
assert main(["fleet", "status", store]) == 0
assert main(["fleet", "match", store, "--bank", "two"]) == 0
print([name for name in sys.modules if name.partition(".")[0] in {FORBIDDEN}])
"""


def test_a_fleet_works_without_fiftyone_and_pymongo(tmp_path):
    store = str(tmp_path / "store")
    add_manifest(store, add_images(tmp_path / "images", 4))
    put_bank(Bucket(store), "two", fake_bank())
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", CODE, store]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_only_the_module_near_the_database_names_fiftyone():
    named = set()
    for path in (ROOT / "fiftyone_ntt" / "fleet").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if any(name.partition(".")[0] in FORBIDDEN for name in names if name):
                named.add(path.name)
    assert named == {"handing.py"}
