"""The rules of the house that a reader cannot see in one file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("fiftyone_ntt", "operators", "panels") for path in (ROOT / folder).rglob("*.py")]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("core", ("fiftyone", "fiftyone_ntt.models", "fiftyone_ntt.dataset", "transformers", "sam2", "onnxruntime")),
        ("models", ("fiftyone", "fiftyone_ntt.dataset", "fiftyone_ntt.index")),
        ("index", ("fiftyone", "fiftyone_ntt.models", "transformers", "sam2", "onnxruntime")),
        ("dataset", ("sam2", "transformers", "onnxruntime")),
    ],
)
def test_dependencies_point_one_way(layer, forbidden):
    for path in (ROOT / "fiftyone_ntt" / layer).glob("*.py"):
        for name in imports_of(path):
            wrong = [bad for bad in forbidden if name == bad or name.startswith(f"{bad}.")]
            assert not wrong, f"{path.name} imports {name}"


def test_nothing_imports_torchvision():
    assert not [path for path in SOURCES if any(name.split(".")[0] == "torchvision" for name in imports_of(path))]


@pytest.mark.parametrize("module", ["fiftyone_ntt", "fiftyone_ntt.core", "fiftyone_ntt.models"])
def test_importing_loads_nothing_heavy(module):
    heavy = ["fiftyone", "transformers", "sam2", "onnxruntime"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_files_stay_short():
    long = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {name: lines for name, lines in long.items() if lines > 400}
