"""The rules of the house that a reader cannot see in one file: who may import whom, names, lengths."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fiftyone_ntt

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fiftyone_ntt"
TESTS = ROOT / "tests"

# Room -> (rooms that it may import, packages that it may import besides the standard library); lowest first.
TABLE = {
    "params": ("", "yaml"),  # only for names of presets in a user's file, if there is one
    # Only when asked for: COCO's run lengths, polygons, TIFF and colours of 16 bits, compiled loops, slides and maps.
    "pixels": ("", "numpy torch PIL pycocotools scipy tifffile cv2 numba openslide rasterio pyvips"),
    "method": ("pixels", "numpy torch safetensors"),
    "models": (
        "params pixels method",
        "numpy torch sam2 hydra omegaconf transformers onnx onnxruntime efficientnet_lite_pytorch huggingface_hub",
    ),
    "candidates": ("params pixels method models", "numpy torch safetensors fsspec"),  # fsspec: shards in a bucket
    "dataset": ("params pixels method models candidates", "numpy fiftyone bson pymongo"),
    "references": ("params pixels method models candidates dataset", "numpy scipy PIL fiftyone bson"),
    "runs": (
        "params pixels method models candidates dataset references",
        "numpy PIL fiftyone bson pymongo psutil joblib",  # joblib: processes that match
    ),
    "review": (
        "params pixels method models candidates dataset references runs",
        "numpy scipy sklearn fiftyone bson PIL cv2 pycocotools yaml",
    ),
    "evaluation": (
        "params pixels method models candidates dataset references runs",
        "numpy torch pycocotools faster_coco_eval PIL fiftyone bson",
    ),
    # pyarrow, fsspec and ray only by name, when asked for; FiftyOne in one module, see test_fleet_imports.
    "fleet": (
        "params pixels method models candidates dataset references runs",
        "numpy torch pycocotools fiftyone bson",
    ),
}
SERVICES = " ".join(TABLE)
# A door may call every service. Of other doors: the command line and an operator use the demo, a panel opens operators.
DOORS = {
    "cli": (f"{SERVICES} demo", "torch rich fiftyone"),
    "demo": (SERVICES, "numpy PIL pycocotools rich fiftyone"),
    "operators": (f"{SERVICES} demo", "fiftyone"),
    "panels": (f"{SERVICES} operators", "fiftyone"),
}
FOLDERS = {room: PACKAGE / room for room in (*TABLE, "demo", "cli")}
FOLDERS |= {door: ROOT / door for door in ("operators", "panels")}
SOURCES = [path for folder in (PACKAGE, ROOT / "operators", ROOT / "panels") for path in sorted(folder.rglob("*.py"))]


def imports_of(path):
    """Every module that a file imports, also inside functions; ``from fiftyone_ntt import x`` is ``fiftyone_ntt.x``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            if node.module == "fiftyone_ntt":
                yield from (f"fiftyone_ntt.{name.name}" for name in node.names)
            else:
                yield node.module


def rooms_and_packages(room):
    """What the modules of a room import: (file, room) and (file, third-party package)."""
    rooms, packages = set(), set()
    for path in FOLDERS[room].rglob("*.py"):
        for name in imports_of(path):
            top, _, rest = name.partition(".")
            if top == "fiftyone_ntt":
                rooms.add((path.name, rest.partition(".")[0]))
            elif top not in sys.stdlib_module_names:
                packages.add((path.name, top))
    return rooms, packages


@pytest.mark.parametrize("room", FOLDERS)
def test_dependencies_point_one_way(room):
    lower, allowed = (TABLE | DOORS)[room]
    rooms, packages = rooms_and_packages(room)
    # The lazy public names (`import fiftyone_ntt as ntt`, an empty name here) are for doors.
    known = {*lower.split(), room, "errors", "__version__"}
    if room in DOORS:
        known |= {"", *fiftyone_ntt.__all__}
    assert {(file, name) for file, name in rooms if name not in known} == set()
    assert {(file, name) for file, name in packages if name not in {*allowed.split(), "typing_extensions"}} == set()


def test_the_table_holds_every_folder_and_no_other():
    """A folder that nobody placed, or that is empty, would pass every rule above."""
    inside = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/**/*.py")}
    assert inside == {*TABLE, "demo", "cli"}
    for room, folder in FOLDERS.items():
        assert [path for path in folder.rglob("*.py") if path.name != "__init__.py"], f"{room}/ holds no module"
    assert set(FOLDERS) == set(TABLE) | set(DOORS)


def test_the_table_has_no_cycle():
    order = list(TABLE)
    for room, (lower, _) in TABLE.items():
        assert set(lower.split()) <= set(order[: order.index(room)]), room


def test_what_knows_no_dataset_imports_without_fiftyone():
    """What a table of imports cannot see: modules that are imported by way of others."""
    folders = [FOLDERS[room] for room in ("params", "pixels", "method", "models", "candidates")]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in (*folders, PACKAGE / "evaluation" / "protocols")
        for path in folder.rglob("*.py")
        if path.name not in ("__init__.py", "fiftyone_result.py")
    ]
    code = f"import importlib, sys; sys.modules['fiftyone'] = None; [importlib.import_module(m) for m in {modules}]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_imports_torchvision():
    assert not [path for path in SOURCES if any(name.split(".")[0] == "torchvision" for name in imports_of(path))]


@pytest.mark.parametrize("module", ["fiftyone_ntt", "fiftyone_ntt.core", "fiftyone_ntt.models"])
def test_importing_loads_nothing_heavy(module):
    heavy = ["fiftyone", "transformers", "sam2", "onnxruntime"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_names_are_completed_before_they_are_imported():
    code = "import sys, fiftyone_ntt; print(dir(fiftyone_ntt)); print('fiftyone' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    names, heavy = done.stdout.splitlines()
    assert set(ast.literal_eval(names)) == set(fiftyone_ntt.__all__) >= {"segment", "save_bank", "undo_run"}
    assert heavy == "False"


def test_files_stay_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {name: lines for name, lines in lengths.items() if lines > 400}


def test_the_package_stays_small():
    """Operators and panels lie beside the package in the source tree, and are counted with the doors, not here."""
    protocols = list((PACKAGE / "evaluation" / "protocols").glob("*.py"))
    assert 0 < len(list(PACKAGE.rglob("*.py"))) - len(protocols) <= 219
    assert 0 < len(protocols) <= 29, "a published table is a file and a line in the registry, not more"


def test_a_module_name_is_used_once_among_the_rooms():
    names = Counter(
        path.stem
        for room in TABLE
        if room != "params"  # a door, as far as names go: it mirrors the rooms
        for path in FOLDERS[room].rglob("*.py")
        if path.name != "__init__.py"
    )
    assert len(names) > 50
    assert not {name: count for name, count in names.items() if count > 1}


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


CLOCKS = {"perf_counter", "monotonic", "time", "time_ns", "perf_counter_ns", "monotonic_ns"}


def asserts_on_a_clock(function):
    """Lines of a function that compare what a clock said, directly or by way of a local name."""

    def told_by(node):
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in CLOCKS:
                return getattr(part.func.value, "id", "") == "time"
            if isinstance(part, ast.Name) and part.id in told:
                return True
        return False

    told = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and told_by(node.value):
            told |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    return [node.lineno for node in ast.walk(function) if isinstance(node, ast.Assert) and told_by(node.test)]


def test_no_assertion_is_about_the_wall_clock():
    """On a busy machine it would fail for nothing: count calls, order and bytes instead."""
    wrong = [
        f"{path.name}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        for line in asserts_on_a_clock(node)
    ]
    assert not wrong
    guarded = ast.parse("def f():\n  a = time.monotonic()\n  b = time.time() - a\n  assert b < 1")
    assert asserts_on_a_clock(guarded.body[0]) == [4], "the guard no longer sees a clock"


def test_no_test_imports_another():
    """What tests share lies in ``tests/support`` and in the conftest files."""
    files = sorted(TESTS.rglob("test_*.py"))
    names = {path.stem for path in files}
    wrong = {(path.name, name) for path in files for name in imports_of(path) if name.split(".")[-1] in names}
    assert len(names) > 50 and not wrong


def test_a_test_file_has_a_name_of_its_own():
    """Test folders are no packages: of two files of one name pytest collects one, and stops."""
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert len(names) > 50 and not [name for name, times in names.items() if times > 1]


def test_names_of_tests_stay_short():
    names = [
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 500
    assert not sorted(name for name in names if len(name) > 60)


# What a module is imported as -> what is installed; everything else has one name for both.
INSTALLED_AS = {
    "PIL": "pillow", "bson": "pymongo", "cv2": "opencv-python-headless", "efficientnet_lite_pytorch":
    "efficientnet-lite-pytorch", "faster_coco_eval": "faster-coco-eval", "hydra": "hydra-core",
    "huggingface_hub": "huggingface-hub", "sklearn": "scikit-learn", "typing_extensions": "typing-extensions",
    "openslide": "openslide-python", "pyvips": "pyvips[binary]", "yaml": "pyyaml",
}  # fmt: skip


def test_what_is_imported_is_a_dependency_of_its_own():
    """What only comes along with another package goes when that package no longer needs it."""
    used = {package for room in FOLDERS for _, package in rooms_and_packages(room)[1]}
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    lines += re.findall(r'"([^"]+)"', extras.split("\n[")[0])
    named = {re.split(r"[<>=!~ ]", line)[0] for line in lines if line}
    assert len(named) > 10
    assert {INSTALLED_AS.get(package, package) for package in used} - named == set()


def test_labels_are_chosen_by_way_of_dataset():
    """FiftyOne's own stages end with an error of the database's where something else stands in place of a list."""
    plain = re.compile(r"\.(filter_labels|count_values)\(")
    used = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if plain.search(path.read_text("utf-8"))}
    assert used == {Path("dataset/fields.py")}, "use with_labels and count_classes of dataset/fields.py"
