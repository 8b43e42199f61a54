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


def private_names_used(path):
    """Line and name of every private attribute that a module uses of something that is not its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            if node.attr not in own:
                yield node.lineno, f".{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg and is_private(node.arg) and node.arg not in own:
            yield node.value.lineno, f"{node.arg}="
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fiftyone":
            yield from ((node.lineno, name.name) for name in node.names if is_private(name.name))
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value) and not is_own(node.args[0]):
                yield node.lineno, repr(name.value)


def is_own(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_private_names_of_fiftyone_stay_in_dataset():
    """A new version of FiftyOne may rename them: then one room is to be read, not forty files."""
    package = ROOT / "fiftyone_ntt"
    free = [package / room for room in ("dataset", "models")]  # models: FiftyOne is not there, and other libraries are
    used = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in SOURCES
        if not any(path.is_relative_to(folder) for folder in free)
        for line, name in private_names_used(path)
    ]
    assert not used, (
        f"private names of FiftyOne outside fiftyone_ntt/dataset: {used}; use what dataset/fields.py and "
        "dataset/storage.py offer (dataset_of, label_path, raw_values, store, ...), or add a function there"
    )
    assert any(private_names_used(package / "dataset" / "fields.py")), "the guard no longer sees private names"
