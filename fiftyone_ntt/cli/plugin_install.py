"""Puts the plugin where FiftyOne looks for plugins: FiftyOne does not find them in installed packages by itself.

From a source checkout the folder is linked, so that it follows the code. From an installed wheel a small folder is
written: the manifest and an entry file that imports the package. Nothing here imports FiftyOne, which would start its
database.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.params.fiftyone_settings import fiftyone_folder
from fiftyone_ntt.pixels.files import read_file, write_files, write_problem

PLUGIN_NAME = "@fiftyone-ntt/ntt"
MANIFEST = "fiftyone.yml"
_MARKER = ".written-by-fiftyone-ntt"
_ENTRY = "entry.py"
_ENTRY_TEXT = '''"""Entry of the plugin: the code is in the installed package fiftyone_ntt."""

from fiftyone_ntt.plugin import register  # noqa: F401
'''
_COPIED = (MANIFEST, "requirements.txt", "LICENSE", "NOTICE", "README.md", "fiftyone_ntt", "operators", "panels")
_MOST_TEXT = 1 << 20
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class PluginStatus:
    """What is where the plugin belongs.

    Attributes:
        path: where the plugin belongs.
        state: ``"linked"``, ``"copied"`` (by ``install``), ``"other"`` (something ``install`` has not made), or
            ``"absent"``.
        target: what a link points to; ``path`` itself otherwise.
        elsewhere: other folders FiftyOne finds under the same plugin name; it takes one and ignores the rest.
    """

    path: Path
    state: Literal["linked", "copied", "other", "absent"]
    target: Path
    elsewhere: tuple[Path, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether FiftyOne finds the plugin, here or elsewhere."""
        return bool(self.elsewhere) or is_plugin(self.path)


def install(plugins_dir: Path | str | None = None, copy: bool = False) -> Path:
    """Links (or copies) the plugin into FiftyOne's plugins folder; doing it again is harmless.

    Args:
        plugins_dir: the plugins folder; FiftyOne's own where ``None``.
        copy: copies the files even where a link would do (it outlives the checkout, but does not follow it).

    Returns:
        The plugin's folder in there.

    Raises:
        InputError: something that this command has not made is in the way, or a file cannot be written.
    """
    path = _place(plugins_dir)
    root = source_root()
    if path.parent.exists() and root is not None and path.resolve() == root and not path.is_symlink():
        return path  # this checkout was put into the plugins folder itself
    _make_way(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if root is not None and not copy:
            path.symlink_to(root, target_is_directory=True)
        elif root is not None:
            _copy_checkout(root, path)
        else:
            _write_shim(path)
    except (OSError, shutil.Error) as error:  # the latter lists what of a folder could not be copied
        if not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # half a plugin is worse than none
        raise InputError(_copy_problem(error)) from error
    return path


def uninstall(plugins_dir: Path | str | None = None) -> Path | None:
    """Removes what ``install`` made; returns its path, or ``None`` where there was nothing.

    Raises:
        InputError: what is there was not made by ``install``.
    """
    path = _place(plugins_dir)
    if not path.is_symlink() and not path.exists():
        return None
    _make_way(path)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return path


def status(plugins_dir: Path | str | None = None) -> PluginStatus:
    """Says what is where the plugin belongs, without changing anything."""
    path = _place(plugins_dir)
    folder = _folder(plugins_dir)
    folders = (manifest.parent for depth in ("*", "*/*") for manifest in folder.glob(f"{depth}/{MANIFEST}"))
    elsewhere = tuple(sorted(other for other in folders if other != path and is_plugin(other)))
    if path.is_symlink():
        return PluginStatus(path, "linked", Path(os.path.realpath(path)), elsewhere)
    if not path.exists():
        return PluginStatus(path, "absent", path, elsewhere)
    return PluginStatus(path, "copied" if (path / _MARKER).is_file() else "other", path, elsewhere)


def source_root() -> Path | None:
    """The checkout this package runs from; ``None`` where it was installed from a wheel."""
    root = _PACKAGE.parent
    return root if (root / MANIFEST).is_file() and (root / "operators").is_dir() else None


def is_plugin(path: Path) -> bool:
    """Whether a folder holds this plugin, whoever put it there."""
    try:
        lines = read_file(path / MANIFEST, _MOST_TEXT).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError, InputError):
        return False
    names = [line.split(":", 1)[1].strip().strip("\"'") for line in lines if line.startswith("name:")]
    return names == [PLUGIN_NAME]


def default_plugins_dir() -> Path:
    """FiftyOne's plugins folder, by its own rules: environment, config file, default."""
    return fiftyone_folder("plugins_dir", "__plugins__")


def _folder(plugins_dir: Path | str | None) -> Path:
    return default_plugins_dir() if plugins_dir is None else Path(os.path.abspath(Path(plugins_dir).expanduser()))


def _place(plugins_dir: Path | str | None) -> Path:
    return _folder(plugins_dir).joinpath(*PLUGIN_NAME.split("/"))


def _make_way(path: Path) -> None:
    """Removes a link of ours or a folder that ``install`` wrote; refuses anything else."""
    if path.is_symlink():
        if path.exists() and not is_plugin(path):
            raise InputError(
                f"expected nothing or a link to this plugin at {path}, got a link to {os.path.realpath(path)}. "
                "Remove it by hand if nothing needs it"
            )
        path.unlink()
    elif path.exists():
        if not (path / _MARKER).is_file():
            what = "a copy of this plugin that was put there by other means" if is_plugin(path) else "something else"
            raise InputError(
                f"expected nothing at {path}, got {what}. Remove it by hand, or with "
                f"`fiftyone plugins delete {PLUGIN_NAME}`, if nothing in it is needed"
            )
        shutil.rmtree(path)


def _copy_problem(error: OSError) -> str:
    if not isinstance(error, shutil.Error):
        return write_problem(error)
    (_, target, reason), *others = error.args[0]
    return f"cannot write {target}: {reason}" + (f" (and {len(others)} more)" if others else "")


def _copy_checkout(root: Path, path: Path) -> None:
    path.mkdir()
    (path / _MARKER).touch()
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in _COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, path / name, ignore=skip)
        elif source.is_file():
            shutil.copy2(source, path / name)


def _write_shim(path: Path) -> None:
    lines = (_PACKAGE / "manifest" / MANIFEST).read_text(encoding="utf-8").splitlines()
    kept = [f"py_entry: {_ENTRY}" if line.startswith("py_entry:") else line for line in lines]
    path.mkdir()
    (path / _MARKER).touch()
    write_files({path / MANIFEST: "\n".join(kept) + "\n", path / _ENTRY: _ENTRY_TEXT})
