"""FiftyOne's App in a process of its own, as a person starts it, and the browser that looks at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The shell ends the App when its standard input closes, which happens however pytest ends (also when killed).
_GUARD = '"$0" "$@" & child=$!; cat >/dev/null; kill $child; wait $child'
_START_SECONDS = 600.0
_SLOW_APP, _REPOSITORY = Path(__file__).with_name("slow_app.py"), Path(__file__).resolve().parents[2]
_TROUBLE = ("Traceback (most recent call last)", "is not JSON serializable")


def find_browser() -> str | None:
    """Returns the first Chromium on the PATH that starts, else None (Ubuntu's package may be an empty shell)."""
    for name in BROWSERS:
        place = shutil.which(name)
        if place is None:
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([place, "--version"], capture_output=True, timeout=60, check=True)
            return place
    return None


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class AppProcess:
    """FiftyOne's server; ``stop`` ends it and everything it started.

    Args:
        folder: for its log, and for what makes it slow.

    Attributes:
        datasets: what the tests showed. Deleted after the server has ended: it may still be answering the last question
            of a page that was closed, and FiftyOne's queries end in a traceback where a collection vanishes then.
    """

    def __init__(self, folder: Path) -> None:
        self.log, self.datasets = folder / "app.log", list[Any]()
        self._delay = folder / "delay"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        package = next(iter(find_spec("fiftyone").submodule_search_locations))
        main = Path(package, "server", "main.py")  # what fo.launch_app() starts
        command = [sys.executable, str(_SLOW_APP), str(main), "--port", str(port), "--address", "127.0.0.1"]
        variables = {
            "FIFTYONE_DISABLE_SERVICES": "1",
            "FIFTYONE_EXECUTION_STORE_POLL_INTERVAL_SECONDS": "1",  # its troubles come up during a test, not after it
            "NTT_TEST_DELAY": str(self._delay),
            "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        }
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                ["sh", "-c", _GUARD, *command],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=main.parent,
                env={**os.environ, **variables},
                start_new_session=True,
            )

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Inside, every answer of the panel is up to twice so many seconds late, by chance."""
        self._delay.write_text(str(seconds))
        try:
            yield
        finally:
            self._delay.unlink()

    def troubles(self, since: int = 0) -> list[str]:
        """Tracebacks in the log, each with what comes after it.

        Args:
            since: what was in the log before this byte is passed over.
        """
        lines = self.log.read_bytes()[since:].decode(errors="replace").splitlines()
        starts = [i for i, line in enumerate(lines) if any(trouble in line for trouble in _TROUBLE)]
        return ["\n".join(lines[max(i - 2, 0) : i + 25]) for i in starts]

    def wait_until_it_answers(self) -> None:
        """Waits for the first answer; fails with the end of the log."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/fiftyone", timeout=5):
                return
            time.sleep(0.3)
        raise RuntimeError(f"the App did not start within {_START_SECONDS:.0f} s; its log ends:\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        """Returns the end of the App's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ends the server and its children; says nothing where they have ended."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        if self._process.stdin:
            self._process.stdin.close()
