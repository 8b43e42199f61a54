"""What the package must never do, read off its source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fiftyone_ntt", "operators", "panels", "examples")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
HARMLESS = {"joblib.externals.loky"}  # processes: what goes to one's own child comes from no disk
CALLS = {"eval", "exec", "__import__", "system", "popen", "extractall", "extract", "unpack_archive", "mktemp"}
MUST_SAY = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
}
MUST_NOT_SAY = {("shell", True), ("trust_remote_code", True), ("allow_pickle", True), ("weights_only", False)}


def dangers(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            for name in {name.split(".")[0] for name in {*names} - HARMLESS} & MODULES:
                yield f"line {node.lineno} imports {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        said = {word.arg: ast.unparse(word.value) for word in node.keywords}
        is_method_of_model = called.endswith(".eval") and not node.args  # sets torch modules to evaluation
        if called.split(".")[-1] in CALLS and not is_method_of_model:
            yield f"line {node.lineno} calls {called}"
        if called in MUST_SAY and said.get(MUST_SAY[called][0]) != str(MUST_SAY[called][1]):
            yield f"line {node.lineno} calls {called} without {MUST_SAY[called]}"
        if called in ("yaml.load", "yaml.unsafe_load", "np.loadtxt", "np.fromfile"):
            yield f"line {node.lineno} calls {called}"
        for name, value in MUST_NOT_SAY:
            if said.get(name) == str(value):
                yield f"line {node.lineno} says {name}={value}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_code_from_data(path):
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "from joblib import load",
        "import joblib.externals.cloudpickle",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x')",
        "np.save('x', y)",
        "eval('x')",
        "archive.extractall()",
        "subprocess.run('x', shell=True)",
        "Model.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_the_scan_sees(code):
    assert list(dangers(ast.parse(code)))
