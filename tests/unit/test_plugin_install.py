"""Installing the plugin into a plugins folder, and keeping hands off what is not ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fiftyone_ntt.cli import plugin_install
from fiftyone_ntt.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path("@fiftyone-ntt", "ntt")


@pytest.fixture
def as_wheel(tmp_path, monkeypatch):
    """The package as if it were installed from a wheel: no checkout around it."""
    package = tmp_path / "site-packages" / "fiftyone_ntt"
    shutil.copytree(ROOT / "fiftyone_ntt" / "manifest", package / "manifest")
    monkeypatch.setattr(plugin_install, "_PACKAGE", package)


def test_a_checkout_is_linked_and_unlinked(tmp_path):
    path = plugin_install.install(tmp_path)
    assert path == tmp_path / PLACE
    assert path.is_symlink()
    assert path.resolve() == ROOT
    assert plugin_install.install(tmp_path) == path, "a second time is harmless"
    status = plugin_install.status(tmp_path)
    assert (status.state, status.target, status.usable) == ("linked", ROOT, True)
    assert plugin_install.uninstall(tmp_path) == path
    assert not path.parent.exists()
    assert ROOT.is_dir()
    assert plugin_install.status(tmp_path).state == "absent"
    assert plugin_install.uninstall(tmp_path) is None


def test_a_copy_holds_all_that_fiftyone_needs(tmp_path):
    path = plugin_install.install(tmp_path, copy=True)
    assert not path.is_symlink()
    manifest = yaml.safe_load((path / "fiftyone.yml").read_text())
    assert (path / manifest["py_entry"]).is_file()
    assert (path / "operators" / "__init__.py").is_file()
    assert (path / "requirements.txt").is_file()
    assert plugin_install.status(tmp_path).state == "copied"
    assert plugin_install.install(tmp_path).is_symlink(), "a copy of ours may be replaced by a link"


@pytest.mark.usefixtures("as_wheel")
def test_a_wheel_writes_a_manifest_and_an_entry(tmp_path):
    path = plugin_install.install(tmp_path / "plugins")
    manifest = yaml.safe_load((path / "fiftyone.yml").read_text())
    original = yaml.safe_load((ROOT / "fiftyone.yml").read_text())
    assert {**manifest, "py_entry": None} == {**original, "py_entry": None}
    code = f"import runpy; print(callable(runpy.run_path({str(path / manifest['py_entry'])!r})['register']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def _folder_of_others(path):
    path.mkdir(parents=True)
    (path / "fiftyone.yml").write_text('name: "@someone/else"\n')


def _copy_by_other_means(path):
    path.mkdir(parents=True)
    shutil.copy(ROOT / "fiftyone.yml", path)


def _link_of_others(path):
    path.parent.mkdir(parents=True)
    target = path.parents[1] / "elsewhere"
    target.mkdir()
    path.symlink_to(target)


@pytest.mark.parametrize("occupy", [_folder_of_others, _copy_by_other_means, _link_of_others])
@pytest.mark.parametrize("action", [plugin_install.install, plugin_install.uninstall])
def test_what_others_put_there_stays(tmp_path, occupy, action):
    path = tmp_path / PLACE
    occupy(path)
    before = sorted(os.walk(tmp_path))
    with pytest.raises(InputError, match="by hand"):
        action(tmp_path)
    assert sorted(os.walk(tmp_path)) == before


def test_a_link_to_nowhere_is_replaced(tmp_path):
    path = tmp_path / PLACE
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "gone")
    assert plugin_install.install(tmp_path).resolve() == ROOT


def test_the_same_plugin_elsewhere_is_seen(tmp_path):
    _copy_by_other_means(tmp_path / "fiftyone-ntt")
    status = plugin_install.status(tmp_path)
    assert status.state == "absent"
    assert status.elsewhere == (tmp_path / "fiftyone-ntt",)
    assert status.usable


@pytest.mark.parametrize("setting", ["environment", "config", "datasets", "default"])
def test_the_plugins_folder_is_the_one_fiftyone_uses(tmp_path, monkeypatch, setting):
    """Asks FiftyOne itself, in a process of its own."""
    for name in ("FIFTYONE_PLUGINS_DIR", "FIFTYONE_DEFAULT_DATASET_DIR"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config.json"
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(config))
    if setting == "environment":
        monkeypatch.setenv("FIFTYONE_PLUGINS_DIR", str(tmp_path / "from-environment"))
    if setting in ("environment", "config"):
        config.write_text(json.dumps({"plugins_dir": str(tmp_path / "from-config")}))
    if setting == "datasets":
        config.write_text(json.dumps({"default_dataset_dir": str(tmp_path / "datasets")}))
    code = "import fiftyone as fo; print('DIR', fo.config.plugins_dir)"
    environment = {**os.environ, "FIFTYONE_DISABLE_SERVICES": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    wanted = next(line for line in done.stdout.splitlines() if line.startswith("DIR ")).removeprefix("DIR ")
    assert str(plugin_install.default_plugins_dir()) == wanted
